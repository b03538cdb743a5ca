package handler

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/starpod/caddy-starpod/tokens"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Record is one thing that the audit log tells. As JSON it is what
// GET /starpod/events sends and `caddy starpod watch --json` prints; members that
// are empty are left out. None ever holds a value or a whole token.
type Record struct {
	// ID is for Last-Event-ID. Only the process that gave it understands it.
	ID string `json:"id,omitempty"`

	Time    time.Time     `json:"time"`    // RFC 3339
	Level   zapcore.Level `json:"level"`   // info, warn or error
	Kind    string        `json:"kind"`    // one of the Kind constants
	Message string        `json:"message"` // the same for all records alike

	Client      string `json:"client,omitempty"`      // address and port
	Destination string `json:"destination,omitempty"` // scheme, host and, unless it is the scheme's, port
	Method      string `json:"method,omitempty"`
	Path        string `json:"path,omitempty"`   // escaped, without query, tokens as ⟨token 1a2b3c4d⟩
	Status      int    `json:"status,omitempty"` // of the answer to the client

	// Tokens are those of the request, each once for each place. MoreTokens is how
	// many are left out of a long list.
	Tokens     []TokenRecord `json:"tokens,omitempty"`
	MoreTokens int           `json:"more_tokens,omitempty"`
	NotScanned string        `json:"not_scanned,omitempty"` // why the body was not looked into
	Masked     int           `json:"masked,omitempty"`      // how often the answer held a value, which was hidden

	Rule   string `json:"rule,omitempty"`   // which refused, one of the Rule constants
	Reason string `json:"reason,omitempty"` // what happened, in a sentence
	Mend   string `json:"mend,omitempty"`   // what to do about it

	Namespace string `json:"namespace,omitempty"` // by its name
	Missed    int    `json:"missed,omitempty"`    // records that are no longer to be had
}

// TokenRecord is what may be known of a token.
type TokenRecord struct {
	ID     string `json:"id"`               // first 8 hex digits of the SHA-256 of the token
	Name   string `json:"name,omitempty"`   // of the secret, if the token has one
	Place  string `json:"place"`            // header, path, query, body, basic or websocket
	Action string `json:"action"`           // replace, strip, leave or deny
	Reason string `json:"reason,omitempty"` // why it was not replaced
}

// Kinds of records.
const (
	KindTokens         = "tokens"         // a request with tokens, or one that was not looked into
	KindRefused        = "refused"        // the proxy answered in place of the destination
	KindUnrestricted   = "unrestricted"   // a token without hosts went where none had gone
	KindNamespaceLost  = "namespace_lost" // something of the namespace is no longer there
	KindNamespaceFound = "namespace_found"
	KindMissed         = "missed" // what a slow reader was too late for
)

// tells reports whether anybody hears of a record of this level.
func (p *Proxy) tells(level zapcore.Level) bool {
	return p.Watch != nil || p.Audit.Core().Enabled(level)
}

// tell writes the line of the audit log, and tells whoever watches.
func (p *Proxy) tell(r Record) {
	r.Time = time.Now()
	if entry := p.Audit.Check(r.Level, r.Message); entry != nil {
		entry.Write(r.fields()...)
	}
	if p.Watch != nil {
		p.Watch(r)
	}
}

// fields are those of the line in the audit log.
func (r *Record) fields() []zap.Field {
	var fields []zap.Field
	text := func(key, value string) {
		if value != "" {
			fields = append(fields, zap.String(key, value))
		}
	}
	text("client", r.Client)
	text("destination", r.Destination)
	text("method", r.Method)
	text("path", r.Path)
	if r.Status != 0 {
		fields = append(fields, zap.Int("status", r.Status))
	}
	if r.Kind == KindTokens || len(r.Tokens) > 0 {
		fields = append(fields, zap.Objects("tokens", r.Tokens))
	}
	text("not_scanned", r.NotScanned)
	if r.Masked != 0 {
		fields = append(fields, zap.Int("masked", r.Masked))
	}
	text("rule", r.Rule)
	text("reason", r.Reason)
	text("mend", r.Mend)
	return fields
}

// MarshalLogObject implements zapcore.ObjectMarshaler.
func (t TokenRecord) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	enc.AddString("id", t.ID)
	enc.AddString("name", t.Name)
	enc.AddString("place", t.Place)
	enc.AddString("action", t.Action)
	enc.AddString("reason", t.Reason)
	return nil
}

// tokenRecords leaves the values behind.
func tokenRecords(found []foundToken) []TokenRecord {
	records := make([]TokenRecord, len(found))
	for i, t := range found {
		records[i] = TokenRecord{ID: t.ID, Name: t.Name, Place: t.place.String(), Action: t.Action.String(), Reason: string(t.Reason)}
	}
	return records
}

// shown is text of a request for people to read, without a whole token.
func (p *Proxy) shown(text string) string {
	if !tokens.ContainsString(text) {
		return text
	}
	keys, err := p.Keys()
	if err != nil {
		return "" // nobody can tell what in it is a token
	}
	return tokens.Display(keys, text)
}

// requestRecord is the beginning of a record of a request.
func (p *Proxy) requestRecord(kind string, r *http.Request, dest Destination) Record {
	record := Record{Kind: kind, Client: r.RemoteAddr, Method: r.Method, Path: p.shown(r.URL.EscapedPath())}
	if dest.Host != "" {
		record.Destination = dest.String()
	}
	return record
}

// Bounds of a record that is kept: a client chooses how long its paths are.
const (
	maxRecordText   = 512 // bytes
	maxRecordTokens = 32
)

// Bounded returns a record that is fit to be kept and to be shown: of bounded
// size, sharing no memory with its request, and with nothing in it that a terminal
// obeys or that looks like another line.
func (r Record) Bounded() Record {
	for _, text := range []*string{
		&r.ID, &r.Kind, &r.Message, &r.Client, &r.Destination, &r.Method, &r.Path,
		&r.NotScanned, &r.Rule, &r.Reason, &r.Mend, &r.Namespace,
	} {
		*text = printable(*text)
	}
	kept := slices.Clone(r.Tokens)
	if len(kept) > maxRecordTokens {
		// First those that somebody has to hear of.
		slices.SortStableFunc(kept, func(a, b TokenRecord) int { return urgency(b) - urgency(a) })
		r.MoreTokens += len(kept) - maxRecordTokens
		kept = slices.Clone(kept[:maxRecordTokens])
	}
	for i := range kept {
		t := &kept[i]
		for _, text := range []*string{&t.ID, &t.Name, &t.Place, &t.Action, &t.Reason} {
			*text = printable(*text)
		}
	}
	r.Tokens = kept
	return r
}

func urgency(t TokenRecord) int {
	if t.Action == tokens.Stripped.String() {
		return 1
	}
	return 0
}

// printable returns a copy of at most maxRecordText bytes. Where it holds what is
// not printed as it is, it is quoted as Go does, without the quotation marks.
func printable(text string) string {
	if len(text) > maxRecordText {
		cut := maxRecordText
		for cut > maxRecordText-utf8.UTFMax && !utf8.RuneStart(text[cut]) {
			cut--
		}
		text = text[:cut] + "…"
	}
	if utf8.ValidString(text) && !strings.ContainsFunc(text, func(c rune) bool { return !unicode.IsPrint(c) }) {
		return strings.Clone(text)
	}
	quoted := strconv.Quote(text)
	return quoted[1 : len(quoted)-1]
}
