"""What `deploy` gives a cluster: the samples, rendered, applied, and served by its own guide."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from harness.folder import Json
from harness.plane import Agent, Operator, Plane
from harness.wait import until
from realm_client import Client

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
BASE = DEPLOY / "samples"
OVERLAYS = sorted((DEPLOY / "overlays").iterdir())

#: The namespace of the samples, which the tests move.
NAMESPACE = "demo"

#: What a cluster with too few nodes makes of a model that is as it should be.
NO_ROOM = {"NotEnoughNodes", "NoNodeAdmits", "DoesNotFit"}


def wrong_specs() -> set[str]:
    """Every reason by which the operator says that an object is wrong."""
    text = (ROOT / "operator" / "plan" / "src" / "problem.rs").read_text()
    found = set(re.findall(r'Self::\w+ => "(\w+)"', text))
    assert found > NO_ROOM
    return found - NO_ROOM


def render(plane: Plane, folder: Path) -> list[Json]:
    """What `kubectl apply -k` would apply, in the tests' namespace."""
    done = plane.cluster.admin.kubectl("kustomize", str(folder))
    assert done.returncode == 0, done.stderr
    things = list(yaml.safe_load_all(done.stdout))
    for thing in things:
        assert thing["metadata"]["namespace"] == NAMESPACE
        thing["metadata"]["namespace"] = plane.tenants
    return things


def guide(plane: Plane, marker: str) -> str:
    """The commands of the guide that hold `marker`, for the tests' namespace."""
    blocks = re.findall(r"```sh\n(.*?)```", (DEPLOY / "README.md").read_text(), re.S)
    [found] = [block for block in blocks if marker in block]
    return str(found).replace(f"--namespace {NAMESPACE}", f"--namespace {plane.tenants}")


@pytest.fixture(scope="module")
def operator(plane: Plane) -> Operator:
    """The only operator."""
    return plane.operator("operator-0")


@pytest.fixture(scope="module")
def key(plane: Plane, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The sample's key, made by the commands of the guide."""
    commands = guide(plane, "create secret") + '\nprintf %s "$KEY"'
    path = f"{os.environ['REALM_TEST_CLUSTER']}:{os.defpath}"
    env = {"PATH": path, "KUBECONFIG": str(plane.cluster.admin.kubeconfig)}
    command = ["bash", "-euo", "pipefail", "-c", commands]
    folder = tmp_path_factory.mktemp("guide")
    done = subprocess.run(
        command, env=env, cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    created, _, key = done.stdout.partition("\n")
    assert created == "secret/sample-keys created"
    return key


@pytest.mark.usefixtures("operator", "key")
@pytest.mark.parametrize("folder", [BASE, *OVERLAYS], ids=lambda folder: str(folder.name))
def test_what_is_rendered_is_taken_and_nothing_in_it_is_wrong(plane: Plane, folder: Path) -> None:
    things = render(plane, folder)
    assert sorted(thing["kind"] for thing in things) == ["Model", "Pipeline", "Tenant"]
    plane.cluster.admin.apply(*things)
    for thing in things:
        await_right(plane, thing["kind"].lower(), thing["metadata"]["name"])
    for type_ in ("KeysValid", "ModelsGranted"):
        plane.await_condition("tenant", "sample", "True", type_)
    assert plane.get("tenant", "sample")["status"]["keys"] == 1


def await_right(plane: Plane, kind: str, name: str) -> None:
    """Until an object's newest generation has been looked at and has no wrong spec for a reason.

    Kinds are watched apart, so that one may be looked at before another that it names has come.
    """

    def said() -> Sequence[str]:
        thing = plane.get(kind, name)
        status = thing.get("status", {})
        is_new = status.get("observedGeneration") == thing["metadata"]["generation"]
        return [each["reason"] for each in status.get("conditions", [])] if is_new else []

    wrong = wrong_specs()
    until(
        lambda: bool(reasons := said()) and not wrong.intersection(reasons),
        f"{kind} {name} has been looked at and nothing in it is wrong",
    )


async def test_the_samples_are_served_where_an_agent_has_the_file(
    plane: Plane, operator: Operator, key: str, model: Path
) -> None:
    things = render(plane, BASE)
    [sample] = [thing for thing in things if thing["kind"] == "Model"]
    # The same bytes by their digest; there is no way to the hub from here.
    sample["spec"]["sources"] = [model.absolute().as_uri()]
    plane.cluster.admin.apply(*things)
    agent = Agent(plane, "alpha", [operator])
    plane.adopt(agent.daemon)
    agent.start()
    # Ended here, for the agent of another test would look for the hub.
    with contextlib.closing(agent.daemon):
        for kind, name in (("model", "smollm2"), ("tenant", "sample"), ("pipeline", "digest")):
            plane.await_condition(kind, name, "True", within_s=90.0)
        async with Client(f"ws://127.0.0.1:{agent.port}", key) as client:
            assert client.tenant == f"{plane.tenants}/sample"
            outputs = (await client.pipeline("digest", {"text": "A boy carried water."})).outputs
            assert outputs.keys() == {"summary", "headline"}
