package handler

import (
	"bufio"
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

var differentialSeed = flag.Uint64("differential.seed", 1, "what the random requests are made of; 0: chance")

// full has the tests of random requests and of floods send as many as they did when
// they were made (make large).
var full = flag.Bool("full", false, "1600 random requests over HTTP/1 and 400 over HTTP/2, and 60000 frames, in place of fewer")

func count(usual, large int) int {
	if *full {
		return large
	}
	return usual
}

// newSource returns a seeded generator and tells the seed when the test fails.
func newSource(t *testing.T) *rand.Rand {
	seed := *differentialSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("run again with -differential.seed=%d", seed)
		}
	})
	return rand.New(rand.NewPCG(seed, 0))
}

// TestDifferential sends random requests twice, byte for byte: with values
// straight to a recording server, and with tokens through a tunnel. The server
// gets the same, and both clients get the same answer, but for what
// acceptedRequest and acceptedResponse list.
func TestDifferential(t *testing.T) {
	source := newSource(t)
	d := newDifferential(t)
	for round := 0; round < count(500, 1600) && !t.Failed(); round++ {
		maker := &requestMaker{choices: source, tb: t}
		r := maker.request()
		sent, want := r.versions(t, source, d.authority)
		answer, closes := maker.answer()
		direct, err := d.direct.exchange(d, want, answer, r.method, closes)
		if err != nil {
			t.Fatalf("round %d, straight: %v\nrequest %s", round, err, abridged(want))
		}
		if oneIn(source, 6) {
			d.through.close()
		}
		through, err := d.through.exchange(d, sent, answer, r.method, false)
		if err != nil {
			t.Fatalf("round %d, through the proxy: %v\nrequest %s\nanswer %s", round, err, abridged(sent), abridged(through.response))
		}
		got, arrives := plainMessage(through.request), acceptedRequest(r, plainMessage(direct.request))
		if r.coding != nil && r.body.sent.String() != r.body.want.String() {
			got, arrives = r.coding.plain(t, got), r.coding.plain(t, arrives) // encoders have their ways
		}
		if got != arrives {
			t.Errorf("round %d: the server got another request\nsent %s\n%s", round, abridged(sent), difference(got, arrives))
		}
		if got, want := plainMessage(through.response), acceptedResponse(r, plainMessage(direct.response)); got != want {
			t.Errorf("round %d: the client got another answer\nsent %s\n%s", round, abridged(sent), difference(got, want))
		}
	}
}

// acceptedRequest changes a request to what may arrive in its place: what the
// proxy does on purpose, and what Go's library does not leave to its users.
// Beside this, the order and the case of field names are lost.
func acceptedRequest(r *randomRequest, plain string) string {
	line, all, body := splitPlain(plain)
	var fields, trailers []string
	agents := 0
	for _, field := range impliedCacheControl(all) {
		name, value, _ := strings.Cut(field, ": ")
		switch {
		case name == "connection", name == "keep-alive", name == "proxy-connection", name == "te" && value != "trailers":
			// Fields of one hop end there (RFC 9110, section 7.6.1).
			continue
		case name == "user-agent":
			// net/http sends the first, and none that is empty.
			if agents++; agents > 1 || value == "" {
				continue
			}
		case name == "trailer":
			trailers = append(trailers, value) // net/http writes one line, in order
			continue
		case name == "content-length" && value == "0" && !sendsEmptyLength(r.method):
			continue // net/http says so for these methods only
		case name == "accept-encoding" && r.hidden:
			field = "accept-encoding: identity" // the answer has to be searched for values
		}
		if (name == "te" || name == "accept-encoding" && r.hidden) && slices.Contains(fields, field) {
			continue // one says it all
		}
		fields = append(fields, field)
	}
	if r.body == nil && sendsEmptyLength(r.method) {
		fields = append(fields, "content-length: 0")
	}
	if len(trailers) > 0 {
		slices.Sort(trailers)
		fields = append(fields, "trailer: "+strings.Join(slices.Compact(trailers), ","))
	}
	return joinPlain(acceptedLine(line), plainFields(fields), body)
}

// impliedCacheControl adds what net/http adds to a message that says the same in
// the words of HTTP/1.0 (RFC 9111, section 5.4).
func impliedCacheControl(fields []string) []string {
	for _, field := range fields {
		if strings.HasPrefix(field, "cache-control: ") {
			return fields
		}
	}
	for _, field := range fields {
		if strings.HasPrefix(field, "pragma: ") {
			if field == "pragma: no-cache" {
				fields = append(fields, "cache-control: no-cache")
			}
			break // the first one counts
		}
	}
	return fields
}

// acceptedLine is a request line as it may arrive. A path that begins with two
// slashes goes through net/url, which escapes what no URL may hold.
func acceptedLine(line string) string {
	words := strings.Split(line, " ")
	path, _, _ := strings.Cut(words[1], "?")
	if !strings.HasPrefix(path, "//") {
		return line
	}
	var escaped strings.Builder
	for _, c := range []byte(path) {
		if c >= 0x80 || strings.ContainsRune("\"<>\\^`{|}", rune(c)) {
			fmt.Fprintf(&escaped, "%%%02X", c)
		} else {
			escaped.WriteByte(c)
		}
	}
	return words[0] + " " + escaped.String() + words[1][len(path):] + " " + words[2]
}

func sendsEmptyLength(method string) bool {
	return method == "POST" || method == "PUT" || method == "PATCH"
}

// acceptedResponse is acceptedRequest for an answer.
func acceptedResponse(r *randomRequest, plain string) string {
	line, fields, body := splitPlain(plain)
	framed := false
	fields = slices.DeleteFunc(plainFields(impliedCacheControl(fields)), func(field string) bool {
		name, _, _ := strings.Cut(field, ": ")
		framed = framed || name == "content-length" || name == "transfer-encoding"
		// What a 304 says of a body that it does not have is dropped by net/http.
		return name == "connection" || line == "HTTP/1.1 304" && (name == "content-length" || name == "content-type")
	})
	if hasBody(line) && !framed && r.method != "HEAD" {
		// What ended with the connection ends with a chunk: the tunnel goes on.
		fields, body = plainFields(append(fields, "transfer-encoding: chunked")), body+"|"
	}
	return joinPlain(line, fields, body)
}

func splitPlain(plain string) (line string, fields []string, body string) {
	line, rest, _ := strings.Cut(plain, "\r\n")
	head, body, _ := strings.Cut(rest, "\r\n\r\n")
	if head != "" {
		fields = strings.Split(head, "\r\n")
	}
	return line, fields, body
}

func joinPlain(line string, fields []string, body string) string {
	return line + "\r\n" + strings.Join(fields, "\r\n") + "\r\n\r\n" + body
}

func hasBody(statusLine string) bool {
	return !strings.HasSuffix(statusLine, " 204") && !strings.HasSuffix(statusLine, " 304")
}

// answer makes a random answer; closes tells that its end is the connection's.
func (m *requestMaker) answer() (answer string, closes bool) {
	status := pick(m, "200 OK", "200 OK", "200 Fine", "201 Created", "204 No Content", "299 Odd", "302 Found", "304 Not Modified", "404 Not Found", "500 Oops")
	var b strings.Builder
	b.WriteString("HTTP/1.1 " + status + "\r\n")
	for range m.IntN(6) {
		b.WriteString(pick(m, "Server: x", "Date: yesterday", "Set-Cookie: a=1; Secure", "Set-Cookie: b=2", "X_under.dot: 1", "Vary: *", "Content-Type: text/html",
			"Content-Type:", "Location: https://evil.test/?a=%2f#b", "ETag: W/\"x\"", "X-Empty:", "X-Long: "+strings.Repeat("y", 5000), "X-Latin: \xe4", "Via: 1.0 x",
			"Alt-Svc: h3=\":443\"", "Www-Authenticate: Basic realm=\"a\"", "Www-Authenticate: Bearer", "Cache-Control: no-store", "Pragma: no-cache", "Strict-Transport-Security: max-age=1") + "\r\n")
	}
	body := strings.Repeat("answer ", pick(m, 0, 1, 10, 10, 1000, 20_000))
	if !hasBody("HTTP/1.1 " + status[:3]) {
		return b.String() + "\r\n", false
	}
	framing := m.IntN(5)
	switch {
	case m.made.method == "HEAD":
		fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n", len(body))
	case framing < 2:
		fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n%s", len(body), body)
	case framing < 4:
		trailer := pick(m, "", "", "X-After: 1\r\n", "X-After: 1\r\nX-Sum: 2\r\n")
		b.WriteString("Transfer-Encoding: chunked\r\n\r\n" + inChunks(m, body) + trailer + "\r\n")
	default:
		return b.String() + "\r\n" + body, true
	}
	return b.String(), false
}

// differential is a recording server with two ways to it.
type differential struct {
	b               *bench
	authority       string
	answers         chan string
	requests        chan string
	direct, through *way
}

// way is a connection that is opened when needed.
type way struct {
	dial func() *tls.Conn
	conn *tls.Conn
}

func (w *way) close() {
	if w.conn != nil {
		_ = w.conn.Close()
		w.conn = nil
	}
}

func newDifferential(t *testing.T) *differential {
	d := &differential{
		b:       newBench(t, func(p *Proxy) { p.Swap.BodyBuffer = randomBuffer }),
		answers: make(chan string, 1), requests: make(chan string, 1),
	}
	port := d.b.rawUpstream(true, func(conn net.Conn) {
		r := bufio.NewReader(conn)
		for {
			raw, err := readRequest(r)
			if err != nil {
				return
			}
			_ = conn.SetDeadline(time.Now().Add(longest))
			d.requests <- raw
			answer := <-d.answers
			_, _ = io.WriteString(conn, answer)
			if !strings.Contains(answer, "\r\nContent-Length:") && !strings.Contains(answer, "\r\nTransfer-Encoding:") && hasBody(answer[:len("HTTP/1.1 204")]) {
				return
			}
		}
	})
	d.authority = fmt.Sprintf("api.starpod.test:%d", port)
	d.direct = &way{dial: func() *tls.Conn {
		conn, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port), &tls.Config{RootCAs: d.b.proxy.Egress.Roots, ServerName: "api.starpod.test"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}}
	d.through = &way{dial: func() *tls.Conn { return d.b.tunnel(d.authority, "api.starpod.test", "http/1.1") }}
	return d
}

// exchanged is one request as it arrived, and the answer as it came back.
type exchanged struct{ request, response string }

func (w *way) exchange(d *differential, request, answer, method string, closes bool) (x exchanged, err error) {
	if w.conn == nil {
		w.conn = w.dial()
	}
	conn := w.conn
	_ = conn.SetDeadline(time.Now().Add(longest))
	d.answers <- answer
	go func() { _, _ = io.WriteString(conn, request) }() // an early answer must not block it
	x.response, err = readRaw(conn, method)
	if closes || err != nil {
		w.close()
	}
	select {
	case x.request = <-d.requests:
		return x, err
	default:
		return x, fmt.Errorf("nothing arrived, and the answer is %.400q (%v)", x.response, err)
	}
}

// readRequest reads the bytes of one HTTP/1 request; an error means that it is
// not whole.
func readRequest(r *bufio.Reader) (string, error) {
	head, err := readHead(r)
	if err != nil {
		return "", err
	}
	var raw strings.Builder
	raw.WriteString(head)
	var length int64
	for _, field := range plainFields(strings.Split(head, "\r\n")[1:]) {
		if field == "transfer-encoding: chunked" {
			return readChunks(r, &raw)
		}
		if value, ok := strings.CutPrefix(field, "content-length: "); ok {
			if _, err := fmt.Sscan(value, &length); err != nil {
				return "", err
			}
		}
	}
	_, err = io.CopyN(&raw, r, length)
	return raw.String(), err
}

func readChunks(r *bufio.Reader, raw *strings.Builder) (string, error) {
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return "", err
		}
		raw.WriteString(line)
		var n int64
		if _, err := fmt.Sscanf(line, "%x", &n); err != nil {
			return "", err
		}
		if n == 0 {
			trailers, err := readHead(r)
			raw.WriteString(trailers)
			return raw.String(), err
		}
		if _, err := io.CopyN(raw, r, n+2); err != nil {
			return "", err
		}
	}
}

// difference shows where two texts part.
func difference(got, want string) string {
	i := 0
	for i < min(len(got), len(want)) && got[i] == want[i] {
		i++
	}
	from := max(0, i-60)
	return fmt.Sprintf("they part at byte %d:\ngot  %.200q\nwant %.200q", i, got[from:], want[from:])
}

func abridged(text string) string {
	if len(text) > 2000 {
		return fmt.Sprintf("%q … %q (%d bytes)", text[:1500], text[len(text)-300:], len(text))
	}
	return fmt.Sprintf("%q", text)
}
