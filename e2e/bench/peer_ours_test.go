//go:build linux

package bench

import (
	"fmt"
	"os"
	"testing"

	"github.com/starpod/caddy-starpod/internal/testbench"
	"github.com/starpod/caddy-starpod/tokens"
)

const oursName = "this module"

// ours is the binary of this module with its defaults, but for the logs: peers
// write none either.
var ours = peer{name: oursName, start: func(tb testing.TB, w *world) *proxy { return startOurs(tb, w, 0) }}

// startOurs starts it on so many processors; 0 is all.
func startOurs(tb testing.TB, w *world, processors int) *proxy {
	tb.Helper()
	var env []string
	if processors > 0 {
		env = append(env, fmt.Sprintf("GOMAXPROCS=%d", processors))
	}
	c := testbench.StartCaddy(tb, w.pki, testbench.Setup{
		Binary: w.binary, Hosts: append(w.hosts, apiHost), Log: os.Stderr, Env: env,
		Options: "log {\n\t\tlevel ERROR\n\t}",
	})
	return &proxy{
		pid: c.Pid, addr: c.URL.Host, roots: c.Roots(tb), token: seal(tb, keyring(tb, c.Key), w.value),
		profile: func(seconds int) ([]byte, error) {
			return c.Get(fmt.Sprintf("/debug/pprof/profile?seconds=%d", seconds))
		},
	}
}

func keyring(tb testing.TB, key []byte) *tokens.Keyring {
	tb.Helper()
	opened, err := tokens.NewKey(key)
	if err != nil {
		tb.Fatal(err)
	}
	return tokens.NewKeyring(opened)
}

// seal makes a token of some 150 characters as `caddy starpod seal` does.
func seal(tb testing.TB, keys *tokens.Keyring, value string) string {
	tb.Helper()
	token, err := keys.Seal(tokens.Secret{Value: tokens.Value(value), Hosts: []string{"*.starpod.test"}})
	if err != nil {
		tb.Fatal(err)
	}
	return token
}
