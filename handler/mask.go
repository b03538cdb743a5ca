package handler

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/starpod/caddy-starpod/tokens"
)

// minMasked is the length in bytes from which values are masked. Shorter ones
// would blot out text that has nothing to do with them.
const minMasked = 8

// mask hides what must not come back: every occurrence of its needles is
// overwritten with as many asterisks, so lengths and framing stay.
type mask struct {
	needles [][]byte
	borders [][]int32 // of the long ones, see bordersOf
	longest int
	finder  atomic.Pointer[finder] // of all of them, once there is much to look through

	hidden *atomic.Int64 // counts what was overwritten; may be nil
}

// longNeedle is the length in bytes from which needles are looked for by their
// borders: comparing at each place takes the square of the length where a value
// repeats itself.
const longNeedle = 512

// newMask makes a mask of the values that were put into a request, in every
// spelling that an answer is likely to repeat them in; nil if there is nothing
// to hide. credentials are whole Basic credentials that were written anew.
func newMask(found []foundToken, credentials []string) *mask {
	m := new(mask)
	for _, t := range found {
		if value := t.Value.Reveal(); t.Action == tokens.Replaced && len(value) >= minMasked {
			m.spell(value)
			// Servers trim what they read from, and secrets of files end with a line.
			if trimmed := strings.TrimSpace(value); trimmed != value && len(trimmed) >= minMasked {
				m.spell(trimmed)
			}
		}
	}
	for _, c := range credentials {
		if c = strings.TrimRight(c, "="); len(c) >= minMasked {
			m.spell(c)
		}
	}
	if len(m.needles) == 0 {
		return nil
	}
	m.borders = make([][]int32, len(m.needles))
	for i, needle := range m.needles {
		if len(needle) >= longNeedle {
			m.borders[i] = bordersOf(needle)
		}
	}
	return m
}

// spell adds text in all its spellings.
func (m *mask) spell(text string) {
	m.add(text)
	percent := tokens.Escape(text, tokens.Percent)
	if percent == text {
		return // unreserved characters, which nothing else escapes either
	}
	for _, spelling := range jsonSpellings(text) {
		m.add(spelling)
	}
	m.add(tokens.Escape(text, tokens.XML))
	for _, spelling := range htmlSpellings(text) {
		m.add(spelling)
	}
	m.add(percent)
	m.add(lowerEscapes(percent))
	m.add(url.PathEscape(text))
	m.add(url.QueryEscape(text))
}

func (m *mask) add(needle string) {
	if len(needle) < minMasked {
		return
	}
	for _, n := range m.needles {
		if string(n) == needle {
			return
		}
	}
	m.needles = append(m.needles, []byte(needle))
	// Longer ones first: a spelling may hold another, shorter needle.
	slices.SortStableFunc(m.needles, func(a, b []byte) int { return len(b) - len(a) })
	m.longest = len(m.needles[0])
}

// lowerEscapes writes the hex digits of percent escapes in lower case.
func lowerEscapes(s string) string {
	b := []byte(s)
	for i := 0; i+2 < len(b); i++ {
		if b[i] == '%' {
			copy(b[i+1:i+3], bytes.ToLower(b[i+1:i+3]))
			i += 2
		}
	}
	return string(b)
}

// manyBytes is how long a text is for which a finder is worth making, in bytes.
const manyBytes = 4 << 10

// apply masks text in place.
func (m *mask) apply(text []byte) { m.applyBefore(text, len(text)) }

// applyBefore masks in place what begins before the byte at limit. It returns up to
// where needles cover the text from there on.
func (m *mask) applyBefore(text []byte, limit int) (end int) {
	f := m.finder.Load()
	if f == nil && len(text) < manyBytes && !m.containsAny(text) {
		return limit
	}
	short := len(m.needles)
	for short > 0 && len(m.needles[short-1]) < longNeedle {
		short--
	}
	long := stretchesOf(m.needles[:short], text) // before anything is overwritten
	if f == nil && short < len(m.needles) {
		f = newFinder(m.needles[short:])
		m.finder.Store(f)
	}
	end = limit
	hide := func(from, to, number int) {
		if from < limit {
			m.hide(text[from:to], number)
		}
		if from <= end {
			end = max(end, to)
		}
	}
	if f != nil {
		f.each(text, hide)
	}
	for _, s := range long {
		hide(s[0], s[1], 1)
	}
	return end
}

// seam is where two pieces of a masked text meet.
type seam struct {
	held    []byte // what may be the beginning of a needle, as it came
	covered int    // how much at its beginning whole needles cover
}

// settle masks text, which begins with what was held back, and returns how much at its
// beginning is settled; the rest is held back, nothing at the end of all text. What
// waits is not masked: a short needle in it may be the beginning of a longer one.
func (s *seam) settle(m *mask, text []byte, last bool) (settled int) {
	settled = len(text)
	covered := text[:s.covered]
	if m != nil && !last {
		settled -= m.pending(text)
	}
	s.held = append(s.held[:0], text[settled:]...)
	s.covered = max(0, s.covered-settled)
	if m != nil {
		s.covered = max(s.covered, m.applyBefore(text, settled)-settled)
	}
	stars(covered)
	return settled
}

func stars(text []byte) {
	for i := range text {
		text[i] = '*'
	}
}

func (m *mask) hide(stretch []byte, number int) {
	stars(stretch)
	if m.hidden != nil {
		m.hidden.Add(int64(number))
	}
}

// stretchesOf returns where text holds long needles, the longest first, but for those
// within others. A finder compares at each place, which takes the square of the length
// where a needle repeats itself; and a client chooses what stands before a value in
// Basic credentials.
func stretchesOf(needles [][]byte, text []byte) (found [][2]int) {
	for _, needle := range needles {
		for at := 0; ; {
			i := bytes.Index(text[at:], needle)
			if i < 0 {
				break
			}
			start, end := at+i, at+i+len(needle)
			within := func(s [2]int) bool { return s[0] <= start && end <= s[1] }
			if !slices.ContainsFunc(found, within) {
				found = append(found, [2]int{start, end})
			}
			at = end
		}
	}
	return found
}

func (m *mask) containsAny(text []byte) bool {
	for _, needle := range m.needles {
		if bytes.Contains(text, needle) {
			return true
		}
	}
	return false
}

// pending returns how many bytes at the end of text may be the beginning of a
// needle that goes on in what follows.
func (m *mask) pending(text []byte) int {
	longest := 0
	for n, needle := range m.needles {
		if borders := m.borders[n]; borders != nil {
			longest = max(longest, begun(needle, borders, text))
			continue
		}
		start := max(0, len(text)-len(needle)+1)
		for i := start; len(text)-i > longest; i++ {
			j := bytes.IndexByte(text[i:], needle[0])
			if j < 0 {
				break
			}
			i += j
			if n := len(text) - i; n > longest && bytes.HasPrefix(needle, text[i:]) {
				longest = n
			}
		}
	}
	return longest
}

// bordersOf returns, for each beginning of needle, the length of its longest
// proper beginning that is also its end (Knuth, Morris and Pratt).
func bordersOf(needle []byte) []int32 {
	borders := make([]int32, len(needle))
	for i, k := 1, int32(0); i < len(needle); i++ {
		for k > 0 && needle[k] != needle[i] {
			k = borders[k-1]
		}
		if needle[k] == needle[i] {
			k++
		}
		borders[i] = k
	}
	return borders
}

// begun returns how much of needle text ends in, short of all of it.
func begun(needle []byte, borders []int32, text []byte) int {
	k := int32(0)
	for _, c := range text[max(0, len(text)-len(needle)+1):] {
		for k > 0 && needle[k] != c {
			k = borders[k-1]
		}
		if needle[k] == c {
			k++
		}
	}
	return int(k)
}

// header masks field values in place.
func (m *mask) header(h http.Header) {
	for name, values := range h {
		binary := len(name) > 4 && strings.EqualFold(name[len(name)-4:], "-bin")
		for i, value := range values {
			if m.contains(value) {
				text := []byte(value)
				m.apply(text)
				values[i] = string(text)
			}
			if binary {
				values[i] = m.binary(values[i])
			}
		}
	}
}

// binary masks inside the metadata of gRPC whose keys end in "-bin", the details
// of a status among them: base64, padded or not, several joined by commas (gRPC
// over HTTP/2, "Custom-Metadata"). The length stays.
func (m *mask) binary(value string) string {
	parts := strings.Split(value, ",")
	for i, part := range parts {
		encoded := strings.TrimRight(part, "=")
		plain, err := base64.RawStdEncoding.DecodeString(encoded)
		if err == nil && m.contains(string(plain)) {
			m.apply(plain)
			parts[i] = base64.RawStdEncoding.EncodeToString(plain) + part[len(encoded):]
		}
	}
	return strings.Join(parts, ",")
}

func (m *mask) contains(text string) bool {
	for _, needle := range m.needles {
		if strings.Contains(text, string(needle)) {
			return true
		}
	}
	return false
}

// maskReader masks a stream. It holds back only what may be the beginning of a
// needle, so the events of a stream are passed on as they come. A few bytes are
// held back for a moment only: whoever waits for the end of a message before it
// says something itself would wait for ever, if that end happens to look like the
// beginning of a value. They still count as its beginning.
type maskReader struct {
	io.Closer
	source io.Reader
	mask   func() *mask // asked for each piece: a request still under way may bring more
	seam
	passed int          // how much of held has been handed out
	buffer []byte       // for readers that bring too little room
	ready  []byte       // of buffer, what can be handed out
	ahead  chan reading // a read into buffer, behind held, that is under way; may be nil
	err    error
}

// reading is the result of a Read.
type reading struct {
	n   int
	err error
}

const (
	// How much is read at a time, in bytes.
	maskChunk = 32 << 10
	maskLeast = 512

	// mostPassed is how many bytes of what may be a value are passed on when nothing
	// has come behind them for maskPatience. Of a value that does come then, as many
	// show. What whole values cover is passed on with them, masked.
	mostPassed   = 3
	maskPatience = 100 * time.Millisecond
)

func newMaskReader(source io.ReadCloser, current func() *mask) *maskReader {
	return &maskReader{Closer: source, source: source, mask: current}
}

// Read implements io.Reader. It works in p where there is room enough.
func (r *maskReader) Read(p []byte) (int, error) {
	for len(r.ready) == 0 {
		switch {
		case r.err != nil:
			return 0, r.err
		case len(p) == 0:
			return 0, nil
		case r.passed < len(r.held) && len(r.held)-r.covered <= mostPassed:
			if n := r.wait(p); n > 0 {
				return n, nil
			}
		case r.ahead != nil:
			r.settleBuffer(<-r.ahead)
		case r.passed == 0 && len(p)-len(r.held) >= maskLeast:
			held := copy(p, r.held)
			n, err := r.source.Read(p[held:])
			if n := r.settle(p[:held+n], err); n > 0 {
				return n, nil
			}
		default:
			r.makeRoom()
			n, err := r.source.Read(r.buffer[len(r.held):])
			r.settleBuffer(reading{n, err})
		}
	}
	n := copy(p, r.ready)
	r.ready = r.ready[n:]
	return n, nil
}

// wait reads on for a moment, and then hands out what is held back: n bytes of p,
// or nothing where there is more to look at.
func (r *maskReader) wait(p []byte) (n int) {
	if r.ahead == nil {
		r.makeRoom()
		r.ahead = make(chan reading, 1)
		go func(into []byte, result chan<- reading) {
			n, err := r.source.Read(into)
			result <- reading{n, err}
		}(r.buffer[len(r.held):], r.ahead)
	}
	timer := time.NewTimer(maskPatience)
	defer timer.Stop()
	select {
	case came := <-r.ahead:
		r.settleBuffer(came)
		return 0
	case <-timer.C:
		n = copy(p, r.held[r.passed:])
		stars(p[:min(n, max(0, r.covered-r.passed))])
		r.passed += n
		return n
	}
}

// makeRoom makes buffer begin with what is held back, and have room behind it.
func (r *maskReader) makeRoom() {
	if need := len(r.held) + maskChunk; len(r.buffer) < need {
		r.buffer = make([]byte, need)
	}
	copy(r.buffer, r.held)
}

// settleBuffer settles what has been read into buffer, behind what was held back.
func (r *maskReader) settleBuffer(came reading) {
	r.ahead = nil
	passed, text := r.passed, r.buffer[:len(r.held)+came.n]
	if settled := r.settle(text, came.err); settled > passed {
		r.ready = text[passed:settled]
	}
}

// settle masks text, which begins with what was held back, and returns how much at
// its beginning is settled; the rest is held back.
func (r *maskReader) settle(text []byte, err error) (settled int) {
	r.err = err
	settled = r.seam.settle(r.mask(), text, err != nil)
	r.passed = max(0, r.passed-settled)
	return settled
}

// jsonSpellings returns how encoders write text in a JSON string: plainly, with
// HTML's characters escaped (Go), with slashes escaped (PHP), in ASCII only
// (Python), the last two together, and with more escaped (Gson, .NET).
func jsonSpellings(text string) []string {
	plain := tokens.Escape(text, tokens.JSON)
	ascii := asciiOnly(plain)
	slashes := strings.NewReplacer("/", `\/`)
	html := strings.NewReplacer("<", `\u003c`, ">", `\u003e`, "&", `\u0026`)
	gson := strings.NewReplacer("<", `\u003c`, ">", `\u003e`, "&", `\u0026`, "=", `\u003d`, "'", `\u0027`)
	net := strings.NewReplacer("<", `\u003C`, ">", `\u003E`, "&", `\u0026`, "+", `\u002B`, "'", `\u0027`, `\"`, `\u0022`)
	return []string{
		plain, html.Replace(plain), slashes.Replace(plain), ascii, slashes.Replace(ascii),
		gson.Replace(plain), net.Replace(plain),
	}
}

// htmlSpellings returns how encoders write text in HTML: with numeric entities
// (Go), with "+" as well (Go's templates), with hexadecimal ones (Python).
func htmlSpellings(text string) []string {
	plain := html.EscapeString(text)
	return []string{
		plain, strings.ReplaceAll(plain, "+", "&#43;"),
		strings.NewReplacer("&#34;", "&quot;", "&#39;", "&#x27;").Replace(plain),
	}
}

// asciiOnly writes what is not ASCII as \uXXXX, in surrogate pairs where needed.
func asciiOnly(text string) string {
	var b strings.Builder
	for _, c := range text {
		switch {
		case c < utf8.RuneSelf:
			b.WriteRune(c)
		case c > 0xffff:
			high, low := utf16.EncodeRune(c)
			fmt.Fprintf(&b, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&b, `\u%04x`, c)
		}
	}
	return b.String()
}
