package starpod

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/spf13/pflag"
	"go.uber.org/zap"

	"github.com/starpod/caddy-starpod/handler"
	"github.com/starpod/caddy-starpod/tokens"
)

const projectSyntax = `Files of a project:
  The nearest folder, from the working folder upwards, with .starpod.env (an env file)
  or starpod.json says what run does there by default:
      {
        "secrets":   ["GITHUB_TOKEN", "API_KEY@api.example.com", "DB_KEY=cmd:op read op://x/y@db.example.com"],
        "egress":    ["allow 10.1.2.0/24", "deny *.example.net"],
        "isolation": "sealed"
      }
  Flags come before these. Who writes such a file decides which commands are run and
  which hosts receive values, so run wants 'caddy starpod approve' once for each
  file, and again when it has changed. starpod.json holds no values and names no files,
  and its commands start in the home folder, where nothing of the project is found by
  chance. --no-project leaves both out.
`

// The names of these files.
const (
	projectEnvFile  = ".starpod.env"
	projectJSONFile = "starpod.json"
)

// maxProjectFile bounds a file that somebody else may have written.
const maxProjectFile = 1 << 20

// projectFile is one that was found, as it was when it was read: what is approved is
// what counts.
type projectFile struct {
	path    string
	content []byte
}

// projectSettings are the members of starpod.json.
type projectSettings struct {
	// Secrets are like values of --secret: NAME, NAME@HOST,... or
	// NAME=cmd:LINE@HOST,... Default: none.
	Secrets []string `json:"secrets,omitempty"`

	// Egress are lines of `egress`: allow or deny, and where. They are tried behind
	// the flags. Default: none.
	Egress []string `json:"egress,omitempty"`

	// Isolation is auto, sealed, veth or env. Default: auto.
	Isolation string `json:"isolation,omitempty"`
}

// findProject returns the files of the nearest folder that has one.
func findProject(dir string) ([]projectFile, error) {
	dir, err := filepath.Abs(dir)
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir) // one approval, whatever the way there
	}
	if err != nil {
		return nil, err
	}
	for {
		var found []projectFile
		for _, name := range []string{projectEnvFile, projectJSONFile} {
			file, err := readProjectFile(filepath.Join(dir, name))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("%w; mend it, or leave it out with --no-project", err)
			}
			found = append(found, file)
		}
		parent := filepath.Dir(dir)
		if len(found) > 0 || parent == dir {
			return found, nil
		}
		dir = parent
	}
}

func readProjectFile(path string) (projectFile, error) {
	info, err := os.Stat(path)
	if err != nil {
		return projectFile{}, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxProjectFile {
		return projectFile{}, fmt.Errorf("%s is no file of at most %d bytes", path, maxProjectFile)
	}
	file, err := os.Open(path)
	if err != nil {
		return projectFile{}, err
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxProjectFile))
	return projectFile{path, content}, err
}

// approval is the file that stands for the approval of this content at this place.
func (p projectFile) approval() string {
	sum := sha256.Sum256([]byte(p.path + "\x00" + string(p.content)))
	return filepath.Join(caddy.AppDataDir(), "starpod", "approved", hex.EncodeToString(sum[:]))
}

func (p projectFile) approved() bool {
	_, err := os.Stat(p.approval())
	return err == nil
}

func (p projectFile) approve() error {
	path := p.approval()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("recording the approval: %w", err)
	}
	if err := os.WriteFile(path, []byte(p.path+"\n"), 0o600); err != nil {
		return fmt.Errorf("recording the approval: %w", err)
	}
	return nil
}

// settings reads starpod.json. Its errors do not repeat what stands there.
func (p projectFile) settings() (s projectSettings, err error) {
	decoder := json.NewDecoder(bytes.NewReader(p.content))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&s); err != nil {
		return s, fmt.Errorf("%s: write it as caddy starpod run --help shows: %w", p.path, err)
	}
	if decoder.More() {
		return s, fmt.Errorf("%s: text behind its end: remove it", p.path)
	}
	return s, nil
}

// rules are those of the lines in egress.
func (s projectSettings) rules() (rules []handler.EgressRule, err error) {
	for _, line := range s.Egress {
		verb, where, _ := strings.Cut(line, " ")
		if verb != "allow" && verb != "deny" {
			return nil, fmt.Errorf("egress: write %q as \"allow WHERE\" or \"deny WHERE\"", line)
		}
		more, err := handler.ParseEgressRule(verb == "allow", strings.TrimSpace(where))
		if err != nil {
			return nil, fmt.Errorf("egress: %w", err)
		}
		rules = append(rules, more...)
	}
	return rules, nil
}

// findApproved sets what the flags leave open from the files of the project that the
// working folder is in.
func (f *runFlags) findApproved(flags *pflag.FlagSet) error {
	if f.noProject {
		return nil
	}
	files, err := findProject(".")
	if err != nil {
		return err
	}
	for _, file := range files {
		if !file.approved() {
			return fmt.Errorf("%s is not approved, or has changed since: read it, then run: caddy starpod approve %s; "+
				"--no-project leaves it out", file.path, filepath.Dir(file.path))
		}
		if filepath.Base(file.path) == projectEnvFile {
			f.sourceFiles = append(f.sourceFiles, file.path)
			f.projectEnv = &file
			continue
		}
		settings, err := file.settings()
		if err != nil {
			return err
		}
		rules, err := settings.rules()
		if err != nil {
			return fmt.Errorf("%s: %w", file.path, err)
		}
		if f.attach && len(rules) > 0 {
			return fmt.Errorf("%s: egress does not go with --attach: write it into the Caddyfile, or add --no-project", file.path)
		}
		f.rules = append(f.rules, rules...)
		f.projectSecrets, f.projectPath = settings.Secrets, file.path
		if settings.Isolation != "" && !flags.Changed("isolation") {
			f.isolation = settings.Isolation
		}
	}
	return nil
}

// parseProjectSecret is parseSecret for what may be published.
func parseProjectSecret(text string, lookup func(string) (string, bool), bind hostBinder) (s tokens.Secret, source string, err error) {
	s, public, err := parseSecret(text, lookup, bind)
	source = s.Value.Reveal()
	switch {
	case err == nil && public && !strings.HasPrefix(source, commandSource):
		err = fmt.Errorf("%s: write NAME, NAME@HOST,... or NAME=%sLINE@HOST,...: this file holds no values and names no files", s.Name, commandSource)
	case err == nil && !public:
		source = ""
	}
	return s, source, err
}

// collectProject adds what the files of the project hold, but nothing that a flag
// has given already.
func (f *runFlags) collectProject(ctx context.Context, add func(tokens.Secret) error, given map[string]bool, log *zap.Logger) (plain []string, err error) {
	for _, text := range f.projectSecrets {
		if given[variableName.FindString(text)] {
			continue
		}
		secret, source, err := parseProjectSecret(text, os.LookupEnv, askHosts)
		if err == nil && source != "" {
			var home string
			if home, err = os.UserHomeDir(); err == nil {
				secret.Value, err = f.readSource(ctx, source, home, log)
			}
			if err != nil {
				err = fmt.Errorf("%s: %w", secret.Name, err)
			}
		}
		if err == nil {
			err = add(secret)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: secrets: %w", f.projectPath, err)
		}
	}
	if f.projectEnv == nil {
		return nil, nil
	}
	entries, err := bindEnvFile(f.projectEnv.path, string(f.projectEnv.content))
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		switch {
		case given[e.name]:
		case e.plain:
			plain = append(plain, e.name+"="+e.value.Reveal())
		default:
			if err := add(tokens.Secret{Name: e.name, Value: e.value, Hosts: e.hosts}); err != nil {
				return nil, fmt.Errorf("%s, line %d: %w", f.projectEnv.path, e.line, err)
			}
		}
	}
	return plain, nil
}
