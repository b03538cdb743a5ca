package handler

import (
	"errors"
	"testing"
	"time"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// TestUnrestrictedTokenIsWarnedOf over http://, and once for each host.
func TestUnrestrictedTokenIsWarnedOf(t *testing.T) {
	b := newBench(t, nil)
	client := b.client(false)
	send := func(target, token string) (reasons []string) {
		t.Helper()
		b.logs.TakeAll()
		b.do(client, b.request("GET", target, "", "X-Key", token, "X-Again", token))
		testbench.Await(t, 10*time.Second, func() error { // written behind the warning
			if b.logs.FilterMessage("tokens replaced").Len() == 0 {
				return errors.New("no audit line")
			}
			return nil
		})
		for _, entry := range b.logs.FilterMessage("unrestricted token sent").All() {
			reasons = append(reasons, entry.ContextMap()["reason"].(string))
		}
		return reasons
	}
	unrestricted, bound := b.token(), b.token("api.starpod.test", "evil.starpod.test")
	const fresh, plain = "a host that had not been sent one", "over http://"
	for _, test := range []struct {
		name, target, token, want string
	}{
		{"a bound token", b.up.URL("api.starpod.test"), bound, ""},
		{"a host for the first time", b.up.URL("api.starpod.test"), unrestricted, fresh},
		{"again", b.up.URL("api.starpod.test"), unrestricted, ""},
		{"another host", b.up.URL("evil.starpod.test"), unrestricted, fresh},
		{"plaintext", b.up.PlainURL("api.starpod.test"), unrestricted, plain},
		{"plaintext again", b.up.PlainURL("api.starpod.test"), unrestricted, plain},
		{"a bound token in plaintext", b.up.PlainURL("api.starpod.test"), bound, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := send(test.target, test.token)
			if test.want == "" && len(got) > 0 || test.want != "" && (len(got) != 1 || got[0] != test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}
