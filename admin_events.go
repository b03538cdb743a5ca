package starpod

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
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
)

// serveEvents sends the records of the audit log as server-sent events (HTML
// standard, section 9.2), one [handler.Record] as JSON in each. ?replay=N begins
// with the last N, the header Last-Event-ID with what came behind that one.
func serveEvents(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodGet {
		return caddy.APIError{HTTPStatus: http.StatusMethodNotAllowed, Message: "only GET"}
	}
	if _, err := caddy.ActiveContext().AppIfConfigured("starpod"); err != nil {
		return caddy.APIError{HTTPStatus: http.StatusNotFound, Message: "no starpod in the running configuration"}
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
	stream, err := openStream(w)
	if err != nil {
		return caddy.APIError{HTTPStatus: http.StatusHTTPVersionNotSupported, Message: "ask by HTTP/1.1", Err: err}
	}
	defer stream.Close()
	stream.run(reader)
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
	s := &eventStream{Conn: conn, gone: make(chan struct{})}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	header := w.Header().Clone()
	header.Set("Connection", "close")
	_, _ = io.WriteString(s, "HTTP/1.1 200 OK\r\n")
	_ = header.Write(s)
	_, _ = io.WriteString(s, "\r\nretry: 1000\n\n")
	go func() {
		defer close(s.gone)
		_, _ = io.Copy(io.Discard, rw.Reader) // ends with the client
	}()
	return s, nil
}

// eventStream is the connection to a client that watches.
type eventStream struct {
	net.Conn
	gone chan struct{} // closed with the client
	err  error         // of the first write that failed
}

// Write gives the client its time for each piece.
func (s *eventStream) Write(p []byte) (n int, err error) {
	if s.err == nil {
		_ = s.SetWriteDeadline(time.Now().Add(streamTimeout))
		n, s.err = s.Conn.Write(p)
	}
	return n, s.err
}

// run sends until the client is gone.
func (s *eventStream) run(r *reader) {
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for s.err == nil {
		came, missed := r.take()
		if missed > 0 {
			s.send(missedRecord(missed))
		}
		for _, record := range came {
			s.send(record)
		}
		select {
		case <-r.wake:
		case <-s.gone:
			return
		case <-beat.C:
			_, _ = io.WriteString(s, ":\n\n")
		}
	}
}

func (s *eventStream) send(r handler.Record) {
	text, err := json.Marshal(r) // without line breaks
	if err != nil {
		return
	}
	if r.ID != "" {
		_, _ = fmt.Fprintf(s, "id: %s\ndata: %s\n\n", r.ID, text)
		return
	}
	_, _ = fmt.Fprintf(s, "data: %s\n\n", text)
}
