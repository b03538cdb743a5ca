package starpod

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/starpod/caddy-starpod/handler"
)

// documented are the rows of docs/configuration.md below a heading: default by JSON
// name.
func documented(t *testing.T, section string) map[string]string {
	t.Helper()
	page, err := os.ReadFile("docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, found := strings.Cut(string(page), "\n## "+section+"\n")
	if !found {
		t.Fatalf("the page has no section %q", section)
	}
	text, _, _ = strings.Cut(text, "\n## ")
	rows := make(map[string]string)
	column := -1 // of the JSON names
	for line := range strings.Lines(text) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		switch {
		case !strings.HasPrefix(line, "|"):
			column = -1
		case column < 0:
			if column = slices.IndexFunc(cells, func(c string) bool { return strings.TrimSpace(c) == "JSON" }); column < 0 {
				t.Fatalf("got a table without JSON names: %s", line)
			}
		case strings.HasPrefix(line, "|---"):
		case len(cells) != 3 && len(cells) != 4:
			t.Fatalf("got a row of another shape: %s", line)
		default:
			for _, name := range strings.Split(cells[column], ", ") {
				rows[strings.Trim(strings.TrimSpace(name), "`")] = cells[column+1]
			}
		}
	}
	return rows
}

// options walks a configuration struct: the comment over each field by JSON name.
func options(t *testing.T, typ reflect.Type, prefix string, comments map[string]string, found map[string]string) {
	t.Helper()
	for i := range typ.NumField() {
		field := typ.Field(i)
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if name == "" {
			if field.IsExported() {
				t.Errorf("%s.%s is exported and has no name in JSON", typ, field.Name)
			}
			continue
		}
		inner := field.Type
		for inner.Kind() == reflect.Pointer {
			inner = inner.Elem()
		}
		path := prefix + name
		if inner.Kind() == reflect.Slice && inner.Elem().Kind() == reflect.Struct {
			inner, path = inner.Elem(), path+"[]"
		}
		comment := comments[typ.Name()+"."+field.Name]
		if inner.Kind() != reflect.Struct {
			found[path] = comment
			continue
		}
		before := len(found)
		options(t, inner, path+".", comments, found)
		if inner.Name() == "Limit" { // its comment is where it is used
			found[path+".per_client"], found[path+".in_all"] = comment, comment
		}
		if len(found) == before {
			t.Errorf("%s: got no options in it", path)
		}
	}
}

// fieldComments are those of the structs in some files, as Type.Field.
func fieldComments(t *testing.T, files ...string) map[string]string {
	t.Helper()
	comments := make(map[string]string)
	for _, file := range files {
		tree, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(tree, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			if fields, ok := spec.Type.(*ast.StructType); ok {
				for _, field := range fields.Fields.List {
					for _, name := range field.Names {
						comments[spec.Name.Name+"."+name.Name] = field.Doc.Text() + field.Comment.Text()
					}
				}
			}
			return true
		})
	}
	return comments
}

// TestPagesConfiguration compares docs/configuration.md with the structs: all their
// options are there, no others, and with the numbers and words of their defaults.
func TestPagesConfiguration(t *testing.T) {
	t.Parallel()
	comments := fieldComments(t, "app.go", "namespace.go", "cmd_project.go", "handler/handler.go", "handler/limits.go")
	amount := regexp.MustCompile(`\d+(\.\d+)*(/\d+)?( ?[KMG]iB|[smh])?`)
	for _, test := range []struct {
		section string
		config  any
	}{
		{"The directive", handler.Handler{}},
		{"The global block", App{}},
		{"A project", projectSettings{}},
	} {
		found := make(map[string]string)
		options(t, reflect.TypeOf(test.config), "", comments, found)
		rows := documented(t, test.section)
		for name, comment := range found {
			cell, there := rows[name]
			if !there {
				t.Errorf("%s: %s is not on the page", test.section, name)
				continue
			}
			_, text, _ := strings.Cut(strings.ReplaceAll(comment, "\n", " "), "Default: ")
			for _, number := range amount.FindAllString(text, -1) {
				if !strings.Contains(strings.ReplaceAll(cell, " ", ""), strings.ReplaceAll(number, " ", "")) {
					t.Errorf("%s: %s: the page says the default is %q, the code %q", test.section, name, cell, text)
				}
			}
		}
		for name := range rows {
			if _, there := found[name]; !there && name != "limits" {
				t.Errorf("%s: the page has %s, the code has not", test.section, name)
			}
		}
	}
}

// TestPagesProject reads the example of a starpod.json as run does.
func TestPagesProject(t *testing.T) {
	t.Parallel()
	for _, b := range blocks(t, "json") {
		if b.page == "docs/recipes.md" {
			continue // TestPagesDevcontainer
		}
		file := projectFile{path: projectJSONFile, content: []byte(b.text)}
		if !json.Valid(file.content) {
			t.Errorf("%s: got no JSON", b.name())
			continue
		}
		var out strings.Builder
		if err := file.show(&out); err != nil || !strings.Contains(out.String(), "for api.example.com") {
			t.Errorf("%s: got %s (%v), want its secrets", b.name(), out.String(), err)
		}
	}
}

// TestPagesTroubleshooting: every rule that refuses has its row, and what a row quotes
// is what the program says.
func TestPagesTroubleshooting(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	refusals, err := os.ReadFile("handler/refusal.go")
	if err != nil {
		t.Fatal(err)
	}
	known := make(map[string]bool)
	for _, rule := range regexp.MustCompile(`(?m)^\tRule[A-Z]\w+ *= "(\w+)"`).FindAllStringSubmatch(string(refusals), -1) {
		known[rule[1]] = true
		if !strings.Contains(string(page), "\n| `"+rule[1]+"` | ") {
			t.Errorf("the rule %s has no row", rule[1])
		}
	}
	if len(known) < 18 {
		t.Fatalf("got %d rules, want all constants", len(known))
	}
	source := ownSource(t)
	rows := 0
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(line, " | ")
		if !strings.HasPrefix(line, "| `") || strings.HasPrefix(line, "| `rule`") || len(cells) < 2 {
			continue
		}
		said := strings.TrimPrefix(cells[0], "| ")
		if name := strings.Trim(said, "`"); len(cells) == 5 {
			if said = cells[2]; !known[name] {
				t.Errorf("the page has the rule %s, the code has not", name)
			}
		}
		rows++
		if text := strings.Trim(said, "`"); !strings.Contains(source, text) {
			t.Errorf("the page says %q, the program nowhere", text)
		}
	}
	if rows < 25 {
		t.Errorf("got %d rows, want those of all tables", rows)
	}
}

// ownSource is the text of all of the program.
func ownSource(t *testing.T) string {
	t.Helper()
	var source strings.Builder
	for _, pattern := range []string{"*.go", "handler/*.go", "netns/*.go", "tokens/*.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			source.Write(text)
		}
	}
	return strings.ReplaceAll(source.String(), "\\n", "\n")
}
