package sunat

import (
	"unicode/utf8"

	"golang.org/x/text/encoding/charmap"
)

// Decode turns the bytes of a response into the text that Parse takes. SUNAT
// declares one charset in the header and another in the page, and neither is always
// true; the bytes decide: valid UTF-8 with a multi-byte sequence is UTF-8, anything
// else windows-1252.
func Decode(b []byte) string {
	if utf8.Valid(b) {
		return string(b) // plain ASCII is the same in both
	}
	s, err := charmap.Windows1252.NewDecoder().Bytes(b)
	if err != nil {
		return string(b) // the decoder maps every byte; it has no error to give
	}
	return string(s)
}
