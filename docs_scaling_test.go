package starpod

import (
	"fmt"
	"math"
	"os"
	"regexp"
	"strconv"
	"testing"
)

// TestScalingArithmetic does the arithmetic of docs/scaling.md anew, from the figures
// and assumptions in its tables. Whoever replaces a figure learns here which results
// have changed.
func TestScalingArithmetic(t *testing.T) {
	page, err := os.ReadFile("docs/scaling.md")
	if err != nil {
		t.Fatal(err)
	}
	// Rows begin with a letter or number, and end with a number and its unit.
	v := make(map[string]float64)
	stated := make(map[string]string)
	for _, row := range regexp.MustCompile(`(?m)^\| (\w+) \|.*\| ([0-9.]+)[^|]* \|$`).FindAllStringSubmatch(string(page), -1) {
		if _, twice := v[row[1]]; twice {
			t.Errorf("the row %s stands twice", row[1])
		}
		if v[row[1]], err = strconv.ParseFloat(row[2], 64); err != nil {
			t.Fatal(err)
		}
		stated[row[1]] = row[2]
	}
	const ms, kib = 1e-3, 1.0 / 1024 // in seconds and MiB
	cores := (v["R"]*v["a"] + v["R"]/v["Q"]*(v["b"]-v["a"])) * ms
	n := math.Ceil(cores / v["U"] / v["P"])
	tunnels := v["S"] * v["T"] / n
	connections := v["R"] * v["L"]
	for row, want := range map[string]string{
		"1":  fmt.Sprintf("%.0f", cores),
		"2":  fmt.Sprintf("%.0f", n),
		"3":  fmt.Sprintf("%.0f", tunnels),
		"4":  fmt.Sprintf("%.0f", connections/n),
		"5":  fmt.Sprintf("%.0f", v["f"]+tunnels*v["g"]*kib+v["H"]*v["h"]*kib),
		"6":  fmt.Sprintf("%.0f", connections),
		"7":  fmt.Sprintf("%.0f", math.Ceil(connections/28232)),
		"8":  fmt.Sprintf("%.0f", math.Ceil(connections/64512)),
		"9":  fmt.Sprintf("%.1f", n*v["H"]/28800),
		"10": fmt.Sprintf("%.1f", v["H"]*(v["c"]-v["b"])*ms),
		"11": fmt.Sprintf("%.0f", v["R"]*v["i"]/1e6),
		"12": fmt.Sprintf("%.0f", v["R"]*v["b"]*ms),
	} {
		if stated[row] != want {
			t.Errorf("row %s: got %q, want %s by the figures", row, stated[row], want)
		}
	}
}
