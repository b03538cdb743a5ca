package starpod

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/starpod/caddy-starpod/ca"
	"github.com/starpod/caddy-starpod/internal/testbench"
	"github.com/starpod/caddy-starpod/netns"
)

// canaryKey is a master key that must not show.
const canaryKey = "canary-of-the-master-key-32bytes"

// patient is a whole configuration with its files, to be broken.
type patient struct {
	dir, key, data, config, bundle string
	port, admin                    int
}

func newPatient(t *testing.T) *patient {
	t.Helper()
	dir := t.TempDir()
	p := &patient{
		dir: dir, key: filepath.Join(dir, "key"), data: filepath.Join(dir, "data"), config: filepath.Join(dir, "Caddyfile"),
		port: testbench.FreePort(t), admin: testbench.FreePort(t),
	}
	p.bundle = filepath.Join(p.data, ca.BundleFile)
	put(t, p.key, canaryKey)
	root, err := ca.LoadOrGenerate(p.data)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ca.WriteBundle(p.bundle, root.Roots()); err != nil {
		t.Fatal(err)
	}
	p.configure(t, "", "")
	return p
}

// configure writes the configuration with more in its blocks.
func (p *patient) configure(t *testing.T, global, directive string) {
	t.Helper()
	put(t, p.config, fmt.Sprintf(`{
	admin 127.0.0.1:%d
	starpod {
		data_dir %s
		%s
	}
}
:%d {
	bind 127.0.0.1
	starpod_secrets %s {
		%s
	}
}
`, p.admin, p.data, global, p.port, p.key, directive))
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// doctor examines the patient in a world where all is well.
func (p *patient) doctor(t *testing.T) *doctor {
	t.Helper()
	d := newDoctor(t.Context(), &doctorFlags{admin: adminFlags{config: p.config}})
	d.env = variables(nil)
	d.lookup = func(context.Context, string) error { return nil }
	d.online = func() bool { return true }
	d.tempDir = t.TempDir()
	return d
}

func variables(set map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) { value, is := set[name]; return value, is }
}

// check makes one check, and sees that no key shows in what it found.
func (d *doctor) check(t *testing.T, name string) []finding {
	t.Helper()
	for _, check := range doctorChecks {
		if check.name != name {
			continue
		}
		found := check.run(d, t.Context())
		for _, asJSON := range []bool{true, false} {
			var out bytes.Buffer
			must(t, examination{Findings: found}.print(&out, asJSON))
			text, _ := os.ReadFile(filepath.Join(d.plan.dir, ca.KeyFile))
			for _, secret := range append(strings.Split(string(text), "\n"), canaryKey[:12]) {
				if len(secret) > 10 && !strings.HasPrefix(secret, "-----") && strings.Contains(out.String(), secret) {
					t.Errorf("got a key in the output:\n%s", &out)
				}
			}
		}
		return found
	}
	t.Fatalf("there is no check %q", name)
	return nil
}

// expectation is what a check has to find. $DIR is the patient's folder.
type expectation struct{ grade, detail, mend string }

func (p *patient) expect(t *testing.T, found []finding, want expectation) {
	t.Helper()
	fill := strings.NewReplacer("$DIR", p.dir, "$PORT", fmt.Sprint(p.port)).Replace
	for _, f := range found {
		if f.Grade == want.grade && strings.Contains(f.Subject+": "+f.Detail, fill(want.detail)) && strings.Contains(f.Mend, fill(want.mend)) {
			return
		}
	}
	t.Errorf("got %+v, want a finding that is %q, %q, mended by %q", found, want.grade, fill(want.detail), fill(want.mend))
}

func TestDoctorFindsNothingWrongWithTheHealthy(t *testing.T) {
	t.Parallel()
	p := newPatient(t)
	d := p.doctor(t)
	for _, check := range doctorChecks {
		if check.name == "isolation" {
			continue // by the commands' tests: it makes namespaces
		}
		for _, f := range d.check(t, check.name) {
			if f.Grade == gradeBroken || f.Grade == gradeWarning {
				t.Errorf("%s: got %+v, want nothing wrong", check.name, f)
			}
		}
	}
	p.expect(t, d.check(t, "configuration"), expectation{gradeGood, "proxies: 1", ""})
	p.expect(t, d.check(t, "keys"), expectation{gradeGood, "$DIR/key: a key of 32 bytes, mode 0600", ""})
	p.expect(t, d.check(t, "authority"), expectation{gradeGood, "whole, its key fits", ""})
	p.expect(t, d.check(t, "bundle"), expectation{gradeGood, "the proxy's root and those of", ""})
	p.expect(t, d.check(t, "ports"), expectation{gradeGood, "127.0.0.1:$PORT: free", ""})
	p.expect(t, d.check(t, "egress"), expectation{gradeGood, "the rules open it", ""})
	p.expect(t, d.check(t, "leftovers"), expectation{gradeGood, "none", ""})
}

func TestDoctorFindsWhatIsBrokenInFiles(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, check string
		spoil       func(t *testing.T, p *patient)
		want        expectation
	}{
		{"no configuration", "configuration", func(t *testing.T, p *patient) { must(t, os.Remove(p.config)) },
			expectation{gradeBroken, "Caddyfile: is missing", "--config"}},
		{"a misspelt option", "configuration", func(t *testing.T, p *patient) { p.configure(t, "", "genrate_key") },
			expectation{gradeBroken, `"genrate_key"`, "caddy adapt --config $DIR/Caddyfile"}},
		{"no proxy in it", "configuration", func(t *testing.T, p *patient) { put(t, p.config, ":1\n") },
			expectation{gradeNone, "no site has starpod_secrets", "starpod_secrets <key file>"}},

		{"no key", "keys", func(t *testing.T, p *patient) { must(t, os.Remove(p.key)) },
			expectation{gradeBroken, "is missing", "caddy starpod keygen $DIR/key"}},
		{"a key that will be made", "keys", func(t *testing.T, p *patient) { must(t, os.Remove(p.key)); p.configure(t, "", "generate_key") },
			expectation{gradeNone, "the first start makes it", ""}},
		{"a key that others may read", "keys", func(t *testing.T, p *patient) { must(t, os.Chmod(p.key, 0o640)) },
			expectation{gradeBroken, "mode 0640: others may use it", "chmod 600 $DIR/key"}},
		{"a key that others may replace", "keys", func(t *testing.T, p *patient) { must(t, os.Chmod(p.dir, 0o777)) },
			expectation{gradeBroken, "others may replace it", "chmod go-w $DIR"}},
		{"a key cut short", "keys", func(t *testing.T, p *patient) { must(t, os.Truncate(p.key, 31)) },
			expectation{gradeBroken, "31 bytes that are no key", "mv $DIR/key $DIR/key.broken && caddy starpod keygen $DIR/key"}},
		{"a folder for a key", "keys", func(t *testing.T, p *patient) { must(t, os.Remove(p.key)); must(t, os.Mkdir(p.key, 0o700)) },
			expectation{gradeBroken, "is no regular file", "keygen"}},

		{"half an authority", "authority", func(t *testing.T, p *patient) { must(t, os.Remove(filepath.Join(p.data, ca.KeyFile))) },
			expectation{gradeBroken, "is missing, but its certificate", "delete both $DIR/data"}},
		{"an authority whose key others may read", "authority", func(t *testing.T, p *patient) { must(t, os.Chmod(filepath.Join(p.data, ca.KeyFile), 0o644)) },
			expectation{gradeBroken, "mode 0644", "chmod 600 $DIR/data/proxy-ca-key.pem"}},
		{"another authority's certificate", "authority", func(t *testing.T, p *patient) { writeRoot(t, p, func(*x509.Certificate) {}, false) },
			expectation{gradeBroken, "is not the key of the certificate", "restore the right files from a copy"}},
		{"an expired authority", "authority", func(t *testing.T, p *patient) {
			writeRoot(t, p, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Hour) }, true)
		}, expectation{gradeBroken, "expired on", "delete both"}},
		{"an authority that expires soon", "authority", func(t *testing.T, p *patient) {
			writeRoot(t, p, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(29 * 24 * time.Hour) }, true)
		}, expectation{gradeWarning, "expires on", "rm $DIR/data/proxy-ca.pem $DIR/data/proxy-ca-key.pem"}},
		{"no authority's certificate", "authority", func(t *testing.T, p *patient) {
			writeRoot(t, p, func(c *x509.Certificate) { c.IsCA = false }, true)
		}, expectation{gradeBroken, "is not an authority's", "delete both"}},
		{"no authority yet", "authority", func(t *testing.T, p *patient) { must(t, os.RemoveAll(p.data)) },
			expectation{gradeNone, "the first start makes one", ""}},
		{"an issuer's root that is no root", "authority", func(t *testing.T, p *patient) {
			writeRoot(t, p, func(c *x509.Certificate) { c.IsCA = false }, true)
			p.configure(t, "ca {\nissuer acme\nroot "+filepath.Join(p.data, ca.CertFile)+"\n}", "")
		}, expectation{gradeBroken, "is not an authority's", "with `root`"}},
		{"an issuer's root that is missing", "authority", func(t *testing.T, p *patient) {
			p.configure(t, "ca {\nissuer acme\nroot "+p.dir+"/root.pem\n}", "")
		}, expectation{gradeBroken, "no such file", "in PEM form"}},
		{"an issuer without a root", "authority", func(t *testing.T, p *patient) { p.configure(t, "ca {\nissuer acme\n}", "") },
			expectation{gradeBroken, "the issuer's root is unknown", "root <pem file>"}},

		{"no bundle", "bundle", func(t *testing.T, p *patient) { must(t, os.Remove(p.bundle)) },
			expectation{gradeBroken, "is missing", "restart the proxy"}},
		{"a bundle cut short", "bundle", func(t *testing.T, p *patient) {
			info, err := os.Stat(p.bundle)
			must(t, err)
			must(t, os.Truncate(p.bundle, info.Size()-40))
		}, expectation{gradeBroken, "is damaged", "restart the proxy"}},
		{"an empty bundle", "bundle", func(t *testing.T, p *patient) { must(t, os.Truncate(p.bundle, 0)) },
			expectation{gradeBroken, "holds no PEM certificate", "restart the proxy"}},
		{"a bundle of another authority", "bundle", func(t *testing.T, p *patient) { writeRoot(t, p, func(*x509.Certificate) {}, true) },
			expectation{gradeBroken, "lacks the proxy's root", "restart the proxy"}},
		{"a bundle that others may write", "bundle", func(t *testing.T, p *patient) { must(t, os.Chmod(p.bundle, 0o666)) },
			expectation{gradeBroken, "mode 0666: others may add roots", "chmod 644"}},
		{"a bundle without the system's roots", "bundle", func(t *testing.T, p *patient) {
			text, err := os.ReadFile(filepath.Join(p.data, ca.CertFile))
			must(t, err)
			put(t, p.bundle, string(text))
		}, expectation{gradeWarning, "of the roots in", "restart the proxy"}},

		{"a port that is taken", "ports", func(t *testing.T, p *patient) { listenAt(t, p.port) },
			expectation{gradeBroken, "127.0.0.1:$PORT: taken by another program", "$PORT"}},
		{"an address of another machine", "ports", func(t *testing.T, p *patient) {
			put(t, p.config, ":80 {\nbind 192.0.2.1\nstarpod_secrets "+p.key+"\n}\n")
		}, expectation{gradeBroken, "192.0.2.1:80: cannot be listened on", "`bind`"}},

		{"a list of what is allowed", "egress", func(t *testing.T, p *patient) { p.configure(t, "", "egress {\ndeny *\n}") },
			expectation{gradeNone, "the rules close it", "allow api.github.com"}},
		{"an open metadata address", "egress", func(t *testing.T, p *patient) { p.configure(t, "", "egress {\nallow 169.254.0.0/16\n}") },
			expectation{gradeWarning, "credentials", "deny 169.254.169.254"}},
		{"an upstream proxy that is down", "egress", func(t *testing.T, p *patient) {
			put(t, filepath.Join(p.dir, "password"), canaryKey)
			p.configure(t, "", fmt.Sprintf("egress {\nupstream http://user:{file.%s/password}@127.0.0.1:%d\n}", p.dir, testbench.FreePort(t)))
		}, expectation{gradeBroken, "upstream 127.0.0.1:", "`upstream` in `egress`"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := newPatient(t)
			test.spoil(t, p)
			p.expect(t, p.doctor(t).check(t, test.check), test.want)
		})
	}
}

// replaceAuthority makes another in the place of one that was removed.
func (p *patient) replaceAuthority(t *testing.T) {
	t.Helper()
	_, err := ca.LoadOrGenerate(p.data)
	must(t, err)
}

// writeRoot replaces the authority's certificate, and its key where that is to fit.
func writeRoot(t *testing.T, p *patient, change func(*x509.Certificate), withKey bool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "another"},
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().AddDate(1, 0, 0), BasicConstraintsValid: true, IsCA: true,
	}
	change(template)
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	put(t, filepath.Join(p.data, ca.CertFile), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	if withKey {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		must(t, err)
		put(t, filepath.Join(p.data, ca.KeyFile), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	}
}

func listenAt(t *testing.T, port int) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	must(t, err)
	t.Cleanup(func() { listener.Close() })
	return listener
}

func TestDoctorFindsWhatIsWrongWithTheMachine(t *testing.T) {
	t.Parallel()
	offline := func(context.Context, string) error { return errors.New("no such host") }
	for _, test := range []struct {
		name, check string
		spoil       func(t *testing.T, p *patient, d *doctor)
		want        expectation
	}{
		{"a clock of the last century", "clock", func(_ *testing.T, _ *patient, d *doctor) {
			d.now = func() time.Time { return time.Unix(0, 0) }
		}, expectation{gradeBroken, "the clock says 1970-01-01", "set the clock"}},
		{"a clock before the program was made", "clock", func(_ *testing.T, p *patient, d *doctor) {
			d.built, d.tempDir, d.plan.dir = time.Now().Add(24*time.Hour), p.dir, p.dir
		}, expectation{gradeBroken, "this program's source was written", "set the clock"}},
		{"a clock decades ahead", "clock", func(_ *testing.T, _ *patient, d *doctor) {
			d.built = time.Now().AddDate(-30, 0, 0)
		}, expectation{gradeBroken, "decades after", "set the clock"}},
		{"an authority of another proxy", "authority", func(_ *testing.T, _ *patient, d *doctor) {
			d.running.status = &Status{CA: CAStatus{Fingerprint: "00"}}
		}, expectation{gradeWarning, "is not the authority of the proxy that runs", "restart the proxy"}},
		{"no proxy where one is named", "running proxy", func(t *testing.T, p *patient, d *doctor) {
			d.running = askRunning(t.Context(), adminFlags{address: fmt.Sprintf("127.0.0.1:%d", p.admin)}, d.plan)
		}, expectation{gradeBroken, "connection refused", "--address"}},
		{"a port of the proxy that runs", "ports", func(t *testing.T, p *patient, d *doctor) {
			addr := listenAt(t, p.port).Addr().(*net.TCPAddr).AddrPort()
			d.running.listen = []netip.AddrPort{addr}
		}, expectation{gradeGood, "held by the Caddy that runs", ""}},
		{"isolation that cannot be had", "namespace", func(_ *testing.T, _ *patient, d *doctor) {
			d.plan.app.Isolation, d.plan.app.Namespace = driverVeth, &NamespaceConfig{Subnet: "10.0.0.0/33"}
		}, expectation{gradeBroken, "is no subnet: write it like 10.200.1.0/24", "in the block `namespace`"}},
		{"a machine that is offline", "egress", func(_ *testing.T, _ *patient, d *doctor) {
			d.lookup, d.online = offline, func() bool { return false }
		}, expectation{gradeWarning, "offline", "network"}},
		{"a name server that is wrong", "egress", func(_ *testing.T, _ *patient, d *doctor) { d.lookup = offline },
			expectation{gradeWarning, "cannot be resolved: no such host", "/etc/resolv.conf"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := newPatient(t)
			d := p.doctor(t)
			test.spoil(t, p, d)
			p.expect(t, d.check(t, test.check), test.want)
		})
	}
}

func TestDoctorFindsWhatIsWrongWithTheShell(t *testing.T) {
	t.Parallel()
	const password = "canary-of-the-password"
	for _, test := range []struct {
		name string
		env  map[string]string // $PROXY is one that listens, and $DEAD one that does not
		want expectation
	}{
		{"nothing set", nil, expectation{gradeNone, "not led to a proxy", "caddy starpod env"}},
		{"all set", map[string]string{"HTTPS_PROXY": "http://$PROXY", "SSL_CERT_FILE": "$BUNDLE"},
			expectation{gradeGood, "certificates: all variables", ""}},
		{"a proxy that is down", map[string]string{"HTTPS_PROXY": "http://starpod:" + password + "@$DEAD", "SSL_CERT_FILE": "$BUNDLE"},
			expectation{gradeBroken, "where nobody listens", "unset HTTP_PROXY"}},
		{"no URL", map[string]string{"https_proxy": "http//" + password}, expectation{gradeBroken, "https_proxy: is no URL", "caddy starpod env"}},
		{"one case differs", map[string]string{"HTTPS_PROXY": "http://$PROXY", "https_proxy": "http://$DEAD"},
			expectation{gradeBroken, "https_proxy: differs from HTTPS_PROXY", "caddy starpod env"}},
		{"no certificates", map[string]string{"HTTPS_PROXY": "http://$PROXY"},
			expectation{gradeBroken, "SSL_CERT_FILE: is not set", "caddy starpod env"}},
		{"certificates that are gone", map[string]string{"HTTPS_PROXY": "http://$PROXY", "CURL_CA_BUNDLE": "/nonexistent.pem"},
			expectation{gradeBroken, "CURL_CA_BUNDLE: names /nonexistent.pem, which cannot be used", "caddy starpod env"}},
		{"certificates of others", map[string]string{"HTTPS_PROXY": "http://$PROXY", "GIT_SSL_CAINFO": "$FOREIGN"},
			expectation{gradeBroken, "lacks the proxy's root", "caddy starpod env"}},
		{"past the proxy", map[string]string{"HTTPS_PROXY": "http://$PROXY", "NO_PROXY": "localhost,.github.com"},
			expectation{gradeBroken, "tokens stay tokens: api.github.com", "export NO_PROXY=localhost"}},
		{"everything past the proxy", map[string]string{"HTTPS_PROXY": "http://$PROXY", "no_proxy": "*"},
			expectation{gradeBroken, "no_proxy: leads past the proxy", "export NO_PROXY=localhost"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := newPatient(t)
			d := p.doctor(t)
			fill := strings.NewReplacer("$PROXY", listenAt(t, p.port).Addr().String(), "$DEAD", fmt.Sprintf("127.0.0.1:%d", p.admin),
				"$BUNDLE", p.bundle, "$FOREIGN", testbench.NewPKI(t).RootFile(t)).Replace
			set := map[string]string{}
			for name, value := range test.env {
				set[name] = fill(value)
			}
			d.env = variables(set)
			found := d.check(t, "this shell")
			p.expect(t, found, test.want)
			if strings.Contains(fmt.Sprint(found), password) {
				t.Errorf("got %v, want no password", found)
			}
		})
	}
}

// What doctor says of the wire has to depend on what happened there.
func TestDoctorTellsWhatHappenedOnTheWire(t *testing.T) {
	t.Parallel()
	fine := demoResult{
		value: "value", token: tokenPrefix + "0123456789abcdef",
		printed: demoVariable + "=" + tokenPrefix + "0123456789abcdef\n" + demoAnswer + " Bearer *****\n",
		right:   "GET / HTTP/2.0\r\nAuthorization: Bearer value\r\n", wrong: "GET / HTTP/2.0\r\nAuthorization: Bearer \r\n",
	}
	for name, test := range map[string]struct {
		spoil  func(*demoResult)
		detail string // "" for nothing wrong
	}{
		"all is well":                {func(*demoResult) {}, ""},
		"the token was not swapped":  {func(r *demoResult) { r.right = strings.ReplaceAll(r.right, "value", r.token) }, "did not receive the value"},
		"another host got the value": {func(r *demoResult) { r.wrong += "X: value\r\n" }, "another host received"},
		"the answer was not masked":  {func(r *demoResult) { r.printed = strings.ReplaceAll(r.printed, "*****", "value") }, "the program saw the value"},
		"the answer did not come":    {func(r *demoResult) { r.printed = demoVariable + "=" + r.token }, "the program saw the value"},
		"the program went around it": {func(r *demoResult) { r.direct = true }, "got around the proxy"},
	} {
		outcome := fine
		test.spoil(&outcome)
		result := driverResult{outcome: &outcome}
		ill := ""
		for _, f := range result.findings(driverSealed) {
			if f.Grade != gradeGood {
				ill += f.Detail
			}
			if f.Grade == gradeBroken && f.Mend == "" {
				t.Errorf("%s: got %+v, want a mend", name, f)
			}
		}
		if (ill == "") != (test.detail == "") || !strings.Contains(ill, test.detail) {
			t.Errorf("%s: got %q, want %q", name, ill, test.detail)
		}
	}
}

func TestDoctorTellsWhyThereWasNoRequest(t *testing.T) {
	t.Parallel()
	none := &netns.Unavailable{Reason: "iptables not found", Mend: "install it"}
	for _, test := range []struct {
		name, driver string
		result       driverResult
		want         finding
	}{
		{"the program failed", driverSealed, driverResult{failed: errors.New("exit status 1")}, broken("sealed", "exit status 1", "caddy starpod demo")},
		{"the machine is busy", driverSealed, driverResult{failed: context.DeadlineExceeded}, broken("sealed", "not answered within 30s", "try again")},
		{"no such isolation", driverVeth, driverResult{err: none}, absent("veth", "not on this machine: iptables not found", "install it")},
		{"no proxy", driverEnv, driverResult{err: errors.New("no space left")}, broken("a request through a proxy", "no space left", "can be written to")},
	} {
		found := test.result.findings(test.driver)
		if len(found) != 1 || found[0].Grade != test.want.Grade || found[0].Subject != test.want.Subject ||
			!strings.Contains(found[0].Detail, test.want.Detail) || !strings.Contains(found[0].Mend, test.want.Mend) {
			t.Errorf("%s: got %+v, want %+v", test.name, found, test.want)
		}
	}
}

// A trial has to notice a program that goes around the proxy: one in tier 0 can.
func TestTrialSeesAProgramGoAround(t *testing.T) {
	t.Parallel()
	trial, err := startTrial(t.Context(), Config{Isolation: driverEnv, leaveOthers: true})
	must(t, err)
	t.Cleanup(func() { trial.close(context.Background()) })
	program, err := demoClient(t.Context())
	must(t, err)
	got, err := trial.run(program, actAsCaddy+"=1", demoDirect+"="+trial.lookout.listener.Addr().String())
	must(t, err)
	if !got.direct {
		t.Errorf("around the proxy: got false, want true: %s", got.printed)
	}
	if !got.swapped() || !got.stripped() || !got.masked() {
		t.Errorf("got swapped %t, stripped %t, masked %t, want all of it", got.swapped(), got.stripped(), got.masked())
	}
}

func TestDoctorTellsTheTier(t *testing.T) {
	t.Parallel()
	all := map[string]bool{driverEnv: true, driverSealed: true, driverVeth: true}
	none := map[string]bool{driverEnv: true}
	for _, test := range []struct {
		name, isolation string
		listen          []string
		works           map[string]bool
		grade, detail   string
	}{
		{"all work", "", nil, all, gradeGood, "sealed (tier 1)"},
		{"veth alone", "", nil, map[string]bool{driverVeth: true}, gradeGood, "tier 1, veth"},
		{"veth is asked for and cannot be had", driverVeth, nil, none, gradeBroken, "isolation veth"},
		{"a namespace is served and cannot be had", "", []string{"starpod/starpod-ns:8080"}, none, gradeWarning, "serves a namespace"},
		{"env is asked for", driverEnv, []string{"starpod/starpod-ns:8080"}, all, gradeGood, "sealed"},
	} {
		d := &doctor{plan: plan{app: &App{Isolation: test.isolation}, listen: test.listen}}
		if got := d.tierFinding(test.works); got.Grade != test.grade || !strings.Contains(got.Detail, test.detail) {
			t.Errorf("%s: got %+v, want %s, %q", test.name, got, test.grade, test.detail)
		}
	}
}

func TestDoctorFindsLeftovers(t *testing.T) {
	t.Parallel()
	d := newPatient(t).doctor(t)
	left := filepath.Join(d.tempDir, tempPrefix+"123")
	must(t, os.Mkdir(left, 0o755))
	put(t, filepath.Join(left, lockFile), "")
	found := d.check(t, "leftovers")
	if unlocked := isAbandoned(left); !unlocked {
		t.Skip("needs a system with file locks")
	}
	if len(found) != 1 || found[0].Grade != gradeWarning || found[0].Subject != left || !strings.Contains(found[0].Mend, "caddy starpod run") {
		t.Errorf("got %+v, want %s with a mend", found, left)
	}
	if _, err := os.Stat(left); err != nil {
		t.Errorf("got %v, want the folder left alone", err)
	}
}
