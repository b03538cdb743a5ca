package isolation

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// steadyMode makes the test binary a program that lives in a namespace: until its
// standard input ends it asks for a URL again and again, in HTTP/1.1 and HTTP/2,
// while one long request sends a body piece by piece in each.
const steadyMode = "steady"

func steady(target string) error {
	input := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(input)
	}()
	results := make(chan error)
	for _, http2 := range []bool{false, true} {
		transport, err := stubbornTransport()
		if err != nil {
			return err
		}
		if !http2 {
			transport.ForceAttemptHTTP2, transport.TLSNextProto = false, map[string]func(string, *tls.Conn) http.RoundTripper{}
		}
		client := &http.Client{Transport: transport}
		go func() { results <- askUntil(input, client, target) }()
		go func() { results <- sendUntil(input, client, target) }()
	}
	var failed error
	for range 4 {
		failed = errors.Join(failed, <-results)
	}
	return failed
}

// askUntil asks over and over, on connections that are kept.
func askUntil(end <-chan struct{}, client *http.Client, target string) error {
	for asked := 0; ; asked++ {
		select {
		case <-end:
			fmt.Printf("asked %d times\n", asked)
			return nil
		default:
		}
		if err := exchange(client, http.MethodGet, target, nil); err != nil {
			return fmt.Errorf("request %d: %w", asked, err)
		}
	}
}

// sendUntil is one request, whose body ends when end is closed.
func sendUntil(end <-chan struct{}, client *http.Client, target string) error {
	reader, writer := io.Pipe()
	go func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				if _, err := writer.Write(bytes.Repeat([]byte("x"), 1000)); err != nil {
					return
				}
			case <-end:
				writer.Close()
				return
			}
		}
	}()
	if err := exchange(client, http.MethodPost, target, reader); err != nil {
		return fmt.Errorf("the long request: %w", err)
	}
	return nil
}

func exchange(client *http.Client, method, target string, body io.Reader) error {
	r, err := http.NewRequest(method, target, body)
	if err != nil {
		return err
	}
	r.Header.Set("X-Key", os.Getenv("API_KEY"))
	response, err := client.Do(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return errors.New(response.Status)
	}
	return nil
}

// resident starts a program in the namespace, and returns what ends it and tells
// what it noticed.
func (w *world) resident(t *testing.T, bundle string, token []byte) (end func()) {
	t.Helper()
	cmd := exec.Command("ip", "netns", "exec", "starpod-ns", w.attacker, steadyMode, "https://"+apiName+"/")
	cmd.Env = append(os.Environ(), "SSL_CERT_FILE="+bundle, "API_KEY="+strings.TrimSpace(string(token)))
	input, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		input.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("a program in the namespace noticed the reloads: %v\n%s", err, &out)
		}
		t.Logf("%s", &out)
	}
}
