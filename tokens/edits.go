package tokens

import (
	"bytes"
	"io"
)

// Edits are what a [Scanner] changed in one text, so that the changed text can be
// read from the original again without another scan. They hold values in the clear.
type Edits struct {
	// Limit is how many bytes they may take. Beyond it they are not Complete.
	Limit int

	list    []edit
	settled int64 // how much of the original is behind the scanner, in bytes
	taken   int
}

// edit stands for one or more changes with nothing between them.
type edit struct {
	at, skip int64 // what is left out of the original, in bytes
	text     []byte
}

// editSize is what an edit takes beside its text, in bytes.
const editSize = 64

// Complete reports whether all changes of the text were noted.
func (e *Edits) Complete() bool { return e.taken <= e.Limit }

// Reader reads the changed text. The original has size bytes.
func (e *Edits) Reader(original io.ReaderAt, size int64) io.Reader {
	parts := make([]io.Reader, 0, 2*len(e.list)+1)
	at := int64(0)
	for _, c := range e.list {
		parts = append(parts, io.NewSectionReader(original, at, c.at-at), bytes.NewReader(c.text))
		at = c.at + c.skip
	}
	return io.MultiReader(append(parts, io.NewSectionReader(original, at, size-at))...)
}

// note adds a change: text stands for the next skip bytes of the original.
func (e *Edits) note(skip int, text []byte) {
	at := e.settled
	e.settled += int64(skip)
	if !e.Complete() {
		return
	}
	last := len(e.list) - 1
	joins := last >= 0 && e.list[last].at+e.list[last].skip == at
	if e.taken += len(text); !joins {
		e.taken += editSize
	}
	switch {
	case !e.Complete():
		e.list = nil
	case joins:
		e.list[last].skip += int64(skip)
		e.list[last].text = append(e.list[last].text, text...)
	default:
		e.list = append(e.list, edit{at, int64(skip), bytes.Clone(text)})
	}
}
