"""Who comes to the operator's door without being who they say they are, and gets nothing."""

from __future__ import annotations

import httpx
import pytest

from harness.folder import Json
from harness.plane import ACCOUNT, AUDIENCE, Agent, Operator, Plane
from harness.wait import until

#: A link is refused again and again, later each time.
WITHIN_S = 60.0


@pytest.fixture(scope="module")
def operator(plane: Plane) -> Operator:
    """The only operator."""
    return plane.operator("operator-0")


@pytest.fixture(scope="module")
def honest(plane: Plane, operator: Operator) -> Agent:
    """An agent that is who it says it is, and stays connected whatever others do."""
    agent = plane.agent("alpha", [operator])
    until(lambda: connections(operator) == 1, "the honest agent is connected")
    return agent


def connections(operator: Operator) -> int:
    """How often anybody was taken in."""
    return operator.daemon.text().count("agent connected")


def pod(plane: Plane, name: str) -> Json:
    return plane.cluster.admin.get("pod", name, namespace=plane.namespace)


def of_another_node(plane: Plane) -> str:
    return plane.cluster.token(ACCOUNT, pod(plane, "agent-alpha"), AUDIENCE)


def of_another_audience(plane: Plane) -> str:
    return plane.cluster.token(ACCOUNT, pod(plane, "agent-alpha"), "https://elsewhere.example.com")


def unbound(plane: Plane) -> str:
    return plane.cluster.unbound_token(ACCOUNT, plane.namespace, AUDIENCE)


def of_another_account(plane: Plane) -> str:
    plane.account("somebody")
    bound = plane.pod("somebody", "alpha", "somebody")
    return plane.cluster.token("somebody", bound, AUDIENCE)


def made_up(_: Plane) -> str:
    return "eyJhbGciOiJub25lIn0.e30."


#: Whose token, the node that it is shown for, the status of gRPC, and what the operator says.
STRANGERS = [
    (of_another_node, "liar", "PermissionDenied", "its token is bound to `alpha`"),
    (of_another_audience, "audience", "Unauthenticated", "the token is not valid"),
    (unbound, "unbound", "Unauthenticated", "node-name"),
    (of_another_account, "account", "Unauthenticated", "agents are `system:serviceaccount:"),
    (made_up, "forger", "Unauthenticated", "the token is not valid"),
]


@pytest.mark.parametrize(
    ("token", "node", "code", "says"), STRANGERS, ids=[node for _, node, _, _ in STRANGERS]
)
def test_a_stranger_is_refused_and_told_why_and_nobody_else_notices(
    plane: Plane,
    operator: Operator,
    honest: Agent,
    token: object,
    node: str,
    code: str,
    says: str,
) -> None:
    assert callable(token)
    before = operator.daemon.text().count("an agent was turned away")
    stranger = plane.agent(node, [operator], token=token(plane))

    def is_told() -> bool:
        text = stranger.daemon.text()
        return CODES[code] in text and says in text

    until(is_told, f"the stranger is refused with {code}", within_s=WITHIN_S)
    stranger.daemon.close()
    assert stranger.generations() == []
    assert operator.daemon.text().count("an agent was turned away") > before
    assert says in operator.daemon.text()
    assert connections(operator) == 1
    assert "agent disconnected" not in operator.daemon.text()
    assert not honest.daemon.has_ended


#: How a status of gRPC is printed.
CODES = {
    "PermissionDenied": "The caller does not have permission",
    "Unauthenticated": "The request does not have valid authentication credentials",
}


def test_an_agent_without_a_token_says_so_and_does_not_come_to_the_door(
    plane: Plane, operator: Operator, honest: Agent
) -> None:
    before = operator.daemon.text().count("an agent was turned away")
    stranger = plane.agent("nobody", [operator], token="\n")
    until(lambda: 'reason="Token"' in stranger.daemon.text(), "there is no token to show")
    stranger.daemon.close()
    assert operator.daemon.text().count("an agent was turned away") == before
    assert not honest.daemon.has_ended
    assert httpx.get(operator.metrics).is_success
