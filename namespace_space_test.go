package starpod

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// newSpaceSocket is a space whose one socket is on loopback, with programs led to
// it already.
func newSpaceSocket(t *testing.T) (*space, *spaceSocket) {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	port := netip.MustParseAddrPort(listener.Addr().String()).Port()
	socket := &spaceSocket{Listener: listener, port: port}
	s := &space{sockets: map[uint16]*spaceSocket{port: socket}, led: port}
	s.serve(socket)
	return s, socket
}

// newGeneration is what a configuration listens on.
func (s *space) newGeneration(socket *spaceSocket) *handedListener {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.generation(socket)
}

// greet answers connections until the listener is closed.
func greet(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		fmt.Fprint(conn, "hello")
		conn.Close()
	}
}

// TestReloadsLoseNoConnection dials while one configuration replaces another.
func TestReloadsLoseNoConnection(t *testing.T) {
	s, socket := newSpaceSocket(t)
	current := s.newGeneration(socket)
	go greet(current)
	var stop atomic.Bool
	failed := make(chan error, 4)
	for range cap(failed) {
		go func() {
			for !stop.Load() {
				if err := dialForGreeting(t.Context(), socket.Addr().String()); err != nil {
					failed <- err
					return
				}
			}
			failed <- nil
		}()
	}
	for range 1000 {
		next := s.newGeneration(socket)
		go greet(next)
		if err := current.Close(); err != nil {
			t.Fatalf("closing the listener before: %v", err)
		}
		current = next
	}
	stop.Store(true)
	for range cap(failed) {
		if err := <-failed; err != nil {
			t.Errorf("got %v, want every connection answered", err)
		}
	}
	if err := current.Close(); err != nil {
		t.Errorf("closing the last listener: %v", err)
	}
	if err := dialForGreeting(t.Context(), socket.Addr().String()); err == nil {
		t.Error("got an answer after the last listener closed, want the socket closed")
	}
}

func dialForGreeting(ctx context.Context, address string) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp4", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	got, err := io.ReadAll(conn)
	if err == nil && string(got) != "hello" {
		return fmt.Errorf("got %q, want hello", got)
	}
	return err
}

// TestClosedListener ends whoever accepts, and may be closed again.
func TestClosedListener(t *testing.T) {
	s, socket := newSpaceSocket(t)
	l := s.newGeneration(socket)
	ended := make(chan error)
	go func() { _, err := l.Accept(); ended <- err }()
	for range 2 {
		if err := l.Close(); err != nil {
			t.Errorf("closing: %v", err)
		}
	}
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("accepting: got %v, want net.ErrClosed", err)
	}
}

// TestReloadsLoseNoRequest asks on new connections while one server replaces another.
// An http.Server closes those whose first request it reads as it shuts down.
func TestReloadsLoseNoRequest(t *testing.T) {
	s, socket := newSpaceSocket(t)
	var served, shutting sync.WaitGroup
	serve := func() *http.Server {
		l := s.newGeneration(socket)
		server := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(w, r.Body)
		})}
		served.Go(func() { _ = server.Serve(l) })
		return server
	}
	current := serve()
	var asking sync.WaitGroup
	for range 4 {
		asking.Go(func() {
			for range 100 {
				if err := postForEcho("http://"+socket.Addr().String()+"/", "hello"); err != nil {
					t.Errorf("got %v, want every request answered", err)
				}
			}
		})
	}
	asked := make(chan struct{})
	go func() { asking.Wait(); close(asked) }()
	for asking := true; asking; {
		before := current
		current = serve()
		shutting.Go(func() { _ = before.Shutdown(t.Context()) })
		select {
		case <-asked:
			asking = false
		case <-time.After(time.Millisecond): // about as long as a request takes
		}
	}
	if err := current.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	shutting.Wait()
	served.Wait()
}

// postForEcho makes a request that nobody repeats by themselves, on a connection of its own.
func postForEcho(target, body string) error {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Post(target, "text/plain", strings.NewReader(body))
	if err != nil {
		return err
	}
	defer response.Body.Close()
	got, err := io.ReadAll(response.Body)
	if err == nil && string(got) != body {
		return fmt.Errorf("got %q, want %q", got, body)
	}
	return err
}
