package handler

import (
	"context"
	"net/http"

	"github.com/caddyserver/caddy/v2"
)

// Outcome is what became of one request. It never holds a value.
type Outcome struct {
	Destination                     Destination
	Replaced, Stripped, Undecodable int
}

type outcomeKey struct{}

func outcomeFrom(ctx context.Context) *Outcome {
	if ex := exchangeFrom(ctx); ex != nil {
		return &ex.outcome
	}
	o, _ := ctx.Value(outcomeKey{}).(*Outcome)
	return o
}

// withPlaceholders returns r with an outcome that Serve fills in, and offers it as
// the placeholders {http.starpod.*} of the request. The counts are known once the
// request has been answered, for the access log, or handed to the next handler.
func (h *Handler) withPlaceholders(r *http.Request) *http.Request {
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return r
	}
	outcome := outcomeFrom(r.Context())
	if outcome == nil {
		outcome = new(Outcome)
		r = r.WithContext(context.WithValue(r.Context(), outcomeKey{}, outcome))
	}
	repl.Map(func(key string) (any, bool) {
		switch key {
		case "http.starpod.replaced":
			return outcome.Replaced, true
		case "http.starpod.stripped":
			return outcome.Stripped, true
		case "http.starpod.undecodable":
			return outcome.Undecodable, true
		case "http.starpod.destination":
			if outcome.Destination.Host == "" {
				return "", true
			}
			return outcome.Destination.String(), true
		case "http.starpod.tier":
			return h.runtime.TierLevel(), true
		}
		return nil, false
	})
	return r
}
