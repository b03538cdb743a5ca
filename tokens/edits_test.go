package tokens

import (
	"bytes"
	"io"
	"strings"
	"testing"
)

// checkEdits fails if the edits that a scan of in has noted do not make out of it.
func checkEdits(t testing.TB, e *Edits, in, out []byte, scanErr error) {
	t.Helper()
	if scanErr != nil {
		return
	}
	if got, err := io.ReadAll(e.Reader(bytes.NewReader(in), int64(len(in)))); !e.Complete() || !bytes.Equal(got, out) || err != nil {
		t.Fatalf("edits of %q, complete %v:\ngot  %q, %v\nwant %q", in, e.Complete(), got, err, out)
	}
	if e.settled != int64(len(in)) {
		t.Fatalf("edits of %q: got %d bytes settled, want %d", in, e.settled, len(in))
	}
}

func TestEditsKeepWithinTheirLimit(t *testing.T) {
	const value = "value"
	token := mustSeal(t, testRing, Secret{Value: value})
	for _, tt := range []struct {
		name, text string
		limit      int
		complete   bool
	}{
		{"none", "text", 0, true},
		{"one", "a" + token + "b", editSize + len(value), true},
		{"one over the limit", "a" + token + "b", editSize + len(value) - 1, false},
		{"side by side", token + token + token, editSize + 3*len(value), true},
		{"apart", token + " " + token, 2 * (editSize + len(value)), true},
		{"apart, over the limit", token + " " + token, 2*(editSize+len(value)) - 1, false},
		{"many", strings.Repeat(token+" ", 1000), 16 << 10, false},
		{"run longer than any token", prefix + strings.Repeat("A", 5*MaxTokenLen) + " " + token, 2*editSize + len(value), true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newScanner()
			s.OnUndecodable = Strip
			s.Edits = &Edits{Limit: tt.limit}
			out, err := io.ReadAll(s.Reader(strings.NewReader(tt.text)))
			if err != nil {
				t.Fatal(err)
			}
			if got := s.Edits.Complete(); got != tt.complete {
				t.Fatalf("got complete %v, want %v", got, tt.complete)
			}
			if tt.complete {
				checkEdits(t, s.Edits, []byte(tt.text), out, nil)
			} else if len(s.Edits.list) > 0 {
				t.Errorf("got %d edits of a text with too many, want them let go", len(s.Edits.list))
			}
		})
	}
}
