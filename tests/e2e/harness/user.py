"""Somebody whom an API server knows, and what they can ask of it."""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
from pathlib import Path
from typing import Any, TypeAlias

import httpx
import trustme
import yaml

from harness.daemon import binary, environment

Json: TypeAlias = Any
Done: TypeAlias = subprocess.CompletedProcess[str]

#: Far longer than any single request or command takes.
REQUEST_S_MAX = 60.0

#: The field manager of what tests apply.
MANAGER = "tests"


class User:
    """A client certificate in a kubeconfig, with `kubectl` and plain HTTP on it."""

    def __init__(
        self, folder: Path, url: str, authority: trustme.CA, name: str, group: str
    ) -> None:
        self.name = name
        self.kubeconfig = folder / f"{name.replace(':', '-')}.kubeconfig"
        self._folder = folder
        # The host is nobody's; a certificate must have one.
        leaf = authority.issue_cert("user.invalid", common_name=name, organization_name=group)
        _write_kubeconfig(self.kubeconfig, url, authority, leaf)
        context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
        leaf.configure_cert(context)
        self.http = httpx.Client(
            base_url=url, verify=context, trust_env=False, timeout=REQUEST_S_MAX
        )

    def kubectl(self, *args: str, given: str | None = None) -> Done:
        """Runs `kubectl` to its end, with `given` on its standard input."""
        return subprocess.run(
            [binary("kubectl"), "--kubeconfig", str(self.kubeconfig), *args],
            input=given,
            capture_output=True,
            text=True,
            cwd=self._folder,
            env=environment(self._folder),
            timeout=REQUEST_S_MAX,
            check=False,
        )

    def apply(self, *objects: Json) -> Done:
        """Server-side apply. Fails with what the server said unless all objects were taken."""
        return self.apply_text(yaml.safe_dump_all(objects))

    def apply_text(self, manifests: str) -> Done:
        """As `apply`, for manifests as they stand in a file."""
        how = ["--server-side", "--field-manager", MANAGER, "--filename", "-"]
        done = self.kubectl("apply", *how, given=manifests)
        assert done.returncode == 0, done.stderr
        return done

    def get(self, *what: str, namespace: str = "default") -> Json:
        """An object, or a list of them."""
        done = self.kubectl("get", *what, "--namespace", namespace, "--output", "json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def post(self, path: str, body: Json, **query: str) -> httpx.Response:
        """Creates an object, or asks one of the review APIs; the answer may be a refusal."""
        return self.http.post(path, json=body, params=query)

    def patch(self, path: str, thing: Json, manager: str = MANAGER, **query: str) -> httpx.Response:
        """Server-side apply at a path; the answer may be a refusal."""
        return self.http.patch(
            path,
            content=json.dumps(thing),
            headers={"Content-Type": "application/apply-patch+yaml"},
            params={"fieldManager": manager, "fieldValidation": "Strict", **query},
        )

    def close(self) -> None:
        """Closes what is open to the server."""
        self.http.close()


def _write_kubeconfig(file: Path, url: str, authority: trustme.CA, leaf: trustme.LeafCert) -> None:
    def data(pem: bytes) -> str:
        return base64.b64encode(pem).decode()

    certificate = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
    cluster = {"server": url, "certificate-authority-data": data(authority.cert_pem.bytes())}
    user = {
        "client-certificate-data": data(certificate),
        "client-key-data": data(leaf.private_key_pem.bytes()),
    }
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "tests", "cluster": cluster}],
        "users": [{"name": "tests", "user": user}],
        "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "tests"}}],
        "current-context": "tests",
    }
    file.touch(mode=0o600)
    file.write_text(yaml.safe_dump(config))
