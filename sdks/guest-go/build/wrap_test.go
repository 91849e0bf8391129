package main

import (
	"strings"
	"testing"
)

// module is one that imports and exports functions of those names.
func module(imports, exports []string) []byte {
	section := func(id byte, body []byte) []byte { return append([]byte{id, byte(len(body))}, body...) }
	names := []byte{byte(len(imports))}
	for _, name := range imports {
		names = append(appendName(appendName(names, "m"), name), functionImport, 0)
	}
	bytes := append([]byte("\x00asm\x01\x00\x00\x00"), section(importSection, names)...)
	names = []byte{byte(len(exports))}
	for _, name := range exports {
		names = append(appendName(names, name), 0, 0)
	}
	return append(bytes, section(exportSection, names)...)
}

func component(inner []byte) []byte {
	bytes := append([]byte("\x00asm\x0d\x00\x01\x00"), moduleSection, byte(len(inner)))
	return append(bytes, inner...)
}

func TestAModuleTakesThePlaceOfTheTemplates(t *testing.T) {
	stand := module([]string{"a", "a again", "b"}, []string{"e"})
	wrapped, err := wrap(component(stand), module([]string{"a", "a"}, []string{"d", "e"}))
	if err != nil {
		t.Fatal(err)
	}
	expected := component(module([]string{"a", "a again"}, []string{"d", "e"}))
	if string(wrapped) != string(expected) {
		t.Errorf("%q", wrapped)
	}
}

func TestWhatDoesNotFitIsRefusedByName(t *testing.T) {
	stand := component(module([]string{"a"}, []string{"e"}))
	for text, inner := range map[string][]byte{
		"imports `m c`":     module([]string{"c"}, []string{"e"}),
		"does not export":   module([]string{"a"}, nil),
		"no module":         stand,
		"is cut short":      module([]string{"a"}, []string{"e"})[:20],
		"template is no co": nil,
	} {
		template := stand
		if inner == nil {
			template = []byte("nothing")
		}
		if _, err := wrap(template, inner); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
