// Package web is what people see of a gateway: the page on which they look numbers up, the
// documentation of the API, and the files that both load. Everything is embedded, made
// ready once and served from memory; nothing comes from another host.
package web

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/gofiber/fiber/v2"
	"golang.org/x/text/language"
)

//go:embed *.html *.css *.js *.svg openapi.yaml texts/*.json
var files embed.FS

// The languages that the pages come in, the first by default.
var languages = []string{"es", "en"}

var matcher = language.NewMatcher([]language.Tag{language.Spanish, language.English})

// policy lets a page load what this host serves, and send what is asked to it.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

const (
	assetsPath = "/web/"
	// immutable is for files under a path that names their content.
	immutable = "public, max-age=31536000, immutable"
	// revalidate has a browser ask each time, and get a 304 as a rule.
	revalidate = "no-cache"

	languageName = "lang" // of the query's parameter and of the cookie
	cookieAge    = 365 * 24 * 60 * 60
)

// contentTypes of what pages load, by the name's end.
var contentTypes = map[string]string{
	".css": "text/css; charset=utf-8",
	".js":  "text/javascript; charset=utf-8",
	".svg": "image/svg+xml",
}

// Site serves the pages. It is safe for concurrent use.
type Site struct {
	version string
	build   string              // names the content of all files
	assets  map[string]resource // by name
	index   map[string]resource // by language
	// The API's document and its pages are made when they are first asked for: reading it
	// takes tens of milliseconds, longer than all else at a gateway's start.
	docs func() (map[string]resource, error) // by language
	api  func() (resource, error)
}

// resource is a response, ready to be sent.
type resource struct {
	contentType string
	etag        string
	body        []byte
	gzipped     []byte
}

// New reads the embedded files for a version of the program.
func New(version string) (*Site, error) {
	s := &Site{version: version, assets: map[string]resource{}}
	names, err := fs.Glob(files, "*.*")
	if err != nil {
		return nil, fmt.Errorf("web.New: %w", err)
	}
	sum := sha256.New()
	for _, name := range names {
		body, err := files.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("web.New: %w", err)
		}
		sum.Write(body)
		kind, ok := contentTypes[path.Ext(name)]
		if !ok {
			continue // has a path of its own
		}
		if s.assets[name], err = newResource(kind, body); err != nil {
			return nil, fmt.Errorf("web.New: %s: %w", name, err)
		}
	}
	s.build = hex.EncodeToString(sum.Sum(nil))[:12]
	if s.index, err = s.render("index", func(string) any { return nil }); err != nil {
		return nil, fmt.Errorf("web.New: %w", err)
	}
	s.docs = sync.OnceValues(s.renderDocs)
	s.api = sync.OnceValues(func() (resource, error) {
		body, err := files.ReadFile(apiFile)
		if err != nil {
			return resource{}, err
		}
		return newResource("application/yaml", body)
	})
	return s, nil
}

const apiFile = "openapi.yaml"

func (s *Site) renderDocs() (map[string]resource, error) {
	body, err := files.ReadFile(apiFile)
	if err != nil {
		return nil, err
	}
	a, err := readAPI(body)
	if err != nil {
		return nil, err
	}
	return s.render("docs", func(lang string) any { return a.view(lang) })
}

// view is what a page's template is given.
type view struct {
	Lang, Other string
	Version     string
	Doc         any
}

// render makes a page in each language.
func (s *Site) render(name string, doc func(lang string) any) (map[string]resource, error) {
	pages := map[string]resource{}
	for i, lang := range languages {
		texts, err := readTexts(name, lang)
		if err != nil {
			return nil, err
		}
		t, err := template.New(name+".html").Funcs(template.FuncMap{
			"t": func(key string) (string, error) {
				text, ok := texts[key]
				if !ok {
					return "", fmt.Errorf("no text %q in %s", key, lang)
				}
				return text, nil
			},
			"asset": func(file string) (string, error) {
				if _, ok := s.assets[file]; !ok {
					return "", fmt.Errorf("no file %q", file)
				}
				return assetsPath + s.build + "/" + file, nil
			},
			// For a data block, into which html/template writes it as JSON.
			"texts": func() map[string]string { return texts },
		}).ParseFS(files, name+".html")
		if err != nil {
			return nil, err
		}
		var page bytes.Buffer
		if err := t.Execute(&page, view{lang, languages[1-i], s.version, doc(lang)}); err != nil {
			return nil, err
		}
		if pages[lang], err = newResource(fiber.MIMETextHTMLCharsetUTF8, page.Bytes()); err != nil {
			return nil, err
		}
	}
	return pages, nil
}

// readTexts returns a page's texts in a language, by key.
func readTexts(name, lang string) (texts map[string]string, err error) {
	b, err := files.ReadFile("texts/" + name + "." + lang + ".json")
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(b, &texts); err != nil {
		return nil, fmt.Errorf("texts of %s in %s: %w", name, lang, err)
	}
	return texts, nil
}

func newResource(contentType string, body []byte) (resource, error) {
	var small bytes.Buffer
	w, err := gzip.NewWriterLevel(&small, gzip.BestCompression)
	if err != nil {
		return resource{}, err
	}
	if _, err := w.Write(body); err != nil {
		return resource{}, err
	}
	if err := w.Close(); err != nil {
		return resource{}, err
	}
	sum := sha256.Sum256(body)
	// Weak, for it stands for the compressed form too.
	return resource{contentType: contentType, etag: `W/"` + hex.EncodeToString(sum[:8]) + `"`, body: body, gzipped: small.Bytes()}, nil
}

// Register adds the pages' routes.
func (s *Site) Register(app fiber.Router) {
	app.Get("/", func(c *fiber.Ctx) error { return sendPage(c, s.index) })
	app.Get("/docs", func(c *fiber.Ctx) error {
		pages, err := s.docs()
		if err != nil {
			return fmt.Errorf("web: /docs: %w", err)
		}
		return sendPage(c, pages)
	})
	app.Get("/openapi.yaml", func(c *fiber.Ctx) error {
		r, err := s.api()
		if err != nil {
			return fmt.Errorf("web: /openapi.yaml: %w", err)
		}
		return send(c, r, revalidate)
	})
	app.Get(assetsPath+":build/:file", func(c *fiber.Ctx) error {
		r, ok := s.assets[c.Params("file")]
		if !ok {
			return fiber.ErrNotFound
		}
		if c.Params("build") != s.build {
			// A page of another version of this program, which is being replaced.
			return send(c, r, revalidate)
		}
		return send(c, r, immutable)
	})
}

func sendPage(c *fiber.Ctx, pages map[string]resource) error {
	c.Set(fiber.HeaderContentSecurityPolicy, policy)
	c.Vary(fiber.HeaderAcceptLanguage, fiber.HeaderCookie)
	lang := speaks(c)
	c.Set(fiber.HeaderContentLanguage, lang)
	return send(c, pages[lang], revalidate)
}

// speaks chooses the language: what the query says, and from then on a cookie; else what
// the browser prefers.
func speaks(c *fiber.Ctx) string {
	if lang := c.Query(languageName); slices.Contains(languages, lang) {
		c.Cookie(&fiber.Cookie{Name: languageName, Value: lang, Path: "/", MaxAge: cookieAge, SameSite: fiber.CookieSameSiteLaxMode, HTTPOnly: true})
		return strings.Clone(lang)
	}
	if lang := c.Cookies(languageName); slices.Contains(languages, lang) {
		return strings.Clone(lang)
	}
	_, i := language.MatchStrings(matcher, c.Get(fiber.HeaderAcceptLanguage))
	return languages[i]
}

func send(c *fiber.Ctx, r resource, caching string) error {
	c.Set(fiber.HeaderCacheControl, caching)
	c.Set(fiber.HeaderETag, r.etag)
	c.Vary(fiber.HeaderAcceptEncoding)
	if strings.Contains(c.Get(fiber.HeaderIfNoneMatch), r.etag) {
		c.Status(http.StatusNotModified)
		return nil
	}
	c.Set(fiber.HeaderContentType, r.contentType)
	if c.Request().Header.HasAcceptEncoding("gzip") {
		c.Set(fiber.HeaderContentEncoding, "gzip")
		c.Response().SetBodyRaw(r.gzipped)
		return nil
	}
	c.Response().SetBodyRaw(r.body)
	return nil
}
