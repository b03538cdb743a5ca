package starpod

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// doctorTimeout bounds the whole examination on a machine that is very busy.
const doctorTimeout = 30 * time.Second

// doctorFlags are the flags of doctor.
type doctorFlags struct {
	admin    adminFlags
	dataDir  string
	keyFiles []string
	asJSON   bool
}

func doctorCommand() *cobra.Command {
	f := new(doctorFlags)
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Checks this machine and a configuration, and says how to mend what is wrong",
		Long: `
Looks at the key files, the certificate authority, its bundle for clients, the
clock, the ports, what killed proxies have left, where the proxy may connect, and
the variables of this shell. Then a proxy of its own swaps a made-up secret
towards a server on loopback, from an ordinary program and from inside each kind
of namespace that this machine can make; there the program also tries to go
around it.

Everything is taken away again and nothing else is changed. No value and no key
is ever shown. It works offline; all that is asked of the network is the address
of a public name, and the upstream proxy if the configuration has one.

What is examined is the configuration that --config names, else ./Caddyfile, else
the default files. --data-dir and --key-file come in place of what it says.

  ✓  good
  ✗  broken, with what to do about it
  !  works, but is worth a look
  –  not there, or not for this machine

Exit status: 0 if nothing is marked ✗, 1 otherwise.`,
		Example: `  caddy starpod doctor
  caddy starpod doctor --config /etc/caddy/Caddyfile
  caddy starpod doctor --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), doctorTimeout)
			defer cancel()
			found := newDoctor(ctx, f).examine(ctx)
			if err := found.print(cmd.OutOrStdout(), f.asJSON); err != nil {
				return err
			}
			if !found.OK {
				return exit(cmd, 1)
			}
			return nil
		},
	}
	flags := cmd.Flags()
	f.admin.register(flags)
	flags.Lookup("config").Usage = "configuration `FILE` to check (default Caddyfile in this folder, if there is one)"
	flags.StringVar(&f.dataDir, "data-dir", "", "`FOLDER` with the certificate authority (default as the configuration says)")
	flags.StringArrayVar(&f.keyFiles, "key-file", nil, "`FILE` with a master key (default as the configuration says); may be repeated")
	flags.BoolVar(&f.asJSON, "json", false, "print JSON")
	return cmd
}

// Grades of a finding.
const (
	gradeGood    = "ok"
	gradeBroken  = "failed"
	gradeWarning = "warning"
	gradeNone    = "none" // not there, or not for this machine
)

// finding is one line of the examination.
type finding struct {
	Check   string `json:"check"`
	Grade   string `json:"grade"` // ok, failed, warning or none
	Subject string `json:"subject,omitempty"`
	Detail  string `json:"detail"`
	Mend    string `json:"mend,omitempty"` // a command to type or a line to write
}

func good(subject, detail string) finding {
	return finding{Grade: gradeGood, Subject: subject, Detail: detail}
}

func broken(subject, detail, mend string) finding {
	return finding{Grade: gradeBroken, Subject: subject, Detail: detail, Mend: mend}
}

func doubtful(subject, detail, mend string) finding {
	return finding{Grade: gradeWarning, Subject: subject, Detail: detail, Mend: mend}
}

func absent(subject, detail, mend string) finding {
	return finding{Grade: gradeNone, Subject: subject, Detail: detail, Mend: mend}
}

// brokenBy is for errors of this module, which say what to do behind the first
// semicolon. other is for those that do not.
func brokenBy(subject string, err error, other string) finding {
	detail, mend, found := strings.Cut(err.Error(), "; ")
	if !found {
		mend = other
	}
	return broken(subject, detail, mend)
}

// examination is all findings, and the form of --json.
type examination struct {
	OK       bool      `json:"ok"`
	Findings []finding `json:"findings"`
}

// examine makes all checks at once and returns their findings in order.
func (d *doctor) examine(ctx context.Context) examination {
	results := make([]chan []finding, len(doctorChecks))
	for i, check := range doctorChecks {
		results[i] = make(chan []finding, 1)
		go func() { results[i] <- check.run(d, ctx) }()
	}
	var all []finding
	for i, check := range doctorChecks {
		for _, found := range <-results[i] {
			found.Check = check.name
			all = append(all, found)
		}
	}
	failed := slices.ContainsFunc(all, func(f finding) bool { return f.Grade == gradeBroken })
	return examination{OK: !failed, Findings: all}
}

var gradeMarks = map[string]string{gradeGood: mark(true), gradeBroken: mark(false), gradeWarning: "!", gradeNone: "–"}

func (e examination) print(out io.Writer, asJSON bool) error {
	if asJSON {
		return printJSON(out, e)
	}
	var text strings.Builder
	check, counts := "", map[string]int{}
	for _, f := range e.Findings {
		name := ""
		if f.Check != check {
			name, check = f.Check, f.Check
		}
		line := f.Detail
		if f.Subject != "" {
			line = f.Subject + ": " + f.Detail
		}
		fmt.Fprintf(&text, "%-13s %s  %s\n", name, gradeMarks[f.Grade], oneLine(line))
		if f.Mend != "" {
			fmt.Fprintf(&text, "%-13s    → %s\n", "", oneLine(f.Mend))
		}
		counts[f.Grade]++
	}
	fmt.Fprintf(&text, "\n%d good, %d broken, %d to look at\n", counts[gradeGood], counts[gradeBroken], counts[gradeWarning])
	_, err := io.WriteString(out, text.String())
	return err
}

// oneLine keeps names of files and texts of errors from moving a terminal's cursor.
func oneLine(text string) string { return printable(strings.ReplaceAll(text, "\n", " ")) }
