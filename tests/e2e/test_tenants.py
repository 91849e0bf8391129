"""Sixteen tenants stream at once from one copy of the weights."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from conftest import Serve
from harness.folder import Folder
from harness.server import Server
from harness.talk import QUESTIONS, Heard, answer, stream
from harness.wait import eventually
from realm_client import CallCancelled, Client

NAMES = [f"team-{number}" for number in range(16)]

#: Long enough that all sixteen overlap.
LONG = 48


def fill(folder: Folder) -> None:
    for name in NAMES:
        folder.tenant(name)


@pytest.fixture(scope="module")
def server(serve: Serve) -> Server:
    return serve(fill)


@pytest.fixture(scope="module")
def keys(server: Server) -> list[str]:
    return [server.folder.key(name) for name in NAMES]


async def test_sixteen_tenants_share_the_weights_and_every_answer_is_right(
    server: Server, keys: list[str], model: Path, record_property: Callable[[str, object], None]
) -> None:
    async with Client(server.url, keys[0]) as first:
        # One tenant alone gives the answers, so nothing of another's run helps or hurts them.
        alone = [await answer(first, question, LONG) for question in QUESTIONS]
    resident_alone = server.resident_bytes()
    most = resident_alone
    running_most = 0.0
    over = asyncio.Event()

    async def watch() -> None:
        nonlocal most, running_most
        while not over.is_set():
            most = max(most, server.resident_bytes())
            metrics = await asyncio.to_thread(server.metrics)
            running_most = max(running_most, metrics.value("realm_engine_sequences_running"))

    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(Client(server.url, key)) for key in keys]
        watching = asyncio.create_task(watch())
        pairs = zip(clients, QUESTIONS, strict=True)
        together: list[Heard] = await asyncio.gather(*(stream(c, q, LONG) for c, q in pairs))
        over.set()
        await watching
    wrong = {
        question: (heard.text, expected)
        for question, heard, expected in zip(QUESTIONS, together, alone, strict=True)
        if heard.text != expected
    }
    assert not wrong
    assert running_most >= 8, "the tenants hardly overlapped"
    weights = model.stat().st_size
    record_property("resident memory after one tenant, MB", resident_alone // 1_000_000)
    record_property("resident memory while sixteen stream, MB", most // 1_000_000)
    record_property("model file, MB", weights // 1_000_000)
    record_property("sequences in one batch, most", int(running_most))
    assert most - resident_alone < weights / 2, (
        f"{most - resident_alone} bytes more with sixteen tenants; the weights have {weights}"
    )
    await every_block_is_free(server)


async def test_a_storm_of_starts_and_cancels_leaves_every_block_free(
    server: Server, keys: list[str]
) -> None:
    async def leave_after(client: Client, question: str, chunks: int) -> None:
        stream = client.chat_stream([{"role": "user", "content": question}], temperature=0)
        seen = 0
        async for _ in stream:
            seen += 1
            if seen > chunks:
                break
        else:
            raise AssertionError("the answer ended before it was left")
        with pytest.raises(CallCancelled):
            await stream.result()

    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(Client(server.url, key)) for key in keys]
        for chunks in (0, 1, 5):
            pairs = zip(clients, QUESTIONS, strict=True)
            await asyncio.gather(*(leave_after(c, q, chunks) for c, q in pairs))
        await every_block_is_free(server)
        expected = await answer(clients[0], QUESTIONS[0])
        assert await answer(clients[1], QUESTIONS[0]) == expected


async def every_block_is_free(server: Server) -> None:
    async def probe() -> bool:
        metrics = server.metrics()
        names = ("kv_blocks_used", "sequences_running", "sequences_queued")
        return sum(metrics.value(f"realm_engine_{name}") for name in names) == 0

    await eventually(probe, "every KV block is free or cached")
    metrics = server.metrics()
    assert metrics.value("realm_engine_kv_blocks") >= metrics.value("realm_engine_kv_blocks_cached")
    assert metrics.value("realm_calls_running") == 0
