"""Makes a component of a program: `build.py PROGRAM.py OUT`."""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent

#: The world of programs.
WIT = HERE.parents[1] / "proto" / "wit"

SOURCES = HERE / "src"


def build(program: Path, out: Path) -> None:
    """Wraps the program, and every module that it imports, with Python itself."""
    compiler = Path(sys.executable).with_name("componentize-py")
    world = ["--wit-path", str(WIT), "--world", world_of(program)]
    paths = ["--python-path", str(program.resolve().parent), "--python-path", str(SOURCES)]
    # Nothing of the system is there to be imported.
    component = ["componentize", "--stub-wasi", *paths, "--output", str(out), program.stem]
    subprocess.run([str(compiler), "--quiet", *world, *component], check=True)


def world_of(program: Path) -> str:
    """The world of a module's classes: one without `Hooks` is never asked for any."""
    has = set(names(ast.parse(program.read_text(encoding="utf-8"))))
    return f"{'checked-' * ('Health' in has)}{'hooked-' * ('Hooks' in has)}program"


def names(module: ast.Module) -> Iterator[str]:
    """What a module defines at its top level."""
    for node in module.body:
        match node:
            case ast.ClassDef(name=name):
                yield name
            case ast.Assign(targets=targets):
                yield from (target.id for target in targets if isinstance(target, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name
            case ast.ImportFrom(names=imported):
                yield from (each.asname or each.name for each in imported)


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    classes = "`Handler`, and `Hooks` and `Health` where it has them"
    parser.add_argument("program", type=Path, help=f"the module with the class {classes}")
    parser.add_argument("out", type=Path, help="where the component goes")
    arguments = parser.parse_args()
    build(arguments.program, arguments.out)


if __name__ == "__main__":
    main()
