"""From `kubectl apply` to streamed tokens, through a real API server, operator and agents."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest

from harness.folder import step
from harness.plane import Agent, Operator, Plane
from harness.talk import QUESTIONS, answer
from harness.told import events_of, notes_of, status_writes
from harness.turns import Turns
from harness.wait import eventually, raises, until
from realm_client import RealmError, Unauthenticated


@pytest.fixture(scope="module")
def operator(plane: Plane) -> Operator:
    """The only operator."""
    return plane.operator("operator-0")


@pytest.fixture(scope="module")
def agents(plane: Plane, operator: Operator) -> list[Agent]:
    """Two agents on two nodes."""
    return [plane.agent(node, [operator]) for node in ("alpha", "beta")]


@pytest.fixture(scope="module")
def served(plane: Plane, agents: list[Agent], model: Path) -> list[Agent]:
    """A model on both nodes, a tenant, and a pipeline."""
    spec = {"sources": [model.absolute().as_uri()], "replicas": 2, "kvBlocks": 256}
    plane.apply("Model", "smollm2", spec)
    plane.tenant("acme", models=[{"name": "smollm2"}])
    only = step("only", "{{ inputs.text }}", tokens_max=4)
    plane.apply(
        "Pipeline",
        "echo",
        {
            "inputs": [{"name": "text"}],
            "steps": [only],
            "outputs": [{"name": "only", "step": "only"}],
            "tenants": ["acme"],
        },
    )
    return agents


@pytest.mark.usefixtures("operator")
def test_before_any_agent_has_come_nobody_is_told_of_too_few_or_of_a_door(plane: Plane) -> None:
    spec = {"sources": ["file:///early.gguf"], "replicas": 2}
    plane.apply("Model", "early", spec)
    plane.tenant("early", models=[{"name": "early"}])
    for kind, status in (("model", "False"), ("tenant", "Unknown")):
        found = plane.await_condition(kind, "early", status, within_s=90.0)
        assert found["reason"] == "NoAgents", found
        assert "`realm info --cluster`" in found["message"]
    assert plane.condition("tenant", "early", "LimitsApplied")["status"] == "Unknown"

    def told() -> list[str]:
        return [reason for _, reason in events_of(plane, "early") if reason == "NoAgents"]

    until(lambda: len(told()) >= 2, "model and tenant have an event each")
    # The tenant may have been seen before its model, which is told as what it is.
    assert {reason for _, reason in events_of(plane, "early")} <= {"NoAgents", "UnknownModel"}
    assert {type_ for type_, _ in events_of(plane, "early")} == {"Normal"}, "they are new"
    for kind in ("model", "tenant"):
        plane.cluster.admin.kubectl("delete", kind, "early", "--namespace", plane.tenants)


async def test_what_is_applied_is_served_at_every_door_and_the_status_says_so(
    plane: Plane, served: list[Agent]
) -> None:
    ready = plane.await_condition("model", "smollm2", "True")
    assert ready["reason"] == "Serving"
    for kind, name in (("tenant", "acme"), ("pipeline", "echo")):
        assert plane.await_condition(kind, name, "True")["reason"] == "Serving"
    for type_ in ("Fetched", "Verified", "Fits", "Loaded"):
        assert plane.condition("model", "smollm2", type_)["status"] == "True", type_
    until(
        lambda: plane.get("model", "smollm2")["status"]["replicas"] == len(served),
        "both agents serve the model",
    )
    status = plane.get("model", "smollm2")["status"]
    assert status["architecture"] == "llama"
    assert {node["name"]: node["state"] for node in status["nodes"]} == {
        "alpha": "Ready",
        "beta": "Ready",
    }
    assert plane.get("tenant", "acme")["status"]["keys"] == 1
    for agent in served:
        async with agent.client("acme") as client:
            assert await answer(client, QUESTIONS[0], max_tokens=8)
            assert (await client.pipeline("echo", {"text": "x"})).outputs.keys() == {"only"}


def test_a_model_is_scaled_by_its_subresource(plane: Plane, served: list[Agent]) -> None:
    def serve(replicas: int) -> bool:
        return bool(plane.get("model", "smollm2")["status"]["replicas"] == replicas)

    plane.await_condition("model", "smollm2", "True", "Loaded")
    for replicas in (1, len(served)):
        scale = ("scale", "model", "smollm2", f"--replicas={replicas}")
        done = plane.cluster.admin.kubectl(*scale, "--namespace", plane.tenants)
        assert done.returncode == 0, done.stderr
        until(partial(serve, replicas), f"{replicas} serve it")


@pytest.mark.usefixtures("served")
def test_other_rights_of_a_tenant_turn_no_condition(plane: Plane) -> None:
    def is_told() -> bool:
        tenant = plane.get("tenant", "acme")
        generation: int = tenant["metadata"]["generation"]
        return generation > before and bool(tenant["status"]["observedGeneration"] == generation)

    plane.await_condition("tenant", "acme", "True")
    before = plane.get("tenant", "acme")["metadata"]["generation"]
    with Turns(plane.cluster.admin, plane.tenants) as turns:
        plane.tenant("acme", models=[{"name": "smollm2"}], weight=7)
        until(is_told, "the change is told")
        assert turns.seen()
    of_acme = {key: states for key, states in turns.turned().items() if "acme" in key}
    assert of_acme == {}


@pytest.mark.usefixtures("served")
def test_a_wrong_reference_gets_a_condition_that_names_it(plane: Plane) -> None:
    plane.apply("Tenant", "lost", {"models": [{"name": "nowhere"}]})
    found = plane.await_condition("tenant", "lost", "False", "ModelsGranted")
    assert (found["reason"], "nowhere" in found["message"]) == ("UnknownModel", True)
    assert plane.await_condition("tenant", "lost", "True", "Stalled")["reason"] == "UnknownModel"


def oversized(model: Path, to: Path) -> Path:
    """A model whose one matrix is larger than any machine's memory, and a hole in the file."""
    head = bytearray(model.read_bytes()[: 4 << 20])
    matrix = b"blk.0.ffn_down.weight"
    # Its name, the number of its dimensions, and the two dimensions.
    rows = head.index(matrix) + len(matrix) + 4 + 8
    head[rows : rows + 8] = (1 << 30).to_bytes(8, "little")
    to.write_bytes(head)
    os.truncate(to, 2 << 40)
    return to


@pytest.mark.usefixtures("served")
def test_a_model_that_fits_nowhere_is_refused_by_its_header_alone(
    plane: Plane, model: Path, tmp_path: Path
) -> None:
    large = oversized(model, tmp_path / "large.gguf")
    plane.apply("Model", "large", {"sources": [large.as_uri()], "kvBlocks": 256})
    # Reading two terabytes, or a part that says anything, takes far longer than this waits.
    found = plane.await_condition("model", "large", "False", "Fits")
    assert found["reason"] == "DoesNotFit"
    assert "MiB" in found["message"]
    verified = plane.condition("model", "large", "Verified")
    assert (verified["status"], verified["reason"]) == ("Unknown", "NotRead")
    assert plane.get("model", "large")["status"]["estimate"]["weightsBytes"] > 1 << 39
    plane.cluster.admin.kubectl("delete", "model", "large", "--namespace", plane.tenants)


async def test_a_key_that_is_changed_in_its_secret_opens_and_shuts_the_doors(
    plane: Plane, served: list[Agent]
) -> None:
    plane.await_condition("tenant", "acme", "True")
    agent = served[0]
    async with agent.client("acme") as client:
        assert await client.health()
        secret = {"apiVersion": "v1", "kind": "Secret"}
        metadata = {"name": "acme-keys", "namespace": plane.tenants}
        plane.cluster.admin.apply(secret | {"metadata": metadata, "stringData": {}})
        done = plane.cluster.admin.kubectl(
            *("patch", "secret", "acme-keys", "--namespace", plane.tenants),
            *("--type", "json", "--patch", '[{"op": "remove", "path": "/data/main"}]'),
        )
        assert done.returncode == 0, done.stderr
        await raises(Unauthenticated, client.health, "the key is gone from its Secret")
    plane.forget("acme")
    plane.key("acme")

    async def opens() -> bool:
        try:
            async with agent.client("acme") as client:
                return bool(await client.health())
        except RealmError:
            return False

    await eventually(opens, "the new key opens the door")


async def test_agents_serve_on_while_their_operator_is_killed_and_lose_nothing_when_it_is_back(
    plane: Plane, operator: Operator, served: list[Agent]
) -> None:
    plane.await_condition("tenant", "acme", "True")
    before = [agent.generations() for agent in served]
    operator.daemon.kill()
    for agent in served:
        async with agent.client("acme") as client:
            assert await answer(client, QUESTIONS[0], max_tokens=4)
    operator.start()
    plane.apply("Tenant", "acme", plane.spec("tenant", "acme") | {"weight": 7})
    plane.await_condition("tenant", "acme", "True", within_s=90.0)
    assert all(before)
    pairs = list(zip(served, before, strict=True))
    until(
        lambda: all(len(agent.generations()) > len(known) for agent, known in pairs),
        "the agents take a new state",
    )
    for agent, generations in pairs:
        after = agent.generations()[len(generations) :]
        assert all(each["models"] == 1 and each["tenants"] >= 1 for each in after), after
        assert not agent.refused(), "nor was it told anything smaller that it did not take"


async def test_a_killed_agent_serves_from_its_ledger_before_it_has_reached_anybody(
    operator: Operator, served: list[Agent]
) -> None:
    agent = served[1]
    operator.daemon.kill()
    agent.daemon.kill()
    agent.start()

    async def answers() -> str:
        try:
            async with agent.client("acme") as client:
                return await answer(client, QUESTIONS[0], max_tokens=4)
        except RealmError:
            return ""

    assert await eventually(answers, "the agent serves from its ledger")
    operator.start()


@pytest.mark.usefixtures("served")
def test_a_deleted_object_goes_when_the_agents_have_let_go(plane: Plane) -> None:
    plane.tenant("brief", models=[{"name": "smollm2"}])
    plane.await_condition("tenant", "brief", "True", within_s=90.0)
    assert plane.get("tenant", "brief")["metadata"]["finalizers"] == ["realm.dev/agents"]
    done = plane.cluster.admin.kubectl(
        "delete", "tenant", "brief", "--namespace", plane.tenants, "--timeout=30s"
    )
    assert done.returncode == 0, done.stderr


async def test_a_deleted_object_waits_for_a_frozen_agent_says_so_and_is_then_served_by_nobody(
    plane: Plane, served: list[Agent], model: Path
) -> None:
    frozen = served[0]
    source = [model.absolute().as_uri()]
    plane.apply("Model", "waning", {"sources": source, "replicas": 2, "kvBlocks": 256})
    plane.tenant("leaving", models=[{"name": "waning"}])
    objects = (("model", "waning"), ("tenant", "leaving"))
    for kind, name in objects:
        plane.await_condition(kind, name, "True", within_s=90.0)
    until(
        lambda: plane.get("model", "waning")["status"]["replicas"] == len(served),
        "both agents hold the model",
    )
    frozen.daemon.pause()
    try:
        names = [f"{kind}/{name}" for kind, name in objects]
        plane.cluster.admin.kubectl("delete", *names, "--namespace", plane.tenants, "--wait=false")
        for kind, name in objects:
            until(partial(is_leaving, plane, kind, name), f"{kind} {name} says whom it waits for")
            # The other one has let go long before anything is said.
            message = plane.condition(kind, name)["message"]
            assert message == f"agents that have not let go of it: {frozen.node}"
            assert plane.get(kind, name)["metadata"]["finalizers"] == ["realm.dev/agents"]
    finally:
        frozen.daemon.resume()
    done = plane.cluster.admin.kubectl(
        *("wait", "--for=delete", *names, "--namespace", plane.tenants, "--timeout=60s")
    )
    assert done.returncode == 0, done.stderr
    for agent in served:
        with pytest.raises(Unauthenticated):
            async with agent.client("leaving") as client:
                await client.health()


def is_leaving(plane: Plane, kind: str, name: str) -> bool:
    """Whether an object says, and has told, that agents still hold it."""
    return bool(
        plane.condition(kind, name)["reason"] == "Deleting"
        and ("Normal", "Deleting") in events_of(plane, name)
    )


@pytest.mark.usefixtures("served")
def test_a_turn_is_told_by_one_event_and_each_cause_by_its_own(plane: Plane) -> None:
    plane.tenant("told", models=[{"name": "nowhere"}])
    plane.await_condition("tenant", "told", "False", within_s=90.0)
    plane.tenant("told", models=[{"name": "smollm2"}], weight=3)
    plane.await_condition("tenant", "told", "True")
    until(lambda: ("Normal", "Serving") in events_of(plane, "told"), "the turn is told")
    told = events_of(plane, "told")
    # What a new object names may be on its way, so that it is no warning yet.
    assert [each for each in told if each[1] != "Preparing"] == [
        ("Normal", "UnknownModel"),
        ("Normal", "Serving"),
    ]
    plane.tenant("told", models=[{"name": "elsewhere"}])
    until(
        lambda: (
            notes_of(plane, "told", "UnknownModel")
            == [f"spec.models[0]: there is no model `{name}`" for name in ("nowhere", "elsewhere")]
        ),
        "the second cause is told beside the first",
    )


@pytest.mark.usefixtures("served")
def test_a_tenant_without_a_key_is_not_ready_until_it_has_one(plane: Plane) -> None:
    plane.apply("Tenant", "keyless", {"models": [{"name": "smollm2"}]})
    found = plane.await_condition("tenant", "keyless", "False")
    assert found["reason"] == "NoKeys"
    assert "`realm api-key create`" in found["message"]
    plane.tenant("keyless", models=[{"name": "smollm2"}])
    plane.await_condition("tenant", "keyless", "True")
    assert plane.condition("tenant", "keyless", "KeysValid")["message"].endswith("to 1 key")


@pytest.mark.usefixtures("served")
def test_a_suspended_tenant_says_so_where_it_is_listed(plane: Plane) -> None:
    def listed() -> list[str]:
        done = plane.cluster.admin.kubectl(
            *("get", "tenant", "paused", "--namespace", plane.tenants, "--no-headers")
        )
        return str(done.stdout).split()[:6]

    plane.tenant("paused", models=[{"name": "smollm2"}])
    shown = ["paused", "True", "Serving", "100", "1", "false"]
    until(lambda: listed() == shown, "it is served")
    plane.tenant("paused", models=[{"name": "smollm2"}], suspended=True)
    shown = ["paused", "True", "Suspended", "100", "1", "true"]
    until(lambda: listed() == shown, "it is suspended")


@pytest.mark.usefixtures("served")
def test_a_tenant_whose_only_model_cannot_be_had_is_not_ready(plane: Plane, tmp_path: Path) -> None:
    plane.apply("Model", "gone", {"sources": [(tmp_path / "gone.gguf").as_uri()]})
    plane.tenant("stranded", models=[{"name": "gone"}])
    failed = plane.await_condition("model", "gone", "True", "Stalled")
    assert failed["reason"] == "SourceNotFound"
    found = plane.await_condition("tenant", "stranded", "False")
    assert (found["reason"], "gone" in found["message"]) == ("ModelNotServed", True)
    until(
        lambda: (
            "hand its calls on" in plane.condition("tenant", "stranded", "ProgramReady")["message"]
        ),
        "no agent runs its program",
    )
    assert "programSha256" not in plane.get("tenant", "stranded")["status"]
    plane.cluster.admin.kubectl("delete", "model", "gone", "--namespace", plane.tenants)


@pytest.mark.usefixtures("served")
def test_what_changes_no_status_writes_none(plane: Plane, operator: Operator) -> None:
    for name in ("quiet", "loud"):
        plane.tenant(name, models=[{"name": "smollm2"}])
    for name in ("quiet", "loud"):
        plane.await_condition("tenant", name, "True", within_s=90.0)
    before = status_writes(plane, operator, "quiet")
    done = plane.cluster.admin.kubectl(
        *("annotate", "tenant", "quiet", "--namespace", plane.tenants, "example.com/note=x")
    )
    assert done.returncode == 0, done.stderr
    # A write that comes later and is seen says that the first was not going to be.
    loud = status_writes(plane, operator, "loud")
    plane.tenant("loud", models=[{"name": "smollm2"}], weight=9)
    until(lambda: status_writes(plane, operator, "loud") > loud, "the later change is written")
    assert status_writes(plane, operator, "quiet") == before
