package handler

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"net/url"
)

type dialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// dialThrough opens a tunnel to dest with CONNECT through another proxy.
func dialThrough(ctx context.Context, proxy *url.URL, dest Destination, dial dialFunc, config *tls.Config) (net.Conn, error) {
	conn, err := dial(ctx, "tcp", proxyAddr(proxy))
	if err != nil {
		return nil, err
	}
	if proxy.Scheme == "https" {
		config = config.Clone()
		config.ServerName = proxy.Hostname()
		conn = tls.Client(conn, config)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	tunnel, err := requestTunnel(conn, proxy, dest)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return tunnel, nil
}

func requestTunnel(conn net.Conn, proxy *url.URL, dest Destination) (net.Conn, error) {
	request := &http.Request{
		Method: http.MethodConnect, Host: dest.HostPort(),
		URL: &url.URL{Opaque: dest.HostPort()}, Header: http.Header{"User-Agent": {""}},
	}
	if proxy.User != nil {
		password, _ := proxy.User.Password()
		credentials := base64.StdEncoding.EncodeToString([]byte(proxy.User.Username() + ":" + password))
		request.Header.Set("Proxy-Authorization", "Basic "+credentials)
	}
	if err := request.Write(conn); err != nil {
		return nil, fmt.Errorf("asking the upstream proxy: %w", err)
	}
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, request)
	if err != nil {
		return nil, fmt.Errorf("reading the upstream proxy's answer: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the upstream proxy answered %d", response.StatusCode)
	}
	if reader.Buffered() > 0 {
		return &bufferedConn{Conn: conn, early: reader}, nil
	}
	return conn, nil
}

// proxyAddr returns host:port of a proxy URL, with the default port of its scheme.
func proxyAddr(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), port)
}
