"""What makes an object of Realm's wrong: an API server refuses it, and so does one machine."""

from __future__ import annotations

import json
from collections.abc import Callable
from http import HTTPStatus
from typing import NamedTuple

import httpx
import pytest

from conftest import Serve
from harness.folder import Folder, Json
from harness.resources import (
    FILE,
    HTTPS,
    SHA256,
    SPECS,
    STEP,
    ask,
    assert_refused,
    assert_taken,
    changed,
    make,
)
from harness.user import User

#: Whole numbers with the least and the greatest that is taken.
RANGES = [
    ("Model", "context", 1, 16_777_216),
    ("Model", "kvBlocks", 1, 16_777_216),
    ("Model", "replicas", 0, 10_000),
    ("Tenant", "weight", 1, 10_000),
    ("Tenant", "limits.requestsPerMinute", 1, 1_000_000_000),
    ("Tenant", "limits.inputTokensPerMinute", 1, 1_000_000_000),
    ("Tenant", "limits.outputTokensPerMinute", 1, 1_000_000_000),
    ("Tenant", "limits.calls", 1, 65_536),
    ("Tenant", "limits.context", 1, 16_777_216),
    ("Tenant", "limits.outputTokens", 1, 16_777_216),
    ("Tenant", "limits.kvBlocks", 1, 16_777_216),
    ("Tenant", "limits.program.memoryBytes", 65_536, 1_073_741_824),
    ("Tenant", "limits.program.fuel", 1, 9_007_199_254_740_991),
    ("Tenant", "limits.program.hostCalls", 1, 9_007_199_254_740_991),
    ("Tenant", "limits.program.outputBytes", 1, 67_108_864),
    ("Tenant", "limits.program.deadlineMs", 1, 86_400_000),
    ("Pipeline", "steps[0].maxTokens", 1, 16_777_216),
    ("Pipeline", "steps[0].deadlineMs", 1, 86_400_000),
    ("Pipeline", "steps[0].temperature", 0, 2),
    ("Pipeline", "steps[0].topK", 0, 1_000_000),
    ("Pipeline", "steps[0].minP", 0, 1),
    ("Pipeline", "steps[0].frequencyPenalty", -2, 2),
    ("Pipeline", "steps[0].presencePenalty", -2, 2),
    ("Pipeline", "steps[0].seed", 0, 9_007_199_254_740_991),
]

#: Texts with the longest that is taken.
LENGTHS = [
    ("Model", "allowedNamespaces[0]", 63),
    ("Tenant", "models[0].name", 63),
    ("Tenant", "models[1].namespace", 63),
    ("Tenant", "apiKeys[0].secretName", 253),
    ("Tenant", "program.config.voice", 16_384),
    ("Pipeline", "inputs[0].name", 63),
    ("Pipeline", "outputs[0].name", 63),
    ("Pipeline", "steps[0].model.name", 63),
    ("Pipeline", "steps[0].system", 16_384),
    ("Pipeline", "steps[0].prompt", 16_384),
    ("Pipeline", "steps[1].onError.use", 16_384),
    ("Pipeline", "steps[1].stop[0]", 256),
    ("Pipeline", "tenants[0]", 63),
]


class Entries(NamedTuple):
    """A list with the fewest and the most entries that are taken, and how one of them looks."""

    kind: str
    path: str
    fewest: int
    most: int
    number: Callable[[int], Json]


LISTS = [
    Entries("Model", "sources", 1, 8, lambda i: f"file:///{i}"),
    Entries("Model", "allowedNamespaces", 0, 64, lambda i: f"n{i}"),
    Entries("Tenant", "models", 0, 64, lambda i: {"name": f"m{i}"}),
    Entries("Tenant", "apiKeys", 0, 64, lambda i: {"secretName": f"k{i}"}),
    Entries("Tenant", "program.sources", 0, 8, lambda i: f"file:///{i}"),
    Entries("Pipeline", "inputs", 0, 32, lambda i: {"name": f"text{i}"}),
    Entries("Pipeline", "steps", 1, 16, lambda i: STEP | {"name": "s" if i == 0 else f"s{i}"}),
    Entries("Pipeline", "outputs", 1, 16, lambda i: {"name": f"o{i}", "step": "s"}),
    Entries("Pipeline", "tenants", 1, 64, lambda i: f"t{i}"),
    Entries("Pipeline", "steps[0].dependsOn", 0, 16, lambda i: f"s{i}"),
    Entries("Pipeline", "steps[0].stop", 0, 16, lambda i: f"stop {i}"),
]


class Wrong(NamedTuple):
    """A value that is refused, the field that the refusal names, and what it says."""

    kind: str
    path: str
    value: Json
    field: str
    says: str


PENALTY = "steps[0].repetitionPenalty"

REFUSED = [
    Wrong("Model", "sources", ["ftp://example.org/m"], "sources", "a source starts with"),
    Wrong("Model", "sources", ["http://example.org/m"], "sources", "a source starts with"),
    Wrong("Model", "sources", ["file://host/m"], "sources", "a source starts with"),
    Wrong("Model", "sources", ["configmap://m/m.gguf"], "sources", "a source starts with"),
    Wrong("Model", "sources", [FILE, "m.gguf"], "sources", "a source starts with"),
    Wrong("Model", "sources", [FILE, ""], "sources[1]", "at least 1 chars"),
    Wrong("Model", "sources", [f"https://{'a' * 2048}"], "sources[0]", "2048"),
    Wrong("Model", "sources", None, "sources", "Required value"),
    Wrong("Model", "sha256", None, "", "sha256 is required unless every source is a file"),
    Wrong("Model", "sha256", SHA256[1:], "sha256", "should match"),
    Wrong("Model", "sha256", f"{SHA256}0", "sha256", "should match"),
    Wrong("Model", "sha256", f"sha512:{SHA256}", "sha256", "should match"),
    Wrong("Model", "replicas", "two", "replicas", "must be of type integer"),
    Wrong("Model", "replicas", 1.5, "replicas", "must be of type int64"),
    Wrong("Model", "adapterOf", {"name": "Base"}, "adapterOf.name", "should match"),
    Wrong("Model", "adapterOf", {}, "adapterOf.name", "Required value"),
    Wrong("Model", "allowedNamespaces", ["a", "a"], "allowedNamespaces[1]", "Duplicate value"),
    Wrong("Model", "allowedNamespaces[0]", "Other", "allowedNamespaces[0]", "should match"),
    Wrong("Tenant", "suspended", "yes", "suspended", "must be of type boolean"),
    Wrong("Tenant", "models[1]", {"name": "m"}, "models[1]", "Duplicate value"),
    Wrong("Tenant", "models[0].name", "a.b", "models[0].name", "should match"),
    Wrong("Tenant", "models[0].name", None, "models[0].name", "Required value"),
    Wrong("Tenant", "models[1].namespace", "a.b", "models[1].namespace", "should match"),
    Wrong("Tenant", "apiKeys", [{"secretName": "k"}] * 2, "apiKeys[1]", "Duplicate value"),
    Wrong("Tenant", "apiKeys[0].secretName", "Keys", "apiKeys[0].secretName", "should match"),
    Wrong("Tenant", "apiKeys[0].secretName", "", "apiKeys[0].secretName", "at least 1 chars"),
    Wrong("Tenant", "program.sources", ["ftp://b/p"], "program.sources", "a source starts with"),
    Wrong("Tenant", "program.sha256", None, "program", "sha256 is required unless every source"),
    Wrong("Tenant", "program.sha256", "0", "program.sha256", "should match"),
    Wrong("Tenant", "program.sources", None, "program", "sha256 without sources"),
    Wrong("Tenant", "program.config.voice", 3, "program.config.voice", "must be of type string"),
    Wrong("Tenant", "program.config", {f"k{i}": "" for i in range(65)}, "program.config", "64"),
    Wrong("Tenant", "program.config", {"k" * 254: ""}, "program.config", "253"),
    Wrong("Tenant", "program.config", {"": ""}, "program.config", "253"),
    Wrong("Pipeline", "inputs", [{"name": "text"}] * 2, "inputs[1]", "Duplicate value"),
    Wrong("Pipeline", "inputs[0].name", "1st", "inputs[0].name", "should match"),
    Wrong("Pipeline", "inputs[0].type", "list", "inputs[0].type", "Unsupported value"),
    Wrong("Pipeline", "steps[1].name", "s", "steps[1]", "Duplicate value"),
    Wrong("Pipeline", "steps[0].prompt", "", "steps[0].prompt", "at least 1 chars"),
    Wrong("Pipeline", "steps[0].prompt", None, "steps[0].prompt", "Required value"),
    Wrong("Pipeline", "steps[0].model", None, "steps[0].model", "Required value"),
    Wrong("Pipeline", "steps[0].maxTokens", None, "steps[0].maxTokens", "Required value"),
    Wrong("Pipeline", "steps[0].topP", 0, "steps[0].topP", "greater than 0"),
    Wrong("Pipeline", "steps[0].topP", 1.1, "steps[0].topP", "less than or equal to 1"),
    Wrong("Pipeline", "steps[0].typicalP", 0, "steps[0].typicalP", "greater than 0"),
    Wrong(
        "Pipeline", "steps[0].repetitionPenalty", 0, "steps[0].repetitionPenalty", "greater than 0"
    ),
    Wrong(
        "Pipeline", "steps[0].repetitionPenalty", 11, "steps[0].repetitionPenalty", "equal to 10"
    ),
    Wrong("Pipeline", "steps[0].stop", [""], "steps[0].stop[0]", "at least 1 chars"),
    Wrong("Pipeline", "steps[0].stop", ["a", "a"], "steps[0].stop[1]", "Duplicate value"),
    Wrong("Pipeline", "steps[1].dependsOn", ["s", "s"], "steps[1].dependsOn[1]", "Duplicate value"),
    Wrong("Pipeline", "steps[1].onError", {}, "steps[1].onError.use", "Required value"),
    Wrong("Pipeline", "outputs[0].step", "nothing", "", "an output names a step"),
    Wrong("Pipeline", "outputs", [{"name": "o", "step": "s"}] * 2, "outputs[1]", "Duplicate value"),
    Wrong("Pipeline", "tenants", ["acme", "acme"], "tenants[1]", "Duplicate value"),
    Wrong("Pipeline", "tenants[0]", "other/acme", "tenants[0]", "should match"),
]

#: Fields that do not exist, at every depth.
UNKNOWN = [
    ("Model", "replica"),
    ("Tenant", "weigth"),
    ("Tenant", "limits.rpm"),
    ("Tenant", "limits.program.cpu"),
    ("Tenant", "models[0].weight"),
    ("Tenant", "apiKeys[0].key"),
    ("Tenant", "program.image"),
    ("Pipeline", "step"),
    ("Pipeline", "inputs[0].default"),
    ("Pipeline", "steps[0].logitBias"),
    ("Pipeline", "steps[0].onError.retry"),
    ("Pipeline", "outputs[0].type"),
]


def where(entry: Entries | Wrong) -> str:
    """The name of a test of that entry."""
    return f"{entry.kind}.{entry.path}"


@pytest.mark.parametrize("kind", SPECS)
def test_a_good_object_is_taken(admin: User, kind: str) -> None:
    assert_taken(ask(admin, make(kind, SPECS[kind])))


@pytest.mark.parametrize(("kind", "path", "least", "greatest"), RANGES)
def test_a_number_is_taken_within_its_range_alone(
    admin: User, kind: str, path: str, least: int, greatest: int
) -> None:
    for value in (least, greatest):
        assert_taken(ask(admin, changed(kind, path, value)))
    for value in (least - 1, greatest + 1):
        assert_refused(ask(admin, changed(kind, path, value)), path, "should be")


@pytest.mark.parametrize(("kind", "path", "longest"), LENGTHS)
def test_a_text_is_taken_up_to_its_length(admin: User, kind: str, path: str, longest: int) -> None:
    assert_taken(ask(admin, changed(kind, path, "a" * longest)))
    answer = ask(admin, changed(kind, path, "a" * (longest + 1)))
    assert_refused(answer, path, str(longest))


@pytest.mark.parametrize("entries", LISTS, ids=where)
def test_a_list_is_taken_within_its_size_alone(admin: User, entries: Entries) -> None:
    kind, path, fewest, most, number = entries

    def of(count: int) -> httpx.Response:
        return ask(admin, changed(kind, path, [number(i) for i in range(count)]))

    assert_taken(of(most))
    assert_refused(of(most + 1), path, str(most))
    if fewest > 0:
        assert_taken(of(fewest))
        assert_refused(of(fewest - 1), path, str(fewest))


#: What an adapter has of its model, and what no adapter says otherwise.
OF_ITS_MODEL = {
    "parts": [SHA256],
    "context": 2048,
    "kvBlocks": 1,
    "kvCache": "Q8_0",
    "placement": {"accelerator": "Cpu"},
    "prefetch": "Selected",
    "replicas": 2,
    "scaling": {"max": 2},
}


@pytest.mark.parametrize("field", OF_ITS_MODEL)
def test_an_adapter_says_nothing_of_what_it_has_of_its_model(admin: User, field: str) -> None:
    adapter = make("Model", {"sources": ["file:///a.gguf"], "adapterOf": {"name": "base"}})
    assert_taken(ask(admin, adapter))
    adapter["spec"][field] = OF_ITS_MODEL[field]
    assert_refused(ask(admin, adapter), "", "leave this out beside adapterOf")


@pytest.mark.parametrize("wrong", REFUSED, ids=where)
def test_a_wrong_value_is_refused_where_it_stands(admin: User, wrong: Wrong) -> None:
    kind, path, value, field, says = wrong
    assert_refused(ask(admin, changed(kind, path, value)), field, says)


@pytest.mark.parametrize(("kind", "path"), UNKNOWN)
def test_a_field_that_does_not_exist_is_refused(admin: User, kind: str, path: str) -> None:
    answer = ask(admin, changed(kind, path, "x"))
    assert answer.status_code == HTTPStatus.BAD_REQUEST, answer.text
    assert f'unknown field "spec.{path}"' in answer.json()["message"]


@pytest.mark.parametrize("kind", SPECS)
def test_a_name_is_a_label(admin: User, kind: str) -> None:
    for name in ("m", "m" * 63, "0-m"):
        assert_taken(ask(admin, make(kind, SPECS[kind], name)))
    for name in ("a.b", "m" * 64):
        answer = ask(admin, make(kind, SPECS[kind], name))
        assert answer.status_code == HTTPStatus.UNPROCESSABLE_ENTITY, answer.text
        assert "the name must be a DNS label" in answer.json()["message"]


def every_refused() -> list[Json]:
    """An object for every refusal of the tables that one machine shares."""
    values = [(wrong.kind, wrong.path, wrong.value) for wrong in REFUSED]
    values += [(kind, path, "x") for kind, path in UNKNOWN]
    for kind, path, least, greatest in RANGES:
        values += [(kind, path, least - 1), (kind, path, greatest + 1)]
    values += [(kind, path, "a" * (longest + 1)) for kind, path, longest in LENGTHS]
    for kind, path, fewest, most, number in LISTS:
        counts = (count for count in (fewest - 1, most + 1) if count >= 0)
        values += [(kind, path, [number(i) for i in range(count)]) for count in counts]
    return [changed(*value) for value in values]


def test_one_machine_refuses_what_the_api_server_refuses(serve: Serve) -> None:
    things = every_refused()

    def fill(folder: Folder) -> None:
        for i, thing in enumerate(things):
            folder.put(f"wrong-{i:03}.yaml", thing | {"metadata": {"name": f"wrong-{i:03}"}})
        # What the objects refer to is there, so that nothing but themselves is wrong.
        shared = make("Model", {"sources": [FILE], "allowedNamespaces": ["default"]}, "m", "other")
        folder.put("shared.yaml", shared)
        folder.model(FILE, "m")
        folder.tenant("acme", models=["m"])
        folder.secret("keys", {})

    server = serve(fill, ready=False)
    for i in range(len(things)):
        server.await_line(rf"^wrong-{i:03}\.yaml:\d+: ")


def test_kubectl_tells_the_person_what_is_wrong(admin: User) -> None:
    wrong = changed("Tenant", "weight", 0)
    wrong["spec"]["limits"] = {"calls": 0}
    done = admin.kubectl("apply", "--server-side", "-f", "-", given=json.dumps(wrong))
    assert done.returncode != 0
    assert 'The Tenant "m" is invalid' in done.stderr
    assert "spec.weight" in done.stderr
    assert "spec.limits.calls" in done.stderr


@pytest.mark.parametrize(
    ("kind", "path"),
    [("Model", "sha256"), ("Tenant", "program.sha256")],
)
def test_a_digest_of_null_is_no_digest(admin: User, kind: str, path: str) -> None:
    thing = changed(kind, path, SHA256)
    (thing["spec"] if kind == "Model" else thing["spec"]["program"])["sha256"] = None
    answer = ask(admin, thing)
    assert_refused(answer, path.removesuffix("sha256").rstrip("."), "sha256 is required")


def test_only_files_go_without_a_digest(admin: User) -> None:
    assert_taken(ask(admin, make("Model", {"sources": [FILE]})))
    assert_taken(ask(admin, make("Tenant", {"program": {"sources": [FILE]}})))
    assert_taken(ask(admin, make("Tenant", {"program": {"config": {"system": "Be brief."}}})))
    assert_taken(ask(admin, make("Model", {"sources": [HTTPS], "sha256": f"sha256:{SHA256}"})))
    program = {"sources": ["configmap://programs/a.wasm"]}
    answer = ask(admin, make("Tenant", {"program": program}))
    assert_refused(answer, "program", "sha256 is required")
    assert_taken(ask(admin, make("Tenant", {"program": program | {"sha256": SHA256}})))
