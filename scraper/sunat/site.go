package sunat

import (
	"net/url"
	"strings"

	"github.com/rucflow/rucflow/shared/ruc"
)

// Foreign reports whether a document at address comes from another host than the site's
// own; SUNAT's hosts are one.
func Foreign(site, address string) bool {
	own, err := url.Parse(site)
	if err != nil {
		return true
	}
	u, err := url.Parse(address)
	if err != nil {
		return true
	}
	if u.Scheme != "http" && u.Scheme != "https" {
		return false // about:blank and the like, which came from nowhere
	}
	switch {
	case strings.EqualFold(u.Host, own.Host):
		return false
	case ruc.SourceOf(own.Hostname()) != ruc.FuenteSunat:
		return true
	default:
		return u.Scheme != "https" || ruc.SourceOf(u.Hostname()) != ruc.FuenteSunat
	}
}
