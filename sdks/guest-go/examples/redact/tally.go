package main

import (
	"encoding/hex"
	"strconv"
	"time"

	"realm.dev/guest"
)

// Where the tally is kept: a number for each kind, and which tally that is.
const (
	kinds = "taken/"
	which = "tally"
)

// count adds to the tally. Of two calls that end in the same moment it may miss one, and what does
// not fit in is in nobody's.
func count(taken map[string]int) error {
	if _, is := guest.StoreGet(which); !is {
		id := hex.EncodeToString(guest.RandomBytes(4)) + " " + guest.Now().Format(time.RFC3339)
		if err := guest.StoreSet(which, []byte(id)); err != nil {
			return err
		}
	}
	for kind, more := range taken {
		sum := strconv.Itoa(counted(kind) + more)
		if err := guest.StoreSet(kinds+kind, []byte(sum)); err != nil {
			return err
		}
	}
	return nil
}

func counted(kind string) int {
	text, _ := guest.StoreGet(kinds + kind)
	number, _ := strconv.Atoi(string(text))
	return number
}

// tally says what was taken out on this node, and since when: another id is another tally, which
// begins where an agent does, or where one was taken away.
func tally(params *guest.Params) (guest.Outcome, error) {
	reset, err := params.Flag("reset", false)
	if err != nil {
		return guest.Outcome{}, err
	}
	if err := params.Finish(); err != nil {
		return guest.Outcome{}, err
	}
	id, _ := guest.StoreGet(which)
	data := map[string]any{"tally": string(id)}
	for _, key := range guest.StoreKeys(kinds, "") {
		data[key[len(kinds):]] = counted(key[len(kinds):])
		if reset {
			guest.StoreDelete(key)
		}
	}
	if reset {
		guest.StoreDelete(which)
	}
	return guest.Outcome{Data: data}, nil
}
