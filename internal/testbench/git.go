package testbench

import (
	"bytes"
	"crypto/subtle"
	"io"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Git is a folder of bare repositories behind git's own HTTP server.
type Git struct {
	// Root holds the repositories; Root/name.git is served as /name.git.
	Root string
	http.Handler
}

// NewGit serves an empty repository demo.git to whoever has these Basic
// credentials, for reading and writing. Use it with [Upstream.HandleStream].
func NewGit(tb testing.TB, user, password string) *Git {
	tb.Helper()
	path, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		tb.Fatalf("looking for git http-backend (git is needed): %v", err)
	}
	root := tb.TempDir()
	repository := filepath.Join(root, "demo.git")
	runGit(tb, "", "init", "--bare", "--initial-branch=main", repository)
	runGit(tb, repository, "config", "http.receivepack", "true")
	backend := &cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(string(path)), "git-http-backend"),
		Env: []string{
			"GIT_PROJECT_ROOT=" + root,
			"GIT_HTTP_EXPORT_ALL=1",
			"GIT_CONFIG_GLOBAL=/dev/null",
			"REMOTE_USER=" + user,
		},
		Stderr: io.Discard,
	}
	return &Git{Root: root, Handler: basicAuth(user, password, sizedBody(backend))}
}

// File returns the content of a file at the head of demo.git's main branch.
func (g *Git) File(tb testing.TB, name string) string {
	tb.Helper()
	return runGit(tb, filepath.Join(g.Root, "demo.git"), "show", "main:"+name)
}

// Seed gives demo.git a first commit with one file.
func (g *Git) Seed(tb testing.TB, name, content string) {
	tb.Helper()
	work := filepath.Join(tb.TempDir(), "seed")
	runGit(tb, "", "clone", "--quiet", filepath.Join(g.Root, "demo.git"), work)
	if err := os.WriteFile(filepath.Join(work, name), []byte(content), 0o644); err != nil {
		tb.Fatalf("seeding the repository: %v", err)
	}
	runGit(tb, work, "add", name)
	runGit(tb, work, "-c", "user.name=t", "-c", "user.email=t@starpod.test", "commit", "--quiet", "-m", "first")
	runGit(tb, work, "push", "--quiet", "origin", "HEAD:main")
}

func runGit(tb testing.TB, dir string, args ...string) string {
	tb.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		tb.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, &stderr)
	}
	return string(out)
}

func basicAuth(user, password string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		gotUser, gotPassword, ok := r.BasicAuth()
		if !ok || gotUser != user || subtle.ConstantTimeCompare([]byte(gotPassword), []byte(password)) != 1 {
			io.Copy(io.Discard, r.Body)
			w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
			http.Error(w, "credentials wanted", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// sizedBody buffers chunked bodies, because CGI (RFC 3875 §4.2) wants to know
// the length and git sends a large push in chunks.
func sizedBody(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength < 0 {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return // the client is gone
			}
			r.Body = io.NopCloser(bytes.NewReader(body))
			r.ContentLength, r.TransferEncoding = int64(len(body)), nil
		}
		next.ServeHTTP(w, r)
	})
}
