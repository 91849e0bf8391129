"""Programs that come from ConfigMaps: to the agents that run them, and why they do not come."""

from __future__ import annotations

import base64
import hashlib
import json
from http import HTTPStatus
from pathlib import Path

import pytest

from conftest import Serve
from harness.folder import Folder, Json
from harness.plane import HOSTNAME, Agent, Operator, Plane
from harness.told import events_of
from harness.wait import until

#: As large as the entries of a ConfigMap may be together.
CONFIG_MAP_BYTES_MAX = 1 << 20

#: Tries of an agent are some seconds apart, the more of them the further.
TRIED_S = 90.0


@pytest.fixture(scope="module")
def operator(plane: Plane) -> Operator:
    """The only operator."""
    return plane.operator("operator-0")


@pytest.fixture(scope="module")
def elsewhere(plane: Plane) -> str:
    """A namespace of tenants that the operator may not read in."""
    return plane.cluster.namespace()


@pytest.fixture(scope="module")
def alpha(plane: Plane, operator: Operator, model: Path, elsewhere: str) -> Agent:
    """The node of the only model, and so of every program."""
    agent = plane.agent("alpha", [operator])
    spec: Json = {"sources": [model.absolute().as_uri()], "kvBlocks": 256}
    placement = {"nodeSelector": {HOSTNAME: agent.node}}
    spec |= {"allowedNamespaces": [elsewhere], "placement": placement}
    plane.apply("Model", "smollm2", spec)
    plane.await_condition("model", "smollm2", "True")
    return agent


@pytest.fixture(scope="module")
def beta(plane: Plane, operator: Operator, alpha: Agent) -> Agent:
    """A door that runs no program."""
    assert alpha.node != "beta"
    return plane.agent("beta", [operator])


def put(plane: Plane, name: str, namespace: str | None = None, **entries: Json) -> int:
    """A ConfigMap, made or replaced; gives how the API server answered."""
    namespace = namespace or plane.tenants
    metadata = {"name": name, "namespace": namespace}
    thing = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, **entries}
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    made = plane.cluster.admin.post(path, thing)
    if made.status_code == HTTPStatus.CONFLICT:
        made = plane.cluster.admin.http.put(f"{path}/{name}", json=thing)
    return made.status_code


def binary(**entries: bytes) -> Json:
    """Entries as `binaryData` has them; a key's `_` stands for a dot."""
    return {
        key.replace("_", "."): base64.b64encode(value).decode() for key, value in entries.items()
    }


def digest(content: bytes) -> str:
    """As a Tenant gives it."""
    return hashlib.sha256(content).hexdigest()


def tenant(plane: Plane, name: str, content: bytes, *sources: str) -> None:
    """A tenant whose program has that content and comes from there."""
    program = {"sources": list(sources), "sha256": digest(content)}
    plane.tenant(name, models=[{"name": "smollm2"}], program=program)


def await_reason(plane: Plane, name: str, reason: str, namespace: str | None = None) -> str:
    """What is said of a tenant's program once that is why."""
    found: Json = None

    def says() -> bool:
        nonlocal found
        status = plane.cluster.admin.get("tenant", name, namespace=namespace or plane.tenants)
        conditions = status.get("status", {}).get("conditions", [])
        [found] = [each for each in conditions if each["type"] == "ProgramReady"] or [None]
        return bool(found and found["reason"] == reason)

    try:
        until(says, f"the program of {name} is {reason}", within_s=TRIED_S)
    except AssertionError as error:
        error.add_note(json.dumps(found))
        raise
    return str(found["message"])


def blob(agent: Agent, content: bytes) -> Path:
    """Where an agent keeps what it has fetched."""
    return agent.state / "store" / "blobs" / "sha256" / digest(content)


async def test_a_program_comes_from_a_config_map_to_the_agent_that_runs_it(
    plane: Plane, alpha: Agent, beta: Agent, pirate: Path
) -> None:
    content = pirate.read_bytes()
    assert put(plane, "programs", binaryData=binary(pirate_wasm=content)) == HTTPStatus.CREATED
    tenant(plane, "acme", content, "configmap://programs/pirate.wasm")
    plane.await_condition("tenant", "acme", "True")
    assert plane.get("tenant", "acme")["status"]["programSha256"] == digest(content)
    for agent in (alpha, beta):
        async with agent.client("acme") as client:
            assert (await client.call("shout", {"text": "ahoy"})).data == {"text": "AHOY"}
    assert blob(alpha, content).read_bytes() == content
    assert not blob(beta, content).exists(), "beta hands calls on, and has been brought nothing"


@pytest.mark.usefixtures("alpha")
async def test_a_config_map_may_come_late_and_be_wrong_first(
    plane: Plane, alpha: Agent, reader: Path
) -> None:
    content = reader.read_bytes()
    tenant(plane, "late", content, "configmap://late/reader.wasm")
    said = await_reason(plane, "late", "SourceNotFound")
    assert f"namespace `{plane.tenants}` has no ConfigMap `late`" in said
    put(plane, "late", binaryData=binary(reader_wasm=content[:-1]))
    said = await_reason(plane, "late", "DigestMismatch")
    assert digest(content) in said
    assert digest(content[:-1]) not in said, "who names it need not be one who may read it"
    assert not blob(alpha, content[:-1]).exists()
    put(plane, "late", binaryData=binary(reader_wasm=content))
    plane.await_condition("tenant", "late", "True", within_s=TRIED_S)
    # What it was taken from may change, or go: the digest has not.
    put(plane, "late", binaryData=binary(reader_wasm=b"else"))
    assert plane.condition("tenant", "late")["status"] == "True"


@pytest.mark.usefixtures("alpha")
def test_what_a_config_map_lacks_is_told_by_its_reason(
    plane: Plane, elsewhere: str, warden: Path
) -> None:
    content = warden.read_bytes()
    put(plane, "wrong", binaryData=binary(other_wasm=content), data={"text.wasm": "(component)"})
    tenant(plane, "keyless", content, "configmap://wrong/warden.wasm")
    tenant(plane, "texted", content, "configmap://wrong/text.wasm")
    put(plane, "there", elsewhere, binaryData=binary(warden_wasm=content))
    metadata = {"name": "afar", "namespace": elsewhere}
    program = {"sources": ["configmap://there/warden.wasm"], "sha256": digest(content)}
    spec = {"models": [{"name": "smollm2", "namespace": plane.tenants}], "program": program}
    thing = {"apiVersion": "realm.dev/v1alpha1", "kind": "Tenant", "metadata": metadata}
    plane.cluster.admin.apply(thing | {"spec": spec})
    said = await_reason(plane, "keyless", "SourceNotFound")
    assert "no entry `warden.wasm` in its `binaryData`" in said
    said = await_reason(plane, "texted", "SourceNotFound")
    assert "belongs in its `binaryData`" in said
    said = await_reason(plane, "afar", "SourceNotAllowed", elsewhere)
    assert f"`{elsewhere}`" in said
    assert "tenantNamespaces" in said


@pytest.mark.usefixtures("alpha")
def test_the_next_mirror_is_tried_where_a_config_map_is_not_there(
    plane: Plane, hostile: Path, unhealthy: Path
) -> None:
    content = hostile.read_bytes()
    sources = ("configmap://nowhere/hostile.wasm", hostile.absolute().as_uri())
    tenant(plane, "mirrored", content, *sources)
    plane.await_condition("tenant", "mirrored", "True")
    # Which of two is told is settled: that the bytes are others says most.
    put(plane, "others", binaryData=binary(a_wasm=b"else"))
    content = unhealthy.read_bytes()
    tenant(plane, "misled", content, "configmap://others/a.wasm", "configmap://nowhere/a.wasm")
    said = await_reason(plane, "misled", "DigestMismatch")
    assert "has no ConfigMap `nowhere`" in said


@pytest.fixture
def contents(pirate: Path, unhealthy: Path, warden: Path) -> tuple[bytes, bytes, bytes]:
    """A program that works, one that says that it does not, and another that works."""
    return pirate.read_bytes(), unhealthy.read_bytes(), warden.read_bytes()


async def test_a_program_that_does_not_work_never_replaces_one_that_does(
    plane: Plane, alpha: Agent, beta: Agent, contents: tuple[bytes, bytes, bytes]
) -> None:
    good, bad, better = contents
    entries = binary(good_wasm=good, bad_wasm=bad, better_wasm=better)
    put(plane, "rolled", binaryData=entries)
    tenant(plane, "rolled", good, "configmap://rolled/good.wasm")
    plane.await_condition("tenant", "rolled", "True")
    tenant(plane, "rolled", bad, "configmap://rolled/bad.wasm")
    said = await_reason(plane, "rolled", "ProgramUnhealthy")
    assert "the dictionary is empty" in said
    assert plane.condition("tenant", "rolled")["status"] == "False"
    assert plane.get("tenant", "rolled")["status"]["programSha256"] == digest(good)
    until(
        lambda: ("Warning", "ProgramUnhealthy") in events_of(plane, "rolled"),
        "an event tells of it",
    )
    for agent in (alpha, beta):
        async with agent.client("rolled") as client:
            assert (await client.call("shout", {"text": "ahoy"})).data == {"text": "AHOY"}
    tenant(plane, "rolled", better, "configmap://rolled/better.wasm")
    plane.await_condition("tenant", "rolled", "True", "ProgramReady")
    assert plane.get("tenant", "rolled")["status"]["programSha256"] == digest(better)
    async with alpha.client("rolled") as client:
        assert "shout" not in {function.name for function in (await client.metadata()).functions}


async def test_an_agent_starts_again_without_an_operator_and_a_config_map(
    plane: Plane, operator: Operator, alpha: Agent, pirate: Path
) -> None:
    content = pirate.read_bytes()
    put(plane, "kept", binaryData=binary(pirate_wasm=content))
    tenant(plane, "keeper", content, "configmap://kept/pirate.wasm")
    plane.await_condition("tenant", "keeper", "True")
    done = plane.cluster.admin.kubectl("delete", "configmap", "kept", "--namespace", plane.tenants)
    assert done.returncode == 0, done.stderr
    operator.daemon.kill()
    alpha.daemon.kill()
    try:
        alpha.start()
        async with alpha.client("keeper") as client:
            assert (await client.call("shout", {"text": "ahoy"})).data == {"text": "AHOY"}
    finally:
        operator.start()


def test_the_api_server_takes_no_larger_config_map_than_the_operator_brings(plane: Plane) -> None:
    most = bytes(CONFIG_MAP_BYTES_MAX - len("a.wasm"))
    assert put(plane, "large", binaryData=binary(a_wasm=most)) == HTTPStatus.CREATED
    larger = bytes(CONFIG_MAP_BYTES_MAX + 1)
    answered = put(plane, "larger", binaryData=binary(a_wasm=larger))
    assert answered == HTTPStatus.UNPROCESSABLE_ENTITY


def test_one_machine_says_that_a_config_map_needs_a_cluster(serve: Serve, pirate: Path) -> None:
    sha256 = digest(pirate.read_bytes())
    program = {"sources": ["configmap://programs/pirate.wasm"], "sha256": sha256}
    server = serve(lambda folder: fill(folder, program), ready=False)
    said = server.await_line(r"tenant-acme\.yaml:\d+: .*SourceNotAllowed")
    assert "in a cluster only" in said


def fill(folder: Folder, program: Json) -> None:
    """One tenant with that program."""
    folder.tenant("acme", program=program)
