"""Objects of Realm's kinds, good ones and changed ones, and what an API server makes of them."""

from __future__ import annotations

import copy
import re
from http import HTTPStatus

import httpx

from harness.folder import API_VERSION, Json
from harness.user import User

SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
HTTPS = "https://example.org/model.gguf"
FILE = "file:///models/model.gguf"

PLURALS = {"Model": "models", "Pipeline": "pipelines", "Tenant": "tenants"}

STEP = {"name": "s", "model": {"name": "m"}, "prompt": "{{ inputs.text }}", "maxTokens": 9}
SECOND = {"name": "t", "dependsOn": ["s"], "stop": ["END"], "onError": {"use": ""}}
PROGRAM = {"sources": [HTTPS], "sha256": SHA256, "config": {"voice": "a pirate"}}

#: A good object of each kind, with everything in it that tests change.
SPECS: dict[str, Json] = {
    "Model": {"sources": [HTTPS, FILE], "sha256": SHA256, "allowedNamespaces": ["other"]},
    "Tenant": {
        "models": [{"name": "m"}, {"name": "m", "namespace": "other"}],
        "apiKeys": [{"secretName": "keys"}],
        "program": PROGRAM,
    },
    "Pipeline": {
        "inputs": [{"name": "text"}],
        "steps": [STEP, STEP | SECOND],
        "outputs": [{"name": "o", "step": "s"}],
        "tenants": ["acme"],
    },
}


def path_of(kind: str, namespace: str = "default", name: str = "") -> str:
    """Where objects of a kind are, or one of them."""
    return f"/apis/{API_VERSION}/namespaces/{namespace}/{PLURALS[kind]}/{name}".rstrip("/")


def make(kind: str, spec: Json, name: str = "m", namespace: str = "default") -> Json:
    """An object."""
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}


def changed(kind: str, path: str, value: Json) -> Json:
    """A good object with another value at `path` of its spec, or with none there."""
    spec = copy.deepcopy(SPECS[kind])
    *parents, last = [int(i) if i else name for name, i in re.findall(r"(\w+)|\[(\d+)\]", path)]
    here = spec
    for step in parents:
        here = here.setdefault(step, {}) if isinstance(here, dict) else here[step]
    if value is None:
        del here[last]
    else:
        here[last] = value
    return make(kind, spec)


def ask(admin: User, thing: Json) -> httpx.Response:
    """Asks whether an object would be taken; nothing is stored."""
    return admin.post(path_of(thing["kind"]), thing, dryRun="All", fieldValidation="Strict")


def assert_taken(answer: httpx.Response) -> None:
    """The object would be stored, and there is nothing to warn about."""
    assert answer.status_code == HTTPStatus.CREATED, answer.text
    assert "warning" not in answer.headers


def assert_refused(answer: httpx.Response, path: str, says: str) -> None:
    """The refusal names the field at `path` of the spec, and says what is wrong there."""
    assert answer.status_code == HTTPStatus.UNPROCESSABLE_ENTITY, answer.text
    field = f"spec.{path}".rstrip(".")
    causes = [(cause["field"], cause["message"]) for cause in answer.json()["details"]["causes"]]
    assert any(at == field and says in message for at, message in causes), causes
