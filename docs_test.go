package starpod

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/spf13/cobra"

	"github.com/starpod/caddy-starpod/ca"
)

// block is a fenced block of a page.
type block struct {
	page, language, text string
	line                 int
}

func (b block) name() string { return fmt.Sprintf("%s_line_%d", filepath.Base(b.page), b.line) }

// pages are those for users, by their path.
func pages(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob("docs/*.md")
	if err != nil || len(files) == 0 {
		t.Fatalf("no pages in docs: %v", err)
	}
	texts := make(map[string]string)
	for _, file := range append(files, "README.md", "SECURITY.md") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		texts[file] = string(text)
	}
	return texts
}

// blocks are those of all pages in a language.
func blocks(t *testing.T, language string) []block {
	t.Helper()
	found := allBlocks(t)
	found = slices.DeleteFunc(found, func(b block) bool { return b.language != language })
	if len(found) == 0 {
		t.Fatalf("no blocks in %s", language)
	}
	return found
}

func allBlocks(t *testing.T) (found []block) {
	t.Helper()
	for page, text := range pages(t) {
		inside, number := false, 0
		var current block
		for line := range strings.Lines(text) {
			number++
			fence, isFence := strings.CutPrefix(strings.TrimSpace(line), "```")
			switch {
			case isFence && inside:
				inside = false
				found = append(found, current)
			case isFence:
				inside, current = true, block{page: page, language: fence, line: number}
			case inside:
				current.text += line
			}
		}
		if inside {
			t.Errorf("%s, line %d: the block is not closed", page, current.line)
		}
	}
	return found
}

// TestPagesBlocks: each block is in a language whose blocks a test executes or
// validates. In text nothing is to be typed.
func TestPagesBlocks(t *testing.T) {
	checked := []string{"caddyfile", "sh", "json", "yaml", "go"}
	typed := regexp.MustCompile(`(?m)^\s*(\$ |\./|caddy |make |.*[{;]$)`)
	for _, b := range allBlocks(t) {
		switch {
		case b.language == "text" && typed.MatchString(b.text):
			t.Errorf("%s: got %q in a text, which no test looks at", b.name(), typed.FindString(b.text))
		case b.language != "text" && !slices.Contains(checked, b.language):
			t.Errorf("%s: got a block in %q, which no test looks at", b.name(), b.language)
		}
	}
}

// grammar is what stands for something in a syntax, and an example of it.
var grammar = strings.NewReplacer(
	"[@matcher] ", "", " [<matcher>]", "", "[<key file>...] ", "", "[<older file>...]", "old.key", "[<name>]", "starpod-ns",
	"auto | veth | sealed | env", "auto", "strip | deny | pass", "strip", "pass | strip | deny", "pass",
	"replace | strip | deny", "replace", "on | off", "on",
	"<per client> [<in all>]", "10 40", "<number>", "10", "<size>", "1MiB", "<duration>", "10s",
	"<cidr|host|private_ranges>...", "private_ranges a.test", "<cidr|host>...", "10.0.0.0/8", "<host>...", "a.test *.b.test",
	"<pem file>...", "root.pem", "<proxy url>", "http://proxy.test:3128", "issuer <name> ...", "issuer internal",
	"<user> <bcrypt hash>", "agent $2a$14$Zkx19XLiW6VYouLHR5NmfOFU0z2GTNmpkT/5qqR7hx4IjWJPDhjvG",
	"<folder>", "data", "<file>", "key", "host_interface <name>", "host_interface sp-x", "peer_interface <name>", "peer_interface sp-y", "<range>", "10.200.1.0/24", "<port>...", "80 443",
)

// wholeCaddyfile puts a fragment into the place that it is for.
func wholeCaddyfile(text string) string {
	text = grammar.Replace(text)
	if !strings.Contains(text, "generate_key") {
		text = strings.ReplaceAll(text, ".starpod/db/.vault_key", "key") // which is there
	}
	first := strings.TrimSpace(strings.TrimLeft(text, "\n"))
	switch {
	case strings.HasPrefix(first, "starpod_secrets"):
		return ":8080 {\n" + text + "}\n"
	case strings.HasPrefix(first, "egress"), strings.HasPrefix(first, "limits"):
		return ":8080 {\nstarpod_secrets key {\n" + text + "}\n}\n"
	case strings.HasPrefix(first, "{") && !regexp.MustCompile(`(?m)^[^\s{}#].*\{`).MatchString(text):
		return text + ":8080 {\nstarpod_secrets key\n}\n"
	}
	return text
}

// TestPagesCaddyfile adapts every Caddyfile in the pages, and provisions it.
func TestPagesCaddyfile(t *testing.T) {
	t.Setenv("VIEW_HASH", "$2a$14$Zkx19XLiW6VYouLHR5NmfOFU0z2GTNmpkT/5qqR7hx4IjWJPDhjvG")
	for _, b := range blocks(t, "caddyfile") {
		t.Run(b.name(), func(t *testing.T) {
			whole := string(caddyfile.Format([]byte(wholeCaddyfile(b.text))))
			text, config := adapt(t, whole)
			if config == nil {
				t.Fatalf("got %s, want it to adapt:\n%s", text, whole)
			}
			validate(t, config)
		})
	}
}

// TestExampleCaddyfiles adapts every Caddyfile in examples, and provisions it. What
// lies in folders of the machine is looked for in others.
func TestExampleCaddyfiles(t *testing.T) {
	t.Setenv("VIEW_HASH", "$2a$14$Zkx19XLiW6VYouLHR5NmfOFU0z2GTNmpkT/5qqR7hx4IjWJPDhjvG")
	authority := t.TempDir()
	if _, err := ca.LoadOrGenerate(authority); err != nil {
		t.Fatal(err)
	}
	n := 0
	err := filepath.WalkDir("examples", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "Caddyfile") {
			return err
		}
		n++
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		t.Run(path, func(t *testing.T) {
			dir := t.TempDir()
			reason, config := adapt(t, strings.NewReplacer(
				" /run/credentials/starpod.service/master.key", " key",
				" /run/secrets/starpod/master.key", " key", " /run/secrets/master_key", " key",
				" /run/secrets/ca/tls.crt", " "+filepath.Join(authority, ca.CertFile), " /run/secrets/ca/tls.key", " "+filepath.Join(authority, ca.KeyFile),
				"/etc/starpod/keys/current", "key", "/etc/starpod/keys/next", "old.key", "/etc/starpod/keys/old", "old.key",
				" /srv/", " "+dir+"/", " /var/", " "+dir+"/", " /run/", " "+dir+"/", "unix//run/", "unix/"+dir+"/",
				"file_system /data", "file_system "+dir,
			).Replace(string(text)))
			if config == nil {
				t.Fatalf("got %s, want it to adapt", reason)
			}
			validate(t, config)
		})
		return nil
	})
	if err != nil || n < 10 {
		t.Errorf("got %d (%v), want those of the folder", n, err)
	}
}

// otherCommands may stand in a block besides ours. What they do is not checked.
var otherCommands = []string{"curl", "export", "eval", "sha256sum", "go", "xcaddy", "sudo", "systemctl", "docker", "cp", "sed", "install", "mkdir", "chmod", "cd", "git", "openssl", "kubectl", "echo", "printf", "python3"}

// TestPagesShell reads every command of ours in the pages as cobra does: it must
// exist, and so must its flags. Of make, the targets must.
func TestPagesShell(t *testing.T) {
	for _, b := range blocks(t, "sh") {
		t.Run(b.name(), func(t *testing.T) { checkShell(t, b.text) })
	}
}

func checkShell(t *testing.T, text string) {
	t.Helper()
	for line := range strings.Lines(strings.ReplaceAll(text, "\\\n", " ")) {
		words := shellWords(line)
		for len(words) > 0 && assignment.MatchString(words[0]) {
			if strings.Contains(words[0], "$(") {
				words = nil // of ours, see below
				break
			}
			words = words[1:]
		}
		if len(words) == 0 {
			continue
		}
		switch name := filepath.Base(words[0]); {
		case name == "make":
			for _, target := range words[1:] {
				checkTarget(t, target)
			}
		case name != "caddy" && !slices.Contains(otherCommands, name):
			t.Errorf("got the command %q, which this test does not know", words[0])
		}
	}
	checkOurCommands(t, text)
}

func checkTarget(t *testing.T, target string) {
	t.Helper()
	makefile, err := os.ReadFile("Makefile")
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(target) + `:`).Match(makefile) {
		t.Errorf("make %s: the Makefile has no such target", target)
	}
}

// TestPagesInlineCommands checks what the text between the blocks tells to type.
func TestPagesInlineCommands(t *testing.T) {
	span := regexp.MustCompile("`([^`\n]*caddy starpod [^`\n]*)`")
	target := regexp.MustCompile("`(?:[A-Z]+=\\w+ )?make ([a-z]+)`")
	placeholder := regexp.MustCompile(` ?\[[A-Z]+\]| …`)
	n := 0
	for page, text := range pages(t) {
		for _, found := range span.FindAllStringSubmatch(text, -1) {
			t.Run(filepath.Base(page), func(t *testing.T) { checkOurCommands(t, placeholder.ReplaceAllString(found[1], "")) })
			n++
		}
		for _, found := range target.FindAllStringSubmatch(text, -1) {
			checkTarget(t, found[1])
		}
	}
	if n < 10 {
		t.Errorf("got %d commands in the text, want those of the table", n)
	}
}

// TestPagesCommands: each command has its row in docs/commands.md, which names flags
// that it has.
func TestPagesCommands(t *testing.T) {
	parent := &cobra.Command{Use: "starpod"}
	command().CobraFunc(parent)
	rows := regexp.MustCompile("(?m)^\\| `caddy starpod (\\w+)[^|]*\\| (.*) \\|$").FindAllStringSubmatch(pages(t)["docs/commands.md"], -1)
	var described []string
	for _, row := range rows {
		described = append(described, row[1])
		cmd, _, err := parent.Find(row[1:2])
		if err != nil {
			t.Errorf("%s: %v", row[1], err)
			continue
		}
		for _, flag := range regexp.MustCompile("`--([\\w-]+)").FindAllStringSubmatch(row[2], -1) {
			if cmd.Flags().Lookup(flag[1]) == nil {
				t.Errorf("%s has no flag --%s", row[1], flag[1])
			}
		}
	}
	for _, cmd := range parent.Commands() {
		if !cmd.Hidden && !slices.Contains(described, cmd.Name()) {
			t.Errorf("%s has no row", cmd.Name())
		}
	}
}

// checkOurCommands parses each `caddy starpod` in a text.
func checkOurCommands(t *testing.T, text string) {
	t.Helper()
	parts := strings.Split(strings.ReplaceAll(text, "\\\n", " "), "caddy starpod ")
	for _, rest := range parts[1:] {
		words := shellWords(rest)
		parent := &cobra.Command{Use: "starpod"}
		command().CobraFunc(parent)
		parent.InitDefaultHelpCmd()
		cmd, args, err := parent.Find(words)
		if err != nil || cmd == parent && (len(words) == 0 || words[0] != "--help") {
			t.Errorf("caddy starpod %s: there is no such command (%v)", words, err)
			continue
		}
		if slices.Contains(args, "--help") {
			continue
		}
		if err := cmd.ParseFlags(args); err != nil {
			t.Errorf("caddy starpod %s: %v", words, err)
			continue
		}
		// In the text a command may be named without what it is for.
		if left := cmd.Flags().Args(); len(left) > 0 {
			if err := cmd.ValidateArgs(left); err != nil {
				t.Errorf("caddy starpod %s: %v", words, err)
			}
		}
	}
}

// shellWords are those of the first simple command of a text, without what is
// redirected. Quotes are understood, nothing else.
func shellWords(text string) (words []string) {
	var word strings.Builder
	var quote rune
	begun := false
	end := func() {
		if begun {
			words = append(words, word.String())
		}
		word.Reset()
		begun = false
	}
	for _, c := range text {
		switch {
		case quote != 0:
			if c == quote {
				quote = 0
				continue
			}
			word.WriteRune(c)
		case c == '\'' || c == '"':
			quote, begun = c, true
		case strings.ContainsRune("\n|;&<>)", c), c == '#' && !begun:
			end()
			return words
		case c == ' ' || c == '\t':
			end()
		default:
			word.WriteRune(c)
			begun = true
		}
	}
	end()
	return words
}

// TestPagesLinks follows the links from page to page, and to their headings.
func TestPagesLinks(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#\s]*)(#[^)\s]*)?\)|<img[^>]* src="([^"]+)"`)
	for page, text := range pages(t) {
		for _, found := range link.FindAllStringSubmatch(text, -1) {
			target := filepath.Join(filepath.Dir(page), found[1]+found[3])
			switch there, err := os.ReadFile(target); {
			case strings.Contains(found[1], "://"):
			case found[1]+found[3] == "":
				there = []byte(text)
				fallthrough
			case found[2] != "":
				if !slices.Contains(anchors(string(there)), found[2]) {
					t.Errorf("%s: the link to %s%s leads to no heading", page, found[1], found[2])
				}
			case errors.Is(err, fs.ErrNotExist):
				t.Errorf("%s: the link to %s leads nowhere", page, target)
			}
		}
	}
}

// TestPagesFound: the README leads to each page.
func TestPagesFound(t *testing.T) {
	all := pages(t)
	for page := range all {
		if page != "README.md" && !strings.Contains(all["README.md"], "]("+page) {
			t.Errorf("no link leads to %s", page)
		}
	}
}

// anchors are those of a page's headings, as GitHub makes them.
func anchors(page string) (all []string) {
	for _, heading := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(page, -1) {
		name := regexp.MustCompile(`[^\w -]`).ReplaceAllString(strings.ToLower(heading[1]), "")
		all = append(all, "#"+strings.ReplaceAll(name, " ", "-"))
	}
	return all
}

// TestPagesShellRuns executes what the README says to type, with a curl and an
// agent that say what they were given.
func TestPagesShellRuns(t *testing.T) {
	t.Parallel()
	ran := 0
	for _, b := range blocks(t, "sh") {
		if b.page != "README.md" || !strings.Contains(b.text, "./caddy starpod") || strings.Contains(b.text, "--attach") {
			continue // --attach is tested where there is a server
		}
		ran++
		t.Run(b.name(), func(t *testing.T) {
			t.Parallel()
			dir, bin := t.TempDir(), t.TempDir()
			if err := os.Symlink(self(t), filepath.Join(dir, "caddy")); err != nil {
				t.Fatal(err)
			}
			for name, script := range map[string]string{"curl": `echo curl "$@"`, "claude": "env"} {
				if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			key := typed{args: []string{"keygen", ".starpod/db/.vault_key"}, dir: dir}
			if err := os.MkdirAll(filepath.Join(dir, ".starpod/db"), 0o700); err != nil {
				t.Fatal(err)
			}
			key.succeed(t)
			if err := os.WriteFile(filepath.Join(dir, "secret.txt"), []byte("ghp_your_real_token"), 0o600); err != nil {
				t.Fatal(err)
			}
			cmd := typed{dir: dir, env: []string{"PATH=" + bin + ":" + os.Getenv("PATH")}}.prepare(t)
			cmd.Path, cmd.Args = "/bin/sh", []string{"sh", "-eu", "-c", b.text}
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.Contains(string(out), "starpod:v1:") || regexp.MustCompile("ghp_your_real_token|sk-ant-your-key").Match(out) {
				t.Errorf("got %s (%v), want a token to be given", out, err)
			}
		})
	}
	if ran < 3 {
		t.Errorf("got %d blocks that run, want those of all ways to use it", ran)
	}
}
