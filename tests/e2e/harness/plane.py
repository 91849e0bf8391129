"""Realm in a cluster: operators and agents as processes beside a real API server."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
from collections.abc import Sequence
from pathlib import Path

from harness.chart import operator_rules
from harness.cluster import Cluster
from harness.daemon import Daemon
from harness.folder import Json, new_key
from harness.user import User
from harness.wait import until
from realm_client import Client

AUDIENCE = "realm-operator"
ACCOUNT = "realm-agent"

#: The label by which a kubelet names its node.
HOSTNAME = "kubernetes.io/hostname"


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        return port


class Plane:
    """One installation: a namespace of its own, operators, and agents on nodes made by hand."""

    def __init__(self, cluster: Cluster, folder: Path, tenants: str) -> None:
        self.cluster = cluster
        self.folder = folder
        self.namespace = cluster.namespace()
        #: Where tenants, models and their Secrets are.
        self.tenants = tenants
        self._daemons: list[Daemon] = []
        self._keys: dict[str, str] = {}
        self.account(ACCOUNT)

    def account(self, name: str) -> None:
        """A service account beside the agents."""
        metadata = {"name": name, "namespace": self.namespace}
        thing = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}
        self.cluster.admin.apply(thing)

    def operator_user(self, name: str) -> User:
        """Whom the API server sees in one operator.

        Each is somebody of its own here, so that it can be told who wrote what.
        """
        everywhere, own, tenants = operator_rules()
        user = self.cluster.user(name, everywhere)
        self.cluster.grant(name, own, self.namespace)
        self.cluster.grant(name, tenants, self.tenants)
        return user

    def operator(self, name: str) -> Operator:
        """A running operator."""
        operator = Operator(self, name)
        self._daemons.append(operator.daemon)
        operator.start()
        return operator

    def agent(
        self,
        node: str,
        operators: Sequence[Operator],
        token: str | None = None,
        flags: Sequence[str] = (),
    ) -> Agent:
        """A running agent on a node of its own; with `token` it shows that one."""
        agent = Agent(self, node, operators, flags)
        if token is not None:
            agent.token.write_text(token)
        self._daemons.append(agent.daemon)
        agent.start()
        return agent

    def adopt(self, daemon: Daemon) -> None:
        """Takes in a process that somebody else made: its end, and its last words."""
        self._daemons.append(daemon)

    def operator_flags(self) -> Sequence[str]:
        """What all operators share."""
        return ("--namespace", self.namespace, "--tenant-namespace", self.tenants)

    def leader(self) -> str:
        """Who holds the Lease."""
        return str(self.lease()["spec"].get("holderIdentity") or "")

    def lease(self) -> Json:
        """By which operators agree on one leader."""
        return self.cluster.admin.get("lease", "realm-operator", namespace=self.namespace)

    def trust(self) -> Path:
        """The bundle that agents trust, once an operator has published it."""
        file = self.folder / "ca.crt"

        def published() -> bool:
            path = f"/api/v1/namespaces/{self.namespace}/configmaps/realm-link"
            answer = self.cluster.admin.http.get(path)
            if not answer.is_success:
                return False
            file.write_text(answer.json()["data"]["ca.crt"])
            return True

        until(published, "the operator publishes its authority")
        return file

    def apply(self, kind: str, name: str, spec: Json) -> None:
        """An object in the tenants' namespace."""
        metadata = {"name": name, "namespace": self.tenants}
        thing = {"apiVersion": "realm.dev/v1alpha1", "kind": kind, "metadata": metadata}
        self.cluster.admin.apply(thing | {"spec": spec})

    def pod(self, name: str, node: str, account: str) -> Json:
        """A pod of the account on a node, which nobody runs."""
        metadata = {"name": name, "namespace": self.namespace}
        spec = {
            "nodeName": node,
            "serviceAccountName": account,
            "containers": [{"name": "agent", "image": "realm-agent"}],
        }
        admin = self.cluster.admin
        admin.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
        return admin.get("pod", name, namespace=self.namespace)

    def key(self, tenant: str) -> str:
        """The tenant's key, in a Secret of its own."""
        if tenant not in self._keys:
            key = self._keys[tenant] = new_key()
            entry = {"sha256": hashlib.sha256(key.encode()).hexdigest()}
            metadata = {"name": f"{tenant}-keys", "namespace": self.tenants}
            secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata}
            self.cluster.admin.apply(secret | {"stringData": {"main": json.dumps(entry)}})
        return self._keys[tenant]

    def tenant(self, name: str, **spec: object) -> None:
        """A tenant with a key."""
        self.key(name)
        self.apply("Tenant", name, {"apiKeys": [{"secretName": f"{name}-keys"}], **spec})

    def forget(self, tenant: str) -> None:
        """Lets the tenant have another key."""
        del self._keys[tenant]

    def spec(self, kind: str, name: str) -> Json:
        """What an object asks for."""
        return self.get(kind, name)["spec"]

    def get(self, kind: str, name: str) -> Json:
        """An object as it is now."""
        return self.cluster.admin.get(kind, name, namespace=self.tenants)

    def condition(self, kind: str, name: str, type_: str = "Ready") -> Json:
        """A condition of an object, `None` where it has none."""
        status = self.get(kind, name).get("status", {})
        found = [each for each in status.get("conditions", []) if each["type"] == type_]
        return found[0] if found else None

    def await_condition(
        self, kind: str, name: str, status: str, type_: str = "Ready", within_s: float = 60.0
    ) -> Json:
        """The condition once its status is so, for the newest generation."""

        def holds() -> bool:
            thing = self.get(kind, name)
            found = self.condition(kind, name, type_)
            newest = thing["metadata"]["generation"]
            return bool(
                found and found["status"] == status and found["observedGeneration"] == newest
            )

        try:
            until(holds, f"{kind} {name} has {type_}={status}", within_s=within_s)
        except AssertionError as error:
            error.add_note(json.dumps(self.get(kind, name).get("status"), indent=1))
            raise
        return self.condition(kind, name, type_)

    def tail(self) -> str:
        """The last of what every process said."""
        return "\n".join(f"-- {each.label}\n{each.tail()}" for each in self._daemons)

    @property
    def label(self) -> str:
        """Which of several it is."""
        return f"realm in {self.namespace}"

    def close(self) -> None:
        """Ends everything, last started first."""
        for daemon in reversed(self._daemons):
            daemon.close()


class Operator:
    """One replica of the operator."""

    def __init__(self, plane: Plane, name: str) -> None:
        self.name = name
        user = plane.operator_user(name)
        self.port = free_port()
        self.metrics = f"http://127.0.0.1:{(metrics := free_port())}/metrics"
        self.daemon = Daemon(
            plane.folder,
            "realm-operator",
            *plane.operator_flags(),
            *("--identity", name),
            *("--listen", f"127.0.0.1:{self.port}"),
            *("--link-name", "localhost"),
            *("--metrics", f"127.0.0.1:{metrics}"),
            label=name,
            env={
                "KUBECONFIG": str(user.kubeconfig),
                "REALM_LOG": os.environ.get("REALM_TEST_LOG", "info,realm_operator::link=debug"),
            },
        )

    @property
    def url(self) -> str:
        """Where agents reach it."""
        return f"https://localhost:{self.port}"

    def start(self) -> None:
        """Starts the process."""
        self.daemon.start()


class Agent:
    """The agent of one node."""

    def __init__(
        self, plane: Plane, node: str, operators: Sequence[Operator], flags: Sequence[str] = ()
    ) -> None:
        self.node = node
        self.port = free_port()
        #: Where other agents reach it.
        self.peer_port = free_port()
        self._plane = plane
        self.state = plane.folder / f"state-{node}"
        self.token = plane.folder / f"token-{node}"
        self.metrics = f"http://127.0.0.1:{(metrics := free_port())}/metrics"
        self._pod()
        where = [flag for operator in operators for flag in ("--operator", operator.url)]
        self.daemon = Daemon(
            plane.folder,
            "realm-agent",
            *("--node", node),
            *where,
            *("--operator-ca", str(plane.trust())),
            *("--token", str(self.token)),
            *("--state", str(self.state)),
            # No Service has to forget it.
            *("--settle", "0"),
            *("--listen", f"127.0.0.1:{self.port}"),
            *("--peer-listen", f"127.0.0.1:{self.peer_port}"),
            *("--metrics", f"127.0.0.1:{metrics}"),
            *flags,
            label=f"agent-{node}",
            env={"REALM_LOG": os.environ.get("REALM_TEST_LOG", "info,realm_agent::cluster=debug")},
        )

    def _pod(self) -> None:
        """The node, the pod on it, and the token that its kubelet would mount."""
        admin = self._plane.cluster.admin
        node = {"name": self.node, "labels": {HOSTNAME: self.node}}
        admin.apply({"apiVersion": "v1", "kind": "Node", "metadata": node})
        pod = self._plane.pod(f"agent-{self.node}", self.node, ACCOUNT)
        self.token.write_text(self._plane.cluster.token(ACCOUNT, pod, AUDIENCE))

    def start(self) -> None:
        """Starts the process."""
        self.daemon.start()

    def generations(self) -> Sequence[Json]:
        """Every state that the ledger took, by how much it holds, oldest first."""
        found = re.findall(
            r"accepted.* generation=(\d+) models=(\d+) tenants=(\d+)", self.daemon.text()
        )
        return [
            {"generation": int(generation), "models": int(models), "tenants": int(tenants)}
            for generation, models, tenants in found
        ]

    def refused(self) -> Sequence[str]:
        """Every state that the ledger did not take: with `generations`, all that ever came."""
        return re.findall(r"a desired state is refused.*", self.daemon.text())

    @property
    def http(self) -> str:
        """The door for OpenAI's clients."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def url(self) -> str:
        """The door for WebSocket."""
        return f"ws://127.0.0.1:{self.port}"

    def client(self, tenant: str, *, resume: bool = True) -> Client:
        """A client of the agent's door with the tenant's key."""
        return Client(self.url, self._plane.key(tenant), resume=resume)
