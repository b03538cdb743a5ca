package handler

import (
	"context"
	"errors"
	"net/http"
	"time"
)

// halfClosePatience is how long the answer to a client may take that has ended
// its half of the connection.
const halfClosePatience = 30 * time.Second

// patientContext returns the context for what is done upstream for r. net/http
// ends the request's own when an HTTP/1 client has ended its half, though it may
// be waiting for the answer (RFC 9112, section 9.6); whether it is, or has gone,
// cannot be told apart. HTTP/2 clients say so when they are not interested.
func patientContext(r *http.Request) (context.Context, context.CancelFunc) {
	parent := r.Context()
	if r.ProtoMajor != 1 {
		return parent, func() {}
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(parent))
	stop := context.AfterFunc(parent, func() {
		if !errors.Is(parent.Err(), context.Canceled) {
			cancel() // a deadline
			return
		}
		patience := time.AfterFunc(halfClosePatience, cancel)
		context.AfterFunc(ctx, func() { patience.Stop() })
	})
	return ctx, func() { stop(); cancel() }
}

// clientGone reports whether err, which ended the forwarding, is for lack of a
// client that would read the answer.
func (f *forwarding) clientGone(err error) bool {
	if f.in.Context().Err() == nil {
		return false
	}
	refusal := (*Refusal)(nil)
	body := errors.As(err, &refusal) && refusal.Rule == RuleBody
	return f.in.ProtoMajor != 1 || body || errors.Is(err, context.Canceled)
}
