//go:build !unix

package handler

import "net"

// canLook says that silent cannot tell: requests that must not be sent twice are
// not sent over connections that may have been closed meanwhile.
const canLook = false

func silent(net.Conn) bool { return true }
