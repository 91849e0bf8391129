"""Two operators: one leads, the other takes over, and nobody notices but the Lease."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import httpx
import pytest

from harness.callers import calling
from harness.folder import Json, step
from harness.metrics import parse
from harness.plane import Agent, Operator, Plane
from harness.turns import Key, State, Turns
from harness.wait import eventually

#: What is on every node here, at least.
MODELS, TENANTS = 1, 2

#: Tenants whose status says that a leader has written what it knows.
FENCE = "fence-"

#: A busy machine's time to see that a Lease has ended, and to take it.
LATE_S = 10.0

#: From one change to the next, so that a leader always has something in hand.
CHANGE_S = 0.02


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
    plane.tenant("acme", models=[{"name": "smollm2"}])
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
    # A model is ready once one agent serves it; nothing is to turn after it is on both.
    plane.await_condition("model", "smollm2", "True", "Loaded", within_s=120.0)
    for kind, name in (("tenant", "acme"), ("pipeline", "echo")):
        plane.await_condition(kind, name, "True", within_s=120.0)
    plane.await_condition("tenant", "lost", "False")
    return agents


def leader(plane: Plane, operators: list[Operator]) -> tuple[Operator, Operator]:
    """The one that leads, and the other."""
    holder = plane.leader()
    first, second = operators
    return (first, second) if first.name == holder else (second, first)


async def leads(plane: Plane, operator: Operator) -> None:
    """Waits for a take-over: a Lease that ends by itself, seen by a look every two seconds."""
    lease_s = plane.lease()["spec"]["leaseDurationSeconds"]

    async def holds() -> bool:
        return plane.leader() == operator.name

    await eventually(holds, f"{operator.name} leads", within_s=lease_s + LATE_S)


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
            await written(plane, "first")
        assert all(caller.answers for caller in callers)
    assert turns.seen()
    assert turned(turns) == {}
    states = [state for states in taken for state in states]
    assert all(each["models"] == MODELS and each["tenants"] >= TENANTS for each in states), states
    assert not [line for agent in agents for line in agent.refused()]
    assert plane.lease()["spec"]["leaseTransitions"] == 1
    first.start()


async def written(plane: Plane, what: str) -> None:
    """Waits until a new tenant has a status: what the leader knew before, it has written before."""
    name = f"{FENCE}{what}"
    plane.tenant(name, models=[{"name": "smollm2"}])

    async def is_ready() -> bool:
        found = plane.condition("tenant", name)
        return bool(found and found["status"] == "True")

    await eventually(is_ready, f"{name} is ready", within_s=90.0)


def turned(turns: Turns) -> dict[Key, list[State]]:
    """What turned of the objects that were there before."""
    return {key: all_ for key, all_ in turns.turned().items() if not key[1].startswith(FENCE)}


@contextmanager
def changing(plane: Plane) -> Iterator[None]:
    """Changes a tenant again and again for as long as the block lasts."""
    is_over = threading.Event()

    def change() -> None:
        for weight in count(1):
            models = [{"name": "smollm2"}]
            plane.tenant(f"{FENCE}busy", models=models, weight=1 + weight % 1000)
            if is_over.wait(CHANGE_S):
                return

    thread = threading.Thread(target=change)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def told(operator: Operator) -> list[str]:
    """Every state that an operator has handed to the stream of an agent."""
    return re.findall(r" told node=.*", operator.daemon.text())


async def test_a_leader_that_was_stopped_beyond_its_lease_writes_and_says_nothing_when_it_goes_on(
    plane: Plane, operators: list[Operator], agents: list[Agent]
) -> None:
    first, second = leader(plane, operators)
    known = [len(agent.generations()) for agent in agents]
    with Turns(plane.cluster.admin, plane.tenants) as turns, changing(plane):
        await written(plane, "before")
        first.daemon.pause()
        await leads(plane, second)
        await all_told(agents, known)
        # It would write a status for this, and the other does.
        await written(plane, "second")
        before = len(plane.cluster.writes(first.name))
        said = len(told(first))
        assert said
        first.daemon.resume()

        async def let_go() -> bool:
            return "leading no more" in first.daemon.text()

        await eventually(let_go, "the stopped leader notices")
        await written(plane, "third")
    assert turned(turns) == {}
    assert plane.cluster.writes(first.name)[before:] == []
    assert told(first)[said:] == []
    assert plane.leader() == second.name
    assert [says_it_leads(operator) for operator in (first, second)] == [0, 1]


def says_it_leads(operator: Operator) -> float:
    """What an operator says of itself."""
    return parse(httpx.get(operator.metrics).text).value("realm_operator_leading")
