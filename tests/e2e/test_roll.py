"""Agents that are replaced while they serve, as an upgrade of their DaemonSet does it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from harness.plane import Agent, Operator, Plane
from harness.reader import Reader, all_under_way
from harness.talk import LONG_PROMPT, QUESTIONS, answer
from harness.wait import eventually
from realm_client import Client, RealmError

STREAMS = 50

#: Each on a socket of its own.
CLIENTS = 10

TOKENS = 64

#: Both agents compute on the same cores, and one of them begins fifty prompts at once.
SOON_S = 60.0


@pytest.fixture(scope="module")
def operator(plane: Plane) -> Operator:
    """The only operator."""
    return plane.operator("operator-0")


@pytest.fixture(scope="module")
def agents(plane: Plane, operator: Operator, model: Path) -> list[Agent]:
    """Two agents with one model, and a tenant that may do much at once."""
    agents = [plane.agent(node, [operator]) for node in ("alpha", "beta")]
    spec = {"sources": [model.absolute().as_uri()], "replicas": 2, "kvBlocks": 1024}
    plane.apply("Model", "smollm2", spec)
    plane.key("acme")
    # At each of two doors there is half of it, and a stream that moves is at both for a moment.
    limits = {"calls": 4 * STREAMS, "requestsPerMinute": 10_000, "kvBlocks": 2048}
    grants = {"models": [{"name": "smollm2"}], "apiKeys": [{"secretName": "acme-keys"}]}
    plane.apply("Tenant", "acme", grants | {"limits": limits})
    plane.await_condition("model", "smollm2", "True")
    plane.await_condition("tenant", "acme", "True")
    return agents


async def serves(agent: Agent) -> bool:
    """Whether the agent's door answers."""
    try:
        async with agent.client("acme") as client:
            return bool(await answer(client, QUESTIONS[0], max_tokens=1))
    except RealmError:
        return False


async def opened(agent: Agent) -> None:
    """Waits until the agent's door answers."""
    await eventually(lambda: serves(agent), f"{agent.node} serves", within_s=SOON_S)


async def rolled(plane: Plane, leaving: Agent, staying: Agent) -> int:
    """Replaces an agent while streams run there; how many of them went on at the other one."""
    async with AsyncExitStack() as stack:
        doors = [leaving.url, staying.url]
        clients = [
            await stack.enter_async_context(Client(doors, plane.key("acme")))
            for _ in range(CLIENTS)
        ]
        readers = [
            Reader(
                clients[number % CLIENTS].generate_stream(
                    f"{LONG_PROMPT}It was for number {number}",
                    max_tokens=TOKENS,
                    temperature=0.8 if number % 2 else 0,
                )
            )
            for number in range(STREAMS)
        ]
        reading = [asyncio.create_task(reader.read()) for reader in readers]
        await all_under_way(readers, reading)
        assert await asyncio.to_thread(leaving.daemon.terminate) == 0
        moved = 0
        for reader, task in zip(readers, reading, strict=True):
            reader.check(await task)
            moved += len(reader.legs) == 2
    leaving.start()
    await opened(leaving)
    assert await serves(staying)
    return moved


async def test_fifty_streams_lose_and_double_no_token_while_each_agent_in_turn_is_rolled(
    plane: Plane, agents: list[Agent], record_property: Callable[[str, object], None]
) -> None:
    first, second = agents
    await opened(first)
    await opened(second)
    moved = [await rolled(plane, first, second), await rolled(plane, second, first)]
    record_property("streams that moved", moved)
    # Some may have come to their end before the other agent had taken them over.
    assert min(moved) > STREAMS / 2
