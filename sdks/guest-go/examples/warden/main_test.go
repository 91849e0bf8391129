package main

import (
	"testing"

	"realm.dev/guest"
)

func said(t *testing.T, answer string, settings map[string]string) guest.Rehearsed {
	t.Helper()
	rehearsal := guest.Rehearsal{Settings: settings, Answer: func(string) string { return answer }}
	said, err := rehearsal.Call("generate", map[string]string{"prompt": "one two"})
	if err != nil {
		t.Fatal(err)
	}
	return said
}

func TestAWordIsBlottedOutHoweverItsPiecesFallAndAnAnswerEndsBeforeAnother(t *testing.T) {
	for _, each := range []struct {
		settings     map[string]string
		answer, text string
	}{
		{nil, "see a b", "see a b"},
		{map[string]string{"redact": "a b"}, "see a b and a c a b", "see ### and a c ### [2 blotted out]"},
		{map[string]string{"redact": "see", "end": "a b"}, "see a c and a b and more", "### a c and "},
		{map[string]string{"end": "a b"}, "see a", "see a"},
	} {
		if said := said(t, each.answer, each.settings); said.Text != each.text {
			t.Errorf("%v: %q", each.settings, said.Text)
		}
	}
}

func TestWordsAreSteeredByTheTokensThatBeginThem(t *testing.T) {
	for setting, words := range map[string]string{"ban": "cat", "only": "yes no"} {
		steers := said(t, "a cat", map[string]string{setting: words}).Steers
		if len(steers) != 2 {
			t.Errorf("%s: %+v", setting, steers)
		}
	}
	if steers := said(t, "a cat", nil).Steers; len(steers) != 0 {
		t.Errorf("it steers without a word: %+v", steers)
	}
}

func TestAPromptThatIsTooLongIsRefused(t *testing.T) {
	rehearsal := guest.Rehearsal{Settings: map[string]string{"prompt-tokens": "1"}}
	_, err := rehearsal.Call("generate", map[string]string{"prompt": "one two"})
	if !guest.IsCode(err, guest.Invalid) || err.Error() != "the prompt has more than 1 tokens" {
		t.Errorf("refused with %v", err)
	}
}

func TestItIsHealthy(t *testing.T) {
	if err := check(); err != nil {
		t.Error(err)
	}
}
