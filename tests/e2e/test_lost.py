"""A node dies: what it held goes elsewhere, and what others hold goes on."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from harness.callers import calling, let_in
from harness.folder import Json
from harness.plane import Agent, Operator, Plane
from harness.talk import QUESTIONS, answer
from harness.wait import eventually, raises, until
from realm_client import Unauthenticated

#: A node is lost after 45 s, after which the other loads the model in a debug build.
LOST_S_MAX = 150.0

#: Of a tenant that counts them. One that takes a second to count has at most another one meanwhile.
REQUESTS_PER_MINUTE = 20

#: Tenants with that limit, each for one count.
METERED = ("once", "twice", "later")


@pytest.fixture(scope="module")
def operator(plane: Plane) -> Operator:
    """The only operator."""
    return plane.operator("operator-0")


@pytest.fixture(scope="module")
def agents(plane: Plane, operator: Operator, model: Path) -> dict[str, Agent]:
    """Two agents; one model is on both, another one on one of them."""
    agents = {node: plane.agent(node, [operator]) for node in ("alpha", "beta")}
    source = [model.absolute().as_uri()]
    plane.apply("Model", "pair", {"sources": source, "replicas": 2, "kvBlocks": 256})
    plane.apply("Model", "solo", {"sources": source, "replicas": 1, "kvBlocks": 256})
    plane.tenant("acme", models=[{"name": "pair"}, {"name": "solo"}])
    limits = {"requestsPerMinute": REQUESTS_PER_MINUTE}
    for name in METERED:
        plane.tenant(name, models=[{"name": "pair"}], limits=limits)
    plane.tenant("brief", models=[{"name": "pair"}])
    tenants = [("tenant", name) for name in ("acme", "brief", *METERED)]
    for kind, name in (("model", "pair"), ("model", "solo"), *tenants):
        plane.await_condition(kind, name, "True", within_s=120.0)
    return agents


def shared_by(plane: Plane, name: str) -> str:
    """What a tenant's condition says of who enforces its limits."""
    applied = plane.condition("tenant", name, "LimitsApplied")
    assert applied["status"] == "True"
    return str(applied["reason"])


async def test_all_doors_together_let_in_what_a_tenant_may_and_no_more(
    plane: Plane, agents: dict[str, Agent]
) -> None:
    assert shared_by(plane, "once") == "SharedByDoors"
    began = time.monotonic()
    # At once: where one of them refuses calls, the other may soon have less.
    admitted = await asyncio.gather(*(let_in(agent, "once") for agent in agents.values()))
    refilled = REQUESTS_PER_MINUTE * (time.monotonic() - began) / 60
    assert all(each >= REQUESTS_PER_MINUTE // len(agents) for each in admitted), admitted
    assert sum(admitted) <= REQUESTS_PER_MINUTE + refilled, admitted


def nodes_of(plane: Plane, model: str) -> set[str]:
    """Where the model is loaded, by its status."""
    nodes: list[Json] = plane.get("model", model)["status"].get("nodes", [])
    return {node["name"] for node in nodes if node["state"] == "Ready"}


async def test_the_models_of_a_killed_agent_go_to_another_whose_own_calls_go_on(
    plane: Plane, agents: dict[str, Agent]
) -> None:
    async def placed() -> bool:
        return len(nodes_of(plane, "pair")) == len(agents) and len(nodes_of(plane, "solo")) == 1

    await eventually(placed, "every replica is loaded", within_s=60.0)
    [node] = nodes_of(plane, "solo")
    [other] = [agent for name, agent in agents.items() if name != node]
    async with calling([other], "acme") as callers:
        agents[node].daemon.kill()
        delete = ("delete", "tenant", "brief", "--namespace", plane.tenants, "--wait=false")
        assert plane.cluster.admin.kubectl(*delete).returncode == 0
        # The killed one may be a door yet that only the operator does not see.
        half = REQUESTS_PER_MINUTE // len(agents)
        assert half <= await let_in(other, "twice") <= half + 1
        assert shared_by(plane, "later") == "SharedByDoors"

        async def is_waited_for() -> bool:
            found = plane.condition("tenant", "brief")
            return bool(found["reason"] == "Deleting" and found["message"].endswith(f" {node}"))

        await eventually(is_waited_for, "the tenant waits for the killed agent")
        async with other.client("acme") as client:
            assert await answer(client, QUESTIONS[0], max_tokens=4)

        async def moved() -> bool:
            return nodes_of(plane, "solo") == {other.node}

        await eventually(moved, "the other node has taken over", within_s=LOST_S_MAX)
    assert callers[0].answers
    done = plane.cluster.admin.kubectl(
        *("wait", "--for=delete", "tenant/brief", "--namespace", plane.tenants, "--timeout=30s")
    )
    assert done.returncode == 0, done.stderr
    # Nobody has called as this one yet, so that its bucket is as full as it may be.
    until(lambda: shared_by(plane, "later") == "Whole", "one door has the limits whole")
    assert REQUESTS_PER_MINUTE <= await let_in(other, "later") <= REQUESTS_PER_MINUTE + 1
    assert plane.await_condition("model", "solo", "True")["reason"] == "Serving"
    async with other.client("acme") as client:
        said = await client.chat(
            [{"role": "user", "content": QUESTIONS[1]}], model="solo", max_tokens=4, temperature=0
        )
        assert said.text
    agents[node].start()

    async def back() -> bool:
        return len(nodes_of(plane, "pair")) == len(agents)

    await eventually(back, "the node that came back serves again", within_s=LOST_S_MAX)
    # Divided evenly, or by what the doors have used of it lately.
    assert shared_by(plane, "later") in {"SharedByDoors", "Sliced"}

    async def call_as_brief() -> None:
        async with agents[node].client("brief") as client:
            await client.health()

    await raises(Unauthenticated, call_as_brief, "the node that came back has let go of the tenant")
