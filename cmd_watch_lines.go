package starpod

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/starpod/caddy-starpod/handler"
	"github.com/starpod/caddy-starpod/tokens"
)

const (
	watchWidth  = 100 // characters of a line
	watchIndent = 9   // of the lines below the first: where the column behind the time begins
	watchTokens = 5   // tokens of one record that have a line
)

// Colours of terminals (ECMA-48, SGR).
const (
	colourRed    = "31"
	colourGreen  = "32"
	colourYellow = "33"
)

// showLines shows records to people: a line for what happened, and below it one
// for each token or for the reason.
func showLines(out io.Writer, colour bool) func(handler.Record) error {
	return func(r handler.Record) error {
		var text bytes.Buffer
		word, sgr := headline(r)
		padded := fmt.Sprintf("%-9s", word)
		if colour {
			padded = "\x1b[" + sgr + "m" + padded + "\x1b[0m"
		}
		fmt.Fprintf(&text, "%s %s %s\n", r.Time.Local().Format("15:04:05"), padded, clip(subject(r), watchWidth-watchIndent-10))
		for _, detail := range details(r) {
			for _, line := range wrap(detail, watchWidth-watchIndent) {
				fmt.Fprintf(&text, "%*s%s\n", watchIndent, "", line)
			}
		}
		_, err := out.Write(text.Bytes())
		return err
	}
}

// headline is the word for a record, with its colour.
func headline(r handler.Record) (word, sgr string) {
	switch r.Kind {
	case handler.KindRefused:
		return "refused", colourRed
	case handler.KindUnrestricted:
		return "warning", colourYellow
	case handler.KindNamespaceLost:
		return "LOST", colourRed
	case handler.KindNamespaceFound:
		return "found", colourGreen
	case handler.KindMissed:
		return "missed", colourYellow
	}
	word, sgr = "unscanned", colourYellow
	for _, t := range r.Tokens {
		switch t.Action {
		case tokens.Stripped.String():
			return "stripped", colourRed
		case tokens.Denied.String():
			return "denied", colourRed
		case tokens.Replaced.String():
			if word == "unscanned" {
				word, sgr = "replaced", colourGreen
			}
		default:
			word, sgr = "left", colourYellow
		}
	}
	return word, sgr
}

// subject is what the record is about.
func subject(r handler.Record) string {
	switch r.Kind {
	case handler.KindMissed:
		return strconv.Itoa(r.Missed) + " records, which came too fast; the log has them"
	case handler.KindNamespaceLost, handler.KindNamespaceFound:
		return "namespace " + r.Namespace
	}
	status := "-"
	if r.Status != 0 {
		status = strconv.Itoa(r.Status)
	}
	return fmt.Sprintf("%-3s %s %s", status, r.Method, r.Destination+r.Path)
}

// details are the lines below.
func details(r handler.Record) (lines []string) {
	for i, t := range r.Tokens {
		if i == watchTokens {
			lines = append(lines, fmt.Sprintf("and %d more tokens", len(r.Tokens)-i+r.MoreTokens))
			break
		}
		line := fmt.Sprintf("%s in %s: %s", cmp.Or(t.Name, "token")+" "+t.ID, t.Place, t.Action)
		if t.Reason != "" {
			line += " (" + t.Reason + ")"
		}
		lines = append(lines, line)
	}
	if r.Masked > 0 {
		lines = append(lines, fmt.Sprintf("masked in the answer: %d", r.Masked))
	}
	if r.NotScanned != "" {
		lines = append(lines, "body not scanned: "+r.NotScanned)
	}
	if r.Reason != "" {
		lines = append(lines, strings.TrimPrefix(r.Rule+": "+r.Reason, ": "))
	}
	if r.Mend != "" {
		lines = append(lines, "mend: "+r.Mend)
	}
	return lines
}

// clip cuts text that is longer than width characters.
func clip(text string, width int) string {
	if utf8.RuneCountInString(text) <= width {
		return text
	}
	return string([]rune(text)[:width-1]) + "…"
}

// wrap breaks text into lines of at most width characters, at blanks where it can.
// All but the first are indented, so that none passes for another detail.
func wrap(text string, width int) (lines []string) {
	rest := []rune(text)
	for len(rest) > width {
		cut := width
		for i := width; i > width/2; i-- {
			if rest[i] == ' ' {
				cut = i
				break
			}
		}
		lines = append(lines, string(rest[:cut]))
		rest = []rune("  " + strings.TrimPrefix(string(rest[cut:]), " "))
	}
	return append(lines, string(rest))
}
