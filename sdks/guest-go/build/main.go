// Command build makes a component of a program:
// `go run realm.dev/guest/build [-hooks] [-health] PACKAGE OUT`.
package main

import (
	"embed"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// templates has a component for each world, around a module that imports and exports what any program
// of that may: the compiler's module takes that one's place.
//
//go:embed templates/*.wasm
var templates embed.FS

func main() {
	hasHooks := flag.Bool("hooks", false, "the program calls guest.Hook")
	hasHealth := flag.Bool("health", false, "the program calls guest.Health")
	flag.Parse()
	if flag.NArg() != 2 {
		fail(fmt.Errorf("usage: build [-hooks] [-health] PACKAGE OUT"))
	}
	if err := build(flag.Arg(0), flag.Arg(1), *hasHooks, *hasHealth); err != nil {
		fail(err)
	}
}

// parts are the world of a program, and the tags that it is compiled with: without one, what that
// stands for is not there to be called, so that none is forgotten.
func parts(hasHooks, hasHealth bool) (world, tags string) {
	world = "program"
	var set []string
	if hasHooks {
		world, set = "hooked-"+world, append(set, "hooks")
	}
	if hasHealth {
		world, set = "checked-"+world, append(set, "health")
	}
	return world, strings.Join(set, ",")
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "build:", err)
	os.Exit(1)
}

func build(source, out string, hasHooks, hasHealth bool) error {
	world, tags := parts(hasHooks, hasHealth)
	template, err := templates.ReadFile("templates/" + world + ".wasm")
	if err != nil {
		return err
	}
	folder, err := os.MkdirTemp("", "guest")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	module := filepath.Join(folder, "program.wasm")
	// A library, so that main does not run, and without symbols, which nobody reads in there.
	compiler := exec.Command(
		"go", "build", "-buildmode=c-shared", "-trimpath", "-ldflags=-s -w", "-tags", tags, "-o", module,
		source,
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
