"""Two operators: one leads, the other takes over, and nobody notices but the Lease."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from harness.callers import calling
from harness.folder import Json, step
from harness.metrics import parse
from harness.plane import Agent, Operator, Plane
from harness.turns import Turns
from harness.wait import eventually

#: What is on every node here.
MODELS = 1


@pytest.fixture(scope="module")
def operators(plane: Plane) -> list[Operator]:
    """One that leads and one that stands by."""
    return [plane.operator(name) for name in ("operator-a", "operator-b")]


@pytest.fixture(scope="module")
def agents(plane: Plane, operators: list[Operator], model: Path) -> list[Agent]:
    """Two agents that know both operators, and hold a model, a tenant and a pipeline."""
    agents = [plane.agent(node, operators) for node in ("alpha", "beta")]
    spec = {"sources": [model.absolute().as_uri()], "replicas": 2, "kvBlocks": 256}
    plane.apply("Model", "smollm2", spec)
    plane.key("acme")
    keys = [{"secretName": "acme-keys"}]
    plane.apply("Tenant", "acme", {"models": [{"name": "smollm2"}], "apiKeys": keys})
    plane.apply("Tenant", "lost", {"models": [{"name": "nowhere"}]})
    plane.apply(
        "Pipeline",
        "echo",
        {
            "inputs": [{"name": "text"}],
            "steps": [step("only", "{{ inputs.text }}", tokens_max=4)],
            "outputs": [{"name": "only", "step": "only"}],
            "tenants": ["acme"],
        },
    )
    for kind, name in (("model", "smollm2"), ("tenant", "acme"), ("pipeline", "echo")):
        plane.await_condition(kind, name, "True", within_s=120.0)
    plane.await_condition("tenant", "lost", "False")
    return agents


def leader(plane: Plane, operators: list[Operator]) -> tuple[Operator, Operator]:
    """The one that leads, and the other."""
    holder = plane.leader()
    first, second = operators
    return (first, second) if first.name == holder else (second, first)


async def leads(plane: Plane, operator: Operator) -> None:
    """Waits for a take-over: a Lease that ends by itself, seen late by at most as long."""
    lease_s = plane.lease()["spec"]["leaseDurationSeconds"]

    async def holds() -> bool:
        return plane.leader() == operator.name

    await eventually(holds, f"{operator.name} leads", within_s=2.0 * lease_s)


async def all_told(agents: list[Agent], before: list[int]) -> list[list[Json]]:
    """What each agent took after so many states, once each has taken one."""

    async def new() -> list[list[Json]] | None:
        taken = [
            list(agent.generations()[known:]) for agent, known in zip(agents, before, strict=True)
        ]
        return taken if all(taken) else None

    # The longest wait of an agent between two tries is thirty seconds.
    return await eventually(new, "the new leader tells every agent", within_s=60.0)


async def test_a_killed_leader_is_followed_by_the_other_and_no_stream_or_condition_notices(
    plane: Plane, operators: list[Operator], agents: list[Agent]
) -> None:
    first, second = leader(plane, operators)
    known = [len(agent.generations()) for agent in agents]
    with Turns(plane.cluster.admin, plane.tenants) as turns:
        async with calling(agents, "acme") as callers:
            first.daemon.kill()
            await leads(plane, second)
            taken = await all_told(agents, known)
            # A change that comes through says that the new leader has written what it knows.
            plane.apply("Tenant", "acme", plane.spec("tenant", "acme") | {"weight": 7})
            await settled(plane, "acme")
        assert all(caller.answers for caller in callers)
    assert turns.seen()
    assert turns.turned() == {}
    states = [state for states in taken for state in states]
    assert all((each["models"], each["tenants"]) == (MODELS, 2) for each in states), states
    assert plane.lease()["spec"]["leaseTransitions"] == 1
    first.start()


async def settled(plane: Plane, tenant: str) -> None:
    """Waits until the status answers the newest generation."""

    async def is_so() -> bool:
        thing = plane.get("tenant", tenant)
        return bool(thing["status"]["observedGeneration"] == thing["metadata"]["generation"])

    await eventually(is_so, f"the status of {tenant} is of its newest generation", within_s=90.0)


async def test_a_leader_that_was_stopped_beyond_its_lease_writes_nothing_when_it_goes_on(
    plane: Plane, operators: list[Operator], agents: list[Agent]
) -> None:
    first, second = leader(plane, operators)
    known = [len(agent.generations()) for agent in agents]
    with Turns(plane.cluster.admin, plane.tenants) as turns:
        first.daemon.pause()
        await leads(plane, second)
        await all_told(agents, known)
        # What waits for the stopped one: a change that it would write a status for.
        plane.apply("Tenant", "acme", plane.spec("tenant", "acme") | {"weight": 9})
        await settled(plane, "acme")
        before = len(plane.cluster.writes(first.name))
        first.daemon.resume()

        async def let_go() -> bool:
            return "leading no more" in first.daemon.text()

        await eventually(let_go, "the stopped leader notices")
        plane.apply("Tenant", "acme", plane.spec("tenant", "acme") | {"weight": 11})
        await settled(plane, "acme")
    assert turns.turned() == {}
    written = plane.cluster.writes(first.name)[before:]
    assert written == []
    assert plane.leader() == second.name
    assert parse(httpx.get(first.metrics).text).value("realm_operator_leading") == 0
    assert parse(httpx.get(second.metrics).text).value("realm_operator_leading") == 1
