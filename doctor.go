package starpod

import (
	"context"
	"crypto/x509"
	"net"
	"os"
	"runtime/debug"
	"strings"
	"time"
)

// doctor examines a machine and a configuration. What it asks of the world are
// fields, so that tests can answer.
type doctor struct {
	plan    plan
	running running

	now     func() time.Time
	built   time.Time // when the source of this program was written; zero: unknown
	env     func(name string) (value string, set bool)
	lookup  func(ctx context.Context, host string) error
	online  func() bool
	tempDir string
}

// doctorChecks is what doctor does, in the order of its output.
var doctorChecks = []struct {
	name string
	run  func(d *doctor, ctx context.Context) []finding
}{
	{"configuration", (*doctor).checkConfiguration},
	{"keys", (*doctor).checkKeys},
	{"authority", (*doctor).checkAuthority},
	{"bundle", (*doctor).checkBundle},
	{"clock", (*doctor).checkClock},
	{"running proxy", (*doctor).checkRunning},
	{"ports", (*doctor).checkPorts},
	{"namespace", (*doctor).checkNamespace},
	{"leftovers", (*doctor).checkLeftovers},
	{"isolation", (*doctor).checkIsolation},
	{"egress", (*doctor).checkEgress},
	{"this shell", (*doctor).checkShell},
}

func newDoctor(ctx context.Context, f *doctorFlags) *doctor {
	d := &doctor{
		plan: readPlan(f), now: time.Now, built: buildTime(), env: os.LookupEnv,
		online: hasNetwork, tempDir: os.TempDir(),
		lookup: func(ctx context.Context, host string) error {
			_, err := net.DefaultResolver.LookupHost(ctx, host)
			return err
		},
	}
	d.running = askRunning(ctx, f.admin, d.plan)
	return d
}

// buildTime is when the commit was made that this program was built from.
func buildTime() time.Time {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return time.Time{}
	}
	for _, setting := range info.Settings {
		if setting.Key == "vcs.time" {
			at, _ := time.Parse(time.RFC3339, setting.Value)
			return at
		}
	}
	return time.Time{}
}

// hasNetwork reports whether an interface beside the loopback one has an address.
func hasNetwork() bool {
	interfaces, err := net.Interfaces()
	if err != nil {
		return true // when in doubt, what fails is told
	}
	for _, i := range interfaces {
		if i.Flags&net.FlagUp == 0 || i.Flags&net.FlagLoopback != 0 {
			continue
		}
		addresses, _ := i.Addrs()
		for _, address := range addresses {
			if ip, ok := address.(*net.IPNet); ok && ip.IP.IsGlobalUnicast() {
				return true
			}
		}
	}
	return false
}

// commandLine writes a command for POSIX shells; words that need no quotes get none.
func commandLine(words ...string) string {
	for i, word := range words {
		if strings.ContainsFunc(word, needsQuotes) {
			words[i] = quoteSh(word)
		}
	}
	return strings.Join(words, " ")
}

func needsQuotes(c rune) bool {
	return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("._-/:=+@,", c)
}

// validUntil judges the expiry of an authority's certificate.
func (d *doctor) validUntil(subject, detail string, cert *x509.Certificate, renew string) finding {
	const soon = 30 * 24 * time.Hour
	until := cert.NotAfter.UTC().Format(time.DateOnly)
	switch left := cert.NotAfter.Sub(d.now()); {
	case left <= 0:
		return broken(subject, "expired on "+until, renew)
	case left < soon:
		return doubtful(subject, "expires on "+until, renew)
	}
	return good(subject, detail+", valid until "+until)
}
