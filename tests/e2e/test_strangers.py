"""Who comes to the operator's door without being who they say they are, and gets nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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


def turned_away(operator: Operator) -> int:
    """How often anybody was not."""
    return operator.daemon.text().count("an agent was turned away")


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


@dataclass(frozen=True)
class Stranger:
    """Somebody who shows a token that is not theirs."""

    token: Callable[[Plane], str]
    #: The node that it is shown for.
    node: str
    #: The status of gRPC, as it is printed.
    code: str
    #: Why, in the operator's words.
    says: str


NOT_PERMITTED = "The caller does not have permission"
NOT_AUTHENTICATED = "The request does not have valid authentication credentials"

STRANGERS = [
    Stranger(of_another_node, "liar", NOT_PERMITTED, "its token is bound to `alpha`"),
    Stranger(of_another_audience, "audience", NOT_AUTHENTICATED, "the token is not valid"),
    Stranger(unbound, "unbound", NOT_AUTHENTICATED, "node-name"),
    Stranger(of_another_account, "account", NOT_AUTHENTICATED, "agents are `system:serviceaccount"),
    Stranger(made_up, "forger", NOT_AUTHENTICATED, "the token is not valid"),
]


@pytest.mark.parametrize("stranger", STRANGERS, ids=[each.node for each in STRANGERS])
def test_a_stranger_is_refused_and_told_why_and_nobody_else_notices(
    plane: Plane, operator: Operator, honest: Agent, stranger: Stranger
) -> None:
    before = turned_away(operator)
    agent = plane.agent(stranger.node, [operator], token=stranger.token(plane))

    def is_told() -> bool:
        text = agent.daemon.text()
        return stranger.code in text and stranger.says in text

    until(is_told, f"the stranger hears `{stranger.says}`", within_s=WITHIN_S)
    agent.daemon.close()
    assert agent.generations() == []
    assert turned_away(operator) > before
    assert stranger.says in operator.daemon.text()
    assert connections(operator) == 1
    assert "agent disconnected" not in operator.daemon.text()
    assert not honest.daemon.has_ended


def test_an_agent_without_a_token_says_so_and_does_not_come_to_the_door(
    plane: Plane, operator: Operator, honest: Agent
) -> None:
    before = turned_away(operator)
    stranger = plane.agent("nobody", [operator], token="\n")
    until(lambda: 'reason="Token"' in stranger.daemon.text(), "there is no token to show")
    stranger.daemon.close()
    assert turned_away(operator) == before
    assert not honest.daemon.has_ended
    assert httpx.get(operator.metrics).is_success
