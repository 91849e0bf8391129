"""Makes a component of a program: `build.py PROGRAM.py OUT`."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent

#: The world of programs.
WIT = HERE.parents[1] / "proto" / "wit"

SOURCES = HERE / "src"


def build(program: Path, out: Path) -> None:
    """Wraps the program, and every module that it imports, with Python itself."""
    compiler = Path(sys.executable).with_name("componentize-py")
    world = ["--wit-path", str(WIT), "--world", "program"]
    paths = ["--python-path", str(program.resolve().parent), "--python-path", str(SOURCES)]
    # Nothing of the system is there to be imported.
    component = ["componentize", "--stub-wasi", *paths, "--output", str(out), program.stem]
    subprocess.run([str(compiler), "--quiet", *world, *component], check=True)


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("program", type=Path, help="the module with the class `Handler`")
    parser.add_argument("out", type=Path, help="where the component goes")
    arguments = parser.parse_args()
    build(arguments.program, arguments.out)


if __name__ == "__main__":
    main()
