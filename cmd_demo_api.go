package starpod

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/starpod/caddy-starpod/ca"
)

// demoAnswer begins the answers of the API.
const demoAnswer = "You sent:"

// demoAPI is an HTTPS server on loopback that answers under any name, with
// certificates of an authority of its own, and keeps the requests it receives.
type demoAPI struct {
	rootFile string // PEM file with the authority's root
	listener net.Listener
	server   *http.Server

	mu       sync.Mutex
	requests map[string]string // by name
}

func startDemoAPI(rootFile string) (*demoAPI, error) {
	root, err := ca.Generate(time.Now())
	if err != nil {
		return nil, err
	}
	authority, err := ca.New(root, ca.Options{})
	if err != nil {
		return nil, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: authority.Roots()[0].Raw})
	if err := os.WriteFile(rootFile, text, 0o600); err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	api := &demoAPI{rootFile: rootFile, listener: listener, requests: map[string]string{}}
	api.server = &http.Server{
		Handler:           api,
		ReadHeaderTimeout: demoTimeout,
		ErrorLog:          log.New(io.Discard, "", 0),
		TLSConfig: &tls.Config{GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			return authority.Leaf(hello.Context(), hello.ServerName)
		}},
	}
	go func() { _ = api.server.ServeTLS(listener, "", "") }()
	return api, nil
}

// ServeHTTP keeps the request, and repeats in its answer what should be masked.
func (a *demoAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	request, err := httputil.DumpRequest(r, true)
	if err != nil {
		http.Error(w, "the request broke off", http.StatusBadRequest)
		return
	}
	a.mu.Lock()
	a.requests[r.TLS.ServerName] = string(request)
	a.mu.Unlock()
	fmt.Fprintln(w, demoAnswer, r.Header.Get("Authorization"))
}

func (a *demoAPI) url(host string) string { return "https://" + a.address(host) + "/v1/hello" }

func (a *demoAPI) address(host string) string {
	return fmt.Sprintf("%s:%d", host, a.listener.Addr().(*net.TCPAddr).Port)
}

func (a *demoAPI) received(host string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.requests[host]
}

func (a *demoAPI) close() { _ = a.server.Close() }

// demoResolver finds every name at 127.0.0.1. Questions go over a pipe within
// this process.
func demoResolver() *net.Resolver {
	return &net.Resolver{
		PreferGo: true,
		Dial: func(context.Context, string, string) (net.Conn, error) {
			client, server := net.Pipe()
			go answerLoopback(&dns.Conn{Conn: server})
			return client, nil
		},
	}
}

// answerLoopback answers questions for IPv4 addresses until the asker hangs up.
func answerLoopback(conn *dns.Conn) {
	defer conn.Close()
	for {
		question, err := conn.ReadMsg()
		if err != nil || len(question.Question) != 1 {
			return
		}
		answer := new(dns.Msg).SetReply(question)
		if q := question.Question[0]; q.Qtype == dns.TypeA {
			header := dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: dns.ClassINET}
			answer.Answer = []dns.RR{&dns.A{Hdr: header, A: net.IPv4(127, 0, 0, 1)}}
		}
		if err := conn.WriteMsg(answer); err != nil {
			return
		}
	}
}
