package starpod

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/starpod/caddy-starpod/handler"
	"github.com/starpod/caddy-starpod/internal/testbench"
)

func init() { caddy.RegisterModule(new(subscriber)) }

// subscriber is a handler of Caddy's events app, as a plugin would be.
type subscriber struct{}

func (*subscriber) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.starpod_test", New: func() caddy.Module { return new(subscriber) }}
}

func (*subscriber) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	return nil
}

// subscribed is what the subscribers of this process do and have been told.
var subscribed struct {
	mu     sync.Mutex
	before func(caddy.Event) // may block or panic
	events []caddy.Event
}

// Handle implements caddyevents.Handler.
func (*subscriber) Handle(_ context.Context, e caddy.Event) error {
	subscribed.mu.Lock()
	before := subscribed.before
	subscribed.mu.Unlock()
	if before != nil {
		before(e)
	}
	subscribed.mu.Lock()
	defer subscribed.mu.Unlock()
	subscribed.events = append(subscribed.events, e)
	return nil
}

// subscribe begins anew.
func subscribe(before func(caddy.Event)) {
	subscribed.mu.Lock()
	defer subscribed.mu.Unlock()
	subscribed.before, subscribed.events = before, nil
}

// awaitEvents returns all events once there are n.
func awaitEvents(t *testing.T, n int) (events []caddy.Event) {
	t.Helper()
	testbench.Await(t, 10*time.Second, func() error {
		subscribed.mu.Lock()
		defer subscribed.mu.Unlock()
		if events = subscribed.events; len(events) < n {
			return fmt.Errorf("got %d events, want %d", len(events), n)
		}
		return nil
	})
	return events
}

const allEvents = "events {\n on starpod.token_stripped starpod_test\n on starpod.egress_refused starpod_test\n on starpod.namespace_lost starpod_test\n }"

// TestEvents reads each event back in a subscriber, across a reload.
func TestEvents(t *testing.T) {
	subscribe(nil)
	log := filepath.Join(t.TempDir(), "debug.log")
	s := startSite(t, siteLines{global: allEvents + "\nlog {\n level DEBUG\n output file " + log + "\n }"})
	name := s.named("DEPLOY_KEY", "elsewhere.test")
	s.get(s.client(), s.target("/seen/"+name), "X-Key", s.token("127.0.0.1"))
	s.get(s.client(), "http://10.1.2.3/x")
	records.publish(handler.Record{Kind: handler.KindNamespaceLost, Namespace: "starpod-ns", Reason: "gone", Mend: "restart"})
	destination := s.target("")
	for i, want := range []struct {
		name string
		data map[string]any
	}{
		{"starpod.token_stripped", map[string]any{"destination": destination, "method": "GET", "status": 200, "name": "DEPLOY_KEY", "place": "path", "reason": "host"}},
		{"starpod.egress_refused", map[string]any{"destination": "http://10.1.2.3", "method": "GET", "path": "/x", "status": 403, "rule": "egress"}},
		{"starpod.namespace_lost", map[string]any{"name": "starpod-ns", "reason": "gone", "mend": "restart"}},
	} {
		got := awaitEvents(t, i+1)[i]
		if got.Name() != want.name || got.Origin().CaddyModule().ID != "starpod" {
			t.Errorf("event %d: got %s of %v, want %s of starpod", i, got.Name(), got.Origin(), want.name)
		}
		for key, value := range want.data {
			if got.Data[key] != value {
				t.Errorf("%s: got %s %v, want %v", want.name, key, got.Data[key], value)
			}
		}
		text, err := json.Marshal(got.CloudEvent())
		if err != nil {
			t.Fatal(err)
		}
		text = fmt.Appendf(text, "%+v", got.Data)
		if found := testbench.FindSecret(text, canary); len(found) > 0 || bytes.Contains(text, []byte("starpod:v1")) {
			t.Errorf("%s holds the value (%v) or a token: %s", want.name, found, text)
		}
	}
	tellsNothing(t, log)
	for range 3 {
		s.load(siteLines{global: allEvents})
	}
	s.get(s.client(), s.target("/again"), "X-Key", s.token("elsewhere.test"))
	awaitEvents(t, 4)
	s.get(s.client(), "http://10.1.2.4/last")
	if got := awaitEvents(t, 5); len(got) != 5 || got[4].Data["path"] != "/last" {
		t.Errorf("after reloads: got %d events, want one for each thing", len(got)-3)
	}
}

// tellsNothing reads a log of all levels: no value in it, and no token where events
// and audit lines are.
func tellsNothing(t *testing.T, log string) {
	t.Helper()
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	if found := testbench.FindSecret(text, canary); len(found) > 0 {
		t.Errorf("the log holds the value as %v", found)
	}
	told := 0
	for line := range strings.Lines(string(text)) {
		if !strings.Contains(line, `"logger":"events"`) && !strings.Contains(line, `.audit"`) {
			continue
		}
		told++
		if strings.Contains(line, "starpod:v1") {
			t.Errorf("got a token in %s", line)
		}
	}
	if told < 5 {
		t.Errorf("got %d lines of events and of the audit log, want at least one of each", told)
	}
}

// TestSlowSubscriber holds up no request, and is told how much it missed.
func TestSlowSubscriber(t *testing.T) {
	held := make(chan struct{})
	subscribe(func(caddy.Event) { <-held })
	s := startSite(t, siteLines{global: allEvents})
	client := s.client()
	s.get(client, "http://10.1.2.3/first")
	for i := range maxRecords + 500 {
		records.publish(handler.Record{Kind: handler.KindRefused, Rule: handler.RuleEgress, Path: fmt.Sprint(i)})
	}
	if response, _ := s.get(client, "http://10.1.2.3/last"); response.StatusCode != http.StatusForbidden {
		t.Errorf("got %d, want an answer while the subscriber is held", response.StatusCode)
	}
	close(held)
	missed := 0
	testbench.Await(t, 10*time.Second, func() error {
		events := awaitEvents(t, 2)
		if events[len(events)-1].Data["path"] != "/last" {
			return fmt.Errorf("got %d events, want the last", len(events))
		}
		missed = 0
		for _, e := range events {
			if n, ok := e.Data["missed"].(int); ok {
				missed += n
			}
		}
		if missed+len(events) != maxRecords+502 {
			return fmt.Errorf("got %d events and %d missed, want %d together", len(events), missed, maxRecords+502)
		}
		return nil
	})
	if missed == 0 {
		t.Error("got none missed, want more than are kept to be")
	}
}

// TestPanickingSubscriber does not end the server.
func TestPanickingSubscriber(t *testing.T) {
	subscribe(func(e caddy.Event) {
		if e.Data["path"] == "/bad" {
			panic("a plugin's mistake")
		}
	})
	s := startSite(t, siteLines{global: allEvents})
	s.get(s.client(), "http://10.1.2.3/bad")
	s.get(s.client(), "http://10.1.2.3/good")
	if got := awaitEvents(t, 1)[0].Data["path"]; got != "/good" {
		t.Errorf("got an event of %v, want the one behind the panic", got)
	}
}
