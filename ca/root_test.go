package ca

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"
)

func TestGenerateMakesAnAuthority(t *testing.T) {
	now := time.Date(2031, 2, 3, 4, 5, 6, 0, time.UTC)
	r, err := Generate(now)
	if err != nil {
		t.Fatal(err)
	}
	c := r.Roots()[0]
	for what, ok := range map[string]bool{
		"subject":         c.Subject.String() == "CN=Starpod Secret Proxy CA,O=Starpod",
		"CA:TRUE":         c.IsCA && c.BasicConstraintsValid,
		"pathlen 0":       c.MaxPathLen == 0 && c.MaxPathLenZero,
		"key usage":       c.KeyUsage == x509.KeyUsageCertSign|x509.KeyUsageCRLSign,
		"from":            c.NotBefore.Equal(now.Add(-time.Hour)),
		"until":           c.NotAfter.Equal(now.AddDate(10, 0, 0)),
		"P-256":           c.PublicKey.(*ecdsa.PublicKey).Curve.Params().Name == "P-256",
		"subject key id":  len(c.SubjectKeyId) > 0,
		"signs itself":    c.CheckSignatureFrom(c) == nil,
		"positive serial": c.SerialNumber.Sign() > 0,
	} {
		if !ok {
			t.Errorf("%s is wrong in %+v", what, c)
		}
	}
}

func TestLeafCertificates(t *testing.T) {
	label := strings.Repeat("a", 61)
	longest := strings.Join([]string{label, label, label, label, "bcdef"}, ".") // 253 characters
	for _, tc := range []struct {
		what, name string
		want       string // as it stands in the certificate
		wantCN     string
	}{
		{"a host", "api.github.com", "api.github.com", "api.github.com"},
		{"upper case", "API.GitHub.COM", "api.github.com", "api.github.com"},
		{"final dot", "api.github.com.", "api.github.com", "api.github.com"},
		{"one label", "localhost", "localhost", "localhost"},
		{"A-label", "xn--bcher-kva.example", "xn--bcher-kva.example", "xn--bcher-kva.example"},
		{"underscore", "my_host._tcp.example.com", "my_host._tcp.example.com", "my_host._tcp.example.com"},
		{"hyphens at the end of a label", "r3---sn-.example.com", "r3---sn-.example.com", "r3---sn-.example.com"},
		{"64 characters", label[:60] + ".com", label[:60] + ".com", label[:60] + ".com"},
		{"65 characters", label + ".com", label + ".com", ""},
		{"253 characters", longest, longest, ""},
		{"IPv4", "192.0.2.7", "192.0.2.7", "192.0.2.7"},
		{"IPv6", "2001:DB8:0:0::1", "2001:db8::1", "2001:db8::1"},
		{"IPv4 in IPv6", "::ffff:192.0.2.7", "192.0.2.7", "192.0.2.7"},
	} {
		t.Run(tc.what, func(t *testing.T) {
			cert, err := newAuthority(t, newRoot(t), Options{}).Leaf(t.Context(), tc.name)
			if err != nil {
				t.Fatal(err)
			}
			leaf := cert.Leaf
			got := strings.Join(leaf.DNSNames, ",")
			for _, ip := range leaf.IPAddresses {
				got += ip.String()
			}
			if got != tc.want {
				t.Errorf("SAN = %q, want %q", got, tc.want)
			}
			if leaf.Subject.CommonName != tc.wantCN {
				t.Errorf("CN = %q, want %q", leaf.Subject.CommonName, tc.wantCN)
			}
			if ip := net.ParseIP(tc.want); ip != nil && ip.To4() != nil && len(leaf.IPAddresses[0]) != 4 {
				t.Errorf("IPv4 address takes %d bytes, want 4", len(leaf.IPAddresses[0]))
			}
		})
	}
}

func TestNamesThatNoCertificateIsMadeFor(t *testing.T) {
	r := newRoot(t)
	a := newAuthority(t, r, Options{})
	for what, name := range map[string]string{
		"empty":               "",
		"only a dot":          ".",
		"wildcard":            "*.github.com",
		"star":                "*",
		"port":                "api.github.com:443",
		"bracketed IPv6":      "[::1]",
		"zone":                "fe80::1%eth0",
		"254 characters":      strings.Repeat("a.", 126) + "bc",
		"254 and a dot":       strings.Repeat("a.", 126) + "bc.",
		"label of 64":         strings.Repeat("a", 64) + ".com",
		"empty label":         "api..com",
		"first label empty":   ".com",
		"hyphen first":        "-api.com",
		"space":               "api github.com",
		"slash":               "api.github.com/x",
		"NUL":                 "api.github.com\x00.evil.com",
		"line feed":           "api.github.com\n",
		"U-label":             "bücher.example",
		"user":                "user@api.github.com",
		"percent":             "api%2egithub.com",
		"two dots at the end": "api.github.com..",
	} {
		t.Run(what, func(t *testing.T) {
			if _, err := a.Leaf(t.Context(), name); !errors.Is(err, ErrName) {
				t.Errorf("Leaf(%q) = %v, want ErrName", name, err)
			}
			if _, err := r.Sign(t.Context(), name, newKey(t)); !errors.Is(err, ErrName) {
				t.Errorf("Sign(%q) = %v, want ErrName", name, err)
			}
		})
	}
}

func TestLeafIsAShortLivedServerCertificate(t *testing.T) {
	r := newRoot(t)
	c := &clock{now: time.Now().Truncate(time.Second)}
	cert, err := newAuthority(t, r, Options{Now: c.Now}).Leaf(t.Context(), "api.github.com")
	if err != nil {
		t.Fatal(err)
	}
	l := cert.Leaf
	for what, ok := range map[string]bool{
		"from":             l.NotBefore.Equal(c.now.Add(-time.Hour)),
		"until":            l.NotAfter.Equal(c.now.Add(24 * time.Hour)),
		"key usage":        l.KeyUsage == x509.KeyUsageDigitalSignature,
		"server auth only": len(l.ExtKeyUsage) == 1 && l.ExtKeyUsage[0] == x509.ExtKeyUsageServerAuth,
		"not a CA":         !l.IsCA && l.BasicConstraintsValid,
		"authority key id": bytes.Equal(l.AuthorityKeyId, r.cert.SubjectKeyId),
		"no root in chain": len(cert.Certificate) == 1,
		"serial size":      l.SerialNumber.Sign() > 0 && l.SerialNumber.BitLen() <= 129,
	} {
		if !ok {
			t.Errorf("%s is wrong in %+v", what, l)
		}
	}
}

func TestSerialNumbersDiffer(t *testing.T) {
	seen := make(map[string]bool)
	for range 100 {
		n, err := newSerial()
		if err != nil {
			t.Fatal(err)
		}
		if seen[n.String()] {
			t.Fatalf("serial %v came twice", n)
		}
		seen[n.String()] = true
	}
}

func TestLeafEndsWithItsRoot(t *testing.T) {
	r := newRoot(t)
	c := &clock{now: r.cert.NotAfter.Add(-90 * time.Minute)}
	a := newAuthority(t, r, Options{Now: c.Now})
	cert, err := a.Leaf(t.Context(), "api.github.com")
	if err != nil {
		t.Fatal(err)
	}
	if !cert.Leaf.NotAfter.Equal(r.cert.NotAfter) {
		t.Errorf("leaf ends %v, want the root's end %v", cert.Leaf.NotAfter, r.cert.NotAfter)
	}
	c.Advance(50 * time.Minute) // 40 of 90 minutes left: more than a third
	if again, _ := a.Leaf(t.Context(), "api.github.com"); again != cert {
		t.Error("leaf was minted again although more than a third of its life was left")
	}
	c.Advance(40 * time.Minute)
	if _, err = a.Leaf(t.Context(), "api.github.com"); err == nil || !strings.Contains(err.Error(), "expired on") {
		t.Errorf("error after the root's end = %v, want one that says it expired", err)
	}
}

func TestRootNeverPrintsItsKey(t *testing.T) {
	r := newRoot(t)
	key := r.key.(*ecdsa.PrivateKey)
	d, err := key.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	a := newAuthority(t, r, Options{})
	leafD, err := a.key.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	var forms []string
	for _, secret := range [][]byte{d, leafD} {
		words := strings.Trim(fmt.Sprint(new(big.Int).SetBytes(secret).Bits()), "[]")
		forms = append(forms,
			new(big.Int).SetBytes(secret).String(), hex.EncodeToString(secret),
			strings.Fields(words)[0], strings.Trim(fmt.Sprint(secret), "[]"), string(secret))
	}
	type holder struct {
		Exported any
		hidden   any
		Value    Root
	}
	for what, v := range map[string]any{
		"pointer": r, "value": *r, "authority": a, "held": holder{r, r, *r}, "held by pointer": &holder{a, a, *r},
		"slice": []*Root{r}, "map": map[string]Root{"root": *r}, "error": fmt.Errorf("signing with %v: %w", r, context.Canceled),
	} {
		var texts []string
		for _, flags := range []string{"", "+", "#", " ", "0", "-", "10", "+#"} {
			for verb := byte('A'); verb <= 'z'; verb++ {
				texts = append(texts, fmt.Sprintf("%"+flags+string(verb), v))
			}
		}
		encoded, _ := json.Marshal(v)
		texts = append(texts, string(encoded))
		for _, text := range texts {
			for _, form := range forms {
				if strings.Contains(strings.ToLower(text), strings.ToLower(form)) {
					t.Fatalf("%s shows a private key: %s", what, text)
				}
			}
		}
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x", "%t"} {
		if got := fmt.Sprintf(verb, *r); got != r.String() || !strings.Contains(got, rootCommonName) {
			t.Errorf("%s = %q, want the authority's name", verb, got)
		}
	}
	if got, _ := json.Marshal(r); !strings.Contains(string(got), rootCommonName) {
		t.Errorf("JSON = %s, want the authority's name", got)
	}
}
