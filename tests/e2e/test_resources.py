"""The resources of Realm in a real API server: what it stores, fills in, counts and shows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path

import httpx
import pytest

from harness.cluster import Cluster
from harness.folder import API_VERSION, Json, entry, new_key
from harness.resources import (
    FILE,
    PLURALS,
    SHA256,
    SPECS,
    STEP,
    ask,
    assert_taken,
    changed,
    make,
    path_of,
)
from harness.user import User

SAMPLES = Path(__file__).parents[2] / "deploy" / "samples"


def test_the_definitions_are_taken_without_a_warning(
    resources: Cluster, definitions: Sequence[httpx.Response]
) -> None:
    assert len(definitions) == len(PLURALS)
    for answer in definitions:
        assert answer.is_success, answer.text
        assert "warning" not in answer.headers, answer.headers
        found = resources.admin.get("crd", answer.json()["metadata"]["name"])
        conditions = {each["type"]: each["status"] for each in found["status"]["conditions"]}
        assert conditions == {"NamesAccepted": "True", "Established": "True"}


def test_the_samples_and_a_secret_of_keys_are_taken(admin: User) -> None:
    texts = [path.read_text() for path in sorted(SAMPLES.glob("*.yaml"))]
    keys = {"laptop": entry(new_key()), "old": entry(new_key(), disabled=True)}
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "sample-keys"},
        "stringData": {name: json.dumps(value) for name, value in keys.items()},
    }
    done = admin.apply_text("\n---\n".join([*texts, json.dumps(secret)]))
    assert sorted(done.stdout.splitlines()) == [
        "model.realm.dev/smollm2 serverside-applied",
        "pipeline.realm.dev/digest serverside-applied",
        "secret/sample-keys serverside-applied",
        "tenant.realm.dev/sample serverside-applied",
    ]
    assert done.stderr == ""


def test_what_is_left_out_is_filled_in(admin: User) -> None:
    def stored(kind: str, spec: Json) -> Json:
        answer = ask(admin, make(kind, spec))
        assert_taken(answer)
        return answer.json()["spec"]

    defaults = {
        "kvCache": "F16",
        "replicas": 1,
        "placement": {"accelerator": "Any"},
        "prefetch": "None",
    }
    assert stored("Model", {"sources": [FILE]}) == {"sources": [FILE], **defaults}
    program = {
        "memoryBytes": 67_108_864,
        "fuel": 10_000_000_000,
        "hostCalls": 100_000,
        "outputBytes": 8_388_608,
        "deadlineMs": 300_000,
        "tokenFuel": 5_000_000,
        "tokenDeadlineMs": 20,
        "instances": 64,
        "memory64": False,
    }
    limits = {
        "requestsPerMinute": 600,
        "inputTokensPerMinute": 204_800,
        "outputTokensPerMinute": 102_400,
        "calls": 16,
        "context": 8_192,
        "kvBlocks": 1_024,
    }
    whole = {
        "weight": 100,
        "priority": "Normal",
        "suspended": False,
        "limits": limits | {"program": program},
        "limitsMode": "Enforce",
    }
    assert stored("Tenant", {}) == whole
    partly = stored("Tenant", {"limits": {"calls": 2, "program": {"fuel": 7}}})
    expected = {**limits, "calls": 2, "program": program | {"fuel": 7}}
    assert partly["limits"] == expected
    assert stored("Tenant", {"models": [{"name": "m"}]})["models"] == [
        {"name": "m", "namespace": ""}
    ]
    pipeline = stored("Pipeline", SPECS["Pipeline"])
    assert pipeline["inputs"] == [{"name": "text", "type": "string", "required": True}]
    filled = {"deadlineMs": 60_000, "temperature": 0, "model": {"name": "m", "namespace": ""}}
    assert pipeline["steps"][0] == STEP | filled


def test_the_largest_objects_are_stored(admin: User, namespace: str) -> None:
    text = "x" * 16_384
    steps = [
        STEP | {"name": f"s{i}", "system": text, "prompt": text, "onError": {"use": text}}
        for i in range(16)
    ]
    names = ["s" + str(i) for i in range(16)]
    largest = {
        "Model": {
            "sources": ["https://" + str(i) * 2040 for i in range(8)],
            "sha256": SHA256,
            "allowedNamespaces": [f"{i:063}" for i in range(64)],
        },
        "Tenant": {
            "models": [{"name": f"{i:063}", "namespace": "n" * 63} for i in range(64)],
            "apiKeys": [{"secretName": f"{i:0253}"} for i in range(64)],
            "program": {
                "sources": ["https://" + str(i) * 2040 for i in range(8)],
                "sha256": SHA256,
                "config": {f"{i:0253}": text for i in range(64)},
            },
        },
        "Pipeline": {
            "inputs": [{"name": f"i{i:062}"} for i in range(32)],
            "steps": [step | {"dependsOn": names} for step in steps],
            "outputs": [{"name": f"o{i:062}", "step": "s15"} for i in range(16)],
            "tenants": [f"{i:063}" for i in range(64)],
        },
    }
    for kind, spec in largest.items():
        thing = make(kind, spec, "m" * 63, namespace)
        answer = admin.patch(path_of(kind, namespace, "m" * 63), thing)
        assert answer.status_code == HTTPStatus.CREATED, answer.text[:2000]


def test_the_kinds_have_a_category_and_short_names(admin: User, namespace: str) -> None:
    admin.apply(*(make(kind, SPECS[kind], "m", namespace) for kind in SPECS))
    done = admin.kubectl("get", "realm", "--namespace", namespace, "--output", "name")
    names = {f"{kind.lower()}.realm.dev/m" for kind in SPECS}
    assert set(done.stdout.split()) == names
    everywhere = admin.kubectl("get", "realm", "--all-namespaces", "--output", "name")
    assert names <= set(everywhere.stdout.split())
    for short, kind in {"mdl": "Model", "ppl": "Pipeline", "tn": "Tenant"}.items():
        assert admin.get(short, "m", namespace=namespace)["kind"] == kind


def test_the_columns_show_what_a_person_asks_first(admin: User, namespace: str) -> None:
    admin.apply(*(make(kind, SPECS[kind], "m", namespace) for kind in SPECS))
    loaded = {"replicas": 2, "format": "Q4_1", "architecture": "llama", "parameters": 134_515_008}
    ready = condition("Ready", "False", "Fetching")
    for kind, status in {
        "Model": loaded | {"context": 2048},
        "Tenant": {
            "conditions": [ready, condition("WithinLimits", "False", "Calls")],
            "keys": 3,
            "programSha256": SHA256,
            "totals": {"promptTokens": 70, "generatedTokens": 50},
        },
        "Pipeline": {},
    }.items():
        assert report(admin, kind, namespace, {"conditions": [ready], **status}).is_success
    shown = {
        "Model": {"REPLICAS": "2", "FORMAT": "Q4_1"},
        "Tenant": {"WEIGHT": "100", "KEYS": "3", "SUSPENDED": "false"},
        "Pipeline": {"TENANTS": '["acme"]'},
    }
    wide = {
        "Model": {"ARCHITECTURE": "llama", "PARAMETERS": "134515008", "CONTEXT": "2048"},
        "Tenant": {"LIMITS": "Calls", "PROGRAM": SHA256, "PROMPT": "70", "GENERATED": "50"},
        "Pipeline": {},
    }
    for kind in SPECS:
        first = {"NAME": "m", "READY": "False", "REASON": "Fetching", **shown[kind]}
        assert columns(admin, kind, namespace) == first
        assert columns(admin, kind, namespace, "--output=wide") == first | wide[kind]


def columns(admin: User, kind: str, namespace: str, *flags: str) -> dict[str, str]:
    """What a person sees of the object `m`, its age apart."""
    done = admin.kubectl("get", PLURALS[kind], "m", "--namespace", namespace, *flags)
    titles, values = (line.split() for line in done.stdout.splitlines())
    return {title: value for title, value in zip(titles, values, strict=True) if title != "AGE"}


def condition(kind: str, status: str, reason: str) -> Json:
    when = "2030-01-01T00:00:00Z"
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": "",
        "lastTransitionTime": when,
    }


def report(
    admin: User, kind: str, namespace: str, status: Json, manager: str = "operator"
) -> httpx.Response:
    """Applies a status, as an operator does."""
    thing = {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": "m"}, "status": status}
    return admin.patch(f"{path_of(kind, namespace, 'm')}/status", thing, manager=manager)


def test_a_model_is_scaled_by_its_subresource(admin: User, namespace: str) -> None:
    admin.apply(make("Model", SPECS["Model"], "m", namespace))
    assert report(admin, "Model", namespace, {"replicas": 1}).is_success
    done = admin.kubectl("scale", "model/m", "--replicas=3", "--namespace", namespace)
    assert done.returncode == 0, done.stderr
    assert admin.get("model", "m", namespace=namespace)["spec"]["replicas"] == 3
    scale = admin.http.get(f"{path_of('Model', namespace, 'm')}/scale").json()
    assert (scale["spec"]["replicas"], scale["status"]["replicas"]) == (3, 1)
    too_many = admin.kubectl("scale", "model/m", "--replicas=10001", "--namespace", namespace)
    assert too_many.returncode != 0
    assert "spec.replicas" in too_many.stderr


@pytest.mark.parametrize("kind", SPECS)
def test_conditions_of_two_managers_merge_by_type(admin: User, namespace: str, kind: str) -> None:
    admin.apply(make(kind, SPECS[kind], "m", namespace))
    ready, other = condition("Ready", "True", "Served"), condition("Checked", "True", "Seen")
    assert report(admin, kind, namespace, {"conditions": [ready]}).is_success
    assert report(admin, kind, namespace, {"conditions": [other]}, "another").is_success
    newer = condition("Ready", "False", "Lost")
    answer = report(admin, kind, namespace, {"conditions": [newer]})
    found = {each["type"]: each["reason"] for each in answer.json()["status"]["conditions"]}
    assert found == {"Ready": "Lost", "Checked": "Seen"}
    twice = report(admin, kind, namespace, {"conditions": [ready, newer]})
    assert not twice.is_success, twice.text


@pytest.mark.parametrize("kind", SPECS)
def test_the_generation_counts_changes_of_the_spec_alone(
    admin: User, namespace: str, kind: str
) -> None:
    thing = make(kind, SPECS[kind], "m", namespace)
    path = path_of(kind, namespace, "m")

    def generation(answer: httpx.Response) -> int:
        assert answer.is_success, answer.text
        return int(answer.json()["metadata"]["generation"])

    assert generation(admin.patch(path, thing)) == 1
    ready = condition("Ready", "True", "Served")
    assert generation(report(admin, kind, namespace, {"conditions": [ready]})) == 1
    labelled = thing | {"metadata": thing["metadata"] | {"labels": {"a": "b"}}}
    assert generation(admin.patch(path, labelled)) == 1
    number = {"Model": "replicas", "Tenant": "weight", "Pipeline": "steps[0].maxTokens"}[kind]
    spec = changed(kind, number, 7)["spec"]
    answer = admin.patch(path, thing | {"spec": spec, "status": {"observedGeneration": 9}})
    assert generation(answer) == 2
    assert answer.json()["status"] == {"conditions": [ready]} | unobserved(kind)


def unobserved(kind: str) -> Json:
    """What a status holds by itself."""
    return {"Model": {"replicas": 0}, "Tenant": {"keys": 0}, "Pipeline": {}}[kind]
