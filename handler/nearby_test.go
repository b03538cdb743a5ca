package handler

import (
	"crypto/tls"
	"net"
	"net/netip"
	"testing"
)

// farConn is a connection from an address.
type farConn struct {
	net.Conn
	from netip.AddrPort
}

func (c farConn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.from) }

// TestNearbyClients: a client on this machine is spared the key exchange that keeps
// what is recorded from computers of the future; nobody else is.
func TestNearbyClients(t *testing.T) {
	for _, test := range []struct {
		from    string
		trusted bool
		nearby  bool
	}{
		{"127.0.0.1:1", false, true},
		{"[::1]:1", false, true},
		{"[::ffff:127.0.0.1]:1", false, true},
		{"192.0.2.1:1", false, false},
		{"[2001:db8::1]:1", false, false},
		{"198.18.0.7:1", true, true}, // of a sealed namespace
	} {
		c := &tunnel{Conn: farConn{from: netip.MustParseAddrPort(test.from)}, trusted: test.trusted}
		if got := c.isNearby(); got != test.nearby {
			t.Errorf("%s, trusted %v: got %v, want %v", test.from, test.trusted, got, test.nearby)
		}
	}
	b := newBench(t, nil)
	for name, test := range map[string]struct {
		config *tls.Config
		want   tls.CurveID
	}{
		"nearby": {b.inner().nearby, tls.X25519},
		"far":    {b.inner().tls, tls.X25519MLKEM768},
	} {
		client, server := net.Pipe()
		secure := tls.Server(server, withLeaf(t, test.config))
		go func() { _ = secure.Handshake() }()
		conn := tls.Client(client, &tls.Config{InsecureSkipVerify: true, ServerName: "a.test"})
		if err := conn.Handshake(); err != nil {
			t.Fatal(err)
		}
		if got := conn.ConnectionState().CurveID; got != test.want {
			t.Errorf("%s: got %v, want %v", name, got, test.want)
		}
		_ = client.Close()
		_ = server.Close()
	}
}

// inner is the server of what is in tunnels.
func (b *bench) inner() *innerServer {
	b.proxy.Init()
	return b.proxy.inner
}

// withLeaf is the configuration with a certificate for whoever asks.
func withLeaf(t *testing.T, config *tls.Config) *tls.Config {
	t.Helper()
	b := newBench(t, nil)
	authority, err := b.proxy.Authority(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := authority.Leaf(t.Context(), "a.test")
	if err != nil {
		t.Fatal(err)
	}
	config = config.Clone()
	config.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return leaf, nil }
	return config
}
