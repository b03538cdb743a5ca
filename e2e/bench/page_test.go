//go:build linux

package bench

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// page is docs/performance.md with the data of its tables and drawings, which are
// in the folder beside it.
type page struct {
	docs  string // folder
	bench results
	scale scale
}

// results are the medians of the last run of each mode.
type results struct {
	Machine string                        `json:"machine"`
	Modes   map[string]map[string]figures `json:"modes"` // by peer
}

// pageFor loads the page of this project, or a copy without data.
func pageFor(t *testing.T, real bool) *page {
	t.Helper()
	root, err := testbench.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	p := &page{docs: filepath.Join(root, "docs")}
	if real {
		p.load(t, "bench.json", &p.bench)
		p.load(t, "scale.json", &p.scale)
		return p
	}
	text, err := os.ReadFile(p.file())
	if err != nil {
		t.Fatal(err)
	}
	p.docs = t.TempDir()
	if err := os.WriteFile(p.file(), text, 0o644); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *page) file() string            { return filepath.Join(p.docs, "performance.md") }
func (p *page) data(name string) string { return filepath.Join(p.docs, "performance", name) }

func (p *page) load(t *testing.T, name string, into any) {
	t.Helper()
	text, err := os.ReadFile(p.data(name))
	if os.IsNotExist(err) {
		return
	}
	if err == nil {
		err = json.Unmarshal(text, into)
	}
	if err != nil {
		t.Fatalf("reading %s: %v", p.data(name), err)
	}
}

// files are the contents of all files, by path.
func (p *page) files(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile(p.file())
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{p.file(): p.fill(string(text))}
	for name, data := range map[string]any{"bench.json": p.bench, "scale.json": p.scale} {
		encoded, err := json.MarshalIndent(data, "", "\t")
		if err != nil {
			t.Fatal(err)
		}
		all[p.data(name)] = string(encoded) + "\n"
	}
	for _, c := range charts {
		if of := p.scale.Curves[c.name]; len(of) > 0 {
			all[p.data(c.name+".svg")] = c.draw(of)
		}
	}
	return all
}

func (p *page) save(t *testing.T) {
	t.Helper()
	if err := os.MkdirAll(p.data(""), 0o755); err != nil {
		t.Fatal(err)
	}
	for file, text := range p.files(t) {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// fill writes the tables between their marks.
func (p *page) fill(text string) string {
	for name, section := range map[string]string{"bench": p.bench.table(), "aims": p.bench.aims(), "scale": p.scale.section()} {
		begin, end := "<!-- "+name+" -->", "<!-- /"+name+" -->"
		between := regexp.MustCompile(`(?s)` + regexp.QuoteMeta(begin) + `.*` + regexp.QuoteMeta(end))
		text = between.ReplaceAllLiteralString(text, begin+"\n\n"+section+"\n"+end)
	}
	return text
}

// TestPage compares the page with its data. STARPOD_UPDATE writes it anew, when
// what is written of the data has changed.
func TestPage(t *testing.T) {
	page := pageFor(t, true)
	if os.Getenv("STARPOD_UPDATE") != "" {
		page.save(t)
	}
	for file, want := range page.files(t) {
		got, err := os.ReadFile(file)
		if err != nil || string(got) != want {
			t.Errorf("%s is not what its data makes (%v): got\n%s\nwant\n%s", file, err, got, want)
		}
	}
}

// add takes in what a run has found: the medians of the rounds that succeeded.
func (r *results) add(found samples) {
	r.Machine = machine()
	if r.Modes == nil {
		r.Modes = make(map[string]map[string]figures)
	}
	for mode, byPeer := range found {
		r.Modes[mode] = make(map[string]figures)
		for peer, rounds := range byPeer {
			r.Modes[mode][peer] = medians(rounds)
		}
	}
}

func medians(rounds []figures) figures {
	values := make(map[string][]float64)
	all := figures{"rounds": float64(len(rounds))}
	for _, round := range rounds {
		if round == nil {
			all["failed"]++
		}
		for name, value := range round {
			values[name] = append(values[name], value)
		}
	}
	for name, list := range values {
		all[name] = rounded(median(list))
	}
	return all
}

func median(values []float64) float64 {
	slices.Sort(values)
	middle := len(values) / 2
	if len(values)%2 == 0 {
		return (values[middle-1] + values[middle]) / 2
	}
	return values[middle]
}

// rounded keeps four digits, more than any figure is worth.
func rounded(v float64) float64 {
	if v == 0 {
		return 0
	}
	unit := math.Pow(10, math.Floor(math.Log10(math.Abs(v)))-3)
	if unit < 1 { // where dividing makes no odd digits
		inverse := math.Round(1 / unit)
		return math.Round(v*inverse) / inverse
	}
	return math.Round(v/unit) * unit
}

func machine() string {
	model := runtime.GOARCH
	text, _ := os.ReadFile("/proc/cpuinfo")
	if name := regexp.MustCompile(`(?m)^model name\s*: (.*)$`).FindSubmatch(text); name != nil {
		model = string(name[1])
	}
	return fmt.Sprintf("%d processors (%s), %s", runtime.NumCPU(), model, runtime.Version())
}

// column is a figure of a mode.
type column struct{ title, mode, figure string }

var costs = []column{
	{"16 tunnels", "keepalive", "cpu"}, {"one tunnel", "one", "cpu"}, {"new tunnel each", "new", "cpu"}, {"new host each", "cold", "cpu"},
	{"upload", "upload", "load"}, {"chunked", "chunked", "load"}, {"download", "download", "load"},
}

var rates = []column{
	{"16 tunnels", "keepalive", "rate"}, {"one tunnel", "one", "rate"}, {"new tunnel each", "new", "rate"}, {"new host each", "cold", "rate"},
	{"upload", "upload", "speed"}, {"chunked", "chunked", "speed"}, {"download", "download", "speed"},
}

var others = []column{
	{"first event, ms", "events", "first"}, {"KB per idle tunnel", "idle", "kb"},
	{"upload, MB more", "upload", "rise"}, {"chunked, MB more", "chunked", "rise"}, {"download, MB more", "download", "rise"},
}

// table puts the peers side by side.
func (r *results) table() string {
	if len(r.Modes) == 0 {
		return "Not measured yet.\n"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "On %s; %s.\n", r.Machine, r.roundsText())
	r.block(&b, "Processor: milliseconds per 1000 requests; of bodies, per MB", costs)
	r.block(&b, "Requests a second; of bodies, MB/s", rates)
	r.block(&b, "Time and memory", others)
	return b.String()
}

func (r *results) roundsText() string {
	least, most := math.Inf(1), 0.0
	for _, byPeer := range r.Modes {
		for _, f := range byPeer {
			least, most = min(least, f["rounds"]), max(most, f["rounds"])
		}
	}
	switch {
	case most == 1:
		return "one round"
	case least == most:
		return fmt.Sprintf("medians of %.0f rounds", most)
	}
	return fmt.Sprintf("medians of %.0f to %.0f rounds", least, most)
}

func (r *results) block(b *strings.Builder, title string, columns []column) {
	fmt.Fprintf(b, "\n%s:\n\n| proxy |", title)
	for _, c := range columns {
		fmt.Fprintf(b, " %s |", c.title)
	}
	b.WriteString("\n|---" + strings.Repeat("|---:", len(columns)) + "|\n")
	for _, p := range peers {
		var cells []string
		for _, c := range columns {
			cells = append(cells, r.cell(c, p.name))
		}
		if strings.Trim(strings.Join(cells, ""), "–") != "" {
			fmt.Fprintf(b, "| %s | %s |\n", p.name, strings.Join(cells, " | "))
		}
	}
}

func (r *results) cell(c column, peer string) string {
	f, ran := r.Modes[c.mode][peer]
	value, measured := f[c.figure]
	switch {
	case !ran:
		return "–"
	case !measured:
		return "failed"
	case f["failed"] > 0:
		return fmt.Sprintf("%s (%.0f failed)", digits(value), f["failed"])
	}
	return digits(value)
}

// value is a figure, or not a number.
func (r *results) value(mode, peer, figure string) float64 {
	if v, ok := r.Modes[mode][peer][figure]; ok {
		return v
	}
	return math.NaN()
}

// scale is how figures change with what there is of something.
type scale struct {
	Machine string            `json:"machine"`
	Curves  map[string]curves `json:"curves"` // by chart
}

// section shows the drawings, and their data as tables.
func (s *scale) section() string {
	if len(s.Curves) == 0 {
		return "Not measured yet.\n"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "On %s.\n", s.Machine)
	for _, c := range charts {
		of := s.Curves[c.name]
		if len(of) == 0 {
			continue
		}
		fmt.Fprintf(&b, "\n### %[1]s\n\n![%[1]s](performance/%[2]s.svg)\n\n| %[3]s |", c.title, c.name, c.x)
		for _, name := range c.series {
			fmt.Fprintf(&b, " %s |", name)
		}
		b.WriteString("\n|---:" + strings.Repeat("|---:", len(c.series)) + "|\n")
		for _, x := range of.xs() {
			fmt.Fprintf(&b, "| %s |", short(x))
			for _, name := range c.series {
				fmt.Fprintf(&b, " %s |", of.at(name, x))
			}
			b.WriteString("\n")
		}
	}
	return b.String()
}

func (c curves) xs() []float64 {
	set := make(map[float64]bool)
	for _, points := range c {
		for _, p := range points {
			set[p[0]] = true
		}
	}
	return slices.Sorted(maps.Keys(set))
}

func (c curves) at(series string, x float64) string {
	for _, p := range c[series] {
		if p[0] == x {
			return digits(p[1])
		}
	}
	return "–"
}
