package gateway

import (
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
)

// Every route is in the README's table of routes, and nothing else is.
func TestReadme_ListsEveryRoute(t *testing.T) {
	b, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for _, m := range regexp.MustCompile("`((?:GET|POST|PUT|PATCH|DELETE) /[^` ?]*)[^`]*`").FindAllStringSubmatch(string(b), -1) {
		listed[m[1]] = true
	}
	parameter := regexp.MustCompile(`:(\w+)`)
	for _, route := range (&server{access: &access{}, admin: &admin{}}).app(0).GetRoutes(true) {
		if route.Method == http.MethodHead {
			continue // comes with GET
		}
		name := route.Method + " " + parameter.ReplaceAllString(route.Path, "{$1}")
		if !listed[name] {
			t.Errorf("README.md does not list `%s`", name)
		}
		delete(listed, name)
	}
	delete(listed, "GET /metrics") // of the ops listener
	for name := range listed {
		if !strings.HasPrefix(name, "GET /_control") {
			t.Errorf("README.md lists `%s`, which is no route", name)
		}
	}
}
