package main

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
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
