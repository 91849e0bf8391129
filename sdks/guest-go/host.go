package guest

import (
	"encoding/json"
	"time"
)

// host is what a program reaches, by the words of proto/wit.
type host interface {
	models() []string
	open(name string) (uint32, error)
	info(model uint32) Info
	tokenize(model uint32, text string, special bool) ([]Token, error)
	detokenize(model uint32, tokens []Token) ([]byte, error)
	tokenizeChat(model uint32, messages []Message) ([]Token, error)
	generate(model uint32, prompt []Token, params GenerateParams) (uint32, error)
	abilities(model uint32) Abilities
	embed(model uint32, texts []Text, params EmbedParams) (Embedded, error)
	next(generation uint32) ([]Piece, error)
	summary(generation uint32) (Summary, bool)
	keep(model uint32, tokens []Token, sharedTokens uint32) (uint32, error)
	prefixLength(prefix uint32) uint32
	extend(prefix uint32, tail []Token) (uint32, error)
	generateBehind(prefix uint32, tail []Token, params GenerateParams) (uint32, error)
	closeModel(model uint32)
	closePrefix(prefix uint32)
	closeGeneration(generation uint32)
	writeText(text string)
	writeScored(text string, logprobs []Logprobs)
	writeJSON(text string)
	setting(key string) (string, bool)
	tenant() string
	log(level Level, message string)
	storeGet(key string) ([]byte, bool)
	storeSet(key string, value []byte) error
	storeDelete(key string) bool
	storeKeys(prefix, after string) []string
	now() uint64
	elapsed() uint64
	randomBytes(count uint32) []byte
}

// Token is a token's number in its model's vocabulary.
type Token = uint32

// Piece is a token of an answer.
type Piece struct {
	ID Token
	// Text has whole characters only: it is empty while one, or a possible stop string, is
	// incomplete.
	Text string
	// Logprobs is there where it was asked for, and not with the token that ends the answer.
	Logprobs *Logprobs
}

// Logprobs is how likely a token was, and which ones were likeliest in its place.
type Logprobs struct {
	Chosen ScoredToken
	// Top has the likeliest first.
	Top []ScoredToken
}

// ScoredToken is a token and how likely the model itself found it.
type ScoredToken struct {
	ID Token
	// Bytes need not be whole characters.
	Bytes   []byte
	Logprob float32
}

// Message is one of a conversation.
type Message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

// Info describes a model.
type Info struct {
	Name, Architecture  string
	Context, Vocabulary uint32
	HasChatTemplate     bool
}

// Abilities is what a model can be asked for.
type Abilities struct {
	Generates, Chats bool
	// Embeds is nil where it does not.
	Embeds *EmbedInfo
}

// EmbedInfo is what a model makes of texts.
type EmbedInfo struct {
	Dimensions, TokensMax uint32
	Shortens              bool
}

// Sampling is how the next token is chosen. [Greedy] takes the likeliest every time.
type Sampling struct {
	Temperature       float32
	TopK              uint32
	TopP              float32
	MinP              float32
	TypicalP          float32
	RepetitionPenalty float32
	FrequencyPenalty  float32
	PresencePenalty   float32
	// Seed makes an answer repeatable; nil draws one.
	Seed *uint64
}

// Greedy is the sampling that changes nothing and takes the likeliest token.
func Greedy() Sampling {
	return Sampling{TopP: 1, TypicalP: 1, RepetitionPenalty: 1}
}

// Bias is what is added to the logit of a token.
type Bias struct {
	ID Token
	By float32
}

// Constraint is what an answer keeps to; it ends as soon as it is whole.
type Constraint struct {
	Kind ConstraintKind
	// Text is the schema, the expression or the grammar; JSONObject has none.
	Text string
}

// ConstraintKind is what a [Constraint] is written in.
type ConstraintKind uint8

// In the order of proto/wit.
const (
	// JSONObject is one JSON object, whatever is in it.
	JSONObject ConstraintKind = iota
	// JSONSchema is one JSON value of a JSON schema, with keys in the schema's order.
	JSONSchema
	// Regex is a text that a regular expression matches as a whole.
	Regex
	// Grammar is a text of a grammar in Lark's notation, from its rule `start`.
	Grammar
)

// GenerateParams is how an answer is generated.
type GenerateParams struct {
	Sampling Sampling
	Bias     []Bias
	// Logprobs is how many of the likeliest tokens to tell with each; nil tells none.
	Logprobs *uint32
	// TokensMax is nil for as many as the context holds.
	TokensMax *uint32
	Stop      []string
	// Constraint is nil where anything may be said.
	Constraint *Constraint
	// SharedTokens is how many tokens of the prompt, from the first on, are public in the tenant's
	// share group.
	SharedTokens uint32
}

// Usage is what a generation cost, in tokens.
type Usage struct {
	PromptTokens, CachedTokens, CompletionTokens uint32
}

// Summary is how a generation ended.
type Summary struct {
	Finish Finish
	Usage  Usage
}

// Text is one to embed: words, or tokens as they are.
type Text struct {
	Words  string
	Tokens []Token
}

// EmbedParams is how vectors are made.
type EmbedParams struct {
	// Dimensions is nil for all there are.
	Dimensions *uint32
	Normalize  bool
}

// Embedded is what became of texts, in their order.
type Embedded struct {
	Vectors [][]float32
	Tokens  []uint32
}

// Level is how much a line of the log matters.
type Level uint8

// In the order of proto/wit.
const (
	Debugging Level = iota
	Information
	Warning
	Fault
)

// Models are the names of the tenant's models; the first is its default.
func Models() []string { return outside.models() }

// Model is one that is loaded. Opening one copies nothing.
type Model struct{ handle uint32 }

// Open opens the model of that name, or with an empty one the tenant's default.
func Open(name string) (*Model, error) {
	if name == "" {
		names := Models()
		if len(names) == 0 {
			return nil, &Error{Code: Invalid, Text: "no `model` is named, and the tenant has none"}
		}
		name = names[0]
	}
	handle, err := outside.open(name)
	if err != nil {
		return nil, err
	}
	return &Model{handle}, nil
}

// Close gives the handle back; the end of the call does so too.
func (m *Model) Close() { outside.closeModel(m.handle) }

// Info describes the model.
func (m *Model) Info() Info { return outside.info(m.handle) }

// Abilities says what the model can be asked for.
func (m *Model) Abilities() Abilities { return outside.abilities(m.handle) }

// Tokenize takes a text apart. With `special`, text that spells a control token becomes that token:
// never for text that came from a client.
func (m *Model) Tokenize(text string, special bool) ([]Token, error) {
	return outside.tokenize(m.handle, text, special)
}

// Detokenize gives the bytes of tokens, which need not be whole characters.
func (m *Model) Detokenize(tokens []Token) ([]byte, error) {
	return outside.detokenize(m.handle, tokens)
}

// TokenizeChat puts a conversation through the model's own chat template.
func (m *Model) TokenizeChat(messages []Message) ([]Token, error) {
	return outside.tokenizeChat(m.handle, messages)
}

// Embed makes vectors of texts.
func (m *Model) Embed(texts []Text, params EmbedParams) (Embedded, error) {
	return outside.embed(m.handle, texts, params)
}

// Generate begins a generation.
func (m *Model) Generate(prompt []Token, params GenerateParams) (*Generation, error) {
	handle, err := outside.generate(m.handle, prompt, params)
	if err != nil {
		return nil, err
	}
	return &Generation{handle}, nil
}

// Keep computes tokens that generations are to begin with, and keeps them: of what the cache holds for
// the tenant and nobody uses, they go last. `sharedTokens` is as in [GenerateParams].
func (m *Model) Keep(tokens []Token, sharedTokens uint32) (*Prefix, error) {
	return prefixOf(outside.keep(m.handle, tokens, sharedTokens))
}

// Prefix is what many generations begin with, computed once.
type Prefix struct{ handle uint32 }

func prefixOf(handle uint32, err error) (*Prefix, error) {
	if err != nil {
		return nil, err
	}
	return &Prefix{handle}, nil
}

// Close keeps it no longer; the end of the call does so too.
func (p *Prefix) Close() { outside.closePrefix(p.handle) }

// Length is how many tokens it has.
func (p *Prefix) Length() uint32 { return outside.prefixLength(p.handle) }

// Extend computes and keeps a longer one, which counts only what is behind this one. This one stays
// what it is.
func (p *Prefix) Extend(tail []Token) (*Prefix, error) {
	return prefixOf(outside.extend(p.handle, tail))
}

// Generate begins a generation of the prefix with `tail` behind it. What of it is shared is what was so
// when it was kept, whatever `params` say.
func (p *Prefix) Generate(tail []Token, params GenerateParams) (*Generation, error) {
	handle, err := outside.generateBehind(p.handle, tail, params)
	if err != nil {
		return nil, err
	}
	return &Generation{handle}, nil
}

// Generation is one that runs in the shared batch, at the tenant's share.
type Generation struct{ handle uint32 }

// Close cancels what is not at its end; the end of the call does so too.
func (g *Generation) Close() { outside.closeGeneration(g.handle) }

// Next waits for the next token and gives it with those that are there already; nil at the end.
func (g *Generation) Next() ([]Piece, error) { return outside.next(g.handle) }

// Summary is there once Next has given nil.
func (g *Generation) Summary() (Summary, bool) { return outside.summary(g.handle) }

// WriteText sends a piece of text to the client, and waits while that is slow to read.
func WriteText(text string) { outside.writeText(text) }

// WriteScored is the same, with how likely the tokens were since the piece before.
func WriteScored(text string, logprobs []Logprobs) { outside.writeScored(text, logprobs) }

// WriteJSON sends a value to the client.
func WriteJSON(value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return err
	}
	outside.writeJSON(string(text))
	return nil
}

// Setting is what the tenant's owner has set for the program under that name.
func Setting(key string) (string, bool) { return outside.setting(key) }

// Tenant is who is calling: `namespace/name`.
func Tenant() string { return outside.tenant() }

// Log leaves a line for whoever runs the host. Only so many are kept of one call.
func Log(level Level, message string) { outside.log(level, message) }

// StoreGet is what the tenant's programs keep on this node under that name. The store outlives a
// call and not a restart, and has 1024 entries and 256 KiB.
func StoreGet(key string) ([]byte, bool) { return outside.storeGet(key) }

// StoreSet keeps a value. Refused where there is no room.
func StoreSet(key string, value []byte) error { return outside.storeSet(key, value) }

// StoreDelete says whether there was one.
func StoreDelete(key string) bool { return outside.storeDelete(key) }

// StoreKeys are the first keys, at most 256, that begin with `prefix` and come after `after`, where
// that is not empty.
func StoreKeys(prefix, after string) []string { return outside.storeKeys(prefix, after) }

// Now is the machine's time in steps of a tenth of a second; that of package time is made up.
func Now() time.Time { return time.UnixMilli(int64(outside.now())).UTC() }

// Elapsed is how long ago the call began, in steps of a tenth of a second.
func Elapsed() time.Duration { return time.Duration(outside.elapsed()) * time.Millisecond }

// RandomBytes draws so many, at most 4096. Nobody can guess them.
func RandomBytes(count uint32) []byte { return outside.randomBytes(count) }
