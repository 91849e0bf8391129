"""What a tenant comes up against is told, where `kubectl describe` and `realm` look."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from harness.callers import let_in
from harness.folder import Json
from harness.plane import Agent, Operator, Plane
from harness.server import realm
from harness.talk import LONG_PROMPT, QUESTIONS, asked, stream
from harness.told import events_of, notes_of
from harness.turns import Turns
from harness.wait import eventually
from realm_client import Client, RateLimited

WITHIN = "WithinLimits"
PROMPTLY = "ServedPromptly"

#: What agents say of refusals for so long, on a busy machine a few seconds more.
MINUTE_S, LATE_S = 60.0, 15.0

#: Agents look every two seconds.
TOLD_S = 15.0

#: Of a tenant that is refused at once.
FEW = {"requestsPerMinute": 3}

REFUSED = "calls were refused in the last minute: "

#: Of a model of which so many answers hold more blocks than it has.
CROWD = ("mine", "yours")
STREAMS = 6
FEW_BLOCKS = {"kvBlocks": 16, "context": 512}


@pytest.fixture(scope="module")
def operator(plane: Plane) -> Operator:
    """The only operator."""
    return plane.operator("operator-0")


@pytest.fixture(scope="module")
def agents(plane: Plane, operator: Operator, model: Path) -> Sequence[Agent]:
    """Two doors, and tenants that need no model."""
    agents = [plane.agent(node, [operator]) for node in ("alpha", "beta")]
    spec = {"sources": [model.absolute().as_uri()], "replicas": 1, "kvBlocks": 256}
    plane.apply("Model", "smollm2", spec)
    plane.apply("Model", "narrow", spec | FEW_BLOCKS)
    for name in ("flooded", "kept"):
        plane.tenant(name, limits=FEW)
    plane.tenant("shadow", limits=FEW, limitsMode="Shadow")
    plane.tenant("wordy", models=[{"name": "smollm2"}], limits={"inputTokensPerMinute": 200})
    plane.tenant("full", models=[{"name": "smollm2"}], limits={"kvBlocks": 8})
    for name in CROWD:
        plane.tenant(name, models=[{"name": "narrow"}], weight=70)
    for name in ("flooded", "kept", "shadow", "wordy", "full", *CROWD):
        plane.await_condition("tenant", name, "True", within_s=120.0)
    return agents


async def flood(agents: Sequence[Agent], name: str) -> None:
    """Calls at every door until each has refused one."""
    await asyncio.gather(*(let_in(agent, name) for agent in agents))


async def said(
    plane: Plane,
    name: str,
    status: str,
    reason: str,
    within_s: float = TOLD_S,
) -> Json:
    """The condition once it is so, which its reason tells from the other one."""
    of = PROMPTLY if reason in {PROMPTLY, "BehindOthers"} else WITHIN

    async def is_so() -> Json:
        found = plane.condition("tenant", name, of)
        return found if (found["status"], found["reason"]) == (status, reason) else None

    return await eventually(is_so, f"{name} has {of}={status} {reason}", within_s=within_s)


async def go_on(client: Client, question: str) -> None:
    """Asks again and again, for long answers."""
    while True:
        await stream(client, question, max_tokens=256)


async def ended(streams: Sequence[asyncio.Task[None]]) -> None:
    """Ends calls that go on, of which none has ended by itself."""
    assert not any(each.done() for each in streams)
    for each in streams:
        each.cancel()
    await asyncio.gather(*streams, return_exceptions=True)


def explained(plane: Plane, name: str) -> str:
    """What `realm explain` says of a tenant."""
    where = ("--kubeconfig", plane.cluster.admin.kubeconfig, "--namespace", plane.tenants)
    done = realm("explain", f"tenant/{name}", *where)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def test_limits_that_refuse_calls_are_told_until_they_have_refused_none_for_a_minute(
    plane: Plane, agents: Sequence[Agent]
) -> None:
    within = await said(plane, "flooded", "True", WITHIN)
    assert within["message"] == "no limit has refused a call in the last minute"
    assert "limits      no limit has refused" in explained(plane, "flooded")
    told = f"{REFUSED}requestsPerMinute 3"
    await flood(agents, "flooded")
    await said(plane, "flooded", "False", "RequestsPerMinute")

    async def is_of_both() -> bool:
        found = plane.condition("tenant", "flooded", WITHIN)
        return bool(found["message"] == f"{told}; at 2 of 2 doors")

    await eventually(is_of_both, "both doors are told of")
    assert plane.condition("tenant", "flooded")["status"] == "True"
    assert f"limits      {told}; at 2 of 2 doors\n" in explained(plane, "flooded")
    assert "wrong       nothing" in explained(plane, "flooded")

    async def is_told() -> bool:
        return notes_of(plane, "flooded", "RequestsPerMinute") == [told]

    await eventually(is_told, "an event tells of it")
    # The same limit goes on, and what is said of it stays as it is.
    within = plane.condition("tenant", "flooded", WITHIN)
    for agent in [*agents] * 5:
        await flood([agent], "flooded")
        await asyncio.sleep(1.0)
    last = time.monotonic()
    assert plane.condition("tenant", "flooded", WITHIN) == within
    await said(plane, "flooded", "True", WITHIN, MINUTE_S + LATE_S)
    assert time.monotonic() - last > MINUTE_S - 5.0
    events = [
        each for each in events_of(plane, "flooded") if each[1] in {WITHIN, "RequestsPerMinute"}
    ]
    assert events == [("Normal", "RequestsPerMinute"), ("Normal", WITHIN)]
    # The second time is counted in the first event.
    await flood(agents, "flooded")

    async def is_counted() -> bool:
        return events_of(plane, "flooded").count(("Normal", "RequestsPerMinute")) == 2

    await eventually(is_counted, "it is counted")
    assert notes_of(plane, "flooded", "RequestsPerMinute") == [told]


async def test_in_shadow_calls_would_have_been_refused(
    plane: Plane, agents: Sequence[Agent]
) -> None:
    within = await said(plane, "shadow", "True", WITHIN)
    assert within["message"] == "no limit would have refused a call in the last minute"
    async with agents[0].client("shadow") as client:
        for _ in range(5):
            await client.metadata()
    found = await said(plane, "shadow", "False", "RequestsPerMinute")
    told = "calls would have been refused in the last minute: requestsPerMinute 3"
    assert found["message"].startswith(told)


async def test_a_prompt_that_is_refused_on_another_node_counts_at_its_door(
    plane: Plane, agents: Sequence[Agent]
) -> None:
    for agent in agents:
        async with agent.client("wordy") as client:
            with pytest.raises(RateLimited):
                for _ in range(20):
                    await client.chat(asked(LONG_PROMPT), max_tokens=1, temperature=0)
    found = await said(plane, "wordy", "False", "InputTokensPerMinute")
    assert found["message"].startswith(f"{REFUSED}inputTokensPerMinute 200")

    async def is_of_both() -> bool:
        message = plane.condition("tenant", "wordy", WITHIN)["message"]
        return bool(message.endswith("; at 2 of 2 doors"))

    await eventually(is_of_both, "both doors are told of")


async def test_sequences_that_wait_for_their_own_tenants_blocks_are_told(
    plane: Plane, agents: Sequence[Agent]
) -> None:
    async with agents[0].client("full") as client:
        streams = [asyncio.create_task(go_on(client, question)) for question in QUESTIONS[:4]]
        found = await said(plane, "full", "False", "KvBlocks", within_s=60.0)
        await ended(streams)
    told = "sequences waited in the last minute for their own tenant's blocks: kvBlocks 8"
    assert found["message"] == told


async def test_calls_that_wait_behind_others_are_told_and_by_what_their_turn_comes(
    plane: Plane, agents: Sequence[Agent]
) -> None:
    for name in CROWD:
        await said(plane, name, "True", PROMPTLY)

    async with agents[0].client("mine") as mine, agents[1].client("yours") as yours:
        streams = [
            asyncio.create_task(go_on(client, question))
            for client in (mine, yours)
            for question in QUESTIONS[:STREAMS]
        ]
        for name in CROWD:
            found = await said(plane, name, "False", "BehindOthers", within_s=90.0)
            assert found["message"] == (
                "calls waited in the last five minutes, for a second or longer, behind those of "
                "other tenants: weight 70, priority Normal: those of priority High come first, and "
                "then its turn comes by its weight"
            )
            assert f"waited      {found['message']}\n" in explained(plane, name)
            assert plane.condition("tenant", name)["status"] == "True"
        await ended(streams)
    # It has waited too, for its own blocks and beside nobody.
    assert plane.condition("tenant", "full", PROMPTLY)["status"] == "True"

    async def are_told() -> bool:
        return all(("Normal", "BehindOthers") in events_of(plane, name) for name in CROWD)

    await eventually(are_told, "events tell of it")


async def test_a_new_leader_turns_nothing_that_it_does_not_know(
    plane: Plane, operator: Operator, agents: Sequence[Agent]
) -> None:
    await flood(agents, "kept")
    await said(plane, "kept", "False", "RequestsPerMinute")
    with Turns(plane.cluster.admin, plane.tenants) as turns:
        before = plane.leader()
        operator.daemon.kill()
        # By then agents say nothing of it any more, and it is for the next leader to find that out.
        await asyncio.sleep(MINUTE_S + 5.0)
        operator.start()
        plane.tenant("kept", limits=FEW, weight=7)

        async def is_led() -> bool:
            status = plane.get("tenant", "kept")["status"]
            newest = plane.get("tenant", "kept")["metadata"]["generation"]
            return bool(plane.leader() == before and status["observedGeneration"] == newest)

        await eventually(is_led, "the next leader has written a status", within_s=90.0)
        assert plane.condition("tenant", "kept", WITHIN)["reason"] == "RequestsPerMinute"
        assert plane.condition("tenant", "kept", PROMPTLY)["reason"] == PROMPTLY
    of_kept = {key: states for key, states in turns.turned().items() if "kept" in key}
    assert of_kept == {}
