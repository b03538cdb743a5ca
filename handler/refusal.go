package handler

import (
	"encoding/json"
	"net/http"
	"strconv"
)

// Refusal is an answer that the proxy gives instead of the destination. It is
// an error, so that a caller can route it through Caddy's error handling, and
// it can write itself. None of its texts ever holds a secret value.
type Refusal struct {
	Status int    // HTTP status code
	Rule   string // which rule refused, one of the bounded set of Rule constants
	Reason string // what happened, in a sentence
	Mend   string // what to do about it; may be empty
	Err    error  // the cause, for errors.Is; its text is not shown to the client
}

// Rules that refuse. They label metrics and audit lines.
const (
	RuleAuth        = "proxy_auth"        // no or wrong proxy credentials
	RuleAuthority   = "authority"         // malformed target
	RuleMisdirected = "misdirected"       // names of one request disagree
	RuleTunnel      = "tunnel_content"    // not TLS inside a tunnel, CONNECT inside a tunnel
	RuleEgress      = "egress"            // the guard refused the address or name
	RuleSelf        = "self"              // the proxy asked to connect to itself
	RuleMismatch    = "on_mismatch"       // a token that is not for this destination
	RuleUndecodable = "on_undecodable"    // a token that no key opens
	RulePlaintext   = "plaintext_http"    // a token towards http://
	RuleHeaderValue = "header_value"      // a value that no header may carry
	RuleCoding      = "content_coding"    // an answer that cannot be looked into
	RuleSpool       = "max_spool"         // a body over the limit
	RuleLimits      = "limits"            // one too many, or too long
	RuleDecoded     = "max_decoded"       // a coded body that decodes to too much
	RuleBody        = "request_body"      // the client's body broke off
	RuleWebSocket   = "websocket"         // frames that cannot be followed
	RuleUpstream    = "upstream"          // unreachable, or it broke off
	RuleCertificate = "upstream_identity" // certificate of the upstream not valid
)

func (r *Refusal) Error() string { return r.Rule + ": " + r.Reason }
func (r *Refusal) Unwrap() error { return r.Err }

// body returns the JSON that clients see.
func (r *Refusal) body() []byte {
	b, err := json.Marshal(struct {
		Error string `json:"error"`
		Rule  string `json:"rule"`
		Mend  string `json:"mend,omitempty"`
	}{r.Reason, r.Rule, r.Mend})
	if err != nil {
		return []byte(`{"error":"refused"}`)
	}
	return append(b, '\n')
}

// Write answers the request with the refusal.
func (r *Refusal) Write(w http.ResponseWriter) {
	body := r.body()
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Cache-Control", "no-store")
	if r.Status == http.StatusProxyAuthRequired {
		h.Set("Proxy-Authenticate", `Basic realm="starpod"`)
	}
	w.WriteHeader(r.Status)
	_, _ = w.Write(body)
}
