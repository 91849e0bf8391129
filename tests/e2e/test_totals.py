"""What a tenant has used is in its status, over the ends of agents and operators."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from harness.folder import Json
from harness.metrics import parse
from harness.plane import Agent, Operator, Plane
from harness.talk import QUESTIONS, asked
from harness.wait import until
from realm_client import Backoff, Client

#: Totals are written once a minute, and an agent tells them every five seconds.
TOLD_S_MAX = 100.0

SERIES = {
    "promptTokens": "realm_engine_tenant_prompt_tokens_total",
    "cachedTokens": "realm_engine_tenant_cached_tokens_total",
    "generatedTokens": "realm_engine_tenant_generated_tokens_total",
    "programFuel": "realm_program_fuel_total",
}


@pytest.fixture(scope="module")
def operator(plane: Plane) -> Operator:
    """The only operator."""
    return plane.operator("operator-0")


@pytest.fixture(scope="module")
def agent(plane: Plane, operator: Operator, model: Path) -> Agent:
    """An agent that serves the model."""
    spec = {"sources": [model.absolute().as_uri()], "kvBlocks": 256}
    plane.apply("Model", "smollm2", spec)
    plane.tenant("acme", models=[{"name": "smollm2"}])
    plane.tenant("quiet", models=[{"name": "smollm2"}])
    agent = plane.agent("alpha", [operator])
    for kind, name in (("model", "smollm2"), ("tenant", "acme"), ("tenant", "quiet")):
        plane.await_condition(kind, name, "True", within_s=120.0)
    return agent


def counted(agent: Agent, tenant: str) -> Json:
    """What the agent's metrics say that the tenant has used since it started."""
    metrics = parse(httpx.get(agent.metrics, trust_env=False).text)
    return {field: int(metrics.value(name, tenant=tenant)) for field, name in SERIES.items()}


def totals(plane: Plane) -> Json:
    """What the status says."""
    return plane.get("tenant", "acme").get("status", {}).get("totals", {})


def await_totals(plane: Plane, expected: Json) -> None:
    """Waits until the status says as much."""

    def is_told() -> bool:
        told = totals(plane)
        return all(told.get(field) == value for field, value in expected.items())

    try:
        until(is_told, "the totals are told", within_s=TOLD_S_MAX)
    except AssertionError as error:
        error.add_note(f"{totals(plane)} is not {expected}")
        raise


async def work(plane: Plane, agent: Agent, question: str) -> None:
    """Some tokens, and the fuel of the program that made them."""
    patient = Backoff(attempts_max=100, total_s_max=120)
    async with Client(agent.url, plane.key("acme"), retry=patient) as client:
        await client.chat(asked(question), max_tokens=8, temperature=0)


async def test_totals_are_what_was_used_over_the_ends_of_agent_and_operator(
    plane: Plane, operator: Operator, agent: Agent
) -> None:
    name = f"{plane.tenants}/acme"
    await work(plane, agent, QUESTIONS[0])
    until(lambda: counted(agent, name)["programFuel"] > 0, "the call's fuel is booked")
    first = counted(agent, name)
    assert first["generatedTokens"] > 0
    await_totals(plane, first)
    told = totals(plane)
    assert told["deviceMs"] > 0
    assert [each["node"] for each in told["nodes"]] == ["alpha"]
    assert "totals" not in plane.get("tenant", "quiet")["status"], "nothing is told of nothing"

    agent.daemon.kill()
    operator.daemon.kill()
    operator.start()
    agent.start()
    for kind, each in (("model", "smollm2"), ("tenant", "acme")):
        plane.await_condition(kind, each, "True", within_s=120.0)
    until(lambda: counted(agent, name)["generatedTokens"] == 0, "the agent counts anew")
    await work(plane, agent, QUESTIONS[1])
    until(lambda: counted(agent, name)["programFuel"] > 0, "the call's fuel is booked")
    second = counted(agent, name)
    await_totals(plane, {field: first[field] + second[field] for field in SERIES})
    assert totals(plane)["deviceMs"] > told["deviceMs"]

    # A model that is loaded anew counts from nothing in the metrics, and not in the totals.
    model = plane.spec("model", "smollm2")
    plane.apply("Model", "smollm2", model | {"kvBlocks": 512})
    until(
        lambda: counted(agent, name)["generatedTokens"] == 0,
        "the model is loaded anew",
        within_s=120.0,
    )
    plane.await_condition("model", "smollm2", "True", within_s=120.0)
    before = totals(plane)["generatedTokens"]
    await work(plane, agent, QUESTIONS[2])
    third = counted(agent, name)["generatedTokens"]
    await_totals(plane, {"generatedTokens": before + third})

    # What was used just before an orderly end is the last that an agent says.
    await work(plane, agent, QUESTIONS[3])
    fourth = counted(agent, name)["generatedTokens"]
    assert fourth > third
    assert agent.daemon.terminate() == 0
    await_totals(plane, {"generatedTokens": before + fourth})
