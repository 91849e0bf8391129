"""The API server is away: agents serve on, and nothing has changed when it is back."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from harness.callers import calling
from harness.plane import Agent, Operator, Plane
from harness.talk import QUESTIONS, answer
from harness.turns import Turns
from harness.wait import eventually

#: How long it is away. Longer than everything that could end by it: the leader lets go of its
#: Lease after 10 s, a Lease ends after 15 s, and a link without a sign of life after 15 s.
AWAY_S = float(os.environ.get("REALM_TEST_AWAY_S", "20"))

#: Between two new clients meanwhile.
EVERY_S = 2.0


@pytest.fixture(scope="module")
def operator(plane: Plane) -> Operator:
    """The only operator."""
    return plane.operator("operator-0")


@pytest.fixture(scope="module")
def agents(plane: Plane, operator: Operator, model: Path) -> list[Agent]:
    """Two agents with a model and a tenant."""
    agents = [plane.agent(node, [operator]) for node in ("alpha", "beta")]
    spec = {"sources": [model.absolute().as_uri()], "replicas": 2, "kvBlocks": 256}
    plane.apply("Model", "smollm2", spec)
    plane.key("acme")
    keys = [{"secretName": "acme-keys"}]
    plane.apply("Tenant", "acme", {"models": [{"name": "smollm2"}], "apiKeys": keys})
    # A model is ready once one agent serves it; nothing is to turn after it is on both.
    plane.await_condition("model", "smollm2", "True", "Loaded", within_s=120.0)
    plane.await_condition("tenant", "acme", "True", within_s=120.0)
    return agents


async def test_nothing_is_dropped_while_the_api_server_is_away(
    plane: Plane, operator: Operator, agents: list[Agent]
) -> None:
    known = [len(agent.generations()) for agent in agents]
    opened = 0
    with Turns(plane.cluster.admin, plane.tenants) as turns:
        async with calling(agents, "acme") as callers:
            with plane.cluster.without_api_server():
                end = asyncio.get_running_loop().time() + AWAY_S
                while asyncio.get_running_loop().time() < end:
                    # Somebody new, whose key has never been seen on this connection.
                    for agent in agents:
                        async with agent.client("acme") as client:
                            assert await answer(client, QUESTIONS[0], max_tokens=4)
                    opened += 1
                    await asyncio.sleep(EVERY_S)
            plane.tenant("late", models=[{"name": "smollm2"}])

            async def told() -> bool:
                found = plane.condition("tenant", "late")
                pairs = zip(agents, known, strict=True)
                is_new = all(len(agent.generations()) > before for agent, before in pairs)
                return bool(is_new and found and found["status"] == "True")

            await eventually(told, "something new comes through again", within_s=120.0)
        assert opened
        assert all(caller.answers for caller in callers)
    assert turns.seen()
    assert {key: states for key, states in turns.turned().items() if key[1] != "late"} == {}
    for agent, before in zip(agents, known, strict=True):
        after = agent.generations()[before:]
        assert all(each["models"] == 1 and each["tenants"] >= 1 for each in after), after
    assert not operator.daemon.has_ended
