"""`realm models pull` from real servers, and what it says when they do not give the file."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import Serve, from_environment
from harness.folder import MODEL as MODEL_NAME
from harness.folder import Folder
from harness.server import realm
from harness.sources import Registry, object_store, registry, sha256
from harness.talk import QUESTIONS, answer
from realm_client import Busy

#: More than one write of the store, so that there is something to be wrong about.
MODEL = bytes(range(256)) * 8192

REPOSITORY = "org/my-models"


@pytest.fixture(scope="session")
def servers() -> Path:
    """The folder with the servers' programs."""
    return from_environment("REALM_TEST_SERVERS")


@pytest.fixture(scope="module")
def pushed(servers: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry that holds the model beside a file that is none."""
    with registry(servers, tmp_path_factory.mktemp("registry")) as served:
        served.push(REPOSITORY, "v1", {"README.md": b"read", "model.gguf": MODEL})
        yield served


def pull(home: Path, source: str, digest: str) -> subprocess.CompletedProcess[str]:
    """Pulls a source into the store of a home of its own."""
    return realm("models", "pull", source, "--sha256", digest, "--home", home)


@pytest.mark.parametrize("rest", [":v1", ":v1#model.gguf"])
def test_a_layer_is_pulled_from_a_registry(pushed: Registry, tmp_path: Path, rest: str) -> None:
    pulled = pull(tmp_path, f"oci://{pushed.host}/{REPOSITORY}{rest}", sha256(MODEL))
    assert pulled.returncode == 0, pulled.stderr
    digest, size, path = pulled.stdout.split("  ")
    assert (digest, size) == (sha256(MODEL), f"{len(MODEL)} bytes")
    assert Path(path.strip()).read_bytes() == MODEL


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        (":v1#README.md", "the layer has sha256"),
        (":v1#absent.gguf", "README.md, model.gguf"),
        (":v2", "not found"),
    ],
)
def test_a_layer_that_is_not_the_model_is_not_pulled(
    pushed: Registry, tmp_path: Path, rest: str, said: str
) -> None:
    refused = pull(tmp_path, f"oci://{pushed.host}/{REPOSITORY}{rest}", sha256(MODEL))
    assert refused.returncode != 0
    assert said in refused.stderr
    assert not list(tmp_path.rglob("blobs/sha256/*"))


def test_a_private_object_is_refused_to_who_shows_no_keys(servers: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    with object_store(servers, store, "models") as endpoint:
        source = f"s3://models/model.gguf?endpoint={endpoint}"
        refused = pull(tmp_path / "home", source, sha256(MODEL))
    assert refused.returncode != 0
    assert "not authorised (HTTP 403)" in refused.stderr
    assert "endpoint" not in refused.stderr, "a query may hold a secret"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("pvc://claim/model.gguf", "is for a cluster"),
        ("configmap://models/model.gguf", "is for a cluster"),
        ("s3://models/model.gguf?endpoint=http://10.0.0.1", "plain http"),
        ("hf://org/model.gguf", "hf://org/repo[@revision]/path"),
        ("ftp://host/model.gguf", "file, https, hf, s3, oci, pvc, configmap and pip"),
    ],
)
def test_a_source_that_may_not_be_used_is_refused(tmp_path: Path, source: str, said: str) -> None:
    refused = pull(tmp_path, source, sha256(MODEL))
    assert refused.returncode != 0
    assert said in refused.stderr


async def test_a_tenants_program_comes_from_a_registry_by_its_digest(
    pushed: Registry, serve: Serve, pirate: Path
) -> None:
    program = pirate.read_bytes()
    pushed.push("org/programs", "v1", {"pirate.wasm": program, "other.wasm": b"none"})
    source = f"oci://{pushed.host}/org/programs:v1"

    def fill(folder: Folder) -> None:
        own = {"sources": [f"{source}#pirate.wasm"], "sha256": sha256(program)}
        folder.tenant("pirate", program=own)
        wrong = {"sources": [f"{source}#other.wasm"], "sha256": sha256(b"another")}
        folder.tenant("mallory", program=wrong)
        folder.tenant("plain")

    server = serve(fill, ready=False)
    await server.says("tenant default/pirate: ready")
    told = await server.says("tenant default/mallory: failed, DigestMismatch: ")
    assert sha256(b"none") in told
    await server.says(f"model default/{MODEL_NAME}: ready")
    texts = []
    for tenant in ("pirate", "plain"):
        async with server.client(tenant) as client:
            texts.append(await answer(client, QUESTIONS[0], max_tokens=8))
    assert texts[0] == texts[0].upper() != texts[1], "it is its own program that answers"
    async with server.client("mallory") as client:
        with pytest.raises(Busy) as refused:
            await answer(client, QUESTIONS[0], max_tokens=1)
    assert refused.value.code == "program_not_ready"
