// Package testbench holds the servers and instruments that the tests of several
// packages share: a certificate authority for test upstreams, an upstream that
// keeps every byte it receives, a git server, commands that run with a hosts
// file of their own, and measures of a running process.
//
// Everything fails through testing.TB and is undone by its Cleanup.
package testbench

// Names that commands started by [Command] resolve to 127.0.0.1; clients made
// by [PKI.Client] do so with those of starpod.test.
const (
	APIHost  = "api.starpod.test"
	EvilHost = "evil.starpod.test"
	GitHost  = "git.starpod.test"
	// GitHubHost is where the table of known hosts sends GITHUB_TOKEN.
	GitHubHost = "api.github.com"
)
