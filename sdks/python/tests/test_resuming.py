"""Streams that outlive their servers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from clock import ManualClock
from realm_client import (
    Backoff,
    Client,
    ConnectionLost,
    DeadlineExceeded,
    InvalidRequest,
    ProtocolError,
    RealmError,
    Usage,
)
from server import KEY, Peer, RealmServer, refusal

#: The answer: one text for each token.
TEXTS = ["Hé", "llo", " ", "", "wor", "ld", ", ", "how", " are", " you", "?"]
TOKENS = list(range(100, 100 + len(TEXTS)))
SEED = 9_007_199_254_740_993  # one that a double does not hold
PROMPT_TOKENS = 5


async def asked(peer: Peer) -> tuple[str, int]:
    """The next call, and the token it goes on from: what is resumed must be what was sent."""
    while (frame := await peer.frame())["type"] == "cancel":
        await peer.send({"id": frame["id"], "status": "cancelled"})
    assert frame["resumable"] is True
    resume = frame.get("resume")
    if resume is None:
        return frame["id"], 0
    at = len(resume["tokens"])
    had = len("".join(TEXTS[:at]).encode())
    assert resume == {"tokens": TOKENS[:at], "text_bytes": had, "seed": SEED}
    return frame["id"], at


async def tell(peer: Peer, call_id: str, start: int, count: int) -> int:
    """Sends as many tokens, and says where it is then."""
    for index, at in enumerate(range(start, min(start + count, len(TEXTS)))):
        progress: dict[str, Any] = {"first": at, "tokens": [TOKENS[at]]}
        if index == 0:
            progress["seed"] = SEED
        frame = {"id": call_id, "status": "streaming", "index": index}
        await peer.send(frame | {"data": {"text": TEXTS[at]}, "progress": progress})
    return min(start + count, len(TEXTS))


async def finish(peer: Peer, call_id: str, start: int, begun: int) -> None:
    """Sends the end of a call that began behind `begun` tokens and is at `start`."""
    assert start == len(TEXTS)
    usage = {
        "prompt_tokens": PROMPT_TOKENS + begun,
        "cached_tokens": PROMPT_TOKENS + begun,
        "completion_tokens": len(TEXTS) - begun,
    }
    frame = {"id": call_id, "status": "complete", "data": {}, "finish": "stop", "usage": usage}
    await peer.send(frame | {"quota": {"requests": 59}})


def refused_upgrade() -> Any:
    """A draining server's answer to a newcomer."""
    return refusal(HTTPStatus.SERVICE_UNAVAILABLE, "draining")


async def tell_all(peer: Peer) -> None:
    """Answers every call to its end."""
    while True:
        call_id, begun = await asked(peer)
        await finish(peer, call_id, await tell(peer, call_id, begun, len(TEXTS)), begun)


async def read(client: Client) -> None:
    """Reads one answer and finds it whole."""
    stream = client.generate_stream("x")
    chunks = [chunk async for chunk in stream]
    reply = await stream.result()
    assert [chunk.text for chunk in chunks] == TEXTS
    assert [chunk.index for chunk in chunks] == list(range(len(TEXTS)))
    assert reply.text == "".join(TEXTS)
    assert reply.usage == Usage(PROMPT_TOKENS, PROMPT_TOKENS, len(TEXTS))


@pytest.mark.parametrize("cuts", [[0], [1], [4, 4], [1] * 11, [0, 3, 0, 3], [11]])
async def test_a_stream_goes_on_wherever_and_however_often_it_is_cut(cuts: Sequence[int]) -> None:
    async def script(peer: Peer) -> None:
        if peer.number > len(cuts):
            await tell_all(peer)
        call_id, begun = await asked(peer)
        await tell(peer, call_id, begun, cuts[peer.number - 1])
        await peer.send({"type": "notice"})  # all of it is through before the cut
        peer.socket.transport.write_eof()
        await peer.socket.wait_closed()

    clock = ManualClock()
    async with RealmServer(script) as server, Client(server.url, KEY, clock=clock) as client:
        await read(client)
        assert server.connections == len(cuts) + 1


async def test_a_stream_that_goes_on_stays_in_the_trace_that_it_began_in() -> None:
    spans = iter(["00-1", "00-2"])
    taken: list[str] = []

    async def script(peer: Peer) -> None:
        frame = await peer.frame()
        taken.append(frame["traceparent"])
        if peer.number == 1:
            peer.cut()
            return
        await finish(peer, frame["id"], await tell(peer, frame["id"], 0, len(TEXTS)), 0)

    async with (
        RealmServer(script) as server,
        Client(
            server.url,
            KEY,
            clock=ManualClock(),
            propagate=lambda headers: headers.update(traceparent=next(spans)),
        ) as client,
    ):
        await read(client)
    assert taken == ["00-1", "00-1"]


async def test_a_call_that_moved_goes_on_elsewhere() -> None:
    async def script(peer: Peer) -> None:
        if peer.number > 1:
            await tell_all(peer)
        call_id, begun = await asked(peer)
        await tell(peer, call_id, begun, 4)
        await peer.send({"type": "going_away", "grace_ms": 0, "resume": False})
        await peer.refuse(call_id, "moved")

    async with RealmServer(script) as server, Client(server.url, KEY) as client:
        await read(client)
        assert server.connections == 2


async def test_a_server_that_goes_away_is_left_once_another_has_taken_over() -> None:
    taken: asyncio.Queue[int | None] = asyncio.Queue()
    asked_elsewhere = asyncio.Event()

    async def script(peer: Peer) -> None:
        call_id, begun = await asked(peer)
        if peer.number == 1:
            at = await tell(peer, call_id, begun, 3)
            await peer.send({"type": "going_away", "grace_ms": 30000, "resume": True})
            await asked_elsewhere.wait()
            # What comes after another was asked is made again there.
            progress = {"first": at, "tokens": [TOKENS[at]]}
            frame = {"id": call_id, "status": "streaming", "index": 3, "progress": progress}
            await peer.send(frame | {"data": {"text": TEXTS[at]}})
            # Its client has nothing else here, so leaving is closing.
            await peer.socket.wait_closed()
            taken.put_nowait(peer.socket.close_code)
        else:
            asked_elsewhere.set()
            await finish(peer, call_id, await tell(peer, call_id, begun, len(TEXTS)), begun)

    async with RealmServer(script) as server, Client(server.url, KEY) as client:
        await read(client)
        assert await taken.get() == 1000


async def test_a_server_that_goes_away_is_kept_while_no_other_takes_over() -> None:
    refused = asyncio.Event()

    async def script(peer: Peer) -> None:
        call_id, begun = await asked(peer)
        if peer.number == 1:
            at = await tell(peer, call_id, begun, 3)
            await peer.send({"type": "going_away", "grace_ms": 30000, "resume": True})
            await refused.wait()
            for index in range(at, len(TEXTS)):
                progress = {"first": index, "tokens": [TOKENS[index]]}
                frame = {"id": call_id, "status": "streaming", "index": index}
                await peer.send(frame | {"data": {"text": TEXTS[index]}, "progress": progress})
            await finish(peer, call_id, len(TEXTS), begun)
        else:
            await peer.refuse(call_id, "invalid")
            refused.set()
            await peer.socket.wait_closed()

    async with RealmServer(script) as server, Client(server.url, KEY) as client:
        await read(client)
        assert server.connections == 2


async def more(peer: Peer, call_id: str, start: int, count: int) -> None:
    """Sends as many tokens more of a call that began with the answer."""
    for at in range(start, start + count):
        progress = {"first": at, "tokens": [TOKENS[at]]}
        frame = {"id": call_id, "status": "streaming", "index": at, "progress": progress}
        await peer.send(frame | {"data": {"text": TEXTS[at]}})


@pytest.mark.parametrize("refusal_code", ["invalid", "busy"])
async def test_what_came_before_a_cut_is_not_lost_where_the_next_server_refuses(
    refusal_code: str,
) -> None:
    asked_elsewhere, is_cut = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        call_id, begun = await asked(peer)
        if peer.number == 1:
            at = await tell(peer, call_id, begun, 3)
            await peer.send({"type": "going_away", "grace_ms": 30000, "resume": True})
            await asked_elsewhere.wait()
            await more(peer, call_id, at, 2)
            await peer.send({"type": "notice"})
            peer.socket.transport.write_eof()
            await peer.socket.wait_closed()
            is_cut.set()
            return
        assert begun == 3
        asked_elsewhere.set()
        await is_cut.wait()
        await peer.refuse(call_id, refusal_code)
        if refusal_code == "busy":
            # Whoever is asked next goes on behind all of it.
            call_id, begun = await asked(peer)
            assert begun == 5
            await peer.refuse(call_id, "invalid")
        await peer.socket.wait_closed()

    clock = ManualClock()
    async with RealmServer(script) as server, Client(server.url, KEY, clock=clock) as client:
        with pytest.raises(ConnectionLost) as lost:
            await client.generate_stream("x").result()
        assert lost.value.text == "".join(TEXTS[:5])
        assert [chunk.index for chunk in lost.value.chunks] == list(range(5))


@pytest.mark.parametrize("ends", ["deadline", "close"])
async def test_what_came_before_a_cut_is_not_lost_where_no_server_answers(ends: str) -> None:
    asked_elsewhere, is_cut = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        call_id, begun = await asked(peer)
        if peer.number == 1:
            at = await tell(peer, call_id, begun, 3)
            await peer.send({"type": "going_away", "grace_ms": 30000, "resume": True})
            await asked_elsewhere.wait()
            await more(peer, call_id, at, 2)
            await peer.send({"type": "notice"})
            peer.socket.transport.write_eof()
            await peer.socket.wait_closed()
            is_cut.set()
        else:
            asked_elsewhere.set()
            await peer.socket.wait_closed()

    async with RealmServer(script) as server:
        client = Client(server.url, KEY)
        deadline_s = 0.5 if ends == "deadline" else None
        reading = asyncio.create_task(client.generate_stream("x", deadline_s=deadline_s).result())
        await is_cut.wait()
        if ends == "close":
            await client.close()
        with pytest.raises(RealmError) as lost:
            await reading
        assert lost.value.text == "".join(TEXTS[:5])
        await client.close()


async def test_an_answer_ends_with_its_server_where_no_other_took_over_by_the_deadline() -> None:
    asked_elsewhere, given_up = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        call_id, begun = await asked(peer)
        if peer.number == 1:
            at = await tell(peer, call_id, begun, 3)
            await peer.send({"type": "going_away", "grace_ms": 30000, "resume": True})
            await asked_elsewhere.wait()
            await more(peer, call_id, at, 2)
            await given_up.wait()
            peer.socket.transport.write_eof()
        else:
            asked_elsewhere.set()
            assert await peer.frame() == {"type": "cancel", "id": call_id}
            given_up.set()
        await peer.socket.wait_closed()

    async with RealmServer(script) as server, Client(server.url, KEY) as client:
        with pytest.raises(DeadlineExceeded) as late:
            async with asyncio.timeout(10):
                await client.generate_stream("x", deadline_s=0.3).result()
        assert late.value.text == "".join(TEXTS[:5])


async def test_a_reader_waits_for_a_server_to_take_over_no_longer_than_there_is_room() -> None:
    room = 4
    given_up = asyncio.Event()

    async def script(peer: Peer) -> None:
        if peer.number == 1:
            call_id, begun = await asked(peer)
            at = await tell(peer, call_id, begun, 2)
            await peer.send({"type": "going_away", "grace_ms": 30000, "resume": True})
            await asked_elsewhere.wait()
            await more(peer, call_id, at, room)
            await given_up.wait()
            await more(peer, call_id, at + room, len(TEXTS) - at - room)
            await finish(peer, call_id, len(TEXTS), begun)
        else:
            call_id, begun = await asked(peer)
            assert begun == 2
            asked_elsewhere.set()
            # It says nothing, and is told that nobody waits for it any more.
            assert await peer.frame() == {"type": "cancel", "id": call_id}
            given_up.set()
            await peer.send({"id": call_id, "status": "cancelled"})
            await peer.socket.wait_closed()

    asked_elsewhere = asyncio.Event()
    async with RealmServer(script) as server:
        async with Client(server.url, KEY, chunks_unread_max=room) as client:
            await read(client)
        assert server.connections == 2


async def test_an_answer_moves_on_from_a_server_that_goes_away_as_it_takes_over() -> None:
    async def script(peer: Peer) -> None:
        if peer.number > 3:
            await tell_all(peer)
        call_id, begun = await asked(peer)
        await peer.send({"type": "going_away", "grace_ms": 30000, "resume": True})
        await tell(peer, call_id, begun, 2)
        await peer.socket.wait_closed()

    async with RealmServer(script) as server, Client(server.url, KEY) as client:
        await read(client)
        assert server.connections == 4


async def test_an_answer_that_turns_out_to_be_another_programs_stays_where_it_is() -> None:
    elsewhere = asyncio.Event()

    async def script(peer: Peer) -> None:
        if peer.number == 1:
            call_id, _ = await asked(peer)
            server.refusals.append(refused_upgrade())
            server.knocked.clear()
            await peer.send({"type": "going_away", "grace_ms": 30000, "resume": True})
            await server.knocked.wait()
            await peer.chunk(call_id, 0, "Arr")
            await elsewhere.wait()
            await peer.complete(call_id)
        else:
            elsewhere.set()
            with pytest.raises(ConnectionClosed):
                await peer.frame()

    async with RealmServer(script) as server, Client(server.url, KEY) as client:
        stream = client.chat_stream([{"role": "user", "content": "x"}])
        assert (await stream.result()).text == "Arr"
        assert server.connections == 2


async def test_a_server_that_is_full_is_asked_again_when_it_says() -> None:
    async def script(peer: Peer) -> None:
        call_id, begun = await asked(peer)
        if peer.number == 1:
            await tell(peer, call_id, begun, 3)
            await peer.refuse(call_id, "moved")
            call_id, begun = await asked(peer)
            await peer.refuse(call_id, "busy", retry_after_ms=7000)
            await tell_all(peer)

    clock = ManualClock()
    async with RealmServer(script) as server, Client(server.url, KEY, clock=clock) as client:
        await read(client)
        assert any(7.0 <= sleep <= 7.7 for sleep in clock.sleeps)


async def test_a_server_that_cannot_go_on_leaves_the_reason_of_the_cut() -> None:
    async def script(peer: Peer) -> None:
        call_id, begun = await asked(peer)
        if peer.number == 1:
            await tell(peer, call_id, begun, 2)
            await peer.send({"type": "notice"})
            peer.socket.transport.write_eof()
        else:
            await peer.refuse(call_id, "invalid")
        await peer.socket.wait_closed()

    async with RealmServer(script) as server, Client(server.url, KEY) as client:
        with pytest.raises(ConnectionLost) as lost:
            await client.generate_stream("x").result()
        assert isinstance(lost.value.__cause__, InvalidRequest)
        assert lost.value.text == "".join(TEXTS[:2])


async def test_a_stream_that_gets_no_further_is_given_up() -> None:
    async def script(peer: Peer) -> None:
        call_id, begun = await asked(peer)
        await tell(peer, call_id, begun, 1 if peer.number == 1 else 0)
        await peer.send({"type": "notice"})
        peer.socket.transport.write_eof()
        await peer.socket.wait_closed()

    reconnect = Backoff(attempts_max=3, total_s_max=1000)
    async with RealmServer(script) as server:
        client = Client(server.url, KEY, clock=ManualClock(), reconnect=reconnect)
        with pytest.raises(ConnectionLost):
            await client.generate_stream("x").result()
        assert server.connections == 1 + 3
        await client.close()


async def test_a_lost_token_is_a_protocol_error() -> None:
    async def script(peer: Peer) -> None:
        call_id, begun = await asked(peer)
        await tell(peer, call_id, begun, 2)
        progress = {"first": 3, "tokens": [TOKENS[3]]}
        frame = {"id": call_id, "status": "streaming", "index": 2, "progress": progress}
        await peer.send(frame | {"data": {"text": TEXTS[3]}})
        assert (await peer.frame())["type"] == "cancel"

    async with RealmServer(script) as server, Client(server.url, KEY) as client:
        with pytest.raises(ProtocolError, match="token 3"):
            await client.generate_stream("x").result()


async def test_without_resume_a_stream_ends_with_its_connection() -> None:
    async def script(peer: Peer) -> None:
        frame = await peer.frame()
        assert "resumable" not in frame
        await tell(peer, frame["id"], 0, 2)
        await peer.send({"type": "notice"})
        peer.socket.transport.write_eof()
        await peer.socket.wait_closed()

    async with RealmServer(script) as server, Client(server.url, KEY, resume=False) as client:
        with pytest.raises(ConnectionLost):
            await client.generate_stream("x").result()
        assert server.connections == 1


async def test_each_new_connection_takes_the_next_address() -> None:
    async def cut_short(peer: Peer) -> None:
        call_id, begun = await asked(peer)
        await tell(peer, call_id, begun, 3)
        await peer.send({"type": "notice"})
        peer.socket.transport.write_eof()
        await peer.socket.wait_closed()

    clock = ManualClock()
    async with RealmServer(cut_short) as first, RealmServer(tell_all) as second:
        dead = "ws://127.0.0.1:1"
        async with Client([first.url, dead, second.url], KEY, clock=clock) as client:
            await read(client)
        assert (first.connections, second.connections) == (1, 1)
        assert len(clock.sleeps) == 1  # before the address behind the dead one


async def test_closing_the_client_ends_a_stream_on_its_way() -> None:
    moving = asyncio.Event()

    async def script(peer: Peer) -> None:
        call_id, begun = await asked(peer)
        if peer.number == 1:
            await tell(peer, call_id, begun, 1)
            await peer.refuse(call_id, "moved")
            await asked(peer)
            moving.set()
        await peer.socket.wait_closed()

    async with RealmServer(script) as server:
        client = Client(server.url, KEY)
        reading = asyncio.create_task(client.generate_stream("x").result())
        await moving.wait()
        await client.close()
        with pytest.raises(Exception, match=r"moved|closed"):
            await reading


async def test_a_deadline_holds_for_the_whole_answer() -> None:
    async def script(peer: Peer) -> None:
        call_id, begun = await asked(peer)
        await tell(peer, call_id, begun, 1)
        await peer.send({"type": "notice"})
        server.refusals.extend(refused_upgrade() for _ in range(100))
        peer.socket.transport.write_eof()
        await peer.socket.wait_closed()

    reconnect = Backoff(base_s=0.01, cap_s=0.01, attempts_max=1000)
    async with RealmServer(script) as server:
        client = Client(server.url, KEY, reconnect=reconnect)
        with pytest.raises(DeadlineExceeded):
            await client.generate_stream("x", deadline_s=0.3).result()
        await client.close()


async def test_many_streams_move_at_once_over_one_new_connection() -> None:
    count = 20
    told = 0

    async def script(peer: Peer) -> None:
        nonlocal told
        if peer.number > 1:
            await tell_all(peer)
        for _ in range(count):
            call_id, begun = await asked(peer)
            await tell(peer, call_id, begun, 1 + told % 7)
            told += 1
        await peer.send({"type": "going_away", "grace_ms": 30000, "resume": True})
        for _ in range(count):
            frame = await peer.frame()
            assert frame["type"] == "cancel"
            await peer.send({"id": frame["id"], "status": "cancelled"})

    async with RealmServer(script) as server, Client(server.url, KEY) as client:
        await asyncio.gather(*(read(client) for _ in range(count)))
        assert server.connections == 2
