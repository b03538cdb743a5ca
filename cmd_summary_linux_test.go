package starpod

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/starpod/caddy-starpod/handler"
)

func TestCmdRunSumsUp(t *testing.T) {
	t.Parallel()
	api, reach := newAPI(t)
	flags := append(reach, "--quiet", "--summary", "--secret", "MY_KEY@"+apiAddress, "--secret", "OTHER@h.test", "--secret", "IDLE@h.test")
	for _, isolation := range []string{"env", "sealed"} {
		got := typed{
			args: runLine(append(flags, "--isolation", isolation), "sh", "-c",
				call+"; "+call+`; curl -q -sS -H "X: $OTHER" "$URL"; curl -q -sS http://10.1.2.3/; exit 3`),
			env: []string{"MY_KEY=sk-s3cret", "OTHER=sk-s3cret-2", "IDLE=sk-s3cret-3", "URL=" + api.URL},
		}.run(t)
		got.holdsNo(t, "sk-s3cret")
		address := strings.TrimPrefix(api.URL, "https://")
		want := "starpod: summary\nsecrets:\n" +
			"  IDLE: not used\n" +
			"  MY_KEY: sent to https://" + address + ", 2 times\n" +
			"  OTHER: kept from https://" + address + " (reason: host)\n" +
			"hosts reached:\n  " + address + ", 3 times\n" +
			"refused:\n  GET http://10.1.2.3: egress: connecting to http://10.1.2.3 is refused"
		if got.status != 3 || !strings.HasPrefix(got.stderr, want) || !strings.Contains(got.stderr, "\n    mend: ") {
			t.Errorf("%s: got status %d and\n%s\nwant 3 and\n%s", isolation, got.status, got.stderr, want)
		}
	}
}

// A command chooses how many hosts it asks for, and what they are called.
// A value that was put into a request is not told to have arrived where its host did
// not answer.
func TestSummaryOfARequestWithoutAnAnswer(t *testing.T) {
	for status, want := range map[int]string{
		0:   "MY_KEY: for https://api.test, which did not answer\n",
		502: "MY_KEY: sent to https://api.test\n", // the host's own
	} {
		summary := newRunSummary()
		summary.watch(handler.Record{
			Kind: handler.KindTokens, Destination: "https://api.test", Status: status,
			Tokens: []handler.TokenRecord{{ID: "1a2b3c4d", Name: "MY_KEY", Place: "header", Action: "replace"}},
		})
		var text strings.Builder
		summary.write(&text, nil)
		if !strings.Contains(text.String(), want) {
			t.Errorf("status %d: got %q, want %q in it", status, text.String(), want)
		}
	}
}

func TestSummaryIsBounded(t *testing.T) {
	t.Parallel()
	s := newRunSummary()
	for i := range 3 * maxSummary {
		s.reached(&http.Request{Host: strconv.Itoa(i) + "\x1b.test"}, false)
		s.watch(handler.Record{Kind: handler.KindRefused, Destination: "http://" + strconv.Itoa(i) + ".test", Reason: strings.Repeat("x", 10_000)})
	}
	var text strings.Builder
	s.write(&text, nil)
	if got := text.String(); strings.Count(got, "\n") > 2*maxSummary+10 || len(got) > maxSummary*1000 || strings.Contains(got, "\x1b") {
		t.Errorf("got %d bytes in %d lines, want few, and nothing that a terminal obeys", len(got), strings.Count(got, "\n"))
	}
	if got := text.String(); !strings.Contains(got, "and 400 more") {
		t.Errorf("got %s, want the number of what is not listed", got[len(got)-100:])
	}
}

func TestCmdRunPrintsTheEnvironment(t *testing.T) {
	t.Parallel()
	for _, isolation := range []string{"env", "sealed"} {
		got := typed{
			args: []string{"run", "--isolation", isolation, "--print-env", "--secret", "MY_KEY@h.test"},
			env:  []string{"MY_KEY=sk-s3cret", "KEPT=as it is"},
		}.succeed(t)
		got.holdsNo(t, "sk-s3cret")
		var names []string
		for line := range strings.Lines(got.stdout) {
			name, _, _ := strings.Cut(line, "=")
			names = append(names, name)
		}
		for _, want := range []string{"MY_KEY", "HTTP_PROXY", "https_proxy", "SSL_CERT_FILE", "NO_PROXY"} {
			if !slices.Contains(names, want) {
				t.Errorf("%s: got %q, want %s in it", isolation, names, want)
			}
		}
		if slices.Contains(names, "KEPT") {
			t.Errorf("%s: got KEPT, want nothing that is as it was", isolation)
		}
	}
}
