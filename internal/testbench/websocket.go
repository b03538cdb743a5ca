package testbench

import (
	"fmt"
	"io"

	"github.com/gobwas/ws"
)

// maxFrame is how long the frames of tests are at most, in bytes.
const maxFrame = 64 << 20

// ReadFrame reads one frame of a WebSocket (RFC 6455, section 5.2), its payload
// as it is on the wire.
func ReadFrame(r io.Reader) (ws.Frame, error) {
	header, err := ws.ReadHeader(r)
	if err != nil {
		return ws.Frame{}, err
	}
	if header.Length > maxFrame {
		return ws.Frame{}, fmt.Errorf("a frame of %d bytes", header.Length)
	}
	frame := ws.Frame{Header: header, Payload: make([]byte, header.Length)}
	_, err = io.ReadFull(r, frame.Payload)
	return frame, err
}
