"""Texts become vectors through every door: right, in order, apart, paid for, and never cut."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from conftest import Serve
from harness.folder import MODEL, Folder
from harness.server import Server, realm
from harness.talk import QUESTIONS, answer, asked, stream
from harness.vectors import APART_MAX, ENCODER, apart, likeness, reference
from realm_client import InvalidRequest, RateLimited

REFERENCE = reference()


@pytest.fixture(scope="module")
def server(serve: Serve, encoder: Path) -> Server:
    def fill(folder: Folder) -> None:
        folder.model(encoder, ENCODER)
        folder.tenant("acme", models=[ENCODER, MODEL])
        folder.tenant("zeta", models=[ENCODER])
        folder.tenant("talker")
        folder.tenant("narrow", models=[ENCODER], limits={"context": 8})
        folder.tenant("poor", models=[ENCODER], limits={"inputTokensPerMinute": 250})

    return serve(fill)


def official(server: Server, tenant: str = "acme") -> openai.AsyncOpenAI:
    """The official client of a tenant."""
    return openai.AsyncOpenAI(
        base_url=server.http,
        api_key=server.folder.key(tenant),
        max_retries=0,
        http_client=openai.DefaultAsyncHttpxClient(trust_env=False),
    )


def check(vectors: Sequence[Sequence[float]]) -> None:
    """Holds vectors of all texts to the reference."""
    assert len(vectors) == len(REFERENCE.vectors)
    for vector, expected in zip(vectors, REFERENCE.vectors, strict=True):
        assert apart(vector, expected) <= APART_MAX


async def test_vectors_are_those_of_another_program_in_the_order_of_the_texts(
    server: Server,
) -> None:
    async with server.client("acme") as client:
        found = await client.embed(REFERENCE.texts)
        turned = await client.embed(list(reversed(REFERENCE.texts)))
        by_ids = await client.embed(REFERENCE.ids, model=ENCODER)
    check(found.vectors)
    assert list(found.tokens) == [len(ids) for ids in REFERENCE.ids]
    assert found.usage is not None
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (REFERENCE.tokens, 0)
    assert list(reversed(turned.vectors)) == list(found.vectors)
    assert by_ids.vectors == found.vectors
    assert all(math.isclose(likeness(v, v), 1.0, abs_tol=1e-5) for v in found.vectors)


async def test_a_batch_is_what_its_texts_are_one_by_one(server: Server) -> None:
    texts = [f"{question} {number}" for number in range(12) for question in QUESTIONS]
    async with server.client("acme") as client:
        together = await client.embed(texts)
        alone = await asyncio.gather(*(client.embed(text) for text in texts[::14]))
    assert len(together.vectors) == len(texts)
    for one, whole in zip(alone, together.vectors[::14], strict=True):
        assert list(one.vectors) == [whole]


async def test_the_official_python_client_gets_the_same_vectors_in_either_form(
    server: Server,
) -> None:
    async with official(server) as client:
        # It asks for base64 by itself.
        plain = await client.embeddings.create(model=ENCODER, input=list(REFERENCE.texts))
        floats = await client.embeddings.create(
            model=ENCODER, input=list(REFERENCE.texts), encoding_format="float"
        )
        by_ids = await client.embeddings.create(
            model=ENCODER, input=[list(ids) for ids in REFERENCE.ids]
        )
        one = await client.embeddings.create(model=ENCODER, input=REFERENCE.texts[0])
        ids = await client.embeddings.create(model=ENCODER, input=list(REFERENCE.ids[0]))
    for answered in (plain, floats, by_ids):
        assert [item.index for item in answered.data] == list(range(len(REFERENCE.texts)))
        check([item.embedding for item in answered.data])
        assert answered.model == ENCODER
        assert answered.usage.prompt_tokens == answered.usage.total_tokens == REFERENCE.tokens
    for answered in (one, ids):
        [item] = answered.data
        assert apart(item.embedding, REFERENCE.vectors[0]) <= APART_MAX


async def test_base64_is_the_same_numbers_as_digits(server: Server) -> None:
    headers = {"Authorization": f"Bearer {server.folder.key('acme')}"}
    found = []
    async with httpx.AsyncClient(trust_env=False, timeout=60, headers=headers) as client:
        for form in ("float", "base64"):
            body = {"model": ENCODER, "input": "The sea", "encoding_format": form}
            answered = await client.post(f"{server.http}/embeddings", json=body)
            assert answered.status_code == httpx.codes.OK, answered.text
            assert answered.headers["content-type"] == "application/json"
            assert answered.headers["x-request-id"].startswith("embd-")
            found.append(answered.json()["data"][0]["embedding"])
    floats, text = found
    bits = base64.b64decode(text)
    decoded = struct.unpack(f"<{len(bits) // 4}f", bits)
    assert [struct.unpack("<f", struct.pack("<f", x))[0] for x in floats] == list(decoded)


async def test_the_official_node_client_gets_the_same_vectors(
    server: Server, node_folder: Path
) -> None:
    # It asks for base64 by itself, and reads it.
    body = {"model": ENCODER, "input": list(REFERENCE.texts)}
    got = await node(node_folder, server, body)
    assert got["error"] is None
    check(got["vectors"])
    assert got["usage"] == {"prompt_tokens": REFERENCE.tokens, "total_tokens": REFERENCE.tokens}
    got = await node(node_folder, server, {"model": MODEL, "input": "a"})
    assert got["error"] == {
        "name": "BadRequestError",
        "status": 400,
        "code": "unsupported",
        "param": "model",
    }


async def node(folder: Path, server: Server, body: dict[str, Any]) -> Any:
    """What the official Node client makes of a request."""
    script = Path(__file__).parent / "clients" / "embed.mjs"
    key = server.folder.key("acme")
    command = ["node", str(script), str(folder), server.http, key, json.dumps(body)]
    run = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


async def test_two_tenants_at_once_get_what_each_gets_alone(server: Server) -> None:
    texts = {name: [f"{name} {question}" for question in QUESTIONS] for name in ("acme", "zeta")}
    async with server.client("acme") as acme, server.client("zeta") as zeta:
        clients = {"acme": acme, "zeta": zeta}
        alone = {
            name: (await client.embed(texts[name], model=ENCODER)).vectors
            for name, client in clients.items()
        }
        calls = [
            (name, client.embed(texts[name], model=ENCODER))
            for _ in range(4)
            for name, client in clients.items()
        ]
        together = await asyncio.gather(*(call for _, call in calls))
    for (name, _), found in zip(calls, together, strict=True):
        assert found.vectors == alone[name]


async def test_answers_stream_on_beside_a_flood_of_texts(server: Server) -> None:
    texts = [f"{question} {number}" for number in range(40) for question in QUESTIONS]
    async with server.client("zeta") as flood, server.client("talker") as client:
        whole = await answer(client, QUESTIONS[0])
        flooding = asyncio.gather(*(flood.embed(texts) for _ in range(3)))
        heard = await stream(client, QUESTIONS[0])
        await flooding
    assert heard.text == whole


async def test_texts_are_charged_to_the_input_limit(server: Server) -> None:
    async with server.client("poor") as client:
        found = await client.embed(REFERENCE.texts[6])
        assert found.quota is not None
        assert found.quota.input_tokens is not None
        left = found.quota.input_tokens
        assert 48 <= left <= 60
        with pytest.raises(RateLimited) as refused:
            await client.embed(REFERENCE.texts[6])
        assert refused.value.code == "too_many_tokens"
        assert refused.value.retry_after is not None
        # What is missing of 202 tokens, at 250 a minute.
        assert 20 <= refused.value.retry_after <= (202 - left) * 60 / 250
        with pytest.raises(InvalidRequest) as heavy:
            await client.embed([REFERENCE.texts[6]] * 2)
        assert heavy.value.code == "too_long"
        assert "limits.inputTokensPerMinute is 250" in str(heavy.value)
    metrics = server.metrics()
    tenant = {"tenant": "default/poor", "model": f"default/{ENCODER}"}
    # Of texts that are refused nothing is computed.
    assert metrics.value("realm_engine_tenant_prompt_tokens_total", **tenant) == 202
    requests = {"tenant": "default/poor", "function": "embed"}
    assert metrics.value("realm_gateway_requests_total", code="ok", **requests) == 1
    assert metrics.value("realm_gateway_requests_total", code="too_many_tokens", **requests) == 1


async def test_a_text_that_is_too_long_is_refused_with_its_place_and_never_cut(
    server: Server,
) -> None:
    long = "sea " * 600
    async with server.client("acme") as client:
        with pytest.raises(InvalidRequest) as refused:
            await client.embed(["the sea", long])
        assert refused.value.code == "too_long"
        assert refused.value.message.startswith("text 1 has 602 tokens and 512 are the most")
        fits = await client.embed(long[: 4 * 510])
        assert list(fits.tokens) == [512]
    async with server.client("narrow") as client:
        with pytest.raises(InvalidRequest, match="text 0 has 14 tokens and 8 are the most"):
            await client.embed(REFERENCE.texts[1])
    async with official(server) as client_:
        with pytest.raises(openai.BadRequestError) as problem:
            await client_.embeddings.create(model=ENCODER, input=["the sea", long])
        assert (problem.value.code, problem.value.param) == ("context_length_exceeded", "input[1]")


async def test_what_a_call_may_not_have_is_refused_before_anything_is_computed(
    server: Server,
) -> None:
    async with server.client("acme") as client:
        for texts, told in (
            ([], "without a text"),
            (["a"] * 2049, "2049 texts; 2048 are the most"),
            (["sea " * 500] * 70, "32768 are the most"),
            ([[30522]], "text 0: token 30522 is not in the vocabulary"),
            ([[]], "text 0 has no tokens"),
        ):
            with pytest.raises(InvalidRequest, match=told) as refused:
                await client.embed(texts)
            assert refused.value.code == "invalid"
        with pytest.raises(InvalidRequest, match="makes 384 and was not trained for fewer"):
            await client.embed("a", dimensions=128)
        with pytest.raises(InvalidRequest, match="vectors of 385 numbers; the model makes 384"):
            await client.embed("a", dimensions=385)
        whole = await client.embed("a", dimensions=384)
        raw = await client.embed("a", normalize=False)
    length = math.sqrt(likeness(raw.vectors[0], raw.vectors[0]))
    assert not math.isclose(length, 1.0, rel_tol=1e-3)
    scaled = [x / length for x in raw.vectors[0]]
    assert apart(scaled, whole.vectors[0]) <= APART_MAX


async def test_a_model_says_what_it_can_to_a_call_that_it_cannot_serve(server: Server) -> None:
    async with server.client("acme") as client:
        models = {model.alias: model for model in (await client.metadata()).models}
        with pytest.raises(InvalidRequest) as refused:
            await client.chat(asked(QUESTIONS[0]), model=ENCODER, max_tokens=1)
        assert refused.value.code == "unsupported"
        assert refused.value.message == "model `minilm` cannot `chat`; it can `embed`"
        with pytest.raises(InvalidRequest, match="cannot `generate`; it can `embed`"):
            await client.generate("a", model=ENCODER, max_tokens=1)
        with pytest.raises(InvalidRequest, match="cannot `embed`; it can `generate` and `chat`"):
            await client.embed("a", model=MODEL)
        assert (await client.tokenize("The sea", model=ENCODER)).count == 2
    assert models[ENCODER].functions == ("embed",)
    embeds = models[ENCODER].embeds
    assert embeds is not None
    assert (embeds.dimensions, embeds.tokens_max, embeds.shortens) == (384, 512, False)
    assert models[MODEL].functions == ("generate", "chat")
    assert models[MODEL].embeds is None
    async with official(server) as client_:
        listed = {model.id: model.model_dump() for model in (await client_.models.list()).data}
    assert listed[ENCODER]["functions"] == ["embed"]
    assert listed[ENCODER]["embeds"]["dimensions"] == 384
    assert listed[MODEL]["functions"] == ["generate", "chat"]


async def test_realm_check_takes_a_vector_of_a_model_that_only_reads(
    server: Server, tmp_path: Path
) -> None:
    file = tmp_path / "key"
    file.write_text(server.folder.key("zeta"))
    done = await asyncio.to_thread(realm, "check", "--url", server.url, "--key-file", file)
    assert done.returncode == 0, done.stderr
    assert "has answered" in done.stdout


async def test_as_many_texts_as_a_call_takes_come_back_in_one_message(server: Server) -> None:
    async with server.client("zeta") as client:
        found = await client.embed([[101, 102]] * 2048)
    assert len(found.vectors) == 2048
    assert all(vector == found.vectors[0] for vector in found.vectors)
