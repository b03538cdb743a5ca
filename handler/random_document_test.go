package handler

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"mime/multipart"
	"net/textproto"
	"net/url"
	"strings"
	"testing"
	"unicode/utf16"
)

// Documents are made with a mark where a token stands, and then written twice:
// with the token, by an encoder, and with what a reader shall find there.
const (
	tokenMark     = "\uE000"
	surrogateMark = "\uE001" // a lone surrogate, which is written \ud800 and read as U+FFFD
)

func withoutMarks(value string) string {
	return strings.NewReplacer(tokenMark, "", surrogateMark, "").Replace(value)
}

// randomText makes text with marks in it.
func randomText(c choices, pieces ...string) string {
	var text strings.Builder
	for range c.IntN(5) {
		if oneIn(c, 2) {
			text.WriteString(tokenMark)
		} else {
			text.WriteString(pick(c, pieces...))
		}
	}
	return text.String()
}

// randomDocument makes a value as encoding/json reads them.
func randomDocument(c choices, depth int) any {
	kinds := 6
	if depth == 0 {
		kinds = 4
	}
	switch c.IntN(kinds) {
	case 2:
		return pick[any](c, 0.0, -1.5e3, true, false, nil)
	case 4:
		list := []any{}
		for range c.IntN(4) {
			list = append(list, randomDocument(c, depth-1))
		}
		return list
	case 5:
		return randomObject(c, depth)
	}
	return randomText(c, append([]string{surrogateMark, "starpod", "starpod:v1:"}, valuePieces...)...)
}

func randomObject(c choices, depth int) map[string]any {
	object := map[string]any{}
	for i := range c.IntN(4) {
		key := fmt.Sprintf("k%d", i)
		if oneIn(c, 3) {
			key += tokenMark
		}
		object[key] = randomDocument(c, depth-1)
	}
	return object
}

// filled is a document with text at the marks.
func filled(document any, marks *strings.Replacer) any {
	switch d := document.(type) {
	case string:
		return marks.Replace(d)
	case []any:
		list := make([]any, len(d))
		for i := range d {
			list[i] = filled(d[i], marks)
		}
		return list
	case map[string]any:
		object := map[string]any{}
		for key, value := range d {
			object[marks.Replace(key)] = filled(value, marks)
		}
		return object
	}
	return document
}

// jsonStyle is how an encoder writes JSON.
type jsonStyle struct {
	slashes, signs, html, ascii bool
	hex                         string // of escapes: "%04x" or "%04X"
	indent                      string
}

func randomStyle(c choices) jsonStyle {
	return jsonStyle{oneIn(c, 2), oneIn(c, 2), oneIn(c, 2), oneIn(c, 2), pick(c, "%04x", "%04X"), pick(c, "", " ", "\n\t", "\r\n  ")}
}

func (s jsonStyle) encode(b *strings.Builder, document any) {
	switch d := document.(type) {
	case string:
		s.text(b, d)
	case []any:
		b.WriteString("[")
		for i, value := range d {
			if i > 0 {
				b.WriteString(",")
			}
			b.WriteString(s.indent)
			s.encode(b, value)
		}
		b.WriteString(s.indent + "]")
	case map[string]any:
		b.WriteString("{")
		for key, value := range d { // in whatever order
			if b.String()[b.Len()-1] != '{' {
				b.WriteString(",")
			}
			b.WriteString(s.indent)
			s.text(b, key)
			b.WriteString(":" + s.indent)
			s.encode(b, value)
		}
		b.WriteString(s.indent + "}")
	case nil:
		b.WriteString("null")
	default:
		fmt.Fprint(b, d)
	}
}

func (s jsonStyle) text(b *strings.Builder, text string) {
	b.WriteByte('"')
	for _, r := range text {
		switch {
		case string(r) == surrogateMark:
			b.WriteString(`\ud800`)
		case r == '"' || r == '\\' || r == '/' && s.slashes:
			b.WriteString(`\` + string(r))
		case r == '\n' && !s.signs:
			b.WriteString(`\n`)
		case r < ' ', s.signs && strings.ContainsRune(":+=", r), s.html && strings.ContainsRune("<>&'\u2028", r):
			fmt.Fprintf(b, `\u`+s.hex, r)
		case r >= 0x10000 && s.ascii:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(b, `\u`+s.hex+`\u`+s.hex, high, low)
		case r > '~' && s.ascii:
			fmt.Fprintf(b, `\u`+s.hex, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
}

// randomForm makes fields with marks.
func randomForm(c choices) url.Values {
	form := url.Values{}
	for i := range 1 + c.IntN(4) {
		key := fmt.Sprintf("%d%s", i, pick(c, "", "key", "ü &=", tokenMark))
		for range 1 + c.IntN(2) {
			form.Add(key, randomText(c, append([]string{"a=b&c", "starpod:v1:"}, valuePieces...)...))
		}
	}
	return form
}

func filledForm(form url.Values, marks *strings.Replacer) url.Values {
	out := url.Values{}
	for key, values := range form {
		for _, value := range values {
			out.Add(marks.Replace(key), marks.Replace(value))
		}
	}
	return out
}

// encodeForm writes a form as browsers do, or as lenient clients.
func encodeForm(c choices, form url.Values) string {
	encoded := form.Encode()
	switch c.IntN(4) {
	case 1:
		encoded = strings.ReplaceAll(encoded, "+", "%20")
	case 2:
		encoded = strings.NewReplacer("%3A", ":", "%2F", "/").Replace(encoded)
	case 3:
		encoded = strings.NewReplacer("%3A", "%3a", "%2F", "%2f", "%2B", "%2b", "%3D", "%3d", "%C3%BC", "%c3%bc").Replace(encoded)
	}
	return encoded
}

// randomXML makes elements with marks in text and attributes.
func randomXML(tb testing.TB, c choices, marks *strings.Replacer) string {
	var b bytes.Buffer
	b.WriteString(`<?xml version="1.0" encoding="UTF-8"?>`)
	var element func(depth int)
	escape := func(text string) {
		if err := xml.EscapeText(&b, []byte(marks.Replace(text))); err != nil {
			tb.Fatal(err)
		}
	}
	pieces := []string{"a", "<", "&", `"`, "'", "]]>", "\n", "\t", "\r", "é🔐", "starpod:v1:"}
	element = func(depth int) {
		b.WriteString(`<e a="`)
		escape(randomText(c, pieces...))
		b.WriteString(`">`)
		for range c.IntN(3) {
			escape(randomText(c, pieces...))
			if depth > 0 {
				element(depth - 1)
			}
		}
		b.WriteString(`</e>`)
	}
	element(2)
	return b.String()
}

// randomPart is one part of a multipart body, with marks.
type randomPart struct {
	header textproto.MIMEHeader
	text   string // of all kinds but forms and JSON
	form   url.Values
	object map[string]any
}

func randomParts(c choices) (parts []randomPart) {
	pieces := append([]string{"--BOUN", "\r\n", "\r\n--", "Content-Type: application/json\r\n\r\n", "starpod:v1:"}, valuePieces...)
	for i := range 1 + c.IntN(4) {
		part := randomPart{header: textproto.MIMEHeader{"Content-Disposition": {fmt.Sprintf(`form-data; name="f%d"`, i)}}}
		kind := pick(c, "", "text/plain", "application/octet-stream", "application/json", "application/x-www-form-urlencoded")
		switch kind {
		case "application/json":
			part.object = randomObject(c, 2)
		case "application/x-www-form-urlencoded":
			part.form = randomForm(c)
		default:
			part.text = "text " + randomText(c, pieces...)
		}
		if kind != "" {
			part.header.Set(pick(c, "Content-Type", "content-type"), kind)
		}
		parts = append(parts, part)
	}
	return parts
}

// encodeParts writes the body of a multipart/form-data request.
func encodeParts(tb testing.TB, c choices, parts []randomPart, marks *strings.Replacer) string {
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	if err := w.SetBoundary("BOUND"); err != nil {
		tb.Fatal(err)
	}
	for _, part := range parts {
		to, err := w.CreatePart(part.header)
		if err != nil {
			tb.Fatal(err)
		}
		switch {
		case part.object != nil:
			var text strings.Builder
			randomStyle(c).encode(&text, filled(part.object, marks))
			_, err = to.Write([]byte(text.String()))
		case part.form != nil:
			_, err = to.Write([]byte(encodeForm(c, filledForm(part.form, marks))))
		default:
			_, err = to.Write([]byte(marks.Replace(part.text)))
		}
		if err != nil {
			tb.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return b.String()
}
