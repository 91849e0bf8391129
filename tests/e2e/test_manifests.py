"""The folder is the truth: what changes in it takes effect, what breaks in it breaks nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import Serve
from harness.folder import MODEL, Folder, step
from harness.server import Server
from harness.talk import QUESTIONS, answer, asked
from harness.wait import eventually, raises
from realm_client import Client, InvalidRequest, NotFound, Unauthenticated

#: A model of its own for the test that removes one.
SPARE = "spare"


@pytest.fixture(scope="module")
def server(serve: Serve, model: Path) -> Server:
    def fill(folder: Folder) -> None:
        folder.tenant("acme")
        folder.tenant("limited")
        folder.tenant("grower", models=[MODEL, SPARE])
        folder.model(model, SPARE)
        folder.pipeline("echo", ["acme"], step("only", "{{ inputs.text }}", tokens_max=4))
        folder.pipeline("gone", ["grower"], step("only", "{{ inputs.text }}", tokens_max=4))

    return serve(fill)


async def test_a_changed_limit_takes_effect_while_running(server: Server) -> None:
    async with server.client("limited") as client:
        prompt = "word " * 100
        assert (await client.generate(prompt, max_tokens=1)).usage.prompt_tokens >= 100
        server.folder.tenant("limited", limits={"context": 50})

        async def ask() -> object:
            return await client.generate(prompt, max_tokens=1)

        refused = await raises(InvalidRequest, ask, "the context is smaller")
        assert refused.code == "too_long"
        assert "50" in refused.message


async def test_an_added_and_a_removed_file_take_effect_while_running(server: Server) -> None:
    key = server.folder.tenant("late")
    await server.says("tenant default/late: ready")
    client = Client(server.url, key)
    assert await answer(client, QUESTIONS[0], max_tokens=2)
    server.folder.remove("tenant-late.yaml")
    await raises(Unauthenticated, client.health, "the tenant is gone")
    await client.close()
    async with server.client("grower") as client:
        server.folder.remove("pipeline-gone.yaml")

        async def ask() -> object:
            return await client.pipeline("gone", {"text": "x"})

        gone = await raises(NotFound, ask, "the pipeline is gone")
        assert gone.code == "unknown_pipeline"
        server.folder.remove(f"model-{SPARE}.yaml")

        async def chat() -> object:
            return await client.chat(asked(QUESTIONS[0]), model=SPARE, max_tokens=1)

        absent = await raises(NotFound, chat, "the model is gone")
        assert absent.code == "unknown_model"
        assert await answer(client, QUESTIONS[0], max_tokens=2)


BROKEN = {
    "spec.weigth": """\
apiVersion: realm.dev/v1alpha1
kind: Tenant
metadata: {name: acme}
spec:
  models: [{name: smollm2}]
  apiKeys: [{secretName: acme-keys}]
  weigth: 5
""",
    "spec.weight": """\
apiVersion: realm.dev/v1alpha1
kind: Tenant
metadata: {name: acme}
spec:
  models: [{name: smollm2}]
  apiKeys: [{secretName: acme-keys}]
  weight: 0
""",
    "YAML": """\
apiVersion: realm.dev/v1alpha1
kind: Tenant
metadata: {name: acme}
spec:
  models: [{name: smollm2}]
  apiKeys: [{secretName: acme-keys}]
  limits: {calls: 3
""",
}


@pytest.mark.parametrize("what", BROKEN)
async def test_a_broken_manifest_is_told_with_file_and_line_and_the_last_good_one_serves_on(
    server: Server, what: str
) -> None:
    file = "tenant-acme.yaml"
    good = (server.folder.path / file).read_text()
    secret = good.split("---\n", 1)[1]
    async with server.client("acme") as client:
        expected = await answer(client, QUESTIONS[0])
        server.folder.write(file, f"{BROKEN[what]}---\n{secret}")
        told = await server.says(rf"{file}:\d+: ")
        line = int(told.split(f"{file}:")[1].split(":")[0])
        # A syntax error may show only where the next line begins.
        assert line in ({7, 8} if what == "YAML" else {7}), told
        if what != "YAML":
            assert what.removeprefix("spec.") in told
        assert await answer(client, QUESTIONS[0]) == expected
        server.folder.write(file, good.replace("name: acme\n", "name: acme\n  labels: {a: b}\n", 1))
        await server.says(rf"solved: .*{file}:{line}: ")
        assert await answer(client, QUESTIONS[0]) == expected


async def test_one_broken_object_stops_no_other_change(server: Server) -> None:
    server.folder.write("broken.yaml", "kind: [\n")
    await server.says(r"(^|\W)broken\.yaml:\d+: ")
    key = server.folder.tenant("newcomer")
    await server.says("tenant default/newcomer: ready")
    async with Client(server.url, key) as client:
        assert await answer(client, QUESTIONS[0], max_tokens=2)
    (server.folder.path / "broken.yaml").unlink()
    await server.says(r"solved: broken\.yaml")


async def test_what_a_pipeline_may_not_be_is_told_with_its_line(server: Server) -> None:
    cycle = (
        step("one", "{{ steps.two }}", tokens_max=4),
        step("two", "{{ steps.one }}", tokens_max=4),
    )
    server.folder.pipeline("cyclic", ["acme"], *cycle)
    assert "steps" in await server.says(r"pipeline-cyclic\.yaml:\d+: ")
    nowhere = step("only", "{{ inputs.txt }}", tokens_max=4)
    server.folder.pipeline("typo", ["acme"], nowhere)
    assert "txt" in await server.says(r"pipeline-typo\.yaml:\d+: ")
    lost = step("only", "x", tokens_max=4) | {"model": {"name": "nothing"}}
    server.folder.pipeline("lost", ["acme"], lost)
    assert "nothing" in await server.says(r"pipeline-lost\.yaml:\d+: ")
    async with server.client("acme") as client:
        assert list((await client.metadata()).pipelines) == ["echo"]


async def test_two_files_with_the_same_object_are_told_and_the_first_serves_on(
    server: Server,
) -> None:
    text = (server.folder.path / "tenant-acme.yaml").read_text()
    server.folder.write("twin.yaml", text)
    told = await server.says(r"(twin|tenant-acme)\.yaml:\d+: .*also in")
    assert "acme" in told
    async with server.client("acme") as client:
        assert await answer(client, QUESTIONS[0], max_tokens=2)
    (server.folder.path / "twin.yaml").unlink()
    await server.says("solved: .*also in")


async def test_a_pipeline_that_changes_answers_anew(server: Server) -> None:
    async with server.client("acme") as client:
        assert (await client.pipeline("echo", {"text": "Say hello"})).outputs.keys() == {"only"}
        server.folder.pipeline("echo", ["acme"], step("other", "{{ inputs.text }}", tokens_max=4))

        async def is_new() -> bool:
            reply = await client.pipeline("echo", {"text": "Say hello"})
            return reply.outputs.keys() == {"other"}

        await eventually(is_new, "the pipeline is the new one")
