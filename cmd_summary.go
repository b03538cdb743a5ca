package starpod

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/starpod/caddy-starpod/handler"
	"github.com/starpod/caddy-starpod/tokens"
)

// maxSummary bounds each list of a summary: the command decides how many hosts it
// asks for.
const maxSummary = 100

// runSummary is what a command did with the proxy. Nil keeps none.
type runSummary struct {
	mu      sync.Mutex
	uses    counted // of secrets, by name
	hosts   counted
	refused counted
	other   int // things that were not counted one by one
}

// counted counts lines of text.
type counted map[string]int

func newRunSummary() *runSummary {
	return &runSummary{uses: counted{}, hosts: counted{}, refused: counted{}}
}

func (s *runSummary) count(c counted, line string) {
	if _, known := c[line]; !known && len(c) >= maxSummary {
		s.other++
		return
	}
	c[line]++
}

// watch takes note of a record of the audit log.
func (s *runSummary) watch(r handler.Record) {
	r = r.Bounded()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch r.Kind {
	case handler.KindTokens:
		for _, t := range r.Tokens {
			line := cmp.Or(t.Name, "token "+t.ID) + ": sent to " + r.Destination
			if r.Status == 0 { // it may have been sent all the same, in part or whole
				line = cmp.Or(t.Name, "token "+t.ID) + ": for " + r.Destination + ", which did not answer"
			}
			if t.Action != tokens.Replaced.String() {
				line = cmp.Or(t.Name, "token "+t.ID) + ": kept from " + r.Destination
				if t.Reason != "" {
					line += " (reason: " + t.Reason + ")"
				}
			}
			s.count(s.uses, line)
		}
	case handler.KindRefused:
		line := strings.TrimSpace(r.Method+" "+r.Destination) + ": " + r.Rule + ": " + r.Reason
		if r.Mend != "" {
			line += "\n    mend: " + r.Mend
		}
		s.count(s.refused, line)
	}
}

// reached takes note of a request that was answered by its destination.
func (s *runSummary) reached(r *http.Request, blind bool) {
	if s == nil || r.Method == http.MethodConnect && !blind {
		return
	}
	host := handler.Record{Destination: r.Host}.Bounded().Destination
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count(s.hosts, host)
}

// write tells it to people. names are the secrets that the command was given.
func (s *runSummary) write(out io.Writer, names []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var text strings.Builder
	text.WriteString("starpod: summary\n")
	for _, name := range names {
		used := func(line string) bool { return strings.HasPrefix(line, name+":") }
		if !slices.ContainsFunc(slices.Collect(maps.Keys(s.uses)), used) {
			s.uses[name+": not used"] = 0
		}
	}
	for _, list := range []struct {
		title string
		lines counted
	}{{"secrets", s.uses}, {"hosts reached", s.hosts}, {"refused", s.refused}} {
		fmt.Fprintf(&text, "%s:%s\n", list.title, map[bool]string{true: " none"}[len(list.lines) == 0])
		for _, line := range slices.Sorted(maps.Keys(list.lines)) {
			if n := list.lines[line]; n > 1 {
				first, rest, _ := strings.Cut(line, "\n")
				line = strings.TrimSuffix(fmt.Sprintf("%s, %d times\n%s", first, n, rest), "\n")
			}
			text.WriteString("  " + line + "\n")
		}
	}
	if s.other > 0 {
		fmt.Fprintf(&text, "and %d more that are not listed\n", s.other)
	}
	_, _ = io.WriteString(out, text.String())
}

// printEnv prints what the command's environment has and this process's has not.
func printEnv(out io.Writer, own, env []string) {
	for _, entry := range slices.Sorted(slices.Values(env)) {
		if !slices.Contains(own, entry) {
			fmt.Fprintln(out, entry)
		}
	}
}
