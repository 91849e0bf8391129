// Command build makes a component of a program: `go run realm.dev/guest/build PACKAGE OUT`.
package main

import (
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// template is a component around a module that imports and exports what any program may: the
// compiler's module takes that one's place.
//
//go:embed template.wasm
var template []byte

func main() {
	if len(os.Args) != 3 {
		fail(fmt.Errorf("usage: build PACKAGE OUT"))
	}
	if err := build(os.Args[1], os.Args[2]); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "build:", err)
	os.Exit(1)
}

func build(source, out string) error {
	folder, err := os.MkdirTemp("", "guest")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	module := filepath.Join(folder, "program.wasm")
	// A library, so that main does not run, and without symbols, which nobody reads in there.
	compiler := exec.Command(
		"go", "build", "-buildmode=c-shared", "-trimpath", "-ldflags=-s -w", "-o", module, source,
	)
	compiler.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0")
	compiler.Stdout, compiler.Stderr = os.Stdout, os.Stderr
	if err := compiler.Run(); err != nil {
		return fmt.Errorf("compiling %s: %w", source, err)
	}
	compiled, err := os.ReadFile(module)
	if err != nil {
		return err
	}
	component, err := wrap(template, compiled)
	if err != nil {
		return fmt.Errorf("%s: %w", source, err)
	}
	return os.WriteFile(out, component, 0o644)
}
