package guest

import (
	"encoding/json"
	"testing"
)

func refusal(t *testing.T, err error, code Code, text string) {
	t.Helper()
	if !IsCode(err, code) || err.Error() != text {
		t.Errorf("refused with %v", err)
	}
}

func serveOne(handle func(params *Params) (Outcome, error)) {
	Serve(Function{Name: "one", Handle: handle})
}

func TestWhatNobodyServesIsAnUnknownFunction(t *testing.T) {
	serveOne(nil)
	_, err := Rehearsal{}.Call("other", map[string]any{})
	refusal(t, err, UnknownFunction, "other")
}

func TestParametersAreReadStrictly(t *testing.T) {
	serveOne(func(params *Params) (Outcome, error) {
		_, err := TakeAsked(params)
		return Outcome{}, err
	})
	for text, params := range map[string]map[string]any{
		"`max_tokens` must be from 1 to 4294967295":               {"max_tokens": 0},
		"`seed` must be a whole number of at least 0":             {"seed": -1},
		"`stop` must be a string or a list of strings":            {"stop": 1},
		"`temperature` must be a number":                          {"temperature": "hot"},
		"`logit_bias` must be an object whose keys are token ids": {"logit_bias": map[string]int{"01": 1}},
		"unknown parameter `colour`":                              {"colour": "red"},
	} {
		_, err := Rehearsal{}.Call("one", params)
		refusal(t, err, Invalid, text)
	}
	_, err := Rehearsal{}.Call("one", map[string]any{"model": "other"})
	refusal(t, err, UnknownModel, "other")
	_, err = Rehearsal{}.Call("one", []int{1})
	refusal(t, err, Invalid, "params must be a JSON object")
}

func TestTheFormOfAnAnswerIsReadStrictly(t *testing.T) {
	serveOne(func(params *Params) (Outcome, error) {
		_, err := TakeAsked(params)
		return Outcome{}, err
	})
	const kinds = "`text`, `json_object`, `json_schema`, `regex` or `grammar`"
	for _, each := range []struct{ text, format string }{
		{"`response_format` must be an object", `"text"`},
		{"`response_format.type` must be a string", `{}`},
		{"`response_format.type` must be " + kinds, `{"type": "xml"}`},
		{"`response_format.regex` must be a string", `{"type": "regex"}`},
		{"unknown parameter `response_format.regex`", `{"type": "text", "regex": "a"}`},
	} {
		params := map[string]any{"response_format": json.RawMessage(each.format)}
		_, err := Rehearsal{}.Call("one", params)
		refusal(t, err, Invalid, each.text)
	}
	for _, each := range []struct{ text, named string }{
		{"`response_format.json_schema` must be an object", `null`},
		{"`response_format.json_schema.schema` must be a JSON schema", `{"schema": []}`},
		{"`response_format.json_schema.name` must be a string", `{"schema": {}, "name": 1}`},
		{"`response_format.json_schema.strict` must be a boolean", `{"schema": {}, "strict": "no"}`},
		{"unknown parameter `response_format.json_schema.more`", `{"schema": {}, "more": 1}`},
	} {
		format := `{"type": "json_schema", "json_schema": ` + each.named + `}`
		params := map[string]any{"response_format": json.RawMessage(format)}
		_, err := Rehearsal{}.Call("one", params)
		refusal(t, err, Invalid, each.text)
	}
}

func TestTheFormOfAnAnswerIsSaidInTheWordsOfTheCommonAPIs(t *testing.T) {
	var asked *Asked
	serveOne(func(params *Params) (outcome Outcome, err error) {
		asked, err = TakeAsked(params)
		return Outcome{}, err
	})
	for format, expected := range map[string]Constraint{
		`{"type": "json_object"}`:                        {Kind: JSONObject},
		`{"type": "regex", "regex": "a+"}`:               {Regex, "a+"},
		`{"type": "grammar", "grammar": "start: \"a\""}`: {Grammar, `start: "a"`},
	} {
		params := map[string]any{"response_format": json.RawMessage(format)}
		_, err := Rehearsal{}.Call("one", params)
		if err != nil || asked.Params.Constraint == nil || *asked.Params.Constraint != expected {
			t.Errorf("%s: %+v, %v", format, asked, err)
		}
	}
	for _, format := range []string{`null`, `{"type": "text"}`} {
		params := map[string]any{"response_format": json.RawMessage(format)}
		_, err := Rehearsal{}.Call("one", params)
		if err != nil || asked.Params.Constraint != nil {
			t.Errorf("%s: %+v, %v", format, asked, err)
		}
	}
}

func TestASchemaIsHandedOnAsItWasSent(t *testing.T) {
	for _, sent := range []string{`{"b": {"maximum": 1.0},  "1": {}, "enum": ["\"}", 1e400]}`, `true`} {
		named := `{"name": "it", "description": null, "strict": false, "schema" : ` + sent + ` }`
		params, err := parseParams(
			`{"a": "{", "response_format": {"json_schema": ` + named + `, "type": "json_schema"}}`,
		)
		if err != nil {
			t.Fatal(err)
		}
		constraint, err := params.Constraint("response_format")
		if err != nil || constraint == nil || *constraint != (Constraint{JSONSchema, sent}) {
			t.Errorf("%s: %+v, %v", sent, constraint, err)
		}
	}
}

func TestGenerationsOfAPrefixBeginWithIt(t *testing.T) {
	serveOne(func(params *Params) (Outcome, error) {
		asked, err := TakeAsked(params)
		if err != nil {
			return Outcome{}, err
		}
		tokens := func(text string) []Token {
			tokens, _ := asked.Model.Tokenize(text, false)
			return tokens
		}
		prefix, err := asked.Model.Keep(tokens("one"), 0)
		if err != nil {
			return Outcome{}, err
		}
		defer prefix.Close()
		longer, err := prefix.Extend(tokens("two"))
		if err != nil {
			return Outcome{}, err
		}
		for _, each := range []*Prefix{prefix, longer, prefix} {
			generation, err := each.Generate(tokens("three"), asked.Params)
			if err != nil {
				return Outcome{}, err
			}
			pieces, err := generation.Next()
			if err != nil {
				return Outcome{}, err
			}
			WriteText(pieces[0].Text)
		}
		return Outcome{Data: longer.Length()}, nil
	})
	echo := func(prompt string) string { return "[" + prompt + "]" }
	told, err := Rehearsal{Answer: echo}.Call("one", map[string]any{})
	if err != nil || told.Text != "[onethree][onetwothree][onethree]" {
		t.Errorf("%q, %v", told.Text, err)
	}
	if told.Outcome.Data != uint32(2) {
		t.Errorf("%v tokens", told.Outcome.Data)
	}
}

func TestAPanicFailsTheProgramWithItsWords(t *testing.T) {
	serveOne(func(*Params) (Outcome, error) { panic("no more") })
	_, err := Rehearsal{}.Call("one", map[string]any{})
	refusal(t, err, Failed, "no more")
}

func TestAnAnswerStreamsAndEndsAsItsParametersSay(t *testing.T) {
	serveOne(func(params *Params) (Outcome, error) {
		asked, err := TakeAsked(params)
		if err != nil {
			return Outcome{}, err
		}
		prompt, err := asked.Model.Tokenize("count", false)
		if err != nil {
			return Outcome{}, err
		}
		return asked.Answer(prompt)
	})
	rehearsal := Rehearsal{Answer: func(string) string { return "one two three four" }}
	for _, each := range []struct {
		params map[string]any
		text   string
		finish Finish
	}{
		{map[string]any{}, "one two three four", Stop},
		{map[string]any{"max_tokens": 2}, "one two ", Length},
		{map[string]any{"stop": " three"}, "one two", Stop},
	} {
		said, err := rehearsal.Call("one", each.params)
		if err != nil || said.Text != each.text || said.Outcome.Finish != each.finish {
			t.Errorf("%v: %+v, %v", each.params, said, err)
		}
	}
}
