//go:build linux

package e2e

import (
	"encoding/json"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// visit shows the child's environment, then calls the right host and the wrong
// one with the client given as arguments.
const visit = `env && "$@" "$RIGHT_URL" && "$@" "$WRONG_URL"`

var tokenInEnv = regexp.MustCompile(`(?m)^API_TOKEN=starpod:v1:[A-Za-z0-9+/]+=*$`)

func TestClientsReachTheRightHostWithTheValueAndAnyOtherWithNothing(t *testing.T) {
	t.Parallel()
	pki := testbench.NewPKI(t)
	for _, client := range testbench.Clients(t) {
		schemes := []string{"https", "http"}
		if client.TunnelsHTTP {
			schemes = schemes[:1] // the other has a test of its own
		}
		for _, scheme := range schemes {
			t.Run(client.Name+" "+scheme, func(t *testing.T) {
				t.Parallel()
				visitBothHosts(t, pki, client, scheme)
			})
		}
	}
}

func visitBothHosts(t *testing.T, pki *testbench.PKI, client testbench.Client, scheme string) {
	right, wrong := testbench.NewUpstream(t, pki), testbench.NewUpstream(t, pki)
	rightURL, wrongURL, proto := right.URL(testbench.APIHost), wrong.URL(testbench.EvilHost), client.Proto
	if scheme == "http" {
		rightURL, wrongURL, proto = right.PlainURL(testbench.APIHost), wrong.PlainURL(testbench.EvilHost), "HTTP/1.1"
	}
	value := newValue()
	log := sandbox{
		flags:   append(loopback(t, pki), "--secret", "API_TOKEN@"+testbench.APIHost),
		command: append([]string{"sh", "-c", visit, "visit"}, client.Argv...),
		env: []string{
			"API_TOKEN=" + value,
			"RIGHT_URL=" + rightURL + "/v1/a%2Fb?b=2&a=1&b=1",
			"WRONG_URL=" + wrongURL + "/collect",
		},
	}.succeed(t)

	log.holdsNo(t, value)
	if !tokenInEnv.MatchString(log.stdout) {
		t.Errorf("child's environment: got no token:\n%s", log.stdout)
	}
	if !strings.HasSuffix(log.stdout, "\nok\nok\n") {
		t.Errorf("answers: got\n%s", log.stdout)
	}

	got := received(t, right, log)
	if want := "Bearer " + value; got.Header.Get("Authorization") != want {
		t.Errorf("Authorization: got %q, want %q", got.Header.Get("Authorization"), want)
	}
	checkBody(t, got, value)
	if got.Method != "POST" || got.Target != "/v1/a%2Fb?b=2&a=1&b=1" || got.Proto != proto {
		t.Errorf("got %s %s %s, want POST /v1/a%%2Fb?b=2&a=1&b=1 %s", got.Method, got.Target, got.Proto, proto)
	}
	for _, name := range []string{"Proxy-Authorization", "Proxy-Connection", "Via", "X-Forwarded-For", "X-Forwarded-Host", "Forwarded"} {
		if values, there := got.Header[name]; there {
			t.Errorf("%s: got %q, want none", name, values)
		}
	}

	stripped := received(t, wrong, log)
	if auth := strings.TrimSpace(stripped.Header.Get("Authorization")); auth != "Bearer" {
		t.Errorf("wrong host's Authorization: got %q, want %q", auth, "Bearer")
	}
	checkBody(t, stripped, "")
	checkGotNothing(t, wrong, value)
}

// Node's fetch asks for http:// with a CONNECT. Inside a tunnel only TLS is
// served, so that what a tunnel carries cannot be downgraded; the client gets an
// answer that says so.
func TestPlainHTTPInsideATunnelIsRefused(t *testing.T) {
	t.Parallel()
	pki := testbench.NewPKI(t)
	upstream := testbench.NewUpstream(t, pki)
	for _, client := range testbench.Clients(t) {
		if !client.TunnelsHTTP {
			continue
		}
		log := sandbox{
			flags:   append(loopback(t, pki), "--secret", "API_TOKEN@"+testbench.APIHost),
			command: append(client.Argv, upstream.PlainURL(testbench.APIHost)),
			env:     []string{"API_TOKEN=" + newValue()},
		}.run(t)
		if !strings.Contains(log.stdout, "tunnel") || upstream.Accepted() != 0 {
			t.Errorf("%s: got %q and %d connections, want a refusal and none; standard error:\n%s",
				client.Name, log.stdout, upstream.Accepted(), log.stderr)
		}
	}
}

// checkBody wants {"key": value} with framing that fits.
func checkBody(t *testing.T, got *testbench.Request, value string) {
	t.Helper()
	var body struct{ Key string }
	if err := json.Unmarshal(got.Body, &body); err != nil || body.Key != value {
		t.Errorf("body: got %q (%v), want the key %q", got.Body, err, value)
	}
	if length := got.Header.Get("Content-Length"); length != "" && length != strconv.FormatInt(got.BodySize, 10) {
		t.Errorf("Content-Length: got %s, want %d", length, got.BodySize)
	}
	if got.BodyErr != nil {
		t.Errorf("body: got %v, want a clean end", got.BodyErr)
	}
}

// checkGotNothing wants neither the value nor a token in all that arrived.
func checkGotNothing(t *testing.T, upstream *testbench.Upstream, value string) {
	t.Helper()
	if forms := testbench.FindSecret(upstream.Dump(), value); len(forms) > 0 {
		t.Errorf("wrong host received the value as %v", forms)
	}
	if upstream.Saw("starpod:v1:") {
		t.Errorf("wrong host received a token: %q", upstream.Dump())
	}
}
