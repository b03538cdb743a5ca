//go:build linux

package bench

import (
	"encoding/xml"
	"fmt"
	"html"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// chart is what a drawing shows.
type chart struct {
	name, title string
	x, y        string // with units
	logY        bool   // x is always logarithmic
	series      []string
}

// point is x and y, both positive.
type point [2]float64

// curves are the points by series.
type curves map[string][]point

const (
	chartWidth, chartHeight = 720, 360

	plotLeft, plotRight = 70, 560 // the names of the series stand to the right
	plotTop, plotBottom = 50, 300

	chartStyle = `
    text { fill: #1f2328 }
    .back { fill: #ffffff }
    .note { font-size: 12px; fill: #59636e }
    .title { font-size: 15px; font-weight: 600 }
    .grid { stroke: #d1d9e0 }
    .line { fill: none; stroke-width: 2 }
    .a { stroke: #0969da } .b { stroke: #bc4c00 } .c { stroke: #1a7f37 }
    path.b { stroke-dasharray: 7 3 } path.c { stroke-dasharray: 2 3 }
    text.a { fill: #0969da; stroke: none } text.b { fill: #bc4c00; stroke: none } text.c { fill: #1a7f37; stroke: none }
    circle { fill: #ffffff; stroke-width: 2 }
    @media (prefers-color-scheme: dark) {
      text { fill: #f0f6fc }
      .back, circle { fill: #0d1117 }
      .note { fill: #9198a1 }
      .grid { stroke: #3d444d }
      .a { stroke: #4493f8 } .b { stroke: #f0883e } .c { stroke: #3fb950 }
      text.a { fill: #4493f8 } text.b { fill: #f0883e } text.c { fill: #3fb950 }
    }
  `
)

// draw draws the curves as SVG. Light and dark are the viewer's choice.
func (c chart) draw(of curves) string {
	x, y := c.axes(of)
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" role="img" aria-labelledby="title" font-family="system-ui, sans-serif" font-size="13">
  <title id="title">%s</title>
  <style>%s</style>
  <rect class="back" width="%[1]d" height="%[2]d"/>
  <text class="title" x="%[5]d" y="24">%[3]s</text>
`, chartWidth, chartHeight, html.EscapeString(c.title), chartStyle, plotLeft)
	for _, tick := range y.ticks {
		at := y.at(tick)
		fmt.Fprintf(&b, `  <path class="grid" d="M%d %.1fH%d"/><text class="note" x="%d" y="%.1f" text-anchor="end">%s</text>`+"\n", plotLeft, at, plotRight, plotLeft-8, at+4, short(tick))
	}
	for _, tick := range x.ticks {
		at := x.at(tick)
		fmt.Fprintf(&b, `  <path class="grid" d="M%.1f %dV%d"/><text class="note" x="%.1f" y="%d" text-anchor="middle">%s</text>`+"\n", at, plotTop, plotBottom, at, plotBottom+18, short(tick))
	}
	fmt.Fprintf(&b, `  <text class="note" x="%d" y="%d" text-anchor="middle">%s</text>`+"\n", (plotLeft+plotRight)/2, plotBottom+42, html.EscapeString(c.x))
	fmt.Fprintf(&b, `  <text class="note" transform="translate(16 %d) rotate(-90)" text-anchor="middle">%s</text>`+"\n", (plotTop+plotBottom)/2, html.EscapeString(c.y))
	c.drawLines(&b, of, x, y)
	b.WriteString("</svg>\n")
	return b.String()
}

func (c chart) drawLines(w io.Writer, of curves, x, y axis) {
	names := c.labels(of, y)
	for i, name := range c.series {
		points := of[name]
		if len(points) == 0 {
			continue
		}
		class := string(rune('a' + i))
		var path []string
		for _, p := range points {
			path = append(path, fmt.Sprintf("%.1f %.1f", x.at(p[0]), y.at(p[1])))
		}
		fmt.Fprintf(w, `  <path class="line %s" d="M%s"/>`+"\n", class, strings.Join(path, "L"))
		for _, p := range points {
			fmt.Fprintf(w, `  <circle class="%s" cx="%.1f" cy="%.1f" r="3"/>`+"\n", class, x.at(p[0]), y.at(p[1]))
		}
		fmt.Fprintf(w, `  <text class="%s" x="%d" y="%.1f">%s</text>`+"\n", class, plotRight+10, names[name]+4, html.EscapeString(name))
	}
}

// labels are the heights of the names, at the ends of their lines but apart.
func (c chart) labels(of curves, y axis) map[string]float64 {
	const apart = 17
	var names []string
	at := make(map[string]float64)
	for _, name := range c.series {
		if points := of[name]; len(points) > 0 {
			names = append(names, name)
			at[name] = y.at(points[len(points)-1][1])
		}
	}
	slices.SortStableFunc(names, func(a, b string) int { return int(at[b] - at[a]) })
	for i, name := range names[min(1, len(names)):] {
		at[name] = min(at[name], at[names[i]]-apart)
	}
	return at
}

// axis maps values to the drawing.
type axis struct {
	low, high float64
	from, to  float64 // in the drawing
	log       bool
	ticks     []float64
}

func (a axis) at(v float64) float64 {
	part := (v - a.low) / (a.high - a.low)
	if a.log {
		part = (math.Log10(v) - math.Log10(a.low)) / (math.Log10(a.high) - math.Log10(a.low))
	}
	return a.from + part*(a.to-a.from)
}

func (c chart) axes(of curves) (x, y axis) {
	var xs, ys []float64
	for _, points := range of {
		for _, p := range points {
			xs, ys = append(xs, p[0]), append(ys, p[1])
		}
	}
	x, y = logAxis(xs), linearAxis(ys)
	if c.logY {
		y = logAxis(ys)
	}
	x.from, x.to, y.from, y.to = plotLeft, plotRight, plotBottom, plotTop
	return x, y
}

// logAxis goes from a power of ten to another.
func logAxis(values []float64) axis {
	low, high := math.Floor(math.Log10(slices.Min(values))), math.Ceil(math.Log10(slices.Max(values)))
	high = max(high, low+1)
	a := axis{low: math.Pow(10, low), high: math.Pow(10, high), log: true}
	for e := low; e <= high; e++ {
		a.ticks = append(a.ticks, math.Pow(10, e))
	}
	return a
}

// linearAxis begins at 0 and has 3 to 6 steps of 1, 2 or 5 times a power of ten.
func linearAxis(values []float64) axis {
	top := max(slices.Max(values), 1e-3)
	step := math.Pow(10, math.Floor(math.Log10(top)))
	for _, factor := range []float64{0.2, 0.5, 1, 2} {
		if math.Ceil(top/(step*factor)) <= 6 {
			step *= factor
			break
		}
	}
	count := math.Ceil(top / step)
	a := axis{high: step * count}
	for i := range int(count) + 1 {
		a.ticks = append(a.ticks, step*float64(i))
	}
	return a
}

// short writes a number with three digits at most, and the letter of its thousands.
func short(v float64) string {
	for _, unit := range []struct {
		size   float64
		letter string
	}{{1e9, " G"}, {1e6, " M"}, {1e3, " k"}} {
		if v >= unit.size*0.9995 {
			return digits(v/unit.size) + unit.letter
		}
	}
	return digits(v)
}

func digits(v float64) string {
	switch size := math.Abs(v); {
	case size >= 99.95:
		return fmt.Sprintf("%.0f", v)
	case size >= 9.995:
		return trimmed(fmt.Sprintf("%.1f", v))
	case size < 0.1 && size > 0:
		return fmt.Sprintf("%.2g", v)
	}
	return trimmed(fmt.Sprintf("%.2f", v))
}

func trimmed(number string) string { return strings.TrimSuffix(strings.TrimRight(number, "0"), ".") }

// TestChart draws fixed data, twice, and compares it with the drawing that is kept
// in testdata. STARPOD_UPDATE writes that anew, to be looked at.
func TestChart(t *testing.T) {
	c := chart{name: "example", title: "Cost <by> size", x: "size, bytes", y: "time, ms", logY: true, series: []string{"one", "two", "none"}}
	of := curves{"one": {{1, 0.5}, {1000, 0.5}, {1e6, 40}}, "two": {{1, 0.7}, {1e6, 41}}}
	drawn := c.draw(of)
	if again := c.draw(of); again != drawn {
		t.Errorf("the same data was drawn as\n%s\nand\n%s", drawn, again)
	}
	decoder := xml.NewDecoder(strings.NewReader(drawn))
	for {
		if _, err := decoder.Token(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatalf("not XML: %v\n%s", err, drawn)
		}
	}
	file := filepath.Join("testdata", "chart.svg")
	if os.Getenv("STARPOD_UPDATE") != "" {
		if err := os.WriteFile(file, []byte(drawn), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil || drawn != string(want) {
		t.Errorf("got (%v)\n%s\nwant\n%s", err, drawn, want)
	}
}

func TestTicks(t *testing.T) {
	for _, row := range []struct {
		top  float64
		want string
	}{{0.9, "[0 0.2 0.4 0.6 0.8 1]"}, {7, "[0 2 4 6 8]"}, {60, "[0 10 20 30 40 50 60]"}, {101, "[0 20 40 60 80 100 120]"}, {130, "[0 50 100 150]"}} {
		var got []string
		for _, tick := range linearAxis([]float64{row.top}).ticks {
			got = append(got, short(tick))
		}
		if fmt.Sprint(got) != row.want {
			t.Errorf("up to %v: got the ticks %v, want %s", row.top, got, row.want)
		}
	}
}
