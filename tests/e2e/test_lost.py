"""A node dies: what it held goes elsewhere, and what others hold goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.callers import calling
from harness.folder import Json
from harness.plane import Agent, Operator, Plane
from harness.talk import QUESTIONS, answer
from harness.wait import eventually

#: A node is lost after 45 s, after which the other loads the model in a debug build.
LOST_S_MAX = 150.0


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
    plane.key("acme")
    models = [{"name": "pair"}, {"name": "solo"}]
    keys = [{"secretName": "acme-keys"}]
    plane.apply("Tenant", "acme", {"models": models, "apiKeys": keys})
    for kind, name in (("model", "pair"), ("model", "solo"), ("tenant", "acme")):
        plane.await_condition(kind, name, "True", within_s=120.0)
    return agents


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
        async with other.client("acme") as client:
            assert await answer(client, QUESTIONS[0], max_tokens=4)

        async def moved() -> bool:
            return nodes_of(plane, "solo") == {other.node}

        await eventually(moved, "the other node has taken over", within_s=LOST_S_MAX)
    assert callers[0].answers
    assert plane.await_condition("model", "solo", "True")["reason"] == "Serving"
    async with other.client("acme") as client:
        done = await client.chat(
            [{"role": "user", "content": QUESTIONS[1]}], model="solo", max_tokens=4, temperature=0
        )
        assert done.text
    agents[node].start()

    async def back() -> bool:
        return len(nodes_of(plane, "pair")) == len(agents)

    await eventually(back, "the node that came back serves again", within_s=LOST_S_MAX)
