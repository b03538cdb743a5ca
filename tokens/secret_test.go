package tokens

import (
	"strings"
	"testing"
	"time"
)

func TestPermits(t *testing.T) {
	base := Secret{Value: "x", Hosts: []string{"api.example.com"}}
	expiring := base
	expiring.Expires = testTime
	reading := base
	reading.Methods = []string{"get", "HEAD"}
	at := func(d time.Duration) func(*Target) { return func(t *Target) { t.Time = testTime.Add(d) } }
	tests := []struct {
		name   string
		secret Secret
		change func(*Target)
		want   Reason
	}{
		{"right host", base, nil, ReasonNone},
		{"wrong host", base, func(t *Target) { t.Host = "evil.example" }, ReasonHost},
		{"no hosts", Secret{}, func(t *Target) { *t = Target{} }, ReasonNone},
		{"a second before expiry", expiring, at(-time.Second), ReasonNone},
		{"at expiry", expiring, at(0), ReasonExpired},
		{"after expiry", expiring, at(time.Hour), ReasonExpired},
		{"expired by the clock", expiring, func(t *Target) { t.Time = time.Time{} }, ReasonExpired},
		{"method in another case", reading, nil, ReasonNone},
		{"other method", reading, func(t *Target) { t.Method = "POST" }, ReasonMethod},
		{"no method", reading, func(t *Target) { t.Method = "" }, ReasonMethod},
		{"host before all else", Secret{Hosts: []string{"a"}, Expires: testTime, Methods: []string{"X"}}, nil, ReasonHost},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			target := testTarget
			if tt.change != nil {
				tt.change(&target)
			}
			if got := tt.secret.Permits(target); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestPermitsPaths(t *testing.T) {
	tests := []struct {
		name, globs, path string
		want              bool
	}{
		{"exact", "/v1/models", "/v1/models", true},
		{"query is ignored", "/v1/models", "/v1/models?x=/../y", true},
		{"longer", "/v1/models", "/v1/models/x", false},
		{"star", "/v1/*", "/v1/models", true},
		{"star is one segment", "/v1/*", "/v1/models/x", false},
		{"star may be empty", "/v1/*", "/v1/", true},
		{"star inside a segment", "/bot*/sendMessage", "/botstarpod:v1:AAAA=/sendMessage", true},
		{"two stars", "/v1/**", "/v1/models/x", true},
		{"two stars in the middle", "/v1/**/edit", "/v1/a/b/edit", true},
		{"two stars may be empty", "/v1/**", "/v1/", true},
		{"three stars", "/v1/***", "/v1/a/b", true},
		{"two stars alone", "**", "/any/thing", true},
		{"stars of both kinds", "/**/x/*", "/a/x/b/x/c", true},
		{"stars of both kinds, too deep", "/**/x/*", "/a/x/b/c", false},
		{"one of several", "/a /b", "/b", true},
		{"case", "/V1", "/v1", false},
		{"encoded letter", "/v1", "/%761", true},
		{"encoded slash", "/v1/*", "/v1/a%2Fb", false},
		{"encoded slash under two stars", "/v1/**", "/v1/a%2Fb", true},
		{"bad escape", "**", "/a%zz", false},
		{"dot segment", "**", "/a/./b", false},
		{"two dots", "/v1/**", "/v1/../admin", false},
		{"two dots at the end", "/v1/**", "/v1/..", false},
		{"encoded dots", "/v1/**", "/v1/%2e%2E/admin", false},
		{"dots and encoded slash", "/v1/**", "/v1/..%2fadmin", false},
		{"dots and backslash", "/v1/**", `/v1/..\admin`, false},
		{"dots and encoded backslash", "/v1/**", "/v1/x%5c..%5Cadmin", false},
		{"dots encoded twice", "/v1/**", "/v1/%252e%252e/admin", false},
		{"dots and parameters", "/v1/**", "/v1/..;x=1/admin", false},
		{"dots encoded five times", "/v1/**", "/v1/%252525252e%252525252e/admin", false},
		{"dots in a name", "/v1/**", "/v1/..a/b..c/...", true},
		{"percent in a name", "/v1/**", "/v1/100%25", true},
		{"empty", "/v1", "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := Secret{Paths: strings.Fields(tt.globs)}
			want := ReasonPath
			if tt.want {
				want = ReasonNone
			}
			if got := s.Permits(Target{Path: tt.path}); got != want {
				t.Errorf("%q for %q: got %q, want %q", tt.globs, tt.path, got, want)
			}
		})
	}
}

// A path cannot make matching slow.
func TestHostilePathsAreLinear(t *testing.T) {
	glob := strings.Repeat("/**/a*", 20) + "/b"
	path := strings.Repeat("/a", 5000)
	start := time.Now()
	if globMatches(glob, path) || pathMatches([]string{"/**"}, "/%"+strings.Repeat("25", 500_000)) {
		t.Error("it matches")
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
}
