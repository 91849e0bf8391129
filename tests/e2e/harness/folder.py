"""A folder of manifests, written as a person or a tool would."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import yaml

Json: TypeAlias = Any

API_VERSION = "realm.dev/v1alpha1"
NAMESPACE = "default"
MODEL = "smollm2"


def new_key() -> str:
    """A key as `realm api-key create` makes them."""
    return f"rk_{secrets.token_urlsafe(32)}"


def entry(key: str, **fields: Json) -> dict[str, Json]:
    """What a Secret holds of a key: its digest, perhaps `expiresAt` or `disabled`."""
    return {"sha256": hashlib.sha256(key.encode()).hexdigest(), **fields}


class Folder:
    """Writes manifests, each file whole or not at all, and knows every tenant's key."""

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        #: What a server of this folder should come to say `ready` of, by file.
        self._objects: dict[str, list[str]] = {}
        self._keys: dict[str, str] = {}

    @property
    def objects(self) -> Sequence[str]:
        """The models, tenants and pipelines of the folder, as a server names them."""
        return [name for names in self._objects.values() for name in names]

    def key(self, tenant: str) -> str:
        """The good key of a tenant."""
        return self._keys[tenant]

    def write(self, file: str, text: str) -> None:
        """Puts any text in place of a file."""
        scratch = self.path / f".{file}.part"
        scratch.write_text(text)
        os.replace(scratch, self.path / file)

    def put(self, file: str, *documents: Json) -> None:
        """Puts objects in place of a file."""
        kinds = ("Model", "Tenant", "Pipeline")
        self._objects[file] = [
            f"{document['kind'].lower()} {NAMESPACE}/{document['metadata']['name']}"
            for document in documents
            if document["kind"] in kinds
        ]
        self.write(file, yaml.safe_dump_all(documents, sort_keys=False))

    def remove(self, file: str) -> None:
        """Removes a file, and with it its objects."""
        del self._objects[file]
        (self.path / file).unlink()

    def model(self, source: str | Path, name: str = MODEL, **spec: Json) -> None:
        """A model from a file, or from any other source."""
        uri = source if isinstance(source, str) else source.absolute().as_uri()
        self.put(f"model-{name}.yaml", _object("Model", name, {"sources": [uri], **spec}))

    def tenant(
        self,
        name: str,
        *,
        models: Sequence[str] = (MODEL,),
        key: str | None = None,
        **spec: Json,
    ) -> str:
        """A tenant with one good key, which stays the same when the tenant is written again.

        A `key` that is given opens the doors of several servers.
        """
        key = self._keys.setdefault(name, key or new_key())
        secret = f"{name}-keys"
        spec = {"models": [{"name": model} for model in models], **spec}
        spec.setdefault("apiKeys", [{"secretName": secret}])
        self.put(
            f"tenant-{name}.yaml",
            _object("Tenant", name, spec),
            _secret(secret, {"main": entry(key)}),
        )
        return key

    def secret(self, name: str, entries: Mapping[str, Json]) -> None:
        """A Secret of API keys in a file of its own."""
        self.put(f"secret-{name}.yaml", _secret(name, entries))

    def pipeline(self, name: str, tenants: Sequence[str], *steps: Json, **spec: Json) -> None:
        """A pipeline of an input `text`; every step is an output of its own name."""
        outputs = [{"name": step["name"], "step": step["name"]} for step in steps]
        spec = {
            "inputs": [{"name": "text", "type": "string", "required": True}],
            "steps": list(steps),
            "outputs": outputs,
            "tenants": list(tenants),
            **spec,
        }
        self.put(f"pipeline-{name}.yaml", _object("Pipeline", name, spec))


def step(name: str, prompt: str, *, tokens_max: int, **fields: Json) -> dict[str, Json]:
    """A greedy step of the default model."""
    return {
        "name": name,
        "model": {"name": MODEL},
        "prompt": prompt,
        "maxTokens": tokens_max,
        "temperature": 0,
        **fields,
    }


def _object(kind: str, name: str, spec: Json) -> Json:
    metadata = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}


def _secret(name: str, entries: Mapping[str, Json]) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "stringData": {key: json.dumps(value) for key, value in entries.items()},
    }
