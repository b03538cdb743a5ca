package starpod

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
)

var update = flag.Bool("update", false, "write what the adapter says into the fixtures")

const divider = "----------\n"

// TestCaddyfile adapts every fixture in testdata/caddyfile: a Caddyfile, a line
// of dashes, and the JSON it becomes, or, where it must be refused, the error.
// What adapts must also load, as `caddy validate` does it.
func TestCaddyfile(t *testing.T) {
	fixtures, err := filepath.Glob("testdata/caddyfile/*.caddyfiletest")
	if err != nil || len(fixtures) == 0 {
		t.Fatalf("no fixtures: %v", err)
	}
	for _, fixture := range fixtures {
		t.Run(strings.TrimSuffix(filepath.Base(fixture), ".caddyfiletest"), func(t *testing.T) {
			text, err := os.ReadFile(fixture)
			if err != nil {
				t.Fatal(err)
			}
			input, want, found := strings.Cut(string(text), divider)
			if !found && !*update {
				t.Fatalf("%s has no line of dashes", fixture)
			}
			got, adapted := adapt(t, input)
			if *update {
				if err := os.WriteFile(fixture, []byte(input+divider+got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			refused := strings.HasPrefix(filepath.Base(fixture), "refused_")
			if refused == (adapted != nil) {
				t.Errorf("refused is %v, want %v", adapted == nil, refused)
			}
			if adapted != nil {
				validate(t, adapted)
			}
		})
	}
}

// adapt returns the JSON of a Caddyfile, or the error and nil.
func adapt(t *testing.T, input string) (text string, config []byte) {
	t.Helper()
	adapter := caddyconfig.GetAdapter("caddyfile")
	config, warnings, err := adapter.Adapt([]byte(input), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		return err.Error() + "\n", nil
	}
	if len(warnings) > 0 {
		t.Errorf("got warnings %v, want none", warnings)
	}
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, config, "", "\t"); err != nil {
		t.Fatal(err)
	}
	return pretty.String() + "\n", config
}

// validate provisions a configuration in an empty folder and checks that this
// leaves nothing behind.
func validate(t *testing.T, config []byte) {
	t.Helper()
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	dir := t.TempDir()
	t.Chdir(dir)
	var parsed caddy.Config
	if err := json.Unmarshal(config, &parsed); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"key", "old.key"} {
		key := strings.Repeat("0f", 32)
		if err := os.WriteFile(name, []byte(key), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile("root.pem", []byte(exampleRoot), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := caddy.Validate(&parsed); err != nil {
		t.Errorf("validating: %v", err)
	}
	left, err := filepath.Glob("*")
	if err != nil || len(left) != 3 {
		t.Errorf("validating left %v in the folder, want only the three files from before", left)
	}
}

// exampleRoot is some root in PEM form; its key was thrown away.
const exampleRoot = `-----BEGIN CERTIFICATE-----
MIIBhTCCASugAwIBAgIUPasNtbJOai+q7K3hilnR7KhIbp8wCgYIKoZIzj0EAwIw
FzEVMBMGA1UEAwwMRXhhbXBsZSByb290MCAXDTI2MTEyMzE5NDg0NVoYDzIxMjYx
MDMwMTk0ODQ1WjAXMRUwEwYDVQQDDAxFeGFtcGxlIHJvb3QwWTATBgcqhkjOPQIB
BggqhkjOPQMBBwNCAARSMtsmFJc3STkcRHzn61RxfN2syBXhmlJF+ysbGM8M4Xbd
xPdACYjiAQCIZdphm2SFhDl/XtF41U0aZdLxYh84o1MwUTAdBgNVHQ4EFgQUIUHM
YWyrsdCsvVHWORb44uXIPLEwHwYDVR0jBBgwFoAUIUHMYWyrsdCsvVHWORb44uXI
PLEwDwYDVR0TAQH/BAUwAwEB/zAKBggqhkjOPQQDAgNIADBFAiEA7fLPtw1eufLd
7/mrimh5b47JiG57dbwcZFcwIj+YiY0CIGVd/XKv78JVuZV20VDVHNL7HbrpjOGA
F/6GY6Zl8Q0y
-----END CERTIFICATE-----
`
