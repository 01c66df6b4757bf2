package gateway

import (
	"regexp"
	"strings"
)

var routeParameter = regexp.MustCompile(`:(\w+)`)

// Routes returns every route as method and path, in the form of the OpenAPI document:
// GET /v1/ruc/{ruc}.
func Routes() (routes []string) {
	for _, route := range (&server{access: &access{}, admin: &admin{}}).app(0).GetRoutes(true) {
		path := routeParameter.ReplaceAllString(strings.ReplaceAll(route.Path, "*", ""), "{$1}")
		routes = append(routes, route.Method+" "+path)
	}
	return routes
}
