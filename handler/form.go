package handler

import (
	"bufio"
	"bytes"
	"io"
	"mime"
	"strings"

	"github.com/starpod/caddy-starpod/tokens"
)

// bodyForm tells how values are written in a body.
type bodyForm struct {
	form  tokens.Form
	loose bool // the label is one that JSON often goes under, so the text is asked too

	// boundary parts a multipart body, in which each part has its own form.
	boundary string
}

// formOf reads the media type of a body or of a part of one.
func formOf(contentType string) bodyForm {
	media, params, _ := mime.ParseMediaType(contentType)
	switch {
	case media == "application/x-www-form-urlencoded":
		// What curl says of whatever it is given with -d.
		return bodyForm{form: tokens.Percent, loose: true}
	case media == "", media == "text/plain":
		return bodyForm{loose: true}
	case strings.HasSuffix(media, "/json"), strings.HasSuffix(media, "+json"),
		media == "application/x-ndjson", media == "application/jsonl", media == "application/json-seq":
		return bodyForm{form: tokens.JSON}
	case strings.HasSuffix(media, "/xml"), strings.HasSuffix(media, "+xml"):
		return bodyForm{form: tokens.XML}
	case strings.HasPrefix(media, "multipart/"):
		return bodyForm{boundary: params["boundary"]}
	}
	return bodyForm{}
}

// reader swaps in a body while it is read.
func (b bodyForm) reader(s *tokens.Scanner, body io.Reader) io.Reader {
	s.Form = b.form
	switch {
	case b.boundary != "":
		body = &partReader{source: bufio.NewReaderSize(body, copyBuffer), scanner: s, delimiter: []byte("--" + b.boundary)}
	case b.loose:
		body = &looseReader{Reader: body, scanner: s}
	}
	return s.Reader(body)
}

// bytes swaps in a whole body. When nothing changes it returns text itself.
func (b bodyForm) bytes(s *tokens.Scanner, text []byte) ([]byte, error) {
	switch {
	case !tokens.Contains(text):
		return text, nil
	case b.boundary != "":
		return io.ReadAll(b.reader(s, bytes.NewReader(text)))
	}
	s.Form = b.form
	if b.loose {
		var look jsonLook
		if look.at(text); look.json {
			s.Form = tokens.JSON
		}
	}
	return s.Bytes(text)
}

// jsonLook tells by the first bytes whether a text is a JSON object, or an
// array of objects, arrays or strings. No form field, and hardly any other
// text, begins like this.
type jsonLook struct {
	first         byte // the bracket that the text begins with
	decided, json bool
}

func (l *jsonLook) at(p []byte) {
	for i := 0; i < len(p) && !l.decided; i++ {
		switch c := p[i]; {
		case c == ' ', c == '\t', c == '\r', c == '\n':
		case l.first == 0 && (c == '{' || c == '['):
			l.first = c
		default:
			l.decided = true
			l.json = l.first == '{' && (c == '"' || c == '}') || l.first == '[' && (c == '"' || c == '{' || c == '[')
		}
	}
}

// looseReader sets the scanner's form by the first bytes that pass.
type looseReader struct {
	io.Reader
	scanner *tokens.Scanner
	look    jsonLook
}

func (r *looseReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if !r.look.decided {
		if r.look.at(p[:n]); r.look.json {
			r.scanner.Form = tokens.JSON
		}
	}
	return n, err
}

// partReader sets the scanner's form for each part of a multipart body (RFC
// 2046, section 5.1) as it passes. It changes nothing, and ends a Read where
// the form changes, so that what was read before it is scanned by then.
type partReader struct {
	source    *bufio.Reader
	scanner   *tokens.Scanner
	delimiter []byte // two hyphens and the boundary

	line   []byte // how the current line begins
	header bool   // in the header of a part
	part   bodyForm
	look   jsonLook
}

// partLine is how much of a line is looked at, in bytes: a delimiter takes 72
// at most, a Content-Type hardly ever more than this.
const partLine = 512

// Read implements io.Reader.
func (r *partReader) Read(p []byte) (int, error) {
	if _, err := r.source.Peek(1); err != nil {
		return 0, err
	}
	chunk, _ := r.source.Peek(min(len(p), r.source.Buffered()))
	if r.scanner.Form = r.part.form; r.header {
		r.scanner.Form = tokens.Raw
	}
	n := r.watch(chunk)
	copy(p, chunk[:n])
	_, _ = r.source.Discard(n)
	return n, nil
}

// watch returns how many bytes of p have the form that is set.
func (r *partReader) watch(p []byte) (n int) {
	for n < len(p) {
		end := bytes.IndexByte(p[n:], '\n') + 1
		piece := p[n:]
		if end > 0 {
			piece = piece[:end]
		}
		n += len(piece)
		r.line = append(r.line, piece[:min(len(piece), partLine-len(r.line))]...)
		if r.part.loose && !r.header && !r.look.decided {
			if r.look.at(piece); r.look.json {
				r.part.form = tokens.JSON
				r.scanner.Form = tokens.JSON // no token of this part has come yet
			}
		}
		if end > 0 && r.lineEnds() {
			return n
		}
	}
	return n
}

// delimits reports whether a line is the delimiter, or the last one, with or
// without white space behind it.
func (r *partReader) delimits(line []byte) bool {
	rest, found := bytes.CutPrefix(line, r.delimiter)
	return found && len(bytes.TrimRight(bytes.TrimPrefix(rest, []byte("--")), " \t")) == 0
}

// lineEnds takes note of a line and reports whether the form changes behind it.
func (r *partReader) lineEnds() bool {
	line := bytes.TrimRight(r.line, "\r\n")
	r.line = r.line[:0]
	switch {
	case r.delimits(line):
		r.header, r.part = true, bodyForm{}
		r.look = jsonLook{}
		return true
	case !r.header:
		return false
	case len(line) == 0:
		r.header = false
		if r.part == (bodyForm{}) {
			r.part = formOf("")
		}
		return true
	}
	if name, value, found := bytes.Cut(line, []byte(":")); found && bytes.EqualFold(name, []byte("Content-Type")) {
		r.part = formOf(string(bytes.TrimSpace(value)))
		r.part.boundary = ""
	}
	return false
}
