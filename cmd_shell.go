package starpod

import (
	"fmt"
	"strings"
)

// shells write the statement that exports a variable, by the name of the shell.
var shells = map[string]func(name, value string) string{
	"sh":         func(name, value string) string { return "export " + name + "=" + quoteSh(value) },
	"fish":       func(name, value string) string { return "set -gx " + name + " " + quoteFish(value) + ";" },
	"powershell": func(name, value string) string { return "$Env:" + name + " = " + quotePowerShell(value) },
}

// exportLines returns NAME=value entries as statements of a shell, one a line.
func exportLines(shell string, entries []string) (string, error) {
	export, known := shells[shell]
	if !known {
		return "", fmt.Errorf("--shell: %q is unknown: choose sh (also for bash and zsh), fish or powershell", shell)
	}
	var lines strings.Builder
	for _, entry := range entries {
		name, value, _ := strings.Cut(entry, "=")
		lines.WriteString(export(name, value) + "\n")
	}
	return lines.String(), nil
}

// quoteSh quotes for POSIX shells, where nothing is special between single
// quotes but the quote itself (POSIX.1-2017, XCU §2.2.2).
func quoteSh(text string) string {
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}

// quoteFish quotes for fish, which knows two escapes between single quotes.
func quoteFish(text string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(text) + "'"
}

// quotePowerShell quotes for PowerShell, which takes the typographic quotation
// marks for single quotes, too; each is doubled.
func quotePowerShell(text string) string {
	return "'" + strings.NewReplacer("'", "''", "‘", "‘‘", "’", "’’", "‚", "‚‚", "‛", "‛‛").Replace(text) + "'"
}
