"""What people are told to type, as it stands: the guide to a cluster on one machine, the runbook.

Hollow nodes run nothing: the Pods are run as `test_pods.py` runs them, and what needs a container
engine is left out.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.cluster import Cluster
from harness.installed import Installed, forgo_probes
from harness.kubelet import Program, programs
from harness.typed import ROOT, Reader, commands
from harness.watching import RUNBOOK

GUIDE = ROOT / "deploy" / "README.md"

#: What needs a container engine, a kubelet, or a registry of packages.
ELSEWHERE = (
    "docker ",
    "kind ",
    "k3d ",
    "PROFILE=dev ",
    "kubectl port-forward ",
    "python3 -m venv ",
)

#: What the guide says where there are few processors: a hollow node has one.
FEW = "--set agent.resources.requests.cpu=100m"

#: Where the guide's forwarded port leads, and where its Python is.
FORWARDED, PYTHON = "127.0.0.1:8080", "/tmp/realm-venv/bin/python"

#: How a command fails that is right, and asks a kubelet or a metrics server that is not there.
NOT_HERE = re.compile(r"Error from server.*(dial tcp|lookup)|Metrics API not available")


def between(first: str, last: str) -> Sequence[str]:
    """The commands from one that begins so to another, but for those that run elsewhere."""
    every = commands(GUIDE)
    [start] = [index for index, each in enumerate(every) if each.startswith(first)]
    [end] = [index for index, each in enumerate(every) if each.startswith(last)]
    return [each for each in every[start : end + 1] if not each.startswith(ELSEWHERE)]


@dataclass(frozen=True, slots=True)
class Release:
    """What the guide has come to."""

    reader: Reader
    installed: Installed
    key: str
    door: Program


@pytest.fixture(scope="module")
def release(
    whole_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory, model: Path
) -> Iterator[Release]:
    """The guide as far as the samples, and their Pods at work."""
    forgo_probes(whole_cluster)
    whole_cluster.add_node("alpha")
    folder = tmp_path_factory.mktemp("guide")
    reader = Reader(folder, whole_cluster.admin.kubeconfig)
    [namespace] = between("kubectl create namespace", "kubectl create namespace")
    secret = between("KEY=", "kubectl create secret")
    *_, key = reader.type(namespace, *secret, 'echo "$KEY"').splitlines()
    [install] = between("helm install", "helm install")
    reader.type(f"{install} {FEW}")
    installed = Installed(whole_cluster, folder, "realm-system", "demo")
    installed.await_rollout()
    reader.type(*between("kubectl apply", "kubectl apply"))
    # The same bytes by their digest; there is no way to the hub from here.
    source = json.dumps({"spec": {"sources": [model.absolute().as_uri()]}})
    where = ("--namespace", "demo", "--type=merge", "--patch", source)
    assert whole_cluster.admin.kubectl("patch", "model", "smollm2", *where).returncode == 0
    with programs() as start:
        operator = start(installed.operator())
        installed.await_authority()
        [pod] = installed.pods("agent")
        door = start(installed.agent(pod, operator, model.absolute()))
        yield Release(reader, installed, key, door)


def test_every_command_of_the_guide_is_run_here_or_needs_an_engine() -> None:
    run = [
        *between("kubectl kustomize", "kubectl create secret"),
        *between("kubectl create namespace", "kubectl create namespace"),
        *between("helm install", "/tmp/realm-venv"),
    ]
    skipped = [each for each in commands(GUIDE) if each.startswith(ELSEWHERE)]
    assert sorted([*run, *skipped]) == sorted(commands(GUIDE))
    assert FEW in GUIDE.read_text()


def test_the_samples_come_to_be_ready_and_answer_as_the_guide_says(release: Release) -> None:
    reader = release.reader
    reader.type(*between("kubectl kustomize", "kubectl kustomize"))
    waited = reader.type(*between("kubectl wait", "kubectl wait"))
    assert waited.count("condition met") == 3
    [port] = release.installed.get("service", "realm-agent")["spec"]["ports"]
    [forward] = [each for each in commands(GUIDE) if each.startswith("kubectl port-forward")]
    assert forward.endswith(f"--namespace realm-system service/realm-agent 8080:{port['port']}")
    assert release.door.ports[port["targetPort"]] == 8443
    here = f"{release.door.ip}:8443"
    curl, *_, chat = [each.replace(FORWARDED, here) for each in between("curl", "/tmp/realm-venv")]
    assert "data: [DONE]" in reader.type(curl, KEY=release.key)
    assert reader.type(chat.replace(PYTHON, sys.executable), KEY=release.key).strip()


def test_what_is_served_is_seen_at_a_glance_in_the_columns_that_the_operator_shows(
    release: Release,
) -> None:
    release.reader.type(*between("kubectl wait", "kubectl wait"))
    said = release.reader.type("kubectl get realm -A")
    shown = (ROOT / "operator" / "README.md").read_text()
    [example] = re.findall(r"\$ kubectl get realm -A\n(.*?)```", shown, re.S)
    assert [heads(each) for each in tables(said)] == [heads(each) for each in tables(example)]
    for ours, theirs in zip(tables(said), tables(example), strict=True):
        for row, other in ((ours[1], theirs[1]), (ours[1], theirs[-1])):
            assert row[1].split("/")[0] == other[1].split("/")[0]
            assert len(row) == len(other)
    assert f"kubectl get realm --namespace {release.installed.tenants}" in GUIDE.read_text()


def test_every_command_of_the_runbook_is_one_that_can_work(release: Release) -> None:
    [agent] = release.installed.pods("agent")
    fill_in = {
        "NAMESPACE": release.installed.tenants,
        "POD": agent["metadata"]["name"],
        "NODE": agent["spec"]["nodeName"],
    }
    every = commands(RUNBOOK)
    assert every
    for command in every:
        # Each kind has an object of the samples.
        kind = re.search(r"(model|tenant) NAME", command)
        name = {"model": "smollm2", "tenant": "sample"}[kind[1]] if kind else ""
        line = re.sub(r"\bNAME\b", name, command.split(" | ")[0])
        for word, value in fill_in.items():
            line = re.sub(rf"\b{word}\b", value, line)
        # Nobody is at a terminal, nothing is attached to, and no Pod is replaced.
        line = line.replace(" -it ", " ").replace(" delete ", " delete --dry-run=server ")
        done = release.reader.attempt(line, REALM=release.installed.namespace)
        assert done.returncode == 0 or NOT_HERE.search(done.stderr), f"{line}: {done.stderr}"


def tables(text: str) -> Sequence[Sequence[Sequence[str]]]:
    """Cells by row by table; tables stand apart by an empty line."""
    return [
        [re.split(r"\s{2,}", row.strip()) for row in table.splitlines()]
        for table in text.strip().split("\n\n")
    ]


def heads(table: Sequence[Sequence[str]]) -> Sequence[str]:
    return table[0]
