"""The Secrets that tenants name, and those that nobody does."""

from __future__ import annotations

import base64
import hashlib
import json
from http import HTTPStatus
from pathlib import Path

import pytest

from harness.folder import Json
from harness.plane import Operator, Plane
from harness.wait import until

#: As large as Kubernetes lets the entries of a Secret be, but for their names.
LARGE_BYTES = 1_040_000

#: Large Secrets that nobody names: five times what the operator may grow by.
STRAY = 60

#: What the operator may grow by while it is told of these: a page of their metadata, and noise.
GROWTH_KIB_MAX = 12 << 10


@pytest.fixture(scope="module")
def operator(plane: Plane) -> Operator:
    """The only operator."""
    return plane.operator("operator-0")


def put(plane: Plane, name: str, entries: dict[str, bytes], namespace: str | None = None) -> None:
    """A Secret, made or replaced."""
    namespace = namespace or plane.tenants
    data = {entry: base64.b64encode(value).decode() for entry, value in entries.items()}
    metadata = {"name": name, "namespace": namespace}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}
    path = f"/api/v1/namespaces/{namespace}/secrets"
    made = plane.cluster.admin.post(path, secret)
    if made.status_code == HTTPStatus.CONFLICT:
        made = plane.cluster.admin.http.put(f"{path}/{name}", json=secret)
    assert made.is_success, made.text


def remove(plane: Plane, kind: str, name: str) -> None:
    """Deletes an object, and waits until it is gone."""
    done = plane.cluster.admin.kubectl("delete", kind, name, "--namespace", plane.tenants)
    assert done.returncode == 0, done.stderr


def keys(owner: str, count: int) -> dict[str, bytes]:
    """Entries that are keys, each another one and nobody else's."""
    digests = [hashlib.sha256(f"{owner}{i}".encode()).hexdigest() for i in range(count)]
    return {f"key-{i}": json.dumps({"sha256": each}).encode() for i, each in enumerate(digests)}


def tenant(plane: Plane, name: str, *secrets: str) -> None:
    """A tenant with the keys in `secrets`."""
    plane.apply("Tenant", name, {"apiKeys": [{"secretName": each} for each in secrets]})


def await_keys(plane: Plane, name: str, reason: str) -> Json:
    """What is said of a tenant's keys once that is why."""

    def says() -> bool:
        found = plane.condition("tenant", name, "KeysValid")
        return bool(found and found["reason"] == reason)

    try:
        until(says, f"the keys of {name} are {reason}")
    except AssertionError as error:
        error.add_note(json.dumps(plane.condition("tenant", name, "KeysValid")))
        raise
    return plane.condition("tenant", name, "KeysValid")


def peak_kib(operator: Operator) -> int:
    """The most memory that the operator has had."""
    status = Path(f"/proc/{operator.daemon.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1])


@pytest.mark.usefixtures("operator")
def test_a_secret_is_found_whether_it_or_its_tenant_came_first(plane: Plane) -> None:
    tenant(plane, "early", "late-keys")
    found = await_keys(plane, "early", "UnknownSecret")
    assert "late-keys" in found["message"]
    put(plane, "late-keys", keys("late-keys", 1))
    await_keys(plane, "early", "Valid")
    put(plane, "there-keys", keys("there-keys", 3))
    tenant(plane, "late", "there-keys")
    assert "3 keys" in await_keys(plane, "late", "Valid")["message"]


@pytest.mark.usefixtures("operator")
def test_a_secret_that_changes_or_goes_is_noticed(plane: Plane) -> None:
    put(plane, "moving-keys", keys("moving-keys", 2))
    tenant(plane, "mover", "moving-keys")
    await_keys(plane, "mover", "Valid")
    put(plane, "moving-keys", {"main": b"no key"})
    await_keys(plane, "mover", "InvalidKey")
    put(plane, "moving-keys", keys("moving-keys", 2))
    await_keys(plane, "mover", "Valid")
    remove(plane, "secret", "moving-keys")
    await_keys(plane, "mover", "UnknownSecret")


@pytest.mark.usefixtures("operator")
def test_a_namespace_that_may_not_be_read_is_told_apart(plane: Plane) -> None:
    elsewhere = plane.cluster.namespace()
    put(plane, "hidden-keys", keys("hidden-keys", 1), elsewhere)
    metadata = {"name": "hidden", "namespace": elsewhere}
    thing = {"apiVersion": "realm.dev/v1alpha1", "kind": "Tenant", "metadata": metadata}
    spec = {"apiKeys": [{"secretName": "hidden-keys"}]}
    plane.cluster.admin.apply(thing | {"spec": spec})

    def refused() -> bool:
        status = plane.cluster.admin.get("tenant", "hidden", namespace=elsewhere).get("status", {})
        reasons = {each["type"]: each["reason"] for each in status.get("conditions", [])}
        return reasons.get("KeysValid") == "SecretNotReadable"

    until(refused, "the tenant hears that its Secret may not be read")


def test_secrets_that_nobody_names_take_none_of_the_operators_memory(
    plane: Plane, operator: Operator
) -> None:
    tenant(plane, "beside", "beside-keys")
    put(plane, "beside-keys", keys("beside-keys", 1))
    await_keys(plane, "beside", "Valid")
    before = peak_kib(operator)
    for index in range(STRAY):
        put(plane, f"stray-{index}", {"stray": b"x" * LARGE_BYTES})
    # Of what comes after them, the operator has heard after them.
    put(plane, "beside-keys", {"main": b"no key"})
    await_keys(plane, "beside", "InvalidKey")
    assert peak_kib(operator) - before < GROWTH_KIB_MAX
    operator.daemon.kill()
    operator.start()
    put(plane, "beside-keys", keys("beside-keys", 1))
    await_keys(plane, "beside", "Valid")
    assert peak_kib(operator) - before < GROWTH_KIB_MAX, "a new one lists them"
    for index in range(STRAY):
        remove(plane, "secret", f"stray-{index}")


@pytest.mark.usefixtures("operator")
def test_what_is_named_in_a_namespace_has_a_limit_that_its_tenants_are_told_of(
    plane: Plane,
) -> None:
    for name in ("a-large", "b-large"):
        put(plane, name, {"junk": b"x" * LARGE_BYTES})
    put(plane, "z-keys", keys("z-keys", 900))
    tenant(plane, "hoarder", "a-large", "b-large")
    await_keys(plane, "hoarder", "InvalidKey")
    tenant(plane, "modest", "z-keys")
    found = await_keys(plane, "modest", "SecretTooLarge")
    assert "2097152 are the most" in found["message"], found["message"]
    remove(plane, "tenant", "hoarder")
    assert "900 keys" in await_keys(plane, "modest", "Valid")["message"]
