package starpod

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/starpod/caddy-starpod/ca"
)

// Files beside the bundle, for clients that read no bundle.
const (
	trustStoreFile     = "truststore.p12" // Java
	trustStorePassword = "changeit"       // Java's own default; what it guards is public
	wgetrcFile         = "wgetrc"
	phpFolder          = "php" // holds an .ini file
)

// bundleVariables name the bundle to one family of clients each.
var bundleVariables = []string{
	"SSL_CERT_FILE",                      // OpenSSL, Go, Python's ssl, Ruby
	"NODE_EXTRA_CA_CERTS",                // Node
	"REQUESTS_CA_BUNDLE",                 // Python requests
	"CURL_CA_BUNDLE",                     // curl
	"GIT_SSL_CAINFO",                     // git
	"PIP_CERT",                           // pip
	"npm_config_cafile",                  // npm, also where an npmrc names another
	"PERL_LWP_SSL_CA_FILE",               // Perl's LWP
	"AWS_CA_BUNDLE",                      // AWS CLI and SDKs
	"CARGO_HTTP_CAINFO",                  // cargo
	"DENO_CERT",                          // Deno
	"CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE", // gcloud
	"NIX_SSL_CERT_FILE",                  // Nix
}

// noProxy lets services that the client itself runs on loopback be reached.
const noProxy = "localhost,127.0.0.1,::1"

// clientEnv describes the environment of a client of the proxy.
type clientEnv struct {
	proxy  string // URL
	bundle string // file; "" where nothing is intercepted
	dir    string // folder of the files that writeClientFiles made, "" for none
}

// list returns the variables as NAME=value.
func (e clientEnv) list() []string {
	env := []string{"NODE_USE_ENV_PROXY=1"}
	for name, value := range map[string]string{"HTTP_PROXY": e.proxy, "HTTPS_PROXY": e.proxy, "NO_PROXY": noProxy} {
		env = append(env, name+"="+value, strings.ToLower(name)+"="+value)
	}
	if e.bundle == "" {
		return env
	}
	for _, name := range bundleVariables {
		env = append(env, name+"="+e.bundle)
	}
	if e.dir != "" {
		env = append(env,
			"SYSTEM_WGETRC="+filepath.Join(e.dir, wgetrcFile),
			"PHP_INI_SCAN_DIR=:"+filepath.Join(e.dir, phpFolder), // behind the folder that PHP was built with
			"JAVA_TOOL_OPTIONS=-Djavax.net.ssl.trustStore="+filepath.Join(e.dir, trustStoreFile)+
				" -Djavax.net.ssl.trustStoreType=PKCS12 -Djavax.net.ssl.trustStorePassword="+trustStorePassword)
	}
	return env
}

// writeClientFiles writes what clients need that read neither the bundle nor a
// variable that names one: Java, PHP, and wget, which is linked with GnuTLS on
// Debian.
func writeClientFiles(dir *tempDir, bundle string, roots []*x509.Certificate) error {
	if err := ca.WriteTrustStore(filepath.Join(dir.path, trustStoreFile), trustStorePassword, roots); err != nil {
		return err
	}
	// The file stands in for the system's, so what that says is said again.
	system, _ := os.ReadFile("/etc/wgetrc")
	wgetrc := append(bytes.TrimRight(system, "\n"), "\nca_certificate = "+bundle+"\n"...)
	ini := fmt.Sprintf("curl.cainfo = %q\nopenssl.cafile = %[1]q\n", bundle)
	return errors.Join(
		dir.write(wgetrcFile, wgetrc),
		dir.write(filepath.Join(phpFolder, "starpod.ini"), []byte(ini)))
}

// mergeEnv returns base with the variables of extra put in or replaced.
func mergeEnv(base, extra []string) []string {
	replaced := make(map[string]bool, len(extra))
	for _, entry := range extra {
		name, _, _ := strings.Cut(entry, "=")
		replaced[name] = true
	}
	merged := make([]string, 0, len(base)+len(extra))
	for _, entry := range base {
		if name, _, _ := strings.Cut(entry, "="); !replaced[name] {
			merged = append(merged, entry)
		}
	}
	return append(merged, extra...)
}
