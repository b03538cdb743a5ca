package handler

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// TestUnsolicitedAnswerTellsNoValue: an upstream that sends more than it
// announced, on a connection that is kept.
func TestUnsolicitedAnswerTellsNoValue(t *testing.T) {
	b := newBench(t, nil)
	watchSecrecy(b)
	gone := make(chan struct{})
	port := b.rawUpstream(true, func(conn net.Conn) {
		defer close(gone)
		r := bufio.NewReader(conn)
		head, _ := readHead(r)
		_, key, _ := strings.Cut(head, "X-Key: ")
		key, _, _ = strings.Cut(key, "\r\n")
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"+key)
		_, _ = io.Copy(io.Discard, r)
	})
	b.do(b.client(false), b.request("GET", fmt.Sprintf("https://api.starpod.test:%d/", port), "", "X-Key", b.token("api.starpod.test")))
	testbench.Await(t, longest, func() error {
		select {
		case <-gone:
			return nil
		default:
			return errors.New("the connection is still open")
		}
	})
}
