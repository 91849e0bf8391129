"""Each image as its Dockerfile puts it together, run as a kubelet would.

The program is nobody's root, holds no capability, sees the files of its image and of its Pod, and
may write to its volume alone.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import os
import re
import signal
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import yaml

from harness.chart import operator_rules
from harness.cluster import RBAC
from harness.contain import NOBODY
from harness.daemon import Daemon
from harness.dockerfile import Dockerfile
from harness.image import BASE_LIBRARIES, Image, Pod, Programs, pid_in
from harness.plane import (
    Agent,
    Operator,
    Plane,
)
from harness.talk import QUESTIONS, answer
from harness.wait import until

DOCKER = Path(__file__).parents[2] / "deploy" / "docker"

#: Where a Pod finds who it is.
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"

#: As a kubelet writes it, for whoever resolves a name.
HOSTS = "127.0.0.1 localhost\n"

#: Longer than an emulated program takes to compile what it serves.
READY_S_MAX = 180.0

#: Longer than nobody's calls take to end.
END_S_MAX = 20.0


@dataclasses.dataclass(frozen=True, slots=True)
class Contained:
    """A program that runs in its image."""

    image: Image
    pod: Pod
    daemon: Daemon

    @classmethod
    def start(
        cls, plane: Plane, image: Image, label: str, flags: Sequence[str], pod: Pod
    ) -> Contained:
        """Starts the image's entry point."""
        daemon = image.daemon(plane.folder, label, flags, pod)
        plane.adopt(daemon)
        daemon.start()
        return cls(image, pod, daemon)

    @property
    def pid(self) -> int:
        """The program, as this machine counts."""
        return pid_in(self.daemon)

    def has_ended(self) -> bool:
        """Whether the program has ended by itself."""
        return self.daemon.has_ended


@pytest.fixture(scope="module")
def programs() -> Programs:
    """What is put into the images."""
    return Programs.from_environment()


@pytest.fixture(scope="module")
def operator_image(programs: Programs) -> Image:
    """The operator's, which is empty but for the program where that is built as for an image."""
    image = Image.of(Dockerfile(DOCKER / "operator" / "Dockerfile"), programs)
    if programs.folder is not None:
        assert image.files.keys() == {*image.entrypoint, image.emulator} - {None}
    return image


@pytest.fixture(scope="module")
def agent_image(programs: Programs) -> Image:
    """The agent's."""
    return Image.of(Dockerfile(DOCKER / "agent" / "Dockerfile"), programs)


@pytest.fixture(scope="module")
def hosts(plane: Plane) -> Mapping[str, Path]:
    """What every Pod is given."""
    file = plane.folder / "hosts"
    file.write_text(HOSTS)
    return {"/etc/hosts": file}


@pytest.fixture(scope="module")
def account(plane: Plane) -> Mapping[str, Path]:
    """The operator's ServiceAccount with its roles, and the files by which its Pod is known."""
    admin, namespace = plane.cluster.admin, plane.namespace
    name = "realm-operator"
    metadata = {"name": name, "namespace": namespace}
    admin.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
    subject = {"kind": "ServiceAccount", **metadata}
    grants = zip((None, namespace, plane.tenants), operator_rules(), strict=True)
    for where, rules in grants:
        kind = "Role" if where else "ClusterRole"
        own = {"name": f"{name}-pod"} | ({"namespace": where} if where else {})
        common = {"apiVersion": f"{RBAC}/v1", "metadata": own}
        role = {"apiGroup": RBAC, "kind": kind, "name": own["name"]}
        admin.apply(
            {"kind": kind, "rules": list(rules), **common},
            {"kind": f"{kind}Binding", "roleRef": role, "subjects": [subject], **common},
        )
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    told = admin.post(path, asked)
    assert told.status_code == HTTPStatus.CREATED, told.text
    [cluster] = yaml.safe_load(admin.kubeconfig.read_text())["clusters"]
    authority = base64.b64decode(cluster["cluster"]["certificate-authority-data"]).decode()
    texts = {"token": told.json()["status"]["token"], "ca.crt": authority, "namespace": namespace}
    found = {}
    for file, text in texts.items():
        own_file = plane.folder / f"account-{file}"
        own_file.write_text(text)
        found[f"{ACCOUNT}/{file}"] = own_file
    return found


@pytest.fixture(scope="module")
def operator(plane: Plane) -> Operator:
    """Flags and ports of the only operator."""
    return Operator(plane, "operator-0")


def start_operator(
    plane: Plane, image: Image, operator: Operator, reads: Mapping[str, Path]
) -> Contained:
    """An operator writes nothing, and has no home and no kubeconfig."""
    server = urlsplit(plane.cluster.url)
    env = {
        "KUBERNETES_SERVICE_HOST": str(server.hostname),
        "KUBERNETES_SERVICE_PORT": str(server.port),
    }
    pod = Pod(reads=reads, env=env)
    return Contained.start(plane, image, operator.name, operator.daemon.flags, pod)


def start_agent(
    plane: Plane, image: Image, agent: Agent, reads: Mapping[str, Path], writes: Sequence[Path]
) -> Contained:
    """An agent is given its token and whom to trust."""
    given = {str(file): file for file in (agent.token, plane.trust())}
    pod = Pod(reads={**given, **reads}, writes={str(folder): folder for folder in writes})
    return Contained.start(plane, image, agent.node, agent.daemon.flags, pod)


@pytest.fixture(scope="module")
def contained_operator(
    plane: Plane,
    operator: Operator,
    operator_image: Image,
    account: Mapping[str, Path],
    hosts: Mapping[str, Path],
) -> Contained:
    """The operator."""
    return start_operator(plane, operator_image, operator, {**account, **hosts})


@pytest.fixture(scope="module")
def agent(plane: Plane, operator: Operator, contained_operator: Contained) -> Agent:
    """Flags and ports of an agent of that operator, which runs."""
    assert not contained_operator.has_ended()
    return Agent(plane, "alpha", [operator])


@pytest.fixture(scope="module")
def contained_agent(
    plane: Plane, agent: Agent, agent_image: Image, hosts: Mapping[str, Path], model: Path
) -> Contained:
    """The agent, whose state is the only folder that it may write to."""
    reads = {str(model.absolute()): model, **hosts}
    return start_agent(plane, agent_image, agent, reads, [agent.state])


@pytest.fixture(scope="module")
def served(
    plane: Plane, contained_operator: Contained, contained_agent: Contained, model: Path
) -> Sequence[Contained]:
    """Both, once they serve a model to a tenant."""
    plane.apply("Model", "smollm2", {"sources": [model.absolute().as_uri()], "kvBlocks": 256})
    plane.key("acme")
    keys = [{"secretName": "acme-keys"}]
    plane.apply("Tenant", "acme", {"models": [{"name": "smollm2"}], "apiKeys": keys})
    for kind, name in (("model", "smollm2"), ("tenant", "acme")):
        plane.await_condition(kind, name, "True", within_s=READY_S_MAX)
    return [contained_operator, contained_agent]


@pytest.mark.usefixtures("served")
async def test_an_operator_and_an_agent_in_their_images_serve_a_call(
    agent: Agent,
) -> None:
    async with agent.client("acme") as client:
        assert await answer(client, QUESTIONS[0], max_tokens=8)


def test_neither_has_a_right_that_a_user_has_not(served: Sequence[Contained]) -> None:
    for each in served:
        text = Path(f"/proc/{each.pid}/status").read_text()
        status = dict(re.findall(r"^(\w+):\s*?\t(.*)$", text, re.M))
        assert status["NSpid"].split()[-1] == "1"
        held = {name: int(value, 16) for name, value in status.items() if name.startswith("Cap")}
        assert held.keys() == {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"}
        assert set(held.values()) == {0}
        assert status["NoNewPrivs"] == "1"
        if os.geteuid() == 0:
            assert set(status["Uid"].split()) == set(status["Gid"].split()) == {str(NOBODY)}
            assert status["Groups"].strip() == ""


def test_neither_sees_a_shell_or_any_file_but_its_own(served: Sequence[Contained]) -> None:
    for each in served:
        root = f"/proc/{each.pid}/root"
        own = {*each.pod.writes, "/proc", "/dev"}
        seen = set()
        for folder, folders, files in os.walk(root):
            here = folder.removeprefix(root)
            folders[:] = [name for name in folders if f"{here}/{name}" not in own]
            seen |= {f"{here}/{name}" for name in files}
        assert seen == {*each.image.files, *each.pod.reads}


def test_neither_can_write_but_to_its_state(served: Sequence[Contained]) -> None:
    for each in served:
        mounts = Path(f"/proc/{each.pid}/mountinfo").read_text().splitlines()
        writable = {line.split()[4] for line in mounts if "rw" in line.split()[5].split(",")}
        devices = {path for path in writable if path.startswith("/dev/")}
        assert writable - devices - {"/proc"} == set(each.pod.writes)


@pytest.mark.usefixtures("contained_operator")
def test_an_agent_without_its_volume_says_so_and_ends(
    plane: Plane, operator: Operator, agent_image: Image, hosts: Mapping[str, Path]
) -> None:
    bare = start_agent(plane, agent_image, Agent(plane, "bare", [operator]), hosts, [])
    until(bare.has_ended, "the agent ends")
    assert bare.daemon.exit_code == 1, bare.daemon.text()
    assert "Read-only file system" in bare.daemon.text()


def test_the_command_line_is_in_the_image_of_the_agent(
    plane: Plane, agent_image: Image, hosts: Mapping[str, Path]
) -> None:
    image = dataclasses.replace(agent_image, entrypoint=["/usr/local/bin/realm"])
    contained = Contained.start(plane, image, "realm", ["--version"], Pod(reads=hosts))
    until(contained.has_ended, "the command ends")
    assert contained.daemon.exit_code == 0, contained.daemon.text()
    assert contained.daemon.text().startswith("realm ")


def test_what_the_agent_is_linked_to_is_in_its_base(agent_image: Image, programs: Programs) -> None:
    for entry in (*agent_image.entrypoint, "/usr/local/bin/realm"):
        program = Path(agent_image.files[entry])
        assert programs.loader(program), "a static program could load no driver"
        for library in programs.libraries(program):
            assert BASE_LIBRARIES.fullmatch(Path(library).name), library


def assert_ends_in_order(contained: Contained, metrics: str) -> None:
    """Tells a program to end once it answers, for only then does it listen to signals."""
    health = metrics.replace("/metrics", "/healthz")

    def is_healthy() -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(health, trust_env=False).is_success
        return False

    until(is_healthy, f"{contained.daemon.label} answers", within_s=READY_S_MAX)
    os.kill(contained.pid, signal.Signals[contained.image.stop_signal])
    until(contained.has_ended, f"{contained.daemon.label} ends", within_s=END_S_MAX)
    assert contained.daemon.exit_code == 0, contained.daemon.tail()


def test_an_operator_ends_in_order_at_the_signal_that_its_image_names(
    plane: Plane, operator_image: Image, account: Mapping[str, Path], hosts: Mapping[str, Path]
) -> None:
    standby = Operator(plane, "operator-1")
    contained = start_operator(plane, operator_image, standby, {**account, **hosts})
    assert_ends_in_order(contained, standby.metrics)


@pytest.mark.usefixtures("contained_operator")
def test_an_agent_ends_in_order_at_the_signal_that_its_image_names(
    plane: Plane, operator: Operator, agent_image: Image, hosts: Mapping[str, Path]
) -> None:
    brief = Agent(plane, "brief", [operator])
    contained = start_agent(plane, agent_image, brief, hosts, [brief.state])
    assert_ends_in_order(contained, brief.metrics)
