package starpod

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/starpod/caddy-starpod/netns"
	"github.com/starpod/caddy-starpod/tokens"
)

// `run --attach` and a running proxy speak over a unix socket. A message is its
// length in four bytes, big endian, and then JSON. The command's side asks, in
// this order, and each request has one answer:
//
//	{"hello":{"version":1,"site":"127.0.0.1:8080"}}        once
//	    {"version":1,"roots":"-----BEGIN…","hide":["/…"]}
//	{"seal":{"name":"KEY","value":"c2st…","hosts":["…"]}}  as often as it likes
//	    {"version":1,"token":"starpod:v1:…"}
//	{"serve":{"sockets":[{"role":"proxy","network":"tcp"}]}}  once, and last
//	    {"version":1,"proxy":"http://…"}
//
// The descriptors of the sockets come with the first byte of the last request, in
// the order of its list. Without a list the command is one that is led by its
// environment, and the answer says where. An answer with "error" is the last one.
// Then nothing is said any more: the attachment lasts for as long as the
// connection.
const attachVersion = 1

// attachFile is the socket's name in the data folder.
const attachFile = "attach.sock"

const (
	// maxAttachMessage has room for the longest value that a token can hold.
	maxAttachMessage = 2 * tokens.MaxTokenLen

	// maxAttachSockets is more than a namespace has.
	maxAttachSockets = 32

	// maxAttachHosts bounds the hosts of a secret.
	maxAttachHosts = 4096
)

// attachRequest is one of its members.
type attachRequest struct {
	Hello *attachHello  `json:"hello,omitempty"`
	Seal  *attachSecret `json:"seal,omitempty"`
	Serve *attachServe  `json:"serve,omitempty"`
}

type attachHello struct {
	Version int    `json:"version"`
	Site    string `json:"site,omitempty"` // as --site names it; "" for the only one
}

// attachSecret holds a real value: it is never printed.
type attachSecret struct {
	Name  string   `json:"name"`
	Value []byte   `json:"value"`
	Hosts []string `json:"hosts"`
}

type attachServe struct {
	Sockets []netns.Socket `json:"sockets,omitempty"`
}

// attachAnswer holds what the request was for.
type attachAnswer struct {
	Version int      `json:"version"`
	Error   string   `json:"error,omitempty"`
	Roots   string   `json:"roots,omitempty"` // PEM; "" where nothing is intercepted
	Hide    []string `json:"hide,omitempty"`  // what the command shall not see
	Token   string   `json:"token,omitempty"`
	Proxy   string   `json:"proxy,omitempty"` // URL
}

// parseAttachRequest reads a request as strictly as it can be read. The version is
// looked at first: another one may have another form. Errors repeat nothing of the
// request, which may hold a value.
func parseAttachRequest(text []byte) (r attachRequest, err error) {
	var other struct{ Hello *struct{ Version int } }
	if json.Unmarshal(text, &other) == nil && other.Hello != nil && other.Hello.Version != attachVersion {
		return r, fmt.Errorf("the command speaks version %d of the protocol and this Caddy version %d: "+
			"use the same build of caddy for both", other.Hello.Version, attachVersion)
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&r); err != nil {
		return attachRequest{}, errMalformed
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return attachRequest{}, errMalformed
	}
	members := 0
	for _, is := range []bool{r.Hello != nil, r.Seal != nil, r.Serve != nil} {
		if is {
			members++
		}
	}
	switch {
	case members != 1,
		r.Hello != nil && r.Hello.Version != attachVersion,
		r.Seal != nil && (len(r.Seal.Value) == 0 || len(r.Seal.Hosts) > maxAttachHosts),
		r.Serve != nil && len(r.Serve.Sockets) > maxAttachSockets:
		return attachRequest{}, errMalformed
	}
	return r, nil
}

var errMalformed = errors.New("a malformed request")

// attachWire is one end of the connection.
type attachWire struct{ conn *net.UnixConn }

func (w attachWire) send(message any, files []*os.File) error {
	text, err := json.Marshal(message)
	if err != nil {
		return err
	}
	if len(text) > maxAttachMessage {
		return fmt.Errorf("a message of %d bytes, and %d is the most", len(text), maxAttachMessage)
	}
	return netns.SendFiles(w.conn, append(binary.BigEndian.AppendUint32(nil, uint32(len(text))), text...), files)
}

// receive returns the text of a message and the files that came with it, which
// are the caller's to close.
func (w attachWire) receive() (text []byte, files []*os.File, err error) {
	defer func() {
		if err != nil {
			closeFiles(files)
			files = nil
		}
	}()
	fill := func(buffer []byte) error {
		for read := 0; read < len(buffer); {
			n, more, err := netns.ReceiveFiles(w.conn, buffer[read:])
			files = append(files, more...)
			read += n
			switch {
			case len(files) > maxAttachSockets:
				return fmt.Errorf("more than %d descriptors came with one message", maxAttachSockets)
			case errors.Is(err, io.EOF) && read > 0:
				return io.ErrUnexpectedEOF
			case err != nil:
				return err
			}
		}
		return nil
	}
	var header [4]byte
	if err := fill(header[:]); err != nil {
		return nil, files, err
	}
	length := binary.BigEndian.Uint32(header[:])
	if length > maxAttachMessage {
		return nil, files, fmt.Errorf("a message of %d bytes, and %d is the most", length, maxAttachMessage)
	}
	text = make([]byte, length)
	if err := fill(text); errors.Is(err, io.EOF) {
		return nil, files, io.ErrUnexpectedEOF
	} else if err != nil {
		return nil, files, err
	}
	return text, files, nil
}

func closeFiles(files []*os.File) {
	for _, file := range files {
		_ = file.Close()
	}
}
