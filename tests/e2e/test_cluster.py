"""A cluster without containers: its controllers, its scheduler and its hollow nodes."""

from __future__ import annotations

import pytest

from harness.cluster import Cluster
from harness.daemon import Daemon
from harness.folder import Json
from harness.wait import until


@pytest.fixture(scope="module")
def nodes(whole_cluster: Cluster) -> dict[str, Daemon]:
    """Two nodes, one of them with a GPU."""
    gpu = ("--extended-resources=nvidia.com/gpu=1", "--node-labels=accelerator=cuda")
    return {
        "plain": whole_cluster.add_node("plain"),
        "fast": whole_cluster.add_node("fast", *gpu),
    }


def daemon_set(name: str, **spec: Json) -> Json:
    labels = {"app": name}
    pod = {"containers": [{"name": "agent", "image": "realm-agent"}], **spec}
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def running_on(cluster: Cluster, app: str) -> set[str]:
    """The nodes on which a pod of the app runs."""
    pods = cluster.admin.get("pods", "--selector", f"app={app}")["items"]
    return {
        pod["spec"]["nodeName"]
        for pod in pods
        if any(
            (each["type"], each["status"]) == ("Ready", "True")
            for each in pod["status"].get("conditions", [])
        )
    }


def test_a_daemon_set_runs_on_every_node_that_it_selects(
    whole_cluster: Cluster, nodes: dict[str, Daemon]
) -> None:
    whole_cluster.admin.apply(
        daemon_set("everywhere"), daemon_set("cuda", nodeSelector={"accelerator": "cuda"})
    )
    until(lambda: running_on(whole_cluster, "everywhere") == set(nodes), "pods run on every node")
    until(lambda: running_on(whole_cluster, "cuda") == {"fast"}, "a pod runs on the selected node")
    fast = whole_cluster.admin.get("node", "fast")
    assert fast["status"]["allocatable"]["nvidia.com/gpu"] == "1"
