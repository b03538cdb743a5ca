package handler

import (
	"bytes"
	"io"
	"log"
)

// unsolicited is what http.Transport prints to the standard log when an upstream
// sends more than it announced. It quotes those bytes, and they may echo a value.
const unsolicited = "Unsolicited response received on idle HTTP channel"

// standardLog takes the quotation out of that line. There is no other way to
// it: the transport has no logger of its own.
type standardLog struct{ io.Writer }

func (w *standardLog) Write(p []byte) (int, error) {
	if i := bytes.Index(p, []byte(unsolicited)); i >= 0 {
		if _, err := w.Writer.Write(append(p[:i:i], unsolicited+"\n"...)); err != nil {
			return 0, err
		}
		return len(p), nil
	}
	return w.Writer.Write(p)
}

// guardStandardLog puts the filter in place. It is called for each request that
// carries a value, since Caddy gives the log another writer with each reload.
func guardStandardLog() {
	if current := log.Writer(); current != nil {
		if _, guarded := current.(*standardLog); !guarded {
			log.SetOutput(&standardLog{current})
		}
	}
}
