package scraper

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"syscall"

	"github.com/rs/zerolog"

	"github.com/rucflow/rucflow/scraper/browser"
	"github.com/rucflow/rucflow/scraper/sunat"
	"github.com/rucflow/rucflow/shared/mend"
	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/service"
)

// ExamineChromium starts Chromium as a scraper with these settings does, and ends it.
func ExamineChromium(ctx context.Context, cfg Config, log zerolog.Logger) (browser.Examination, error) {
	return browser.Examine(ctx, cfg.browser(), log)
}

// ExamineSite gets SUNAT's search form once, without a browser, and asks nothing of it. The
// error says what came instead, and what mends it. A proxy is taken from the environment,
// not from CHROME_FLAGS.
func ExamineSite(ctx context.Context, cfg Config) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, cfg.URL, nil)
	if err != nil {
		return fmt.Errorf("scraper.ExamineSite: SUNAT_URL: %w", err)
	}
	req.Header.Set("User-Agent", cfg.ownAgent())
	client := http.Client{
		Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true},
		// Where the form has moved to is for a person to see.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	if err != nil {
		return explainSite(err)
	}
	defer func() { _ = resp.Body.Close() }() // read to its end, or not worth it
	body, err := io.ReadAll(io.LimitReader(resp.Body, sunat.MaxPageBytes+1))
	if err != nil {
		return explainSite(err)
	}
	err = sunat.CheckForm(sunat.Page{URL: cfg.URL, Status: resp.StatusCode, HTML: sunat.Decode(body)})
	var known *ruc.Error
	switch {
	case errors.As(err, &known) && known.Code == ruc.Blocked:
		return &mend.Error{
			Finding: "SUNAT refuses this machine",
			Mend:    "rest for some minutes; if it lasts, its firewall does not take this address", Err: err,
		}
	case errors.As(err, &known) && known.Code == ruc.Unavailable:
		return &mend.Error{
			Finding: fmt.Sprintf("SUNAT answers with an error (status %d)", resp.StatusCode),
			Mend:    "wait until its page works in a browser, or correct SUNAT_URL", Err: err,
		}
	case err != nil:
		return &mend.Error{
			Finding: fmt.Sprintf("what answers is not SUNAT's search form (status %d)", resp.StatusCode),
			Mend:    "correct SUNAT_URL, or look for a newer rucflow if SUNAT has changed its form", Err: err,
		}
	}
	return nil
}

func explainSite(err error) error {
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.As(err, &certificate):
		err = &mend.Error{
			Finding: fmt.Sprintf("the site's certificate is not taken here: %v", certificate.Err),
			Mend:    "look at this machine's clock, its authorities (ca-certificates), and at proxies that open TLS", Err: err,
		}
	case errors.Is(err, http.ErrSchemeMismatch):
		err = &mend.Error{Finding: "the site does not speak TLS", Mend: "correct SUNAT_URL", Err: err}
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, io.EOF):
		err = &mend.Error{
			Finding: "the connection is broken off",
			Mend:    "rest for some minutes; if it lasts, a firewall does not take this address", Err: err,
		}
	default:
		err = service.ExplainNetwork("SUNAT_URL", err)
	}
	return fmt.Errorf("scraper.ExamineSite: %w", err)
}
