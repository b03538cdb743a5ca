package handler

import (
	"bytes"
	"fmt"
	"io"
	"os"

	"github.com/starpod/caddy-starpod/tokens"
)

// spool holds a request body as the client sent it: the first part in memory,
// the rest in a file without a name. Only tokens touch the disk, never values.
type spool struct {
	policy SwapPolicy
	head   []byte
	file   *os.File
	tail   int64 // bytes in file
}

func newSpool(policy SwapPolicy) *spool { return &spool{policy: policy} }

const spoolChunk = 64 << 10

// fill reads length bytes of body and returns how long the body is when s has
// swapped it. The swapped bytes themselves are thrown away: they are made again
// while the body is sent.
func (sp *spool) fill(body io.Reader, length int64, s *tokens.Scanner) (swapped int64, err error) {
	chunk := make([]byte, spoolChunk)
	scratch := make([]byte, 0, spoolChunk)
	sp.head = make([]byte, 0, sp.policy.BodyBuffer)
	for read := int64(0); read < length; {
		n, err := body.Read(chunk[:min(int64(len(chunk)), length-read)])
		read += int64(n)
		if err != nil && (err != io.EOF || read < length) {
			return 0, errBody(err)
		}
		if err := sp.keep(chunk[:n]); err != nil {
			return 0, fmt.Errorf("spooling the request body: %w", err)
		}
		if scratch, err = s.Append(scratch[:0], chunk[:n], read == length); err != nil {
			return 0, err
		}
		swapped += int64(len(scratch))
	}
	if n, err := body.Read(chunk[:1]); n > 0 || err != nil && err != io.EOF {
		return 0, errBody(fmt.Errorf("after the last byte: %w", err))
	}
	return swapped, nil
}

func (sp *spool) keep(p []byte) error {
	if room := cap(sp.head) - len(sp.head); room > 0 {
		n := min(room, len(p))
		sp.head = append(sp.head, p[:n]...)
		p = p[n:]
	}
	if len(p) == 0 {
		return nil
	}
	if sp.file == nil {
		// os.CreateTemp makes it with mode 0600.
		file, err := os.CreateTemp(sp.policy.SpoolDir, "starpod-body-*")
		if err != nil {
			return err
		}
		sp.file = file
		_ = os.Remove(file.Name()) // fails on Windows, where close does it
	}
	n, err := sp.file.Write(p)
	sp.tail += int64(n)
	return err
}

// reader returns a new reader of the whole original body.
func (sp *spool) reader() io.Reader {
	if sp.file == nil {
		return bytes.NewReader(sp.head)
	}
	return io.MultiReader(bytes.NewReader(sp.head), io.NewSectionReader(sp.file, 0, sp.tail))
}

func (sp *spool) close() {
	if sp.file != nil {
		_ = sp.file.Close()
		_ = os.Remove(sp.file.Name())
	}
	sp.head = nil
}
