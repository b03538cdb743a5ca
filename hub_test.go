package starpod

import (
	"fmt"
	"testing"

	"github.com/starpod/caddy-starpod/handler"
)

// published is a hub that has been told of n records.
func published(n int) *hub {
	h := newHub()
	for i := range n {
		h.publish(handler.Record{Message: fmt.Sprint(i + 1)})
	}
	return h
}

// summary is how many records a reader got, and the first and the last of them.
func summary(r *reader) string {
	came, missed := r.take()
	if len(came) == 0 {
		return fmt.Sprintf("missed %d", missed)
	}
	return fmt.Sprintf("missed %d, got %d: %s to %s", missed, len(came), came[0].Message, came[len(came)-1].Message)
}

func TestHubReplays(t *testing.T) {
	for _, test := range []struct {
		name   string
		told   int
		after  func(*hub) string
		replay uint64
		want   string
	}{
		{"nothing", 5, nil, 0, "missed 0"},
		{"the last ones", 5, nil, 2, "missed 0, got 2: 4 to 5"},
		{"more than there are", 5, nil, 50, "missed 0, got 5: 1 to 5"},
		{"more than are kept", 2500, nil, 1 << 40, "missed 0, got 1000: 1501 to 2500"},
		{"from nothing", 0, nil, 10, "missed 0"},
		{"behind one that was seen", 5, func(h *hub) string { return h.epoch + "-3" }, 0, "missed 0, got 2: 4 to 5"},
		{"behind the last", 5, func(h *hub) string { return h.epoch + "-5" }, 4, "missed 0"},
		{"behind one that is not kept", 2500, func(h *hub) string { return h.epoch + "-100" }, 0, "missed 1400, got 1000: 1501 to 2500"},
		{"behind one that is to come", 5, func(h *hub) string { return h.epoch + "-99" }, 0, "missed 0, got 5: 1 to 5"},
		{"of another process", 5, func(*hub) string { return "zzz-3" }, 0, "missed 0, got 5: 1 to 5"},
		{"garbage", 5, func(h *hub) string { return h.epoch + "-\x00" }, 0, "missed 0, got 5: 1 to 5"},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := published(test.told)
			after := ""
			if test.after != nil {
				after = test.after(h)
			}
			if got := summary(h.open(after, test.replay)); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

// TestHubHoldsNobodyUp: one who does not read misses records, the others do not.
func TestHubHoldsNobodyUp(t *testing.T) {
	h := newHub()
	slow, quick := h.open("", 0), h.open("", 0)
	for i := range 3 * maxRecords {
		h.publish(handler.Record{Message: fmt.Sprint(i + 1)})
		if got, want := summary(quick), fmt.Sprintf("missed 0, got 1: %d to %[1]d", i+1); got != want {
			t.Fatalf("quick reader: got %s, want %s", got, want)
		}
	}
	if got, want := summary(slow), "missed 2000, got 1000: 2001 to 3000"; got != want {
		t.Errorf("slow reader: got %s, want %s", got, want)
	}
}

func TestHubBoundsReaders(t *testing.T) {
	h := newHub()
	h.openEmitter(nil) // counts for itself
	var last *reader
	for i := range maxReaders {
		if last = h.open("", 0); last == nil {
			t.Fatalf("reader %d: got none, want %d", i+1, maxReaders)
		}
	}
	if h.open("", 0) != nil {
		t.Errorf("got reader %d, want at most %[1]d", maxReaders+1)
	}
	last.close()
	if h.open("", 0) == nil {
		t.Error("got none after one has closed, want its place")
	}
}

// TestHubHandsEmittingOver: each record is of one emitter.
func TestHubHandsEmittingOver(t *testing.T) {
	h := newHub()
	before := h.openEmitter(nil)
	h.publish(handler.Record{Message: "1"})
	after := h.openEmitter(nil)
	h.publish(handler.Record{Message: "2"})
	if got := summary(before); got != "missed 0, got 1: 1 to 1" {
		t.Errorf("the emitter before: got %s, want the first record", got)
	}
	if got := summary(after); got != "missed 0, got 1: 2 to 2" {
		t.Errorf("the emitter after: got %s, want the second record", got)
	}
	failed := h.openEmitter(nil)
	failed.close()
	h.publish(handler.Record{Message: "3"})
	if got := summary(after); got != "missed 0, got 1: 3 to 3" {
		t.Errorf("when another did not come to be: got %s, want the third record", got)
	}
}
