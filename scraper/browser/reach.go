package browser

import (
	"net/url"
	"os"
	"strings"

	"github.com/rucflow/rucflow/shared/ruc"
)

// sunatHosts is SUNAT's own domain: its form loads a script from another host of it.
const sunatHosts = "*.sunat.gob.pe"

// resolverRules are the host-resolver-rules by which the browser finds the site and
// nothing else: neither a host that a page names (analytics, a redirect) nor an address
// inside the operator's network. Names that do not resolve cost no protocol events.
//
// A proxy, which resolves names itself, must be found too; what comes through it is
// checked by its address, see sunat.Foreign.
func resolverRules(c Config) string {
	site, err := url.Parse(c.URL)
	if err != nil {
		return "MAP * ~NOTFOUND" // New has refused it
	}
	hosts := []string{site.Hostname()}
	if ruc.SourceOf(site.Hostname()) == ruc.FuenteSunat {
		hosts = append(hosts, sunatHosts)
	}
	hosts = append(hosts, proxies(c.Flags)...)
	var rules strings.Builder
	rules.WriteString("MAP * ~NOTFOUND")
	for _, host := range hosts {
		rules.WriteString(", EXCLUDE " + host)
	}
	return rules.String()
}

// proxies returns the hosts of the proxies that the browser is told to use.
func proxies(flags []string) []string {
	var hosts []string
	add := func(list string) {
		for one := range strings.FieldsFuncSeq(list, func(r rune) bool { return r == ';' || r == ',' }) {
			if _, address, ok := strings.Cut(one, "="); ok { // of one scheme
				one = address
			}
			if !strings.Contains(one, "://") {
				one = "http://" + one
			}
			if u, err := url.Parse(one); err == nil && u.Hostname() != "" {
				hosts = append(hosts, u.Hostname())
			}
		}
	}
	for _, flag := range flags {
		if name, value := splitFlag(flag); name == "proxy-server" {
			if list, ok := value.(string); ok {
				add(list)
			}
		}
	}
	for _, name := range passedOn {
		if lower := strings.ToLower(name); strings.HasSuffix(lower, "_proxy") && lower != "no_proxy" {
			add(os.Getenv(name))
		}
	}
	return hosts
}
