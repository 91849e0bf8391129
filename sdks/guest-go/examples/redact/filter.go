package main

import (
	"regexp"
	"slices"
	"strings"
)

// A stream's end that may still become part of something: a word, and the numbers behind it.
var open = regexp.MustCompile(`\S*[\d .+-]*$`)

var (
	address = regexp.MustCompile(`[\w.+-]+@[\w-]+(?:\.[\w-]+)+`)
	// Seven digits are the shortest telephone number that anybody would not want to be told.
	number = regexp.MustCompile(`\+?\d(?:[ .-]?\d){6,}`)
)

// Bytes that a stream may hold back: longer than any address or number, so what is longer is none.
const heldMax = 256

// filter takes personal data out of texts, and of one stream.
type filter struct {
	secret *regexp.Regexp
	held   string
	// taken is how often something was taken out, by what it was.
	taken map[string]int
}

func newFilter(secrets []string) *filter {
	if len(secrets) == 0 {
		return &filter{taken: map[string]int{}}
	}
	quoted := slices.Clone(secrets)
	for at := range quoted {
		quoted[at] = regexp.QuoteMeta(quoted[at])
	}
	secret := regexp.MustCompile(`(?i)` + strings.Join(quoted, "|"))
	return &filter{secret: secret, taken: map[string]int{}}
}

func (f *filter) clean(text string) string {
	text = f.take(address, "address", text)
	text = f.take(number, "number", text)
	if f.secret != nil {
		text = f.take(f.secret, "secret", text)
	}
	return text
}

func (f *filter) take(of *regexp.Regexp, kind, text string) string {
	return of.ReplaceAllStringFunc(text, func(string) string {
		f.taken[kind]++
		return "[" + kind + "]"
	})
}

// stream gives what is certain of the text so far, and at the end the rest.
func (f *filter) stream(text string, isLast bool) string {
	f.held += text
	certain := len(f.held)
	if !isLast {
		if held := open.FindStringIndex(f.held); certain-held[0] <= heldMax {
			certain = held[0]
		}
	}
	text, f.held = f.held[:certain], f.held[certain:]
	return f.clean(text)
}
