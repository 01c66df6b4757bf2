package admin

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/rucflow/rucflow/shared/client"
	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/service"
	"github.com/rucflow/rucflow/shared/wire"
)

const (
	maxLookups = 10_000
	// lookupsAtOnce leaves the queue of visits to others.
	lookupsAtOnce = 4
)

// Asking says what to look up and how to show it.
type Asking struct {
	NATS    service.NATSConfig
	Numbers []string      // "-" stands for those on In, parted by white space or commas
	In      io.Reader     // read only if it is among the numbers
	Wait    time.Duration // for each answer
	JSON    bool          // a line for each answer, as it came, instead of a table
	Now     func() time.Time
}

// Lookup asks the gateways for the numbers and prints the answers; that SUNAT does not know
// a number is one. A number that has none is a line on errs. All numbers are checked before
// the first is asked for, and all that are wrong are named.
func Lookup(ctx context.Context, a Asking, out, errs io.Writer) error {
	numbers, err := a.numbers()
	if err != nil {
		return err
	}
	if a.Wait <= 0 {
		return fmt.Errorf("-wait: more than 0; %w", service.ErrUsage)
	}
	ctx, nc, err := connect(ctx, a.NATS, clientRole, asClient)
	if err != nil {
		return err
	}
	defer nc.Close()
	rows := make([]string, len(numbers)) // "" where there is no answer
	failed := 0
	var mu sync.Mutex // of all that is said and counted
	var wg sync.WaitGroup
	places := make(chan int)
	for range min(lookupsAtOnce, len(numbers)) {
		wg.Go(func() {
			for i := range places {
				r, err := client.Lookup(ctx, nc, numbers[i], client.Request{Wait: a.Wait})
				mu.Lock()
				switch {
				case ctx.Err() != nil: // it is said once, for all
				case err != nil:
					failed++
					p := wire.NewProblem(numbers[i], err)
					fmt.Fprintf(errs, "%s: %s: %s\n", numbers[i], p.Code, plain(p.Detail))
				case a.JSON:
					fmt.Fprintf(out, "%s\n", r.Body)
				default:
					rows[i] = row(r, a.Now())
				}
				mu.Unlock()
			}
		})
	}
	for i := range numbers {
		select {
		case places <- i:
			continue
		case <-ctx.Done():
		}
		break
	}
	close(places)
	wg.Wait()
	if !a.JSON {
		err = table(out, "RUC\tRAZÓN SOCIAL\tESTADO\tCONDICIÓN\tDISTRITO/PROVINCIA/DEPARTAMENTO\tAGE\tSOURCE", rows)
	}
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case failed > 0:
		return fmt.Errorf("%d of %d without an answer", failed, len(numbers))
	}
	return err
}

// numbers returns each number once.
func (a Asking) numbers() ([]ruc.Number, error) {
	texts := a.Numbers
	if i := slices.Index(texts, "-"); i >= 0 {
		read, err := words(a.In)
		if err != nil {
			return nil, err
		}
		texts = slices.Concat(texts[:i], read, texts[i+1:])
	}
	var numbers []ruc.Number
	var wrong []error
	for _, text := range texts {
		n, err := ruc.Parse(text)
		if err != nil {
			wrong = append(wrong, fmt.Errorf("%q: %s", text, wire.NewProblem(n, err).Detail))
			continue
		}
		numbers = append(numbers, n)
	}
	switch {
	case len(wrong) > 0:
		return nil, fmt.Errorf("nothing was asked for:\n%w", errors.Join(wrong...))
	case len(numbers) == 0:
		return nil, fmt.Errorf("give numbers, or - for those on standard input; %w", service.ErrUsage)
	case len(numbers) > maxLookups:
		return nil, fmt.Errorf("%d numbers: at most %d at once", len(numbers), maxLookups)
	}
	seen := map[ruc.Number]bool{}
	return slices.DeleteFunc(numbers, func(n ruc.Number) bool {
		again := seen[n]
		seen[n] = true
		return again
	}), nil
}

// words reads at most one more than may be looked up.
func words(in io.Reader) (all []string, err error) {
	lines := bufio.NewScanner(in)
	for lines.Scan() && len(all) <= maxLookups {
		all = append(all, strings.FieldsFunc(lines.Text(), func(r rune) bool { return strings.ContainsRune(" \t\r,;", r) })...)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("standard input: %w", err)
	}
	return all, nil
}

// row is an answer as a line of the table.
func row(r wire.Reply, now time.Time) string {
	age := age(now.Sub(r.Prefix.ObtainedAt))
	a, err := r.Answer()
	if err != nil {
		return fmt.Sprintf("%s\tan answer that cannot be read\t\t\t\t%s\t", r.Prefix.RUC, age)
	}
	if a.Record == nil {
		return fmt.Sprintf("%s\tnot registered at SUNAT\t\t\t\t%s\t%s", a.RUC, age, cell(a.Fuente))
	}
	place := []string{cell(string(a.Distrito)), cell(string(a.Provincia)), cell(string(a.Departamento))}
	return strings.Join([]string{
		a.RUC.String(), cell(string(a.RazonSocial)), cell(string(a.Estado)), cell(string(a.Condicion)), strings.Join(place, "/"), age, cell(a.Fuente),
	}, "\t")
}

func cell(text string) string { return cmp.Or(plain(text), "-") }

// age is a duration in its largest unit.
func age(d time.Duration) string {
	const day = 24 * time.Hour
	switch d = max(0, d); {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 2*day:
		return fmt.Sprintf("%dh", d/time.Hour)
	default:
		return fmt.Sprintf("%dd", d/day)
	}
}

// table aligns rows, whose cells are parted by tabs; it prints nothing where there are none.
func table(out io.Writer, head string, rows []string) error {
	rows = slices.DeleteFunc(rows, func(s string) bool { return s == "" })
	if len(rows) == 0 {
		return nil
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, r := range append([]string{head}, rows...) {
		fmt.Fprintln(w, r)
	}
	return w.Flush()
}
