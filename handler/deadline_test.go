package handler

import (
	"context"
	"net/http/httptest"
	"testing"
	"time"
)

func TestGRPCTimeout(t *testing.T) {
	for _, test := range []struct {
		text string
		want time.Duration
		ok   bool
	}{
		{"1S", time.Second, true}, {"250m", 250 * time.Millisecond, true}, {"99999999u", 99999999 * time.Microsecond, true},
		{"5n", 5, true}, {"2M", 2 * time.Minute, true}, {"3H", 3 * time.Hour, true}, {"0S", 0, true},
		{"", 0, false}, {"S", 0, false}, {"1", 0, false}, {"1s", 0, false}, {"-1S", 0, false}, {"+1S", 0, false}, {" 1S", 0, false},
		{"999999999S", 0, false}, {"99999999H", 0, false},
	} {
		if got, ok := grpcTimeout(test.text); got != test.want || ok != test.ok {
			t.Errorf("%q: got %v, %t, want %v, %t", test.text, got, ok, test.want, test.ok)
		}
	}
}

// TestAwaitDeadline leaves it to the client to give up, when that is due.
func TestAwaitDeadline(t *testing.T) {
	for _, test := range []struct {
		name, header string
		waits        bool
	}{
		{"the deadline has passed", "10m", true},
		{"it is about to", "59050m", true},
		{"it is far", "2M", false},
		{"there is none", "", false},
		{"it cannot be read", "10 m", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			r := httptest.NewRequestWithContext(ctx, "POST", "/", nil)
			r.Header.Set("Grpc-Timeout", test.header)
			f := &forwarding{in: r, started: time.Now().Add(-59 * time.Second)}
			f.awaitDeadline()
			if gone := ctx.Err() != nil; gone != test.waits {
				t.Errorf("got a client that has given up: %t, want %t", gone, test.waits)
			}
		})
	}
}
