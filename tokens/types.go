package tokens

import "errors"

// Form is how text is written at the place where a token stands, and so how
// its value must be escaped there.
type Form uint8

// The forms.
const (
	Raw     Form = iota // as it is
	Percent             // URL component or form field: all but RFC 3986 unreserved characters as %XX
	JSON                // inside a JSON string, RFC 8259 §7
	XML                 // XML text or attribute value
)

// Action is what happened to a token.
type Action uint8

// The actions.
const (
	Replaced Action = iota // the value stands in its place
	Stripped               // nothing stands in its place
	Left                   // it stands there as it was
	Denied                 // the scan ended with ErrDenied
)

// String returns replace, strip, leave or deny.
func (a Action) String() string {
	switch a {
	case Replaced:
		return "replace"
	case Stripped:
		return "strip"
	case Left:
		return "leave"
	}
	return "deny"
}

// Policy is what to do with a token that is not replaced.
type Policy uint8

// The policies.
const (
	Default Policy = iota // Strip for a mismatch, Pass for what does not open
	Strip
	Pass
	Deny
)

// action is what the policy does to a token that is not replaced.
func (p Policy) action(byDefault Policy) Action {
	if p == Default {
		p = byDefault
	}
	switch p {
	case Strip:
		return Stripped
	case Pass:
		return Left
	}
	return Denied
}

// Token tells about a token that a scan came upon.
type Token struct {
	// ID is the first 8 hex digits of the SHA-256 of the token, unescaped. What
	// did not open counts up to the end of its base64.
	ID string
	// Name is the name in the token, if it opened and has one.
	Name   string
	Action Action
	// Reason tells why the token was not replaced.
	Reason Reason
	// Unrestricted means that the token opened and names no hosts.
	Unrestricted bool
	// Form is how text is written where the token stands.
	Form Form
	// Value is the value, when the token was replaced.
	Value Value
}

// Result counts what a scan did.
type Result struct {
	Replaced    int // tokens that gave way to their value
	Stripped    int // tokens that were removed, for whatever reason
	Undecodable int // tokens that did not open, removed or not
}

// ErrDenied is wrapped by the error of a scan that met a token which a Deny
// policy forbids.
var ErrDenied = errors.New("token denied")
