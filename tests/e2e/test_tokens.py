"""What an agent proves who it is with, and what the operator leads with, in a real API server."""

from __future__ import annotations

import base64
import json
from http import HTTPStatus

import pytest

from harness.cluster import ISSUER, Cluster
from harness.folder import Json
from harness.user import User

AUDIENCE = "realm-operator"
ACCOUNT = "realm-agent"
NODE = "node-of-a-token"


@pytest.fixture(scope="module")
def node(cluster: Cluster) -> Json:
    """A node by hand: nothing runs on it."""
    cluster.admin.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}})
    return cluster.admin.get("node", NODE)


@pytest.fixture
def pod(cluster: Cluster, node: Json) -> Json:
    """A pod that is bound to the node, with a service account of its own namespace."""
    metadata = {"namespace": cluster.namespace()}
    cluster.admin.apply(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata | {"name": ACCOUNT}},
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": metadata | {"name": "agent-0"},
            "spec": {
                "nodeName": node["metadata"]["name"],
                "serviceAccountName": ACCOUNT,
                "containers": [{"name": "agent", "image": "realm-agent"}],
            },
        },
    )
    return cluster.admin.get("pod", "agent-0", namespace=metadata["namespace"])


@pytest.fixture(scope="module")
def operator(cluster: Cluster) -> User:
    """Somebody who may review tokens and hold Leases, and nothing else."""
    return cluster.user(
        "operator-of-tokens",
        [
            {
                "apiGroups": ["authentication.k8s.io"],
                "resources": ["tokenreviews"],
                "verbs": ["create"],
            },
            {
                "apiGroups": ["coordination.k8s.io"],
                "resources": ["leases"],
                "verbs": ["get", "create", "update"],
            },
        ],
    )


def review(user: User, token: str, audience: str = AUDIENCE) -> Json:
    answer = user.post(
        "/apis/authentication.k8s.io/v1/tokenreviews",
        {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [audience]},
        },
    )
    assert answer.status_code == HTTPStatus.CREATED, answer.text
    return answer.json()["status"]


def assert_refused(status: Json, why: str) -> None:
    assert "authenticated" not in status
    assert status["user"] == {}
    assert why in status["error"]


def test_a_review_tells_the_pod_and_the_node_of_an_agents_token(
    cluster: Cluster, operator: User, node: Json, pod: Json
) -> None:
    status = review(operator, cluster.token(ACCOUNT, pod, AUDIENCE))
    namespace = pod["metadata"]["namespace"]
    extra = status["user"].pop("extra")
    account = cluster.admin.get("serviceaccount", ACCOUNT, namespace=namespace)
    assert status == {
        "authenticated": True,
        "audiences": [AUDIENCE],
        "user": {
            "username": f"system:serviceaccount:{namespace}:{ACCOUNT}",
            "uid": account["metadata"]["uid"],
            "groups": [
                "system:serviceaccounts",
                f"system:serviceaccounts:{namespace}",
                "system:authenticated",
            ],
        },
    }
    [credential] = extra.pop("authentication.kubernetes.io/credential-id")
    assert credential.startswith("JTI=")
    assert extra == {
        "authentication.kubernetes.io/node-name": [NODE],
        "authentication.kubernetes.io/node-uid": [node["metadata"]["uid"]],
        "authentication.kubernetes.io/pod-name": ["agent-0"],
        "authentication.kubernetes.io/pod-uid": [pod["metadata"]["uid"]],
    }


def test_a_token_for_another_audience_is_refused(
    cluster: Cluster, operator: User, pod: Json
) -> None:
    for_the_server = cluster.token(ACCOUNT, pod, ISSUER)
    assert review(operator, for_the_server, ISSUER)["authenticated"] is True
    assert_refused(review(operator, for_the_server), "is invalid for the target audiences")
    for_the_operator = cluster.token(ACCOUNT, pod, AUDIENCE)
    assert_refused(review(operator, for_the_operator, ISSUER), "for the target audiences")


def test_a_forged_token_is_refused(cluster: Cluster, operator: User, pod: Json) -> None:
    head, claims, signature = cluster.token(ACCOUNT, pod, AUDIENCE).split(".")
    known = json.loads(base64.urlsafe_b64decode(claims + "=="))
    known["kubernetes.io"]["node"]["name"] = "another-node"
    forged = base64.urlsafe_b64encode(json.dumps(known).encode()).decode().rstrip("=")
    for token in ("nonsense", f"{head}.{forged}.{signature}", f"{head}.{claims}."):
        assert_refused(review(operator, token), "invalid bearer token")


def test_a_token_ends_with_its_pod(cluster: Cluster, operator: User, pod: Json) -> None:
    # Not reviewed before: the API server remembers for ten seconds whom it has let in.
    token = cluster.token(ACCOUNT, pod, AUDIENCE)
    path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/agent-0"
    answer = cluster.admin.http.delete(path, params={"gracePeriodSeconds": "0"})
    assert answer.is_success, answer.text
    assert_refused(review(operator, token), "has been invalidated")


def test_a_user_may_do_what_the_rules_say_and_no_more(cluster: Cluster, operator: User) -> None:
    done = operator.kubectl("get", "pods", "--namespace", "default")
    assert done.returncode != 0
    assert 'User "operator-of-tokens" cannot list resource "pods"' in done.stderr
    agent = cluster.user("agent-of-tokens", [])
    answer = agent.post("/apis/authentication.k8s.io/v1/tokenreviews", {})
    assert answer.status_code == HTTPStatus.FORBIDDEN


def test_a_lease_goes_to_one_of_two_who_saw_the_same_version(
    cluster: Cluster, operator: User
) -> None:
    path = f"/apis/coordination.k8s.io/v1/namespaces/{cluster.namespace()}/leases"
    lease = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "realm-operator"},
        "spec": {"holderIdentity": "one", "leaseDurationSeconds": 15},
    }
    created = operator.post(path, lease)
    assert created.status_code == HTTPStatus.CREATED, created.text
    assert operator.post(path, lease).status_code == HTTPStatus.CONFLICT
    seen = created.json()

    def take(holder: str) -> int:
        spec = seen["spec"] | {"holderIdentity": holder}
        return operator.http.put(f"{path}/realm-operator", json=seen | {"spec": spec}).status_code

    assert [take("two"), take("three")] == [HTTPStatus.OK, HTTPStatus.CONFLICT]
    assert operator.http.get(f"{path}/realm-operator").json()["spec"]["holderIdentity"] == "two"
