package web

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

// api is the OpenAPI document of the gateway's routes, of which the page /docs is made.
// What it does not know, it leaves to the readers of the document itself.
type api struct{ section }

// readAPI reads the document. The error names what a page could not be made of: a
// reference that leads nowhere, or a text without its English.
func readAPI(document []byte) (*api, error) {
	var file yaml.Node
	if err := yaml.Unmarshal(document, &file); err != nil {
		return nil, fmt.Errorf("web.readAPI: %w", err)
	}
	if len(file.Content) != 1 || file.Content[0].Kind != yaml.MappingNode {
		return nil, errors.New("web.readAPI: the document is no mapping")
	}
	root := file.Content[0]
	a := &api{section{root: root, at: root}}
	if err := a.check(); err != nil {
		return nil, fmt.Errorf("web.readAPI: %w", err)
	}
	return a, nil
}

// bilingual are the members with a text that a page shows, and their English.
var bilingual = map[string]string{
	"summary": "x-summary-en", "description": "x-description-en", "label": "x-label-en",
	"x-display-name": "x-display-name-en", "x-action": "x-action-en",
}

// check visits every node once: references stand in the document, not behind each other.
func (s section) check() error {
	if s.at.Kind == yaml.AliasNode {
		return fmt.Errorf("line %d: an alias, which not every reader of OpenAPI takes", s.at.Line)
	}
	for name, member := range s.own() {
		switch english, ok := bilingual[name]; {
		case name == "value" || name == "example":
			continue // data, in which any name may stand
		case name == refKey:
			if !s.find(member.at.Value).exists() {
				return fmt.Errorf("line %d: %s leads nowhere", member.at.Line, member.at.Value)
			}
		case ok && member.at.Kind == yaml.ScalarNode && !s.has(english):
			return fmt.Errorf("line %d: %s without %s", member.at.Line, name, english)
		default:
			if err := member.check(); err != nil {
				return err
			}
		}
	}
	if s.at.Kind == yaml.SequenceNode {
		for _, item := range s.at.Content {
			if err := (section{s.root, item}).check(); err != nil {
				return err
			}
		}
	}
	return nil
}

// section is a node of the document; the zero section is none.
type section struct{ root, at *yaml.Node }

const refKey = "$ref"

func (s section) exists() bool { return s.at != nil }

// own goes through the members of a mapping, in the order of the document.
func (s section) own() iter.Seq2[string, section] {
	return func(yield func(string, section) bool) {
		if s.at == nil || s.at.Kind != yaml.MappingNode {
			return
		}
		for i := 0; i+1 < len(s.at.Content); i += 2 {
			if !yield(s.at.Content[i].Value, section{s.root, s.at.Content[i+1]}) {
				return
			}
		}
	}
}

func (s section) has(name string) bool {
	for own := range s.own() {
		if own == name {
			return true
		}
	}
	return false
}

// find follows a reference, which is a JSON pointer into this document.
func (s section) find(ref string) section {
	pointer, ok := strings.CutPrefix(ref, "#/")
	if !ok {
		return section{}
	}
	at := section{s.root, s.root}
	for name := range strings.SplitSeq(pointer, "/") {
		at = at.get(strings.NewReplacer("~1", "/", "~0", "~").Replace(name))
	}
	return at
}

// get returns a member, of the section itself or else of what it refers to: what stands
// beside a reference goes before.
func (s section) get(name string) section {
	var ref section
	for own, member := range s.own() {
		switch own {
		case name:
			return member
		case refKey:
			ref = member
		}
	}
	if ref.exists() {
		return s.find(ref.at.Value).get(name)
	}
	return section{}
}

// target follows a reference, if the section is one.
func (s section) target() section {
	for own, member := range s.own() {
		if own == refKey {
			return s.find(member.at.Value).target()
		}
	}
	return s
}

// name is the last part of the reference that the section is; "" where it is none.
func (s section) name() string {
	for own, member := range s.own() {
		if own == refKey {
			return member.at.Value[strings.LastIndexByte(member.at.Value, '/')+1:]
		}
	}
	return ""
}

// list returns the items of a sequence.
func (s section) list() (items []section) {
	if s.at == nil || s.at.Kind != yaml.SequenceNode {
		return nil
	}
	for _, item := range s.at.Content {
		items = append(items, section{s.root, item})
	}
	return items
}

// words returns a sequence of scalars, or the one scalar.
func (s section) words() (words []string) {
	if s.at != nil && s.at.Kind == yaml.ScalarNode {
		return []string{s.at.Value}
	}
	for _, item := range s.list() {
		words = append(words, item.at.Value)
	}
	return words
}

func (s section) text(name string) string {
	if member := s.get(name); member.exists() {
		return member.at.Value
	}
	return ""
}

// in returns a text in the language.
func (s section) in(lang, name string) string {
	if lang == english {
		name = bilingual[name]
	}
	return s.text(name)
}

func (s section) prose(lang, name string) prose { return newProse(s.in(lang, name)) }

// json writes the section as indented JSON, in the order of the document.
func (s section) json(b *strings.Builder, indent string) {
	s = s.target()
	deeper := indent + "  "
	switch s.at.Kind {
	case yaml.MappingNode:
		b.WriteByte('{')
		sep := "\n"
		for name, member := range s.own() {
			b.WriteString(sep + deeper + quoted(name) + ": ")
			member.json(b, deeper)
			sep = ",\n"
		}
		if sep != "\n" {
			b.WriteString("\n" + indent)
		}
		b.WriteByte('}')
	case yaml.SequenceNode:
		b.WriteByte('[')
		sep := "\n"
		for _, item := range s.list() {
			b.WriteString(sep + deeper)
			item.json(b, deeper)
			sep = ",\n"
		}
		if sep != "\n" {
			b.WriteString("\n" + indent)
		}
		b.WriteByte(']')
	default:
		if s.at.Tag == "!!str" {
			b.WriteString(quoted(s.at.Value))
			return
		}
		b.WriteString(s.at.Value) // null, true, 12: alike in both
	}
}

func quoted(s string) string {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s) // a string, into memory
	return strings.TrimSuffix(b.String(), "\n")
}

// prose is a text of the document: paragraphs of plain words and of code.
type prose [][]span

type span struct {
	Text string
	Code bool
}

// newProse reads the part of CommonMark that the document uses: paragraphs are apart by an
// empty line, and code is between backticks.
func newProse(s string) (p prose) {
	if s == "" {
		return nil
	}
	for paragraph := range strings.SplitSeq(strings.TrimSpace(s), "\n\n") {
		var spans []span
		code := false
		for part := range strings.SplitSeq(paragraph, "`") {
			if part != "" {
				spans = append(spans, span{part, code})
			}
			code = !code
		}
		p = append(p, spans)
	}
	return p
}

const english = "en"

// apiView is the document in one language, in the order in which /docs shows it.
type apiView struct {
	Text     prose
	Groups   []apiGroup
	Anywhere []apiResponse // of what reaches no operation
	Schemas  []apiSchema
	Problem  string // an example
	Codes    []apiCode
	Headers  []apiField
}

type apiGroup struct {
	ID, Name   string
	Text       prose
	Operations []apiOperation
}

// apiOperation is a method of a path. HEAD is left out: it comes with every GET.
type apiOperation struct {
	ID, Method, Path, Summary string
	Text                      prose
	// Same is the operation that this one equals under another path; nothing but that is
	// shown of it then.
	Same       *apiOperation
	Access     string // open, key, admin
	Parameters []apiField
	Body       *apiBody
	Samples    []apiSample
	Events     []apiEvent
	Responses  []apiResponse
	Common     []apiResponse // those that any route has
}

type apiBody struct {
	Type     string
	Text     prose
	Fields   []apiField
	Examples []apiSample
}

// apiField is a parameter, a header or a field of a schema.
type apiField struct {
	ID       string // of a header, which may be described in several ways
	Name     string
	In       string // of a parameter: path, query, header
	Type     apiType
	Required bool
	Text     prose
	Example  string
}

// apiType is what a value may be.
type apiType struct {
	Name    string   // string, integer, number, boolean, array, object, date, date-time
	Items   string   // of an array: the name of its items' type
	Nullish bool     // it may be null
	Values  []string // one of these, where they are a closed set
}

// apiSample is something to copy, or an example.
type apiSample struct{ Label, Source string }

type apiEvent struct {
	Name     string
	Text     prose
	Examples []string
}

type apiResponse struct {
	Status   string
	Text     prose
	Type     string // of the content; "" = none
	Codes    []string
	Headers  []apiHeader
	Examples []apiSample
}

type apiHeader struct{ Name, ID string }

type apiSchema struct {
	Name   string
	Text   prose
	Fields []apiField
}

type apiCode struct {
	Name         string
	Statuses     []string
	Text, Action prose
	Retryable    bool
}

// shown are the schemas with a table of their own.
var shown = []string{"Record", "Problem", "Health"}

// view renders the document's texts in the language: en, or es for every other.
func (a *api) view(lang string) apiView {
	v := apiView{Text: a.get("info").prose(lang, "description"), Problem: a.example("invalid")}
	var common []string
	for status, response := range a.get("x-elsewhere").get("responses").own() {
		v.Anywhere = append(v.Anywhere, newResponse(lang, status, response))
		common = append(common, response.name())
	}
	byID := map[string]*apiOperation{}
	for _, tag := range a.get("tags").list() {
		g := apiGroup{ID: tag.text("name"), Name: tag.in(lang, "x-display-name"), Text: tag.prose(lang, "description")}
		for path, item := range a.get("paths").own() {
			for method, operation := range item.own() {
				if method == "parameters" || method == "head" || !slices.Contains(operation.get("tags").words(), g.ID) {
					continue
				}
				g.Operations = append(g.Operations, newOperation(lang, method, path, item, operation, common))
			}
		}
		for i := range g.Operations {
			byID[g.Operations[i].ID] = &g.Operations[i]
		}
		v.Groups = append(v.Groups, g)
	}
	for _, item := range a.get("paths").own() {
		for _, operation := range item.own() {
			if same := operation.text("x-same-as"); same != "" && byID[operation.text("operationId")] != nil {
				byID[operation.text("operationId")].Same = byID[same]
			}
		}
	}
	components := a.get("components")
	for _, name := range shown {
		schema := components.get("schemas").get(name)
		v.Schemas = append(v.Schemas, apiSchema{Name: name, Text: schema.prose(lang, "description"), Fields: fields(lang, schema, "")})
	}
	for name, code := range components.get("schemas").get("Code").get("x-codes").own() {
		v.Codes = append(v.Codes, apiCode{
			Name: name, Statuses: code.get("statuses").words(), Retryable: ruc.Code(name).Retryable(),
			Text: code.prose(lang, "description"), Action: code.prose(lang, "x-action"),
		})
	}
	for name, header := range components.get("headers").own() {
		f := newField(lang, headerName(name), header)
		f.ID, f.Example = name, header.text("example")
		v.Headers = append(v.Headers, f)
	}
	return v
}

func (a *api) example(name string) string {
	var b strings.Builder
	a.get("components").get("examples").get(name).get("value").json(&b, "")
	return b.String()
}

// headerName is the name of a header that the document describes in several ways.
func headerName(component string) string {
	for _, suffix := range []string{"-no-store", "-page"} {
		component = strings.TrimSuffix(component, suffix)
	}
	return component
}

// newOperation leaves the responses named by common apart.
func newOperation(lang, method, path string, item, operation section, common []string) apiOperation {
	o := apiOperation{
		ID: operation.text("operationId"), Method: strings.ToUpper(method), Path: path,
		Summary: operation.in(lang, "summary"), Text: operation.prose(lang, "description"), Access: accessOf(operation),
	}
	for _, p := range append(item.get("parameters").list(), operation.get("parameters").list()...) {
		f := newField(lang, p.text("name"), p)
		f.In, f.Required, f.Example = p.text("in"), p.text("required") == "true", strings.Join(p.get("example").words(), ", ")
		o.Parameters = append(o.Parameters, f)
	}
	if body := operation.get("requestBody"); body.exists() {
		for kind, content := range body.get("content").own() {
			o.Body = &apiBody{
				Type: kind, Text: body.prose(lang, "description"), Fields: fields(lang, content.get("schema"), ""),
				Examples: examples(lang, content),
			}
		}
	}
	for _, s := range operation.get("x-codeSamples").list() {
		o.Samples = append(o.Samples, apiSample{s.in(lang, "label"), s.text("source")})
	}
	for _, event := range operation.get("x-events").list() {
		e := apiEvent{Name: event.text("name"), Text: event.prose(lang, "description")}
		for _, example := range event.get("examples").list() {
			e.Examples = append(e.Examples, oneLine(example))
		}
		o.Events = append(o.Events, e)
	}
	for status, response := range operation.get("responses").own() {
		if r := newResponse(lang, status, response); slices.Contains(common, response.name()) {
			o.Common = append(o.Common, r)
		} else {
			o.Responses = append(o.Responses, r)
		}
	}
	return o
}

// accessOf says who may ask.
func accessOf(operation section) string {
	access := "open"
	for _, alternative := range operation.get("security").list() {
		for scheme := range alternative.own() {
			if access = "key"; scheme == "adminToken" {
				return "admin"
			}
		}
	}
	return access
}

// newResponse takes the keys of a problem document's examples for the response's codes.
func newResponse(lang, status string, response section) apiResponse {
	r := apiResponse{Status: status, Text: response.prose(lang, "description")}
	for name, header := range response.get("headers").own() {
		r.Headers = append(r.Headers, apiHeader{name, header.name()})
	}
	for kind, content := range response.get("content").own() {
		if r.Type != "" {
			r.Type += ", "
		}
		r.Type += kind
		if kind != wire.ProblemType {
			r.Examples = append(r.Examples, examples(lang, content)...)
			continue
		}
		for code := range content.get("examples").own() {
			r.Codes = append(r.Codes, code)
		}
	}
	return r
}

func examples(lang string, content section) (samples []apiSample) {
	for name, example := range content.get("examples").own() {
		label := example.in(lang, "summary")
		if label == "" {
			label = name
		}
		value := example.get("value")
		if value.at.Kind == yaml.ScalarNode {
			samples = append(samples, apiSample{label, value.at.Value})
			continue
		}
		var b strings.Builder
		value.json(&b, "")
		samples = append(samples, apiSample{label, b.String()})
	}
	return samples
}

func oneLine(s section) string {
	var b strings.Builder
	s.json(&b, "")
	var out bytes.Buffer
	_ = json.Compact(&out, []byte(b.String())) // it was written here
	return out.String()
}

func newField(lang, name string, s section) apiField {
	return apiField{Name: name, Type: typeOf(s), Text: s.prose(lang, "description")}
}

// fields flattens a schema: those of the items of a list follow it, as list[].field.
func fields(lang string, schema section, prefix string) (all []apiField) {
	required := schema.get("required").words()
	for name, property := range schema.get("properties").own() {
		f := newField(lang, prefix+name, property)
		f.Required = slices.Contains(required, name)
		all = append(all, f)
		all = append(all, fields(lang, property.get("items"), prefix+name+"[].")...)
	}
	return all
}

// typeOf reads the type of a schema, or of the schema of a parameter or header.
func typeOf(s section) (t apiType) {
	if schema := s.get("schema"); schema.exists() {
		s = schema
	}
	for _, name := range s.get("type").words() {
		if name == "null" {
			t.Nullish = true
			continue
		}
		t.Name = name
	}
	if format := s.text("format"); strings.HasPrefix(format, "date") {
		t.Name = format
	}
	t.Values = s.get("enum").words()
	if only := s.get("const"); only.exists() {
		t.Values = only.words()
		if only.at.Tag == "!!bool" {
			t.Name = "boolean"
		}
	}
	if s.name() == "Code" {
		t.Values = nil // they have a table
	}
	if t.Name == "" {
		t.Name = "string"
	}
	if items := s.get("items"); items.exists() {
		t.Items = typeOf(items).Name
	}
	return t
}
