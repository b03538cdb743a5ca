package starpod

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// metrics reads the series of this module from the admin endpoint.
func (s *site) metrics() map[string]string {
	s.t.Helper()
	_, body := s.get(http.DefaultClient, fmt.Sprintf("http://localhost:%d/metrics", s.admin))
	if found := testbench.FindSecret([]byte(body), canary); len(found) > 0 {
		s.t.Errorf("the metrics hold the value as %v", found)
	}
	series := map[string]string{}
	for line := range strings.Lines(body) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && strings.HasPrefix(name, "caddy_starpod_") {
			series[name] = value
		}
	}
	return series
}

// TestMetrics counts one of each, and makes no series for anything a client sends.
func TestMetrics(t *testing.T) {
	s := startSite(t, siteLines{})
	client := s.client()
	foreign := testbench.Seal(t, []byte(strings.Repeat("f", 32)), canary)
	s.get(client, s.target("/"), "X-Key", s.token("127.0.0.1"), "X-Other", s.token("elsewhere.test"), "X-Foreign", foreign)
	s.get(client, "http://10.1.2.3/")
	s.get(client, fmt.Sprintf("http://127.0.0.1:%d/", s.port))
	s.get(client, fmt.Sprintf("http://127.0.0.1:%d/", s.admin))
	got := s.awaitMetrics(map[string]string{
		`caddy_starpod_tokens_total{action="replace"}`:           "1",
		`caddy_starpod_tokens_total{action="strip"}`:             "1",
		`caddy_starpod_tokens_total{action="undecodable"}`:       "1",
		`caddy_starpod_tokens_total{action="deny"}`:              "0",
		`caddy_starpod_connections_total{mode="intercept"}`:      "1",
		`caddy_starpod_connections_total{mode="tunnel"}`:         "0",
		`caddy_starpod_leaf_certificates_total{result="minted"}`: "1",
		`caddy_starpod_egress_refused_total{rule="egress"}`:      "1",
		`caddy_starpod_egress_refused_total{rule="self"}`:        "2",
		`caddy_starpod_request_duration_seconds_count`:           "1",
	})
	for i := range 100 {
		s.get(client, fmt.Sprintf("http://10.1.%d.3:%d/%d", i, 1000+i, i))
	}
	if after := s.metrics(); len(after) != len(got) {
		t.Errorf("a hundred hosts made %d series of %d", len(after), len(got))
	}
	s.load(siteLines{lines: "respond again 404"})
	s.get(s.client(), s.target("/"), "X-Key", s.token("127.0.0.1"))
	s.awaitMetrics(map[string]string{`caddy_starpod_tokens_total{action="replace"}`: "1"}) // of the new configuration
}

// awaitMetrics reads all series once these have the values wanted: a request is
// counted when it has been answered.
func (s *site) awaitMetrics(want map[string]string) (all map[string]string) {
	s.t.Helper()
	testbench.Await(s.t, 10*time.Second, func() error {
		all = s.metrics()
		for name, value := range want {
			if all[name] != value {
				return fmt.Errorf("got %s %s, want %s", name, all[name], value)
			}
		}
		return nil
	})
	return all
}

// TestPlaceholders reads them where operators do, in the access log.
func TestPlaceholders(t *testing.T) {
	log := filepath.Join(t.TempDir(), "access.log")
	lines := "log {\n output file " + log + "\n }\n"
	for _, name := range []string{"replaced", "stripped", "undecodable", "destination", "tier"} {
		lines += "log_append " + name + " {http.starpod." + name + "}\n"
	}
	s := startSite(t, siteLines{lines: lines + "respond ordinary 404"})
	foreign := testbench.Seal(t, []byte(strings.Repeat("f", 32)), canary)
	s.get(s.client(), s.target("/seen"), "X-Key", s.token("127.0.0.1"), "X-Other", s.token("elsewhere.test"), "X-Foreign", foreign)
	type entry struct {
		Request                               struct{ URI string } `json:"request"`
		Replaced, Stripped, Undecodable, Tier int
		Destination                           string
	}
	var got entry
	testbench.Await(t, 10*time.Second, func() error {
		text, err := os.ReadFile(log)
		if err != nil {
			return err
		}
		if found := testbench.FindSecret(text, canary); len(found) > 0 {
			t.Fatalf("the access log holds the value as %v", found)
		}
		for line := range strings.Lines(string(text)) {
			var e entry
			if json.Unmarshal([]byte(line), &e) == nil && strings.HasSuffix(e.Request.URI, "/seen") {
				got = e
				return nil
			}
		}
		return fmt.Errorf("no line for the request in %s", text)
	})
	if got.Replaced != 1 || got.Stripped != 1 || got.Undecodable != 1 || got.Tier != 0 || got.Destination != strings.TrimSuffix(s.target(""), "/") {
		t.Errorf("got %+v, want one token of each kind towards %s", got, s.target(""))
	}
}
