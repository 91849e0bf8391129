package guest

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
)

// Params are a function's parameters. Take what the function knows, then call Finish.
type Params struct {
	fields map[string]json.RawMessage
	// within is what goes before the names of parameters that are within another.
	within string
}

// Roles that chat templates know.
var roles = []string{"system", "user", "assistant", "tool"}

func parseParams(text string) (*Params, error) {
	var fields map[string]json.RawMessage
	if json.Unmarshal([]byte(text), &fields) != nil || fields == nil {
		return nil, Invalidf("params must be a JSON object")
	}
	return &Params{fields: fields}, nil
}

// take reads the parameter into `into`; false where it is not there, or null.
func (p *Params) take(name, expected string, into any) (bool, error) {
	raw, is := p.fields[name]
	delete(p.fields, name)
	if !is || string(raw) == "null" {
		return false, nil
	}
	if json.Unmarshal(raw, into) != nil {
		return false, p.wrong(name, expected)
	}
	return true, nil
}

// object is a parameter that has parameters itself; nil where it is not there.
func (p *Params) object(name string) (*Params, error) {
	object := &Params{within: p.within + name + "."}
	if is, err := p.take(name, "an object", &object.fields); err != nil || !is {
		return nil, err
	}
	return object, nil
}

func (p *Params) wrong(name, expected string) error {
	return Invalidf("`%s%s` must be %s", p.within, name, expected)
}

func (p *Params) missing(name string) error {
	return Invalidf("`%s%s` is missing", p.within, name)
}

// Text is a text; empty where it is not there.
func (p *Params) Text(name string) (text string, err error) {
	_, err = p.take(name, "a string", &text)
	return text, err
}

// RequiredText is a text that must be there.
func (p *Params) RequiredText(name string) (text string, err error) {
	is, err := p.take(name, "a string", &text)
	if err == nil && !is {
		err = p.missing(name)
	}
	return text, err
}

// Flag is yes or no; `otherwise` where it is not there.
func (p *Params) Flag(name string, otherwise bool) (bool, error) {
	flag := otherwise
	_, err := p.take(name, "true or false", &flag)
	return flag, err
}

// Number is a number; `otherwise` where it is not there. Its range is the host's to check.
func (p *Params) Number(name string, otherwise float32) (float32, error) {
	number := float64(otherwise)
	_, err := p.take(name, "a number", &number)
	return float32(number), err
}

// Whole is a whole number of at least 0; nil where it is not there.
func (p *Params) Whole(name string) (*uint64, error) {
	var number uint64
	is, err := p.take(name, "a whole number of at least 0", &number)
	if err != nil || !is {
		return nil, err
	}
	return &number, nil
}

// Whole32 is a whole number from `least` to the most that 32 bits hold; nil where it is not there.
func (p *Params) Whole32(name string, least uint32) (*uint32, error) {
	number, err := p.Whole(name)
	if err != nil || number == nil {
		return nil, err
	}
	if *number < uint64(least) || *number > math.MaxUint32 {
		return nil, p.wrong(name, fmt.Sprintf("from %d to %d", least, uint32(math.MaxUint32)))
	}
	short := uint32(*number)
	return &short, nil
}

// Texts is one text or a list of texts.
func (p *Params) Texts(name string) (texts []string, err error) {
	const expected = "a string or a list of strings"
	if raw := p.fields[name]; len(raw) > 0 && raw[0] == '"' {
		texts = make([]string, 1)
		_, err = p.take(name, expected, &texts[0])
		return texts, err
	}
	_, err = p.take(name, expected, &texts)
	return texts, err
}

// Biases is an object of numbers, by the tokens' ids.
func (p *Params) Biases(name string) ([]Bias, error) {
	var numbers map[string]float64
	if _, err := p.take(name, "an object of numbers by token ids", &numbers); err != nil {
		return nil, err
	}
	biases := make([]Bias, 0, len(numbers))
	for key, by := range numbers {
		id, err := strconv.ParseUint(key, 10, 32)
		if err != nil || strconv.FormatUint(id, 10) != key {
			return nil, p.wrong(name, "an object whose keys are token ids")
		}
		biases = append(biases, Bias{Token(id), float32(by)})
	}
	return biases, nil
}

// Messages is the conversation in `messages`, which must be there and not be empty.
func (p *Params) Messages() ([]Message, error) {
	const expected = "a list of at least one message"
	var fields []map[string]json.RawMessage
	is, err := p.take("messages", expected, &fields)
	if err != nil {
		return nil, err
	}
	if !is {
		return nil, p.missing("messages")
	}
	if len(fields) == 0 {
		return nil, p.wrong("messages", expected)
	}
	messages := make([]Message, len(fields))
	for at, of := range fields {
		if messages[at], err = message("messages["+strconv.Itoa(at)+"]", of); err != nil {
			return nil, err
		}
	}
	return messages, nil
}

func message(name string, fields map[string]json.RawMessage) (Message, error) {
	if fields == nil {
		return Message{}, Invalidf("`%s` must be an object", name)
	}
	params := &Params{fields, name + "."}
	role, errRole := params.RequiredText("role")
	content, errContent := params.RequiredText("content")
	if err := first(errRole, errContent); err != nil {
		return Message{}, err
	}
	if !slices.Contains(roles, role) {
		return Message{}, params.wrong("role", fmt.Sprintf("one of %v", roles))
	}
	return Message{role, content}, params.Finish()
}

// Finish refuses whatever has not been taken.
func (p *Params) Finish() error {
	names := make([]string, 0, len(p.fields))
	for name := range p.fields {
		names = append(names, name)
	}
	if len(names) == 0 {
		return nil
	}
	return Invalidf("unknown parameter `%s%s`", p.within, slices.Min(names))
}
