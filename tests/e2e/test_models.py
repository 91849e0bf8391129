"""Model files that are not there or not what they should be: typed, and nobody else's trouble."""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import Serve
from harness.folder import MODEL, Folder
from harness.server import Server
from harness.talk import QUESTIONS, answer, asked
from harness.wait import eventually
from realm_client import Busy, NotFound

WRONG = "0" * 64

#: Port 9 is closed on any machine that runs tests.
NOWHERE = "https://127.0.0.1:9/model.gguf"

BAD = ("truncated", "garbage", "empty", "missing", "forged", "unreachable")


@pytest.fixture(scope="module")
def server(serve: Serve, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Server:
    files = tmp_path_factory.mktemp("models")

    def bad(name: str, content: bytes) -> Path:
        path = files / f"{name}.gguf"
        path.write_bytes(content)
        return path

    def fill(folder: Folder) -> None:
        whole = model.read_bytes()
        folder.model(bad("truncated", whole[: len(whole) // 3]), "truncated")
        folder.model(bad("garbage", b"GGUF" + b"\xff" * 4096), "garbage")
        folder.model(bad("empty", b""), "empty")
        folder.model(files / "missing.gguf", "missing")
        folder.model(model, "forged", sha256=WRONG)
        folder.model(NOWHERE, "unreachable", sha256=WRONG)
        folder.tenant("acme", models=[MODEL, *BAD])
        folder.tenant("zeta")

    server = serve(fill, ready=False)
    for name in (f"model default/{MODEL}", "tenant default/acme", "tenant default/zeta"):
        server.await_line(f"{name}: ready")
    return server


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_model_is_told_with_its_reason_and_refused_typed(
    server: Server, name: str
) -> None:
    told = await server.says(rf"model default/{name}: failed, [A-Z]\w+: ")
    assert "panic" not in told
    async with server.client("acme") as client:
        with pytest.raises(Busy) as refused:
            await client.chat(asked(QUESTIONS[0]), model=name, max_tokens=1)
        assert refused.value.code == "model_not_ready"
        assert name in refused.value.message
        ready = {info.alias: info.ready for info in (await client.metadata()).models}
        assert ready == {MODEL: True} | dict.fromkeys(BAD, False)
        assert await answer(client, QUESTIONS[0], max_tokens=2)


async def test_a_model_that_was_not_granted_does_not_exist(server: Server) -> None:
    async with server.client("zeta") as client:
        refused = []
        for name in ("garbage", "absent", "default/smollm2"):
            with pytest.raises(NotFound) as unknown:
                await client.chat(asked(QUESTIONS[0]), model=name, max_tokens=1)
            refused.append((unknown.value.code, unknown.value.message.replace(name, "it")))
    assert set(refused) == {refused[0]}


async def test_a_model_whose_file_appears_is_loaded_by_itself(
    server: Server, model: Path, tmp_path: Path
) -> None:
    source = tmp_path / "late.gguf"
    server.folder.model(source, "late")
    await server.says("model default/late: failed, ")
    source.symlink_to(model)

    async def is_ready() -> bool:
        return any("model default/late: ready" in line for line in server.err.lines)

    await eventually(is_ready, "the model is loaded", within_s=90)
    server.folder.remove("model-late.yaml")


async def test_the_mirrors_are_tried_in_order(server: Server, model: Path) -> None:
    server.folder.put(
        "model-mirrored.yaml",
        {
            "apiVersion": "realm.dev/v1alpha1",
            "kind": "Model",
            "metadata": {"name": "mirrored"},
            "spec": {"sources": ["file:///nowhere/model.gguf", model.as_uri()]},
        },
    )
    await server.says("model default/mirrored: ready")
    server.folder.remove("model-mirrored.yaml")
