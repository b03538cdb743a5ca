package handler

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
)

// spool holds a request body as the client sent it: in memory while it is
// short, then in a file without a name. Only tokens touch the disk, never values.
type spool struct {
	policy   *SwapPolicy
	share    int64 // bytes that the client may have in all its spools
	holder   *client
	all      *atomic.Int64 // bytes of all spools of the proxy
	reserved int64         // how many of them are ours
	memory   []byte
	file     *os.File
	pending  *bufio.Writer // towards file
	placed   int64         // how long the file has been made, in bytes
	size     int64
}

// newSpool makes a spool for this request, which is gone when the request ends.
func (f *forwarding) newSpool() *spool {
	sp := &spool{policy: &f.proxy.Swap, share: f.proxy.Limits.ClientSpool, holder: f.holder, all: &f.proxy.spooled}
	f.cleanup = append(f.cleanup, sp.close)
	return sp
}

const (
	// spoolStep is how much is reserved at a time, in bytes. So much may be taken from
	// the disk before it has come: a file that has its place takes a fourth of the
	// processor's time of one that grows with each write.
	spoolStep = 4 << 20

	// spoolWrite is how much is written to the file at a time, in bytes.
	spoolWrite = 128 << 10
)

// spoolWriters are for the spools that are being filled.
var spoolWriters = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, spoolWrite) }}

// check refuses a body of size bytes that is over the limit.
func (sp *spool) check(size int64) error {
	option, limit := "max_spool", sp.policy.MaxSpool
	if sp.share < limit {
		option, limit = "client_spool", sp.share
	}
	if size <= limit {
		return nil
	}
	return &Refusal{
		Status: http.StatusRequestEntityTooLarge, Rule: RuleSpool,
		Reason: fmt.Sprintf("the body is over the limit of %d bytes", limit),
		Mend:   "raise `" + option + "`, or send the body chunked and without a content coding, then it is streamed",
	}
}

// reserve makes sure that all bodies together keep within the limit, with size
// bytes of this one. A length that is only stated takes nobody's place.
func (sp *spool) reserve(size int64) error {
	if err := sp.check(size); err != nil || size <= sp.reserved {
		return err
	}
	all, own := sp.all.Add(size-sp.reserved), sp.holder.spool(size-sp.reserved)
	sp.reserved = size
	switch {
	case own > sp.share:
		return sp.refuseSum("of this client", sp.share, "client_spool")
	case all > sp.policy.MaxSpool:
		return sp.refuseSum("under way", sp.policy.MaxSpool, "max_spool")
	}
	return nil
}

func (sp *spool) refuseSum(which string, limit int64, option string) *Refusal {
	return &Refusal{
		Status: http.StatusServiceUnavailable, Rule: RuleSpool,
		Reason: fmt.Sprintf("the bodies %s would take more than the limit of %d bytes", which, limit),
		Mend:   "try again when others have ended, raise `" + option + "`, or send the body chunked and without a content coding, then it is streamed",
	}
}

// Write implements io.Writer.
func (sp *spool) Write(p []byte) (int, error) {
	size := sp.size + int64(len(p))
	if sp.file == nil && size <= sp.policy.BodyBuffer && sp.holder.reserve(int64(len(p))) {
		sp.memory = append(sp.memory, p...)
		sp.size = size
		return len(p), nil
	}
	if size > sp.reserved {
		if err := sp.reserve(max(size, min(size+spoolStep, sp.share, sp.policy.MaxSpool))); err != nil {
			return 0, err
		}
	}
	if err := sp.write(p); err != nil {
		return 0, errDisk(err)
	}
	sp.size = size
	return len(p), nil
}

func errDisk(err error) error {
	return &Refusal{
		Status: http.StatusServiceUnavailable, Rule: RuleSpool, Err: err,
		Reason: "the body cannot be held on disk until it is complete",
		Mend:   "see that there is room in the folder for temporary files, or send the body chunked",
	}
}

// complete is called when the body has ended, which was to be length bytes long;
// -1 where nobody knows.
func (sp *spool) complete(length int64) error {
	if length >= 0 && sp.size != length {
		return errBody(io.ErrUnexpectedEOF)
	}
	if sp.pending == nil {
		return nil
	}
	err := sp.pending.Flush()
	sp.forgetPending()
	if err != nil {
		return errDisk(err)
	}
	return nil
}

func (sp *spool) write(p []byte) error {
	if sp.file == nil {
		// os.CreateTemp makes it with mode 0600.
		file, err := os.CreateTemp(sp.policy.SpoolDir, "starpod-body-*")
		if err != nil {
			return err
		}
		sp.file = file
		_ = os.Remove(file.Name()) // fails on Windows, where close does it
		sp.pending = spoolWriters.Get().(*bufio.Writer)
		sp.pending.Reset(file)
		if _, err := sp.pending.Write(sp.memory); err != nil {
			return err
		}
		sp.forget()
	}
	if sp.placed < sp.reserved {
		// What could not be placed is written all the same, or that fails.
		_ = place(sp.file, sp.placed, sp.reserved-sp.placed)
		sp.placed = sp.reserved
	}
	_, err := sp.pending.Write(p)
	return err
}

// reader returns a new reader of the whole original body, once it is complete.
func (sp *spool) reader() io.Reader { return io.NewSectionReader(sp.readerAt(), 0, sp.size) }

func (sp *spool) readerAt() io.ReaderAt {
	if sp.file == nil {
		return bytes.NewReader(sp.memory)
	}
	return sp.file
}

func (sp *spool) close() {
	if sp.file != nil {
		_ = sp.file.Close()
		_ = os.Remove(sp.file.Name())
	}
	sp.forget()
	sp.forgetPending()
	sp.all.Add(-sp.reserved)
	sp.holder.spool(-sp.reserved)
	sp.reserved = 0
}

// forget lets go of what is in memory.
func (sp *spool) forget() {
	sp.holder.release(int64(len(sp.memory)))
	sp.memory = nil
}

func (sp *spool) forgetPending() {
	if sp.pending != nil {
		sp.pending.Reset(nil)
		spoolWriters.Put(sp.pending)
		sp.pending = nil
	}
}
