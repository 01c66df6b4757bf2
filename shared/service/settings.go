package service

import (
	"encoding"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/caarlos0/env/v11"
)

// Bytes is a size. Its text form is a whole number with an optional unit: B, KiB,
// MiB, GiB.
type Bytes int64

var byteUnits = []struct {
	suffix string
	factor Bytes
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}}

// UnmarshalText implements encoding.TextUnmarshaler.
func (b *Bytes) UnmarshalText(text []byte) error {
	s, factor := strings.TrimSpace(string(text)), Bytes(1)
	for _, u := range byteUnits {
		if rest, ok := strings.CutSuffix(s, u.suffix); ok {
			s, factor = strings.TrimSpace(rest), u.factor
			break
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n > int64(1<<62/factor) {
		return fmt.Errorf("%q is not a size such as 64MiB", text)
	}
	*b = Bytes(n) * factor
	return nil
}

// MarshalText implements encoding.TextMarshaler, with the largest unit that
// loses nothing.
func (b Bytes) MarshalText() ([]byte, error) {
	for _, u := range byteUnits {
		if b >= u.factor && b%u.factor == 0 {
			return fmt.Appendf(nil, "%d%s", b/u.factor, u.suffix), nil
		}
	}
	return fmt.Appendf(nil, "%dB", int64(b)), nil
}

// ParseDuration reads a duration such as 1.1s or 168h, or a bare number of
// seconds. Negative ones are refused; 0 switches off what it bounds.
func ParseDuration(s string) (time.Duration, error) {
	s = strings.TrimSpace(s)
	d, err := time.ParseDuration(s)
	if seconds, numErr := strconv.ParseFloat(s, 64); numErr == nil {
		d, err = time.Duration(seconds*float64(time.Second)), nil
	}
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%q is not a duration such as 1.1s, 168h or 45 (seconds)", s)
	}
	return d, nil
}

// ParseSince reads a moment of the past: a day such as 2026-11-01, here, a time such as
// 2026-11-01T08:00:00-05:00, or how long before now, such as 72h. Nothing is the zero time.
func ParseSince(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := ParseDuration(s); err == nil {
		return now.Add(-d), nil
	}
	if t, err := time.ParseInLocation(time.DateOnly, s, time.Local); err == nil {
		return t, nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return time.Time{}, fmt.Errorf("-since: %q is neither a day such as 2026-11-01, nor a time such as 2026-11-01T08:00:00-05:00, nor a duration such as 72h; %w", s, ErrUsage)
	}
	return t, nil
}

// The struct tags of a setting. A struct of settings has one field per variable:
//
//	Pace time.Duration `env:"SUNAT_PACE" envDefault:"1.1s" help:"time between two queries"`
//
// A field tagged secret:"true" is masked when printed and may be given as a file
// by NAME_FILE; of one tagged secret:"userinfo", addresses separated by commas, the
// credentials are masked. An empty value counts as absent, but for fields tagged
// empty:"keep", where it means "none".
const (
	tagName    = "env"
	tagDefault = "envDefault"
	tagHelp    = "help"
	tagSecret  = "secret"
	tagEmpty   = "empty"
)

// fileSuffix names the variable that holds the path of a secret.
const fileSuffix = "_FILE"

// Load fills cfg, a pointer to a struct of settings, from environ (as os.Environ
// returns it). The error names the variable.
func Load(cfg any, environ []string) error {
	vars, emptied := map[string]string{}, map[string]bool{}
	for _, kv := range environ {
		name, value, ok := strings.Cut(kv, "=")
		if emptied[name] = ok && value == ""; emptied[name] {
			delete(vars, name) // the last of several counts
		} else if ok {
			vars[name] = value
		}
	}
	for _, f := range fields(reflect.ValueOf(cfg)) {
		path, given := vars[f.name+fileSuffix]
		if !f.secret || !given {
			continue
		}
		if vars[f.name] != "" {
			return fmt.Errorf("service.Load: %s and %s%s are both set: set one", f.name, f.name, fileSuffix)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("service.Load: %s%s: %w", f.name, fileSuffix, err)
		}
		vars[f.name] = strings.TrimSpace(string(b))
	}
	err := env.ParseWithOptions(cfg, env.Options{
		Environment: vars,
		FuncMap: map[reflect.Type]env.ParserFunc{
			reflect.TypeFor[time.Duration](): func(s string) (any, error) { return ParseDuration(s) },
		},
	})
	if err != nil {
		return fmt.Errorf("service.Load: %w", named(err, fields(reflect.ValueOf(cfg))))
	}
	for _, f := range fields(reflect.ValueOf(cfg)) {
		if f.keepEmpty && emptied[f.name] {
			f.value.SetZero()
		}
	}
	return nil
}

// named gives parse errors the names of the variables; the library knows only the
// struct's fields.
func named(err error, all []field) error {
	var parse env.ParseError
	var several env.AggregateError
	if errors.As(err, &several) {
		errs := make([]error, len(several.Errors))
		for i, e := range several.Errors {
			errs[i] = named(e, all)
		}
		return errors.Join(errs...)
	}
	if !errors.As(err, &parse) {
		return err
	}
	for _, f := range all {
		if f.goName == parse.Name {
			return fmt.Errorf("%s: %w", f.name, parse.Err)
		}
	}
	return err
}

// field is one setting of a struct.
type field struct {
	name, def, help string
	goName          string
	secret          bool
	userinfo        bool // holds credentials in addresses
	keepEmpty       bool
	value           reflect.Value
}

// fields lists the settings of a struct, embedded ones included, each name once.
func fields(v reflect.Value) []field {
	var all []field
	var walk func(reflect.Value)
	walk = func(v reflect.Value) {
		for v.Kind() == reflect.Pointer {
			v = v.Elem()
		}
		for i := range v.NumField() {
			sf := v.Type().Field(i)
			name, _, _ := strings.Cut(sf.Tag.Get(tagName), ",")
			switch {
			case name == "" && sf.Type.Kind() == reflect.Struct:
				walk(v.Field(i))
			case name != "" && !slices.ContainsFunc(all, func(f field) bool { return f.name == name }):
				all = append(all, field{
					name: name, goName: sf.Name, def: sf.Tag.Get(tagDefault), help: sf.Tag.Get(tagHelp),
					secret: sf.Tag.Get(tagSecret) == "true", userinfo: sf.Tag.Get(tagSecret) == "userinfo", keepEmpty: sf.Tag.Get(tagEmpty) == "keep", value: v.Field(i),
				})
			}
		}
	}
	walk(v)
	return all
}

// Setting describes one variable of a struct of settings.
type Setting struct {
	Name, Default, Help string
	Secret              bool // also as NAME_FILE
}

// Settings lists the variables of cfg, a pointer to a struct of settings.
func Settings(cfg any) []Setting {
	all := fields(reflect.ValueOf(cfg))
	settings := make([]Setting, len(all))
	for i, f := range all {
		settings[i] = Setting{f.name, f.def, f.help, f.secret}
	}
	return settings
}

// Help writes one line per setting: name, default, meaning.
func Help(w io.Writer, cfg any) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, s := range Settings(cfg) {
		name := s.Name
		if s.Secret {
			name += " (or " + s.Name + fileSuffix + ")"
		}
		if _, err := fmt.Fprintf(tw, "  %s\t%s\t%s\n", name, s.Default, s.Help); err != nil {
			return err
		}
	}
	return tw.Flush()
}

const masked = "********"

// parseAddress reads an address, with or without its scheme; nil where it cannot be read,
// and where it is to be feared that what was read as host or path is part of a password.
func parseAddress(address string) *url.URL {
	address = strings.TrimSpace(address)
	if !strings.Contains(address, "://") {
		address = "//" + address
	}
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return nil
	}
	return u
}

// maskUserinfo hides the credentials of addresses, and what cannot be read.
func maskUserinfo(addresses string) string {
	all := strings.Split(addresses, ",")
	for i, address := range all {
		u := parseAddress(address)
		switch {
		case strings.TrimSpace(address) == "":
		case u == nil:
			all[i] = masked
		case u.User != nil:
			_, host, _ := strings.Cut(address, "@")
			scheme, _, ok := strings.Cut(address, "://")
			if all[i] = masked + "@" + host; ok {
				all[i] = scheme + "://" + all[i]
			}
		}
	}
	return strings.Join(all, ",")
}

// Print writes the effective settings as NAME=value lines, secrets masked.
func Print(w io.Writer, cfg any) error {
	for _, f := range fields(reflect.ValueOf(cfg)) {
		value := fmt.Sprint(f.value.Interface())
		if m, ok := f.value.Interface().(encoding.TextMarshaler); ok {
			b, err := m.MarshalText()
			if err != nil {
				return err
			}
			value = string(b)
		}
		switch {
		case f.secret && value != "":
			value = masked
		case f.userinfo:
			value = maskUserinfo(value)
		}
		if _, err := fmt.Fprintf(w, "%s=%s\n", f.name, value); err != nil {
			return err
		}
	}
	return nil
}
