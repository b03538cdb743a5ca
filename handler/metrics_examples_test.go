package handler

import (
	"encoding/json"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// registered returns each series that can be asked for, with the values of its
// labels: those of a histogram by their suffixes.
func registered(t *testing.T) map[string]map[string][]string {
	t.Helper()
	registry := prometheus.NewRegistry()
	if err := new(Stats).Register(registry); err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	series := map[string]map[string][]string{}
	for _, family := range families {
		labels := map[string][]string{"instance": nil} // which Prometheus adds
		for _, metric := range family.GetMetric() {
			for _, label := range metric.GetLabel() {
				labels[label.GetName()] = append(labels[label.GetName()], label.GetValue())
			}
		}
		if strings.HasSuffix(family.GetName(), "_seconds") {
			series[family.GetName()+"_count"], series[family.GetName()+"_sum"] = labels, labels
			labels = maps.Clone(labels)
			labels["le"] = nil
			series[family.GetName()+"_bucket"] = labels
			continue
		}
		series[family.GetName()] = labels
	}
	return series
}

var (
	selector = regexp.MustCompile(`(caddy_\w+)(?:\{([^}]*)\})?`)
	matcher  = regexp.MustCompile(`(\w+)(=~|=)"([^"]*)"`)
	grouping = regexp.MustCompile(`by \(([^)]*)\)`)
)

// checkQuery finds what a query asks for that nothing offers.
func checkQuery(t *testing.T, series map[string]map[string][]string, query string) (metrics []string) {
	t.Helper()
	for _, found := range selector.FindAllStringSubmatch(query, -1) {
		labels, ok := series[found[1]]
		if !ok {
			t.Errorf("%s asks for %s, which is no metric", query, found[1])
			continue
		}
		metrics = append(metrics, found[1])
		for _, m := range matcher.FindAllStringSubmatch(found[2], -1) {
			values, ok := labels[m[1]]
			if !ok || m[2] == "=" && !slices.Contains(values, m[3]) {
				t.Errorf("%s asks for %s, want %s of %v", query, m[0], m[1], values)
			}
		}
		for _, group := range grouping.FindAllStringSubmatch(query, -1) {
			for label := range strings.SplitSeq(group[1], ", ") {
				if _, ok := labels[label]; !ok {
					t.Errorf("%s groups by %s, which %s lacks", query, label, found[1])
				}
			}
		}
	}
	if len(metrics) == 0 {
		t.Errorf("%s asks for no metric", query)
	}
	return metrics
}

// TestExamplesOfMetrics: the dashboard and the alerts ask for what there is, and the
// dashboard for all of it.
func TestExamplesOfMetrics(t *testing.T) {
	series := registered(t)
	text, err := os.ReadFile("../examples/grafana.json")
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &board); err != nil {
		t.Fatalf("reading the dashboard: %v", err)
	}
	var shown []string
	for _, panel := range board.Panels {
		if len(panel.Targets) == 0 {
			t.Errorf("panel %q shows nothing", panel.Title)
		}
		for _, target := range panel.Targets {
			shown = append(shown, checkQuery(t, series, target.Expr)...)
		}
	}
	for name := range series {
		if !strings.HasSuffix(name, "_sum") && !slices.Contains(shown, name) {
			t.Errorf("the dashboard does not show %s", name)
		}
	}
	if text, err = os.ReadFile("../examples/alerts.yml"); err != nil {
		t.Fatal(err)
	}
	rules := strings.Split(string(text), "- alert: ")[1:]
	for _, rule := range rules {
		name, _, _ := strings.Cut(rule, "\n")
		_, query, _ := strings.Cut(rule, " expr: ")
		query, _, _ = strings.Cut(query, "\n")
		checkQuery(t, series, query)
		for _, part := range []string{"\n        # ", "severity: ", "summary: ", "mend: "} {
			if !strings.Contains(rule, part) {
				t.Errorf("alert %s lacks %q", name, strings.TrimSpace(part))
			}
		}
	}
	if len(rules) == 0 {
		t.Error("there are no alerts")
	}
}
