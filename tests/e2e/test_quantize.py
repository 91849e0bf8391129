"""`realm models quantize`: a file takes its place whole, or leaves what was there."""

from __future__ import annotations

import asyncio
import resource
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.server import binary, realm
from harness.wait import eventually

#: Bytes that a file may have where a test takes the rest of the disk away.
ROOM = 1 << 20


@pytest.fixture(scope="module")
def floats(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default model in sixteen bits."""
    path = tmp_path_factory.mktemp("floats") / "floats.gguf"
    refused = realm("models", "quantize", model, path, "--format", "F16")
    assert refused.returncode == 1
    assert "--allow-requantize" in refused.stderr
    assert not list(path.parent.iterdir())
    made = realm("models", "quantize", model, path, "--format", "f16", "--allow-requantize")
    assert made.returncode == 0, made.stderr
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in which nothing is left but what a test asked for."""
    yield tmp_path
    assert [path for path in tmp_path.iterdir() if path.suffix == ".part"] == []


def test_a_model_is_written_in_another_format_and_answers(floats: Path, folder: Path) -> None:
    out = folder / "out.gguf"
    made = realm("models", "quantize", floats, out, "--format", "Q8_0")
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith(f"{out}: ")
    assert " in Q8_0, " in made.stdout
    assert out.stat().st_mode & 0o777 == 0o666 & ~umask()
    told = realm("models", "info", out)
    assert "Q8_0" in told.stdout
    answer = realm("run", "--model", out, "--max-tokens", "8", "What is the capital of France?")
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip()


def umask() -> int:
    """The mask of this process, which a command inherits."""
    words = Path("/proc/self/status").read_text().split()
    return int(words[words.index("Umask:") + 1], 8)


def test_a_file_that_is_there_is_replaced_only_by_force(floats: Path, folder: Path) -> None:
    out = folder / "out.gguf"
    out.write_text("mine")
    refused = realm("models", "quantize", floats, out, "--format", "Q8_0")
    assert refused.returncode == 1
    assert "--force" in refused.stderr
    assert out.read_text() == "mine"
    made = realm("models", "quantize", floats, out, "--format", "Q4_0", "--force")
    assert made.returncode == 0, made.stderr
    assert out.read_bytes().startswith(b"GGUF")


def test_each_tensor_that_fits_no_large_block_is_told(floats: Path, folder: Path) -> None:
    made = realm("models", "quantize", floats, folder / "out.gguf", "--format", "IQ4_XS")
    assert made.returncode == 0, made.stderr
    *lines, _ = made.stdout.splitlines()
    query = next(line for line in lines if line.startswith("blk.0.attn_q.weight "))
    assert query.split()[1] == "IQ4_NL"
    assert query.endswith("its rows of 576 are no whole blocks of IQ4_XS")
    assert not any("ffn_down" in line for line in lines), "rows of 1536 are six blocks"


def test_an_unknown_format_is_refused_with_those_that_are_known(folder: Path) -> None:
    refused = realm("models", "quantize", "in.gguf", folder / "out.gguf", "--format", "Q9_9")
    assert refused.returncode == 2
    assert "Q4_K_M" in refused.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_who_is_interrupted_leaves_no_file(
    floats: Path, folder: Path, number: signal.Signals
) -> None:
    out = folder / "out.gguf"
    running = await asyncio.create_subprocess_exec(
        *(binary(), "models", "quantize", floats, out, "--format", "Q2_K"),
        stderr=asyncio.subprocess.PIPE,
    )

    async def has_begun() -> bool:
        return any(path.suffix == ".part" for path in folder.iterdir())

    await eventually(has_begun, "the file is begun")
    running.send_signal(number)
    _, said = await asyncio.wait_for(running.communicate(), timeout=60)
    assert running.returncode == 1
    assert b"stopped before the end" in said
    assert list(folder.iterdir()) == []


def test_a_disk_that_is_too_small_is_told_before_the_work(floats: Path, folder: Path) -> None:
    def little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, ROOM))

    out = folder / "out.gguf"
    # A limit of this process stands for a full disk: without the signal it would be killed by,
    # which Python ignores and hands on ignored, a write beyond it is an error.
    done = subprocess.run(
        [binary(), "models", "quantize", floats, out, "--format", "Q2_K"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        restore_signals=False,
        preexec_fn=little_room,
    )
    assert done.returncode == 1
    assert "File too large" in done.stderr
    assert list(folder.iterdir()) == []
