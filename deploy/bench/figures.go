//go:build linux

package bench

import (
	"cmp"
	"fmt"
	"math"
	"slices"
)

// Variant is one thing that was measured, by measure: a figure of each round.
type Variant struct {
	Name   string               `json:"name"`
	Rounds map[string][]float64 `json:"rounds"`
}

// Figures are the variants of a scenario, in the order in which they were measured.
type Figures []Variant

// add keeps one round's figures of a variant.
func (f *Figures) add(name string, round map[string]float64) {
	i := slices.IndexFunc(*f, func(v Variant) bool { return v.Name == name })
	if i < 0 {
		*f = append(*f, Variant{Name: name, Rounds: map[string][]float64{}})
		i = len(*f) - 1
	}
	for measure, value := range round {
		(*f)[i].Rounds[measure] = append((*f)[i].Rounds[measure], value)
	}
}

// rounds are the figures of a variant by round; nil where there are none.
func (f Figures) rounds(name, measure string) []float64 {
	for _, v := range f {
		if v.Name == name {
			return v.Rounds[measure]
		}
	}
	return nil
}

// of is a line's figure: the median over the rounds.
func of(name, measure string) func(Figures) float64 {
	return func(f Figures) float64 { return median(f.rounds(name, measure)) }
}

// ratio is a line's figure: the median over the rounds of what a divided by b was in each,
// so that a machine that was slow for a while counts for both.
func ratio(a, b, measure string) func(Figures) float64 {
	return func(f Figures) float64 {
		above, below := f.rounds(a, measure), f.rounds(b, measure)
		all := make([]float64, min(len(above), len(below)))
		for i := range all {
			all[i] = above[i] / below[i]
		}
		return median(all)
	}
}

// median is the middle one, or the mean of the two in the middle; NaN of none.
func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(values))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

// percentile is the value of sorted ones that p percent of them do not exceed.
func percentile[T cmp.Ordered](sorted []T, p float64) T {
	i := int(math.Ceil(p / 100 * float64(len(sorted))))
	return sorted[min(max(i, 1), len(sorted))-1]
}

// number prints a figure with three digits that say something.
func number(v float64) string {
	switch a := math.Abs(v); {
	case math.IsNaN(v):
		return "-"
	case a >= 100:
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}
