"""One real model behind three doors: the same question has the same answer everywhere."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from conftest import Serve
from harness.folder import MODEL, Folder, step
from harness.server import Server
from harness.talk import QUESTIONS, TOKENS, answer, asked, stream
from realm_client import Client, InvalidRequest, NotFound

QUESTION = QUESTIONS[0]
SYSTEM = "You are terse."
VECTORS = Path(__file__).parents[1] / "vectors" / "tokens" / "tokens-smollm2.json"


def fill(folder: Folder) -> None:
    folder.tenant("acme")
    folder.pipeline("terse", ["acme"], step("only", "{{ inputs.text }}", tokens_max=8))


@pytest.fixture(scope="module")
def server(serve: Serve) -> Server:
    return serve(fill)


@pytest.fixture(scope="module")
def key(server: Server) -> str:
    return server.folder.key("acme")


@pytest.fixture(scope="module")
def whole(server: Server, key: str) -> str:
    """The answer that every door must give."""

    async def ask() -> str:
        async with Client(server.url, key) as client:
            return await answer(client, QUESTION)

    text = asyncio.run(ask())
    assert len(text.split()) > 3, text
    return text


def request(**fields: Any) -> dict[str, Any]:
    """A question as the OpenAI door takes it."""
    body = {"model": MODEL, "messages": asked(QUESTION), "max_tokens": TOKENS, "temperature": 0}
    return body | fields


def official(server: Server, key: str) -> openai.AsyncOpenAI:
    """The official client, without its own retries: the tests want to see every refusal."""
    http = openai.DefaultAsyncHttpxClient(trust_env=False)
    return openai.AsyncOpenAI(base_url=server.http, api_key=key, max_retries=0, http_client=http)


async def test_an_answer_streams_piece_by_piece(server: Server, key: str, whole: str) -> None:
    async with Client(server.url, key) as client:
        messages = asked(QUESTION)
        streamed = client.chat_stream(messages, max_tokens=TOKENS, temperature=0)
        pieces = [chunk async for chunk in streamed]
        reply = await streamed.result()
    assert reply.text == whole
    assert [piece.index for piece in pieces] == list(range(len(pieces)))
    assert len(pieces) > TOKENS // 2
    assert reply.usage.completion_tokens <= TOKENS
    assert (reply.finish == "length") == (reply.usage.completion_tokens == TOKENS)


async def test_the_official_python_client_gets_the_same_answer_whole(
    server: Server, key: str, whole: str
) -> None:
    async with official(server, key) as client:
        reply = await client.chat.completions.create(**request())
    [choice] = reply.choices
    assert choice.message.content == whole
    assert choice.finish_reason in {"stop", "length"}
    assert reply.usage is not None
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens


async def test_the_official_python_client_gets_the_same_answer_by_events(
    server: Server, key: str, whole: str
) -> None:
    options = {"include_usage": True}
    async with official(server, key) as client:
        events = await client.chat.completions.create(
            **request(stream=True, stream_options=options)
        )
        pieces = [event async for event in events]
    deltas = [choice.delta.content or "" for piece in pieces for choice in piece.choices]
    assert "".join(deltas) == whole
    assert sum(bool(delta) for delta in deltas) > TOKENS // 2
    assert pieces[-1].usage is not None
    assert pieces[-1].usage.completion_tokens <= TOKENS


async def test_events_end_with_done_and_are_not_to_be_cached(server: Server, key: str) -> None:
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        answered = await client.post(
            f"{server.http}/chat/completions",
            headers=headers,
            json=request(stream=True, max_tokens=3),
        )
    assert answered.headers["content-type"].startswith("text/event-stream")
    assert "no-cache" in answered.headers["cache-control"]
    events = answered.text.strip().split("\n\n")
    assert events[-1] == "data: [DONE]"
    for event in events[:-1]:
        assert json.loads(event.removeprefix("data: "))["object"] == "chat.completion.chunk"


async def test_the_completions_door_answers_as_generate_does(server: Server, key: str) -> None:
    prompt = "Once upon a time"
    async with official(server, key) as client, Client(server.url, key) as own:
        theirs = await client.completions.create(
            model=MODEL, prompt=prompt, max_tokens=8, temperature=0
        )
        ours = await own.generate(prompt, max_tokens=8, temperature=0)
    assert theirs.choices[0].text == ours.text


@pytest.mark.parametrize("streams", [False, True])
async def test_the_official_node_client_gets_the_same_answer(
    server: Server, key: str, whole: str, node_folder: Path, streams: bool
) -> None:
    body = request(stream=streams, logprobs=True, top_logprobs=2)
    if streams:
        body["stream_options"] = {"include_usage": True}
    got = await node(node_folder, server, key, body)
    assert got["error"] is None
    assert got["text"] == whole
    assert "".join(token for token, _ in got["tokens"]) == whole
    assert {count for _, count in got["tokens"]} == {2}
    assert got["models"] == [MODEL]
    assert (len(got["pieces"]) > TOKENS // 2) == streams
    assert got["usage"]["completion_tokens"] <= TOKENS
    assert got["finish"] in {"stop", "length"}


async def test_the_official_clients_know_a_wrong_key_and_an_unknown_model(
    server: Server, key: str, node_folder: Path
) -> None:
    async with official(server, "rk_wrong") as client:
        with pytest.raises(openai.AuthenticationError):
            await client.chat.completions.create(**request())
    async with official(server, key) as client:
        with pytest.raises(openai.NotFoundError) as unknown:
            await client.chat.completions.create(**request(model="gpt-4"))
        assert unknown.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError) as refused:
            await client.chat.completions.create(**request(logit_bias={"5": 101}))
        assert refused.value.param == "logit_bias"
    got = await node(node_folder, server, "rk_wrong", request())
    assert got["error"] == {"name": "AuthenticationError", "status": 401, "code": "invalid_api_key"}


async def node(folder: Path, server: Server, key: str, body: dict[str, Any]) -> Any:
    """What the official Node client makes of a request."""
    script = Path(__file__).parent / "clients" / "chat.mjs"
    command = ["node", str(script), str(folder), server.http, key, json.dumps(body)]
    run = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


async def test_the_models_door_lists_what_the_tenant_may_use(server: Server, key: str) -> None:
    async with official(server, key) as client:
        assert [model.id async for model in client.models.list()] == [MODEL]
        assert (await client.models.retrieve(MODEL)).owned_by == "default/acme"
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("gpt-4")


async def test_many_calls_share_one_socket_and_none_gets_anothers_answer(
    server: Server, key: str
) -> None:
    async with Client(server.url, key) as client:
        questions = QUESTIONS[:8]
        alone = [await answer(client, question) for question in questions]
        together = await asyncio.gather(*(stream(client, question) for question in questions))
    assert [heard.text for heard in together] == alone
    assert len(set(alone)) == len(alone)


async def test_a_system_message_and_a_stop_string_reach_the_model(
    server: Server, key: str, whole: str
) -> None:
    async with Client(server.url, key) as client:
        steered = await client.chat(
            asked(QUESTION, "Answer in French only."), max_tokens=TOKENS, temperature=0
        )
        word = whole.split()[2]
        stopped = await client.chat(asked(QUESTION), max_tokens=TOKENS, temperature=0, stop=[word])
    assert steered.text != whole
    assert stopped.text == whole[: whole.index(word)]
    assert stopped.finish == "stop"


async def test_a_seed_makes_a_sampled_answer_repeatable(server: Server, key: str) -> None:
    async def sample(seed: int) -> str:
        reply = await client.chat(
            asked(QUESTION), max_tokens=TOKENS, temperature=1.5, top_p=1.0, seed=seed
        )
        return reply.text

    async with Client(server.url, key) as client:
        assert await sample(7) == await sample(7)
        assert len({await sample(seed) for seed in (1, 2, 3, 4)}) > 1


async def test_text_becomes_the_models_own_tokens(server: Server, key: str) -> None:
    vectors = json.loads(VECTORS.read_text())["strings"]
    async with Client(server.url, key) as client:
        for name, vector in vectors.items():
            tokens = await client.tokenize(vector["text"])
            assert list(tokens.tokens) == vector["ids_plain"], name
            assert tokens.count == len(vector["ids_plain"])


async def test_the_server_describes_itself(server: Server, key: str) -> None:
    async with Client(server.url, key) as client:
        assert client.tenant == "default/acme"
        health = await client.health()
        metadata = await client.metadata()
    assert health.status == "ok"
    assert health.version == metadata.version == client.server_version
    functions = {function.name: function for function in metadata.functions}
    assert {
        "generate",
        "chat",
        "embed",
        "tokenize",
        "pipeline",
        "health",
        "metadata",
    } == functions.keys()
    assert functions["chat"].streams
    assert functions["chat"].params_schema["required"] == ["messages"]
    [model] = metadata.models
    assert (model.alias, model.ready) == (MODEL, True)
    assert model.context is not None
    assert model.context >= 2048
    assert list(metadata.pipelines) == ["terse"]


async def test_what_does_not_exist_or_makes_no_sense_is_refused_by_name(
    server: Server, key: str
) -> None:
    async with Client(server.url, key) as client:
        with pytest.raises(NotFound, match="dance") as unknown:
            await client.call("dance", {})
        assert unknown.value.code == "unknown_function"
        with pytest.raises(NotFound, match="nothing"):
            await client.pipeline("nothing", {"text": "x"})
        with pytest.raises(InvalidRequest, match="temprature"):
            await client.call("chat", {"messages": asked(QUESTION), "temprature": 1})
        with pytest.raises(InvalidRequest, match="text"):
            await client.pipeline("terse", {})
        with pytest.raises(InvalidRequest) as long:
            await client.generate("word " * 20_000, max_tokens=1)
        assert long.value.code == "too_long"
        assert await answer(client, QUESTION, max_tokens=2)


async def test_probes_need_no_key_and_strangers_find_nothing_else(server: Server) -> None:
    base = server.http.removesuffix("/v1")
    async with httpx.AsyncClient(trust_env=False) as client:
        assert (await client.get(f"{base}/healthz")).status_code == 200
        assert (await client.get(f"{base}/readyz")).status_code == 200
        assert (await client.get(f"{base}/metrics")).status_code == 404
        assert (await client.get(f"{server.http}/models")).status_code == 401
