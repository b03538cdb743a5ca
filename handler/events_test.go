package handler

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// TestMaskedEvents: with a value to be masked, every event still arrives before
// the next is sent, and what could be the beginning of the value waits alone.
func TestMaskedEvents(t *testing.T) {
	stars := strings.Repeat("*", len(canary))
	for _, test := range []struct {
		name string
		sent []string // each is sent when the one before has arrived
		got  []string // what has arrived by then
	}{
		{"events without the value", []string{"data: 1\n\n", "data: 2\n\n"}, []string{"data: 1\n\n", "data: 2\n\n"}},
		{"the value in an event", []string{"data: <" + canary + ">\n\n", "data: 2\n\n"}, []string{"data: <" + stars + ">\n\n", "data: 2\n\n"}},
		{"its beginning, and not the rest", []string{"data: " + canary[:9], "\n\n"}, []string{"data: ", canary[:9] + "\n\n"}},
		{"its beginning, and the rest", []string{"data: " + canary[:9], canary[9:] + "\n\n"}, []string{"data: ", stars + "\n\n"}},
		{"its first byte", []string{"id: C", "\n\n"}, []string{"id: ", "C\n\n"}},
		{"all but its last byte, then it begins anew", []string{canary[:len(canary)-1], canary + "."}, []string{"", canary[:len(canary)-1] + stars + "."}},
	} {
		for _, h2 := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s h2=%v", test.name, h2), func(t *testing.T) {
				b := newBench(t, nil)
				pieces := make(chan string)
				b.up.HandleStream("/", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Content-Type", "text/event-stream")
					for piece := range pieces {
						_, _ = io.WriteString(w, piece)
						_ = http.NewResponseController(w).Flush()
					}
				}))
				r := b.request("GET", b.up.URL("api.starpod.test")+"/", "", "X-Key", b.token("api.starpod.test"))
				go func() { pieces <- test.sent[0] }() // the header comes with the first
				response, err := b.client(h2).Do(r)
				if err != nil {
					t.Fatal(err)
				}
				defer response.Body.Close()
				for i, want := range test.got {
					if i > 0 {
						pieces <- test.sent[i]
					}
					got := make([]byte, len(want))
					if _, err := io.ReadFull(response.Body, got); err != nil || string(got) != want {
						t.Fatalf("piece %d: got %q (%v), want %q before the next", i, got, err, want)
					}
				}
				close(pieces)
				if rest, err := io.ReadAll(response.Body); err != nil || len(rest) > 0 {
					t.Errorf("behind the last piece: got %q (%v), want the end", rest, err)
				}
			})
		}
	}
}
