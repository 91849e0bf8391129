"""`realm` on one machine: the words of a cluster, in a folder that a server follows."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from conftest import Serve
from harness.folder import MODEL, Folder, step
from harness.server import Server, realm
from harness.talk import QUESTIONS, answer
from harness.wait import eventually, raises
from realm_client import Client, NotAllowed, RealmError


@pytest.fixture(scope="module")
def server(serve: Serve) -> Server:
    def fill(folder: Folder) -> None:
        folder.tenant("acme")
        folder.pipeline("echo", ["acme"], step("only", "{{ inputs.text }}", tokens_max=4))

    return serve(fill)


def does(server: Server, *args: str) -> str:
    done = realm(*args, "--manifests", server.folder.path)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def test_a_tenant_made_suspended_and_resumed_on_the_command_line_is_served_so(
    server: Server,
) -> None:
    does(server, "tenant", "create", "made", "--weight", "7", "--model", MODEL)
    await server.says("tenant default/made: accepted, added in tenant-made.yaml")
    none = realm("api-key", "list", "--tenant", "made", "--manifests", server.folder.path)
    assert (none.returncode, none.stdout) == (0, "")
    assert none.stderr.startswith("no keys; ")
    key = does(server, "api-key", "create", "--tenant", "made", "--name", "laptop").strip()
    await server.says("secret default/made-keys: accepted, changed in default.made-keys.keys.yaml")
    client = Client(server.url, key)

    async def is_in() -> bool:
        try:
            return bool((await client.health()).status)
        except RealmError:
            return False

    await eventually(is_in, "the new tenant's key opens the door")
    assert await answer(client, QUESTIONS[0], max_tokens=2)
    does(server, "tenant", "suspend", "made")
    await server.says("tenant default/made: accepted, changed in tenant-made.yaml")
    refused = await raises(NotAllowed, client.health, "the tenant is suspended")
    assert refused.code == "suspended"
    assert does(server, "tenant", "list").splitlines()[2].split()[:5] == [
        *("default/made", "Valid", "yes", "7", "1")
    ]
    does(server, "tenant", "resume", "made")
    await eventually(is_in, "the tenant is back")
    await client.close()
    assert "problems    none" in does(server, "tenant", "show", "made")
    again = realm("tenant", "create", "made", "--manifests", server.folder.path)
    assert "Tenant default/made is there already" in again.stderr


def test_what_is_wrong_with_a_tenant_is_shown_where_it_stands(server: Server) -> None:
    does(server, "tenant", "create", "lost", "--model", "nowhere")
    shown = does(server, "tenant", "show", "lost")
    assert "UnknownModel" in shown
    assert "tenant-lost.yaml:" in shown
    server.folder.write("tenant-heavy.yaml", HEAVY)
    listed = realm("tenant", "list", "--manifests", server.folder.path)
    says = "tenant-heavy.yaml:5: spec.weight: `abc` is not a whole number from 0 to 4294967295"
    assert says in listed.stderr
    (server.folder.path / "tenant-heavy.yaml").unlink()
    (server.folder.path / "tenant-lost.yaml").unlink()


HEAVY = """\
apiVersion: realm.dev/v1alpha1
kind: Tenant
metadata: {name: heavy}
spec:
  weight: abc
"""


def test_models_and_pipelines_are_listed_by_the_names_of_their_manifests(
    server: Server, model: Path, tmp_path: Path
) -> None:
    home = ["--home", str(tmp_path)]
    header, row = does(server, "models", "list", *home).splitlines()
    assert header.split() == ["NAME", "STATE", "REPLICAS", "MODEL", "SIZE", "SHA256"]
    assert row.split()[:2] == [f"default/{MODEL}", "InPlace"]
    assert "llama 134M Q4_1" in row
    assert "architecture  llama" in does(server, "models", "info", MODEL, *home)
    stored = realm("models", "pull", model, "--home", tmp_path)
    assert stored.returncode == 0, stored.stderr
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    assert digest in stored.stdout
    row = does(server, "pipeline", "list").splitlines()[1]
    assert row.split() == ["default/echo", "Valid", "1", "text", "only", "acme"]


def test_a_pipeline_runs_through_the_door_of_this_machine(server: Server) -> None:
    where = ["--url", server.url, "--key", server.folder.key("acme")]
    done = realm("pipeline", "run", "echo", "--input", "text=hello", *where)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
