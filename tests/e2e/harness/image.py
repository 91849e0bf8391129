"""An image as its Dockerfile's last stage puts it together, and programs that run in it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness import contain
from harness.contain import DEVICES, NOBODY, Mount, Spec
from harness.daemon import Daemon, binary
from harness.dockerfile import Dockerfile

#: Where the stage that compiles leaves the programs.
OUT = "/out/"

#: The stage that gathers what dynamic programs need; here that is what they say that they need.
BASE = "base"

#: What that stage has: glibc, and the library that unwinds stacks.
BASE_LIBRARIES = re.compile(r"ld-linux-[-_a-z0-9]+\.so\.[12]|lib(c|m)\.so\.6|libgcc_s\.so\.1")


@dataclass(frozen=True, slots=True)
class Programs:
    """Where compiled programs are, and what runs them where this processor does not.

    What is tested all the time are the debug builds. `REALM_TEST_IMAGE_PROGRAMS` names a folder
    with programs as `deploy/docker/build compile` makes them; for another processor
    `REALM_TEST_IMAGE_EMULATOR` names its emulator, a static program, and
    `REALM_TEST_IMAGE_SYSROOT` the folder of that processor's `/lib`.
    """

    folder: Path | None
    emulator: Path | None
    sysroot: str

    @classmethod
    def from_environment(cls) -> Programs:
        """As the environment says."""

        def path(name: str) -> Path | None:
            value = os.environ.get(f"REALM_TEST_IMAGE_{name}")
            return Path(value) if value else None

        return cls(path("PROGRAMS"), path("EMULATOR"), str(path("SYSROOT") or ""))

    def find(self, name: str) -> Path:
        """A program."""
        return Path(binary(name)) if self.folder is None else self.folder / name

    def loader(self, program: Path) -> str | None:
        """The loader that a program asks for; a static one asks for none."""
        told = _run("readelf", "--program-headers", str(program))
        found = re.search(r"Requesting program interpreter: (\S+)\]", told)
        return found[1] if found else None

    def libraries(self, program: Path) -> Mapping[str, str]:
        """Files of this machine that a program needs besides itself, by where it looks for them."""
        loader = self.loader(program)
        if loader is None:
            return {}
        emulate = [str(self.emulator), "-L", self.sysroot] if self.emulator else []
        told = _run(*emulate, self.sysroot + loader, "--list", str(program))
        found = [*re.findall(r"=> (/\S+) \(", told), loader]
        names = [each.removeprefix(self.sysroot) for each in found]
        return {name: os.path.realpath(self.sysroot + name) for name in names}


@dataclass(frozen=True, slots=True)
class Pod:
    """What a program is given besides its image. All else that it tries to write to fails."""

    #: Files and folders by where they are seen.
    reads: Mapping[str, Path]
    #: Folders by where they are seen; they are made where they are not there.
    writes: Mapping[str, Path] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Image:
    """Every file of one image that is not documentation: this machine's file by the image's."""

    entrypoint: Sequence[str]
    stop_signal: str
    files: dict[str, str] = field(default_factory=dict)
    emulator: str | None = None

    @classmethod
    def of(cls, dockerfile: Dockerfile, programs: Programs) -> Image:
        """The last stage, with the compiled programs and the libraries that they need."""
        final = dockerfile.final
        image = cls(final.exec_form("ENTRYPOINT"), final.one("STOPSIGNAL"))
        for stage, source, target in final.copies():
            if stage in (None, BASE):
                continue
            assert source.startswith(OUT), source
            program = programs.find(source.removeprefix(OUT))
            image.files |= {**programs.libraries(program), target: str(program)}
        if programs.emulator is not None:
            image.emulator = f"/{programs.emulator.name}"
            image.files[image.emulator] = str(programs.emulator)
        return image

    def command(self, folder: Path, label: str, flags: Sequence[str], pod: Pod) -> Sequence[str]:
        """What runs the entry point in a root of its own."""
        seen = {**self.files, **{target: str(source) for target, source in pod.reads.items()}}
        mounts = [Mount(source=s, target=t, is_writable=False) for t, s in seen.items()]
        for target, path in pod.writes.items():
            path.mkdir(exist_ok=True)
            if os.geteuid() == 0:
                os.chown(path, NOBODY, NOBODY)
            mounts.append(Mount(source=str(path), target=target, is_writable=True))
        root = folder / f"root-{label}"
        _lay_out(root, mounts)
        emulate = [self.emulator] if self.emulator else []
        command = [*emulate, *self.entrypoint, *flags]
        spec = Spec(root=str(root), mounts=mounts, command=command, env=dict(pod.env))
        return [sys.executable, contain.__file__, json.dumps(spec)]

    def daemon(self, folder: Path, label: str, flags: Sequence[str], pod: Pod) -> Daemon:
        """As `command`, not started yet."""
        return Daemon(folder, *self.command(folder, label, flags, pod), label=label)


def pid_in(daemon: Daemon) -> int:
    """The program that a daemon runs in its image, as this machine counts; for itself it is 1."""
    launcher = daemon.pid
    [child] = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return int(child)


def _lay_out(root: Path, mounts: Sequence[Mount]) -> None:
    """A folder with an empty place for everything that will be mounted."""
    (root / "proc").mkdir(parents=True, exist_ok=True)
    devices = [("/dev/null", f"/dev/{each}") for each in DEVICES]
    for source, target in [*devices, *((each["source"], each["target"]) for each in mounts)]:
        place = Path(f"{root}{target}")
        if Path(source).is_dir():
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout
