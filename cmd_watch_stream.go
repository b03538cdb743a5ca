package starpod

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/starpod/caddy-starpod/handler"
)

// events opens the stream of the running proxy.
func (f *adminFlags) events(after string, replay uint) (io.ReadCloser, error) {
	address, err := caddycmd.DetermineAdminAPIAddress(f.address, nil, f.config, f.adapter)
	if err != nil {
		return nil, fmt.Errorf("finding the admin API: %w", err)
	}
	header := http.Header{"Accept": {"text/event-stream"}}
	if after != "" {
		header.Set("Last-Event-ID", after)
	}
	path := fmt.Sprintf("/starpod/events?replay=%d", replay)
	resp, err := caddycmd.AdminAPIRequest(address, http.MethodGet, path, header, nil)
	if err != nil {
		return nil, fmt.Errorf("asking the proxy at %s: %w; is a Caddy with starpod_secrets running? "+
			"Name its admin address with --address", address, err)
	}
	return resp.Body, nil
}

// eventLine is what one line of a stream says; the zero value is of a line that
// says nothing to us.
type eventLine struct {
	id     string
	record *handler.Record
}

// maxEventLine is more than any record takes.
const maxEventLine = 1 << 20

// readEvents calls f for each line, until the stream ends or f fails. Our records
// have one line of data each. An ID counts when its record has been shown.
func readEvents(stream io.Reader, f func(eventLine) error) error {
	lines := bufio.NewScanner(stream)
	lines.Buffer(nil, maxEventLine)
	id := ""
	for lines.Scan() {
		var line eventLine
		name, value, _ := bytes.Cut(lines.Bytes(), []byte(": "))
		switch string(name) {
		case "id":
			id = string(value)
		case "data":
			line.record = new(handler.Record)
			if err := json.Unmarshal(value, line.record); err != nil {
				return fmt.Errorf("reading a record: %w", err)
			}
		}
		err := f(line)
		if err == nil && line.record != nil && id != "" {
			err = f(eventLine{id: id})
		}
		if err != nil {
			return err
		}
	}
	return lines.Err()
}

// printJSONLine prints what fits on a line.
func printJSONLine(out io.Writer, r handler.Record) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	_, err = out.Write(append(text, '\n'))
	return err
}
