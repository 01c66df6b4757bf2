package service

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/rucflow/rucflow/shared/mend"
)

// ClientTLS is TLS to a server, by the settings PREFIX_CA, PREFIX_CERT and PREFIX_KEY, all
// of them paths and all optional: without an authority those of the system count. The
// certificate is read anew for each connection, so that one that was renewed counts from
// then on. Errors name the setting.
func ClientTLS(prefix, ca, cert, key string) (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, fmt.Errorf("%s_CA: %w", prefix, err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s_CA: %s holds no certificate", prefix, ca)
		}
	}
	if (cert == "") != (key == "") {
		return nil, fmt.Errorf("%[1]s_CERT and %[1]s_KEY go together", prefix)
	}
	if cert == "" {
		return cfg, nil
	}
	load := func() (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("%[1]s_CERT, %[1]s_KEY: %[2]w", prefix, err)
		}
		return &pair, nil
	}
	if _, err := load(); err != nil {
		return nil, err
	}
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	return cfg, nil
}

// ExplainTLS adds to the error of a connection, if TLS is its cause, what is wrong and
// which of the settings with that prefix mends it.
func ExplainTLS(prefix string, err error) error {
	var authority x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	var garbled tls.RecordHeaderError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &authority) && authority.Cert != nil:
		return &mend.Error{
			Finding: fmt.Sprintf("the server's certificate was issued by %q, which is not trusted here", authority.Cert.Issuer),
			Mend:    fmt.Sprintf("set %s_CA to the certificate of that authority", prefix), Err: err,
		}
	case errors.As(err, &host):
		return &mend.Error{
			Finding: fmt.Sprintf("the server's certificate is not for the name that it is called by here, %q", host.Host),
			Mend:    "call it by a name of its certificate, or have one issued for this name", Err: err,
		}
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return &mend.Error{
			Finding: "the server's certificate has expired, or is not valid yet",
			Mend:    "renew it, or correct this machine's clock", Err: err,
		}
	case errors.As(err, &garbled):
		return NoTLS(prefix, err)
	case wantsCertificate(err):
		return &mend.Error{
			Finding: "the server takes no client without a certificate of its authority",
			Mend:    fmt.Sprintf("set %[1]s_CERT and %[1]s_KEY", prefix), Err: err,
		}
	}
	return err
}

// NoTLS is the error of a server that was asked for TLS and has none.
func NoTLS(prefix string, err error) error {
	return &mend.Error{
		Finding: "the server does not speak TLS, which the settings demand",
		Mend:    fmt.Sprintf("give it TLS, or take TLS out of %[1]s_URL and the other %[1]s_ settings", prefix), Err: err,
	}
}

// wantsCertificate reads a server's alert, which crypto/tls tells by its text alone. The
// first is TLS 1.3's, the second older ones'; the next two are about a certificate that
// was sent. The last is what nats.go says when the alert was lost on the way: the server
// hung up between the handshake and the first word.
func wantsCertificate(err error) bool {
	return slices.ContainsFunc([]string{
		"tls: certificate required", "tls: bad certificate", "tls: unknown certificate authority", "tls: unknown certificate",
		"closed by remote after TLS handshake",
	}, func(alert string) bool { return strings.Contains(err.Error(), alert) })
}
