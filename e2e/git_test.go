//go:build linux

package e2e

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// cloneAndPush works on the right host, then asks the wrong one with the same
// credentials, which has to fail.
const cloneAndPush = `
env
helper='!printf "username=x-access-token\npassword=%s\n" "$GIT_TOKEN" #'
git config --global credential.helper "$helper"
git config --global user.name t
git config --global user.email t@starpod.test
git clone -q "$RIGHT_URL/demo.git" demo
cd demo
cat README
head -c 2000000 /dev/urandom >large
echo pushed >NEW
git add NEW large
git commit -q -m second
git push -q origin HEAD:main
if git ls-remote "$WRONG_URL/demo.git"; then echo "the wrong host let it in"; exit 1; fi
`

func TestGitClonesAndPushesWithATokenAsItsPassword(t *testing.T) {
	t.Parallel()
	pki := testbench.NewPKI(t)
	for _, scheme := range []string{"https", "http"} {
		t.Run(scheme, func(t *testing.T) {
			t.Parallel()
			right, wrong := testbench.NewUpstream(t, pki), testbench.NewUpstream(t, pki)
			value, dir := newValue(), t.TempDir()
			git := testbench.NewGit(t, "x-access-token", value)
			git.Seed(t, "README", "hello from the server\n")
			right.HandleStream("/", git)
			wrong.HandleStream("/", testbench.NewGit(t, "x-access-token", value))
			rightURL, wrongURL := right.URL(testbench.GitHost), wrong.URL(testbench.EvilHost)
			if scheme == "http" {
				rightURL, wrongURL = right.PlainURL(testbench.GitHost), wrong.PlainURL(testbench.EvilHost)
			}
			log := sandbox{
				flags:   append(loopback(t, pki), "--secret", "GIT_TOKEN@"+testbench.GitHost),
				command: []string{"sh", "-ec", cloneAndPush},
				env:     []string{"GIT_TOKEN=" + value, "RIGHT_URL=" + rightURL, "WRONG_URL=" + wrongURL},
				dir:     dir,
			}.succeed(t)

			log.holdsNo(t, value)
			if !strings.Contains(log.stdout, "hello from the server\n") {
				t.Errorf("clone: got\n%s", log.stdout)
			}
			if got := git.File(t, "NEW"); got != "pushed\n" {
				t.Errorf("pushed file: got %q", got)
			}
			checkTree(t, dir, value)
			if !askedForCredentials(wrong) {
				t.Errorf("wrong host: got %v, want a request with credentials", wrong.Requests())
			}
			checkGotNothing(t, wrong, value)
		})
	}
}

// askedForCredentials tells whether git sent the wrong host a Basic header, so
// that its emptiness means something.
func askedForCredentials(upstream *testbench.Upstream) bool {
	for _, got := range upstream.Requests() {
		probe := http.Request{Header: got.Header}
		if user, _, ok := probe.BasicAuth(); ok && user == "x-access-token" {
			return true
		}
	}
	return false
}

// checkTree wants the value in no file below the folder.
func checkTree(t *testing.T, dir, value string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if forms := testbench.FindSecret(content, value); len(forms) > 0 {
			t.Errorf("%s holds the value as %v", path, forms)
		}
		return nil
	})
	if err != nil {
		t.Errorf("searching %s: %v", dir, err)
	}
}
