//go:build !wasip1

package guest

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"
)

// Rehearsal calls what is served without an agent, for tests: its models say what Answer says, a
// word at a time. Who has called [Hook] stands beside what they say; how that steers them is only
// told.
type Rehearsal struct {
	// Answer is given the prompt, of a conversation with a line `role: content` for each message.
	Answer   func(prompt string) string
	Settings map[string]string
	Tenant   string
	// Models are the tenant's; one named `model` where there are none.
	Models []string
	// Context is how many tokens a model takes, which are words here; 2048 where it is 0.
	Context uint32
	// Store is what the program's store holds; what it puts there is put here.
	Store map[string][]byte
	// Now is what time it is.
	Now time.Time
}

// Rehearsed is what became of a call.
type Rehearsed struct {
	Outcome Outcome
	// Text is all the text that was written, Pieces each piece of it, Values the JSON ones.
	Text   string
	Pieces []string
	Values []json.RawMessage
	Log    []string
	// Steers is what hooks have said of each next token.
	Steers []Steer
}

const rehearsedContext = 2048

// Call serves one call of a function.
func (r Rehearsal) Call(function string, params any) (Rehearsed, error) {
	text, err := json.Marshal(params)
	if err != nil {
		return Rehearsed{}, err
	}
	if len(r.Models) == 0 {
		r.Models = []string{"model"}
	}
	if r.Context == 0 {
		r.Context = rehearsedContext
	}
	if r.Store == nil {
		r.Store = map[string][]byte{}
	}
	stage := &stage{Rehearsal: r}
	outside = stage
	defer func() { outside = nobody{} }()
	outcome, err := handle(function, string(text))
	stage.told.Outcome = outcome
	stage.told.Text = strings.Join(stage.told.Pieces, "")
	if err != nil {
		return stage.told, toError(err)
	}
	return stage.told, nil
}

// nobody is the host while no call is served: whatever is asked of it is a fault of the program, as
// it is with an agent.
type nobody struct{ host }

var outside host = nobody{}

type stage struct {
	Rehearsal
	words       []string
	generations []*generated
	prefixes    []kept
	told        Rehearsed
}

type kept struct {
	model  uint32
	tokens []Token
}

type generated struct {
	beside  Beside
	left    []string
	usage   Usage
	finish  Finish
	isEnded bool
}

func (s *stage) models() []string { return s.Models }

func (s *stage) open(name string) (uint32, error) {
	for at, known := range s.Models {
		if known == name {
			return uint32(at), nil
		}
	}
	return 0, &Error{Code: UnknownModel, Text: name}
}

func (s *stage) info(model uint32) Info {
	return Info{s.Models[model], "rehearsal", s.Context, uint32(len(s.words)), true}
}

func (s *stage) abilities(uint32) Abilities { return Abilities{Generates: true, Chats: true} }

// tokenize makes a token of each word, with the space behind it.
func (s *stage) tokenize(_ uint32, text string, _ bool) ([]Token, error) {
	var tokens []Token
	for _, word := range words(text) {
		tokens = append(tokens, Token(len(s.words)))
		s.words = append(s.words, word)
	}
	return tokens, nil
}

func words(text string) []string {
	if text == "" {
		return nil
	}
	return strings.SplitAfter(strings.TrimSuffix(text, " "), " ")
}

func (s *stage) detokenize(_ uint32, tokens []Token) ([]byte, error) {
	var text bytes.Buffer
	for _, token := range tokens {
		if int(token) >= len(s.words) {
			return nil, Invalidf("there is no token %d", token)
		}
		text.WriteString(s.words[token])
	}
	return text.Bytes(), nil
}

func (s *stage) tokenizeChat(model uint32, messages []Message) ([]Token, error) {
	var prompt strings.Builder
	for _, message := range messages {
		prompt.WriteString(message.Role + ": " + message.Content + "\n")
	}
	return s.tokenize(model, prompt.String(), false)
}

func (s *stage) generate(model uint32, prompt []Token, params GenerateParams) (uint32, error) {
	if uint32(len(prompt)) >= s.Context {
		tokens, most := uint64(len(prompt)), uint64(s.Context-1)
		return 0, &Error{Code: TooLong, Tokens: tokens, TokensMax: most}
	}
	beside, err := s.ask(model, prompt, &params)
	if err != nil {
		return 0, err
	}
	if s.Answer == nil {
		return 0, &Error{Code: Refused, Text: "the rehearsal has no answers"}
	}
	text, err := s.detokenize(model, prompt)
	if err != nil {
		return 0, err
	}
	answer := s.Answer(string(text))
	for _, stop := range params.Stop {
		answer, _, _ = strings.Cut(answer, stop)
	}
	begun := &generated{beside: beside, left: words(answer), usage: Usage{PromptTokens: uint32(len(prompt))}}
	most := s.Context - uint32(len(prompt))
	if params.TokensMax != nil {
		most = min(most, *params.TokensMax)
	}
	if uint32(len(begun.left)) > most {
		begun.left, begun.finish = begun.left[:most], Length
	}
	s.steer(begun, nil)
	s.generations = append(s.generations, begun)
	return uint32(len(s.generations) - 1), nil
}

// ask lets hooks say what a generation is begun with.
func (s *stage) ask(model uint32, prompt []Token, params *GenerateParams) (Beside, error) {
	if hook == nil {
		return Beside{}, nil
	}
	beside, err := askHook(HookRequest{s.Models[model], prompt, *params})
	if beside.Params != nil {
		*params = *beside.Params
	}
	return beside, err
}

func (s *stage) steer(running *generated, last *Token) {
	if running.beside.Bias != nil {
		s.told.Steers = append(s.told.Steers, running.beside.Bias(last))
	}
}

func (s *stage) next(generation uint32) ([]Piece, error) {
	running := s.generations[generation]
	if len(running.left) == 0 {
		running.isEnded = true
		return nil, nil
	}
	piece := Piece{Text: running.left[0]}
	running.left = running.left[1:]
	running.usage.CompletionTokens++
	var verdict Verdict
	if running.beside.OnToken != nil {
		verdict = running.beside.OnToken(piece.ID, piece.Text)
	}
	if verdict.kind != verdictPass {
		piece.Text = verdict.text
	}
	switch {
	case verdict.kind == verdictStop:
		running.left, running.finish = nil, Stop
	case len(running.left) > 0:
		s.steer(running, &piece.ID)
	case running.beside.OnFinish != nil:
		piece.Text += running.beside.OnFinish(running.finish)
	}
	return []Piece{piece}, nil
}

func (s *stage) summary(generation uint32) (Summary, bool) {
	ended := s.generations[generation]
	return Summary{ended.finish, ended.usage}, ended.isEnded
}

func (s *stage) embed(uint32, []Text, EmbedParams) (Embedded, error) {
	return Embedded{}, &Error{Code: Refused, Text: "the rehearsal has no vectors"}
}

func (s *stage) keep(model uint32, tokens []Token, _ uint32) (uint32, error) {
	s.prefixes = append(s.prefixes, kept{model, tokens})
	return uint32(len(s.prefixes) - 1), nil
}

func (s *stage) prefixLength(prefix uint32) uint32 {
	return uint32(len(s.prefixes[prefix].tokens))
}

func (s *stage) extend(prefix uint32, tail []Token) (uint32, error) {
	shorter := s.prefixes[prefix]
	return s.keep(shorter.model, slices.Concat(shorter.tokens, tail), 0)
}

func (s *stage) generateBehind(prefix uint32, tail []Token, params GenerateParams) (uint32, error) {
	shorter := s.prefixes[prefix]
	return s.generate(shorter.model, slices.Concat(shorter.tokens, tail), params)
}

func (s *stage) closePrefix(uint32)     {}
func (s *stage) closeModel(uint32)      {}
func (s *stage) closeGeneration(uint32) {}

func (s *stage) writeText(text string) { s.told.Pieces = append(s.told.Pieces, text) }

func (s *stage) writeScored(text string, _ []Logprobs) { s.writeText(text) }

func (s *stage) writeJSON(text string) {
	s.told.Values = append(s.told.Values, json.RawMessage(text))
}

func (s *stage) setting(key string) (string, bool) {
	value, is := s.Settings[key]
	return value, is
}

func (s *stage) tenant() string { return s.Tenant }

func (s *stage) log(_ Level, message string) { s.told.Log = append(s.told.Log, message) }

func (s *stage) storeGet(key string) ([]byte, bool) {
	value, is := s.Store[key]
	return value, is
}

func (s *stage) storeSet(key string, value []byte) error {
	s.Store[key] = value
	return nil
}

func (s *stage) storeDelete(key string) bool {
	_, is := s.Store[key]
	delete(s.Store, key)
	return is
}

func (s *stage) storeKeys(prefix, after string) []string {
	keys := slices.Sorted(maps.Keys(s.Store))
	return slices.DeleteFunc(keys, func(key string) bool {
		return !strings.HasPrefix(key, prefix) || key <= after
	})
}

func (s *stage) now() uint64     { return uint64(s.Now.UnixMilli()) }
func (s *stage) elapsed() uint64 { return 0 }

func (s *stage) randomBytes(count uint32) []byte {
	bytes := make([]byte, count)
	for at := range bytes {
		bytes[at] = byte(at)
	}
	return bytes
}
