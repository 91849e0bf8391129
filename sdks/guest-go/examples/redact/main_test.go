package main

import (
	"maps"
	"strings"
	"testing"
	"time"

	"realm.dev/guest"
)

func TestPersonalDataIsTakenOutOfAText(t *testing.T) {
	rehearsal := guest.Rehearsal{Settings: map[string]string{"secrets": "Bluebird"}}
	said, err := rehearsal.Call("redact", map[string]string{
		"text": "Write to jo.doe@example.org or call +49 30 123456 about bluebird in 2024.",
	})
	if err != nil {
		t.Fatal(err)
	}
	data := said.Outcome.Data.(map[string]string)
	if data["text"] != "Write to [address] or call [number] about [secret] in 2024." {
		t.Errorf("%q", data["text"])
	}
}

func TestAnAddressThatComesInPiecesIsHeldBackUntilItIsWhole(t *testing.T) {
	filter := newFilter(nil)
	var text strings.Builder
	for _, piece := range []string{"ask ", "jo", "@exam", "ple.org", ", or 01", "23 45", "67 8", " now"} {
		text.WriteString(filter.stream(piece, false))
		if strings.ContainsAny(text.String(), "@0123456789") {
			t.Fatalf("%q was let out", text.String())
		}
	}
	text.WriteString(filter.stream("", true))
	if text.String() != "ask [address], or [number] now" {
		t.Errorf("%q", text.String())
	}
}

func TestAWordWithoutEndIsNotHeldForEver(t *testing.T) {
	filter := newFilter(nil)
	if said := filter.stream(strings.Repeat("a", heldMax+1), false); len(said) != heldMax+1 {
		t.Errorf("%d bytes were let out", len(said))
	}
}

func TestNeitherModelNorClientIsToldPersonalData(t *testing.T) {
	var asked string
	rehearsal := guest.Rehearsal{Answer: func(prompt string) string {
		asked = prompt
		return "Sure, jo@example.org is it."
	}}
	said, err := rehearsal.Call("chat", map[string]any{
		"messages": []guest.Message{{Role: "user", Content: "Is it jo@example.org?"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(asked, "@") || said.Text != "Sure, [address] is it." {
		t.Errorf("%q was asked, %q said", asked, said.Text)
	}
	if len(said.Pieces) < 2 {
		t.Errorf("it came whole: %q", said.Pieces)
	}
}

func TestATallyIsKeptFromCallToCallUntilItIsTakenAway(t *testing.T) {
	rehearsal := guest.Rehearsal{
		Store: map[string][]byte{"other": nil},
		Now:   time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	}
	call := func(function string, params map[string]any) map[string]any {
		said, err := rehearsal.Call(function, params)
		if err != nil {
			t.Fatal(err)
		}
		data, _ := said.Outcome.Data.(map[string]any)
		return data
	}
	for range 2 {
		call("redact", map[string]any{"text": "jo@example.org, jo@example.com or 0123456789"})
	}
	expected := map[string]any{"tally": "00010203 2026-01-02T03:04:05Z", "address": 4, "number": 2}
	for range 2 {
		if told := call("tally", map[string]any{"reset": true}); !maps.Equal(told, expected) {
			t.Errorf("%v is told of %v", told, expected)
		}
		expected = map[string]any{"tally": ""}
	}
	if len(rehearsal.Store) != 1 {
		t.Errorf("%v is left", rehearsal.Store)
	}
}
