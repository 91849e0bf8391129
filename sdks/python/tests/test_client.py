"""The client against a real server on loopback."""

from __future__ import annotations

import asyncio
import gc
import json
import random
from collections.abc import MutableMapping
from http import HTTPStatus
from typing import Any, get_args, get_type_hints

import pytest

from clock import ManualClock
from realm_client import (
    Backoff,
    Busy,
    CallCancelled,
    Client,
    ConnectionLost,
    DeadlineExceeded,
    Draining,
    InvalidRequest,
    Message,
    NotFound,
    ProtocolError,
    RateLimited,
    SlowReader,
    Unauthenticated,
)
from realm_client.connect import to_ws_url
from realm_client.frames import SERVER_MESSAGE_BYTES_MAX
from server import KEY, USAGE, Peer, RealmServer, refusal


async def greet(peer: Peer) -> None:
    """Answers every call with two chunks, or with the whole where it is not streamed."""
    while True:
        frame = await peer.frame()
        if frame["type"] == "cancel":
            await peer.send({"id": frame["id"], "status": "cancelled"})
        elif frame["stream"]:
            await peer.chunk(frame["id"], 0, "Hel")
            await peer.chunk(frame["id"], 1, "lo")
            await peer.complete(frame["id"])
        else:
            await peer.complete(frame["id"], {"text": "Hello"})


async def test_generate_gives_the_whole_text() -> None:
    async with RealmServer(greet) as server, Client(server.url, KEY) as client:
        reply = await client.generate("Say hello", max_tokens=5)
        assert (reply.text, reply.finish) == ("Hello", "stop")
        assert reply.usage.completion_tokens == 2
        assert reply.quota is not None
        assert reply.quota.requests == 59
        assert (client.tenant, client.server_version) == ("default/acme", "1")


async def test_a_stream_gives_its_chunks_and_then_its_result() -> None:
    async with RealmServer(greet) as server, Client(server.url, KEY) as client:
        stream = client.chat_stream([{"role": "user", "content": "Say hello"}])
        assert [chunk.text async for chunk in stream] == ["Hel", "lo"]
        assert (await stream.result()).text == "Hello"


async def test_a_conversation_carries_every_role_the_built_in_program_takes() -> None:
    messages: list[Message] = [
        {"role": "system", "content": "Add."},
        {"role": "user", "content": "2 + 2"},
        {"role": "assistant", "content": "add(2, 2)"},
        {"role": "tool", "content": "4"},
    ]
    assert {message["role"] for message in messages} == set(
        get_args(get_type_hints(Message)["role"])
    )
    taken: list[Any] = []

    async def take(peer: Peer) -> None:
        frame = await peer.frame()
        taken.extend(frame["params"]["messages"])
        await peer.complete(frame["id"], {"text": "4"})

    async with RealmServer(take) as server, Client(server.url, KEY) as client:
        assert (await client.chat(messages)).text == "4"
    assert taken == messages


async def test_each_call_names_the_span_that_its_caller_is_in() -> None:
    spans = iter(["00-1", None, "00-3"])
    taken: list[tuple[str | None, str | None]] = []

    def inject(headers: MutableMapping[str, str]) -> None:
        headers["baggage"] = "stays=here"
        if (span := next(spans)) is not None:
            headers.update(traceparent=span, tracestate="a=b")

    async def take(peer: Peer) -> None:
        while True:
            frame = await peer.frame()
            assert "baggage" not in frame
            taken.append((frame.get("traceparent"), frame.get("tracestate")))
            await peer.complete(frame["id"], {"text": ""})

    async with RealmServer(take) as server, Client(server.url, KEY, propagate=inject) as client:
        await client.generate("x")
        await client.generate("x")
        await client.generate_stream("x").result()
    assert taken == [("00-1", "a=b"), (None, None), ("00-3", "a=b")]


async def test_the_result_of_a_stream_nobody_iterates_is_whole() -> None:
    async with RealmServer(greet) as server, Client(server.url, KEY) as client:
        assert (await client.generate_stream("Say hello").result()).text == "Hello"


async def test_the_functions_send_their_parameters_and_read_their_results() -> None:
    frames: list[Any] = []
    results: dict[str, Any] = {
        "tokenize": {"tokens": [1, 2], "count": 2},
        "health": {"status": "ok", "version": "1", "uptime_s": 3},
        "metadata": {
            "version": "1",
            "functions": [
                {"name": "f", "description": "d", "params_schema": {}, "streams": True},
            ],
            "models": [{"alias": "m", "ready": True, "context": 2048}],
            "pipelines": ["p"],
        },
        "pipeline": {"outputs": {"headline": "News"}},
        "own": [1, {"a": None}],
    }

    async def script(peer: Peer) -> None:
        while True:
            frame = await peer.frame()
            frames.append(frame)
            await peer.complete(frame["id"], results[frame["function"]])

    async with RealmServer(script) as server, Client(server.url, KEY) as client:
        tokens = await client.tokenize("ab", model="m")
        assert (tuple(tokens.tokens), tokens.count) == ((1, 2), 2)
        assert (await client.health()).status == "ok"
        metadata = await client.metadata()
        assert metadata.functions[0].streams
        assert (metadata.models[0].alias, metadata.models[0].context) == ("m", 2048)
        assert tuple(metadata.pipelines) == ("p",)
        assert (await client.pipeline("p", {"text": "t"})).outputs == {"headline": "News"}
        assert (await client.call("own", {"x": 1})).data == [1, {"a": None}]
    assert [frame["params"] for frame in frames] == [
        {"text": "ab", "model": "m"},
        {},
        {},
        {"pipeline": "p", "input": {"text": "t"}},
        {"x": 1},
    ]


async def test_the_probabilities_of_tokens_are_those_of_the_whole_answer_either_way() -> None:
    asked: list[Any] = []

    def told(text: str) -> dict[str, Any]:
        chosen = {"id": len(text), "text": text, "logprob": -0.5}
        return {"text": text, "logprobs": [{"chosen": chosen}]}

    async def script(peer: Peer) -> None:
        while True:
            frame = await peer.frame()
            asked.append(frame["params"])
            pieces = [told("Hel"), told("lo")]
            if not frame["stream"]:
                whole = [piece["logprobs"][0] for piece in pieces]
                await peer.complete(frame["id"], {"text": "Hello", "logprobs": whole})
                continue
            for index, data in enumerate(pieces):
                head = {"id": frame["id"], "status": "streaming", "index": index}
                await peer.send(head | {"data": data})
            await peer.complete(frame["id"])

    async with RealmServer(script) as server, Client(server.url, KEY) as client:
        whole = await client.generate("a", logprobs=0, logit_bias={7: -100})
        stream = client.generate_stream("a", logprobs=0)
        assert (await stream.result()).logprobs == whole.logprobs
    assert [told.chosen.bytes for told in whole.logprobs] == [b"Hel", b"lo"]
    assert asked[0] == {"prompt": "a", "logprobs": 0, "logit_bias": {"7": -100}}


async def test_chunks_of_a_pipeline_name_their_step() -> None:
    async def script(peer: Peer) -> None:
        frame = await peer.frame()
        await peer.chunk(frame["id"], 0, "long", step="summary")
        await peer.chunk(frame["id"], 1, "short", step="headline")
        await peer.complete(frame["id"], {"outputs": {"headline": "short"}})

    async with RealmServer(script) as server, Client(server.url, KEY) as client:
        stream = client.pipeline_stream("news", {"text": "t"})
        assert [(c.step, c.text) async for c in stream] == [
            ("summary", "long"),
            ("headline", "short"),
        ]
        assert (await stream.result()).outputs == {"headline": "short"}


async def test_the_largest_message_of_a_server_arrives_and_a_larger_one_does_not() -> None:
    beyond = 0

    async def say_much(peer: Peer) -> None:
        while True:
            call_id = (await peer.frame())["id"]
            end = {"id": call_id, "status": "complete", "data": {"text": ""}, "finish": "stop"}
            end |= {"usage": USAGE, "quota": {"requests": 59}}
            room = SERVER_MESSAGE_BYTES_MAX - len(json.dumps(end))
            end["data"]["text"] = "x" * (room + beyond)
            await peer.send(end)

    async with RealmServer(say_much) as server, Client(server.url, KEY) as client:
        reply = await client.generate("Say much")
        assert SERVER_MESSAGE_BYTES_MAX - 512 < len(reply.text) < SERVER_MESSAGE_BYTES_MAX
        beyond = 1
        with pytest.raises(ConnectionLost):
            await client.generate("Say more")


async def test_a_result_of_the_wrong_shape_is_a_protocol_error() -> None:
    async def script(peer: Peer) -> None:
        await peer.complete((await peer.frame())["id"], {"tokens": "many"})

    async with RealmServer(script) as server, Client(server.url, KEY) as client:
        with pytest.raises(ProtocolError, match="tokens"):
            await client.tokenize("ab")


@pytest.mark.parametrize("send_key", ["header", "first_frame"])
async def test_the_right_key_is_let_in_both_ways(send_key: Any) -> None:
    async with (
        RealmServer(greet) as server,
        Client(server.url, KEY, send_key=send_key) as client,
    ):
        assert (await client.generate("x")).text == "Hello"
        assert ("Authorization" in server.upgrades[0]) == (send_key == "header")


@pytest.mark.parametrize("send_key", ["header", "first_frame"])
async def test_a_wrong_key_is_refused_at_once_both_ways(send_key: Any) -> None:
    async with RealmServer(greet) as server:
        with pytest.raises(Unauthenticated) as refused:
            await Client(server.url, "rk_wrong", send_key=send_key).connect()
        assert refused.value.code == "unauthenticated"
        assert len(server.upgrades) == 1


async def test_a_key_revoked_on_an_open_connection_ends_its_calls() -> None:
    async def script(peer: Peer) -> None:
        await peer.frame()
        await peer.socket.close(4401)

    async with RealmServer(script) as server, Client(server.url, KEY) as client:
        with pytest.raises(Unauthenticated):
            await client.generate("x")


async def test_the_key_is_in_no_representation() -> None:
    client = Client("ws://127.0.0.1:1", KEY)
    assert KEY not in repr(vars(client))


async def test_many_calls_run_at_once_and_get_their_own_answers() -> None:
    async def script(peer: Peer) -> None:
        calls = [await peer.frame() for _ in range(64)]
        for index in range(3):
            for frame in reversed(calls):
                await peer.chunk(frame["id"], index, f"{frame['params']['prompt']}.")
        for frame in calls:
            await peer.complete(frame["id"])
        await greet(peer)

    async with RealmServer(script) as server, Client(server.url, KEY) as client:
        streams = [client.generate_stream(f"p{number}") for number in range(64)]
        replies = await asyncio.gather(*(stream.result() for stream in streams))
        assert [reply.text for reply in replies] == [f"p{n}.p{n}.p{n}." for n in range(64)]
        assert server.connections == 1


async def test_calls_beyond_the_places_wait_for_their_turn() -> None:
    async def script(peer: Peer) -> None:
        running: list[str] = []
        for _ in range(200):
            running.append((await peer.frame())["id"])
            assert len(running) <= 64
            if len(running) == 64:
                for call_id in running[:32]:
                    await peer.complete(call_id, {"text": "x"})
                del running[:32]
        for call_id in running:
            await peer.complete(call_id, {"text": "x"})

    async with RealmServer(script) as server, Client(server.url, KEY) as client:
        replies = await asyncio.gather(*(client.generate("x") for _ in range(200)))
        assert len(replies) == 200


class Cancels:
    """A server that streams without end and notes which calls were cancelled."""

    def __init__(self) -> None:
        self.cancelled: asyncio.Queue[str] = asyncio.Queue()

    async def __call__(self, peer: Peer) -> None:
        while True:
            frame = await peer.frame()
            if frame["type"] == "cancel":
                await peer.send({"id": frame["id"], "status": "cancelled"})
                self.cancelled.put_nowait(frame["id"])
            else:
                await peer.chunk(frame["id"], 0, "a")
                await peer.chunk(frame["id"], 1, "b")


async def test_breaking_out_of_a_stream_cancels_the_call_on_the_server() -> None:
    script = Cancels()
    async with RealmServer(script) as server, Client(server.url, KEY) as client:
        stream = client.generate_stream("x")
        async for chunk in stream:
            assert chunk.text == "a"
            break
        assert await script.cancelled.get() == "1"
        with pytest.raises(CallCancelled):
            await stream.result()


async def test_leaving_the_block_of_a_stream_cancels_the_call_on_the_server() -> None:
    script = Cancels()
    async with RealmServer(script) as server, Client(server.url, KEY) as client:
        with pytest.raises(ZeroDivisionError):
            async with client.generate_stream("x") as stream:
                async for _ in stream:
                    raise ZeroDivisionError
        assert await script.cancelled.get() == "1"


async def test_cancelling_the_task_that_waits_cancels_the_call_on_the_server() -> None:
    script = Cancels()
    async with RealmServer(script) as server, Client(server.url, KEY) as client:
        reading = asyncio.Event()

        async def read() -> None:
            async for chunk in client.generate_stream("x"):
                if chunk.index == 1:
                    reading.set()

        tasks = [asyncio.create_task(client.generate("x")), asyncio.create_task(read())]
        await reading.wait()
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results)
        gc.collect()
        assert {await script.cancelled.get(), await script.cancelled.get()} == {"1", "2"}


async def test_a_connection_cut_in_mid_stream_gives_what_had_arrived_and_is_made_again() -> None:
    async def script(peer: Peer) -> None:
        if peer.number > 1:
            await greet(peer)
        call_id = (await peer.frame())["id"]
        await peer.chunk(call_id, 0, "Hel")
        assert (await peer.frame())["function"] == "go"
        peer.cut()

    async with RealmServer(script) as server, Client(server.url, KEY) as client:
        read: list[str | None] = []
        go: asyncio.Task[Any] | None = None
        with pytest.raises(ConnectionLost) as lost:
            async for chunk in client.generate_stream("x"):
                read.append(chunk.text)
                go = asyncio.create_task(client.call("go", {}))
        assert (read, lost.value.text) == (["Hel"], "Hel")
        assert [chunk.index for chunk in lost.value.chunks] == [0]
        assert go is not None
        with pytest.raises(ConnectionLost):
            await go
        assert (await client.generate("x")).text == "Hello"
        assert server.connections == 2


async def test_going_away_finishes_running_calls_and_takes_new_ones_elsewhere() -> None:
    resumed = asyncio.Event()
    closed: asyncio.Queue[int | None] = asyncio.Queue()

    async def script(peer: Peer) -> None:
        if peer.number > 1:
            await greet(peer)
        call_id = (await peer.frame())["id"]
        await peer.send({"type": "going_away", "grace_ms": 30000})
        await peer.chunk(call_id, 0, "old")
        await resumed.wait()
        await peer.chunk(call_id, 1, "er")
        await peer.complete(call_id)
        await peer.socket.wait_closed()
        closed.put_nowait(peer.socket.close_code)

    async with RealmServer(script) as server, Client(server.url, KEY) as client:
        stream = client.generate_stream("x")
        chunks = aiter(stream)
        assert (await anext(chunks)).text == "old"
        assert (await client.generate("y")).text == "Hello"
        assert server.connections == 2
        resumed.set()
        assert [chunk.text async for chunk in chunks] == ["er"]
        assert (await stream.result()).text == "older"
        assert await closed.get() == 1000


async def test_a_call_that_crossed_the_going_away_is_made_again_elsewhere() -> None:
    async def script(peer: Peer) -> None:
        if peer.number > 1:
            await greet(peer)
        call_id = (await peer.frame())["id"]
        await peer.send({"type": "going_away", "grace_ms": 30000})
        await peer.refuse(call_id, "draining")

    async with RealmServer(script) as server, Client(server.url, KEY) as client:
        assert (await client.generate("x")).text == "Hello"


async def test_servers_that_all_go_away_end_in_a_typed_error() -> None:
    async def script(peer: Peer) -> None:
        await peer.send({"type": "going_away", "grace_ms": 30000})
        await peer.socket.wait_closed()

    async with RealmServer(script) as server:
        client = Client(server.url, KEY)
        with pytest.raises(Draining):
            await client.generate("x")
        assert server.connections <= 6
        await client.close()


@pytest.mark.parametrize("indices", [(0, 2), (0, 0), (1,)])
async def test_frames_out_of_order_end_their_call_alone(indices: tuple[int, ...]) -> None:
    async def script(peer: Peer) -> None:
        broken, sound = (await peer.frame())["id"], (await peer.frame())["id"]
        for index in indices:
            await peer.chunk(broken, index, "x")
        assert (await peer.frame()) == {"type": "cancel", "id": broken}
        await peer.send({"id": broken, "status": "cancelled"})
        await peer.complete(sound, {"text": "fine"})

    async with RealmServer(script) as server, Client(server.url, KEY) as client:
        broken, sound = await asyncio.gather(
            client.generate_stream("x").result(), client.generate("y"), return_exceptions=True
        )
        assert isinstance(broken, ProtocolError)
        assert not isinstance(sound, BaseException)
        assert sound.text == "fine"


@pytest.mark.parametrize("message", [b"binary", "{", '{"id":"9","status":"cancelled"}'])
async def test_a_server_that_babbles_is_left_with_a_protocol_error(message: str | bytes) -> None:
    closed: asyncio.Queue[int | None] = asyncio.Queue()

    async def script(peer: Peer) -> None:
        await peer.frame()
        await peer.send(message)
        await peer.socket.wait_closed()
        closed.put_nowait(peer.socket.close_code)

    async with RealmServer(script) as server, Client(server.url, KEY) as client:
        with pytest.raises(ProtocolError):
            await client.generate("x")
        assert await closed.get() == 1002


async def test_a_reader_that_lags_loses_its_call_and_no_other() -> None:
    async def script(peer: Peer) -> None:
        call_id = (await peer.frame())["id"]
        for index in range(10):
            await peer.chunk(call_id, index, str(index))
        frames = [await peer.frame(), await peer.frame()]
        other = next(frame for frame in frames if frame["type"] == "call")
        assert {"type": "cancel", "id": call_id} in frames
        await peer.send({"id": call_id, "status": "cancelled"})
        await peer.complete(other["id"], {"text": "Hello"})
        await peer.socket.wait_closed()

    async with (
        RealmServer(script) as server,
        Client(server.url, KEY, chunks_unread_max=4) as client,
    ):
        read: list[str | None] = []
        with pytest.raises(SlowReader) as slow:
            async for chunk in client.generate_stream("x"):
                if not read:
                    assert (await client.generate("y")).text == "Hello"
                read.append(chunk.text)
        assert read == ["0", "1", "2", "3", "4", "5"]
        assert slow.value.text == "012345"


async def test_a_burst_of_chunks_is_no_lag_to_a_reader_that_reads() -> None:
    async def script(peer: Peer) -> None:
        call_id = (await peer.frame())["id"]
        for index in range(5000):
            await peer.chunk(call_id, index, "x")
        await peer.complete(call_id)

    async with (
        RealmServer(script) as server,
        Client(server.url, KEY, chunks_unread_max=4) as client,
    ):
        count = 0
        async for _ in client.generate_stream("x"):
            count += 1
        assert count == 5000


async def test_a_refusal_is_raised_where_no_retry_was_asked_for() -> None:
    async def script(peer: Peer) -> None:
        call_id = (await peer.frame())["id"]
        await peer.refuse(call_id, "too_many_requests", retry_after_ms=1500)

    async with RealmServer(script) as server, Client(server.url, KEY) as client:
        with pytest.raises(RateLimited) as refused:
            await client.generate("x")
        assert refused.value.retry_after == pytest.approx(1.5)


async def test_retry_waits_as_long_as_the_server_says_and_calls_again() -> None:
    async def script(peer: Peer) -> None:
        await peer.refuse((await peer.frame())["id"], "too_many_requests", retry_after_ms=1500)
        await peer.refuse((await peer.frame())["id"], "busy")
        await greet(peer)

    clock = ManualClock()
    retry = Backoff(base_s=0.5, cap_s=8, attempts_max=3, total_s_max=60)
    async with (
        RealmServer(script) as server,
        Client(server.url, KEY, retry=retry, clock=clock, rng=random.Random(7)) as client,
    ):
        assert (await client.generate("x")).text == "Hello"
    first, second = clock.sleeps
    assert 1.5 <= first <= 1.65
    assert 0 <= second <= 1.0


@pytest.mark.parametrize(
    ("code", "kind"), [("busy", Busy), ("unknown_model", NotFound), ("invalid", InvalidRequest)]
)
async def test_retry_ends_and_skips_what_waiting_does_not_help(code: str, kind: Any) -> None:
    calls: list[Any] = []

    async def script(peer: Peer) -> None:
        while True:
            calls.append(await peer.frame())
            await peer.refuse(calls[-1]["id"], code)

    retry = Backoff(attempts_max=3)
    async with (
        RealmServer(script) as server,
        Client(server.url, KEY, retry=retry, clock=ManualClock()) as client,
    ):
        with pytest.raises(kind):
            await client.generate("x")
    assert len(calls) == (3 if code == "busy" else 1)


async def test_a_stream_that_has_begun_is_not_begun_again() -> None:
    async def script(peer: Peer) -> None:
        call_id = (await peer.frame())["id"]
        await peer.chunk(call_id, 0, "a")
        await peer.refuse(call_id, "busy")

    async with (
        RealmServer(script) as server,
        Client(server.url, KEY, retry=Backoff(), clock=ManualClock()) as client,
    ):
        with pytest.raises(Busy) as refused:
            await client.generate_stream("x").result()
        assert refused.value.text == "a"


async def test_a_deadline_reaches_the_server_and_is_kept_here_too() -> None:
    frames: asyncio.Queue[Any] = asyncio.Queue()

    async def script(peer: Peer) -> None:
        frame = await peer.frame()
        frames.put_nowait(frame)
        await peer.refuse(frame["id"], "deadline_exceeded")

    async with RealmServer(script) as server, Client(server.url, KEY) as client:
        with pytest.raises(DeadlineExceeded):
            await client.generate("x", deadline_s=30.0)
        assert 29_000 < (await frames.get())["deadline_ms"] <= 30_000


async def test_a_deadline_covers_the_wait_for_a_place() -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.frame()

    async with RealmServer(script) as server, Client(server.url, KEY) as client:
        waiting = [asyncio.create_task(client.generate("x")) for _ in range(64)]
        await asyncio.sleep(0)
        with pytest.raises(DeadlineExceeded):
            await client.generate("x", deadline_s=0.05)
        await client.close()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(result, ConnectionLost) for result in results)


async def test_reconnecting_backs_off_with_full_jitter_and_shares_the_attempts() -> None:
    clock = ManualClock()
    async with RealmServer(greet) as server:
        server.refusals = [
            refusal(HTTPStatus.SERVICE_UNAVAILABLE, None),
            refusal(HTTPStatus.BAD_GATEWAY, None),
            refusal(HTTPStatus.SERVICE_UNAVAILABLE, "draining"),
        ]
        client = Client(server.url, KEY, clock=clock, rng=random.Random(3))
        replies = await asyncio.gather(*(client.generate("x") for _ in range(5)))
        assert [reply.text for reply in replies] == ["Hello"] * 5
        assert len(server.upgrades) == 4
        await client.close()
    assert len(clock.sleeps) == 3
    for delay, ceiling in zip(clock.sleeps, [0.2, 0.4, 0.8], strict=True):
        assert 0 <= delay <= ceiling


async def test_a_server_that_is_starting_is_asked_again() -> None:
    clock = ManualClock()
    async with RealmServer(greet) as server:
        server.refusals = [refusal(HTTPStatus.SERVICE_UNAVAILABLE, "starting")] * 3
        async with Client(server.url, KEY, clock=clock) as client:
            assert (await client.generate("x")).text == "Hello"
    assert len(server.upgrades) == 4


async def test_reconnecting_gives_up_after_its_attempts() -> None:
    async with RealmServer(greet) as server:
        url = server.url
    clock = ManualClock()
    client = Client(url, KEY, clock=clock, reconnect=Backoff(attempts_max=4))
    with pytest.raises(ConnectionLost):
        await client.generate("x")
    assert len(clock.sleeps) == 3
    await client.close()


async def test_reconnecting_gives_up_after_its_time() -> None:
    async with RealmServer(greet) as server:
        url = server.url
    clock = ManualClock()
    backoff = Backoff(base_s=4, cap_s=4, attempts_max=1000, total_s_max=30)
    client = Client(url, KEY, clock=clock, reconnect=backoff)
    with pytest.raises(ConnectionLost):
        await client.connect()
    assert 26 <= sum(clock.sleeps) <= 30


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (HTTPStatus.NOT_FOUND, None, ProtocolError),
        (HTTPStatus.FOUND, None, ProtocolError),
        (HTTPStatus.UNAUTHORIZED, None, Unauthenticated),
    ],
)
async def test_refused_upgrades_that_waiting_does_not_help_are_not_tried_again(
    status: HTTPStatus, code: str | None, kind: Any
) -> None:
    async with RealmServer(greet) as server:
        answer = refusal(status, code)
        answer.headers["Location"] = f"{server.url}/elsewhere"
        server.refusals = [answer]
        with pytest.raises(kind):
            await Client(server.url, KEY).connect()
        assert len(server.upgrades) == 1


async def test_a_server_of_another_protocol_is_refused() -> None:
    async with RealmServer(greet, subprotocol="other") as server:
        with pytest.raises(ProtocolError, match=r"realm\.v1"):
            await Client(server.url, KEY).connect()


async def test_closing_ends_running_calls_and_refuses_new_ones() -> None:
    script = Cancels()
    async with RealmServer(script) as server:
        client = Client(server.url, KEY)
        chunks = aiter(client.generate_stream("x"))
        await anext(chunks)
        await client.close()
        with pytest.raises(ConnectionLost):
            async for _ in chunks:
                pass
        with pytest.raises(ConnectionLost):
            await client.generate("x")


async def test_closing_while_connecting_ends_those_who_wait_for_it() -> None:
    class StoppedClock(ManualClock):
        async def sleep(self, seconds: float) -> None:
            self.sleeps.append(seconds)
            pausing.set()
            await asyncio.Event().wait()

    pausing = asyncio.Event()
    async with RealmServer(greet) as server:
        server.refusals = [refusal(HTTPStatus.SERVICE_UNAVAILABLE, None)]
        client = Client(server.url, KEY, clock=StoppedClock())
        waiting = asyncio.create_task(client.generate("x"))
        await pausing.wait()
        await client.close()
        with pytest.raises(ConnectionLost):
            await waiting


async def test_one_who_stops_waiting_for_a_connection_does_not_stop_the_others() -> None:
    async with RealmServer(greet) as server:
        client = Client(server.url, KEY)
        first, second = (asyncio.create_task(client.generate("x")) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        assert (await second).text == "Hello"
        assert first.cancelled()
        assert server.connections == 1
        await client.close()


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("ws://h:1", "ws://h:1/v1/ws"),
        ("https://h/", "wss://h/v1/ws"),
        ("http://[::1]:8080", "ws://[::1]:8080/v1/ws"),
        ("wss://h/realm/v1/ws", "wss://h/realm/v1/ws"),
    ],
)
def test_addresses_are_completed(given: str, meant: str) -> None:
    assert to_ws_url(given) == meant


@pytest.mark.parametrize("url", ["", "h:1", "ftp://h", "ws://", "ws://user:key@h"])
def test_addresses_that_are_none_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="address"):
        to_ws_url(url)
