package tokens

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
)

// TestDisplay shows no whole token, of whichever key.
func TestDisplay(t *testing.T) {
	own := mustSeal(t, testRing, Secret{Value: "v", Hosts: []string{"h.test"}})
	foreign := sealPayload(testKey(9), testNonce, `{"v":"v","h":[]}`)
	shown := func(token string) string {
		return fmt.Sprintf("⟨token %x⟩", sha256.Sum256([]byte(token)))[:len("⟨token ")+8] + "⟩"
	}
	for _, test := range []struct {
		name, text, want string
	}{
		{"no token", "/a/starpod", "/a/starpod"},
		{"one that opens", "/a/" + own + "/b", "/a/" + shown(own) + "/b"},
		{"one of another key", "/a/" + foreign, "/a/" + shown(foreign)},
		{"text behind it", foreign + "-b", shown(foreign) + "-b"},
		{"percent-encoded", strings.NewReplacer(":", "%3A", "/", "%2F", "+", "%2B", "=", "%3D").Replace(foreign) + "?", shown(foreign) + "?"},
		{"both", foreign + "," + own, shown(foreign) + "," + shown(own)},
		{"the beginning of one", foreign[:len(prefix)+4], shown(foreign[:len(prefix)+4])},
		{"longer than any", "/a/" + prefix + strings.Repeat("A", 3<<20) + "-b", "/a/-b"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := Display(testRing, test.text); got != test.want {
				t.Errorf("got %.200q, want %.200q", got, test.want)
			}
		})
	}
}
