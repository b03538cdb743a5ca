package tokens

import "io"

// Reader scans a stream as it is read. It passes on what r has without waiting
// for more, but for bytes that may belong to a token. An error of r other than
// [io.EOF] ends the stream without what was held back, so a text that was cut
// off stays so.
func (s *Scanner) Reader(r io.Reader) io.Reader {
	return &reader{scanner: s, source: r}
}

type reader struct {
	scanner *Scanner
	source  io.Reader
	buf     []byte // reused for what was scanned
	out     []byte // the part of buf that is still to be read
	err     error  // what to return behind it
}

func (r *reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(r.out) == 0 {
		if r.err != nil {
			return 0, r.err
		}
		// Nearly all that is read holds no token and can stay where it is.
		n, err := r.source.Read(p)
		if n == 0 && err == nil {
			return 0, nil
		}
		if err == nil && r.scanner.passes(p[:n]) {
			if n -= r.scanner.matched; n > 0 {
				return n, nil
			}
			continue
		}
		r.fill(p[:n], err)
	}
	n := copy(p, r.out)
	r.out = r.out[n:]
	return n, nil
}

// fill scans what was read together with err.
func (r *reader) fill(p []byte, err error) {
	r.buf, r.err = r.scanner.Append(r.buf[:0], p, err == io.EOF)
	r.out = r.buf
	if r.err == nil {
		r.err = err
	}
}
