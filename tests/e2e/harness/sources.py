"""Real servers that models are pulled from: a registry, and an object store."""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urljoin

import httpx

#: Longer than either takes to start on a slow machine.
START_S_MAX = 60.0

#: Between two looks whether a server answers yet.
LOOK_EVERY_S = 0.05

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
TITLE = "org.opencontainers.image.title"


def sha256(content: bytes) -> str:
    """The digest of a file, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def free_host() -> str:
    """An address of this machine that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()
        return f"{host}:{port}"


@contextmanager
def running(host: str, *command: str | Path) -> Iterator[None]:
    """A server from when it answers at `host` until the end of the block."""
    with subprocess.Popen(
        [*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            _await_answer(host, process)
            yield
        finally:
            process.kill()


def _await_answer(host: str, process: subprocess.Popen[bytes]) -> None:
    address, port = host.split(":")
    until = time.monotonic() + START_S_MAX
    while True:
        try:
            socket.create_connection((address, int(port)), timeout=LOOK_EVERY_S).close()
        except OSError as error:
            if process.poll() is not None or time.monotonic() > until:
                raise AssertionError(f"{process.args!r} does not answer at {host}") from error
            time.sleep(LOOK_EVERY_S)
        else:
            return


class Registry:
    """A registry without locks."""

    def __init__(self, host: str) -> None:
        self.host = host
        self._http = httpx.Client(base_url=f"http://{host}", trust_env=False)

    def push(self, repository: str, tag: str, files: dict[str, bytes]) -> None:
        """Pushes an artifact with one layer for each file."""
        layers = [
            {**self._blob(repository, content), "annotations": {TITLE: title}}
            for title, content in files.items()
        ]
        config = self._blob(repository, b"{}") | {"mediaType": "application/vnd.oci.empty.v1+json"}
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": "application/vnd.test",
            "config": config,
            "layers": layers,
        }
        put = self._http.put(
            f"/v2/{repository}/manifests/{tag}",
            content=json.dumps(manifest),
            headers={"Content-Type": MANIFEST},
        )
        assert put.status_code == HTTPStatus.CREATED, put.text

    def _blob(self, repository: str, content: bytes) -> dict[str, str | int]:
        digest = f"sha256:{sha256(content)}"
        begun = self._http.post(f"/v2/{repository}/blobs/uploads/")
        assert begun.status_code == HTTPStatus.ACCEPTED, begun.text
        place = httpx.URL(urljoin(str(begun.url), begun.headers["Location"]))
        put = self._http.put(place.copy_add_param("digest", digest), content=content)
        assert put.status_code == HTTPStatus.CREATED, put.text
        return {"mediaType": "application/octet-stream", "digest": digest, "size": len(content)}

    def close(self) -> None:
        """Lets go of the connections."""
        self._http.close()


@contextmanager
def registry(servers: Path, folder: Path) -> Iterator[Registry]:
    """A registry that keeps its blobs in `folder`."""
    host = free_host()
    config = folder / "registry.yml"
    config.write_text(
        json.dumps(
            {
                "version": 0.1,
                "storage": {"filesystem": {"rootdirectory": str(folder / "blobs")}},
                "http": {"addr": host, "secret": "test"},
            }
        )
    )
    with running(host, servers / "registry", "serve", config):
        served = Registry(host)
        try:
            yield served
        finally:
            served.close()


@contextmanager
def object_store(servers: Path, folder: Path, *buckets: str) -> Iterator[str]:
    """An object store that takes one key, and nobody without it; its address."""
    host = free_host()
    objects, metadata = folder / "objects", folder / "metadata"
    metadata.mkdir()
    for bucket in buckets:
        (objects / bucket).mkdir(parents=True)
    keys = ("--access", "AKIDEXAMPLE", "--secret", "hunter2")
    command = (servers / "versitygw", "--quiet", *keys, "--port", host, "posix")
    with running(host, *command, "--sidecar", metadata, objects):
        yield f"http://{host}"
