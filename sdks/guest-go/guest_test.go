package guest

import "testing"

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
