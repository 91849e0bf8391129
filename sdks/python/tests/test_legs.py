"""How the legs of one answer follow each other: no socket, and whoever asks decides what comes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clock import ManualClock
from realm_client import Backoff, Chunk, ConnectionLost, InvalidRequest
from realm_client.policy import Policy
from realm_client.reply import Completion, Progress
from realm_client.request import Request
from realm_client.resuming import Resuming
from realm_client.running import RunningCall, Sink
from realm_client.session import Session

#: Chunks that may wait for the reader.
ROOM = 8

REFUSED = InvalidRequest("no", code="invalid")


class Leg:
    """A call as its server sees it: it says tokens one by one, from where it was asked to."""

    def __init__(self, request: Request, sink: Sink) -> None:
        self._sink = sink
        self.began = 0 if request.resume is None else len(request.resume.tokens)
        self.at = self.began
        self.is_cancelled = False

    def say(self, count: int) -> None:
        for _ in range(count):
            seed = 7 if self.at == self.began else None
            progress = Progress(self.at, (self.at,), seed)
            self._sink.feed(Chunk(self.at - self.began, f"{self.at} ", progress=progress))
            self.at += 1

    def cut(self) -> None:
        self._sink.fail(ConnectionLost("cut"))

    def refuse(self) -> None:
        self._sink.fail(REFUSED)

    def retire(self) -> None:
        self._sink.retire()

    def complete(self) -> None:
        self._sink.complete(Completion({}, "stop", None, None))

    def cancel(self) -> None:
        self.is_cancelled = True


class Servers:
    """Take every call, and do nothing with it by themselves."""

    closed = False

    def __init__(self) -> None:
        self.legs: list[Leg] = []
        self.movers: list[asyncio.Task[None]] = []
        self._asked = asyncio.Event()

    def start(self, request: Request, sink: Sink) -> Callable[[], None]:
        leg = Leg(request, sink)
        self.legs.append(leg)
        self._asked.set()
        return leg.cancel

    async def place(self) -> Session:
        return cast("Session", self)

    def spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        self.movers.append(asyncio.create_task(work))
        return self.movers[-1]

    def close(self) -> None:
        """What the client does at its end, before its connections close."""
        self.closed = True
        for mover in self.movers:
            mover.cancel()

    async def leg(self, number: int) -> Leg:
        """The leg of that number, once it was asked for."""
        async with asyncio.timeout(5):
            while len(self.legs) <= number:
                self._asked.clear()
                await self._asked.wait()
        return self.legs[number]


async def begin() -> tuple[Servers, RunningCall, Leg, asyncio.Task[Completion]]:
    """An answer, its first leg, and somebody who waits for the whole."""
    servers = Servers()
    policy = Policy(None, Backoff(), ROOM, ManualClock(), random.Random(1))
    running = RunningCall(ROOM)
    request = Request("generate", {}, stream=True, deadline_s=None, resumable=True)
    resuming = Resuming(servers, request, policy, lambda: None, running)
    running.attach(resuming.cancel)
    resuming.begin(cast("Session", servers))
    reading = asyncio.create_task(running.end())
    return servers, running, await servers.leg(0), reading


def said(running: RunningCall) -> int:
    """How many tokens the reader can have; they are whole and in order."""
    texts = [chunk.text for chunk in running.chunks]
    assert texts == [f"{at} " for at in range(len(texts))]
    return len(texts)


async def ended(reading: asyncio.Task[Completion]) -> BaseException | None:
    """Why the answer ended; it did."""
    await asyncio.wait([reading], timeout=5)
    assert reading.done()
    return reading.exception()


async def test_an_answer_ends_with_its_client_while_another_server_is_asked_to_go_on() -> None:
    servers, running, first, reading = await begin()
    first.say(2)
    first.retire()
    second = await servers.leg(1)
    first.say(1)
    servers.close()
    await asyncio.wait(servers.movers)
    first.cut()
    second.cut()
    assert isinstance(await ended(reading), ConnectionLost)
    assert second.is_cancelled
    assert said(running) == 3


async def test_an_answer_ends_with_its_client_before_another_server_is_looked_for() -> None:
    servers, running, first, reading = await begin()
    first.say(2)
    first.cut()
    servers.close()
    assert isinstance(await ended(reading), ConnectionLost)
    assert said(running) == 2


async def test_the_next_server_is_asked_behind_what_came_before_the_cut() -> None:
    servers, running, first, reading = await begin()
    first.say(2)
    first.retire()
    second = await servers.leg(1)
    assert second.began == 2
    first.say(3)
    assert said(running) == 2, "the second may still go on from there"
    first.cut()
    assert said(running) == 2
    second.cut()
    assert said(running) == 5
    third = await servers.leg(2)
    assert third.began == 5
    third.refuse()
    with pytest.raises(ConnectionLost):
        await reading
    assert said(running) == 5


async def test_what_is_held_for_a_server_that_takes_over_is_said_by_that_server() -> None:
    servers, running, first, reading = await begin()
    first.say(2)
    first.retire()
    second = await servers.leg(1)
    first.say(ROOM - 1)
    second.say(1)
    assert first.is_cancelled
    assert said(running) == 3
    second.complete()
    await reading


async def test_a_server_that_says_nothing_is_given_up_once_there_is_no_room() -> None:
    servers, running, first, reading = await begin()
    first.say(2)
    first.retire()
    second = await servers.leg(1)
    first.say(ROOM - 1)
    assert not second.is_cancelled
    first.say(1)
    assert second.is_cancelled
    assert said(running) == 2 + ROOM
    third = await servers.leg(2)
    assert third.began == 2 + ROOM
    first.complete()
    assert third.is_cancelled
    await reading


@given(st.integers(0, 5), st.integers(0, ROOM - 1), st.booleans())
def test_nothing_that_came_is_lost_where_nobody_takes_over(
    before: int, held: int, is_cut_first: bool
) -> None:
    async def scenario() -> None:
        servers, running, first, reading = await begin()
        first.say(before)
        first.retire()
        second = await servers.leg(1)
        assert second.began == before
        first.say(held)
        ends = [first.cut, second.refuse]
        for end in ends if is_cut_first else reversed(ends):
            end()
        with pytest.raises(ConnectionLost) as lost:
            await reading
        assert len(lost.value.chunks) == said(running) == before + held

    asyncio.run(scenario())
