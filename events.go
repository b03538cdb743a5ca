package starpod

import (
	"context"
	"fmt"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"go.uber.org/zap"

	"github.com/starpod/caddy-starpod/handler"
	"github.com/starpod/caddy-starpod/tokens"
)

// Events of Caddy's events app, with the module starpod as their origin.
const (
	eventStripped = "starpod.token_stripped"
	eventRefused  = "starpod.egress_refused"
	eventLost     = "starpod.namespace_lost"
)

// emitter makes events of records. Caddy calls subscribers one after the other, so
// this is done apart from the requests: slow ones miss events.
type emitter struct {
	ctx    caddy.Context
	events *caddyevents.App
	logger *zap.Logger
	missed int // since the last event
}

// emitEvents emits the events of a configuration from when all of it has started:
// before, the events app may be writing what emitting reads.
func emitEvents(ctx caddy.Context, logger *zap.Logger) error {
	app, err := ctx.App("events")
	if err != nil {
		return err
	}
	events := app.(*caddyevents.App)
	return events.On("started", &emitter{ctx: ctx, events: events, logger: logger})
}

// Handle implements caddyevents.Handler.
func (e *emitter) Handle(context.Context, caddy.Event) error {
	go e.run(records.openEmitter(hasEvent))
	return nil
}

// run emits until the configuration ends.
func (e *emitter) run(r *reader) {
	defer r.close()
	for {
		came, missed := r.take()
		if e.missed += missed; missed > 0 {
			e.logger.Warn("a subscriber of events is too slow; some were not emitted", zap.Int("records", missed))
		}
		for _, record := range came {
			e.record(record)
		}
		select {
		case <-r.wake:
		case <-e.ctx.Done():
			return
		}
	}
}

// hasEvent reports whether record may emit something. Of most requests there is
// nothing to emit.
func hasEvent(r handler.Record) bool {
	switch r.Kind {
	case handler.KindTokens:
		return slices.ContainsFunc(r.Tokens, func(t handler.TokenRecord) bool { return t.Action == tokens.Stripped.String() })
	case handler.KindRefused:
		return r.Rule == handler.RuleEgress || r.Rule == handler.RuleSelf
	}
	return r.Kind == handler.KindNamespaceLost
}

// record emits what there is to emit of a record.
func (e *emitter) record(r handler.Record) {
	switch {
	case r.Kind == handler.KindTokens:
		for _, t := range r.Tokens {
			if t.Action != tokens.Stripped.String() {
				continue
			}
			e.emit(eventStripped, func() map[string]any {
				data := requestData(r)
				data["id"], data["name"], data["place"], data["reason"] = t.ID, t.Name, t.Place, t.Reason
				return data
			})
		}
	case r.Kind == handler.KindRefused && (r.Rule == handler.RuleEgress || r.Rule == handler.RuleSelf):
		e.emit(eventRefused, func() map[string]any {
			data := requestData(r)
			data["rule"], data["reason"], data["mend"] = r.Rule, r.Reason, r.Mend
			return data
		})
	case r.Kind == handler.KindNamespaceLost:
		e.emit(eventLost, func() map[string]any {
			return map[string]any{"name": r.Namespace, "reason": r.Reason, "mend": r.Mend}
		})
	}
}

func requestData(r handler.Record) map[string]any {
	return map[string]any{
		"client": r.Client, "destination": r.Destination, "method": r.Method, "path": r.Path, "status": r.Status,
	}
}

// emit calls the subscribers. What panics in one must not end the server, which
// it would here, where no request's recovery is.
func (e *emitter) emit(name string, data func() map[string]any) {
	if e.ctx.Err() != nil || !e.events.ShouldEmit(name) {
		return
	}
	defer func() {
		if reason := recover(); reason != nil {
			e.logger.Error("a subscriber of events panicked", zap.String("event", name), zap.String("reason", fmt.Sprint(reason)))
		}
	}()
	all := data()
	if e.missed > 0 {
		all["missed"] = e.missed
		e.missed = 0
	}
	e.events.Emit(e.ctx, name, all)
}
