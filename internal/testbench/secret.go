package testbench

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// FindSecret returns the names of the forms in which the value occurs in the
// text: as it is, reversed, in base64 (both alphabets, at any of the three
// alignments, so also inside the base64 of something longer), in hex,
// percent-encoded, and as JSON, Go, HTML and \u or \x escapes write it. The
// value should have 8 bytes or more, or chance finds it.
func FindSecret(text []byte, value string) []string {
	var found []string
	for name, form := range secretForms(value) {
		if bytes.Contains(text, []byte(form)) {
			found = append(found, name)
		}
	}
	slices.Sort(found)
	return found
}

func secretForms(value string) map[string]string {
	quoted, _ := json.Marshal(value)
	reversed := []byte(value)
	slices.Reverse(reversed)
	hexed := hex.EncodeToString([]byte(value))
	forms := map[string]string{
		"raw":              value,
		"reversed":         string(reversed),
		"hex":              hexed,
		"HEX":              strings.ToUpper(hexed),
		"hex with spaces":  fmt.Sprintf("% x", value),
		"byte list":        strings.Trim(fmt.Sprint([]byte(value)), "[]"),
		"json":             string(quoted[1 : len(quoted)-1]),
		"json slash":       strings.ReplaceAll(string(quoted[1:len(quoted)-1]), "/", `\/`),
		"go":               strings.Trim(strconv.QuoteToASCII(value), `"`),
		"html":             html.EscapeString(value),
		"query":            url.QueryEscape(value),
		"path":             url.PathEscape(value),
		"percent":          escapeBytes(value, "%%%02X"),
		"percent lower":    escapeBytes(value, "%%%02x"),
		"\\x":              escapeBytes(value, `\x%02x`),
		"\\u":              escapeBytes(value, `\u%04x`),
		"escaped for JSON": strings.Trim(strconv.Quote(string(quoted[1:len(quoted)-1])), `"`),
	}
	for alignment := range 3 {
		// Only the characters that no neighbour of the value has a share in.
		padded := append(make([]byte, alignment), value...)
		cut := len(padded) / 3 * 3
		first := (alignment + 2) / 3 * 4
		for name, encoding := range map[string]*base64.Encoding{"base64": base64.StdEncoding, "base64url": base64.URLEncoding} {
			forms[fmt.Sprintf("%s+%d", name, alignment)] = encoding.EncodeToString(padded[:cut])[first:]
		}
	}
	return forms
}

func escapeBytes(value, format string) string {
	var b strings.Builder
	for i := range len(value) {
		fmt.Fprintf(&b, format, value[i])
	}
	return b.String()
}
