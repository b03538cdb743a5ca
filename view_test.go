package starpod

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// TestViewAnswers asks for the page and what is in it, on the admin endpoint and on
// a site, and for what neither serves.
func TestViewAnswers(t *testing.T) {
	port := testbench.FreePort(t)
	s := startSite(t, siteLines{lines: fmt.Sprintf("respond ordinary 404\n}\nhttp://:%d {\n bind 127.0.0.1\n starpod_view /view/*\n respond ordinary 404", port)})
	admin, site := fmt.Sprintf("http://localhost:%d", s.admin), fmt.Sprintf("http://127.0.0.1:%d", port)
	for _, test := range []struct {
		name, method, url string
		status            int
		kind              string
	}{
		{"the page, admin", "GET", admin + "/starpod/", 200, "text/html; charset=utf-8"},
		{"the page, site", "GET", site + "/view/", 200, "text/html; charset=utf-8"},
		{"the status, site", "GET", site + "/view/status", 200, "application/json"},
		{"the events, site", "GET", site + "/view/events", 200, "text/event-stream"},
		{"a number that is none", "GET", site + "/view/events?replay=x", 400, ""},
		{"another path", "GET", site + "/view/other", 404, "text/plain; charset=utf-8"},
		{"outside its path", "GET", site + "/status", 404, "text/plain; charset=utf-8"},
		{"another path of admin", "GET", admin + "/starpod/other", 404, ""},
		{"a method, admin", "POST", admin + "/starpod/", 405, ""},
		{"a method, page", "POST", site + "/view/", 405, ""},
		{"a method, status", "PUT", site + "/view/status", 405, ""},
		{"a method, events", "HEAD", site + "/view/events", 405, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, err := http.NewRequestWithContext(t.Context(), test.method, test.url, nil)
			if err != nil {
				t.Fatal(err)
			}
			response, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			if got := response.Header.Get("Content-Type"); response.StatusCode != test.status || test.kind != "" && got != test.kind {
				t.Errorf("got %d %s, want %d %s", response.StatusCode, got, test.status, test.kind)
			}
			policy := response.Header.Get("Content-Security-Policy")
			if page := strings.HasPrefix(test.name, "the page"); page != strings.HasPrefix(policy, "default-src 'none'; style-src 'sha256-") || strings.Contains(policy, "unsafe") {
				t.Errorf("got policy %q", policy)
			}
		})
	}
}

// TestViewIsNotForClients: a request on its way through a proxy, which `egress next`
// hands on, is not for the view that stands behind it.
func TestViewIsNotForClients(t *testing.T) {
	s := startSite(t, siteLines{egress: "next", lines: "starpod_view\nrespond \"from the host\""})
	for _, path := range []string{"/", "/status", "/events"} {
		if _, body := s.get(s.client(), s.target(path)); body != "from the host" {
			t.Errorf("%s: got %.80q, want what the route of the site says", path, body)
		}
	}
}

// TestViewStream reads events over HTTP/1.1 and HTTP/2, to the end of the server in
// a reload, and goes on where it was.
func TestViewStream(t *testing.T) {
	for _, protocol := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(protocol, func(t *testing.T) {
			port := testbench.FreePort(t)
			lines := siteLines{lines: fmt.Sprintf("respond ordinary 404\n}\nhttps://:%d {\n bind 127.0.0.1\n tls {\n get_certificate starpod\n }\n starpod_view", port)}
			s := startSite(t, lines)
			transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.bundle()}, Protocols: new(http.Protocols)}
			transport.Protocols.SetHTTP1(protocol == "HTTP/1.1")
			transport.Protocols.SetHTTP2(protocol == "HTTP/2.0")
			defer transport.CloseIdleConnections()
			watch := func(after string) *bufio.Scanner {
				r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf("https://127.0.0.1:%d/events", port), nil)
				if err != nil {
					t.Fatal(err)
				}
				if after != "" {
					r.Header.Set("Last-Event-ID", after)
				}
				response, err := transport.RoundTrip(r)
				if err != nil || response.Proto != protocol {
					t.Fatalf("got %v, %v, want an answer by %s", response, err, protocol)
				}
				t.Cleanup(func() { response.Body.Close() })
				return bufio.NewScanner(response.Body)
			}
			first := watch("")
			s.get(s.client(), "http://10.1.2.3/before")
			lastID := ""
			for first.Scan() && !strings.Contains(first.Text(), "/before") {
				if id, ok := strings.CutPrefix(first.Text(), "id: "); ok {
					lastID = id
				}
			}
			s.load(siteLines{lines: lines.lines + "\nheader X-Reloaded yes"})
			s.get(s.client(), "http://10.1.2.3/meanwhile")
			for first.Scan() { // ends with the configuration it is of
			}
			second := watch(lastID)
			var came []string
			for len(came) == 0 && second.Scan() {
				if data, ok := strings.CutPrefix(second.Text(), "data: "); ok {
					came = append(came, data)
				}
			}
			if !slices.ContainsFunc(came, func(data string) bool { return strings.Contains(data, "/meanwhile") }) {
				t.Errorf("after the reload: got %v, want what has come meanwhile", came)
			}
		})
	}
}
