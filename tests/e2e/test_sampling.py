"""How tokens are chosen, and how likely they were: asked at every door, done by a real model."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from conftest import Serve
from harness.folder import MODEL, Folder, new_key, step
from harness.raw import raw
from harness.reader import Reader, all_under_way
from harness.server import Server
from harness.talk import LONG_PROMPT, QUESTIONS, asked
from realm_client import Chunk, Client, InvalidRequest, Logprobs, TextReply

#: One key for all servers, so that an answer can move.
KEY = new_key()

PROMPT = "One, two, three, one, two, three, one, two, three, one,"

#: What single precision may make of a sum of twenty probabilities.
ROUNDING = 1e-4


@pytest.fixture(scope="module")
def fill(pirate: Path) -> Callable[[Folder], None]:
    def fill(folder: Folder) -> None:
        folder.tenant("acme", key=KEY)
        folder.tenant("pirate", program={"sources": [pirate.as_uri()]})
        again = step("again", "{{ inputs.text }}", tokens_max=24)
        folder.pipeline("plain", ["acme"], again)
        folder.pipeline("stopped", ["acme"], again | {"stop": [" "], "topK": 5, "seed": 7})
        folder.pipeline("penal", ["acme"], again | {"presencePenalty": 2, "frequencyPenalty": 2})

    return fill


@pytest.fixture(scope="module")
def server(serve: Serve, fill: Callable[[Folder], None]) -> Server:
    return serve(fill)


def official(server: Server) -> openai.AsyncOpenAI:
    http = openai.DefaultAsyncHttpxClient(trust_env=False)
    return openai.AsyncOpenAI(base_url=server.http, api_key=KEY, max_retries=0, http_client=http)


async def greedy(server: Server, **sampling: Any) -> TextReply:
    """What the model says to the prompt, without chance where nothing else is asked."""
    settings: dict[str, Any] = {"max_tokens": 24, "temperature": 0} | sampling
    async with Client(server.url, KEY) as client:
        return await client.generate(PROMPT, **settings)


async def test_the_same_seed_draws_the_same_text_and_another_one_another(server: Server) -> None:
    async def drawn(seed: int) -> str:
        lively: dict[str, Any] = {"typical_p": 0.98, "min_p": 0.01, "top_k": 200}
        return (await greedy(server, seed=seed, temperature=1.5, **lively)).text

    first, second, other = await drawn(7), await drawn(7), await drawn(8)
    assert first == second
    assert first != other


async def test_a_bias_forbids_a_token_and_forces_one(server: Server) -> None:
    free = await greedy(server, logprobs=1)
    likeliest = free.logprobs[0].chosen.id
    banned = await greedy(server, logprobs=1, logit_bias={likeliest: -100})
    assert likeliest not in {told.chosen.id for told in banned.logprobs}
    # The model itself still finds it the likeliest: what is told is what it says unbent.
    assert banned.logprobs[0].top[0].id == likeliest
    assert banned.logprobs[0].chosen.logprob < free.logprobs[0].chosen.logprob
    other = banned.logprobs[0].chosen
    forced = await greedy(server, logprobs=0, logit_bias={other.id: 100})
    assert {told.chosen.id for told in forced.logprobs} == {other.id}
    assert forced.text == other.text * 24


@pytest.mark.parametrize(
    "penalty",
    [{"repetition_penalty": 5.0}, {"frequency_penalty": 2.0}, {"presence_penalty": 2.0}],
    ids=lambda penalty: next(iter(penalty)),
)
async def test_a_penalty_changes_an_answer_that_repeats_itself(
    server: Server, penalty: dict[str, Any]
) -> None:
    free = await greedy(server, logprobs=0)
    held = await greedy(server, logprobs=0, **penalty)
    assert distinct(free) < len(free.logprobs) / 2, "it repeats itself"
    assert held.text != free.text
    assert distinct(held) > distinct(free)


def distinct(reply: TextReply) -> int:
    return len({told.chosen.id for told in reply.logprobs})


async def test_greedy_tokens_are_the_likeliest_and_probabilities_sum_to_one_at_most(
    server: Server,
) -> None:
    async with Client(server.url, KEY) as client:
        stream = client.chat_stream(asked(QUESTIONS[0]), max_tokens=24, temperature=0, logprobs=20)
        chunks = [chunk async for chunk in stream]
        reply = await stream.result()
        whole = await client.chat(asked(QUESTIONS[0]), max_tokens=24, temperature=0, logprobs=20)
        plain = client.chat_stream(asked(QUESTIONS[0]), max_tokens=24, temperature=0)
        assert not any([chunk.logprobs async for chunk in plain])
    check_greedy(reply.logprobs)
    assert b"".join(told.chosen.bytes for told in reply.logprobs).decode() == reply.text
    assert whole.text == reply.text
    assert [told.chosen.id for told in whole.logprobs] == [
        told.chosen.id for told in reply.logprobs
    ]
    for chunk in chunks:
        assert b"".join(told.chosen.bytes for told in chunk.logprobs).decode() == chunk.text


def check_greedy(logprobs: Sequence[Logprobs]) -> None:
    """Each chosen token is the first of twenty in their order."""
    assert logprobs
    for told in logprobs:
        assert told.top[0] == told.chosen
        values = [token.logprob for token in told.top]
        assert values == sorted(values, reverse=True)
        assert len({token.id for token in told.top}) == 20
        assert math.fsum(math.exp(value) for value in values) <= 1 + ROUNDING


async def test_tokens_of_a_stop_string_are_told_though_their_text_is_not(server: Server) -> None:
    free = await greedy(server, logprobs=0)
    third = free.text[: len(free.text) // 2]
    stop = free.text[len(third) : len(third) + 4]
    ended = await greedy(server, logprobs=0, stop=stop)
    assert ended.finish == "stop"
    assert free.text.startswith(ended.text)
    told = b"".join(told.chosen.bytes for told in ended.logprobs).decode()
    assert ended.text + stop in told
    assert len(ended.logprobs) == ended.usage.completion_tokens


async def test_an_answer_that_moves_goes_on_with_its_settings_and_its_probabilities(
    serve: Serve, fill: Callable[[Folder], None], server: Server
) -> None:
    doomed = serve(fill)
    settings: dict[str, Any] = {
        "max_tokens": 96,
        "temperature": 0,
        "frequency_penalty": 0.5,
        "presence_penalty": 0.5,
        "repetition_penalty": 1.1,
        "logprobs": 2,
    }
    async with Client([doomed.url, server.url], KEY) as client:
        reader = Reader(client.generate_stream(LONG_PROMPT, **settings))
        reading = asyncio.create_task(reader.read())
        await all_under_way([reader], [reading])
        doomed.kill()
        moved = await reading
    reader.check(moved)
    start, at = reader.legs
    assert (start, at > 0) == (0, True)
    assert len(moved.logprobs) == sum(
        len(chunk.progress.tokens) for chunk in reader.chunks if chunk.progress is not None
    )
    rest = [told for chunk in reader.chunks[at:] for told in chunk.logprobs]
    told = await rest_of(server, reader.chunks[:at], settings)
    assert [one["chosen"]["id"] for one in told] == [one.chosen.id for one in rest]
    assert [len(one["top"]) for one in told] == [2] * len(rest)
    for theirs, ours in zip(told, rest, strict=True):
        assert theirs["chosen"]["logprob"] == pytest.approx(ours.chosen.logprob, abs=0.05)


async def rest_of(server: Server, chunks: list[Chunk], settings: dict[str, Any]) -> list[Any]:
    """The probabilities of what a server says behind these chunks, asked by somebody else."""
    progress = [chunk.progress for chunk in chunks if chunk.progress is not None]
    tokens = [token for each in progress for token in each.tokens]
    text_bytes = sum(len((chunk.text or "").encode()) for chunk in chunks)
    resume = {"tokens": tokens, "text_bytes": text_bytes, "seed": progress[0].seed}
    params = {"prompt": LONG_PROMPT} | settings
    told: list[Any] = []
    async with raw(server.url, KEY) as socket:
        call = {"id": "1", "function": "generate", "params": params, "resume": resume}
        await socket.send(call)
        while (frame := await socket.frame())["status"] == "streaming":
            told += frame["data"].get("logprobs", [])
    assert frame["status"] == "complete", frame
    return told


async def test_a_tenants_own_program_passes_settings_and_probabilities_on(server: Server) -> None:
    async with server.client("pirate") as client:
        settings: dict[str, Any] = {"max_tokens": 8, "temperature": 0, "logprobs": 1}
        reply = await client.chat(asked(QUESTIONS[0]), **settings)
        first = reply.logprobs[0].chosen
        other = await client.chat(asked(QUESTIONS[0]), logit_bias={first.id: -100}, **settings)
    assert reply.text.isupper()
    assert other.logprobs[0].chosen.id != first.id


async def test_the_official_client_reads_the_probabilities_of_a_chat(server: Server) -> None:
    body: dict[str, Any] = {
        "model": MODEL,
        "messages": asked(QUESTIONS[0]),
        "max_tokens": 12,
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": 3,
    }
    async with official(server) as client:
        whole = (await client.chat.completions.create(**body)).choices[0]
        events = await client.chat.completions.create(**body, stream=True)
        choices = [event.choices[0] async for event in events]
    assert whole.logprobs is not None
    content = whole.logprobs.content
    assert content
    assert "".join(token.token for token in content) == whole.message.content
    for token in content:
        assert token.bytes == list(token.token.encode())
        assert token.top_logprobs[0].logprob == token.logprob
        assert len(token.top_logprobs) == 3
    streamed = [
        token for choice in choices if choice.logprobs for token in choice.logprobs.content or ()
    ]
    assert [token.token for token in streamed] == [token.token for token in content]
    assert "".join(choice.delta.content or "" for choice in choices) == whole.message.content


async def test_the_official_client_reads_the_probabilities_of_a_completion(
    server: Server,
) -> None:
    body: dict[str, Any] = {
        "model": MODEL,
        "prompt": PROMPT,
        "max_tokens": 12,
        "temperature": 0,
        "logprobs": 2,
    }
    async with official(server) as client:
        whole = (await client.completions.create(**body)).choices[0]
        events = await client.completions.create(**body, stream=True)
        choices = [event.choices[0] async for event in events]
        bare = await client.completions.create(**body | {"logprobs": None})
    told = whole.logprobs
    assert told is not None
    assert told.tokens is not None
    assert told.token_logprobs is not None
    assert told.top_logprobs is not None
    assert told.text_offset is not None
    assert "".join(told.tokens) == whole.text
    for token, logprob, top, offset in zip(
        told.tokens, told.token_logprobs, told.top_logprobs, told.text_offset, strict=True
    ):
        assert whole.text[offset:].startswith(token)
        assert top[token] == logprob == max(top.values())
    pieces = [choice.logprobs for choice in choices if choice.logprobs]
    offsets = [offset for piece in pieces for offset in piece.text_offset or ()]
    assert offsets == told.text_offset
    assert bare.choices[0].logprobs is None


async def test_the_official_client_bends_what_the_model_says(server: Server) -> None:
    body: dict[str, Any] = {"model": MODEL, "prompt": PROMPT, "max_tokens": 24, "temperature": 0}
    free = await greedy(server, logprobs=0)
    likeliest = str(free.logprobs[0].chosen.id)
    async with official(server) as client:

        async def text(**fields: Any) -> str:
            answer: openai.types.Completion = await client.completions.create(**body, **fields)
            return answer.choices[0].text

        assert await text() == free.text
        assert await text(frequency_penalty=0, presence_penalty=0, logit_bias={}) == free.text
        for bent in (
            {"frequency_penalty": 2},
            {"presence_penalty": 2},
            {"logit_bias": {likeliest: -100}},
            {"extra_body": {"repetition_penalty": 5}},
        ):
            assert await text(**bent) != free.text
        lively = {"typical_p": 0.9, "min_p": 0.05, "top_k": 40}
        drawn = {"temperature": 1.2, "seed": 7, "extra_body": lively}
        body.pop("temperature")
        assert await text(**drawn) == await text(**drawn)


REFUSED: list[tuple[str, Any]] = [
    ("temperature", 5.5),
    ("top_p", 0),
    ("min_p", 1.5),
    ("typical_p", 0),
    ("repetition_penalty", 0),
    ("frequency_penalty", 2.5),
    ("presence_penalty", -2.5),
    ("logit_bias", {"1": 101}),
    ("logit_bias", {"x": 1}),
    ("logit_bias", {str(number): 1 for number in range(1025)}),
    ("seed", -1),
    ("logprobs", 21),
]


@pytest.mark.parametrize(("name", "value"), REFUSED)
async def test_what_is_out_of_bounds_is_refused_by_its_name_at_both_doors(
    server: Server, name: str, value: Any
) -> None:
    async with Client(server.url, KEY) as client:
        with pytest.raises(InvalidRequest) as refused:
            await client.call("generate", {"prompt": "Once", name: value})
    assert refused.value.code == "invalid"
    assert name in refused.value.message
    body = {"model": MODEL, "prompt": "Once", name: value}
    async with httpx.AsyncClient(trust_env=False, timeout=60) as http:
        headers = {"Authorization": f"Bearer {KEY}"}
        answer = await http.post(f"{server.http}/completions", headers=headers, json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("invalid", name)


async def test_a_token_outside_of_the_vocabulary_is_refused_where_the_model_is(
    server: Server,
) -> None:
    async with official(server) as client:
        with pytest.raises(openai.BadRequestError) as refused:
            await client.completions.create(model=MODEL, prompt="x", logit_bias={"4294967295": 1})
    assert "logit_bias" in str(refused.value)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
async def test_what_is_no_number_is_refused(server: Server, number: str) -> None:
    text = json.dumps({"model": MODEL, "prompt": "x", "presence_penalty": 0.5})
    async with httpx.AsyncClient(trust_env=False, timeout=60) as http:
        headers = {"Authorization": f"Bearer {KEY}"}
        answer = await http.post(
            f"{server.http}/completions", headers=headers, content=text.replace("0.5", number)
        )
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid")


async def test_a_pipelines_step_says_how_its_tokens_are_chosen(server: Server) -> None:
    async with Client(server.url, KEY) as client:

        async def run(name: str) -> str:
            text: str = (await client.pipeline(name, {"text": PROMPT})).outputs["again"]
            return text

        plain, stopped, penal = await run("plain"), await run("stopped"), await run("penal")
    assert " " in plain
    assert stopped == plain.split(" ")[0]
    assert penal != plain
