package service

import (
	"errors"
	"fmt"
	"net"
	"syscall"

	"github.com/rucflow/rucflow/shared/mend"
)

// ExplainNetwork adds to the error of a connection, if the way to the server is its cause,
// what is wrong and what mends it; setting names the variable that holds the address. An
// error that says so already stays as it is.
func ExplainNetwork(setting string, err error) error {
	var known *mend.Error
	var name *net.DNSError
	var late net.Error
	switch {
	case errors.As(err, &known):
	case errors.As(err, &name):
		return &mend.Error{
			Finding: fmt.Sprintf("the name %q cannot be resolved", name.Name),
			Mend:    fmt.Sprintf("correct %s, or the DNS of this machine", setting), Err: err,
		}
	case errors.Is(err, syscall.ECONNREFUSED):
		return &mend.Error{Finding: "nobody listens there", Mend: "start the server, or correct " + setting, Err: err}
	case errors.As(err, &late) && late.Timeout(), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return &mend.Error{
			Finding: "no answer comes from there",
			Mend:    "look whether the server is well and no firewall stands between, or correct " + setting, Err: err,
		}
	}
	return err
}
