package starpod

import (
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/starpod/caddy-starpod/handler"
)

// records are those of this process, whatever configuration they are of, so that
// who watches notices nothing of a reload.
var records = newHub()

// Bounds of what is kept for those who watch, and of how many may.
const (
	maxRecords = 1000
	maxReaders = 32
)

// hub keeps the last records. Readers read them there, each at its own pace: one
// that is too slow misses some, and neither holds up a request nor makes anything
// grow.
type hub struct {
	epoch string // tells the numbers of this process from those of another

	mu       sync.Mutex
	ring     []handler.Record // number n is at n % maxRecords; nil before the first
	next     uint64           // number of the record to come
	readers  map[*reader]struct{}
	emitters []*reader // of those, the apps that emit events; the newest is the last
}

func newHub() *hub {
	return &hub{epoch: strconv.FormatInt(time.Now().UnixNano(), 36), next: 1, readers: make(map[*reader]struct{})}
}

// reader has read what came before at.
type reader struct {
	hub   *hub
	at    uint64
	until uint64        // where it ends; 0: nowhere
	wake  chan struct{} // told of a record

	// wants says which records it is woken for. nil: for all.
	wants func(handler.Record) bool
}

// publish keeps a record and wakes who watches.
func (h *hub) publish(r handler.Record) {
	r = r.Bounded()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ring == nil {
		h.ring = make([]handler.Record, maxRecords)
	}
	r.ID = h.epoch + "-" + strconv.FormatUint(h.next, 10)
	h.ring[h.next%maxRecords] = r
	h.next++
	for reader := range h.readers {
		if reader.at == h.next-1 && reader.wants != nil && !reader.wants(r) {
			reader.at++ // as if it had read it: waking it for each request costs as much as parsing one
			continue
		}
		select {
		case reader.wake <- struct{}{}:
		default: // it has been told already
		}
	}
}

// oldest is the number of the oldest record that is kept.
func (h *hub) oldest() uint64 {
	if h.next <= maxRecords {
		return 1
	}
	return h.next - maxRecords
}

func (h *hub) add(at uint64) *reader {
	r := &reader{hub: h, at: at, wake: make(chan struct{}, 1)}
	h.readers[r] = struct{}{}
	return r
}

// open begins behind the record with the ID after. Without one it begins with the
// last replay records, and with an ID of another process with all that there are.
// It returns nil where too many read already.
func (h *hub) open(after string, replay uint64) *reader {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.readers)-len(h.emitters) >= maxReaders {
		return nil
	}
	at := max(h.oldest(), h.next-min(replay, h.next))
	if after != "" {
		at = h.oldest()
		if epoch, text, _ := strings.Cut(after, "-"); epoch == h.epoch {
			if n, err := strconv.ParseUint(text, 10, 64); err == nil && n < h.next {
				at = n + 1
			}
		}
	}
	return h.add(at)
}

// openEmitter begins with what is to come of what wants, where the emitter before
// ends: of two configurations that overlap, one emits.
func (h *hub) openEmitter(wants func(handler.Record) bool) *reader {
	h.mu.Lock()
	defer h.mu.Unlock()
	if n := len(h.emitters); n > 0 {
		h.emitters[n-1].until = h.next
	}
	r := h.add(h.next)
	r.wants = wants
	h.emitters = append(h.emitters, r)
	return r
}

// take returns what has come, and how many records before them are lost.
func (r *reader) take() (came []handler.Record, missed int) {
	h := r.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	end := h.next
	if r.until > 0 {
		end = min(end, r.until)
	}
	if oldest := min(h.oldest(), end); r.at < oldest {
		missed = int(oldest - r.at)
		r.at = oldest
	}
	for ; r.at < end; r.at++ {
		came = append(came, h.ring[r.at%maxRecords])
	}
	return came, missed
}

// close ends the reader. If it was the newest emitter, of a configuration that did
// not come to be, the one before goes on.
func (r *reader) close() {
	h := r.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.readers, r)
	h.emitters = slices.DeleteFunc(h.emitters, func(e *reader) bool { return e == r })
	if n := len(h.emitters); n > 0 {
		h.emitters[n-1].until = 0
	}
}

// missedRecord stands for records that a reader was too late for.
func missedRecord(n int) handler.Record {
	return handler.Record{Time: time.Now(), Kind: handler.KindMissed, Message: "records missed", Missed: n}
}
