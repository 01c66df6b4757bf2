package service

import (
	"fmt"
	"net/url"

	"github.com/rucflow/rucflow/shared/ruc"
)

// Site says whose data a process works with. Every process of a fleet has the same.
type Site struct {
	URL string `env:"SUNAT_URL" envDefault:"https://e-consultaruc.sunat.gob.pe/cl-ti-itmrconsruc/FrameCriterioBusquedaWeb.jsp" help:"address of SUNAT's search form; the same for every service"`
}

// Check validates the address.
func (s Site) Check() error {
	u, err := url.Parse(s.URL)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return fmt.Errorf("SUNAT_URL: %q is not an http(s) address", s.URL)
	}
	return nil
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
