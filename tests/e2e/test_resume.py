"""Streams that survive the end of their server, and what ends with it."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from conftest import Serve
from harness.folder import Folder, new_key
from harness.raw import raw
from harness.reader import Reader, all_under_way
from harness.server import Server
from harness.talk import LONG_PROMPT, QUESTIONS, asked
from realm_client import Chunk, Client, Moved, RealmError, Stream, TextReply

#: One key for all servers: whoever knows one door knows the others.
KEY = new_key()

STREAMS = 20
#: So many that none is near its end when the last is well under way.
TOKENS = 80

#: The model's `<|endoftext|>` and `<|im_end|>`: no answer ends by itself before its server does.
ENDS = {"0": -100, "2": -100}

#: Far more than the streams take, so that an end before it is because nobody is left.
GRACE_S = 120


@pytest.fixture(scope="module")
def fill(pirate: Path) -> Callable[[Folder], None]:
    def fill(folder: Folder) -> None:
        limits = {"calls": 3 * STREAMS}
        folder.tenant("acme", key=KEY, limits=limits)
        folder.tenant("pirate", program={"sources": [pirate.as_uri()]})

    return fill


@pytest.fixture(scope="module")
def steady(serve: Serve, fill: Callable[[Folder], None]) -> Server:
    """The server that stays."""
    return serve(fill)


def sampling(number: int) -> dict[str, Any]:
    """Every second stream is greedy; of the others every second names its seed."""
    drawn: dict[str, Any] = {"temperature": 0.8 if number % 2 else 0, "logit_bias": ENDS}
    return drawn | ({"seed": number} if number % 4 == 1 else {})


def begin(client: Client, number: int) -> Stream[TextReply]:
    prompt = f"{LONG_PROMPT}It was for number {number}"
    return client.generate_stream(prompt, max_tokens=TOKENS, **sampling(number))


async def rest_of(server: Server, number: int, chunks: list[Chunk]) -> str:
    """What a server says behind these chunks to somebody who never heard another one."""
    progress = [chunk.progress for chunk in chunks if chunk.progress is not None]
    tokens = list(itertools.chain.from_iterable(each.tokens for each in progress))
    had = "".join(chunk.text or "" for chunk in chunks)
    resume = {"tokens": tokens, "text_bytes": len(had.encode()), "seed": progress[0].seed}
    params = {"prompt": f"{LONG_PROMPT}It was for number {number}", "max_tokens": TOKENS}
    call = {"id": "1", "function": "generate", "params": params | sampling(number)}
    rest = ""
    async with raw(server.url, KEY) as socket:
        await socket.send(call | {"resume": resume})
        while (frame := await socket.frame())["status"] == "streaming":
            rest += frame["data"]["text"]
        assert frame["status"] == "complete", frame
        return rest


async def check_all(
    steady: Server, readers: list[Reader], reading: list[asyncio.Task[TextReply]]
) -> tuple[int, int]:
    """Every answer went on once; how many say what the second server says alone, of how many."""
    same = 0
    for number, (reader, task) in enumerate(zip(readers, reading, strict=True)):
        reply = await task
        reader.check(reply)
        assert reply.usage.completion_tokens <= TOKENS
        start, moved = reader.legs
        assert (start, moved > 0) == (0, True)
        rest = "".join(chunk.text or "" for chunk in reader.chunks[moved:])
        same += rest == await rest_of(steady, number, reader.chunks[:moved])
    return same, len(readers)


async def test_twenty_streams_go_on_when_their_server_is_told_to_end(
    serve: Serve,
    fill: Callable[[Folder], None],
    steady: Server,
    record_property: Callable[[str, object], None],
) -> None:
    leaving = serve(fill, "--grace", str(GRACE_S))
    async with Client([leaving.url, steady.url], KEY) as client:
        readers = [Reader(begin(client, number)) for number in range(STREAMS)]
        reading = [asyncio.create_task(reader.read()) for reader in readers]
        await all_under_way(readers, reading)
        asked_at = time.monotonic()
        leaving.terminate()
        assert await asyncio.to_thread(leaving.wait) == 0
        took_s = time.monotonic() - asked_at
        assert took_s < GRACE_S / 2, "it waited for nobody"
        same, count = await check_all(steady, readers, reading)
    record_property("the server was left within seconds", round(took_s, 1))
    record_property("answers that go on as one alone does", f"{same} of {count}")
    # One may differ where two tokens are as likely as each other: it was computed beside others.
    assert same >= count - 1


async def test_streams_go_on_when_their_server_is_killed(
    serve: Serve, fill: Callable[[Folder], None], steady: Server
) -> None:
    doomed = serve(fill)
    async with Client([doomed.url, steady.url], KEY) as client:
        readers = [Reader(begin(client, number)) for number in range(4)]
        reading = [asyncio.create_task(reader.read()) for reader in readers]
        await all_under_way(readers, reading)
        doomed.kill()
        same, count = await check_all(steady, readers, reading)
    assert same == count


async def test_an_event_stream_that_outlives_the_grace_ends_with_moved(
    serve: Serve, fill: Callable[[Folder], None]
) -> None:
    server = serve(fill, "--grace", "0")
    body = {"model": "smollm2", "messages": asked(QUESTIONS[0]), "max_tokens": 2000}
    events: list[str] = []
    headers = {"Authorization": f"Bearer {KEY}"}
    async with (
        httpx.AsyncClient(trust_env=False, headers=headers, timeout=60) as http,
        http.stream(
            "POST", f"{server.http}/chat/completions", json=body | {"stream": True}
        ) as answer,
    ):
        async for line in answer.aiter_lines():
            if not line:
                continue
            events.append(line.removeprefix("data: "))
            # Once: a second signal ends the server in the middle.
            if len(events) == 3:
                server.terminate()
    assert json.loads(events[-1])["error"]["code"] == "moved"
    assert await asyncio.to_thread(server.wait) == 0


async def test_a_tenants_own_program_ends_with_moved(
    serve: Serve, fill: Callable[[Folder], None]
) -> None:
    server = serve(fill, "--grace", "0")
    async with server.client("pirate") as client:
        stream = client.chat_stream(asked(QUESTIONS[0]), max_tokens=2000, temperature=0)
        heard = []
        with pytest.raises(Moved) as moved:
            async for chunk in stream:
                heard.append(chunk.text or "")
                assert chunk.progress is None
                if len(heard) == 3:
                    server.terminate()
        assert moved.value.text.startswith("".join(heard))
        assert moved.value.text.isupper()
    assert await asyncio.to_thread(server.wait) == 0


HOSTILE: dict[str, Any] = {
    "an id outside of the vocabulary": {"tokens": [5, 10**6], "text_bytes": 0, "seed": 0},
    "more tokens than were asked for": {"tokens": [5] * 9, "text_bytes": 0, "seed": 0},
    "more tokens than the context": {"tokens": [5] * 130_000, "text_bytes": 0, "seed": 0},
    "more tokens than anything has": {"tokens": [5] * 131_073, "text_bytes": 0, "seed": 0},
    "text beyond the tokens": {"tokens": [5], "text_bytes": 2**60, "seed": 0},
    "text of no tokens": {"tokens": [], "text_bytes": 1, "seed": 0},
}


@pytest.mark.parametrize("resume", HOSTILE.values(), ids=HOSTILE.keys())
async def test_what_no_answer_can_have_been_is_refused(steady: Server, resume: Any) -> None:
    call = {"id": "1", "function": "generate", "params": {"prompt": "Once", "max_tokens": 8}}
    async with raw(steady.url, KEY) as socket:
        await socket.send(call | {"resume": resume})
        refused = await socket.frame()
        assert (refused["status"], refused["error"]["code"]) == ("error", "invalid"), refused
        assert len(refused["error"]["message"]) < 300


@pytest.mark.parametrize(
    "fields",
    [
        {"stream": False, "resume": {"tokens": [5], "text_bytes": 0, "seed": 0}},
        {"function": "tokenize", "params": {"text": "x"}},
        {"function": "pipeline", "params": {"pipeline": "x", "input": {}}},
    ],
    ids=["in one piece", "tokenize", "a pipeline"],
)
async def test_what_is_no_stream_of_an_answer_is_not_resumed(steady: Server, fields: Any) -> None:
    call = {"id": "1", "function": "generate", "params": {"prompt": "Once"}}
    resume = {"tokens": [5], "text_bytes": 0, "seed": 0}
    async with raw(steady.url, KEY) as socket:
        await socket.send(call | {"resume": resume} | fields)
        refused = await socket.frame()
        assert (refused["status"], refused["error"]["code"]) == ("error", "invalid"), refused
    async with raw(steady.url, steady.folder.key("pirate")) as socket:
        chat = {"id": "1", "function": "chat", "params": {"messages": asked("Hi")}}
        await socket.send(chat | {"resume": resume})
        assert (await socket.frame())["error"]["code"] == "invalid"


@pytest.mark.parametrize(
    "resume",
    [7, [], {}, {"tokens": [-1], "text_bytes": 0, "seed": 0}, {"tokens": 5, "text_bytes": 0}],
)
async def test_what_is_no_frame_is_refused_and_the_socket_lives(
    steady: Server, resume: Any
) -> None:
    async with raw(steady.url, KEY) as socket:
        await socket.send({"id": "1", "function": "generate", "resume": resume})
        refused = await socket.frame()
        assert (refused["type"], refused["error"]["code"]) == ("error", "invalid"), refused
        await socket.send({"id": "2", "function": "health"})
        assert (await socket.frame())["data"]["status"] == "ok"


async def test_tokens_that_a_client_makes_up_are_its_own_prompt_and_charged_as_one(
    steady: Server,
) -> None:
    call: Any = {"id": "1", "function": "generate"}
    params = {"prompt": "Once upon a time", "max_tokens": 40, "temperature": 0}
    async with raw(steady.url, KEY) as socket:
        await socket.send(call | {"params": params | {"max_tokens": 1}})
        prompt_tokens = (await socket.until(status="complete"))["usage"]["prompt_tokens"]
        text = " there was a liar"
        await socket.send({"id": "2", "function": "tokenize", "params": {"text": text}})
        tokens = (await socket.until(status="complete"))["data"]["tokens"]
        resume = {"tokens": tokens, "text_bytes": len(text), "seed": 0}
        await socket.send(call | {"params": params, "resume": resume})
        usage = (await socket.until(status="complete"))["usage"]
    assert usage["prompt_tokens"] == prompt_tokens + len(tokens)
    assert 0 < usage["completion_tokens"] <= 40 - len(tokens)


async def test_without_resume_a_stream_ends_with_its_server(
    serve: Serve, fill: Callable[[Folder], None], steady: Server
) -> None:
    doomed = serve(fill)
    async with Client([doomed.url, steady.url], KEY, resume=False) as client:
        reader = Reader(begin(client, 0))
        reading = asyncio.create_task(reader.read())
        await reader.under_way.wait()
        doomed.kill()
        with pytest.raises(RealmError) as lost:
            await reading
        assert lost.value.code == "connection_lost"
