// Asks for the URL in URL with the library in the argument, with the token as a
// bearer, and prints the answer.
import { createRequire } from 'node:module';
import http from 'node:http';
import https from 'node:https';

const url = process.env.URL;
const headers = { authorization: `Bearer ${process.env.API_KEY}` };

const libraries = {
  fetch: async () => text(await fetch(url, { headers })),
  https: () =>
    new Promise((resolve, reject) => {
      (url.startsWith('https:') ? https : http)
        .get(url, { headers }, (answer) => {
          let body = '';
          answer.on('data', (piece) => { body += piece; });
          answer.on('end', () => (answer.statusCode === 200 ? resolve(body) : reject(new Error(`${answer.statusCode} ${body}`))));
        })
        .on('error', reject);
    }),
  undici: async () => {
    const { fetch } = createRequire(`${process.env.NODE_LIBRARIES}/`)('undici');
    return text(await fetch(url, { headers }));
  },
  'undici with EnvHttpProxyAgent': async () => {
    const { fetch, EnvHttpProxyAgent } = createRequire(`${process.env.NODE_LIBRARIES}/`)('undici');
    return text(await fetch(url, { headers, dispatcher: new EnvHttpProxyAgent() }));
  },
};

async function text(answer) {
  const body = await answer.text();
  if (!answer.ok) throw new Error(`${answer.status} ${body}`);
  return body;
}

process.stdout.write(await libraries[process.argv[2]]());
