package handler

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/starpod/caddy-starpod/tokens"
)

// TrustRoots returns the system's roots and those of the PEM files; nil where
// no file is named, which means the system's.
func TrustRoots(files []string) (*x509.CertPool, error) {
	if len(files) == 0 {
		return nil, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	for _, file := range files {
		pem, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("trust: %w", err)
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("trust: %s holds no certificate in PEM form", file)
		}
	}
	return pool, nil
}

// ParseUpstream reads the URL of an upstream proxy.
func ParseUpstream(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, errors.New("upstream: not a URL") // the error would quote a password
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return nil, errors.New("upstream: write it as http://host:port or https://host:port")
	}
	return u, nil
}

func parsePolicy(word string) (tokens.Policy, error) {
	switch word {
	case "":
		return tokens.Default, nil
	case "strip":
		return tokens.Strip, nil
	case "pass":
		return tokens.Pass, nil
	case "deny":
		return tokens.Deny, nil
	}
	return 0, fmt.Errorf("%q is unknown: choose strip, deny or pass", word)
}

func parsePlaintext(word string) (Plaintext, error) {
	switch word {
	case "", "replace":
		return PlaintextReplace, nil
	case "strip":
		return PlaintextStrip, nil
	case "deny":
		return PlaintextDeny, nil
	}
	return 0, fmt.Errorf("%q is unknown: choose replace, strip or deny", word)
}

// checkUpstream looks at the URL as it stands in the configuration, which
// everyone who may see the configuration can read.
func checkUpstream(text string) error {
	_, credentials, found := strings.Cut(text, "://")
	at := strings.LastIndexByte(credentials, '@')
	if !found || at < 0 {
		if text == "" || strings.HasPrefix(text, "{") {
			return nil
		}
		_, err := ParseUpstream(text)
		return err
	}
	_, password, found := strings.Cut(credentials[:at], ":")
	if found && !strings.HasPrefix(password, "{") {
		return errors.New("upstream: a password in the configuration could be read there; " +
			"put it into a file and write {file./path/of/the/file} in its place")
	}
	return nil
}

func checkHosts(patterns []string) error {
	for _, pattern := range patterns {
		if err := tokens.CheckHostPattern(pattern); err != nil {
			return fmt.Errorf("%q: %w", pattern, err)
		}
	}
	return nil
}
