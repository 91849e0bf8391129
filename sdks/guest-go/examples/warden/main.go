// Command warden is a program with hooks: `generate` never says the word that the setting `ban` names,
// blots out the one that `redact` names and says at the end how often that was, ends before the one
// that `end` names, says nothing but the words of `only`, and refuses prompts that are longer than
// `prompt-tokens` allows. It takes no call before it has shown that it blots out.
package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"realm.dev/guest"
)

const params = `{"type":"object","required":["prompt"],"properties":{"prompt":{"type":"string"}}}`

func init() {
	guest.Serve(guest.Function{
		Name:        "generate",
		Description: "Goes on with a text, within what the tenant's settings let it say.",
		Params:      params,
		Streams:     true,
		Handle:      generate,
	})
	guest.Hook(watch)
	guest.Health(check)
}

func main() {}

func generate(params *guest.Params) (guest.Outcome, error) {
	text, err := params.RequiredText("prompt")
	if err != nil {
		return guest.Outcome{}, err
	}
	asked, err := guest.TakeAsked(params)
	if err != nil {
		return guest.Outcome{}, err
	}
	prompt, err := asked.Model.Tokenize(text, false)
	if err != nil {
		return guest.Outcome{}, err
	}
	return asked.Answer(prompt)
}

// watch says what stands beside a generation.
func watch(request guest.HookRequest) (beside guest.Beside, err error) {
	if text, is := guest.Setting("prompt-tokens"); is {
		most, err := strconv.Atoi(text)
		if err != nil || len(request.Prompt) > most {
			return beside, guest.Invalidf("the prompt has more than %s tokens", text)
		}
	}
	redacted, _ := guest.Setting("redact")
	end, _ := guest.Setting("end")
	if redacted != "" || end != "" {
		watch := &watcher{redacted: redacted, end: end}
		beside.OnToken, beside.OnFinish = watch.take, watch.rest
	}
	steer, is, err := steerOf(request.Model)
	if is {
		beside.Bias = func(last *guest.Token) guest.Steer {
			if last == nil {
				return steer
			}
			return guest.Steer{}
		}
	}
	return beside, err
}

// steerOf is what holds from the first token on, where anything does.
func steerOf(model string) (steer guest.Steer, is bool, err error) {
	if words, is := guest.Setting("only"); is {
		var tokens []guest.Token
		for _, word := range strings.Fields(words) {
			begin, err := beginnings(model, word)
			if err != nil {
				return steer, false, err
			}
			tokens = append(tokens, begin...)
		}
		slices.Sort(tokens)
		return guest.Only(slices.Compact(tokens)...), true, nil
	}
	word, is := guest.Setting("ban")
	if !is {
		return steer, false, nil
	}
	tokens, err := beginnings(model, word)
	var biases []guest.Bias
	for _, token := range tokens {
		biases = append(biases, guest.Bias{ID: token, By: -100})
	}
	return guest.Add(biases...), err == nil, err
}

// beginnings are the tokens that a word may begin with, within a text and at its start.
func beginnings(name, word string) (tokens []guest.Token, err error) {
	model, err := guest.Open(name)
	if err != nil {
		return nil, err
	}
	defer model.Close()
	for _, spelling := range []string{word, " " + word} {
		spelled, err := model.Tokenize(spelling, false)
		if err != nil {
			return nil, err
		}
		if len(spelled) > 0 && !slices.Contains(tokens, spelled[0]) {
			tokens = append(tokens, spelled[0])
		}
	}
	return tokens, nil
}

// watcher lets out the text of one answer as soon as it is certain.
type watcher struct {
	redacted, end string
	// held may yet turn out to be the beginning of a word that is watched for.
	held  string
	blots int
}

func (w *watcher) take(_ guest.Token, text string) guest.Verdict {
	w.held += text
	if at := strings.Index(w.held, w.end); w.end != "" && at >= 0 {
		w.held = w.held[:at]
		return guest.StopWith(w.release() + w.held)
	}
	return guest.Rewrite(w.release())
}

func (w *watcher) release() string {
	if w.redacted != "" {
		w.blots += strings.Count(w.held, w.redacted)
		blot := strings.Repeat("#", len([]rune(w.redacted)))
		w.held = strings.ReplaceAll(w.held, w.redacted, blot)
	}
	certain := 0
	for certain < len(w.held) && !w.isOpen(w.held[certain:]) {
		certain++
	}
	told := w.held[:certain]
	w.held = w.held[certain:]
	return told
}

func (w *watcher) isOpen(rest string) bool {
	return strings.HasPrefix(w.redacted, rest) || strings.HasPrefix(w.end, rest)
}

func (w *watcher) rest(guest.Finish) string {
	if w.redacted == "" {
		return w.held
	}
	return fmt.Sprintf("%s [%d blotted out]", w.held, w.blots)
}

// check shows that a word does not get out: a warden that lets it is worse than none.
func check() error {
	watch := &watcher{redacted: "secret"}
	var told string
	for _, piece := range []string{"a se", "cre", "t and a sec", ""} {
		watch.held += piece
		told += watch.release()
	}
	if told += watch.held; told != "a ###### and a sec" {
		return fmt.Errorf("it makes `%s` of a word that comes in pieces", told)
	}
	return nil
}
