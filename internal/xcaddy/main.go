// Command xcaddy builds the Caddy that a file describes, with xcaddy. Plugins
// marked optional are left out unless named: -with path,path, or -with all.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// recipe is the content of xcaddy.json.
type recipe struct {
	XCaddy  string   `json:"xcaddy"` // version of xcaddy itself
	Caddy   string   `json:"caddy"`  // version of Caddy
	Output  string   `json:"output"` // the binary
	Plugins []plugin `json:"plugins"`
}

type plugin struct {
	Path     string `json:"path"`               // module path
	Version  string `json:"version,omitempty"`  // default: latest
	Replace  string `json:"replace,omitempty"`  // local folder in its place
	Optional bool   `json:"optional,omitempty"` // left out unless asked for
}

func main() {
	file := flag.String("file", "xcaddy.json", "the recipe")
	with := flag.String("with", "", "optional plugins to build in: module paths with commas between, or all")
	flag.Parse()
	if err := run(*file, strings.FieldsFunc(*with, func(c rune) bool { return c == ',' })); err != nil {
		fmt.Fprintln(os.Stderr, "xcaddy:", err)
		os.Exit(1)
	}
}

func run(file string, with []string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var r recipe
	decoder := json.NewDecoder(strings.NewReader(string(text)))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&r); err != nil {
		return fmt.Errorf("reading %s: %w", file, err)
	}
	args, err := r.args(filepath.Dir(file), with)
	if err != nil {
		return err
	}
	cmd := exec.Command("go", args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}

// args returns the arguments of the go command that runs xcaddy.
func (r recipe) args(dir string, with []string) ([]string, error) {
	if r.XCaddy == "" || r.Caddy == "" || r.Output == "" {
		return nil, errors.New("the recipe needs xcaddy, caddy and output")
	}
	output := filepath.Join(dir, r.Output)
	args := []string{"run", "github.com/caddyserver/xcaddy/cmd/xcaddy@" + r.XCaddy, "build", r.Caddy, "--output", output}
	for _, p := range r.Plugins {
		if p.Optional && !slices.Contains(with, p.Path) && !slices.Contains(with, "all") {
			continue
		}
		word := p.Path
		if p.Version != "" {
			word += "@" + p.Version
		}
		if p.Replace != "" {
			folder, err := filepath.Abs(filepath.Join(dir, p.Replace))
			if err != nil {
				return nil, err
			}
			word += "=" + folder
		}
		args = append(args, "--with", word)
	}
	return args, nil
}
