// Command redact is a program that keeps personal data to itself: `redact` takes it out of a text,
// and `chat` out of both what the model is told and what it says, while that is streamed; `tally` tells
// how much that was.
package main

import (
	"strings"

	"realm.dev/guest"
)

const (
	redactParams = `{"type":"object","additionalProperties":false,"required":["text"],` +
		`"properties":{"text":{"type":"string"}}}`
	chatParams = `{"type":"object","required":["messages"],` +
		`"properties":{"messages":{"type":"array","minItems":1}}}`
	tallyParams = `{"type":"object","additionalProperties":false,` +
		`"properties":{"reset":{"type":"boolean"}}}`
)

func init() {
	guest.Serve(
		guest.Function{
			Name:        "redact",
			Description: "Takes addresses, long numbers and the tenant's secret words out of a text.",
			Params:      redactParams,
			Handle:      redact,
		},
		guest.Function{
			Name:        "chat",
			Description: "Answers a conversation without personal data in it.",
			Params:      chatParams,
			Streams:     true,
			Handle:      chat,
		},
		guest.Function{
			Name:        "tally",
			Description: "How much was taken out on this node; with `reset`, from now on.",
			Params:      tallyParams,
			Handle:      tally,
		},
	)
}

func main() {}

// secrets are the words of the setting `secrets`, with spaces between them.
func secrets() []string {
	words, _ := guest.Setting("secrets")
	return strings.Fields(words)
}

func redact(params *guest.Params) (guest.Outcome, error) {
	text, err := params.RequiredText("text")
	if err != nil {
		return guest.Outcome{}, err
	}
	if err := params.Finish(); err != nil {
		return guest.Outcome{}, err
	}
	filter := newFilter(secrets())
	clean := filter.clean(text)
	return guest.Outcome{Data: map[string]string{"text": clean}}, count(filter.taken)
}

func chat(params *guest.Params) (guest.Outcome, error) {
	messages, err := params.Messages()
	if err != nil {
		return guest.Outcome{}, err
	}
	asked, err := guest.TakeAsked(params)
	if err != nil {
		return guest.Outcome{}, err
	}
	filter := newFilter(secrets())
	for at := range messages {
		messages[at].Content = filter.clean(messages[at].Content)
	}
	prompt, err := asked.Model.TokenizeChat(messages)
	if err != nil {
		return guest.Outcome{}, err
	}
	outcome, err := asked.AnswerWith(prompt, filter.stream)
	if err != nil {
		return outcome, err
	}
	return outcome, count(filter.taken)
}
