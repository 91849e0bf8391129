package guest

import (
	"errors"
	"strings"
)

// tokensDefault is how many tokens an answer has when the caller does not say.
const tokensDefault uint32 = 512

// What is sampled with when the caller does not say: lively, without the long tail.
const (
	temperatureDefault float32 = 0.7
	topPDefault        float32 = 0.95
)

// Asked is what every function that answers takes besides its prompt.
type Asked struct {
	Model  *Model
	Params GenerateParams
}

// TakeAsked takes `model`, `max_tokens`, `stop`, `logprobs`, `response_format` and everything that
// says how tokens are chosen, and refuses what is left.
func TakeAsked(rest *Params) (*Asked, error) {
	sampling, err := takeSampling(rest)
	name, errName := rest.Text("model")
	bias, errBias := rest.Biases("logit_bias")
	logprobs, errLogprobs := rest.Whole32("logprobs", 0)
	tokensMax, errTokens := rest.Whole32("max_tokens", 1)
	stop, errStop := rest.Texts("stop")
	constraint, errFormat := rest.Constraint("response_format")
	if err := first(
		err, errName, errBias, errLogprobs, errTokens, errStop, errFormat, rest.Finish(),
	); err != nil {
		return nil, err
	}
	if tokensMax == nil {
		most := tokensDefault
		tokensMax = &most
	}
	model, err := Open(name)
	if err != nil {
		return nil, err
	}
	return &Asked{model, GenerateParams{sampling, bias, logprobs, tokensMax, stop, constraint, 0}}, nil
}

func takeSampling(rest *Params) (sampling Sampling, err error) {
	sampling = Greedy()
	sampling.Temperature, sampling.TopP = temperatureDefault, topPDefault
	numbers := []struct {
		name   string
		number *float32
	}{
		{"temperature", &sampling.Temperature},
		{"top_p", &sampling.TopP},
		{"min_p", &sampling.MinP},
		{"typical_p", &sampling.TypicalP},
		{"repetition_penalty", &sampling.RepetitionPenalty},
		{"frequency_penalty", &sampling.FrequencyPenalty},
		{"presence_penalty", &sampling.PresencePenalty},
	}
	for _, each := range numbers {
		if *each.number, err = rest.Number(each.name, *each.number); err != nil {
			return sampling, err
		}
	}
	topK, err := rest.Whole32("top_k", 0)
	if topK != nil {
		sampling.TopK = *topK
	}
	if err == nil {
		sampling.Seed, err = rest.Whole("seed")
	}
	return sampling, err
}

// Answer generates the answer to `prompt` and streams it.
func (a *Asked) Answer(prompt []Token) (Outcome, error) {
	return a.AnswerWith(prompt, func(text string, _ bool) string { return text })
}

// AnswerWith generates the answer to `prompt` and streams what `change` makes of each piece of it.
// At the end `change` is asked once more, for what it has held back.
func (a *Asked) AnswerWith(
	prompt []Token, change func(text string, isLast bool) string,
) (Outcome, error) {
	generation, err := a.Model.Generate(prompt, a.Params)
	if err != nil {
		return Outcome{}, err
	}
	defer generation.Close()
	var scored []Logprobs
	write := func(text string) {
		if len(scored) > 0 {
			WriteScored(text, scored)
			scored = nil
		} else if text != "" {
			WriteText(text)
		}
	}
	for {
		pieces, err := generation.Next()
		if err != nil {
			return Outcome{}, err
		}
		if pieces == nil {
			break
		}
		var text strings.Builder
		for _, piece := range pieces {
			text.WriteString(piece.Text)
			if piece.Logprobs != nil {
				scored = append(scored, *piece.Logprobs)
			}
		}
		if text.Len() > 0 {
			write(change(text.String(), false))
		}
	}
	write(change("", true))
	summary, is := generation.Summary()
	if !is {
		return Outcome{}, errors.New("no summary")
	}
	return Outcome{Finish: summary.Finish}, nil
}

// first is the first of errors that is one.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
