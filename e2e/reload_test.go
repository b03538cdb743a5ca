//go:build linux

package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

const reloads = 100

// Not parallel: it counts what the process holds.
func TestReloadsUnderLoad(t *testing.T) {
	pki := testbench.NewPKI(t)
	upstream := testbench.NewUpstream(t, pki)
	s := startServer(t, plainBinary(t), pki, "", "")
	token := s.seal(t, newValue(), testbench.APIHost)
	over := streaming(upstream)
	h1, h2 := only((*http.Protocols).SetHTTP1), only((*http.Protocols).SetHTTP2)

	stop := s.load(t, upstream, token)
	s.reload(t)
	stop()
	s.reload(t) // lets go of what is kept alive
	before := settled(t, s)

	var busy []*download
	for _, protocols := range []*http.Protocols{h1, h2} {
		for _, base := range []string{upstream.URL(testbench.APIHost), upstream.PlainURL(testbench.APIHost)} {
			if protocols == h2 && strings.HasPrefix(base, "http:") {
				continue
			}
			busy = append(busy, startDownload(t, s.transport(t, protocols), base+"/stream", token))
		}
	}
	stop = s.load(t, upstream, token)
	for range reloads {
		s.reload(t)
	}
	if n := stop(); n < reloads {
		t.Errorf("got %d requests while reloading, want %d at least", n, reloads)
	}
	for _, d := range busy {
		d.checkAlive(t)
	}
	close(over)
	for _, d := range busy {
		d.checkEnd(t)
	}
	s.reload(t)
	var after load
	testbench.Await(t, time.Minute, func() error {
		after = loadOf(t, s)
		switch {
		case after.goroutines > before.goroutines+5:
			return fmt.Errorf("goroutines: got %d, want %d\n%s", after.goroutines, before.goroutines, s.get(t, "/debug/pprof/goroutine?debug=1"))
		case after.FDs > before.FDs+5:
			return fmt.Errorf("descriptors: got %d, want %d", after.FDs, before.FDs)
		}
		return nil
	})
	t.Logf("before %+v, after %d reloads %+v", before, reloads, after)
}

// load sends requests of each kind until it is stopped, which tells how many there
// were. Every one has to be answered.
func (s *server) load(t *testing.T, upstream *testbench.Upstream, token string) (stop func() int64) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var workers sync.WaitGroup
	var done atomic.Int64
	for _, protocols := range []*http.Protocols{only((*http.Protocols).SetHTTP1), only((*http.Protocols).SetHTTP2)} {
		for _, fresh := range []bool{false, true} { // a tunnel for each request
			transport := s.transport(t, protocols)
			transport.DisableKeepAlives = fresh
			for _, method := range []string{http.MethodGet, http.MethodPost} {
				workers.Go(func() {
					client := &http.Client{Transport: transport}
					for ctx.Err() == nil && !t.Failed() {
						if err := s.once(ctx, client, method, upstream.URL(testbench.APIHost), token); err != nil {
							t.Errorf("%s, %s over %s, fresh %v: %v", time.Now().Format("05.000"), method, protocols, fresh, err)
						}
						done.Add(1)
					}
				})
			}
		}
	}
	workers.Go(func() {
		client := &http.Client{Transport: s.transport(t, only((*http.Protocols).SetHTTP1))}
		for ctx.Err() == nil && !t.Failed() {
			if err := s.once(ctx, client, http.MethodGet, upstream.PlainURL(testbench.APIHost), token); err != nil {
				t.Errorf("plain: %v", err)
			}
			done.Add(1)
		}
	})
	return func() int64 {
		cancel()
		workers.Wait()
		if t.Failed() {
			t.FailNow()
		}
		return done.Load()
	}
}

// once sends one request, and goes on with it when the load is stopped meanwhile.
func (s *server) once(ctx context.Context, client *http.Client, method, target, token string) error {
	time.Sleep(5 * time.Millisecond) // enough at a time, without taking the whole machine
	response, err := askFor(context.WithoutCancel(ctx), client, method, target, token)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if answer, err := io.ReadAll(response.Body); err != nil || response.StatusCode != http.StatusOK {
		return fmt.Errorf("got %d %.200s (%v), want 200", response.StatusCode, answer, err)
	}
	return nil
}

// askFor sends one request, and sends it again when it was dropped on its way to the
// proxy.
func askFor(ctx context.Context, client *http.Client, method, target, token string) (*http.Response, error) {
	body := ""
	if method == http.MethodPost {
		body = "key=" + token
	}
	var inside atomic.Bool // the tunnel was granted
	trace := &httptrace.ClientTrace{
		// Also of another connection, where one that was kept turns out to be closed.
		GetConn:           func(string) { inside.Store(false) },
		TLSHandshakeStart: func() { inside.Store(true) },
		GotConn:           func(httptrace.GotConnInfo) { inside.Store(strings.HasPrefix(target, "https:")) },
	}
	r, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, trace), method, target, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("X-Key", token)
	again := r.Clone(r.Context())
	response, err := client.Do(r)
	tries := 1
	for ; tries < mostTries && err != nil && !inside.Load() && dropped(err); tries++ {
		time.Sleep(20 * time.Millisecond) // as long as the old socket takes to be closed
		again.Body, _ = r.GetBody()
		response, err = client.Do(again)
	}
	if err != nil {
		return nil, fmt.Errorf("try %d, tunnel granted %v: %w", tries, inside.Load(), err)
	}
	return response, nil
}

// mostTries is for reloads without a pause between them, each of which may drop the
// same client.
const mostTries = 10

// dropped reports whether a connection ended that the proxy had not got yet. Caddy
// opens a socket for each configuration, and the kernel resets what has not been
// accepted when the older one is closed; and net/http drops a request that it reads
// of a new connection when Shutdown has begun. Neither is ours to mend. What is
// inside a tunnel has no such excuse.
func dropped(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET)
}

// streaming makes the upstream send a line now and then at /stream, until over is
// closed, and then "end".
func streaming(upstream *testbench.Upstream) (over chan struct{}) {
	over = make(chan struct{})
	upstream.HandleStream("/stream", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			fmt.Fprintln(w, "data: x")
			_ = http.NewResponseController(w).Flush()
			select {
			case <-tick.C:
			case <-r.Context().Done():
				return
			case <-over:
				fmt.Fprintln(w, "end")
				return
			}
		}
	}))
	return over
}

// download is an answer that takes as long as the test likes.
type download struct {
	name  string
	lines atomic.Int64
	ended chan struct{}
	last  string // what came last
	err   error
}

func startDownload(t *testing.T, transport *http.Transport, target, token string) *download {
	t.Helper()
	d := &download{name: fmt.Sprintf("%s over %s", target, transport.Protocols), ended: make(chan struct{})}
	response, err := askFor(t.Context(), &http.Client{Transport: transport}, http.MethodGet, target, token)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%s: got %v (%v), want 200", d.name, response, err)
	}
	go func() {
		defer close(d.ended)
		defer response.Body.Close()
		lines := bufio.NewScanner(response.Body)
		for lines.Scan() {
			d.last = lines.Text()
			d.lines.Add(1)
		}
		d.err = lines.Err()
	}()
	testbench.Await(t, 20*time.Second, func() error {
		if d.lines.Load() == 0 {
			return fmt.Errorf("%s: nothing has come", d.name)
		}
		return nil
	})
	return d
}

func (d *download) checkAlive(t *testing.T) {
	t.Helper()
	before := d.lines.Load()
	testbench.Await(t, 20*time.Second, func() error {
		if d.lines.Load() <= before {
			return fmt.Errorf("%s: nothing comes any more", d.name)
		}
		return nil
	})
}

func (d *download) checkEnd(t *testing.T) {
	t.Helper()
	select {
	case <-d.ended:
	case <-time.After(20 * time.Second):
		t.Fatalf("%s does not end", d.name)
	}
	if d.err != nil || d.last != "end" {
		t.Errorf("%s: got %q last (%v), want the end", d.name, d.last, d.err)
	}
}

// TestGracePeriod: when Caddy exits, a busy tunnel has the grace period to finish,
// and is cut then.
func TestGracePeriod(t *testing.T) {
	pki := testbench.NewPKI(t)
	for _, test := range []struct {
		name     string
		finishes bool
		least    time.Duration
		most     time.Duration
	}{
		{"what finishes", true, 500 * time.Millisecond, 10 * time.Second},
		{"what does not finish", false, 2 * time.Second, 12 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			upstream := testbench.NewUpstream(t, pki)
			s := startServer(t, plainBinary(t), pki, "grace_period 2s", "")
			over := streaming(upstream)
			var busy []*download
			for _, protocols := range []*http.Protocols{only((*http.Protocols).SetHTTP1), only((*http.Protocols).SetHTTP2)} {
				busy = append(busy, startDownload(t, s.transport(t, protocols), upstream.URL(testbench.APIHost)+"/stream", s.seal(t, newValue(), testbench.APIHost)))
			}
			s.reload(t) // one that was replaced is given the time as well
			busy = append(busy, startDownload(t, s.transport(t, only((*http.Protocols).SetHTTP1)), upstream.URL(testbench.APIHost)+"/stream", s.seal(t, newValue(), testbench.APIHost)))
			started := time.Now()
			if err := syscall.Kill(s.Pid, syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if test.finishes {
				time.AfterFunc(test.least, func() { close(over) })
			}
			select {
			case <-s.Ended():
			case <-time.After(test.most):
				t.Fatalf("caddy has not ended within %v", test.most)
			}
			if took := time.Since(started); took < test.least {
				t.Errorf("caddy ended after %v, want %v at least", took, test.least)
			}
			for _, d := range busy {
				if test.finishes {
					d.checkEnd(t)
					continue
				}
				<-d.ended
				if d.err == nil {
					t.Errorf("%s: got the end without an error, want one", d.name)
				}
			}
		})
	}
}

// TestKeyRotation: tokens of the key before open as long as it is named, and a key
// file that is replaced is taken up without a reload.
func TestKeyRotation(t *testing.T) {
	t.Parallel()
	pki := testbench.NewPKI(t)
	upstream := testbench.NewUpstream(t, pki)
	s := startServer(t, plainBinary(t), pki, "", "")
	client := &http.Client{Transport: s.transport(t, only((*http.Protocols).SetHTTP1))}
	sent := func(token string) string {
		t.Helper()
		if err := s.once(t.Context(), client, http.MethodGet, upstream.URL(testbench.APIHost), token); err != nil {
			t.Fatal(err)
		}
		return upstream.Last(t).Header.Get("X-Key")
	}
	oldValue, newValue, thirdValue := newValue(), newValue(), newValue()
	oldKey, newKey, thirdKey := s.Key, randomKey(), randomKey()
	oldToken := testbench.Seal(t, oldKey, oldValue, testbench.APIHost)
	newToken := testbench.Seal(t, newKey, newValue, testbench.APIHost)
	thirdToken := testbench.Seal(t, thirdKey, thirdValue, testbench.APIHost)

	write(t, s.Path("old"), oldKey)
	write(t, s.Path("key"), newKey)
	config, err := os.ReadFile(s.Path("Caddyfile"))
	if err != nil {
		t.Fatal(err)
	}
	both := strings.Replace(string(config), s.Path("key")+"\n", s.Path("key")+" "+s.Path("old")+"\n", 1)
	write(t, s.Path("Caddyfile"), []byte(both))
	s.reload(t)
	if got := sent(oldToken); got != oldValue {
		t.Errorf("after a reload: a token of the older key became %q, want its value", got)
	}
	if got := sent(newToken); got != newValue {
		t.Errorf("after a reload: a token of the newer key became %q, want its value", got)
	}
	seal := testbench.Command(t, plainBinary(t), "starpod", "seal", "--key-file", s.Path("key"), "--host", testbench.APIHost)
	seal.Stdin = strings.NewReader(newValue)
	sealed, err := seal.Output()
	if err != nil {
		t.Fatalf("sealing: %v", err)
	}
	if got := sent(strings.TrimSpace(string(sealed))); got != newValue {
		t.Errorf("a token sealed with the first file became %q, want its value", got)
	}

	write(t, s.Path("next"), thirdKey)
	if err := os.Rename(s.Path("next"), s.Path("key")); err != nil {
		t.Fatal(err)
	}
	testbench.Await(t, 30*time.Second, func() error {
		if got := sent(thirdToken); got != thirdValue {
			return fmt.Errorf("without a reload: a token of the new key became %q, want its value", got)
		}
		return nil
	})
	if got := sent(oldToken); got != oldValue {
		t.Errorf("without a reload: a token of the older key became %q, want its value", got)
	}
	if got := sent(newToken); got != newToken {
		t.Errorf("a token of a key that is gone became %q, want it left", got)
	}
	for name, key := range map[string][]byte{"old": oldKey, "new": newKey, "third": thirdKey} {
		if found := testbench.FindSecret([]byte(s.log.String()), string(key)); len(found) > 0 {
			t.Errorf("the log holds the %s key as %v", name, found)
		}
	}
}
