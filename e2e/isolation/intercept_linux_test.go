package isolation

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// stubbornMode makes the test binary a Go program that ignores proxy variables,
// and perhaps names, too: its arguments are a URL and "" or an address to dial.
const stubbornMode = "stubborn"

// politeMode makes it one that does as the standard library does by itself. Its
// argument is a URL.
const politeMode = "polite"

func stubborn(target, dial string) error {
	transport, err := stubbornTransport()
	if err != nil {
		return err
	}
	if dial != "" {
		transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, dial)
		}
	}
	return show(&http.Client{Transport: transport}, target)
}

// show prints the answer.
func show(client *http.Client, target string) error {
	r, err := http.NewRequest(http.MethodGet, target, nil)
	if err != nil {
		return err
	}
	r.Header.Set("X-Key", os.Getenv("API_KEY"))
	response, err := client.Do(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("got status %s", response.Status)
	}
	_, err = io.Copy(os.Stdout, response.Body)
	return err
}

func stubbornTransport() (*http.Transport, error) {
	pem, err := os.ReadFile(os.Getenv("SSL_CERT_FILE"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	return &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}, nil
}

// TestIntercepts swaps for clients that know nothing of the proxy, or want to know
// nothing of it.
func TestIntercepts(t *testing.T) {
	w := newWorld(t)
	const curl = `curl -q -sS -f -H "X-Key: $API_KEY" --noproxy '*' `
	https, plain := "https://"+apiName+"/", "http://"+apiName+"/"
	clients := []struct {
		name    string
		command []string
		want    string
	}{
		{"curl that uses no proxy", []string{"sh", "-c", curl + https}, canary},
		{"plain HTTP without a proxy", []string{"sh", "-c", curl + plain}, canary},
		{"an address with a server name", []string{"sh", "-c", curl + "--resolve " + apiName + ":443:" + outside4 + " " + https}, canary},
		{"no variables at all", []string{"sh", "-c", `env -i PATH="$PATH" curl -q -sS -f --cacert "$SSL_CERT_FILE" -H "X-Key: $API_KEY" ` + https}, canary},
		{"another host", []string{"sh", "-c", curl + "https://" + evilName + "/"}, ""},
		{"a Go program that ignores proxies", []string{w.attacker, stubbornMode, https, ""}, canary},
		{"a Go program that dials an address", []string{w.attacker, stubbornMode, https, outside4 + ":443"}, canary},
		{"a Go program over plain HTTP", []string{w.attacker, stubbornMode, plain, ""}, canary},
		{"a Java program that ignores proxies", []string{"java", filepath.Join(w.openDir, "Stubborn.java"), https}, canary},
	}
	java, err := os.ReadFile("testdata/Stubborn.java")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(w.openDir, "Stubborn.java"), java, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, driver := range []string{"sealed", "veth"} {
		for _, client := range clients {
			t.Run(driver+", "+client.name, func(t *testing.T) {
				if client.command[0] == "java" && exec.Command("java", "--list-modules").Run() != nil {
					t.Fatal("java is missing: scripts/test-deps.sh installs it")
				}
				w.api.Forget()
				flags := []string{"--isolation", driver, "--env-file", w.hiddenFile, "--trust", w.pki.RootFile(t)}
				output(t, w.run(t, false, flags, client.command...))
				if got := w.api.Last(t).Header.Get("X-Key"); got != client.want {
					t.Errorf("got %q upstream, want %q", got, client.want)
				}
			})
		}
	}
	if strings.Contains(string(w.api.Dump()), "starpod:v1:") {
		t.Error("got a token upstream")
	}
}
