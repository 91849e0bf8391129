"""What the Dockerfiles promise, read from them: no engine builds them here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest

from harness.contain import NOBODY
from harness.dockerfile import Dockerfile

ROOT = Path(__file__).parents[2]

#: The images, named after the crates of their entry points.
IMAGES = ("operator", "agent")

#: Debian's releases as images of compilers and bases without a shell name them.
RELEASES = {"bookworm": "debian12", "trixie": "debian13"}

#: A file that becomes part of a program.
INCLUDED = re.compile(r'include_(?:str|bytes)!\(\s*"([^"]+)"')


@pytest.fixture(params=IMAGES)
def name(request: pytest.FixtureRequest) -> str:
    """Each of the images."""
    return str(request.param)


@pytest.fixture
def dockerfile(name: str) -> Dockerfile:
    """How it is built."""
    return Dockerfile(ROOT / "deploy" / "docker" / name / "Dockerfile")


def context() -> Sequence[str]:
    """What `.dockerignore` lets in, which begins by shutting everything out."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    first, *others = [line for line in lines if line and not line.startswith("#")]
    assert first == "*"
    assert all(line.startswith("!") for line in others)
    return [line.removeprefix("!") for line in others]


def test_the_linter_finds_nothing(dockerfile: Dockerfile) -> None:
    linter = Path(sys.executable).with_name("hadolint")
    command = [str(linter), "--no-color", str(dockerfile.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout


def test_an_image_starts_one_program_as_nobody_and_has_no_shell(
    name: str, dockerfile: Dockerfile
) -> None:
    final = dockerfile.final
    assert final.exec_form("ENTRYPOINT") == [f"/usr/local/bin/realm-{name}"]
    assert final.one("USER") == f"{NOBODY}:{NOBODY}"
    assert final.one("STOPSIGNAL") == "SIGTERM"
    assert final.base == "scratch"
    words = {each.word for each in final.instructions}
    # Kubelets ask for health themselves, and nothing runs while the image is put together.
    assert words == {"ARG", "LABEL", "COPY", "USER", "EXPOSE", "STOPSIGNAL", "ENTRYPOINT"}


def test_an_image_says_what_it_is(name: str, dockerfile: Dockerfile) -> None:
    labels = dict(
        re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', dockerfile.final.one("LABEL"))
    )
    assert labels.keys() == {"title", "description", "licenses", "version", "revision"}
    assert labels["title"] == f"realm-{name}"
    package = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]
    assert labels["licenses"] == package["license"]


def test_an_image_exposes_the_ports_that_its_program_listens_at(
    name: str, dockerfile: Dockerfile
) -> None:
    args = (ROOT / name / "src" / "args.rs").read_text()
    listened = re.findall(r'default_value = "0\.0\.0\.0:(\d+)"', args)
    assert sorted(dockerfile.final.one("EXPOSE").split()) == sorted(listened)


def test_programs_are_compiled_by_the_toolchain_of_the_tree_beside_the_glibc_of_the_base(
    dockerfile: Dockerfile,
) -> None:
    channel = tomllib.loads((ROOT / "rust-toolchain.toml").read_text())["toolchain"]["channel"]
    found = re.fullmatch(r"rust:([\d.]+)-slim-(\w+)", dockerfile.build.base)
    assert found is not None, dockerfile.build.base
    assert found[1] == channel
    base = dockerfile.final.base
    assert base == "scratch" or RELEASES[found[2]] in base


def test_what_is_copied_is_there_and_all_that_an_engine_is_given(dockerfile: Dockerfile) -> None:
    copied = {
        source
        for stage in dockerfile.stages
        for origin, source, _ in stage.copies()
        if origin is None
    }
    assert sorted(copied) == sorted(context())
    for source in copied:
        assert (ROOT / source).exists(), source


def test_what_is_copied_is_the_whole_workspace_and_every_file_that_it_includes(
    dockerfile: Dockerfile, tmp_path: Path
) -> None:
    tree = tmp_path / "src"
    for _, source, target in dockerfile.build.copies():
        place = tree / (source if target == "./" else target)
        place.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, place)
        else:
            shutil.copyfile(ROOT / source, place)
    channel = tomllib.loads((ROOT / "rust-toolchain.toml").read_text())["toolchain"]["channel"]
    done = subprocess.run(
        ["cargo", "metadata", "--locked", "--offline", "--format-version=1"],
        cwd=tree,
        env=os.environ | {"RUSTUP_TOOLCHAIN": channel},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    sources = [path for path in tree.rglob("*.rs") if "tests" not in path.relative_to(tree).parts]
    assert sources
    included = [(path, each) for path in sources for each in INCLUDED.findall(path.read_text())]
    assert included
    for path, each in included:
        assert (path.parent / each).exists(), f"{path.relative_to(tree)} includes {each}"
