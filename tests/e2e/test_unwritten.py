"""An agent that cannot write goes on with what it had, and the operator says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.folder import Json
from harness.plane import Agent, Operator, Plane
from harness.talk import QUESTIONS, answer
from realm_client import NotAllowed


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
    plane.apply("Tenant", "acme", tenant(is_suspended=False))
    for kind, name in (("model", "smollm2"), ("tenant", "acme")):
        plane.await_condition(kind, name, "True", within_s=120.0)
    return agents


def tenant(*, is_suspended: bool) -> Json:
    """What the tenant is."""
    keys = [{"secretName": "acme-keys"}]
    return {"models": [{"name": "smollm2"}], "apiKeys": keys, "suspended": is_suspended}


def temporary_file(agent: Agent) -> Path:
    """Where the agent writes a state before it is the newest."""
    [ledger] = {path.parent for path in agent.state.rglob("desired.[01]")}
    return ledger / "desired.new"


async def test_a_tenant_is_not_ready_while_an_agent_cannot_keep_its_newest_spec(
    plane: Plane, agents: list[Agent]
) -> None:
    full, well = agents
    disk = temporary_file(full)
    # Where nothing can be written until somebody makes room.
    disk.mkdir()
    plane.apply("Tenant", "acme", tenant(is_suspended=True))

    found = plane.await_condition("tenant", "acme", "False")
    assert found["reason"] == "StateRefused"
    assert found["message"].startswith(f"{full.node} goes on with an older spec: LedgerUnwritable")
    assert plane.condition("tenant", "acme", "Stalled")["status"] == "True"
    with pytest.raises(NotAllowed):
        async with well.client("acme") as client:
            await answer(client, QUESTIONS[0], max_tokens=4)
    async with full.client("acme") as client:
        assert await answer(client, QUESTIONS[0], max_tokens=4), "it has the older spec"

    disk.rmdir()
    plane.await_condition("tenant", "acme", "True")
    assert plane.condition("tenant", "acme", "Stalled") is None
    with pytest.raises(NotAllowed):
        async with full.client("acme") as client:
            await answer(client, QUESTIONS[0], max_tokens=4)
