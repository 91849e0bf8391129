// Package guest is for programs that run a tenant's calls in Realm: what one serves, and what it
// reaches, which is its own tenant's models, settings and client, and nothing else of the machine.
//
// A program calls [Serve] once, while it starts, and has an empty main:
//
//	func init() {
//		guest.Serve(guest.Function{Name: "greet", Handle: greet})
//	}
//
//	func main() {}
//
// Command build makes a component of it; [Rehearsal] runs its functions without an agent.
package guest

import "fmt"

// Function is one that clients may call.
type Function struct {
	// Name has 1 to 64 of a-z, 0-9, `_`, `.` and `-`, and begins with a letter.
	Name        string
	Description string
	// Params is the JSON Schema of the parameters; empty stands for `{}`.
	Params string
	// Streams is whether it writes its reply in pieces.
	Streams bool
	// Handle serves one call. An error that is none of this package fails the program.
	Handle func(params *Params) (Outcome, error)
}

// Outcome is how a call ends.
type Outcome struct {
	Finish Finish
	// Data is the function's result besides what it has written, made JSON of; nil where that is
	// all.
	Data any
}

// Finish is why an answer ended.
type Finish uint8

const (
	// Stop is where the model ended its answer, or a stop string was met.
	Stop Finish = iota
	// Length is where the asked-for number of tokens, or the context, was reached.
	Length
)

var served []Function

// Serve says what the program serves. It is asked for before any tenant is known, so it may not
// reach the host.
func Serve(functions ...Function) {
	served = functions
}

// handle finds the function and keeps a panic of it from ending the call without a word.
func handle(name, params string) (outcome Outcome, err error) {
	defer func() {
		if broken := recover(); broken != nil {
			err = &Error{Code: Failed, Text: fmt.Sprint(broken)}
		}
	}()
	for _, function := range served {
		if function.Name == name {
			parsed, err := parseParams(params)
			if err != nil {
				return Outcome{}, err
			}
			return function.Handle(parsed)
		}
	}
	return Outcome{}, &Error{Code: UnknownFunction, Text: name}
}
