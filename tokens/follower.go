package tokens

// follower reads a JSON object byte by byte and knows where it ends. It checks
// only what tells a payload from noise: noise is found out within a few bytes,
// and what gets through is authenticated and parsed afterwards.
type follower struct {
	depth int
	state followState
}

type followState uint8

const (
	followStart   followState = iota // before the first brace
	followFirst                      // behind it
	followOutside                    // further on, outside of strings
	followString
	followEscape // behind a backslash in a string
)

type followResult uint8

const (
	followMore followResult = iota
	followEnd               // this byte is the closing brace
	followDead              // no JSON object begins like this
)

// outsideBytes are the bytes that JSON has outside of strings.
var outsideBytes = func() (t [256]bool) {
	for _, c := range []byte("\t\n\r {}[]\":,+-.0123456789Etruefalsn") {
		t[c] = true
	}
	return t
}()

func (f *follower) step(b byte) followResult {
	switch f.state {
	case followString:
		switch {
		case b == '"':
			f.state = followOutside
		case b == '\\':
			f.state = followEscape
		case b < ' ':
			return followDead
		}
		return followMore
	case followEscape:
		f.state = followString
		switch b {
		case '"', '\\', '/', 'b', 'f', 'n', 'r', 't', 'u':
			return followMore
		}
		return followDead
	case followStart:
		if b != '{' {
			return followDead
		}
		f.state, f.depth = followFirst, 1
		return followMore
	case followFirst:
		switch b {
		case ' ', '\t', '\n', '\r':
			return followMore
		case '"', '}':
			f.state = followOutside
		default:
			return followDead
		}
	}
	return f.outside(b)
}

func (f *follower) outside(b byte) followResult {
	if !outsideBytes[b] {
		return followDead
	}
	switch b {
	case '"':
		f.state = followString
	case '{', '[':
		f.depth++
	case '}', ']':
		f.depth--
		if f.depth == 0 {
			return followEnd
		}
	}
	return followMore
}
