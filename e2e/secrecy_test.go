//go:build linux

package e2e

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// everywhere puts the token into each place where it is looked for.
func everywhere(t *testing.T, target, token string) *http.Request {
	t.Helper()
	body, err := json.Marshal(map[string]string{"key": token})
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost,
		target+"/bot"+url.PathEscape(token)+"/send?key="+url.QueryEscape(token), strings.NewReader(string(body)))
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth("user", token)
	req.Header.Set("X-Key", token)
	req.Header.Set("Cookie", "session="+token)
	req.Header.Set("Content-Type", "application/json")
	return req
}

func TestNoValueIsWrittenAnywhereAtDebug(t *testing.T) {
	t.Parallel()
	pki := testbench.NewPKI(t)
	s := startServer(t, raceBinary(t), pki, "debug", "")
	value := newValue()
	token := s.seal(t, value, testbench.APIHost)
	client := &http.Client{Transport: s.transport(t, nil)}

	good := testbench.NewUpstream(t, pki)
	wrong := testbench.NewUpstream(t, pki)
	resets := testbench.NewUpstreamWith(t, pki.Leaf(t), "http/1.1")
	resets.Handle("/", testbench.Reset())
	garbage := testbench.NewUpstreamWith(t, pki.Leaf(t), "http/1.1")
	garbage.Handle("/", testbench.Raw("what is this\r\n\r\n"))
	badCertificate := testbench.NewUpstreamWith(t, testbench.NewPKI(t).Leaf(t))
	refused := fmt.Sprintf("%s:%d", testbench.APIHost, testbench.FreePort(t))
	for _, test := range []struct {
		name, target string
		status       int
		received     *testbench.Upstream // which gets the value; nil for none
	}{
		{"the right host", good.URL(testbench.APIHost), 200, good},
		{"the same over http", good.PlainURL(testbench.APIHost), 200, good},
		{"the wrong host", wrong.URL(testbench.EvilHost), 200, nil},
		{"a connection that is refused", "https://" + refused, 502, nil},
		{"the same over http", "http://" + refused, 502, nil},
		{"a certificate nobody trusts", badCertificate.URL(testbench.APIHost), 502, nil},
		{"a reset", resets.URL(testbench.APIHost), 502, resets},
		{"a reset over http", resets.PlainURL(testbench.APIHost), 502, resets},
		{"an answer that is not HTTP", garbage.URL(testbench.APIHost), 502, garbage},
		{"a name that is not known", "https://unknown.starpod.test", 502, nil},
	} {
		status, answer := send(t, client, everywhere(t, test.target, token))
		if status != test.status {
			t.Errorf("%s: got %d %q, want %d", test.name, status, answer, test.status)
		}
		if forms := testbench.FindSecret([]byte(answer), value); len(forms) > 0 {
			t.Errorf("%s: the answer holds the value as %v:\n%s", test.name, forms, answer)
		}
		if test.received != nil {
			checkEverywhere(t, test.name, test.received.Last(t), value)
		}
	}
	received(t, wrong, outcome{stderr: s.log.tail()})
	checkGotNothing(t, wrong, value)
	if n := badCertificate.Received(); n != 0 {
		t.Errorf("certificate nobody trusts: got %d bytes, want none", n)
	}
	for _, path := range []string{"/config/", "/metrics", "/starpod/status", "/debug/vars", "/debug/pprof/cmdline"} {
		s.holdsNo(t, "GET "+path, s.get(t, path), value)
	}
	s.Stop(t) // so that everything is written
	s.wroteNo(t, value)
}

// send returns the status and the body of the answer. A refused CONNECT is an
// error in net/http whose text is the status line.
func send(t *testing.T, client *http.Client, req *http.Request) (int, string) {
	t.Helper()
	resp, err := client.Do(req)
	if err != nil {
		var refusal *url.Error
		if errors.As(err, &refusal) && strings.HasSuffix(err.Error(), http.StatusText(http.StatusBadGateway)) {
			return http.StatusBadGateway, ""
		}
		t.Fatalf("sending: %v", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Errorf("reading the answer: %v", err)
	}
	var text strings.Builder
	resp.Header.Write(&text)
	text.Write(body)
	return resp.StatusCode, text.String()
}

// checkEverywhere wants the value in each place: what is looked for below must
// have been there.
func checkEverywhere(t *testing.T, name string, got *testbench.Request, value string) {
	t.Helper()
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte("user:"+value))
	if got.Header.Get("Authorization") != basic || got.Header.Get("X-Key") != value || got.Header.Get("Cookie") != "session="+value {
		t.Errorf("%s: headers: got %v, want the value in Authorization, X-Key and Cookie", name, got.Header)
	}
	query, err := url.ParseQuery(got.RawQuery)
	if err != nil || query.Get("key") != value {
		t.Errorf("%s: query: got %q (%v), want the value", name, got.RawQuery, err)
	}
	path, err := url.PathUnescape(got.Path)
	if err != nil || path != "/bot"+value+"/send" {
		t.Errorf("%s: path: got %q (%v), want the value", name, got.Path, err)
	}
	checkBody(t, got, value)
}

// wroteNo wants the value neither in the log nor in any file of the server: the
// access log, autosave.json, the storage.
func (s *server) wroteNo(t *testing.T, value string) {
	t.Helper()
	s.holdsNo(t, "standard error", []byte(s.log.String()), value)
	seen := map[string]bool{}
	err := filepath.WalkDir(s.Dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		seen[entry.Name()] = len(content) > 0
		if entry.Name() != "key" {
			s.holdsNo(t, path, content, value)
		}
		return nil
	})
	if err != nil || !seen["access.log"] || !seen["autosave.json"] || !strings.Contains(s.log.String(), "DEBUG") &&
		!strings.Contains(s.log.String(), `"level":"debug"`) {
		t.Errorf("searched %v (%v), want an access log, autosave.json and a log at DEBUG among them", seen, err)
	}
}

// holdsNo wants neither the value nor the master key in a text.
func (s *server) holdsNo(t *testing.T, name string, text []byte, value string) {
	t.Helper()
	if forms := testbench.FindSecret(text, value); len(forms) > 0 {
		t.Errorf("%s holds the value as %v", name, forms)
	}
	if forms := testbench.FindSecret(text, string(s.Key)); len(forms) > 0 {
		t.Errorf("%s holds the master key as %v", name, forms)
	}
}
