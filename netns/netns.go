// Package netns makes Linux network namespaces whose only way out is a proxy,
// and starts programs in them. It knows sockets, addresses and names, and
// nothing of what is said over them.
//
// There are two kinds of namespace:
//
//   - sealed ([Cell]): one command's own user and network namespace with nothing
//     but a loopback interface, to which every address there is has been routed.
//     The proxy listens in it, so to the command the proxy is the internet. It
//     needs no privileges where unprivileged user namespaces are allowed.
//   - veth ([Veth]): a named namespace that services join from outside, with a
//     pair of interfaces to the host and firewall rules that let nothing pass but
//     what leads to the proxy. It needs root.
//
// Both have a name service ([Names], [NameService]) that gives each name an
// address of its own, and so knows the name again when a connection to the
// address arrives.
package netns

import "errors"

// Unavailable says why a kind of namespace cannot be had on this machine.
type Unavailable struct {
	Reason string // a few words that fit into a log line, like "missing CAP_NET_ADMIN"
	Mend   string // what to do about it; may be empty
	Err    error  // the cause; may be nil
}

func (u *Unavailable) Error() string {
	text := u.Reason
	if u.Err != nil {
		text += ": " + u.Err.Error()
	}
	if u.Mend != "" {
		text += "; " + u.Mend
	}
	return text
}

func (u *Unavailable) Unwrap() error { return u.Err }

// Why returns the reason of an Unavailable in err, else the text of err.
func Why(err error) string {
	if u := (*Unavailable)(nil); errors.As(err, &u) {
		return u.Reason
	}
	return err.Error()
}
