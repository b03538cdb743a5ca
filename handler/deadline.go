package handler

import (
	"strconv"
	"time"
)

// A gRPC server measures a call's deadline as its client does, and resets the
// stream. Where that overtakes the client's own clock, a refusal would make an
// unavailable host, which is tried again, of a deadline that has passed: so the
// answer waits until the client has given up, as it is about to.
const (
	deadlineEarly = 100 * time.Millisecond // the server's clock may be this much ahead
	deadlineLate  = time.Second            // how long a client may take to give up
)

// awaitDeadline returns when the client of a call whose deadline has come has gone,
// or should have. It returns at once for all others.
func (f *forwarding) awaitDeadline() {
	timeout, ok := grpcTimeout(f.in.Header.Get("Grpc-Timeout"))
	if !ok || time.Since(f.started) < timeout-deadlineEarly {
		return
	}
	late := time.NewTimer(deadlineLate)
	defer late.Stop()
	select {
	case <-f.in.Context().Done():
	case <-late.C:
	}
}

// grpcTimeout reads a Grpc-Timeout: up to eight digits and a unit (gRPC over
// HTTP2, "Requests").
func grpcTimeout(text string) (timeout time.Duration, ok bool) {
	if len(text) < 2 || len(text) > 9 {
		return 0, false
	}
	units := map[byte]time.Duration{
		'H': time.Hour, 'M': time.Minute, 'S': time.Second,
		'm': time.Millisecond, 'u': time.Microsecond, 'n': time.Nanosecond,
	}
	unit, known := units[text[len(text)-1]]
	n, err := strconv.ParseUint(text[:len(text)-1], 10, 64)
	if !known || err != nil || n > uint64(1<<63-1)/uint64(unit) {
		return 0, false
	}
	return time.Duration(n) * unit, true
}
