package guest

import (
	"errors"
	"fmt"
)

// Code is what kind of refusal an [Error] is.
type Code uint8

// In the order of proto/wit.
const (
	// UnknownFunction is told with the name of a function that the program does not have.
	UnknownFunction Code = iota
	// UnknownModel is told with a name of a model that the tenant does not have.
	UnknownModel
	// Invalid is a parameter that is missing, unknown or out of range; the sentence names it.
	Invalid
	// TooLong is a prompt that leaves no room for an answer in the context.
	TooLong
	// ModelNotReady is a model that is not loaded yet, or failed to load.
	ModelNotReady
	// Busy is told where every place is taken.
	Busy
	// Refused is any other refusal of the host.
	Refused
	// Failed is where the program itself failed.
	Failed
)

// Error is why something was refused. A program may react to one of the host's, or return it as it
// is: the client then gets the host's own reason.
type Error struct {
	Code Code
	// Text is a name or a sentence, as the code says.
	Text string
	// Tokens and TokensMax are of TooLong.
	Tokens, TokensMax uint64
	// RetryMs is of Busy: after so many milliseconds trying again may help.
	RetryMs uint64
}

func (e *Error) Error() string {
	switch e.Code {
	case TooLong:
		return fmt.Sprintf("%d tokens are too long; %d are the most", e.Tokens, e.TokensMax)
	case Busy:
		return fmt.Sprintf("busy for %d ms", e.RetryMs)
	default:
		return e.Text
	}
}

// Invalidf refuses a parameter with a sentence that names it.
func Invalidf(format string, args ...any) error {
	return &Error{Code: Invalid, Text: fmt.Sprintf(format, args...)}
}

// toError makes of whatever a function returned what the host understands.
func toError(err error) *Error {
	if known := (*Error)(nil); errors.As(err, &known) {
		return known
	}
	return &Error{Code: Failed, Text: err.Error()}
}

// IsCode says whether an error is a refusal of that kind.
func IsCode(err error, code Code) bool {
	known := (*Error)(nil)
	return errors.As(err, &known) && known.Code == code
}
