// Golden vectors from another implementation of the token format.
//
//   node vectors.mjs > vectors.json      make them (Node's crypto; openssl checks the ciphertexts)
//   node vectors.mjs open <key in hex>   open tokens, one a line on stdin; prints one payload a line
//
// Keys and nonces are fixed, so the output is the same every time. Where a
// token is large, its SHA-256 and the recipe of its payload stand for it.

import { createCipheriv, createDecipheriv, createHash } from 'node:crypto';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';

const PREFIX = 'starpod:v1:';
const sha256 = (data) => createHash('sha256').update(data).digest();

function seal(key, nonce, payload) {
  const cipher = createCipheriv('aes-256-gcm', key, nonce);
  const body = Buffer.concat([cipher.update(payload, 'utf8'), cipher.final()]);
  checkWithOpenSSL(key, nonce, payload, body);
  return PREFIX + Buffer.concat([nonce, body, cipher.getAuthTag()]).toString('base64');
}

// GCM encrypts in counter mode from 2 on, which openssl's command can do too.
function checkWithOpenSSL(key, nonce, payload, body) {
  const iv = Buffer.concat([nonce, Buffer.from([0, 0, 0, 2])]);
  const args = ['enc', '-aes-256-ctr', '-K', key.toString('hex'), '-iv', iv.toString('hex')];
  const out = execFileSync('openssl', args, { input: payload, maxBuffer: 1 << 24 });
  if (!out.equals(body)) throw new Error('openssl disagrees');
}

function open(key, token) {
  const blob = Buffer.from(token.slice(PREFIX.length), 'base64');
  const decipher = createDecipheriv('aes-256-gcm', key, blob.subarray(0, 12));
  decipher.setAuthTag(blob.subarray(-16));
  return decipher.update(blob.subarray(12, -16), undefined, 'utf8') + decipher.final('utf8');
}

// A vector's payload is JSON text given literally, or head + unit × times + tail.
const vectors = [];
function add(name, want, payload) {
  const key = sha256(`key ${vectors.length % 3}`);
  const nonce = sha256(`nonce ${name}`).subarray(0, 12);
  const recipe = typeof payload === 'string' ? { head: payload, unit: '', times: 0, tail: '' } : payload;
  const text = recipe.head + recipe.unit.repeat(recipe.times) + recipe.tail;
  const token = seal(key, nonce, text);
  const vector = { name, key: key.toString('hex'), nonce: nonce.toString('hex'), payload: recipe, want };
  if (token.length <= 2000) vector.token = token;
  else vector.tokenSHA256 = sha256(token).toString('hex');
  vectors.push(vector);
}
const simple = (name, v, h = []) => add(name, { v, h }, JSON.stringify({ v, h }));

// Lengths 0 to 20: every padding, and ends on both sides of a cipher block.
for (let n = 0; n <= 20; n++) simple(`value of ${n} bytes`, 'a'.repeat(n));
simple('two hosts', 'ghp_secret123', ['api.github.com', '*.github.com']);
simple('Unicode value and hosts', 'sk-ключ-🔐-密钥-مفتاح', ['api.例え.jp', 'api.مثال.com']);
simple('JSON in the value', 'key"with\\back/slash{braces}[brackets]null:true,false');
simple('control characters', 'line1\nline2\ttab\r\n\0null\u0001\u001f\u007f');
simple('brace at the end', '}"}]}');
simple('URL characters', 'a b+c&d=e%41/?#');
simple('XML characters', '<a href="x">\'&amp;</a>');
simple('line separators', 'a\u2028b\u2029c');
simple('a token inside a token', PREFIX + 'AAAA');
add('every member', { v: 'x', h: ['a.example:8443'], n: 'NAME', e: 2000000000, m: ['GET'], p: ['/v1/*'] },
  '{"v":"x","h":["a.example:8443"],"n":"NAME","e":2000000000,"m":["GET"],"p":["/v1/*"]}');
add('members in another order', { v: 'x', h: ['a.example'] }, '{"h":["a.example"],"v":"x"}');
add('unknown members', { v: 'x', h: [] }, '{"x":{"v":[1,2.5e3,null,{"a":"}"}]},"v":"x","V":"no","h":[],"H":["no"],"z":true}');
add('white space', { v: 'x', h: ['a.example'] }, '{ \t\r\n"v" : "x" ,\n "h" : [ "a.example" ] }');
add('escapes', { v: 'Ab/"🔐', h: ['a.example'] }, '{"\\u0076":"\\u0041b\\/\\"\\ud83d\\udd10","h":["a\\u002eexample"]}');
add('500 hosts', { v: 'val', hostCount: 500 },
  JSON.stringify({ v: 'val', h: Array.from({ length: 500 }, (_, i) => `host-${i}.example.com`) }));
add('1 MB value', { repeat: 'x', times: 1_000_000, h: [] }, { head: '{"v":"', unit: 'x', times: 1_000_000, tail: '","h":[]}' });
add('1 MB of Unicode', { repeat: '密', times: 333_333, h: [] }, { head: '{"v":"', unit: '密', times: 333_333, tail: '","h":[]}' });
add('128 KB of control characters', { repeat: '\u0001', times: 131_072, h: [] },
  { head: '{"v":"', unit: '\\u0001', times: 131_072, tail: '","h":[]}' });

for (const [name, payload] of Object.entries({
  'null for hosts': '{"v":"x","h":null}',
  'null in hosts': '{"v":"x","h":[null]}',
  'hosts missing': '{"v":"x"}',
  'value missing': '{"h":[]}',
  'value in upper case': '{"V":"x","h":[]}',
  'number for value': '{"v":1,"h":[]}',
  'null for value': '{"v":null,"h":[]}',
  'value twice': '{"v":"x","v":"y","h":[]}',
  'hosts twice': '{"v":"x","h":["a.example"],"h":[]}',
  'number in hosts': '{"v":"x","h":[1]}',
  'string for hosts': '{"v":"x","h":"a.example"}',
  'half a surrogate pair': '{"v":"\\ud83d","h":[]}',
  'surrogates in the wrong order': '{"v":"\\udd10\\ud83d","h":[]}',
  'null for name': '{"v":"x","h":[],"n":null}',
  'null for expiry': '{"v":"x","h":[],"e":null}',
  'fraction for expiry': '{"v":"x","h":[],"e":1.5}',
  'negative expiry': '{"v":"x","h":[],"e":-62135596800}',
  'enormous expiry': '{"v":"x","h":[],"e":9223372036854775807}',
  'string for methods': '{"v":"x","h":[],"m":"GET"}',
  'null in paths': '{"v":"x","h":[],"p":[null]}',
  'not JSON': '{"v":"x","h":[}',
  'comma too many': '{"v":"x","h":[],}',
  'empty object': '{}',
  'array': '["x",[]]',
  'empty plaintext': '',
})) add(name, null, payload);

if (process.argv[2] === 'open') {
  const key = Buffer.from(process.argv[3], 'hex');
  for (const line of readFileSync(0, 'utf8').split('\n').filter(Boolean)) console.log(open(key, line));
} else {
  console.log('[\n' + vectors.map((v) => JSON.stringify(v)).join(',\n') + '\n]');
}
