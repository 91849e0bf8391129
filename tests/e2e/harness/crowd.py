"""Many tenants, models, pipelines and agents at once, for an operator that should not mind."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus

from harness.daemon import Daemon
from harness.folder import Json
from harness.plane import ACCOUNT, AUDIENCE, Operator, Plane
from harness.resources import path_of
from harness.wait import until

#: Requests under way at once: enough that the API server is never waited for one by one.
AT_ONCE = 8

#: Models that each tenant may use, and tenants that may call each pipeline.
OF_EACH = 5


@dataclass(frozen=True)
class Size:
    """How much there is of everything."""

    tenants: int
    models: int
    pipelines: int
    agents: int


@dataclass(frozen=True)
class Held:
    """When a tenant's weight was in the first ledger and in all of them."""

    generation: int
    first_s: float
    all_s: float


class Crowd:
    """Objects of a plane, and agents in one process that hold nothing behind their links."""

    def __init__(self, plane: Plane, size: Size) -> None:
        self.plane = plane
        self.size = size
        self.agents: Daemon | None = None
        self._seen = 0
        self._held: dict[tuple[str, int], Held] = {}

    def start_agents(self, operator: Operator) -> Daemon:
        """Every node, its token, and the agents of all of them."""
        folder = self.plane.trust().parent
        nodes = [f"n{index:03}" for index in range(self.size.agents)]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            tokens = list(pool.map(self._token, nodes))
        for node, token in zip(nodes, tokens, strict=True):
            (folder / f"token-{node}").write_text(token)
        count = str(self.size.agents)
        self.agents = Daemon(folder, "agents", str(folder), operator.url, count)
        self.plane.adopt(self.agents)
        self.agents.start()
        return self.agents

    def _token(self, node: str) -> str:
        admin, namespace = self.plane.cluster.admin, self.plane.namespace
        _taken(admin.post("/api/v1/nodes", _object("v1", "Node", node)))
        pod = _object("v1", "Pod", f"agent-{node}", namespace) | {
            "spec": {
                "nodeName": node,
                "serviceAccountName": ACCOUNT,
                "containers": [{"name": "agent", "image": "realm-agent"}],
            }
        }
        created = _taken(admin.post(f"/api/v1/namespaces/{namespace}/pods", pod))
        return self.plane.cluster.token(ACCOUNT, created, AUDIENCE)

    def create(self) -> None:
        """Every object."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for things in (self._models(), self._secrets(), self._tenants(), self._pipelines()):
                list(pool.map(self._create, things))

    def _create(self, thing: Json) -> None:
        namespace, kind = self.plane.tenants, thing["kind"]
        path = f"/api/v1/namespaces/{namespace}/secrets"
        _taken(
            self.plane.cluster.admin.post(
                path if kind == "Secret" else path_of(kind, namespace), thing
            )
        )

    def _models(self) -> Iterator[Json]:
        for index in range(self.size.models):
            source = f"https://models.example.com/m{index}.gguf"
            spec = {"sources": [source], "sha256": "07" * 32, "replicas": 1 + index % 2}
            yield self._realm("Model", f"m{index}", spec)

    def _secrets(self) -> Iterator[Json]:
        for index in range(self.size.tenants):
            digest = hashlib.sha256(str(index).encode()).hexdigest()
            data = {"stringData": {"main": json.dumps({"sha256": digest})}}
            yield _object("v1", "Secret", f"k{index}", self.plane.tenants) | data

    def _tenants(self) -> Iterator[Json]:
        for index in range(self.size.tenants):
            models = {(index + 7 * n) % self.size.models for n in range(OF_EACH)}
            spec = {
                "models": [{"name": f"m{model}"} for model in sorted(models)],
                "apiKeys": [{"secretName": f"k{index}"}],
            }
            yield self._realm("Tenant", f"t{index}", spec)

    def _pipelines(self) -> Iterator[Json]:
        for index in range(self.size.pipelines):
            model = {"name": f"m{index % self.size.models}"}
            steps = [
                {"name": name, "model": model, "prompt": "Say it.", "maxTokens": 9}
                for name in ("a", "b")
            ]
            tenants = [f"t{index % self.size.tenants}"]
            outputs = [{"name": "o", "step": "b"}]
            spec = {"steps": steps, "outputs": outputs, "tenants": tenants}
            yield self._realm("Pipeline", f"p{index}", spec)

    def _realm(self, kind: str, name: str, spec: Json) -> Json:
        return _object("realm.dev/v1alpha1", kind, name, self.plane.tenants) | {"spec": spec}

    def weigh(self, index: int, weight: int) -> tuple[float, float]:
        """Changes a tenant's weight; when it was asked for and when the API server had it."""
        path = path_of("Tenant", self.plane.tenants, f"t{index}")
        began = time.time()
        answer = self.plane.cluster.admin.http.patch(
            path,
            content=json.dumps({"spec": {"weight": weight}}),
            headers={"Content-Type": "application/merge-patch+json"},
        )
        assert answer.is_success, answer.text
        return began, time.time()

    def held(self) -> Mapping[tuple[str, int], Held]:
        """Every weight that all ledgers have held, by tenant and weight."""
        assert self.agents is not None
        text = self.agents.text()[self._seen :]
        text = text[: text.rfind("\n") + 1]
        self._seen += len(text)
        lines = re.findall(r"^held \S+/(\S+) (\d+) (\d+) (\d+) (\d+)$", text, re.MULTILINE)
        for name, weight, generation, first, last in lines:
            held = Held(int(generation), int(first) / 1e9, int(last) / 1e9)
            self._held[name, int(weight)] = held
        return self._held

    def await_ready(self, within_s: float) -> None:
        """Waits until every object is said to be ready."""
        for kind in ("Model", "Tenant", "Pipeline"):
            until(partial(self._all_ready, kind), f"every {kind} is ready", within_s=within_s)

    def _all_ready(self, kind: str) -> bool:
        return not self.unready(kind)

    def unready(self, kind: str) -> list[str]:
        """The objects of a kind whose newest generation is not said to be ready."""
        path = path_of(kind, self.plane.tenants)
        items = self.plane.cluster.admin.http.get(path).json()["items"]
        return [item["metadata"]["name"] for item in items if not _is_ready(item)]


def _is_ready(item: Json) -> bool:
    conditions = item.get("status", {}).get("conditions", [])
    newest = item["metadata"]["generation"]
    return any(
        (each["type"], each["status"], each["observedGeneration"]) == ("Ready", "True", newest)
        for each in conditions
    )


def _object(version: str, kind: str, name: str, namespace: str | None = None) -> Json:
    metadata = {"name": name} if namespace is None else {"name": name, "namespace": namespace}
    return {"apiVersion": version, "kind": kind, "metadata": metadata}


def _taken(answer: Json) -> Json:
    assert answer.status_code == HTTPStatus.CREATED, answer.text
    return answer.json()
