"""Every Pod of the chart in its image, as a kubelet runs it: probes, drain, and `helm test`."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from harness.cluster import Cluster
from harness.folder import new_key
from harness.installed import Installed
from harness.kubelet import Program, programs
from harness.wait import until

NODES = ("alpha", "beta")

#: The port of the doors' Service. Nobody translates it to that of the Pods here.
DOOR_PORT = 8443

#: `helm test` and an answer of eight tokens, by a debug build on a busy machine.
CHECK_S_MAX = 60.0

#: A model that is read, placed and loaded by debug builds.
SERVED_S_MAX = 90.0

#: The chart's settle time, when nobody calls, and a debug build's end.
LEAVE_S_MAX = 20.0

#: What a door says before it has heard of the tenant or the model.
NOT_YET = (
    "does not take the key",
    "not_allowed",
    "model_not_ready",
    "program_not_ready",
    "starting",
)

OPERATOR, AGENT = "deployment/realm-operator", "daemonset/realm-agent-cpu"


@dataclass(frozen=True, slots=True)
class Running:
    """The programs of a release that serves a tenant."""

    operator: Program
    agents: list[Program]


@pytest.fixture(scope="module")
def key() -> str:
    """A tenant's key."""
    return new_key()


@pytest.fixture(scope="module")
def installed(
    whole_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory, key: str
) -> Installed:
    """The chart on two nodes."""
    for node in NODES:
        whole_cluster.add_node(node)
    folder = tmp_path_factory.mktemp("installed")
    installed = Installed.with_doors(whole_cluster, folder, key, f"doors.service.port={DOOR_PORT}")
    installed.await_rollout()
    return installed


@pytest.fixture(scope="module")
def running(installed: Installed, key: str, model: Path) -> Iterator[Running]:
    """An operator and the agents of both nodes, once they serve."""
    with programs() as start:
        operator = start(installed.operator())
        installed.await_authority()
        pods = installed.pods("agent")
        agents = [start(installed.agent(pod, operator, model.absolute())) for pod in pods]
        await_served(installed, key, model)
        yield Running(operator, agents)


def await_served(installed: Installed, key: str, model: Path) -> None:
    """Makes a tenant with a model on every node."""
    admin, namespace = installed.cluster.admin, installed.tenants
    entry = {"sha256": hashlib.sha256(key.encode()).hexdigest()}
    installed.secret("acme-keys", namespace, main=json.dumps(entry))
    sources = {"sources": [model.absolute().as_uri()], "replicas": len(NODES), "kvBlocks": 256}
    grants = {"models": [{"name": "smollm2"}], "apiKeys": [{"secretName": "acme-keys"}]}
    things = (("Model", "smollm2", sources), ("Tenant", "acme", grants))
    for kind, name, spec in things:
        metadata = {"name": name, "namespace": namespace}
        thing = {"apiVersion": "realm.dev/v1alpha1", "kind": kind, "metadata": metadata}
        admin.apply(thing | {"spec": spec})

    def is_served() -> bool:
        status = admin.get("mdl", "smollm2", namespace=namespace).get("status", {})
        return bool(status.get("replicas") == len(NODES))

    until(is_served, "the model is on both nodes", within_s=SERVED_S_MAX)


def is_content(installed: Installed, owner: str, program: Program) -> bool:
    """Whether every probe that the chart gives a Pod passes."""
    probes = installed.probes(owner)
    assert {"liveness", "readiness"} <= probes.keys()
    return all(probe.passes(program.ip) for probe in probes.values())


def test_every_probe_passes_once_a_release_serves(installed: Installed, running: Running) -> None:
    programs = [(OPERATOR, running.operator), *((AGENT, agent) for agent in running.agents)]
    for owner, program in programs:
        until(partial(is_content, installed, owner, program), f"{program.name} is ready")


def test_somebody_listens_at_every_port_that_the_chart_names(running: Running) -> None:
    assert running.operator.ports.keys() == {"link", "metrics"}
    for program in (running.operator, *running.agents):
        for port in program.ports:
            assert program.listens(port), f"{program.name} has nobody at {port}"


def test_the_charts_own_test_passes_at_every_door_and_fails_with_a_wrong_key(
    installed: Installed, running: Running, key: str
) -> None:
    for door in running.agents:
        # A door hears a moment after the status that its own node has the model.
        until(partial(passes, installed, door), "the chart's test passes", within_s=CHECK_S_MAX)
    installed.secret("test-key", installed.namespace, key=new_key())
    assert "does not take the key" in installed.check(door).run(CHECK_S_MAX).stderr
    installed.secret("test-key", installed.namespace, key=key)


def passes(installed: Installed, door: Program) -> bool:
    done = installed.check(door).run(CHECK_S_MAX)
    # Nothing else is a matter of time.
    assert done.returncode == 0 or any(each in done.stderr for each in NOT_YET), done.stderr
    return done.returncode == 0


def test_an_agent_that_reaches_no_operator_is_alive_and_not_ready(installed: Installed) -> None:
    probes = installed.probes(AGENT)
    agent = installed.agent(installed.pods("agent")[0], None)
    agent.daemon.start()
    with closing(agent.daemon):
        until(lambda: probes["liveness"].passes(agent.ip), "the agent is alive")
        assert probes["readiness"].answer(agent.ip) == 503


def test_an_agent_that_leaves_is_alive_and_not_ready_and_comes_back(
    installed: Installed, running: Running
) -> None:
    leaving = running.agents[0]
    probes = installed.probes(AGENT)
    is_ready = partial(is_content, installed, AGENT, leaving)
    until(is_ready, "the agent is ready")
    os.kill(leaving.pid, signal.SIGTERM)
    until(lambda: probes["readiness"].answer(leaving.ip) == 503, "the agent is not ready")
    assert probes["liveness"].passes(leaving.ip)
    # Calls that are on their way to it are still taken, for as long as it takes to settle.
    assert leaving.listens("door")
    until(lambda: leaving.daemon.has_ended, "the agent ends", within_s=LEAVE_S_MAX)
    assert leaving.daemon.exit_code == 0, leaving.daemon.tail()
    leaving.daemon.close()
    leaving.daemon.start()
    until(is_ready, "the agent is ready again", within_s=SERVED_S_MAX)
