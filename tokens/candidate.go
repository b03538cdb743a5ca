package tokens

import (
	"crypto/aes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"sync"
)

// candidate is text that may be a token, read up to some point. It keeps all of
// its state between calls, so a text may arrive in pieces of any size.
//
// While a key is left under which the text may be a token, it decrypts what it
// reads with AES in counter mode (GCM's own, SP 800-38D §6.5) and follows the
// JSON object. The closing brace tells how long the token is; at that length
// GCM authenticates it. When no key is left it reads on to the end of the
// base64, so that the whole of what did not open can be named or removed.
type candidate struct {
	escape unescaper
	text   []byte // the characters so far, unescaped
	blob   []byte // what they decode to
	plain  []byte // scratch for opening
	keys   []keyState
	alive  int    // keys that are left
	quad   uint32 // the characters of an unfinished base64 quantum
	digits int    // how many, without padding
	pads   int    // padding read
	source int    // bytes read, behind "starpod"
	runEnd int    // where in them the last character of the token ends
	// discard means that the run is too long and being removed.
	discard bool
	secret  Secret

	// Room for ordinary tokens within the same allocation.
	textRoom            [512]byte
	blobRoom, plainRoom [384]byte
	keyRoom             [2]keyState
}

// keyState is a candidate as one key sees it.
type keyState struct {
	key    *Key
	object follower
	dead   bool
	end    int // length of the blob, once known
	stream [aes.BlockSize]byte
}

type readResult uint8

const (
	readMore    readResult = iota // all is read, and more may follow
	readOpened                    // a token ends here; its secret is in the candidate
	readEnded                     // the token that begins here does not open
	readTooLong                   // the same, at the length where the candidate gave up
	readNoToken                   // no token begins here
)

// reset makes c read what follows "starpod".
func (c *candidate) reset(keys *Keyring) {
	if c.text == nil {
		c.text, c.blob, c.plain, c.keys = c.textRoom[:0], c.blobRoom[:0], c.plainRoom[:0], c.keyRoom[:0]
	}
	c.escape, c.secret = unescaper{}, Secret{}
	c.text, c.blob, c.keys = append(c.text[:0], marker...), c.blob[:0], c.keys[:0]
	c.quad, c.digits, c.pads, c.source, c.runEnd, c.discard = 0, 0, 0, 0, 0, false
	if keys != nil {
		for _, k := range keys.keys {
			c.keys = append(c.keys, keyState{key: k})
		}
	}
	c.alive = len(c.keys)
}

// candidates are reused: they are large, and hold no plaintext between uses.
var candidates = sync.Pool{New: func() any { return new(candidate) }}

// maxReused bounds the buffers that wait for reuse, in bytes.
const maxReused = 16 << 10

// free gives c back. The caller must not use it any more.
func (c *candidate) free() {
	c.secret = Secret{}
	clear(c.keys)
	if cap(c.text) <= maxReused {
		candidates.Put(c)
	}
}

// id names the text read so far.
func (c *candidate) id() string {
	sum := sha256.Sum256(c.text)
	return hex.EncodeToString(sum[:4])
}

// read takes bytes from p until something is decided. n is how many it took;
// it is of use with readMore, readOpened and readTooLong.
func (c *candidate) read(p []byte) (n int, result readResult) {
	for n < len(p) {
		if c.escape.first == 0 && len(c.text) >= len(prefix) && c.digits+c.pads == 0 {
			m, result := c.readRaw(p[n:])
			n += m
			if result != readMore {
				return n, result
			}
			if m > 0 {
				continue
			}
		}
		char, state := c.escape.step(p[n])
		if state == escapeBad || state == escapeDone && !c.accepts(char) {
			return n, c.stop()
		}
		n++
		c.source++
		if state == escapeMore {
			continue
		}
		c.runEnd = c.source
		if result := c.take(char); result != readMore {
			return n, result
		}
	}
	return n, readMore
}

// readRaw is the fast way through unescaped base64. It takes whole quanta,
// leaves the first thing that is not one, and stays clear of the limit.
func (c *candidate) readRaw(p []byte) (n int, result readResult) {
	room := len(p)
	if !c.discard {
		room = min(room, MaxTokenLen-1-len(c.text), maxSource-1-c.source)
	}
	for whole := true; whole && result == readMore; {
		start, batch := n, c.batch()
		for whole = false; n+4 <= room; {
			q := p[n : n+4 : n+4]
			v0, v1, v2, v3 := base64Values[q[0]], base64Values[q[1]], base64Values[q[2]], base64Values[q[3]]
			if (v0|v1|v2|v3)&notDigit != 0 {
				break
			}
			n += 4
			if c.alive > 0 {
				c.blob = append(c.blob, v0<<2|v1>>4, v1<<4|v2>>2, v2<<6|v3)
			}
			if whole = n-start == 4*batch; whole {
				break
			}
		}
		if !c.discard {
			c.text = append(c.text, p[start:n]...)
		}
		if c.alive > 0 && n > start {
			result = c.follow((n - start) / 4 * 3)
		}
	}
	c.source += n
	if n > 0 {
		c.runEnd = c.source
	}
	return n, result
}

// batch is how many quanta can be read before a key must look at them, so that
// none reads beyond the end of its token. No brace can close a token before
// its tag was read.
func (c *candidate) batch() int {
	if c.alive == 0 {
		return MaxTokenLen
	}
	quanta := tagSize / 3
	for i := range c.keys {
		if k := &c.keys[i]; !k.dead && k.end > 0 {
			quanta = min(quanta, max(1, (k.end-len(c.blob))/3))
		}
	}
	return quanta
}

// accepts reports whether the token can go on with char.
func (c *candidate) accepts(char byte) bool {
	if len(c.text) < len(prefix) {
		return char == prefix[len(c.text)]
	}
	if char == '=' {
		return c.pads < 2 && len(c.text) > len(prefix)
	}
	return c.pads == 0 && base64Values[char] < notDigit
}

// stop ends the text at something that cannot belong to it.
func (c *candidate) stop() readResult {
	if len(c.text) <= len(prefix) {
		return readNoToken
	}
	return readEnded
}

// take reads one character that accepts let through.
func (c *candidate) take(char byte) readResult {
	if !c.discard {
		c.text = append(c.text, char)
	}
	if len(c.text) <= len(prefix) {
		return readMore
	}
	result := readMore
	if char == '=' {
		c.pads++
		result = c.pad()
	} else if c.alive > 0 {
		result = c.digit(base64Values[char])
	}
	switch {
	case result != readMore:
		return result
	case c.pads == 2:
		return readEnded
	case !c.discard && (len(c.text) >= MaxTokenLen || c.source >= maxSource):
		return readTooLong
	}
	return readMore
}

// digit reads a base64 digit.
func (c *candidate) digit(value byte) readResult {
	c.quad = c.quad<<6 | uint32(value)
	if c.digits++; c.digits < 4 {
		return readMore
	}
	c.blob = append(c.blob, byte(c.quad>>16), byte(c.quad>>8), byte(c.quad))
	c.quad, c.digits = 0, 0
	return c.follow(3)
}

// pad reads padding. The bits that it leaves over must be zero, RFC 4648 §3.5:
// a token has one spelling.
func (c *candidate) pad() readResult {
	switch {
	case c.alive == 0:
		return readMore
	case c.digits == 2 && c.pads == 1:
		return readMore
	case c.digits == 2 && c.quad&0xf == 0:
		c.blob = append(c.blob, byte(c.quad>>4))
		return c.last(1)
	case c.digits == 3 && c.quad&0x3 == 0:
		c.blob = append(c.blob, byte(c.quad>>10), byte(c.quad>>2))
		return c.last(2)
	}
	c.alive = 0
	return readMore
}

// last follows the n bytes before the padding, with which a token must end.
func (c *candidate) last(n int) readResult {
	result := c.follow(n)
	if result == readMore {
		c.alive = 0
	}
	return result
}

// follow lets every key that is left look at the last n bytes of the blob.
func (c *candidate) follow(n int) readResult {
	for i := range c.keys {
		k := &c.keys[i]
		if k.dead {
			continue
		}
		if k.end == 0 {
			c.decrypt(k, len(c.blob)-n)
		} else if len(c.blob) > k.end {
			k.dead = true
		}
		if !k.dead && len(c.blob) == k.end {
			if result := c.open(k); result != readMore {
				return result
			}
		}
		if k.dead {
			c.alive--
		}
	}
	if c.alive == 0 {
		c.blob, c.quad, c.digits = c.blob[:0], 0, 0
	}
	return readMore
}

// decrypt follows the blob from the byte at from on.
func (c *candidate) decrypt(k *keyState, from int) {
	for i := max(from, nonceSize); i < len(c.blob); i++ {
		at := i - nonceSize
		if at%aes.BlockSize == 0 {
			copy(k.stream[:], c.blob[:nonceSize])
			// GCM spends counter 1 on the tag.
			binary.BigEndian.PutUint32(k.stream[nonceSize:], uint32(2+at/aes.BlockSize))
			k.key.block.Encrypt(k.stream[:], k.stream[:])
		}
		switch k.object.step(c.blob[i] ^ k.stream[at%aes.BlockSize]) {
		case followEnd:
			k.end = i + 1 + tagSize
			return
		case followDead:
			k.dead = true
			return
		}
	}
}

// open authenticates a complete blob.
func (c *candidate) open(k *keyState) readResult {
	plain, err := k.key.aead.Open(c.plain[:0], c.blob[:nonceSize], c.blob[nonceSize:], nil)
	if err != nil {
		k.dead = true
		return readMore
	}
	secret, ok := decodePayload(plain)
	clear(plain)
	c.plain = plain[:0]
	if !ok {
		return readEnded // ours, and so its end is known, but nothing to write
	}
	c.secret = secret
	return readOpened
}

// maxSource bounds the bytes that are held back for one token, which are more
// than its characters when they are escaped.
const maxSource = 2 * MaxTokenLen

const notDigit = 0x40

// base64Values has the value of each digit of RFC 4648 §4, and notDigit or more
// for all else.
var base64Values = func() (t [256]byte) {
	for i := range t {
		t[i] = 0xff
	}
	for i, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/") {
		t[c] = byte(i)
	}
	return t
}()
