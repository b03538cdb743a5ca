package testbench

import (
	"math/rand/v2"
	"net"
	"strconv"
	"testing"
)

// FreePort returns a port of 127.0.0.1 on which nobody listens, for a server
// that must be told its port. It lies below the range that the kernel gives to
// outgoing connections, so only another listener could take it meanwhile; until
// then it refuses connections.
func FreePort(tb testing.TB) int {
	tb.Helper()
	for range 100 {
		port := 12000 + rand.IntN(20000)
		listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			continue
		}
		listener.Close()
		return port
	}
	tb.Fatal("no free port on 127.0.0.1")
	return 0
}
