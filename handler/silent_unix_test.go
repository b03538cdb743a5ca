//go:build unix

package handler

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// layers are those that a connection to a destination may have around its socket.
func layers(t *testing.T) map[string]func(client, server net.Conn) (net.Conn, net.Conn) {
	pki := testbench.NewPKI(t)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pki.RootPEM)
	wrap := func(client, server net.Conn) (net.Conn, net.Conn) {
		server = tls.Server(server, &tls.Config{Certificates: []tls.Certificate{pki.Leaf(t)}})
		client = tls.Client(client, &tls.Config{RootCAs: roots, ServerName: testbench.APIHost})
		return client, server
	}
	return map[string]func(client, server net.Conn) (net.Conn, net.Conn){
		"TCP":      func(client, server net.Conn) (net.Conn, net.Conn) { return client, server },
		"TLS":      wrap,
		"buffered": func(client, server net.Conn) (net.Conn, net.Conn) { return &bufferedConn{Conn: client}, server },
		"buffered TLS": func(client, server net.Conn) (net.Conn, net.Conn) {
			client, server = wrap(client, server)
			return &bufferedConn{Conn: client}, server
		},
	}
}

// TestSilent: an idle connection is good only as long as nothing has come over it,
// also where an upstream proxy's TLS stands between it and its socket.
func TestSilent(t *testing.T) {
	for name, layer := range layers(t) {
		for _, test := range []struct {
			name string
			then func(t *testing.T, server, socket net.Conn)
		}{
			{"data", func(t *testing.T, server, _ net.Conn) { passByte(t, server, server, false) }},
			{"end", func(_ *testing.T, server, _ net.Conn) { _ = server.Close() }},
			{"end without a word", func(_ *testing.T, _, socket net.Conn) { _ = socket.Close() }},
			{"reset", func(_ *testing.T, _, socket net.Conn) {
				_ = socket.(*net.TCPConn).SetLinger(0)
				_ = socket.Close()
			}},
		} {
			t.Run(name+", "+test.name, func(t *testing.T) {
				clientSocket, serverSocket := tcpPair(t)
				client, server := layer(clientSocket, serverSocket)
				passByte(t, server, client, true)
				for range 3 {
					if !silent(client) {
						t.Fatal("got that something has come, want that nothing has")
					}
				}
				passByte(t, server, client, true) // looking has not spoilt it
				test.then(t, server, serverSocket)
				testbench.Await(t, 10*time.Second, func() error {
					if silent(client) {
						return errors.New("got that nothing has come, want that something has")
					}
					return nil
				})
			})
		}
	}
}

// TestSilentLooksIntoLayers: what a layer has taken from the socket counts.
func TestSilentLooksIntoLayers(t *testing.T) {
	client, _ := tcpPair(t)
	early := bufio.NewReader(strings.NewReader("early"))
	if _, err := early.Peek(5); err != nil {
		t.Fatal(err)
	}
	if silent(&bufferedConn{Conn: client, early: early}) {
		t.Error("buffered: got that nothing has come, want that something has")
	}

	clientSocket, serverSocket := tcpPair(t)
	client, server := layers(t)["TLS"](clientSocket, serverSocket)
	passByte(t, server, client, true)
	if _, err := server.Write([]byte("ab")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(client, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if silent(client) {
		t.Error("TLS: got that nothing has come, want that something has")
	}
}

// tcpPair is both ends of a connection.
func tcpPair(t *testing.T) (client, server net.Conn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if client, err = net.Dial("tcp", listener.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	if server, err = listener.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	return client, server
}

// passByte writes a byte to one end and, if read is set, reads it at the other.
func passByte(t *testing.T, from, to net.Conn, read bool) {
	t.Helper()
	wrote := make(chan error, 1)
	go func() { // a handshake needs both ends
		_, err := from.Write([]byte("x"))
		wrote <- err
	}()
	if read {
		if _, err := io.ReadFull(to, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-wrote; err != nil {
		t.Fatal(err)
	}
}
