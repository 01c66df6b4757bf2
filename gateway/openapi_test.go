package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/micro"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"github.com/rucflow/rucflow/gateway"
	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

// unseen are what the run below cannot bring about of the document, with the reason, by
// how it begins in coverage.seen.
var unseen = map[string]string{
	"POST /v1/ruc/lote 503":                      "it would take many open batches; see TestBatch_AtMostSoMany",
	"GET /v1/eventos 503":                        "it would take thousands of readers, or a request in the instant of the end; see TestFeed_Bounds",
	"GET /v1/ruc/{ruc}/historial 503 overloaded": "it would take many at the same instant; see TestHistories_AtMostSoMany",
}

const (
	openAPIFile = "web/openapi.yaml"
	elsewhere   = "elsewhere" // stands for the operation of what is for none
)

// object is a mapping of the document.
type object = map[string]any

// document is the OpenAPI document as a reader sees it.
type document struct {
	root     object
	compiler *jsonschema.Compiler
	mu       sync.Mutex
	schemas  map[string]*jsonschema.Schema // by pointer
}

// readDocument reads the document and closes its schemas: clients ignore members that they
// do not know, but a member without its line is a mistake of ours.
func readDocument(t *testing.T) *document {
	t.Helper()
	b, err := os.ReadFile(openAPIFile)
	if err != nil {
		t.Fatal(err)
	}
	var tree any
	if err := yaml.Unmarshal(b, &tree); err != nil {
		t.Fatal(err)
	}
	if b, err = json.Marshal(tree); err != nil {
		t.Fatal(err)
	}
	if tree, err = jsonschema.UnmarshalJSON(bytes.NewReader(b)); err != nil {
		t.Fatal(err)
	}
	d := &document{root: tree.(object), schemas: map[string]*jsonschema.Schema{}}
	closed, _ := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	closeSchemas(closed)
	d.compiler = jsonschema.NewCompiler()
	d.compiler.DefaultDraft(jsonschema.Draft2020)
	d.compiler.AssertFormat()
	if err := d.compiler.AddResource(documentURL, closed); err != nil {
		t.Fatal(err)
	}
	return d
}

const documentURL = "https://rucflow.invalid/openapi.json"

func closeSchemas(v any) {
	switch v := v.(type) {
	case object:
		if _, ok := v["properties"].(object); ok && v["additionalProperties"] == nil {
			v["unevaluatedProperties"] = false
		}
		for _, member := range v {
			closeSchemas(member)
		}
	case []any:
		for _, item := range v {
			closeSchemas(item)
		}
	}
}

// at follows names from the root, and references on the way. It returns the place too.
func (d *document) at(names ...string) (v any, pointer string) {
	v = d.root
	for i := 0; i <= len(names); i++ {
		for {
			o, _ := v.(object)
			ref, ok := o["$ref"].(string)
			if !ok {
				break
			}
			pointer = strings.TrimPrefix(ref, "#")
			v, _ = d.at(unescape(pointer)...)
		}
		if i == len(names) {
			break
		}
		switch in := v.(type) {
		case object:
			v = in[names[i]]
		case []any:
			n, _ := strconv.Atoi(names[i])
			v = in[n]
		default:
			return nil, ""
		}
		pointer += "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(names[i])
	}
	return v, pointer
}

func (d *document) object(names ...string) object {
	v, _ := d.at(names...)
	o, _ := v.(object)
	return o
}

func unescape(pointer string) (names []string) {
	for name := range strings.SplitSeq(strings.TrimPrefix(pointer, "/"), "/") {
		names = append(names, strings.NewReplacer("~1", "/", "~0", "~").Replace(name))
	}
	return names
}

// under is a place below another.
func under(at []string, names ...string) []string { return slices.Concat(at, names) }

// validate checks a value against the schema at that place.
func (d *document) validate(value any, schema ...string) error {
	// The place of the schema, not of what it refers to: constraints stand beside references.
	_, parent := d.at(schema[:len(schema)-1]...)
	pointer := parent + "/" + schema[len(schema)-1]
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.schemas[pointer]
	if s == nil {
		var err error
		if s, err = d.compiler.Compile(documentURL + "#" + (&url.URL{Path: pointer}).EscapedPath()); err != nil {
			return fmt.Errorf("the schema at %s: %w", pointer, err)
		}
		d.schemas[pointer] = s
	}
	return s.Validate(value)
}

// operation is a method of a documented path, or what stands for none.
type operation struct {
	name      string // GET /v1/ruc/{ruc}
	method    string
	path      string
	at        []string // its place
	responses object
}

var methods = []string{"get", "put", "post", "delete", "options", "head", "patch", "trace"}

// operations goes through every documented operation.
func (d *document) operations() iter.Seq[operation] {
	return func(yield func(operation) bool) {
		for _, path := range slices.Sorted(maps.Keys(d.object("paths"))) {
			for _, method := range methods {
				at := []string{"paths", path, method}
				if d.object(at...) == nil {
					continue
				}
				method := strings.ToUpper(method)
				if !yield(operation{method + " " + path, method, path, at, d.object(under(at, "responses")...)}) {
					return
				}
			}
		}
		yield(operation{name: elsewhere, at: []string{"x-elsewhere"}, responses: d.object("x-elsewhere", "responses")})
	}
}

// operationOf finds the operation of a request. HEAD comes with GET.
func (d *document) operationOf(method, path string) operation {
	var get, none operation
	for o := range d.operations() {
		switch {
		case o.name == elsewhere:
			none = o
		case !fits(o.path, path):
		case o.method == method:
			return o
		case o.method == http.MethodGet && method == http.MethodHead:
			get = o
		}
	}
	if get.name != "" {
		return get
	}
	return none
}

// fits reports whether a path is one of a documented form.
func fits(form, path string) bool {
	forms, parts := strings.Split(form, "/"), strings.Split(path, "/")
	return len(forms) == len(parts) && !slices.ContainsFunc(forms, func(name string) bool {
		part := parts[0]
		parts = parts[1:]
		return name != part && (!strings.HasPrefix(name, "{") || part == "")
	})
}

// codes returns the codes of a response: the keys of its problem documents' examples.
func (d *document) codes(response []string) []string {
	return slices.Sorted(maps.Keys(d.object(under(response, "content", wire.ProblemType, "examples")...)))
}

func TestOpenAPI_Valid(t *testing.T) {
	doc, err := openapi3.NewLoader().LoadFromFile(openAPIFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(t.Context(), openapi3.EnableExamplesValidation(), openapi3.EnableSchemaFormatValidation(), openapi3.EnableSchemaPatternValidation()); err != nil {
		t.Error(err)
	}
}

func TestOpenAPI_Codes(t *testing.T) {
	d := readDocument(t)
	var want []string
	for _, code := range ruc.Codes() {
		want = append(want, string(code))
	}
	var got []string
	for _, code := range d.object("components", "schemas", "Code")["enum"].([]any) {
		got = append(got, code.(string))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("codes (-code +document):\n%s", diff)
	}
	slices.Sort(want)
	table := d.object("components", "schemas", "Code", "x-codes")
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(table))); diff != "" {
		t.Errorf("table of codes (-code +document):\n%s", diff)
	}
	used := map[string]bool{}
	for _, code := range ruc.Codes() {
		row, _ := table[string(code)].(object)
		statuses, _ := row["statuses"].([]any)
		if len(statuses) == 0 || fmt.Sprint(statuses[0]) != strconv.Itoa(wire.Status(code)) {
			t.Errorf("%s: statuses %v, the code's own is %d", code, statuses, wire.Status(code))
		}
	}
	for o := range d.operations() {
		for status := range o.responses {
			for _, code := range d.codes(under(o.at, "responses", status)) {
				statuses, _ := d.object("components", "schemas", "Code", "x-codes", code)["statuses"].([]any)
				if !slices.ContainsFunc(statuses, func(s any) bool { return fmt.Sprint(s) == status }) {
					t.Errorf("%s: %s has the code %s, which stands for %v", o.name, status, code, statuses)
				}
				used[code] = true
			}
		}
	}
	for _, code := range ruc.Codes() {
		if !used[string(code)] {
			t.Errorf("no response has the code %s", code)
		}
	}
}

func TestOpenAPI_Routes(t *testing.T) {
	d := readDocument(t)
	routes := map[string]bool{}
	for _, route := range gateway.Routes() {
		method, path, _ := strings.Cut(route, " ")
		routes[route] = true
		if o := d.operationOf(method, path); o.name == elsewhere {
			t.Errorf("the gateway has the route %s, the document has not", route)
		}
	}
	for o := range d.operations() {
		// Preflights are answered before the routes.
		if o.name != elsewhere && o.method != http.MethodOptions && !routes[o.name] {
			t.Errorf("the document has the route %s, the gateway has not", o.name)
		}
	}
}

// What is said to be the same as another operation is.
func TestOpenAPI_SameOperations(t *testing.T) {
	d := readDocument(t)
	byID := map[string]operation{}
	for o := range d.operations() {
		if id, _ := d.object(o.at...)["operationId"].(string); id != "" {
			if _, twice := byID[id]; twice {
				t.Errorf("two operations %s", id)
			}
			byID[id] = o
		} else if o.name != elsewhere {
			t.Errorf("%s has no operationId", o.name)
		}
	}
	for id, o := range byID {
		same, _ := d.object(o.at...)["x-same-as"].(string)
		if same == "" {
			continue
		}
		for _, member := range []string{"parameters", "security", "responses"} {
			if diff := cmp.Diff(d.object(byID[same].at...)[member], d.object(o.at...)[member]); diff != "" {
				t.Errorf("%s of %s and %s:\n%s", member, same, id, diff)
			}
		}
	}
}

func TestOpenAPI_Examples(t *testing.T) {
	d := readDocument(t)
	check := func(where string, value any, schema ...string) {
		t.Helper()
		if err := d.validate(value, schema...); err != nil {
			t.Errorf("%s: %v", where, err)
		}
	}
	for name := range d.object("components", "headers") {
		at := []string{"components", "headers", name}
		if example, ok := d.object(at...)["example"]; ok {
			check("header "+name, example, under(at, "schema")...)
		}
	}
	parameters := func(at []string) {
		all, _ := d.at(at...)
		list, _ := all.([]any)
		for i := range list {
			at := under(at, strconv.Itoa(i))
			if example, ok := d.object(at...)["example"]; ok {
				check(fmt.Sprint(at), example, under(at, "schema")...)
			}
		}
	}
	content := func(at []string) {
		for kind := range d.object(under(at, "content")...) {
			at := under(at, "content", kind)
			for name := range d.object(under(at, "examples")...) {
				e, _ := d.at(under(at, "examples", name)...)
				value := e.(object)["value"]
				check(fmt.Sprint(at, name), value, under(at, "schema")...)
				if kind == wire.ProblemType && value.(object)["code"] != name {
					t.Errorf("%v: the example of %s has the code %v", at, name, value.(object)["code"])
				}
			}
			if kind == wire.ProblemType && len(d.object(under(at, "examples")...)) == 0 {
				t.Errorf("%v has no codes", at)
			}
		}
	}
	for o := range d.operations() {
		parameters([]string{"paths", o.path, "parameters"})
		parameters(under(o.at, "parameters"))
		content(under(o.at, "requestBody"))
		for status := range o.responses {
			at := under(o.at, "responses", status)
			content(at)
			for _, code := range d.codes(at) {
				value := d.object(under(at, "content", wire.ProblemType, "examples", code, "value")...)
				if fmt.Sprint(value["status"]) != status {
					t.Errorf("%s: the example of %s %s has the status %v", o.name, status, code, value["status"])
				}
			}
		}
		events, _ := d.at(under(o.at, "x-events")...)
		list, _ := events.([]any)
		for i, event := range list {
			for j := range event.(object)["examples"].([]any) {
				at := under(o.at, "x-events", strconv.Itoa(i))
				value, _ := d.at(under(at, "examples", strconv.Itoa(j))...)
				check(fmt.Sprint(at), value, under(at, "schema")...)
			}
		}
	}
	// Records are what the code would encode, with their huella.
	for _, name := range []string{"company", "person"} {
		a := d.answer(t, name)
		want := ruc.Found(a.RUC, *a.Record, a.ObtenidoEn, a.Fuente, a.Motor)
		if diff := cmp.Diff(string(encode(t, want)), string(encode(t, a))); diff != "" {
			t.Errorf("%s (-code +document):\n%s", name, diff)
		}
	}
}

// answer returns an example of the document.
func (d *document) answer(t *testing.T, example string) (a ruc.Answer) {
	t.Helper()
	b, err := json.Marshal(d.object("components", "examples", example)["value"])
	if err == nil {
		err = json.Unmarshal(b, &a)
	}
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// coverage holds what real responses showed of the document.
type coverage struct {
	t    *testing.T
	doc  *document
	base http.RoundTripper
	mu   sync.Mutex
	// seen has an entry for each operation and status, with nothing, a header or a code
	// after it.
	seen map[string]bool
}

func (c *coverage) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := c.base.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if res.Header.Get("Content-Type") == "text/event-stream" { // which has no end
		c.check(req.Method, req.URL.Path, res, nil)
		return res, nil
	}
	body, err := io.ReadAll(res.Body)
	_ = res.Body.Close()
	res.Body = io.NopCloser(bytes.NewReader(body))
	if err == nil {
		c.check(req.Method, req.URL.Path, res, body)
	}
	return res, err
}

// CloseIdleConnections is what http.Client calls.
func (c *coverage) CloseIdleConnections() { c.base.(*http.Transport).CloseIdleConnections() }

// ofTransport are headers of HTTP itself, of which the document says nothing.
var ofTransport = []string{"Date", "Content-Length", "Connection", "Server", "Transfer-Encoding", "Content-Encoding", "Content-Type"}

// check compares one response with the document.
func (c *coverage) check(method, path string, res *http.Response, body []byte) {
	o := c.doc.operationOf(method, path)
	status := strconv.Itoa(res.StatusCode)
	fail := func(format string, args ...any) {
		c.t.Helper()
		c.t.Errorf("%s %.60s (%s): %s: %s", method, path, o.name, status, fmt.Sprintf(format, args...))
	}
	c.saw(o.name, status)
	at := under(o.at, "responses", status)
	response := c.doc.object(at...)
	if response == nil {
		fail("the document does not have this status; the body was %.300s", body)
		return
	}
	for name, values := range res.Header {
		if slices.Contains(ofTransport, name) {
			continue
		}
		// The document has the names' usual spelling.
		for documented := range c.doc.object(under(at, "headers")...) {
			if !strings.EqualFold(documented, name) {
				continue
			}
			c.saw(o.name, status, documented)
			place := under(at, "headers", documented)
			var value any = strings.Join(values, ", ")
			if c.doc.object(under(place, "schema")...)["type"] == "integer" {
				value = json.Number(values[0])
			}
			if err := c.doc.validate(value, under(place, "schema")...); err != nil {
				fail("header %s: %v", name, err)
			}
			name = ""
		}
		if name != "" {
			fail("the document does not have the header %s: %s", name, values[0])
		}
	}
	content := c.doc.object(under(at, "content")...)
	kind := res.Header.Get("Content-Type")
	if content == nil {
		if len(body) > 0 || kind != "" {
			fail("the document has no body, there is %s %.100q", kind, body)
		}
		return
	}
	if content[kind] == nil {
		fail("the document does not have the content type %q", kind)
		return
	}
	if method == http.MethodHead {
		return
	}
	c.checkBody(o, status, kind, under(at, "content", kind), body, fail)
}

func (c *coverage) checkBody(o operation, status, kind string, at []string, body []byte, fail func(string, ...any)) {
	if kind == "application/x-ndjson" {
		for l := range bytes.Lines(body) {
			c.checkBody(o, status, "a line of application/json", at, l, fail)
		}
		return
	}
	var value any = string(body)
	if strings.Contains(kind, "json") {
		var err error
		if value, err = jsonschema.UnmarshalJSON(bytes.NewReader(body)); err != nil {
			fail("%v: %.100q", err, body)
			return
		}
	}
	if err := c.doc.validate(value, under(at, "schema")...); err != nil {
		fail("%v\n%s", err, body)
	}
	if kind != wire.ProblemType {
		return
	}
	problem, _ := value.(object)
	code, _ := problem["code"].(string)
	c.saw(o.name, status, code)
	if c.doc.object(under(at, "examples")...)[code] == nil {
		fail("the document does not have the code %q", code)
	}
}

func (c *coverage) saw(what ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen[strings.Join(what, " ")] = true
}

// missing reports what is documented and was never seen.
func (c *coverage) missing() {
	miss := func(what string) {
		excused := slices.ContainsFunc(slices.Collect(maps.Keys(unseen)), func(begin string) bool { return strings.HasPrefix(what, begin) })
		switch {
		case c.seen[what] && excused:
			c.t.Errorf("%s was seen; it needs no excuse", what)
		case !c.seen[what] && !excused:
			c.t.Errorf("%s is documented and was never seen", what)
		}
	}
	for o := range c.doc.operations() {
		for status := range o.responses {
			at := under(o.at, "responses", status)
			miss(o.name + " " + status)
			for name := range c.doc.object(under(at, "headers")...) {
				miss(o.name + " " + status + " " + name)
			}
			if o.method == http.MethodHead {
				continue // there is no body to show the code
			}
			for _, code := range c.doc.codes(at) {
				miss(o.name + " " + status + " " + code)
			}
		}
	}
}

// send sends bytes and checks the one response. It waits for as long as the gateway waits
// for the rest of a request.
func (c *coverage) send(r *rig, method, path, request string) {
	conn, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
	if err != nil {
		c.t.Error(err)
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(3 * patience))
	wrote := make(chan struct{})
	go func() {
		defer close(wrote)
		_, _ = io.WriteString(conn, request) // the gateway may close before it has read everything
	}()
	res, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		c.t.Errorf("%s %s: %v", method, path, err)
		return
	}
	body, _ := io.ReadAll(res.Body)
	c.check(method, path, res, body)
	_ = conn.Close()
	<-wrote
}

// follow opens a stream of events, and checks one of each kind.
func (c *coverage) follow(r *rig, header ...string) {
	c.t.Helper()
	s := r.watchWith([]ruc.Number{number}, header...)
	r.progress(wire.Progress{RUC: number, Job: 7, Stage: wire.StageQueued, Position: 2})
	r.progress(wire.Progress{RUC: number, Job: 7, Stage: wire.StageVisiting, Attempt: 1, Attempts: 3})
	for range 2 {
		c.checkEvent(s.next())
	}
	company := ruc.Found(number, *c.doc.answer(c.t, "company").Record, r.clock.now(), ruc.FuenteReplica, ruc.MotorChrome)
	seq := r.publish(company)
	c.checkEvent(s.next())
	r.publishChange(missingAt(number, r.clock.now()), company, seq)
	c.checkEvent(s.next())
	r.publish(missingAt(number, r.clock.now()))
	c.checkEvent(s.next())
	r.publishFailure(number, &ruc.Error{Code: ruc.Changed, Attempts: 2})
	c.checkEvent(s.next())
	s.close()
}

func (c *coverage) checkEvent(e event, ok bool) {
	c.t.Helper()
	at := under(c.doc.operationOf(http.MethodGet, "/v1/eventos").at, "x-events")
	events, _ := c.doc.at(at...)
	i := slices.IndexFunc(events.([]any), func(known any) bool { return known.(object)["name"] == e.kind })
	if !ok || i < 0 {
		c.t.Errorf("an event that the document does not have: %+v", e)
		return
	}
	value, err := jsonschema.UnmarshalJSON(strings.NewReader(e.data))
	if err == nil {
		err = c.doc.validate(value, under(at, strconv.Itoa(i), "schema")...)
	}
	if err != nil {
		c.t.Errorf("%s: %v\n%s", e.kind, err, e.data)
	}
}

// moody is a store that fails and panics on request.
type moody struct{ panics atomic.Bool }

var (
	badDelete   = ruc.FromPrefix("2060000101")
	panicDelete = ruc.FromPrefix("2060000102")
)

func (*moody) Kind() string                                          { return "redis" }
func (*moody) Get(context.Context, ruc.Number) ([]byte, bool, error) { return nil, false, nil }

func (m *moody) Connected() bool {
	if m.panics.Load() {
		panic("a mistake of ours")
	}
	return true
}

func (*moody) Delete(_ context.Context, n ruc.Number) error {
	switch n {
	case badDelete:
		return errors.New("away")
	case panicDelete:
		panic("a mistake of ours")
	default:
		return nil
	}
}

func (*moody) DeletePattern(_ context.Context, p ruc.Pattern, _ bool) (int, error) {
	switch p.String() {
	case badDelete.String():
		return 0, errors.New("away")
	case panicDelete.String():
		panic("a mistake of ours")
	default:
		return 2, nil
	}
}

// Every response is as the document says, and everything in the document is seen.
func TestOpenAPI_Responses(t *testing.T) {
	t.Parallel()
	const app = "https://app.example.com"
	c := &coverage{t: t, doc: readDocument(t), seen: map[string]bool{}}
	file, key := keys(t, "uno", "100000/d", "poco", "1/d")
	watched := func(change ...func(*gateway.Config, *gateway.Deps)) *rig {
		r := start(t, change...)
		if c.base == nil {
			c.base = r.web.Transport
		}
		r.web.Transport = c
		return r
	}
	store := &moody{}
	// With everything that adds headers.
	r := watched(func(cfg *gateway.Config, d *gateway.Deps) {
		cfg.AdminToken, cfg.APIKeysFile, cfg.RateLimit = adminToken, file, "100000/s"
		cfg.CORSOrigins, cfg.AllowedHosts = app, "127.0.0.1"
		d.Store = store
	})
	outcomes := map[ruc.Number]error{}
	for i, code := range []ruc.Code{ruc.Overloaded, ruc.Unavailable, ruc.Blocked, ruc.Changed, ruc.Internal, ruc.Timeout} {
		e := &ruc.Error{Code: code, Attempts: i}
		if wire.Status(code) == http.StatusServiceUnavailable {
			e.RetryAfter = 7 * time.Second
		}
		outcomes[ruc.FromPrefix(fmt.Sprintf("206000000%d", i))] = e
	}
	absent := ruc.FromPrefix("2060000011")
	r.scraper(func(req micro.Request, n ruc.Number) {
		switch err := outcomes[n]; {
		case err != nil:
			r.refuses(req, n, err)
		case n == absent:
			r.reply(req, missingAt(n, r.clock.now()))
		default:
			of := "company"
			if !n.Entity() {
				of = "person"
			}
			r.reply(req, ruc.Found(n, *c.doc.answer(t, of).Record, r.clock.now(), ruc.FuenteReplica, ruc.MotorChrome))
		}
	})
	ask := func(method, path string, header ...string) {
		t.Helper()
		r.do(method, path, "", header...)
	}
	page := []string{"Origin", app, "X-API-Key", key["uno"], "X-Request-Id", "pedido-4711"}
	with := func(header ...string) []string { return append(slices.Clone(page), header...) }
	ask(http.MethodGet, "/v1/ruc/"+third.String(), "X-API-Key", key["poco"]) // its one visit
	for _, route := range []string{"/obtener-ruc/", "/v1/ruc/"} {
		path := route + number.String()
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			ask(method, path, page...)
			ask(method, path, "X-API-Key", key["uno"])
			ask(method, route+ruc.FromPrefix("1099000001").String(), page...)
			ask(method, path, with("Cache-Control", "no-cache")...)
			ask(method, path, with("If-None-Match", "*")...)
			ask(method, route+absent.String(), page...)
			ask(method, route+absent.String(), page...)
			ask(method, route+"7", page...)
			ask(method, path, "Origin", app, "X-API-Key", "wrong")
			ask(method, route+second.String(), "Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site", "X-API-Key", key["uno"])
			ask(method, route+second.String(), "Origin", app, "X-API-Key", key["poco"])
			ask(method, route+second.String(), with("Cache-Control", "only-if-cached")...)
			for n := range outcomes {
				ask(method, route+n.String(), page...)
			}
		}
		ask(http.MethodOptions, path, "Origin", app, "Access-Control-Request-Method", "GET", "Access-Control-Request-Headers", "x-api-key")
		ask(http.MethodOptions, path, "Origin", app)
		ask(http.MethodPut, path, page...)
		ask(http.MethodGet, route, page...)
	}
	for _, name := range []ruc.Number{number, absent, third, ruc.FromPrefix("1099000001")} {
		ask(http.MethodGet, "/v1/ruc/"+name.String()+"/historial", page...)
		ask(http.MethodHead, "/v1/ruc/"+name.String()+"/historial", "X-API-Key", key["uno"])
	}
	ask(http.MethodGet, "/v1/ruc/7/historial", page...)
	ask(http.MethodGet, historyPath, "Origin", app)
	admin := func(header ...string) []string { return append(slices.Clone(authorized), header...) }
	ask(http.MethodDelete, path, authorized...)
	ask(http.MethodDelete, path+"?olvidar=quiz%C3%A1s", authorized...)
	ask(http.MethodDelete, "/v1/ruc/7", authorized...)
	ask(http.MethodDelete, path, "Origin", app)
	ask(http.MethodDelete, "/v1/ruc/"+badDelete.String(), authorized...)
	ask(http.MethodDelete, "/v1/ruc/"+panicDelete.String(), authorized...)
	for _, pattern := range []string{"2010*", "x", badDelete.String(), panicDelete.String()} {
		r.invalidate(`{"patron":"`+pattern+`"}`, authorized...)
	}
	r.invalidate(`{"patron":"2010*","simular":true}`, authorized...)
	r.invalidate(`{}`)
	r.do(http.MethodPost, "/v1/cache/invalidar", "x", admin("Content-Type", "text/plain")...)
	for _, path := range []string{"/health", "/livez", "/readyz"} {
		ask(http.MethodGet, path, page...)
		ask(http.MethodHead, path)
		ask(http.MethodPost, path)
	}
	for _, path := range []string{"/", "/docs", "/openapi.yaml", "/web/0/app.css", "/web/0/app.js", "/web/0/icon.svg"} {
		got := r.get(path + "?lang=en")
		ask(http.MethodHead, path)
		ask(http.MethodGet, path+"?lang=es", "If-None-Match", `W/"0123456789abcdef"`, "Accept-Encoding", "gzip")
		ask(http.MethodGet, path+"?lang=en", "If-None-Match", got.Header.Get("ETag"))
	}
	ask(http.MethodGet, "/web/0/nada.js", page...)
	c.follow(r, page...)
	ask(http.MethodGet, "/v1/eventos?tipo=otro", page...)
	ask(http.MethodGet, "/v1/eventos?ruc=7", page...)
	ask(http.MethodGet, "/v1/eventos?ruc="+number.String(), "Origin", app)
	ask(http.MethodGet, "/v1/eventos?ruc="+number.String(), "Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site", "X-API-Key", key["uno"])
	batch := func(body string, header ...string) {
		r.do(http.MethodPost, "/v1/ruc/lote", body, append([]string{"Content-Type", "application/json"}, header...)...)
	}
	batch(`{"rucs":["`+number.String()+`","`+absent.String()+`","7","`+second.String()+`"]}`, with("Cache-Control", "only-if-cached")...)
	batch(`{}`, page...)
	batch(`{}`, "Origin", app)
	r.do(http.MethodPost, "/v1/ruc/lote", "x", with("Content-Type", "text/plain")...)
	store.panics.Store(true)
	ask(http.MethodGet, "/health")
	store.panics.Store(false)

	// With one request for each, whose limit the next one passes.
	limited := watched(func(cfg *gateway.Config, _ *gateway.Deps) { cfg.RateLimit, cfg.CORSOrigins = "1/d", app })
	for range 2 {
		limited.get("/v1/eventos?ruc=7", "Origin", app)
	}
	limited.get(historyPath, "Origin", app)
	limited.do(http.MethodPost, "/v1/ruc/lote", "", "Origin", app)

	// Without anything.
	bare := watched()
	bare.do(http.MethodOptions, path, "", "Origin", app, "Access-Control-Request-Method", "GET")
	bare.get(path) // nobody answers
	bare.get(path, "Cache-Control", "only-if-cached")
	bare.get("/v1/ruc/7")
	bare.do(http.MethodDelete, path, "", authorized...)
	bare.invalidate(`{}`, authorized...)

	// What no client library sends.
	var wg sync.WaitGroup
	for o := range c.doc.operations() {
		method, path := o.method, strings.NewReplacer("{ruc}", number.String(), "{build}", "0", "{file}", "app.css").Replace(o.path)
		if o.name == elsewhere {
			method, path = http.MethodPatch, "/nada"
		}
		first := method + " " + path + " HTTP/1.1\r\n"
		const here, foreign = "Host: 127.0.0.1\r\n", "Host: evil.example\r\n"
		for _, rest := range []string{
			here + "Transfer-Encoding: chunked\r\n\r\nzz\r\n",
			here + "Content-Length: 60000\r\n\r\n{",
			here + "Content-Length: 100000\r\n\r\n" + strings.Repeat("x", 100_000),
			here + "X: " + strings.Repeat("x", 100_000) + "\r\n\r\n",
			foreign + "\r\n",
		} {
			wg.Go(func() { c.send(r, method, path, first+rest) })
		}
	}
	wg.Go(func() { c.send(r, http.MethodGet, "", "hello\r\n\r\n") })
	wg.Go(func() { c.send(r, http.MethodGet, "", "GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n") })
	wg.Wait()

	r.bus.Stop()
	eventually(t, "the history cannot be read", func() bool { return r.get(historyPath, page...).StatusCode == http.StatusServiceUnavailable })
	eventually(t, "the gateway is not ready", func() bool { return r.get("/readyz").StatusCode == http.StatusServiceUnavailable })
	c.missing()
}
