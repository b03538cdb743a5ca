package main

import (
	"path/filepath"
	"slices"
	"testing"
)

func TestArgs(t *testing.T) {
	here, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	r := recipe{XCaddy: "v1", Caddy: "v2", Output: "dist/caddy", Plugins: []plugin{
		{Path: "example.com/own", Replace: "."},
		{Path: "example.com/pinned", Version: "v3"},
		{Path: "example.com/extra", Version: "v4", Optional: true},
	}}
	always := []string{
		"run", "github.com/caddyserver/xcaddy/cmd/xcaddy@v1", "build", "v2", "--output", "dist/caddy",
		"--with", "example.com/own=" + here, "--with", "example.com/pinned@v3",
	}
	for name, test := range map[string]struct{ with, want []string }{
		"optional plugins are left out":  {nil, always},
		"one optional plugin is named":   {[]string{"example.com/extra"}, append(slices.Clone(always), "--with", "example.com/extra@v4")},
		"all optional plugins are named": {[]string{"all"}, append(slices.Clone(always), "--with", "example.com/extra@v4")},
		"another is named":               {[]string{"example.com/other"}, always},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := r.args(".", test.with)
			if err != nil || !slices.Equal(got, test.want) {
				t.Errorf("got  %q, %v\nwant %q", got, err, test.want)
			}
		})
	}
}

func TestArgsIncomplete(t *testing.T) {
	if _, err := (recipe{Caddy: "v2", Output: "x"}).args(".", nil); err == nil {
		t.Error("got no error for a recipe without xcaddy's version")
	}
}
