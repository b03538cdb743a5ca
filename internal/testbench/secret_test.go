package testbench

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"testing"
)

func TestFindSecret(t *testing.T) {
	const value = `s3cr3t/+"<Value>&=Z9`
	quoted, _ := json.Marshal(map[string]string{"k": value})
	for name, text := range map[string]string{
		"as it is":             "GET /?k=" + value + " HTTP/1.1",
		"Go quoted":            fmt.Sprintf("%q", value),
		"JSON":                 string(quoted),
		"JSON in a JSON log":   fmt.Sprintf("%q", quoted),
		"query":                "k=" + url.QueryEscape(value),
		"path":                 url.PathEscape(value),
		"hex":                  fmt.Sprintf("%x", value),
		"bytes":                fmt.Sprint([]byte(value)),
		"base64":               base64.StdEncoding.EncodeToString([]byte(value)),
		"Basic, user of one":   base64.StdEncoding.EncodeToString([]byte("u:" + value)),
		"Basic, user of three": base64.StdEncoding.EncodeToString([]byte("usr:" + value)),
		"base64 in the middle": base64.RawURLEncoding.EncodeToString([]byte("ab" + value + "behind")),
	} {
		if got := FindSecret([]byte("before "+text+" behind"), value); len(got) == 0 {
			t.Errorf("%s: got nothing in %q", name, text)
		}
	}
	harmless := "********** starpod:v1:AAAA s3cr3t " + base64.StdEncoding.EncodeToString([]byte("u:another value"))
	if got := FindSecret([]byte(harmless), value); len(got) != 0 {
		t.Errorf("harmless text: got %v, want none", got)
	}
}
