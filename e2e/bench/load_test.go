//go:build linux

package bench

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// client makes requests through a proxy, one at a time on each tunnel, and looks
// at every answer.
type client struct {
	*proxy
	world *world
}

// longest is how long one exchange may take.
const longest = 2 * time.Minute

// tunnel is a connection through the proxy with TLS to a host in it.
type tunnel struct {
	*tls.Conn
	reader *bufio.Reader
}

func (c *client) open(host string) (*tunnel, error) {
	raw, err := net.Dial("tcp", c.addr)
	if err != nil {
		return nil, err
	}
	raw.SetDeadline(time.Now().Add(longest))
	if !c.direct {
		err = connect(raw, c.world.at(host))
	}
	secure := tls.Client(raw, &tls.Config{ServerName: host, RootCAs: c.roots, NextProtos: []string{"http/1.1"}})
	if err == nil {
		err = secure.Handshake()
	}
	if err != nil {
		raw.Close()
		return nil, fmt.Errorf("a tunnel to %s: %w", host, err)
	}
	return &tunnel{secure, bufio.NewReader(secure)}, nil
}

func connect(conn net.Conn, authority string) error {
	fmt.Fprintf(conn, "CONNECT %[1]s HTTP/1.1\r\nHost: %[1]s\r\n\r\n", authority)
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, &http.Request{Method: http.MethodConnect})
	switch {
	case err != nil:
		return err
	case response.StatusCode != http.StatusOK:
		return fmt.Errorf("got %s", response.Status)
	case reader.Buffered() > 0:
		return errors.New("the proxy spoke before the handshake")
	}
	return nil
}

// head is that of a request to a host, with so many tokens; lines may follow.
func (c *client) head(method, host, path string, tokens int, lines ...string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: bench\r\nAccept: */*\r\nAuthorization: Bearer %s\r\n", method, path, c.world.at(host), c.token)
	for range tokens - 1 {
		fmt.Fprintf(&b, "X-Key: %s\r\n", c.token)
	}
	for _, line := range lines {
		b.WriteString(line + "\r\n")
	}
	b.WriteString("\r\n")
	return b.Bytes()
}

// seen is what a host must have seen of them.
func (c *client) seen(tokens int) string {
	keys := make([]string, tokens-1)
	for i := range keys {
		keys[i] = c.world.value
	}
	return saw("Bearer "+c.world.value, keys)
}

// begin sends what begins an exchange.
func (t *tunnel) begin(head []byte) error {
	t.SetDeadline(time.Now().Add(longest))
	_, err := t.Write(head)
	return err
}

// answer reads one, up to its body.
func (t *tunnel) answer(method, seen string) (*http.Response, error) {
	response, err := http.ReadResponse(t.reader, &http.Request{Method: method})
	switch {
	case err != nil:
		return nil, err
	case response.StatusCode != http.StatusOK:
		text, _ := io.ReadAll(io.LimitReader(response.Body, 200))
		return nil, fmt.Errorf("got status %d %q, want 200", response.StatusCode, text)
	case response.Header.Get("X-Saw") != seen:
		return nil, errors.New("the host has not seen the real value")
	}
	return response, nil
}

// get makes the short request whose head is given.
func (t *tunnel) get(head []byte, seen string) error {
	if err := t.begin(head); err != nil {
		return err
	}
	response, err := t.answer(http.MethodGet, seen)
	if err != nil {
		return err
	}
	var body [128]byte
	n, err := io.ReadFull(response.Body, body[:])
	if err != io.ErrUnexpectedEOF || !bytes.Equal(body[:n], smallBody) {
		return fmt.Errorf("got the body %q (%v), want %q", body[:n], err, smallBody)
	}
	return nil
}

// once opens a tunnel for one short request.
func (c *client) once(host string) error {
	t, err := c.open(host)
	if err != nil {
		return err
	}
	defer t.Close()
	return t.get(c.head(http.MethodGet, host, "/small", 1), c.seen(1))
}

// upload sends a body of so many bytes, with the token at its beginning if there
// is to be one. The answer is read meanwhile, as it may come early.
func (c *client) upload(t *tunnel, size int64, chunked bool, token string) error {
	first := ""
	if token != "" {
		first = c.world.value
	}
	length, sum := checksum(first, size)
	framing := fmt.Sprintf("Content-Length: %d", size+int64(len(token)))
	if chunked {
		framing = "Transfer-Encoding: chunked"
	}
	if err := t.begin(c.head(http.MethodPost, apiHost, "/sink", 1, "Content-Type: text/plain", framing)); err != nil {
		return err
	}
	answered := make(chan error, 1)
	go func() { answered <- t.stored(c.seen(1), fmt.Sprintf("%d %08x", length, sum)) }()
	written := t.send(token, size, chunked)
	if err := <-answered; err != nil {
		return errors.Join(err, written)
	}
	return written
}

// send writes a body: first, and then so many bytes.
func (t *tunnel) send(first string, size int64, chunked bool) error {
	w := bufio.NewWriterSize(t, len(block)+64)
	write := func(p []byte) {
		if !chunked {
			w.Write(p)
			return
		}
		fmt.Fprintf(w, "%x\r\n", len(p))
		w.Write(p)
		w.WriteString("\r\n")
	}
	if first != "" {
		write([]byte(first))
	}
	for ; size > 0; size -= min(size, int64(len(block))) {
		write(block[:min(size, int64(len(block)))])
		if err := w.Flush(); err != nil {
			return err
		}
	}
	if chunked {
		w.WriteString("0\r\n\r\n")
	}
	return w.Flush()
}

func (t *tunnel) stored(seen, want string) error {
	response, err := t.answer(http.MethodPost, seen)
	if err != nil {
		return err
	}
	got, err := io.ReadAll(response.Body)
	if err == nil && string(got) != want {
		err = fmt.Errorf("the host has stored %q, want %q", got, want)
	}
	return err
}

// checksum is the length of a body and its checksum.
func checksum(first string, size int64) (length int64, sum uint32) {
	length = int64(len(first)) + size
	sum = crc32.Checksum([]byte(first), checksums)
	for ; size > 0; size -= min(size, int64(len(block))) {
		sum = crc32.Update(sum, checksums, block[:min(size, int64(len(block)))])
	}
	return length, sum
}

func (c *client) download(t *tunnel, size int64) error {
	if err := t.begin(c.head(http.MethodGet, apiHost, fmt.Sprintf("/big/%d", size), 1)); err != nil {
		return err
	}
	response, err := t.answer(http.MethodGet, c.seen(1))
	if err != nil {
		return err
	}
	hash := crc32.New(checksums)
	buffer := buffers.Get().(*[256 << 10]byte)
	defer buffers.Put(buffer)
	n, err := io.CopyBuffer(hash, struct{ io.Reader }{response.Body}, buffer[:])
	if _, want := checksum("", size); err == nil && (n != size || hash.Sum32() != want) {
		err = fmt.Errorf("got %d bytes with the checksum %08x, want %d with %08x", n, hash.Sum32(), size, want)
	}
	return err
}

// firstEvent returns how long the first event of a stream took.
func (c *client) firstEvent(t *tunnel) (first time.Duration, err error) {
	began := time.Now()
	if err := t.begin(c.head(http.MethodGet, apiHost, "/events", 1)); err != nil {
		return 0, err
	}
	response, err := t.answer(http.MethodGet, c.seen(1))
	if err != nil {
		return 0, err
	}
	count := 0
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "data: event ") {
			if count++; count == 1 {
				first = time.Since(began)
			}
		}
	}
	if err := lines.Err(); err != nil || count != eventCount {
		return 0, fmt.Errorf("got %d events (%w), want %d", count, err, eventCount)
	}
	return first, nil
}
