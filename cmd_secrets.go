package starpod

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"regexp"
	"runtime"
	"strings"

	"go.uber.org/zap"

	"github.com/starpod/caddy-starpod/tokens"
)

const secretSyntax = `Secrets:
  --secret NAME@HOST,...        the value of the environment variable NAME
  --secret NAME                 the same, with the hosts known for a well-known NAME
  --secret NAME=file:PATH@HOST,...   what the file holds
  --secret NAME=cmd:LINE@HOST,...    what the shell command LINE prints, such as
                                'gh auth token', op read or vault kv get
  --secret NAME=VALUE@HOST,...  this value; an @ in it is fine, the last one counts
  Files and commands are read once, before COMMAND starts, and lose a line break at
  their end. Where no hosts are named or known, a terminal is asked for them.
  HOST is a host, *.example.com for any below it, either perhaps with :port. A
  single * as HOST lets any host receive the value. A value on the command line
  stays in the shell's history, and every local process can read it for a moment.
`

// minCopy is the shortest value, in bytes, that is looked for in other
// variables: shorter ones stand there by chance.
const minCopy = 8

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*`)

// collect reads the secrets of all flags, and the plain NAME=value lines of env
// files. No error of it holds a value, or what could be a misplaced one.
func (f *runFlags) collect(ctx context.Context, log *zap.Logger) (secrets []tokens.Secret, plain []string, err error) {
	seen := map[string]bool{}
	add := func(s tokens.Secret) error {
		if seen[s.Name] {
			return fmt.Errorf("%s is given twice: leave one out", s.Name)
		}
		seen[s.Name] = true
		if len(s.Hosts) == 0 {
			log.Warn("unrestricted: any host receives the value; name its hosts in place of *", zap.String("secret", s.Name))
		}
		secrets = append(secrets, s)
		return nil
	}
	for _, text := range f.secrets {
		secret, public, err := parseSecret(text, os.LookupEnv, askHosts)
		if err != nil {
			return nil, nil, fmt.Errorf("--secret: %w", err)
		}
		if source := secret.Value.Reveal(); public && isSource(source) {
			if secret.Value, err = f.readSource(ctx, source, "", log); err != nil {
				return nil, nil, fmt.Errorf("--secret: %s: %w", secret.Name, err)
			}
		} else if public {
			log.Warn("a value on the command line is public: it stays in the shell's history, and other processes may have read it; "+
				"use --secret NAME@HOST with the value in the environment, or --env-file", zap.String("secret", secret.Name))
		}
		if err := add(secret); err != nil {
			return nil, nil, fmt.Errorf("--secret: %w", err)
		}
	}
	for _, path := range f.envFiles {
		entries, err := readEnvFile(path, log)
		if err != nil {
			return nil, nil, err
		}
		for _, e := range entries {
			if e.plain {
				plain = append(plain, e.name+"="+e.value.Reveal())
			} else if err := add(tokens.Secret{Name: e.name, Value: e.value, Hosts: e.hosts}); err != nil {
				return nil, nil, fmt.Errorf("--env-file: %s, line %d: %w", path, e.line, err)
			}
		}
	}
	given := maps.Clone(seen)
	for _, entry := range plain {
		name, _, _ := strings.Cut(entry, "=")
		given[name] = true
	}
	ofProject, err := f.collectProject(ctx, add, given, log)
	return secrets, append(plain, ofProject...), err
}

// hostBinder is bindHosts, or askHosts.
type hostBinder func(name string, named []string) ([]string, error)

// parseSecret reads NAME, NAME@HOSTS, NAME=VALUE@HOSTS or NAME=VALUE. public
// says that the value, or what leads to it, was part of the text.
func parseSecret(text string, lookup func(string) (string, bool), bind hostBinder) (secret tokens.Secret, public bool, err error) {
	secret.Name = variableName.FindString(text)
	rest := text[len(secret.Name):]
	rest, public = strings.CutPrefix(rest, "=")
	at := strings.LastIndexByte(rest, '@')
	if secret.Name == "" || !public && rest != "" && at != 0 {
		return secret, public, errors.New("write it as NAME, NAME@HOST,... or NAME=VALUE@HOST,..., NAME being an environment variable")
	}
	var named []string
	if at >= 0 {
		named = splitList(rest[at+1:])
		rest = rest[:at]
	}
	secret.Hosts, err = bind(secret.Name, named)
	switch {
	case errors.Is(err, errNoHosts):
		form := secret.Name
		if public {
			form += "=VALUE"
		}
		return secret, public, fmt.Errorf("%s: %w: name its hosts: --secret %s@HOST", secret.Name, err, form)
	case err != nil && public:
		// What stands behind the last @ may be the end of a value.
		return secret, public, fmt.Errorf("%s: what follows the last @ must be hosts, such as api.example.com,*.example.org; "+
			"a value with an @ needs hosts behind it", secret.Name)
	case err != nil:
		return secret, public, fmt.Errorf("%s: host: %w", secret.Name, err)
	}
	if !public {
		var set bool
		if rest, set = lookup(secret.Name); !set {
			return secret, public, fmt.Errorf("%s is not in the environment: export it first", secret.Name)
		}
	}
	if rest == "" {
		return secret, public, fmt.Errorf("%s is empty: give it a value, or leave it out", secret.Name)
	}
	secret.Value = tokens.Value(rest)
	return secret, public, nil
}

// readEnvFile reads an env file and binds its entries to hosts.
func readEnvFile(path string, log *zap.Logger) ([]envEntry, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("--env-file: %w", err)
	}
	if info, err := os.Stat(path); err == nil && othersMay(info) {
		log.Warn("others can read the env file; run: chmod 600 "+path, zap.String("mode", info.Mode().String()))
	}
	entries, err := bindEnvFile(path, string(text))
	if err != nil {
		return nil, fmt.Errorf("--env-file: %w", err)
	}
	return entries, nil
}

func bindEnvFile(path, text string) ([]envEntry, error) {
	entries, err := parseEnvFile(text)
	if err != nil {
		return nil, fmt.Errorf("%s, %w", path, err)
	}
	for i := range entries {
		e := &entries[i]
		if e.plain {
			continue
		}
		e.hosts, err = askHosts(e.name, e.hosts)
		if errors.Is(err, errNoHosts) {
			err = fmt.Errorf("%w: write a line `# hosts: api.example.com` above it, or `# plain` if it is no secret", err)
		}
		if err == nil && e.value == "" {
			err = errors.New("is empty: give it a value, or remove the line")
		}
		if err != nil {
			return nil, fmt.Errorf("%s, line %d: %s: %w", path, e.line, e.name, err)
		}
	}
	return entries, nil
}

// othersMay reports whether a regular file can be read by others. On Windows the
// mode does not tell.
func othersMay(info fs.FileInfo) bool {
	return runtime.GOOS != "windows" && info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0
}

// warnOfCopies names the variables of the command that hold a value all the same.
func warnOfCopies(env []string, secrets []tokens.Secret, log *zap.Logger) {
	for _, entry := range env {
		name, text, _ := strings.Cut(entry, "=")
		for _, s := range secrets {
			if value := s.Value.Reveal(); len(value) >= minCopy && strings.Contains(text, value) {
				log.Warn("another variable holds the value, too, and goes to the command as it is; "+
					"unset it, or give it with --secret", zap.String("variable", name), zap.String("secret", s.Name))
			}
		}
	}
}
