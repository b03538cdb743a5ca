// Command goproxy is an intercepting proxy on elazarl/goproxy that writes a value
// in the place of a placeholder in Authorization: a peer for the bench beside it.
// Its certificates are kept, and 100 idle connections to each host, without which
// it mints and dials for most requests.
//
// Placeholder and value are in the environment, as PLACEHOLDER and VALUE.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"flag"
	"log"
	"net/http"
	"os"
	"strings"
	"sync"

	"github.com/elazarl/goproxy"
)

func main() {
	listen := flag.String("listen", "", "address to listen at")
	cert := flag.String("cert", "", "PEM file with the authority that signs for hosts")
	key := flag.String("key", "", "PEM file with its key")
	trust := flag.String("trust", "", "PEM file with the roots of hosts")
	flag.Parse()

	authority, err := tls.LoadX509KeyPair(*cert, *key)
	if err != nil {
		log.Fatal(err)
	}
	roots, err := os.ReadFile(*trust)
	if err != nil {
		log.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(roots)
	log.Fatal(http.ListenAndServe(*listen, proxy(&authority, pool)))
}

func proxy(authority *tls.Certificate, roots *x509.CertPool) http.Handler {
	p := goproxy.NewProxyHttpServer()
	p.CertStore = new(certificates)
	p.Tr.TLSClientConfig = &tls.Config{RootCAs: roots} // by default it verifies nobody
	p.Tr.MaxIdleConnsPerHost = 100
	intercept := &goproxy.ConnectAction{Action: goproxy.ConnectMitm, TLSConfig: goproxy.TLSConfigFromCA(authority)}
	p.OnRequest().HandleConnectFunc(func(host string, _ *goproxy.ProxyCtx) (*goproxy.ConnectAction, string) {
		return intercept, host
	})
	swap := strings.NewReplacer(os.Getenv("PLACEHOLDER"), os.Getenv("VALUE"))
	p.OnRequest().DoFunc(func(r *http.Request, _ *goproxy.ProxyCtx) (*http.Request, *http.Response) {
		r.Header.Set("Authorization", swap.Replace(r.Header.Get("Authorization")))
		return r, nil
	})
	return p
}

// certificates keeps those that were made, by host.
type certificates struct{ byHost sync.Map }

func (c *certificates) Fetch(host string, mint func() (*tls.Certificate, error)) (*tls.Certificate, error) {
	if kept, ok := c.byHost.Load(host); ok {
		return kept.(*tls.Certificate), nil
	}
	fresh, err := mint()
	if err == nil {
		c.byHost.Store(host, fresh)
	}
	return fresh, err
}
