package replica

import (
	"encoding/json"
	"net"
	"net/http"
)

// The addresses of the controls.
const (
	FaultsPath = "/_control/faults" // GET lists, POST sets one, DELETE clears all
	StatsPath  = "/_control/stats"  // GET reads, DELETE resets
)

// routeControl adds the controls, for clients of this machine only: a fake site
// that others reach must not be switched by them.
func (s *Server) routeControl() {
	local := func(pattern string, handle http.HandlerFunc) {
		s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if ip := net.ParseIP(clientAddress(r)); ip == nil || !ip.IsLoopback() {
				http.Error(w, "the controls answer loopback clients only", http.StatusForbidden)
				return
			}
			handle(w, r)
		})
	}
	local("GET "+FaultsPath, func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, s.Faults()) })
	local("POST "+FaultsPath, s.serveSetFault)
	local("DELETE "+FaultsPath, func(w http.ResponseWriter, _ *http.Request) {
		s.ClearFaults()
		w.WriteHeader(http.StatusNoContent)
	})
	local("GET "+StatsPath, func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, s.Stats()) })
	local("DELETE "+StatsPath, func(w http.ResponseWriter, _ *http.Request) {
		s.ResetStats()
		w.WriteHeader(http.StatusNoContent)
	})
}

func (s *Server) serveSetFault(w http.ResponseWriter, r *http.Request) {
	var f Fault
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBodyBytes))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(&f)
	if err == nil {
		err = s.SetFault(f)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	writeJSON(w, s.Faults())
}

func writeJSON(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(value) // only the client's leaving can fail it
}
