"""Adapters: a model of its own to everybody who may use it, and rows of the same batch."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from openai import AsyncOpenAI

from conftest import Serve
from harness.adapters import write_adapter
from harness.folder import MODEL, Folder
from harness.plane import Plane
from harness.server import Server
from harness.talk import QUESTIONS, answer, asked
from harness.wait import eventually
from realm_client import Busy, Client, NotFound

TOKENS = 16


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    write_adapter(folder / "first.gguf", 1)
    write_adapter(folder / "second.gguf", 2)
    write_adapter(folder / "nothing.gguf", 3, size=0)
    return folder


@pytest.fixture(scope="module")
def server(serve: Serve, model: Path, files: Path) -> Server:
    def fill(folder: Folder) -> None:
        folder.model(model, kvBlocks=256)
        for name in ("first", "second", "nothing"):
            folder.model(files / f"{name}.gguf", name, adapterOf={"name": MODEL})
        folder.tenant("acme", models=[MODEL, "first", "second", "nothing"])
        folder.tenant("zeta", models=["second"])

    return serve(fill)


async def written(client: Client, model: str, question: str = QUESTIONS[0]) -> str:
    done = await client.chat(asked(question), model=model, max_tokens=TOKENS, temperature=0)
    return done.text


async def test_an_adapter_answers_otherwise_and_leaves_the_model_as_it_was(server: Server) -> None:
    async with server.client("acme") as client:
        plain = await written(client, MODEL)
        first, second = await written(client, "first"), await written(client, "second")
        assert len({plain, first, second}) == 3
        assert await written(client, "nothing") == plain
        assert await written(client, MODEL) == plain
        assert await written(client, "first") == first


async def test_whoever_may_use_an_adapter_alone_may_not_use_its_model(server: Server) -> None:
    async with server.client("zeta") as client, server.client("acme") as other:
        second = await written(other, "second")
        assert await answer(client, QUESTIONS[0], TOKENS) == second, (
            "its first model is its default"
        )
        for name in (MODEL, "first"):
            with pytest.raises(NotFound):
                await written(client, name)
        models = (await client.metadata()).models
    assert [(info.alias, info.ready) for info in models] == [("second", True)]
    openai = AsyncOpenAI(base_url=server.http, api_key=server.folder.key("zeta"))
    async with openai:
        assert [listed.id async for listed in openai.models.list()] == ["second"]
        completion = await openai.chat.completions.create(
            model="second",
            messages=[{"role": "user", "content": QUESTIONS[0]}],
            max_tokens=TOKENS,
            temperature=0,
        )
    assert completion.choices[0].message.content == second
    assert completion.model == "second"


async def test_answers_of_one_batch_have_each_their_own_adapter(server: Server) -> None:
    names = [MODEL, "first", "second", "nothing"]
    async with server.client("acme") as client:
        alone = {name: await written(client, name, QUESTIONS[1]) for name in names}
        together = await asyncio.gather(
            *(written(client, name, QUESTIONS[1]) for name in names for _ in range(4))
        )
    assert together == [alone[name] for name in names for _ in range(4)]


async def test_nothing_cached_with_an_adapter_is_found_without_it(server: Server) -> None:
    question = f"{QUESTIONS[2]} {'Say it once more, slowly and clearly. ' * 8}"

    async def cached(client: Client, model: str) -> int:
        done = await client.chat(asked(question), model=model, max_tokens=1, temperature=0)
        assert done.usage is not None
        return done.usage.cached_tokens

    async with server.client("acme") as client:
        assert [await cached(client, name) for name in ("first", "second", MODEL)] == [0, 0, 0]
        again = [await cached(client, name) for name in ("first", "second", MODEL)]
    assert min(again) >= 32


async def test_what_an_adapter_uses_is_the_tenants_and_counted_with_its_model(
    server: Server,
) -> None:
    def generated() -> float:
        name = "realm_engine_tenant_generated_tokens_total"
        return server.metrics().value(name, tenant="default/zeta", model=f"default/{MODEL}")

    before = generated()
    async with server.client("zeta") as client:
        await written(client, "second")
    assert generated() - before == TOKENS


async def test_an_adapter_comes_back_with_a_model_that_is_loaded_anew(
    server: Server, model: Path
) -> None:
    async with server.client("acme") as client:
        first = await written(client, "first")
        seen = len(server.err.lines)
        server.folder.model(model, kvBlocks=320)

        async def is_back() -> str | None:
            if not any(f"model default/{MODEL}: ready" in line for line in server.err.lines[seen:]):
                return None
            try:
                return await written(client, "first")
            except Busy:
                return None

        assert await eventually(is_back, "the adapter is loaded again", within_s=60) == first


async def test_files_that_are_not_what_a_manifest_calls_them_are_told_and_refused(
    server: Server, model: Path, files: Path, tmp_path: Path
) -> None:
    base = {"adapterOf": {"name": MODEL}}
    server.folder.model(files / "first.gguf", "bare")
    server.folder.model(model, "whole", **base)
    server.folder.model(write_adapter(tmp_path / "deep.gguf", 4, layers=31), "deep", **base)
    server.folder.tenant("acme", models=[MODEL, "first", "second", "nothing", "bare", "deep"])
    told = await server.says("model default/bare: failed, IsAdapter: ")
    assert "adapterOf" in told
    await server.says("model default/whole: failed, AdapterInvalid: ")
    told = await server.says("model default/deep: failed, AdapterMismatch: ")
    assert "blk.30." in told
    async with server.client("acme") as client:
        for name in ("bare", "deep"):
            with pytest.raises(Busy) as refused:
                await written(client, name)
            assert refused.value.code == "model_not_ready"
        assert await written(client, MODEL)
    server.folder.model(files / "first.gguf", "stray", adapterOf={"name": "missing"})
    await server.says(re.escape("spec.adapterOf: there is no model `missing` (UnknownModel)"))


async def test_a_call_for_an_adapter_wakes_its_model_in_a_cluster(
    plane: Plane, model: Path, files: Path
) -> None:
    operator = plane.operator("operator-0")
    agents = [plane.agent(node, [operator]) for node in ("alpha", "beta")]
    asleep = {"min": 0, "max": 1, "idleAfterSeconds": 600}
    source = model.absolute().as_uri()
    plane.apply("Model", MODEL, {"sources": [source], "kvBlocks": 256, "scaling": asleep})
    sources = [(files / "first.gguf").as_uri()]
    plane.apply("Model", "first", {"sources": sources, "adapterOf": {"name": MODEL}})
    plane.apply("Model", "stray", {"sources": sources, "adapterOf": {"name": "missing"}})
    plane.tenant("acme", models=[{"name": "first"}])
    assert plane.await_condition("model", "first", "True")["reason"] == "ScaledToZero"
    stray = plane.await_condition("model", "stray", "False")
    assert stray["reason"] == "UnknownModel"
    assert "missing" in stray["message"]
    plane.await_condition("tenant", "acme", "True")
    texts = set()
    for agent in agents:
        async with agent.client("acme") as client:
            texts.add(await written(client, "first"))
            with pytest.raises(NotFound):
                await written(client, MODEL)
    assert len(texts) == 1, "whichever door it comes to"
    plane.await_condition("model", "first", "True", "Loaded")
    status = plane.get("model", "first")["status"]
    assert status["replicas"] == 1
    assert (status["architecture"], status["format"]) == ("llama", "F32")
    assert "context" not in status
    assert status["nodes"] == plane.get("model", MODEL)["status"]["nodes"]
