package service

import (
	"fmt"
	"net/netip"
	"net/url"
	"strings"

	"github.com/rucflow/rucflow/shared/ruc"
)

// Site says whose data a process works with. Every process of a fleet has the same.
type Site struct {
	URL string `env:"SUNAT_URL" envDefault:"https://e-consultaruc.sunat.gob.pe/cl-ti-itmrconsruc/FrameCriterioBusquedaWeb.jsp" help:"address of SUNAT's search form; the same for every service"`
}

// Check validates the address. Over plain http anybody on the way could answer in
// SUNAT's place, so that is for a replica near by.
func (s Site) Check() error {
	u, err := url.Parse(s.URL)
	switch {
	case err != nil || u.Hostname() == "" || (u.Scheme != "http" && u.Scheme != "https"):
		return fmt.Errorf("SUNAT_URL: %q is not an http(s) address", s.URL)
	case u.User != nil:
		return fmt.Errorf("SUNAT_URL: the form asks for no user or password, leave them out of the address of %s", u.Host)
	case u.Scheme == "http" && !near(u.Hostname()):
		return fmt.Errorf("SUNAT_URL: %q goes over plain http, which is for loopback and private addresses only; write https", s.URL)
	}
	return nil
}

// near reports whether host is this machine or in a private network: by its address, or
// by a name that no public host can have. No name is looked up.
func near(host string) bool {
	if a, err := netip.ParseAddr(host); err == nil {
		return a.IsLoopback() || a.IsPrivate()
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	return !strings.Contains(host, ".") || strings.HasSuffix(host, ".localhost") || strings.HasSuffix(host, ".internal")
}

// Source names whose data this is; see ruc.SourceOf. An address that does not pass
// Check is nobody's.
func (s Site) Source() string {
	u, err := url.Parse(s.URL)
	if err != nil {
		return ruc.FuenteReplica
	}
	return ruc.SourceOf(u.Hostname())
}
