package starpod

import (
	"fmt"
	"io"
	"strings"
)

// tell tells the story of the demonstration and reports whether it is as it
// should be.
func (r *demoResult) tell(out io.Writer) bool {
	held, right, wrong := r.held(), r.swapped(), r.stripped()
	fmt.Fprintf(out, "A secret, made up for this demonstration:\n\n      %s=%s\n\n", demoVariable, r.value)
	fmt.Fprintf(out, "A program (%s) was given a token in its place, bound to %s:\n\n", r.program, demoHost)
	fmt.Fprintf(out, "  %s   %s=%s\n", mark(held), demoVariable, shorten(r.token))
	fmt.Fprintln(out, "      and nowhere in its environment the value")
	fmt.Fprintf(out, "\nIt sent `Authorization: Bearer $%s` over https to two hosts. They received:\n\n", demoVariable)
	fmt.Fprintf(out, "  %s   %-16s  Authorization: %s\n", mark(right), demoHost, orNone(authorization(r.right)))
	fmt.Fprintf(out, "  %s   %-16s  Authorization: %s\n\n", mark(wrong), demoOther, orNone(authorization(r.wrong)))
	if held && right && wrong {
		fmt.Fprintln(out, "The program used a secret that it never held.")
		return true
	}
	fmt.Fprintln(out, "What is marked ✗ is not as it should be: do not trust this build with a secret.")
	return false
}

func mark(good bool) string {
	if good {
		return "✓"
	}
	return "✗"
}

// shorten leaves the ends of a token.
func shorten(token string) string { return token[:len(tokenPrefix)+6] + "…" + token[len(token)-6:] }

// authorization returns the value of the field in a request as it was received.
func authorization(request string) string {
	for line := range strings.Lines(request) {
		if value, found := strings.CutPrefix(line, "Authorization:"); found {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func orNone(text string) string {
	if text == "" {
		return "(none)"
	}
	return text
}
