package starpod

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

func TestAttachRequest(t *testing.T) {
	for _, test := range []struct{ name, text, want string }{
		{"a greeting", `{"hello":{"version":1,"site":":8080"}}`, ""},
		{"a secret", `{"seal":{"name":"A","value":"c2s=","hosts":["h.test"]}}`, ""},
		{"a namespace", `{"serve":{"sockets":[{"role":"proxy","network":"tcp"}]}}`, ""},
		{"no namespace", `{"serve":{}}`, ""},
		{"another version", `{"hello":{"version":2,"more":true}}`, "speaks version 2 of the protocol and this Caddy version 1: use the same build"},
		{"no version", `{"hello":{}}`, "speaks version 0"},
		{"nothing", ``, "malformed"},
		{"no request", `{}`, "malformed"},
		{"null", `null`, "malformed"},
		{"two requests", `{"hello":{"version":1},"serve":{}}`, "malformed"},
		{"two in a row", `{"serve":{}}{"serve":{}}`, "malformed"},
		{"an unknown request", `{"open":{}}`, "malformed"},
		{"an unknown member", `{"serve":{"fd":3}}`, "malformed"},
		{"an empty secret", `{"seal":{"name":"A","value":"","hosts":[]}}`, "malformed"},
		{"a secret that is no base64", `{"seal":{"name":"A","value":"sk-s3cret!","hosts":[]}}`, "malformed"},
		{"too many hosts", `{"seal":{"name":"A","value":"c2s=","hosts":["h"` + strings.Repeat(`,"h"`, maxAttachHosts) + `]}}`, "malformed"},
		{"too many sockets", `{"serve":{"sockets":[{}` + strings.Repeat(`,{}`, maxAttachSockets) + `]}}`, "malformed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := parseAttachRequest([]byte(test.text))
			switch {
			case test.want == "" && err != nil:
				t.Errorf("got %v, want no error", err)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
				t.Errorf("got %v, want %q", err, test.want)
			case err != nil && strings.Contains(err.Error(), "s3cret"):
				t.Errorf("got %v, which repeats the value", err)
			}
		})
	}
}

// FuzzAttachRequest holds that what is taken is one request within its bounds, and
// the same one when it is written again.
func FuzzAttachRequest(f *testing.F) {
	for _, text := range []string{
		`{"hello":{"version":1,"site":":8080"}}`, `{"hello":{"version":9}}`,
		`{"seal":{"name":"A","value":"c2s=","hosts":["h.test"]}}`,
		`{"serve":{"sockets":[{"role":"proxy","network":"tcp"}]}}`, `{"serve":{}} `, `{"serve":null}`, `{}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := parseAttachRequest(text)
		if err != nil {
			if !reflect.DeepEqual(r, attachRequest{}) {
				t.Fatalf("got %v with an error, want nothing", r)
			}
			return
		}
		members := reflect.ValueOf(r)
		present := 0
		for i := range members.NumField() {
			if !members.Field(i).IsNil() {
				present++
			}
		}
		if present != 1 || r.Seal != nil && len(r.Seal.Hosts) > maxAttachHosts || r.Serve != nil && len(r.Serve.Sockets) > maxAttachSockets {
			t.Fatalf("got %d requests out of bounds, want one", present)
		}
		written, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		again, err := parseAttachRequest(written)
		if err != nil {
			t.Fatalf("written again: %v", err)
		}
		rewritten, _ := json.Marshal(again)
		if string(rewritten) != string(written) {
			t.Fatalf("got %s when written again, want %s", rewritten, written)
		}
	})
}
