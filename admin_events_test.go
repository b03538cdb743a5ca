package starpod

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap/zapcore"

	"github.com/starpod/caddy-starpod/handler"
	"github.com/starpod/caddy-starpod/internal/testbench"
	"github.com/starpod/caddy-starpod/tokens"
)

// named is a token of a secret with a name.
func (s *site) named(name string, hosts ...string) string {
	s.t.Helper()
	key, err := tokens.NewKey(s.key)
	if err != nil {
		s.t.Fatal(err)
	}
	token, err := tokens.NewKeyring(key).Seal(tokens.Secret{Value: canary, Hosts: hosts, Name: name})
	if err != nil {
		s.t.Fatal(err)
	}
	return token
}

// watching is a client of GET /starpod/events.
type watching struct {
	t       *testing.T
	records chan handler.Record
	ended   chan error
	close   func()
}

// watch opens a stream, and fails the test if it is ever told a value or a token.
func (s *site) watch(query, after string) *watching {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, s.events(query), nil)
	if err != nil {
		s.t.Fatal(err)
	}
	if after != "" {
		r.Header.Set("Last-Event-ID", after)
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	if got := response.Header.Get("Content-Type"); response.StatusCode != 200 || got != "text/event-stream" {
		s.t.Fatalf("got %d %s, want an event stream", response.StatusCode, got)
	}
	w := &watching{
		t: s.t, records: make(chan handler.Record, 2*maxRecords), ended: make(chan error, 1),
		close: func() { response.Body.Close() },
	}
	s.t.Cleanup(w.close)
	go func() {
		w.ended <- readEvents(response.Body, func(line eventLine) error {
			if line.record != nil {
				w.records <- *line.record
			}
			return nil
		})
	}()
	return w
}

func (s *site) events(query string) string {
	return fmt.Sprintf("http://localhost:%d/starpod/events%s", s.admin, query)
}

// next returns the next record.
func (w *watching) next() handler.Record {
	w.t.Helper()
	select {
	case r := <-w.records:
		text := fmt.Sprintf("%+v", r)
		if found := testbench.FindSecret([]byte(text), canary); len(found) > 0 || strings.Contains(text, "starpod:v1") {
			w.t.Errorf("the record %s holds the value (%v) or a token", text, found)
		}
		return r
	case err := <-w.ended:
		w.t.Fatalf("the stream has ended: %v", err)
	case <-time.After(10 * time.Second):
		w.t.Fatal("no record came")
	}
	return handler.Record{}
}

// TestEventStream follows what happens through reloads on one connection, and
// replays it to who comes later.
func TestEventStream(t *testing.T) {
	s := startSite(t, siteLines{})
	w := s.watch("", "")
	client := s.client()
	s.get(client, s.target("/without"))
	s.get(client, s.target("/a/"+s.named("DEPLOY_KEY", "127.0.0.1")+"?q=1"), "X-Other", s.token("elsewhere.test"))
	first := w.next()
	if first.Kind != handler.KindTokens || first.Level != zapcore.WarnLevel || first.Message != "tokens not replaced" ||
		first.Destination != s.target("") || first.Method != "GET" || first.Status != 200 || first.Client == "" ||
		!strings.HasPrefix(first.Path, "/a/⟨token ") || time.Since(first.Time) > time.Minute {
		t.Errorf("got %+v, want all there is to say of the request", first)
	}
	replaced := handler.TokenRecord{ID: first.Tokens[0].ID, Name: "DEPLOY_KEY", Place: "path", Action: "replace"}
	stripped := handler.TokenRecord{ID: first.Tokens[1].ID, Place: "header", Action: "strip", Reason: "host"}
	if first.Tokens[0] != replaced || first.Tokens[1] != stripped || len(first.Tokens) != 2 || len(replaced.ID) != 8 {
		t.Errorf("got tokens %+v, want %+v and %+v", first.Tokens, replaced, stripped)
	}
	for i := range 3 {
		s.load(siteLines{lines: fmt.Sprintf("respond %d 404", i)})
	}
	s.get(s.client(), "http://10.1.2.3/after")
	if got := w.next(); got.Kind != handler.KindRefused || got.Path != "/after" || got.Rule != handler.RuleEgress || got.Mend == "" || got.Reason == "" {
		t.Errorf("after reloads: got %+v, want the refusal with what to do", got)
	}
	for _, late := range []*watching{s.watch("?replay=2", ""), s.watch("", previous(t, first.ID))} {
		if got := late.next(); got.ID != first.ID {
			t.Errorf("replay: got record %s, want %s", got.ID, first.ID)
		}
		if got := late.next(); got.Path != "/after" {
			t.Errorf("replay: got %+v, want the record behind it", got)
		}
	}
}

// previous is the ID of the record before.
func previous(t *testing.T, id string) string {
	t.Helper()
	var n int
	epoch, number, _ := strings.Cut(id, "-")
	if _, err := fmt.Sscan(number, &n); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%s-%d", epoch, n-1)
}

// TestEventStreamRefuses what it does not serve, by Caddy's checks and its own.
func TestEventStreamRefuses(t *testing.T) {
	s := startSite(t, siteLines{})
	for _, test := range []struct {
		name, method, query, origin, host string
		want                              int
	}{
		{"another method", http.MethodPost, "", "", "", 405},
		{"a number that is none", http.MethodGet, "?replay=x", "", "", 400},
		{"another origin", http.MethodGet, "", "http://evil.test", "", 403},
		{"another host", http.MethodGet, "", "", "evil.test", 403},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, err := http.NewRequestWithContext(t.Context(), test.method, s.events(test.query), nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Host = test.host
			if test.origin != "" {
				r.Header.Set("Origin", test.origin)
			}
			response, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			response.Body.Close()
			if response.StatusCode != test.want {
				t.Errorf("got %d, want %d", response.StatusCode, test.want)
			}
		})
	}
}

// TestEventStreamIsBounded: those who have left make room.
func TestEventStreamIsBounded(t *testing.T) {
	s := startSite(t, siteLines{})
	streams := make([]*watching, maxReaders)
	for i := range streams {
		streams[i] = s.watch("", "")
	}
	if response, body := s.get(http.DefaultClient, s.events("")); response.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("one more: got %d %s, want 503", response.StatusCode, body)
	}
	streams[0].close()
	testbench.Await(t, 10*time.Second, func() error {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.events(""), nil)
		if err != nil {
			return err
		}
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			return err
		}
		response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return errors.New("its place is not free")
		}
		return nil
	})
}

// TestSlowWatcher: a client that does not read holds nobody up, and is told what it
// missed when it does.
func TestSlowWatcher(t *testing.T) {
	s := startSite(t, siteLines{})
	response, err := http.Get(s.events(""))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	const published = 30_000
	path := strings.Repeat("x", 500) // more than sockets hold, together
	for range published {
		records.publish(handler.Record{Kind: handler.KindRefused, Path: path})
	}
	started := time.Now()
	s.get(s.client(), "http://10.1.2.3/last")
	if took := time.Since(started); took > 5*time.Second {
		t.Errorf("a request took %v while a watcher did not read", took)
	}
	errLast := errors.New("the last has come")
	got, missed := 0, 0
	err = readEvents(response.Body, func(line eventLine) error {
		switch r := line.record; {
		case r == nil:
		case r.Kind == handler.KindMissed:
			missed += r.Missed
		case r.Path == "/last":
			return errLast
		default:
			got++
		}
		return nil
	})
	if !errors.Is(err, errLast) || missed == 0 || got+missed != published {
		t.Errorf("got %d records and %d missed (%v), want some missed and %d together", got, missed, err, published)
	}
}
