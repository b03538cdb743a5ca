package starpod

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/starpod/caddy-starpod/handler"
)

// plan is what is examined: what a configuration says, or flags, or the defaults.
type plan struct {
	file     string // the configuration, "" for none
	err      error  // why it cannot be read
	keys     []plannedKey
	dir      string // of the authority
	app      *App
	handlers []*handler.Handler
	listen   []string
	admin    string            // "" for none
	roots    map[string]string // files of roots that the pki app is given, by authority
	storage  string            // folder of Caddy's storage, "" where it is no folder
}

type plannedKey struct {
	path     string
	generate bool
}

// defaultCaddyfile is what Caddy takes where no configuration is named.
const defaultCaddyfile = "Caddyfile"

func readPlan(f *doctorFlags) plan {
	p := plan{file: f.admin.config, app: new(App), storage: caddy.AppDataDir()}
	if p.file == "" {
		if _, err := os.Stat(defaultCaddyfile); err == nil {
			p.file = defaultCaddyfile
		}
	}
	if p.file != "" {
		p.err = p.read(f.admin.adapter)
	}
	if len(f.keyFiles) > 0 {
		p.keys = nil
		for _, path := range f.keyFiles {
			p.keys = append(p.keys, plannedKey{path: path})
		}
	}
	if p.file == "" && len(p.keys) == 0 {
		if _, err := os.Stat(defaultKeyFile()); err == nil {
			p.keys = []plannedKey{{path: defaultKeyFile()}}
		}
	}
	if f.dataDir != "" {
		p.app.DataDir, p.app.CA = f.dataDir, nil
	}
	if p.dir = p.app.DataDir; p.dir == "" {
		p.dir = filepath.Join(caddy.AppDataDir(), "starpod")
	}
	return p
}

// adapted is what of Caddy's JSON is looked at.
type adapted struct {
	Admin   *caddy.AdminConfig `json:"admin"`
	Storage *struct {
		Module string `json:"module"`
		Root   string `json:"root"`
	} `json:"storage"`
	Apps struct {
		HTTP struct {
			Servers map[string]json.RawMessage `json:"servers"`
		} `json:"http"`
		Starpod *App `json:"starpod"`
		PKI     struct {
			Authorities map[string]struct {
				Root *struct {
					Certificate string `json:"certificate"`
				} `json:"root"`
			} `json:"certificate_authorities"`
		} `json:"pki"`
	} `json:"apps"`
}

// read reads the configuration as Caddy would.
func (p *plan) read(adapter string) error {
	text, err := os.ReadFile(p.file)
	if err != nil {
		return err
	}
	if adapter == "" && !strings.EqualFold(filepath.Ext(p.file), ".json") {
		adapter = "caddyfile"
	}
	if adapter != "" {
		a := caddyconfig.GetAdapter(adapter)
		if a == nil {
			return fmt.Errorf("there is no adapter %q; leave --adapter out for a Caddyfile or JSON", adapter)
		}
		if text, _, err = a.Adapt(text, map[string]any{"filename": p.file}); err != nil {
			return err
		}
	}
	var config adapted
	if err := json.Unmarshal(text, &config); err != nil {
		return fmt.Errorf("reading its JSON: %w", err)
	}
	return p.take(config)
}

func (p *plan) take(config adapted) error {
	p.admin = caddy.DefaultAdminListen
	if a := config.Admin; a != nil && a.Disabled {
		p.admin = ""
	} else if a != nil && a.Listen != "" {
		p.admin = a.Listen
	}
	if s := config.Storage; s != nil {
		p.storage = s.Root
	}
	if config.Apps.Starpod != nil {
		p.app = config.Apps.Starpod
	}
	p.roots = map[string]string{}
	for id, authority := range config.Apps.PKI.Authorities {
		if authority.Root != nil {
			p.roots[id] = authority.Root.Certificate
		}
	}
	for _, raw := range config.Apps.HTTP.Servers {
		var server struct {
			Listen []string `json:"listen"`
		}
		var content any
		if err := errors.Join(json.Unmarshal(raw, &server), json.Unmarshal(raw, &content)); err != nil {
			return fmt.Errorf("reading its JSON: %w", err)
		}
		p.listen = append(p.listen, server.Listen...)
		if err := p.findHandlers(content); err != nil {
			return err
		}
	}
	repl := caddy.NewReplacer()
	for _, h := range p.handlers {
		for i, path := range h.MasterKeyFiles {
			p.keys = append(p.keys, plannedKey{repl.ReplaceKnown(path, ""), h.GenerateKey && i == 0})
		}
	}
	return nil
}

// findHandlers finds starpod_secrets wherever routes nest.
func (p *plan) findHandlers(content any) error {
	switch content := content.(type) {
	case []any:
		for _, inner := range content {
			if err := p.findHandlers(inner); err != nil {
				return err
			}
		}
	case map[string]any:
		if content["handler"] == "starpod_secrets" {
			text, err := json.Marshal(content)
			if err != nil {
				return err
			}
			found := new(handler.Handler)
			if err := json.Unmarshal(text, found); err != nil {
				return fmt.Errorf("reading its starpod_secrets: %w", err)
			}
			p.handlers = append(p.handlers, found)
			return nil
		}
		for _, inner := range content {
			if err := p.findHandlers(inner); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *doctor) checkConfiguration(context.Context) []finding {
	switch p := d.plan; {
	case p.file == "":
		return []finding{absent("", "no configuration named, and no Caddyfile in this folder", "")}
	case errors.Is(p.err, fs.ErrNotExist):
		return []finding{broken(p.file, "is missing", "name the file with --config")}
	case p.err != nil:
		return []finding{brokenBy(p.file, p.err, "correct that line; see: "+commandLine("caddy", "adapt", "--config", p.file))}
	case len(p.handlers) == 0:
		return []finding{absent(p.file, "no site has starpod_secrets", "write `starpod_secrets <key file>` into the site that is the proxy")}
	}
	return []finding{good(d.plan.file, fmt.Sprintf("proxies: %d", len(d.plan.handlers)))}
}
