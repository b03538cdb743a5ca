package netns

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// What the process and its helper say to each other, one JSON value a line, over
// a pair of sockets that nobody else has.

// opened is what the helper says first: what it listens on, in the order of the
// descriptors that come with it, or why there is no namespace.
type opened struct {
	PID     int      `json:"pid"`
	Sockets []Socket `json:"sockets,omitempty"`
	Error   string   `json:"error,omitempty"`
	Reason  string   `json:"reason,omitempty"` // as in Unavailable
	Note    string   `json:"note,omitempty"`   // what is there in a weaker form, and why
}

// program is what the process says: become this.
type program struct {
	Path string   `json:"path"`
	Args []string `json:"args"`
	Env  []string `json:"env"`

	// Covers are files and folders that the program shall find empty.
	Covers []string `json:"covers,omitempty"`

	// ResolvConf is a file that takes the place of /etc/resolv.conf; "" for none.
	ResolvConf string `json:"resolv_conf,omitempty"`

	// Become is the user to become; nil where the helper is that user already.
	Become *User `json:"become,omitempty"`
}

// failed is what the helper says when it could not become the program. When it
// could, its socket closes without a word.
type failed struct {
	Error string `json:"error"`
	Errno int    `json:"errno,omitempty"` // of executing the program
}

// wire is one end of the pair.
type wire struct {
	conn *net.UnixConn
	in   *json.Decoder
}

func newWire(file *os.File) (*wire, error) {
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, err
	}
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, errors.Join(errors.New("not a unix socket"), conn.Close())
	}
	return &wire{conn: unixConn, in: json.NewDecoder(unixConn)}, nil
}

// wirePair makes both ends: ours, and the file that a helper inherits.
func wirePair() (near *wire, far *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making a pair of sockets: %w", err)
	}
	ours := os.NewFile(uintptr(fds[0]), "helper")
	defer ours.Close()
	far = os.NewFile(uintptr(fds[1]), "parent")
	if near, err = newWire(ours); err != nil {
		return nil, nil, errors.Join(err, far.Close())
	}
	return near, far, nil
}

func (w *wire) send(value any) error {
	line, err := json.Marshal(value)
	if err != nil {
		return err
	}
	_, err = w.conn.Write(append(line, '\n'))
	return err
}

func (w *wire) receive(value any) error { return w.in.Decode(value) }

// sendOpened passes the descriptors of files along (unix(7), SCM_RIGHTS).
func (w *wire) sendOpened(message opened, files []*os.File) error {
	line, err := json.Marshal(message)
	if err != nil {
		return err
	}
	return SendFiles(w.conn, append(line, '\n'), files)
}

// maxOpened is how long the first message may be.
const maxOpened = 64 << 10

// receiveOpened must be the first to receive.
func (w *wire) receiveOpened() (opened, []*os.File, error) {
	line := make([]byte, maxOpened)
	n, files, err := ReceiveFiles(w.conn, line)
	if err != nil {
		return opened{}, nil, err
	}
	var message opened
	if err := json.Unmarshal(line[:n], &message); err != nil {
		closeAll(files)
		return opened{}, nil, err
	}
	if len(files) != len(message.Sockets) {
		closeAll(files)
		return opened{}, nil, fmt.Errorf("%d descriptors came for %d sockets", len(files), len(message.Sockets))
	}
	return message, files, nil
}

func receivedFiles(rights []byte) ([]*os.File, error) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil, err
	}
	var files []*os.File
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue // other ancillary data
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "passed socket"))
		}
	}
	return files, nil
}
