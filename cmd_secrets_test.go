package starpod

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/starpod/caddy-starpod/handler"
	"github.com/starpod/caddy-starpod/tokens"
)

func TestCmdRunReadsSecrets(t *testing.T) {
	t.Parallel()
	env := map[string]string{"MY_KEY": "from env", "GITHUB_TOKEN": "gh", "EMPTY": ""}
	lookup := func(name string) (string, bool) { value, set := env[name]; return value, set }
	for _, test := range []struct {
		text   string
		want   tokens.Secret
		public bool
		err    string // part of it
	}{
		{text: "GITHUB_TOKEN", want: tokens.Secret{Value: "gh", Hosts: []string{"api.github.com"}}},
		{text: "GITHUB_TOKEN@h.test", want: tokens.Secret{Value: "gh", Hosts: []string{"h.test"}}},
		{text: "MY_KEY@a.test, *.b.test,c.test:8443", want: tokens.Secret{Value: "from env", Hosts: []string{"a.test", "*.b.test", "c.test:8443"}}},
		{text: "MY_KEY@*", want: tokens.Secret{Value: "from env"}},
		{text: "NEW=val@h.test", want: tokens.Secret{Value: "val", Hosts: []string{"h.test"}}, public: true},
		{text: "NEW=v@l=u@e@h.test", want: tokens.Secret{Value: "v@l=u@e", Hosts: []string{"h.test"}}, public: true},
		{text: "NEW=val@*", want: tokens.Secret{Value: "val"}, public: true},
		{text: "OPENAI_API_KEY=val", want: tokens.Secret{Value: "val", Hosts: []string{"api.openai.com"}}, public: true},
		{text: "MY_KEY", err: "name its hosts: --secret MY_KEY@HOST"},
		{text: "NEW=hunter2", err: "name its hosts: --secret NEW=VALUE@HOST"},
		{text: "NEW=hun@ter2/x", err: "NEW: what follows the last @ must be hosts"},
		{text: "NEW=hunter2@", err: "what follows the last @ must be hosts"},
		{text: "NEW=hunter2@a.test,", err: "what follows the last @ must be hosts"},
		{text: "NEW=hunter2@*,a.test", err: "what follows the last @ must be hosts"},
		{text: "MY_KEY@", err: "MY_KEY: host: "},
		{text: "MY_KEY@https://h.test", err: "write the host alone"},
		{text: "UNSET@h.test", err: "UNSET is not in the environment"},
		{text: "EMPTY@h.test", err: "EMPTY is empty"},
		{text: "NEW=@h.test", err: "NEW is empty"},
		{text: "", err: "write it as NAME"},
		{text: "sk-hunter2", err: "write it as NAME"},
		{text: "1hunter2=x@h.test", err: "write it as NAME"},
		{text: "hunter2 x@h.test", err: "write it as NAME"},
	} {
		got, public, err := parseSecret(test.text, lookup, bindHosts)
		if test.err != "" {
			if err == nil || !strings.Contains(err.Error(), test.err) || strings.Contains(err.Error(), "ter2") {
				t.Errorf("%q: got error %v, want %q without the value", test.text, err, test.err)
			}
			continue
		}
		got.Name = ""
		if err != nil || !reflect.DeepEqual(got, test.want) || public != test.public {
			t.Errorf("%q: got hosts %q, public %t (%v), want %q, %t, and the right value",
				test.text, got.Hosts, public, err, test.want.Hosts, test.public)
		}
	}
}

func TestCmdRunKeepsTheOrderOfAllowAndDeny(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ line, want string }{
		{"--allow 10.0.0.0/8 --deny *", "+10.0.0.0/8 -*"},
		{"--deny * --allow 10.0.0.0/8", "-* +10.0.0.0/8"},
		{"--deny=a.test --allow b.test,c.test:8443 --deny *.d.test --allow ::1", "-a.test +b.test +c.test:8443 -*.d.test +::1"},
	} {
		f := new(runFlags)
		flags := pflag.NewFlagSet("run", pflag.ContinueOnError)
		f.register(flags)
		if err := flags.Parse(strings.Fields(test.line)); err != nil {
			t.Fatal(err)
		}
		if got := describeRules(f.rules); got != test.want {
			t.Errorf("%s: got %s, want %s", test.line, got, test.want)
		}
	}
}

func describeRules(rules []handler.EgressRule) string {
	var words []string
	for _, r := range rules {
		sign := map[bool]string{true: "+", false: "-"}[r.Allow]
		words = append(words, sign+r.Text)
	}
	return strings.Join(words, " ")
}

func TestCmdEnvFileSyntax(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, text string
		want       string // entries as describe writes them
		err        string
	}{
		{"plain lines", "A=1\nB=2\n", `1 A="1" 2 B="2"`, ""},
		{"no newline at the end", "A=1", `1 A="1"`, ""},
		{"Windows line ends and a byte order mark", "\ufeffA=1\r\nB='2'\r\n", `1 A="1" 2 B="2"`, ""},
		{"blank lines and comments", "\n# note\n\nA=1\n", `4 A="1"`, ""},
		{"export and blanks", "export A=1\n\t B = 2 \n", `1 A="1" 2 B="2"`, ""},
		{"an empty value", "A=\nB= # none\nC=''\n", `1 A="" 2 B="" 3 C=""`, ""},
		{"a comment behind a value", "A=1 # one\nB=1#one\nC='1' # one\n", `1 A="1" 2 B="1#one" 3 C="1"`, ""},
		{"equals, at and dollar signs", "A=a=b@c$D${E}\n", `1 A="a=b@c$D${E}"`, ""},
		{"single quotes take all", `A='a "b" \n $C # d'`, `1 A="a \"b\" \\n $C # d"`, ""},
		{"double quotes know escapes", `A="a\n\r\t\"\$\\'#"`, `1 A="a\n\r\t\"$\\'#"`, ""},
		{"quotes inside are kept", `A=it's"so"`, `1 A="it's\"so\""`, ""},
		{"hosts", "# hosts: a.test, *.b.test\nA=1\n", `2 A="1" [a.test *.b.test]`, ""},
		{"any host", "#hosts:*\nA=1\n", `2 A="1" [*]`, ""},
		{"hosts belong to one line only", "# hosts: a.test\nA=1\nB=2\n", `2 A="1" [a.test] 3 B="2"`, ""},
		{"hosts must be directly above", "# hosts: a.test\n\nA=1\n# hosts: a.test\n# note\nB=2\n", `3 A="1" 6 B="2"`, ""},
		{"no secret", "# plain\nA=1\nB=2\n", `2 A="1" plain 3 B="2"`, ""},
		{"nothing", "", "", ""},
		{"no assignment", "A=1\ns3cret\n", "", "line 2: write it as NAME=value"},
		{"a name with a dash", "A-B=s3cret\n", "", "line 1: write it as NAME=value"},
		{"a name that begins with a digit", "1A=s3cret\n", "", "line 1: write it as NAME=value"},
		{"an open single quote", "A='s3cret\n", "", "line 1: A: the quote is not closed"},
		{"an open double quote", "A=\"s3cret\\\"\n", "", "line 1: A: the quote is not closed"},
		{"a backslash at the end", "A=\"s3cret\\\n", "", "line 1: A: the quote is not closed"},
		{"text behind a quote", "A='a's3cret\n", "", "line 1: A: text behind the closing quote"},
		{"a comment glued to a quote", "A='a'#s3cret\n", "", "line 1: A: text behind the closing quote"},
		{"an unknown escape", `A="s3cret\x"`, "", "line 1: A: unknown escape"},
		{"a name given twice", "A=1\nA=s3cret\n", "", "line 2: A is given twice"},
		{"a NUL byte", "A=s3cret\x00\n", "", "line 1: A: the value holds a NUL"},
	} {
		entries, err := parseEnvFile(test.text)
		if test.err != "" {
			if err == nil || !strings.Contains(err.Error(), test.err) || strings.Contains(err.Error(), "s3cret") {
				t.Errorf("%s: got %v, want %q without the value", test.name, err, test.err)
			}
			continue
		}
		if got := describeEntries(entries); err != nil || got != test.want {
			t.Errorf("%s: got %s (%v), want %s", test.name, got, err, test.want)
		}
	}
}

func describeEntries(entries []envEntry) string {
	var words []string
	for _, e := range entries {
		word := fmt.Sprintf("%d %s=%q", e.line, e.name, e.value.Reveal())
		if e.hosts != nil {
			word += fmt.Sprint(" ", e.hosts)
		}
		if e.plain {
			word += " plain"
		}
		words = append(words, word)
	}
	return strings.Join(words, " ")
}

// FuzzEnvFile checks that what was read, written in its one canonical form, is
// read as the same again.
func FuzzEnvFile(f *testing.F) {
	for _, text := range []string{
		"A=1\n", "# hosts: a.test,b.test\nexport A='x y'\n", `A="a\n\"\$\\" # c`, "# plain\r\nA=b#c\r\n", "A= # x\nB=\"\\", "\ufeffA=\xff",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		entries, err := parseEnvFile(text)
		if err != nil {
			return
		}
		again, err := parseEnvFile(writeEntries(entries))
		for i := range again {
			again[i].line = entries[i].line
		}
		if got, want := describeEntries(again), describeEntries(entries); err != nil || got != want {
			t.Errorf("%q: got %s (%v), want %s", text, got, err, want)
		}
	})
}

func writeEntries(entries []envEntry) string {
	quote := strings.NewReplacer("\n", `\n`, "\r", `\r`, "\t", `\t`, `"`, `\"`, "$", `\$`, `\`, `\\`)
	var b strings.Builder
	for _, e := range entries {
		switch {
		case e.plain:
			b.WriteString("# plain\n")
		case e.hosts != nil:
			b.WriteString("# hosts:" + strings.Join(e.hosts, ",") + "\n")
		}
		b.WriteString(e.name + `="` + quote.Replace(e.value.Reveal()) + "\"\n")
	}
	return b.String()
}
