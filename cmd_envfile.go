package starpod

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/starpod/caddy-starpod/tokens"
)

const envFileSyntax = `Env files:
  One NAME=value a line, perhaps with 'export' in front. Values are taken as they
  are, without $ expansion; in 'single quotes', or in "double quotes" with \n \r \t
  \" \$ and \\; a # behind white space begins a comment. The line above says what the
  value is for, unless the NAME is well-known:
      # hosts: api.example.com, *.example.org
      API_KEY=abc
      # plain
      LOG_LEVEL=debug
  A plain value is no secret and goes to COMMAND as it is.
`

// envEntry is one assignment of an env file.
type envEntry struct {
	name  string
	value tokens.Value
	hosts []string // as written above it, nil for none
	plain bool     // not a secret
	line  int      // counted from 1
}

var assignment = regexp.MustCompile(`^(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)[ \t]*=(.*)$`)

// parseEnvFile reads the syntax of envFileSyntax. Errors name the line and never
// repeat what stands there.
func parseEnvFile(text string) ([]envEntry, error) {
	var entries []envEntry
	var note string // the comment on the line above
	seen := map[string]bool{}
	number := 0
	for line := range strings.Lines(strings.TrimPrefix(text, "\ufeff")) {
		number++
		line = strings.Trim(line, " \t\r\n")
		if comment, ok := strings.CutPrefix(line, "#"); ok || line == "" {
			note = strings.Trim(comment, " \t")
			if line == "" {
				note = ""
			}
			continue
		}
		entry, err := parseAssignment(line)
		if err == nil && seen[entry.name] {
			err = fmt.Errorf("%s is given twice: leave one out", entry.name)
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		entry.line = number
		entry.plain = note == "plain"
		if hosts, ok := strings.CutPrefix(note, "hosts:"); ok {
			entry.hosts = splitList(hosts)
		}
		seen[entry.name], note = true, ""
		entries = append(entries, entry)
	}
	return entries, nil
}

func parseAssignment(line string) (envEntry, error) {
	parts := assignment.FindStringSubmatch(line)
	if parts == nil {
		return envEntry{}, errors.New("write it as NAME=value, the name of letters, digits and _")
	}
	value, err := parseEnvValue(parts[2])
	if err == nil && strings.ContainsRune(value, 0) {
		err = errors.New("the value holds a NUL byte, which no environment can")
	}
	if err != nil {
		return envEntry{}, fmt.Errorf("%s: %w", parts[1], err)
	}
	return envEntry{name: parts[1], value: tokens.Value(value)}, nil
}

// parseEnvValue reads what stands behind the equals sign.
func parseEnvValue(text string) (string, error) {
	trimmed := strings.TrimLeft(text, " \t")
	if trimmed == "" {
		return "", nil
	}
	switch trimmed[0] {
	case '\'':
		value, rest, closed := strings.Cut(trimmed[1:], "'")
		if !closed {
			return "", errNotClosed
		}
		return value, checkRest(rest)
	case '"':
		value, rest, err := unquoteDouble(trimmed[1:])
		if err != nil {
			return "", err
		}
		return value, checkRest(rest)
	}
	for i := range len(text) {
		if text[i] == '#' && i > 0 && isBlank(text[i-1]) {
			text = text[:i]
			break
		}
	}
	return strings.Trim(text, " \t"), nil
}

var errNotClosed = errors.New(`the quote is not closed on its line; write a line break as \n between double quotes`)

// escapes are the letters behind a backslash between double quotes.
var escapes = map[byte]byte{'n': '\n', 'r': '\r', 't': '\t', '"': '"', '$': '$', '\\': '\\'}

// unquoteDouble reads up to the closing quote and returns what follows it.
func unquoteDouble(text string) (value, rest string, err error) {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		switch c := text[i]; c {
		case '"':
			return b.String(), text[i+1:], nil
		case '\\':
			i++
			if i == len(text) {
				return "", "", errNotClosed
			}
			plain, known := escapes[text[i]]
			if !known {
				return "", "", errors.New(`unknown escape; write \\ for a backslash between double quotes`)
			}
			b.WriteByte(plain)
		default:
			b.WriteByte(c)
		}
	}
	return "", "", errNotClosed
}

// checkRest wants nothing but a comment behind a closing quote.
func checkRest(rest string) error {
	trimmed := strings.TrimLeft(rest, " \t")
	if trimmed == "" || trimmed[0] == '#' && trimmed != rest {
		return nil
	}
	return errors.New("text behind the closing quote: remove it, or quote the whole value")
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' }
