"""`realm serve` without a folder: what a new user gets from the first command."""

from __future__ import annotations

import asyncio
import hashlib
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.server import Server, realm
from harness.talk import QUESTIONS, answer
from harness.wait import raises
from realm_client import Client, Unauthenticated


@pytest.fixture
def home(tmp_path: Path, model: Path) -> Path:
    """A home whose store holds the default model already, so that nothing is fetched."""
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    blobs = tmp_path / "home" / "store" / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    shutil.copyfile(model, blobs / digest)
    return tmp_path / "home"


async def test_the_sample_is_laid_out_and_served_and_what_is_printed_works(home: Path) -> None:
    server = Server(None, home)
    try:
        server.start()
        for name in ("model default/smollm2", "tenant default/sample", "pipeline default/digest"):
            await server.says(f"{name}: ready")
        assert not any("there is no Secret" in line for line in server.err.lines)
        key = await server.sample_key()
        async with Client(server.url, key) as client:
            assert client.tenant == "default/sample"
            expected = await answer(client, QUESTIONS[0])
            outputs = (await client.pipeline("digest", {"text": expected})).outputs
        assert outputs.keys() == {"summary", "headline"}
        assert outputs["summary"]
        curl = "\n".join(server.out.lines).split("\n\n")[1]
        assert curl.startswith("curl ")
        printed = shlex.split(curl.replace("\\\n", " "))
        run = asyncio.to_thread(subprocess.check_output, printed, text=True, timeout=120)
        said = await run
        # The printed line samples, so how much it says differs.
        assert said.count("data: ") > 3
        assert "[DONE]" in said

        before = sorted(path.name for path in (home / "sample").iterdir())
        server.terminate()
        assert server.wait() == 0
        server.start()
        again = await server.sample_key()
        assert again != key, "only digests are kept, so each start makes a key"
        await server.says("model default/smollm2: ready")
        async with Client(server.url, again) as client:
            assert await answer(client, QUESTIONS[0]) == expected
        old = Client(server.url, key)
        await raises(Unauthenticated, old.connect, "the key of the last start is refused")
        await old.close()
        assert sorted(path.name for path in (home / "sample").iterdir()) == before
    finally:
        server.close()


def test_one_prompt_is_answered_on_the_command_line(home: Path) -> None:
    args = ("run", QUESTIONS[0], "--home", home, "--temperature", "0", "--max-tokens", "16")
    first = realm(*args)
    assert first.returncode == 0, first.stderr
    assert len(first.stdout.split()) > 3
    assert realm(*args).stdout == first.stdout


def test_models_and_the_machine_are_described(home: Path, model: Path) -> None:
    listed = realm("models", "list", "--home", home)
    assert listed.returncode == 0, listed.stderr
    assert hashlib.sha256(model.read_bytes()).hexdigest()[:12] in listed.stdout
    told = realm("models", "info", model, "--home", home)
    assert told.returncode == 0, told.stderr
    for fact in ("llama", "Q4_1", "8192"):
        assert fact in told.stdout
    machine = realm("info", "--home", home)
    assert machine.returncode == 0, machine.stderr
    assert "Q4_1" in machine.stdout
