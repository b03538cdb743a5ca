//go:build linux

package bench

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"testing"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// squid is Debian's, with ssl-bump. It writes the value in every request, as it
// has no way to look for a placeholder.
var squid = peer{name: "squid", needs: "squid", start: func(tb testing.TB, w *world) *proxy {
	port := testbench.FreePort(tb)
	state := w.path("squid")
	if err := os.RemoveAll(state); err != nil {
		tb.Fatal(err)
	}
	if err := os.Mkdir(state, 0o755); err != nil {
		tb.Fatal(err)
	}
	if out, err := exec.Command(squidMinter, "-c", "-s", state+"/certificates", "-M", "16MB").CombinedOutput(); err != nil {
		tb.Fatalf("%s: %v\n%s", squidMinter, err, out)
	}
	if os.Geteuid() == 0 { // it gives up being root
		giveToSquid(tb, state)
	}
	cert, key := w.authority()
	config := w.write(tb, "squid.conf", fmt.Appendf(nil, squidConfig, w.dir, port, cert, key, w.value))
	return w.run(tb, port, "squid", "-N", "-f", config)
}}

const squidMinter = "/usr/lib/squid/security_file_certgen"

func giveToSquid(tb testing.TB, folder string) {
	tb.Helper()
	account, err := user.Lookup("proxy")
	if err != nil {
		tb.Fatal(err)
	}
	if out, err := exec.Command("chown", "-R", account.Uid+":"+account.Gid, folder).CombinedOutput(); err != nil {
		tb.Fatalf("chown to %s: %v\n%s", strconv.Quote(account.Username), err, out)
	}
}

const squidConfig = `http_port 127.0.0.1:%[2]d ssl-bump generate-host-certificates=on dynamic_cert_mem_cache_size=16MB tls-cert=%[3]s tls-key=%[4]s
sslcrtd_program ` + squidMinter + ` -s %[1]s/squid/certificates -M 16MB
ssl_bump bump all
tls_outgoing_options cafile=%[1]s/upstream.pem
http_access allow all
request_header_access Authorization deny all
request_header_replace Authorization Bearer %[5]s
via off
forwarded_for delete
cache deny all
access_log none
cache_log %[1]s/squid/cache.log
pid_filename %[1]s/squid/pid
coredump_dir %[1]s/squid
visible_hostname bench
max_filedescriptors 16384
pinger_enable off
shutdown_lifetime 1 second
`
