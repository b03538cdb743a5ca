package testbench

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Client is an unmodified HTTP client as a command. With a URL as one more
// argument it posts {"key":"$API_TOKEN"} as application/json with the header
// "Authorization: Bearer $API_TOKEN", and prints the answer.
type Client struct {
	Name string
	Argv []string
	// Proto is what the client speaks to a TLS server that offers HTTP/2.
	Proto string
	// TunnelsHTTP marks a client that asks a proxy for http:// with CONNECT, too.
	TunnelsHTTP bool
}

// Clients returns the clients of the contract: curl with HTTP/1.1 and HTTP/2,
// wget, Node's fetch and its older modules, Python's urllib and Go's net/http.
func Clients(tb testing.TB) []Client {
	tb.Helper()
	root, err := ModuleRoot()
	if err != nil {
		tb.Fatal(err)
	}
	testdata := filepath.Join(root, "internal", "testbench", "testdata")
	goClient := filepath.Join(tb.TempDir(), "goclient")
	build := exec.CommandContext(tb.Context(), "go", "build", "-o", goClient, filepath.Join(testdata, "goclient"))
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		tb.Fatalf("building the Go client: %v\n%s", err, out)
	}
	node := Node(tb)
	return []Client{
		{Name: "curl h1", Argv: curl("--http1.1"), Proto: "HTTP/1.1"},
		{Name: "curl h2", Argv: curl("--http2"), Proto: "HTTP/2.0"},
		{Name: "wget", Argv: wget(), Proto: "HTTP/1.1"},
		{Name: "Node fetch", Argv: []string{node, filepath.Join(testdata, "client.mjs")}, Proto: "HTTP/1.1", TunnelsHTTP: true},
		{Name: "Node request", Argv: []string{node, filepath.Join(testdata, "request.mjs")}, Proto: "HTTP/1.1"},
		{Name: "Python urllib", Argv: []string{"python3", filepath.Join(testdata, "client.py")}, Proto: "HTTP/1.1"},
		{Name: "Go net/http", Argv: []string{goClient}, Proto: "HTTP/2.0"},
	}
}

// The shell reads the token from the environment; the commands know no proxy.
const (
	bearerHeader = `"Authorization: Bearer $API_TOKEN"`
	jsonHeader   = `"Content-Type: application/json"`
	jsonBody     = `"{\"key\":\"$API_TOKEN\"}"`
)

func curl(version string) []string {
	return []string{"sh", "-c", `exec curl -sS ` + version + ` -H ` + bearerHeader + ` -H ` + jsonHeader +
		` -d ` + jsonBody + ` "$1"`, "curl"}
}

func wget() []string {
	return []string{"sh", "-c", `exec wget -q -O - --header=` + bearerHeader + ` --header=` + jsonHeader +
		` --post-data=` + jsonBody + ` "$1"`, "wget"}
}

// TrustVariables returns the environment that makes the clients, and git, trust
// the roots in a PEM file: what a program does for its children.
//
// Debian's wget is built with GnuTLS and reads no variable for its roots, but it
// takes its system-wide settings from the file in SYSTEM_WGETRC, in place of
// /etc/wgetrc, and the user's own ~/.wgetrc still counts.
func TrustVariables(tb testing.TB, roots string) []string {
	tb.Helper()
	settings, err := os.ReadFile("/etc/wgetrc")
	if err != nil && !os.IsNotExist(err) {
		tb.Fatalf("reading the settings of wget: %v", err)
	}
	wgetrc := filepath.Join(tb.TempDir(), "wgetrc")
	settings = append(settings, "\nca_certificate="+roots+"\n"...)
	if err := os.WriteFile(wgetrc, settings, 0o644); err != nil {
		tb.Fatalf("writing settings for wget: %v", err)
	}
	return []string{
		"SSL_CERT_FILE=" + roots,
		"NODE_EXTRA_CA_CERTS=" + roots,
		"CURL_CA_BUNDLE=" + roots,
		"GIT_SSL_CAINFO=" + roots,
		"SYSTEM_WGETRC=" + wgetrc,
	}
}
