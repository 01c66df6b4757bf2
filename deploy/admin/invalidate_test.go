package admin_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rucflow/rucflow/deploy/admin"
	"github.com/rucflow/rucflow/shared/service"
)

// gateway notes what it is asked; the real one is driven by the end-to-end tests.
func gateway(t *testing.T, status int, reply string) (url string, asked *[]string) {
	t.Helper()
	asked = &[]string{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		*asked = append(*asked, strings.Join([]string{r.Method, r.URL.Path, r.Header.Get("Authorization"), r.Header.Get("Content-Type"), string(b)}, " "))
		w.Header().Set("Location", "http://127.0.0.1:1/")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, reply) // a 204 has no body, and says so
	}))
	t.Cleanup(s.Close)
	return s.URL, asked
}

func TestInvalidate_Asks(t *testing.T) {
	for name, tc := range map[string]struct {
		in     admin.Invalidation
		status int
		reply  string
		asked  []string
		out    string
	}{
		"numbers": {
			admin.Invalidation{Numbers: []string{"20131312955", "20100055237"}}, 204, "",
			[]string{"DELETE /v1/ruc/20131312955 Bearer t  ", "DELETE /v1/ruc/20100055237 Bearer t  "},
			"20131312955 invalidated\n20100055237 invalidated\n",
		},
		"pattern": {
			admin.Invalidation{Pattern: "2010*"}, 200, `{"claves":12}`,
			[]string{`POST /v1/cache/invalidar Bearer t application/json {"patron":"2010*","simular":false,"todo":false}`}, "12 answers invalidated\n",
		},
		"dry run of everything": {
			admin.Invalidation{Pattern: "*", DryRun: true, All: true}, 200, `{"claves":3}`,
			[]string{`POST /v1/cache/invalidar Bearer t application/json {"patron":"*","simular":true,"todo":true}`}, "3 answers would be invalidated\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			url, asked := gateway(t, tc.status, tc.reply)
			var out strings.Builder
			tc.in.Gateway, tc.in.Token = url+"/", "t"
			if err := admin.Invalidate(t.Context(), tc.in, &out); err != nil || out.String() != tc.out {
				t.Errorf("%v, %q", err, out.String())
			}
			if diff := cmp.Diff(tc.asked, *asked); diff != "" {
				t.Errorf("asked (-want +got):\n%s", diff)
			}
		})
	}
}

func TestInvalidate_SaysWhatIsWrong(t *testing.T) {
	const problem = `{"code":"unauthorized","detail":"Falta el token."}`
	numbers := []string{"20131312955"}
	for name, tc := range map[string]struct {
		in     admin.Invalidation
		status int
		reply  string
		want   string
		usage  bool
	}{
		"no token":           {admin.Invalidation{Gateway: "http://x", Numbers: numbers}, 0, "", "ADMIN_TOKEN", true},
		"no address":         {admin.Invalidation{Gateway: "localhost:8000", Token: "t", Numbers: numbers}, 0, "", "-gateway", true},
		"nothing":            {admin.Invalidation{Token: "t"}, 0, "", "numbers or a -pattern", true},
		"both":               {admin.Invalidation{Token: "t", Numbers: numbers, Pattern: "2*"}, 0, "", "numbers or a -pattern", true},
		"dry run of numbers": {admin.Invalidation{Token: "t", Numbers: numbers, DryRun: true}, 0, "", "-pattern", true},
		"one wrong number":   {admin.Invalidation{Token: "t", Numbers: append(numbers, "20123456789")}, 0, "", "debería ser 6", false},
		"refused":            {admin.Invalidation{Token: "t", Numbers: numbers}, 401, problem, "20131312955: Falta el token.", false},
		"pattern refused":    {admin.Invalidation{Token: "t", Pattern: "x"}, 400, problem, "Falta el token.", false},
		"redirected":         {admin.Invalidation{Token: "t", Numbers: numbers}, 307, "", "status 307", false},
		"some other server":  {admin.Invalidation{Token: "t", Numbers: numbers}, 404, "<html>", "does not answer as a gateway", false},
	} {
		t.Run(name, func(t *testing.T) {
			url, asked := gateway(t, max(tc.status, 200), tc.reply)
			if tc.in.Gateway == "" {
				tc.in.Gateway = url
			}
			err := admin.Invalidate(t.Context(), tc.in, io.Discard)
			if err == nil || !strings.Contains(err.Error(), tc.want) || errors.Is(err, service.ErrUsage) != tc.usage {
				t.Errorf("%v", err)
			}
			if (len(*asked) > 0) != (tc.status > 0) {
				t.Errorf("asked %q", *asked)
			}
		})
	}
}

// The token is for the gateway, not for a proxy on the way.
func TestInvalidate_UsesNoProxy(t *testing.T) {
	proxy, asked := gateway(t, 204, "")
	t.Setenv("HTTP_PROXY", proxy)
	in := admin.Invalidation{Gateway: "http://gateway.invalid", Token: "t", Numbers: []string{"20131312955"}}
	if err := admin.Invalidate(t.Context(), in, io.Discard); err == nil || len(*asked) > 0 {
		t.Errorf("%v, the proxy was asked %q", err, *asked)
	}
}

func TestProvision_SaysWhenNobodyAnswers(t *testing.T) {
	cfg := admin.ProvisionConfig{NATS: service.NATSConfig{URL: "nats://127.0.0.1:1"}}
	if err := admin.Provision(context.Background(), cfg, io.Discard); err == nil {
		t.Error("nobody answers, and nothing was said")
	}
}
