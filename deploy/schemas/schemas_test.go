// Package schemas holds JSON Schemas of what goes over NATS, for programs in whatever
// language, and checks them against what rucflow's own programs say.
package schemas

import (
	"bytes"
	"encoding/json"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.uber.org/goleak"
	"go.yaml.in/yaml/v4"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// fasthttp keeps one goroutine per process for the Date header, for ever, and
		// one per stopped server for up to ten seconds.
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"),
	)
}

// update has the schemas that come from the OpenAPI document written; `make docs` does.
var update = flag.Bool("update", false, "write the schemas that come from openapi.yaml")

const (
	openAPI   = "../../gateway/web/openapi.yaml"
	component = "#/components/schemas/"
	idPrefix  = "urn:rucflow:schema:"
	extension = ".schema.json"
)

// shared are the schemas that the HTTP interface has too, by their names there. The
// others of this folder are written by hand.
var shared = map[string]string{
	"Record": "record", "Missing": "missing", "Problem": "problem", "NotFound": "not-found", "Changed": "changed", "Progress": "progress",
}

type object = map[string]any

// closure turns a part of the OpenAPI document into one of a schema: references go to the
// schema of that name, or to a definition beside it, which is noted in defs.
func closure(components object, v any, defs object) any {
	switch v := v.(type) {
	case object:
		out := object{}
		for name, member := range v {
			ref, isRef := member.(string)
			switch {
			case name == "x-codes": // of the documentation of HTTP
			case name == "$ref" && isRef:
				out[name] = reference(components, strings.TrimPrefix(ref, component), defs)
			default:
				out[name] = closure(components, member, defs)
			}
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, item := range v {
			out[i] = closure(components, item, defs)
		}
		return out
	default:
		return v
	}
}

func reference(components object, name string, defs object) string {
	if own := shared[name]; own != "" {
		return idPrefix + own
	}
	if defs[name] == nil {
		defs[name] = true // it may refer to itself
		defs[name] = closure(components, components[name], defs)
	}
	return "#/$defs/" + name
}

// TestSchemas_AreThoseOfTheOpenAPIDocument: they are written once.
func TestSchemas_AreThoseOfTheOpenAPIDocument(t *testing.T) {
	b, err := os.ReadFile(openAPI)
	if err != nil {
		t.Fatal(err)
	}
	var document struct {
		Components struct {
			Schemas object `yaml:"schemas"`
		} `yaml:"components"`
	}
	if err := yaml.Unmarshal(b, &document); err != nil {
		t.Fatal(err)
	}
	components := document.Components.Schemas
	for name, own := range shared {
		defs := object{}
		schema, _ := closure(components, components[name], defs).(object)
		if schema == nil {
			t.Fatalf("%s has no schema %s", openAPI, name)
		}
		schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
		schema["$id"] = idPrefix + own
		schema["$comment"] = "From gateway/web/openapi.yaml, by make docs."
		if len(defs) > 0 {
			schema["$defs"] = defs
		}
		var want bytes.Buffer
		e := json.NewEncoder(&want)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		if err := e.Encode(schema); err != nil {
			t.Fatal(err)
		}
		file := own + extension
		if *update {
			if err := os.WriteFile(file, want.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, want.Bytes()) {
			t.Errorf("%s is not what openapi.yaml says (%v); `make docs` writes it", file, err)
		}
	}
}

// schemas are those of this folder, by name, closed: programs pass over members that they
// do not know, but a member without its line is a mistake of ours.
func schemas(t *testing.T) map[string]*jsonschema.Schema {
	t.Helper()
	files, err := filepath.Glob("*" + extension)
	if err != nil || len(files) == 0 {
		t.Fatal("no schemas", err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		tree, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if id, _ := tree.(object)["$id"].(string); id != idPrefix+strings.TrimSuffix(file, extension) {
			t.Errorf("%s calls itself %q", file, id)
		}
		closeSchema(tree)
		if err := c.AddResource(idPrefix+strings.TrimSuffix(file, extension), tree); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
	}
	all := map[string]*jsonschema.Schema{}
	for _, file := range files {
		name := strings.TrimSuffix(file, extension)
		if all[name], err = c.Compile(idPrefix + name); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
	}
	return all
}

// closeSchema allows no members but those of which a schema speaks. Where another one is
// taken in, that one is open to the members of this one, and closed by it.
func closeSchema(v any) {
	switch v := v.(type) {
	case object:
		if _, ok := v["properties"].(object); ok {
			v["unevaluatedProperties"] = false
		}
		for _, member := range v {
			closeSchema(member)
		}
	case []any:
		for _, item := range v {
			closeSchema(item)
		}
	}
}

// conforms checks a payload. What the schema says of members is held too: without one that
// it requires, and with one more, the payload does not conform.
func conforms(t *testing.T, s *jsonschema.Schema, what string, payload []byte) {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(payload))
	if err == nil {
		err = s.Validate(v)
	}
	members, ok := v.(object)
	if err != nil || !ok {
		t.Errorf("%s: %v\n%s", what, err, payload)
		return
	}
	more := maps.Clone(members)
	more["otro"] = 1
	if s.Validate(more) == nil {
		t.Errorf("%s: it may have a member more", what)
	}
	for _, name := range slices.Sorted(maps.Keys(members)) {
		less := maps.Clone(members)
		delete(less, name)
		if s.Validate(less) == nil && (members["code"] == nil || !slices.Contains(ofSomeProblems, name)) {
			t.Errorf("%s: it may have no %s", what, name)
		}
	}
}

// ofSomeProblems are the members that not every problem document has.
var ofSomeProblems = []string{"ruc", "requestId", "retryAfter", "intentos", "obtenidoEn", "huella", "fuente", "motor"}

// TestSchemas_FitWhatIsEncoded: whatever package wire encodes, in each of its forms.
func TestSchemas_FitWhatIsEncoded(t *testing.T) {
	all := schemas(t)
	n := ruc.MustParse("20131312955")
	at := time.Date(2026, 11, 22, 15, 0, 0, 0, time.UTC)
	record := ruc.Record{RazonSocial: "UNO", TipoPersona: "juridica", Estado: "ACTIVO", Activo: true}
	found := ruc.Found(n, record, at, ruc.FuenteSunat, ruc.MotorChrome)
	record.Estado, record.Activo = "BAJA DE OFICIO", false
	later := ruc.Found(n, record, at, ruc.FuenteSunat, ruc.MotorHTTP)
	missing := ruc.Missing(n, at, ruc.FuenteReplica, ruc.MotorFetch)
	encode := func(a ruc.Answer) []byte {
		b, err := a.Encode()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for name, a := range map[string]ruc.Answer{"record": found, "missing": missing} {
		conforms(t, all[name], name, encode(a))
		conforms(t, all["answer"], name+" as an answer", encode(a))
	}
	conforms(t, all["reply"], "a record as a reply", encode(found))
	conforms(t, all["reply"], "not found as a reply", wire.NotFoundProblem(missing).Encode())
	conforms(t, all["not-found"], "not found", wire.NotFoundProblem(missing).Encode())
	for _, code := range ruc.Codes() {
		p := wire.NewProblem(n, &ruc.Error{Code: code, RetryAfter: time.Second, Attempts: 2})
		conforms(t, all["problem"], string(code), p.Encode())
		if code == ruc.NotFound {
			continue // is an answer
		}
		p.Motor = ruc.MotorChrome
		conforms(t, all["failed"], string(code)+" of a visit", p.Encode())
		conforms(t, all["reply"], string(code)+" as a reply", p.Encode())
	}
	event := func(a ruc.Answer) wire.Event {
		b := encode(a)
		p, err := wire.ReadPrefix(b)
		if err != nil {
			t.Fatal(err)
		}
		return wire.Event{RUC: n, Body: b, Prefix: p}
	}
	for what, to := range map[string]ruc.Answer{"a field": later, "not found any more": missing} {
		c, ok, err := wire.Compare(event(found), event(to))
		if err != nil || !ok {
			t.Fatalf("%s: %v, %v", what, ok, err)
		}
		b, err := c.Encode()
		if err != nil {
			t.Fatal(err)
		}
		conforms(t, all["changed"], what, b)
	}
	short, err := wire.Changed{RUC: n, Cambios: []ruc.Change{{Campo: "estado"}}}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	conforms(t, all["changed"], "without what does not fit", short)
	conforms(t, all["progress"], "queued", wire.Progress{RUC: n, Job: 7, Stage: wire.StageQueued, Position: 3}.Encode())
	conforms(t, all["progress"], "visiting", wire.Progress{RUC: n, Job: 7, Stage: wire.StageVisiting, Attempt: 1, Attempts: 3}.Encode())
	conforms(t, all["invalidated"], "a number", wire.Invalidated{RUC: n}.Encode())
	pattern, err := ruc.ParsePattern("2010*")
	if err != nil {
		t.Fatal(err)
	}
	conforms(t, all["invalidated"], "a pattern", wire.Invalidated{Pattern: pattern}.Encode())
	for name, s := range all {
		for _, example := range s.Examples {
			b, err := json.Marshal(example)
			if err != nil {
				t.Fatal(err)
			}
			conforms(t, s, "an example of "+name, b)
		}
	}
}
