package starpod

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/starpod/caddy-starpod/handler"
)

const (
	// heartbeat is how often a stream says that it is alive.
	heartbeat = 15 * time.Second

	// streamTimeout is how long a reader of a stream may take no byte.
	streamTimeout = 10 * time.Second

	// streamPiece is how much goes to a reader at a time at most, in bytes.
	streamPiece = 16 << 10
)

// serveEvents sends the records of the audit log as server-sent events (HTML
// standard, section 9.2), one [handler.Record] as JSON in each. ?replay=N begins
// with the last N, the header Last-Event-ID with what came behind that one.
func serveEvents(w http.ResponseWriter, r *http.Request) error {
	return streamEvents(w, r, openStream)
}

// streamEvents sends records on the stream that open makes of an answer.
func streamEvents(w http.ResponseWriter, r *http.Request, open func(http.ResponseWriter) (*eventStream, error)) error {
	if err := checkView(r); err != nil {
		return err
	}
	replay := uint64(0)
	if text := r.URL.Query().Get("replay"); text != "" {
		var err error
		if replay, err = strconv.ParseUint(text, 10, 32); err != nil {
			return caddy.APIError{HTTPStatus: http.StatusBadRequest, Message: "replay is how many records to begin with, a number"}
		}
	}
	reader := records.open(r.Header.Get("Last-Event-ID"), replay)
	if reader == nil {
		message := fmt.Sprintf("%d clients watch already: end one of them", maxReaders)
		return caddy.APIError{HTTPStatus: http.StatusServiceUnavailable, Message: message}
	}
	defer reader.close()
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	stream, err := open(w)
	if err != nil {
		return caddy.APIError{HTTPStatus: http.StatusHTTPVersionNotSupported, Message: "ask by HTTP/1.1", Err: err}
	}
	defer stream.close()
	stream.run(reader)
	return nil
}

// checkView reports a request that gets nothing of what there is to watch.
func checkView(r *http.Request) error {
	if r.Method != http.MethodGet {
		return caddy.APIError{HTTPStatus: http.StatusMethodNotAllowed, Message: "only GET"}
	}
	// Admin modules are provisioned before apps, so the app is looked up late.
	if _, err := caddy.ActiveContext().AppIfConfigured("starpod"); err != nil {
		return caddy.APIError{HTTPStatus: http.StatusNotFound, Message: "no starpod in the running configuration"}
	}
	return nil
}

// openStream takes the connection from its server and answers on it. Caddy ends
// the server of the admin endpoint with each reload: it would wait for a stream in
// vain, and the stream would end as soon as the server's time for reading is over.
func openStream(w http.ResponseWriter) (*eventStream, error) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, err
	}
	gone := make(chan struct{})
	s := &eventStream{out: conn, limit: conn.SetWriteDeadline, close: func() { _ = conn.Close() }, gone: gone}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	header := w.Header().Clone()
	header.Set("Connection", "close")
	_, _ = io.WriteString(s, "HTTP/1.1 200 OK\r\n")
	_ = header.Write(s)
	_, _ = io.WriteString(s, "\r\n"+streamStart)
	go func() {
		defer close(gone)
		_, _ = io.Copy(io.Discard, rw.Reader) // ends with the client
	}()
	return s, nil
}

// streamStart asks clients to come back within a second.
const streamStart = "retry: 1000\n\n"

// eventStream is the way to a client that watches.
type eventStream struct {
	out   io.Writer
	limit func(time.Time) error // for the next piece
	close func()
	gone  <-chan struct{} // closed with the client
	err   error           // of the first write that failed
}

// Write gives the client its time for each piece.
func (s *eventStream) Write(p []byte) (n int, err error) {
	if s.err == nil {
		_ = s.limit(time.Now().Add(streamTimeout))
		n, s.err = s.out.Write(p)
	}
	return n, s.err
}

// run sends until the client is gone.
func (s *eventStream) run(r *reader) {
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	out := bufio.NewWriterSize(s, streamPiece)
	for s.err == nil {
		came, missed := r.take()
		if missed > 0 {
			sendRecord(out, missedRecord(missed))
		}
		for _, record := range came {
			sendRecord(out, record)
		}
		_ = out.Flush()
		select {
		case <-r.wake:
		case <-s.gone:
			return
		case <-beat.C:
			_, _ = io.WriteString(s, ":\n\n")
		}
	}
}

func sendRecord(out io.Writer, r handler.Record) {
	text, err := json.Marshal(r) // without line breaks
	if err != nil {
		return
	}
	if r.ID != "" {
		_, _ = fmt.Fprintf(out, "id: %s\ndata: %s\n\n", r.ID, text)
		return
	}
	_, _ = fmt.Fprintf(out, "data: %s\n\n", text)
}
