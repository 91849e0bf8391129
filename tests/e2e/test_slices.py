"""A tenant has its limits once, however many doors its calls come to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx
import pytest

from harness.callers import let_in
from harness.metrics import parse
from harness.plane import Agent, Operator, Plane
from harness.wait import eventually
from realm_client import RateLimited

PER_MINUTE = 60

#: What a door of two keeps of a limit wherever calls go: an eighth of a half, rounded up.
KEPT = 4

#: By which what a door holds may be rounded up.
ROUNDED = 1

#: Tenants with that limit, each for one count.
METERED = ("follows", "outage", "restarts")

#: A division every five seconds, of what is told every two, after doors have been connected again.
DIVIDED_S_MAX = 60.0


@pytest.fixture(scope="module")
def operator(plane: Plane) -> Operator:
    """The only operator."""
    return plane.operator("operator-0")


@pytest.fixture(scope="module")
def agents(plane: Plane, operator: Operator, model: Path) -> Sequence[Agent]:
    """Two doors."""
    agents = [plane.agent(node, [operator]) for node in ("alpha", "beta")]
    spec = {"sources": [model.absolute().as_uri()], "replicas": 1, "kvBlocks": 256}
    plane.apply("Model", "smollm2", spec)
    limits = {"requestsPerMinute": PER_MINUTE}
    for name in METERED:
        plane.tenant(name, models=[{"name": "smollm2"}], limits=limits)
    for name in METERED:
        plane.await_condition("tenant", name, "True", within_s=120.0)
    return agents


async def calls(agent: Agent, name: str, seconds: float) -> int:
    """How many calls a door lets in, one after the other, as fast as it does."""
    admitted, until = 0, time.monotonic() + seconds
    async with agent.client(name) as client:
        while (left := until - time.monotonic()) > 0:
            try:
                await client.metadata()
            except RateLimited as refused:
                await asyncio.sleep(min(left, refused.retry_after or left, 0.2))
            else:
                admitted += 1
    return admitted


def applied(plane: Plane, name: str) -> Mapping[str, str]:
    """What a tenant's condition says of who enforces its limits."""
    found: Mapping[str, str] = plane.condition("tenant", name, "LimitsApplied")
    return found


async def sliced(plane: Plane, agent: Agent, name: str) -> None:
    """Calls at one door until nearly all of the limit is there."""

    async def has_most() -> bool:
        await calls(agent, name, 2.0)
        found = applied(plane, name)
        is_there = f"largest that of {agent.node}, 93 %" in found["message"]
        return found["reason"] == "Sliced" and is_there

    await eventually(has_most, f"{agent.node} has nearly all", within_s=DIVIDED_S_MAX)


async def test_a_tenant_that_calls_at_one_door_has_nearly_all_of_its_limit_there(
    plane: Plane, agents: Sequence[Agent]
) -> None:
    alpha, beta = agents
    assert applied(plane, "follows")["reason"] == "SharedByDoors"
    admitted = await let_in(alpha, "follows")
    assert PER_MINUTE // 2 <= admitted <= PER_MINUTE // 2 + 2
    await sliced(plane, alpha, "follows")
    seconds = 15.0
    there = await calls(alpha, "follows", seconds)
    # All but what the other door keeps, and not the half that it would be.
    assert there >= (PER_MINUTE - KEPT) / 60 * seconds - 2, there
    assert there <= (PER_MINUTE - KEPT + 1) / 60 * seconds + ROUNDED + 1, there
    # It has just moved: what the door that calls come to now had is what it keeps.
    assert await let_in(beta, "follows") <= KEPT + ROUNDED
    both = await asyncio.gather(*(calls(agent, "follows", 20.0) for agent in agents))
    assert sum(both) <= PER_MINUTE / 60 * 20.0 + 2 * ROUNDED, both
    assert min(both) > 0


async def test_while_the_operator_is_away_doors_go_on_with_what_they_hold(
    plane: Plane, operator: Operator, agents: Sequence[Agent]
) -> None:
    alpha, _ = agents
    await sliced(plane, alpha, "outage")
    operator.daemon.kill()
    try:
        seconds = 15.0
        both = await asyncio.gather(*(calls(agent, "outage", seconds) for agent in agents))
        most = PER_MINUTE / 60 * seconds
        # The other door's bucket had in it what it holds.
        assert sum(both) <= most + KEPT + 2 * ROUNDED, both
        assert both[0] >= (PER_MINUTE - KEPT) / 60 * seconds - 2, both
    finally:
        operator.start()
    began = time.monotonic()

    async def is_back() -> bool:
        async with httpx.AsyncClient(trust_env=False) as http:
            scraped = [parse((await http.get(agent.metrics)).text) for agent in agents]
        return all(each.value("realm_link_up") == 1 for each in scraped)

    all_in = 0
    while not await is_back():
        all_in += sum(await asyncio.gather(*(calls(agent, "outage", 1.0) for agent in agents)))
        assert time.monotonic() - began < 60.0
    all_in += sum(await asyncio.gather(*(calls(agent, "outage", 15.0) for agent in agents)))
    minutes = (time.monotonic() - began) / 60.0
    assert all_in <= PER_MINUTE * minutes + KEPT + 2 * ROUNDED, all_in


async def test_a_door_that_is_started_again_has_no_minute_in_hand(
    plane: Plane, agents: Sequence[Agent]
) -> None:
    alpha, _ = agents
    await sliced(plane, alpha, "restarts")
    await let_in(alpha, "restarts")
    for agent in agents:
        agent.daemon.kill()
        began = time.monotonic()
        agent.start()

        async def is_there(agent: Agent = agent) -> bool:
            async with agent.client("restarts") as client:
                await client.health()
            return True

        await eventually(is_there, f"{agent.node} is there again")
        admitted = await let_in(agent, "restarts")
        earned = (PER_MINUTE if agent is alpha else KEPT) * (time.monotonic() - began) / 60
        assert admitted <= KEPT + earned + ROUNDED, admitted
    await sliced(plane, alpha, "restarts")
    assert applied(plane, "restarts")["status"] == "True"
