"""A real API server on loopback, its etcd, and as much of a cluster around them as a test wants.

There are no containers: nodes are hollow, and the pods on them only report that they run.
"""

from __future__ import annotations

import json
import secrets
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Self

import httpx
import trustme

from harness.daemon import Daemon
from harness.user import Json, User
from harness.wait import until

#: A cold start on a slow machine that does other things meanwhile; a warm one takes seconds.
START_S_MAX = 90.0

#: Who signs tokens. It is a name, and nobody connects to it.
ISSUER = "https://kubernetes.default.svc"

#: A socket in the cluster's folder, for etcd asks nobody who they are. Relative, for a socket's
#: path has at most 107 bytes.
ETCD = "unix://etcd.sock"

#: Every write is noted, with who it was.
AUDIT = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata", "verbs": ["create", "update", "patch", "delete"]}],
}

RBAC = "rbac.authorization.k8s.io"


class Cluster:
    """etcd and an API server that knows roles; controllers and nodes on demand."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._daemons: list[Daemon] = []
        self._users: list[User] = []
        self._authority = trustme.CA()
        # Bound until the end and never listened on: the API server shares the port, so that
        # nobody else can be given it meanwhile.
        self._port = socket.socket()
        self._port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._port.bind(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._port.getsockname()[1]}"
        self.label = f"cluster at {self.url}"
        self.admin = self._user("admin", group="system:masters")

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException as error:
            error.add_note(self.tail())
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        self._run("etcd", *_etcd_flags())
        flags = (f"--etcd-servers={ETCD}", *self._api_server_flags())
        self._api_server = self._run("kube-apiserver", *flags)
        self.await_ready()

    def await_ready(self) -> None:
        """Waits until the API server answers."""
        self._wait_for(self._is_ready, "the API server is ready")

    @contextmanager
    def without_api_server(self) -> Iterator[None]:
        """Nobody answers within the block; what is stored stays. Ready again behind it."""
        self._api_server.kill()
        try:
            yield
        finally:
            self._api_server.start()
            self.await_ready()

    def writes(self, user: str) -> Sequence[Json]:
        """What somebody has written, oldest first: `verb`, `objectRef` and more of each."""
        lines = (self._folder / "audit.log").read_text().splitlines()
        events = [json.loads(line) for line in lines]
        return [event for event in events if event["user"]["username"] == user]

    def _run(self, name: str, *flags: str, label: str | None = None) -> Daemon:
        daemon = Daemon(self._folder, name, *flags, label=label)
        self._daemons.append(daemon)
        daemon.start()
        return daemon

    def _api_server_flags(self) -> Sequence[str]:
        serving = self._authority.issue_cert("127.0.0.1")
        policy = self._folder / "audit.yaml"
        policy.write_text(json.dumps(AUDIT))
        signing = self._pem("signing.key", self._authority.issue_cert("tokens").private_key_pem)
        return (
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={self._port.getsockname()[1]}",
            "--permit-port-sharing",
            # Loopback is no endpoint that pods could be given.
            "--endpoint-reconciler-type=none",
            f"--tls-cert-file={self._pem('serving.crt', *serving.cert_chain_pems)}",
            f"--tls-private-key-file={self._pem('serving.key', serving.private_key_pem)}",
            f"--client-ca-file={self._pem('authority.crt', self._authority.cert_pem)}",
            f"--service-account-issuer={ISSUER}",
            f"--service-account-key-file={signing}",
            f"--service-account-signing-key-file={signing}",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged",
            f"--audit-policy-file={policy}",
            f"--audit-log-path={self._folder / 'audit.log'}",
        )

    def _pem(self, name: str, *blobs: trustme.Blob) -> Path:
        path = self._folder / name
        path.write_bytes(b"".join(blob.bytes() for blob in blobs))
        return path

    def _is_ready(self) -> bool:
        try:
            paths = ("/readyz", "/api/v1/namespaces/default")
            return all(self.admin.http.get(path).is_success for path in paths)
        except httpx.TransportError:
            return False

    def _wait_for(self, probe: Callable[[], bool], what: str) -> None:
        def look() -> bool:
            for daemon in self._daemons:
                assert not daemon.has_ended, f"{daemon.label} ended before {what}"
            return probe()

        until(look, what, within_s=START_S_MAX)

    def run_controllers(self) -> None:
        """Runs the controller manager and the scheduler: roll-outs, lost nodes, clean-up."""
        flags = {
            "kube-controller-manager": [
                f"--root-ca-file={self._folder / 'authority.crt'}",
                "--use-service-account-credentials",
            ],
            "kube-scheduler": [],
        }
        for name, own in flags.items():
            user = self._user(f"system:{name}")
            common = (f"--kubeconfig={user.kubeconfig}", "--leader-elect=false", "--secure-port=0")
            self._run(name, *common, *own)

    def add_node(self, name: str, *flags: str) -> Daemon:
        """A hollow node, once it is ready. Killing what is returned is losing the node."""
        user = self._user(f"system:node:{name}", group="system:nodes")
        node = self._run(
            "kubemark",
            "--morph=kubelet",
            f"--name={name}",
            f"--kubeconfig={user.kubeconfig}",
            "--kubelet-port=0",
            "--kubelet-read-only-port=0",
            "--use-host-image-service=false",
            *flags,
            label=name,
        )
        self._wait_for(lambda: self._node_is_ready(name), f"the node {name} is ready")
        return node

    def _node_is_ready(self, name: str) -> bool:
        answer = self.admin.http.get(f"/api/v1/nodes/{name}")
        if not answer.is_success:
            return False
        conditions = answer.json()["status"].get("conditions", [])
        return any((each["type"], each["status"]) == ("Ready", "True") for each in conditions)

    def user(self, name: str, rules: Sequence[Json], namespace: str | None = None) -> User:
        """Somebody who may do what `rules` say, in a namespace or everywhere."""
        self.grant(name, rules, namespace)
        return self._user(name)

    def grant(self, name: str, rules: Sequence[Json], namespace: str | None = None) -> None:
        """Lets somebody do what `rules` say, in a namespace or everywhere."""
        kind = "ClusterRole" if namespace is None else "Role"
        where = {} if namespace is None else {"namespace": namespace}
        common = {"apiVersion": f"{RBAC}/v1", "metadata": {"name": name, **where}}
        role = {"apiGroup": RBAC, "kind": kind, "name": name}
        subject = {"apiGroup": RBAC, "kind": "User", "name": name}
        self.admin.apply(
            {"kind": kind, "rules": list(rules), **common},
            {"kind": f"{kind}Binding", "roleRef": role, "subjects": [subject], **common},
        )

    def _user(self, name: str, group: str = "tests") -> User:
        user = User(self._folder, self.url, self._authority, name, group)
        self._users.append(user)
        return user

    def namespace(self) -> str:
        """A namespace that nobody else uses."""
        name = f"t-{secrets.token_hex(4)}"
        self.admin.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        return name

    def token(self, account: str, pod: Json, audience: str | None) -> str:
        """A token of the pod's service account, as its kubelet asks for it.

        It is for the API server unless an audience is named.
        """
        name, namespace, uid = (pod["metadata"][key] for key in ("name", "namespace", "uid"))
        bound = {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}
        audiences = [audience or ISSUER]
        return self._token(account, namespace, {"audiences": audiences, "boundObjectRef": bound})

    def unbound_token(self, account: str, namespace: str, audience: str) -> str:
        """A token of the account that is nobody's in particular."""
        return self._token(account, namespace, {"audiences": [audience]})

    def _token(self, account: str, namespace: str, spec: Json) -> str:
        answer = self.admin.post(
            f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token",
            {
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenRequest",
                "spec": spec,
            },
        )
        assert answer.status_code == HTTPStatus.CREATED, answer.text
        return str(answer.json()["status"]["token"])

    def tail(self) -> str:
        """The last of what every process said."""
        return "\n".join(f"-- {each.label}\n{each.tail()}" for each in self._daemons)

    def close(self) -> None:
        """Ends everything, last started first."""
        for daemon in reversed(self._daemons):
            daemon.close()
        for user in self._users:
            user.close()
        self._port.close()


def _etcd_flags() -> Sequence[str]:
    # What a member calls itself must look like an address. This one has no peers to use it.
    name, address = "tests", "http://127.0.0.1:1"
    return (
        f"--name={name}",
        "--data-dir=etcd",
        f"--listen-client-urls={ETCD}",
        f"--advertise-client-urls={address}",
        "--listen-peer-urls=unix://peers.sock",
        f"--initial-advertise-peer-urls={address}",
        f"--initial-cluster={name}={address}",
        # All of it is thrown away at the end, so a loss of power may take it too.
        "--unsafe-no-fsync",
        "--log-level=warn",
    )
