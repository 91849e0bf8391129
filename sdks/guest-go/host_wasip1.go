package guest

// The host's functions as the canonical ABI of the component model has them: what fits no number
// lies in memory, at the offsets that each function says.

//go:wasmimport realm:tenant/model@0.1.0 list-models
func importListModels(result uint32)

//go:wasmimport realm:tenant/model@0.1.0 [static]model.open
func importOpen(name, nameLen, result uint32)

//go:wasmimport realm:tenant/model@0.1.0 [method]model.info
func importInfo(model, result uint32)

//go:wasmimport realm:tenant/model@0.1.0 [method]model.tokenize
func importTokenize(model, text, textLen, special, result uint32)

//go:wasmimport realm:tenant/model@0.1.0 [method]model.detokenize
func importDetokenize(model, ids, idsLen, result uint32)

//go:wasmimport realm:tenant/model@0.1.0 [method]model.tokenize-chat
func importTokenizeChat(model, messages, messagesLen, result uint32)

//go:wasmimport realm:tenant/model@0.1.0 [method]model.generate
func importGenerate(arguments, result uint32)

//go:wasmimport realm:tenant/model@0.1.0 [method]model.abilities
func importAbilities(model, result uint32)

//go:wasmimport realm:tenant/model@0.1.0 [method]model.embed
func importEmbed(model, texts, textsLen, hasDimensions, dimensions, normalize, result uint32)

//go:wasmimport realm:tenant/model@0.1.0 [method]model.keep
func importKeep(model, ids, idsLen, sharedTokens, result uint32)

//go:wasmimport realm:tenant/model@0.1.0 [method]prefix.length
func importPrefixLength(prefix uint32) uint32

//go:wasmimport realm:tenant/model@0.1.0 [method]prefix.extend
func importExtend(prefix, ids, idsLen, result uint32)

//go:wasmimport realm:tenant/model@0.1.0 [method]prefix.generate
func importGenerateBehind(arguments, result uint32)

//go:wasmimport realm:tenant/model@0.1.0 [resource-drop]prefix
func importDropPrefix(prefix uint32)

//go:wasmimport realm:tenant/model@0.1.0 [resource-drop]model
func importDropModel(model uint32)

//go:wasmimport realm:tenant/model@0.1.0 [method]generation.next
func importNext(generation, result uint32)

//go:wasmimport realm:tenant/model@0.1.0 [method]generation.summary
func importSummary(generation, result uint32)

//go:wasmimport realm:tenant/model@0.1.0 [resource-drop]generation
func importDropGeneration(generation uint32)

//go:wasmimport realm:tenant/reply@0.1.0 write-text
func importWriteText(text, textLen uint32)

//go:wasmimport realm:tenant/reply@0.1.0 write-scored
func importWriteScored(text, textLen, logprobs, logprobsLen uint32)

//go:wasmimport realm:tenant/reply@0.1.0 write-json
func importWriteJSON(text, textLen uint32)

//go:wasmimport realm:tenant/config@0.1.0 get
func importGet(key, keyLen, result uint32)

//go:wasmimport realm:tenant/config@0.1.0 tenant
func importTenant(result uint32)

//go:wasmimport realm:tenant/log@0.1.0 emit
func importEmit(level, message, messageLen uint32)

//go:wasmimport realm:tenant/store@0.1.0 get
func importStoreGet(key, keyLen, result uint32)

//go:wasmimport realm:tenant/store@0.1.0 set
func importStoreSet(key, keyLen, value, valueLen, result uint32)

//go:wasmimport realm:tenant/store@0.1.0 delete
func importStoreDelete(key, keyLen uint32) uint32

//go:wasmimport realm:tenant/store@0.1.0 keys
func importStoreKeys(prefix, prefixLen, hasAfter, after, afterLen, result uint32)

//go:wasmimport realm:tenant/clock@0.1.0 now
func importNow() uint64

//go:wasmimport realm:tenant/clock@0.1.0 elapsed
func importElapsed() uint64

//go:wasmimport realm:tenant/random@0.1.0 bytes
func importBytes(count, result uint32)

// wire is the host on the other side of the imports.
type wire struct{}

var outside host = wire{}

func (wire) models() []string {
	defer release()
	address, result := results(8)
	importListModels(address)
	return result.texts(0)
}

func (wire) open(name string) (uint32, error) {
	defer release()
	text, length := lendText(name)
	address, result := results(32)
	importOpen(text, length, address)
	return ok(result, area.u32)
}

func (wire) info(model uint32) Info {
	defer release()
	address, result := results(28)
	importInfo(model, address)
	return Info{result.text(0), result.text(8), result.u32(16), result.u32(20), result.flag(24)}
}

func (wire) tokenize(model uint32, text string, special bool) ([]Token, error) {
	defer release()
	start, length := lendText(text)
	address, result := results(32)
	importTokenize(model, start, length, uint32(bit(special)), address)
	return ok(result, area.u32s)
}

func (wire) detokenize(model uint32, tokens []Token) ([]byte, error) {
	defer release()
	ids, count := lendU32s(tokens)
	address, result := results(32)
	importDetokenize(model, ids, count, address)
	return ok(result, area.bytes)
}

func (wire) tokenizeChat(model uint32, messages []Message) ([]Token, error) {
	defer release()
	list, count := lendList(messages, 16, func(a area, message Message) {
		a.putText(0, message.Role)
		a.putText(8, message.Content)
	})
	address, result := results(32)
	importTokenizeChat(model, list, count, address)
	return ok(result, area.u32s)
}

func (wire) generate(model uint32, prompt []Token, params GenerateParams) (uint32, error) {
	return begin(importGenerate, model, prompt, params)
}

func (wire) generateBehind(prefix uint32, tail []Token, params GenerateParams) (uint32, error) {
	return begin(importGenerateBehind, prefix, tail, params)
}

// begin calls a method that has more arguments than fit: they lie in memory.
func begin(
	method func(arguments, result uint32), of uint32, tokens []Token, params GenerateParams,
) (uint32, error) {
	defer release()
	start, memory := lend(120)
	arguments := area(memory)
	arguments.putU32(0, of)
	ids, _ := lendU32s(tokens)
	arguments.putList(4, ids, len(tokens))
	putParams(arguments[16:], params)
	address, result := results(32)
	method(start, address)
	return ok(result, area.u32)
}

func (wire) keep(model uint32, tokens []Token, sharedTokens uint32) (uint32, error) {
	defer release()
	ids, count := lendU32s(tokens)
	address, result := results(32)
	importKeep(model, ids, count, sharedTokens, address)
	return ok(result, area.u32)
}

func (wire) prefixLength(prefix uint32) uint32 { return importPrefixLength(prefix) }

func (wire) extend(prefix uint32, tail []Token) (uint32, error) {
	defer release()
	ids, count := lendU32s(tail)
	address, result := results(32)
	importExtend(prefix, ids, count, address)
	return ok(result, area.u32)
}

func putParams(a area, params GenerateParams) {
	s := params.Sampling
	a.putF32(0, s.Temperature)
	a.putU32(4, s.TopK)
	for i, number := range []float32{
		s.TopP, s.MinP, s.TypicalP, s.RepetitionPenalty, s.FrequencyPenalty, s.PresencePenalty,
	} {
		a.putF32(8+uint32(i)*4, number)
	}
	a.putOption(32, s.Seed != nil, func() { a.putU64(40, *s.Seed) })
	biases, _ := lendBiases(params.Bias)
	a.putList(48, biases, len(params.Bias))
	a.putOption(56, params.Logprobs != nil, func() { a.putU32(60, *params.Logprobs) })
	a.putOption(64, params.TokensMax != nil, func() { a.putU32(68, *params.TokensMax) })
	stop, _ := lendList(params.Stop, 8, func(a area, text string) { a.putText(0, text) })
	a.putList(72, stop, len(params.Stop))
	a.putOption(80, params.Constraint != nil, func() {
		a.putU8(84, uint8(params.Constraint.Kind))
		a.putText(88, params.Constraint.Text)
	})
	a.putU32(96, params.SharedTokens)
}

func lendBiases(biases []Bias) (address, count uint32) {
	return lendList(biases, 8, func(a area, bias Bias) {
		a.putU32(0, bias.ID)
		a.putF32(4, bias.By)
	})
}

// takeParams reads what putParams writes.
func takeParams(a area) GenerateParams {
	params := GenerateParams{
		Sampling: Sampling{
			Temperature: a.f32(0), TopK: a.u32(4), TopP: a.f32(8), MinP: a.f32(12),
			TypicalP: a.f32(16), RepetitionPenalty: a.f32(20), FrequencyPenalty: a.f32(24),
			PresencePenalty: a.f32(28),
		},
		SharedTokens: a.u32(96),
	}
	if a.flag(32) {
		seed := a.u64(40)
		params.Sampling.Seed = &seed
	}
	biases, count := a.list(48, 8)
	for at := range count {
		bias := biases[at*8:]
		params.Bias = append(params.Bias, Bias{bias.u32(0), bias.f32(4)})
	}
	params.Logprobs, params.TokensMax = a.optionalU32(56), a.optionalU32(64)
	stop, count := a.list(72, 8)
	for at := range count {
		params.Stop = append(params.Stop, stop.text(at*8))
	}
	if a.flag(80) {
		params.Constraint = &Constraint{ConstraintKind(a.u8(84)), ""}
		if params.Constraint.Kind != JSONObject {
			params.Constraint.Text = a.text(88)
		}
	}
	return params
}

func (wire) abilities(model uint32) Abilities {
	defer release()
	address, result := results(20)
	importAbilities(model, address)
	abilities := Abilities{Generates: result.flag(0), Chats: result.flag(1)}
	if result.flag(4) {
		abilities.Embeds = &EmbedInfo{result.u32(8), result.u32(12), result.flag(16)}
	}
	return abilities
}

func (wire) embed(model uint32, texts []Text, params EmbedParams) (Embedded, error) {
	defer release()
	list, count := lendList(texts, 12, func(a area, text Text) {
		if text.Tokens == nil {
			a.putU8(0, 0)
			a.putText(4, text.Words)
			return
		}
		a.putU8(0, 1)
		ids, _ := lendU32s(text.Tokens)
		a.putList(4, ids, len(text.Tokens))
	})
	dimensions := uint32(0)
	if params.Dimensions != nil {
		dimensions = *params.Dimensions
	}
	has, normalize := uint32(bit(params.Dimensions != nil)), uint32(bit(params.Normalize))
	address, result := results(32)
	importEmbed(model, list, count, has, dimensions, normalize, address)
	return ok(result, func(a area, at uint32) Embedded {
		vectors, count := a.list(at, 8)
		embedded := Embedded{make([][]float32, count), a.u32s(at + 8)}
		for i := range embedded.Vectors {
			numbers, count := vectors.list(uint32(i)*8, 4)
			vector := make([]float32, count)
			for j := range vector {
				vector[j] = numbers.f32(uint32(j) * 4)
			}
			embedded.Vectors[i] = vector
		}
		return embedded
	})
}

func (wire) next(generation uint32) ([]Piece, error) {
	defer release()
	address, result := results(32)
	importNext(generation, address)
	return ok(result, func(a area, at uint32) []Piece {
		if !a.flag(at) {
			return nil
		}
		list, count := a.list(at+4, 40)
		pieces := make([]Piece, count)
		for i := range pieces {
			pieces[i] = piece(list[i*40:])
		}
		return pieces
	})
}

func piece(a area) Piece {
	piece := Piece{ID: a.u32(0), Text: a.text(4)}
	if a.flag(12) {
		top, count := a.list(32, 16)
		piece.Logprobs = &Logprobs{scored(a[16:]), make([]ScoredToken, count)}
		for i := range piece.Logprobs.Top {
			piece.Logprobs.Top[i] = scored(top[i*16:])
		}
	}
	return piece
}

func scored(a area) ScoredToken { return ScoredToken{a.u32(0), a.bytes(4), a.f32(12)} }

func (wire) summary(generation uint32) (Summary, bool) {
	defer release()
	address, result := results(20)
	importSummary(generation, address)
	if !result.flag(0) {
		return Summary{}, false
	}
	usage := Usage{result.u32(8), result.u32(12), result.u32(16)}
	return Summary{Finish(result.u8(4)), usage}, true
}

func (wire) closeModel(model uint32)           { importDropModel(model) }
func (wire) closePrefix(prefix uint32)         { importDropPrefix(prefix) }
func (wire) closeGeneration(generation uint32) { importDropGeneration(generation) }

func (wire) writeText(text string) {
	defer release()
	importWriteText(lendText(text))
}

func (wire) writeScored(text string, logprobs []Logprobs) {
	defer release()
	start, length := lendText(text)
	list, count := lendList(logprobs, 24, func(a area, logprobs Logprobs) {
		putScored(a, logprobs.Chosen)
		top, _ := lendList(logprobs.Top, 16, putScored)
		a.putList(16, top, len(logprobs.Top))
	})
	importWriteScored(start, length, list, count)
}

func putScored(a area, token ScoredToken) {
	a.putU32(0, token.ID)
	a.putText(4, string(token.Bytes))
	a.putF32(12, token.Logprob)
}

func (wire) writeJSON(text string) {
	defer release()
	importWriteJSON(lendText(text))
}

func (wire) setting(key string) (string, bool) {
	defer release()
	text, length := lendText(key)
	address, result := results(12)
	importGet(text, length, address)
	if !result.flag(0) {
		return "", false
	}
	return result.text(4), true
}

func (wire) tenant() string {
	defer release()
	address, result := results(8)
	importTenant(address)
	return result.text(0)
}

func (wire) log(level Level, message string) {
	defer release()
	text, length := lendText(message)
	importEmit(uint32(level), text, length)
}

func (wire) storeGet(key string) ([]byte, bool) {
	defer release()
	text, length := lendText(key)
	address, result := results(12)
	importStoreGet(text, length, address)
	if !result.flag(0) {
		return nil, false
	}
	return result.bytes(4), true
}

func (wire) storeSet(key string, value []byte) error {
	defer release()
	text, length := lendText(key)
	bytes, count := lendText(string(value))
	address, result := results(32)
	importStoreSet(text, length, bytes, count, address)
	_, err := ok(result, func(area, uint32) struct{} { return struct{}{} })
	return err
}

func (wire) storeDelete(key string) bool {
	defer release()
	return importStoreDelete(lendText(key)) != 0
}

func (wire) storeKeys(prefix, after string) []string {
	defer release()
	start, length := lendText(prefix)
	behind, behindLen := lendText(after)
	has := uint32(bit(after != ""))
	address, result := results(8)
	importStoreKeys(start, length, has, behind, behindLen, address)
	return result.texts(0)
}

func (wire) now() uint64     { return importNow() }
func (wire) elapsed() uint64 { return importElapsed() }

func (wire) randomBytes(count uint32) []byte {
	defer release()
	address, result := results(8)
	importBytes(count, address)
	return result.bytes(0)
}

// results lends what a function writes its result to.
func results(size uint32) (uint32, area) {
	address, bytes := lend(size)
	return address, bytes
}

// ok reads a `result` whose good case lies eight bytes in, as the error's does.
func ok[T any](result area, read func(a area, at uint32) T) (good T, err error) {
	if !result.flag(0) {
		return read(result, 8), nil
	}
	refusal := &Error{Code: Code(result.u8(8))}
	switch refusal.Code {
	case TooLong:
		refusal.Tokens, refusal.TokensMax = result.u64(16), result.u64(24)
	case Busy:
		refusal.RetryMs = result.u64(16)
	default:
		refusal.Text = result.text(16)
	}
	return good, refusal
}
