package tokens

import "unicode/utf8"

// unescaper reads one logical character at a time: a byte that stands for
// itself, %XX as URL encoders write it, or \/ and \u00XX as JSON encoders do.
type unescaper struct {
	first  byte // % or \ when an escape is open, else 0
	digits int  // hex digits read, or -1 right behind a backslash
	value  byte
	// What was met so far.
	percent, backslash bool
}

type escapeResult uint8

const (
	escapeDone escapeResult = iota // the character is complete
	escapeMore                     // it goes on
	escapeBad                      // no escape begins like this
)

func (u *unescaper) step(b byte) (byte, escapeResult) {
	switch {
	case u.first == 0:
		switch b {
		case '%':
			u.first, u.digits, u.value = b, 0, 0
		case '\\':
			u.first, u.digits, u.value = b, -1, 0
		default:
			return b, escapeDone
		}
		return 0, escapeMore
	case u.digits < 0:
		if b == '/' {
			u.first, u.backslash = 0, true
			return b, escapeDone
		}
		if b != 'u' {
			return 0, escapeBad
		}
		u.digits = 0
		return 0, escapeMore
	}
	return u.digit(b)
}

func (u *unescaper) digit(b byte) (byte, escapeResult) {
	v := unhex(b)
	if v > 0xf {
		return 0, escapeBad
	}
	// Only ASCII: \u0000 to \u007f, %00 to %7f.
	digits := 2
	if u.first == '\\' {
		digits = 4
	}
	if left := digits - u.digits; left > 2 && v != 0 || left == 2 && v > 7 {
		return 0, escapeBad
	}
	u.value = u.value<<4 | v
	if u.digits++; u.digits < digits {
		return 0, escapeMore
	}
	if u.first == '%' {
		u.percent = true
	} else {
		u.backslash = true
	}
	u.first = 0
	return u.value, escapeDone
}

func unhex(b byte) byte {
	switch {
	case b >= '0' && b <= '9':
		return b - '0'
	case b >= 'a' && b <= 'f':
		return b - 'a' + 10
	case b >= 'A' && b <= 'F':
		return b - 'A' + 10
	}
	return 0xff
}

// Escape returns the value as a scanner writes it at a place of this form.
func Escape(value string, form Form) string { return string(appendValue(nil, value, form)) }

// appendValue appends a value as the form writes it.
func appendValue(dst []byte, v string, form Form) []byte {
	switch form {
	case Percent:
		return appendPercent(dst, v)
	case JSON:
		return appendJSON(dst, v)
	case XML:
		return appendXML(dst, v)
	}
	return append(dst, v...)
}

const upperHex = "0123456789ABCDEF"

// appendPercent escapes all but the unreserved characters of RFC 3986 §2.3.
func appendPercent(dst []byte, v string) []byte {
	for i := range len(v) {
		c := v[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
			c == '-' || c == '.' || c == '_' || c == '~' {
			dst = append(dst, c)
		} else {
			dst = append(dst, '%', upperHex[c>>4], upperHex[c&0xf])
		}
	}
	return dst
}

// appendJSON writes the inside of a JSON string, RFC 8259 §7. It escapes
// U+2028 and U+2029 too, which JavaScript did not always take in strings.
func appendJSON(dst []byte, v string) []byte {
	for _, r := range v {
		switch {
		case r == '"' || r == '\\':
			dst = append(dst, '\\', byte(r))
		case r == '\n':
			dst = append(dst, `\n`...)
		case r == '\r':
			dst = append(dst, `\r`...)
		case r == '\t':
			dst = append(dst, `\t`...)
		case r < ' ':
			dst = append(dst, '\\', 'u', '0', '0', upperHex[r>>4], upperHex[r&0xf])
		case r == '\u2028':
			dst = append(dst, `\u2028`...)
		case r == '\u2029':
			dst = append(dst, `\u2029`...)
		default:
			dst = utf8.AppendRune(dst, r)
		}
	}
	return dst
}

// appendXML writes XML 1.0 text that also fits into an attribute value. The
// control characters that XML 1.0 has no way to write stand as they are, so
// that the reader refuses the document instead of taking another value.
func appendXML(dst []byte, v string) []byte {
	for i := range len(v) {
		switch c := v[i]; c {
		case '&':
			dst = append(dst, "&amp;"...)
		case '<':
			dst = append(dst, "&lt;"...)
		case '>':
			dst = append(dst, "&gt;"...)
		case '"':
			dst = append(dst, "&#34;"...)
		case '\'':
			dst = append(dst, "&#39;"...)
		case '\t':
			dst = append(dst, "&#9;"...)
		case '\n':
			dst = append(dst, "&#10;"...)
		case '\r':
			dst = append(dst, "&#13;"...)
		default:
			dst = append(dst, c)
		}
	}
	return dst
}
