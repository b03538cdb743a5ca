package tokens

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Value is a secret value. It prints as [redacted] everywhere; only Reveal
// shows it.
//
// fmt cannot call methods on what an unexported struct field holds, nor
// encoding/json on a map's keys: do not print structs or maps that keep values
// there.
type Value string

// Reveal returns the value itself.
func (v Value) Reveal() string { return string(v) }

// Format prints [redacted] under every verb.
func (Value) Format(f fmt.State, _ rune) { fmt.Fprint(f, redacted) }

// String returns [redacted].
func (Value) String() string { return redacted }

// GoString returns [redacted].
func (Value) GoString() string { return redacted }

// MarshalText returns [redacted]; encoding/json uses it too.
func (Value) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// Secret is what a token holds. Only Value is required.
type Secret struct {
	Value Value
	// Hosts are the hosts that may receive the value, see [HostMatches]. None
	// means any.
	Hosts []string
	// Name is what the secret is called in audit logs.
	Name string
	// Expires is the first instant at which the token no longer works, in whole
	// seconds. Zero means never.
	Expires time.Time
	// Methods are the HTTP methods that may carry the value, in any case. None
	// means any.
	Methods []string
	// Paths are globs for the paths that may carry the value: * is any run
	// without a slash, ** any run. They see the percent-decoded path, in which a
	// token is still a token. None means any.
	Paths []string
}

// Target is the request that a value would travel in.
type Target struct {
	Host   string // as CanonicalHost returns it
	Port   uint16
	Method string
	Path   string    // escaped, as the client wrote it; a query is ignored
	Time   time.Time // zero means now
}

// Reason tells why a token was not replaced.
type Reason string

// The reasons. ReasonNone means that there is nothing against replacing.
const (
	ReasonNone        Reason = ""
	ReasonHost        Reason = "host"
	ReasonExpired     Reason = "expired"
	ReasonMethod      Reason = "method"
	ReasonPath        Reason = "path"
	ReasonUndecodable Reason = "undecodable"
)

// Permits returns ReasonNone when the value may travel to t, else the first
// reason against it in the order host, expired, method, path.
func (s *Secret) Permits(t Target) Reason {
	switch {
	case !HostMatches(s.Hosts, t.Host, t.Port):
		return ReasonHost
	case s.expired(t.Time):
		return ReasonExpired
	case len(s.Methods) > 0 && !slices.ContainsFunc(s.Methods, func(m string) bool {
		return strings.EqualFold(m, t.Method)
	}):
		return ReasonMethod
	case len(s.Paths) > 0 && !pathMatches(s.Paths, t.Path):
		return ReasonPath
	}
	return ReasonNone
}

func (s *Secret) expired(now time.Time) bool {
	if s.Expires.IsZero() {
		return false
	}
	if now.IsZero() {
		now = time.Now()
	}
	return !now.Before(s.Expires)
}
