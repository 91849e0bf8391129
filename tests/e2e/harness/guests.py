"""Programs in other languages than Rust, each built by its own SDK with its own toolchain."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]
SDKS = ROOT / "sdks"
WIT = ROOT / "proto" / "wit"

#: What lies in an SDK's folder and has no part in a component.
ASIDE = {"node_modules", "__pycache__", ".mypy_cache", ".ruff_cache", "target", "test", "tests"}

#: The slowest toolchain, when it has never run and the machine does other things.
BUILD_S_MAX = 600.0


@dataclass(frozen=True, slots=True)
class Guest:
    """An example of an SDK."""

    sdk: Path
    #: Among the SDK's examples.
    name: str
    #: The command that builds it; the component's path comes last.
    command: Sequence[str]
    environment: Mapping[str, str]

    def component(self, cache: Path) -> Path:
        """The component, which is built when anything that it is made of has changed."""
        built = cache / f"{self.sdk.name}-{self.name}-{self._digest()}.wasm"
        if not built.exists():
            cache.mkdir(parents=True, exist_ok=True)
            for stale in cache.glob(f"{self.sdk.name}-{self.name}-*.wasm"):
                stale.unlink()
            scratch = built.with_suffix(f".{os.getpid()}.part")
            done = subprocess.run(
                [*self.command, str(scratch)],
                cwd=self.sdk,
                env=os.environ | self.environment,
                capture_output=True,
                text=True,
                timeout=BUILD_S_MAX,
                check=False,
            )
            assert done.returncode == 0, f"{self.command} failed\n{done.stdout}\n{done.stderr}"
            scratch.rename(built)
        return built

    def _digest(self) -> str:
        digest = hashlib.sha256(repr(self.command).encode())
        for folder in (self.sdk, WIT):
            for file in sorted(path for path in folder.rglob("*") if path.is_file()):
                if not ASIDE.intersection(file.relative_to(folder).parts):
                    digest.update(f"{file.relative_to(ROOT)}\0".encode())
                    digest.update(hashlib.sha256(file.read_bytes()).digest())
        return digest.hexdigest()[:16]


def guests(modules: Path) -> Mapping[str, Guest]:
    """The examples by their languages; `modules` is where JavaScript's toolchain is."""
    return {
        "javascript": in_javascript(modules, "extract"),
        "python": in_python("summarise"),
        "go": in_go("redact"),
    }


def wardens(modules: Path) -> Mapping[str, Guest]:
    """The examples that have hooks, by their languages."""
    return {
        "javascript": in_javascript(modules, "warden"),
        "python": in_python("warden"),
        "go": in_go("warden", "-hooks", "-health"),
    }


def in_javascript(modules: Path, name: str) -> Guest:
    """An example in TypeScript."""
    command = ["node", "build.mjs", f"examples/{name}.ts"]
    return Guest(SDKS / "guest-js", name, command, {"NODE_PATH": str(modules)})


def in_python(name: str) -> Guest:
    """An example in Python."""
    command = [sys.executable, "build.py", f"examples/{name}.py"]
    return Guest(SDKS / "guest-python", name, command, {"PYTHONPATH": ""})


def in_go(name: str, *has: str) -> Guest:
    """An example in Go, with what it has besides functions."""
    return Guest(SDKS / "guest-go", name, ["go", "run", "./build", *has, f"./examples/{name}"], {})
