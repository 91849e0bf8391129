package main

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const root = "../../.."

func TestTheTemplateIsOfTheWorldAsItIs(t *testing.T) {
	list, err := os.ReadFile("../template/sources.sha256")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for line := range strings.Lines(string(list)) {
		digest, path, _ := strings.Cut(strings.TrimSpace(line), "  ")
		listed[path] = true
		file, err := os.ReadFile(filepath.Join(root, path))
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(file)
		if hex.EncodeToString(sum[:]) != digest {
			t.Errorf("%s has changed: run sdks/guest-go/template/rebuild.sh", path)
		}
	}
	world, err := filepath.Glob(root + "/proto/wit/*.wit")
	if err != nil || len(world) == 0 {
		t.Fatal("there is no world", err)
	}
	for _, path := range world {
		if !listed["proto/wit/"+filepath.Base(path)] {
			t.Errorf("%s is new: run sdks/guest-go/template/rebuild.sh", path)
		}
	}
}

func TestThereIsATemplateForWhateverAProgramHas(t *testing.T) {
	const hook, check = "realm:tenant/hooks@0.1.0#bias", "realm:tenant/health@0.1.0#check"
	for _, each := range []struct {
		hasHooks, hasHealth bool
		tags                string
	}{
		{false, false, ""}, {true, false, "hooks"}, {false, true, "health"}, {true, true, "hooks,health"},
	} {
		world, tags := parts(each.hasHooks, each.hasHealth)
		if tags != each.tags {
			t.Errorf("%s is compiled with %q", world, tags)
		}
		template, err := templates.ReadFile("templates/" + world + ".wasm")
		if err != nil {
			t.Fatal(err)
		}
		var must []string
		err = sections(template, func(id byte, _, body []byte) error {
			if id != moduleSection || must != nil {
				return nil
			}
			_, exports, err := surface(body)
			must = exports
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if slices.Contains(must, hook) != each.hasHooks || slices.Contains(must, check) != each.hasHealth {
			t.Errorf("a program of %s must export %q", world, must)
		}
	}
}
