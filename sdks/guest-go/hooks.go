//go:build hooks || !wasip1

package guest

import "fmt"

// HookRequest is a generation that the program is about to begin.
type HookRequest struct {
	// Model is the name that the model was opened by.
	Model  string
	Prompt []Token
	Params GenerateParams
}

// Beside is one generation's hooks. It is asked what it has, and costs nothing of what is nil.
type Beside struct {
	// Params is what the generation is begun with in place of the request's.
	Params *GenerateParams
	// Bias says what decides about the next token: asked with the one before it, and first with nil.
	Bias func(last *Token) Steer
	// OnToken says what becomes of a token's text: whole characters, so that it may be empty.
	OnToken func(id Token, text string) Verdict
	// OnFinish gives text for the end of an answer that has ended by itself.
	OnFinish func(finish Finish) string
}

// Steer is what decides about the next token, besides the generation's own params. The zero value
// leaves what was said last.
type Steer struct {
	kind   uint8
	biases []Bias
	tokens []Token
}

// In the order of proto/wit.
const (
	steerSame uint8 = iota
	steerAdd
	steerOnly
)

// Add puts biases, at most 1024, in place of what was said last. None frees all tokens.
func Add(biases ...Bias) Steer { return Steer{kind: steerAdd, biases: biases} }

// Only lets one of these tokens come next, 1 to 1024.
func Only(tokens ...Token) Steer { return Steer{kind: steerOnly, tokens: tokens} }

// Verdict is what becomes of a token's text. The zero value leaves it as it is.
type Verdict struct {
	kind uint8
	text string
}

// In the order of proto/wit.
const (
	verdictPass uint8 = iota
	verdictRewrite
	verdictStop
)

// Rewrite puts a text, at most 16 KiB, in the token's place.
func Rewrite(text string) Verdict { return Verdict{verdictRewrite, text} }

// StopWith puts a text in the token's place and ends the answer.
func StopWith(text string) Verdict { return Verdict{verdictStop, text} }

var hook func(request HookRequest) (Beside, error)

// Hook says who is asked before each generation of the program's own, in an instance of its own that
// knows nothing of the one which serves the call, and may neither generate nor write a reply. An
// error refuses the generation. Call it beside [Serve], and build with -hooks.
func Hook(ask func(request HookRequest) (Beside, error)) { hook = ask }

// askHook keeps a panic from ending the call without a word.
func askHook(request HookRequest) (beside Beside, err error) {
	defer func() {
		if broken := recover(); broken != nil {
			err = &Error{Code: Failed, Text: fmt.Sprint(broken)}
		}
	}()
	if hook == nil {
		return Beside{}, &Error{Code: Failed, Text: "the program was built with hooks and has none"}
	}
	return hook(request)
}
