"""Who gets in, and what a key never reaches."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from conftest import Serve
from harness.folder import Folder, entry, new_key, step
from harness.raw import raw
from harness.server import Server, realm
from harness.talk import LONG_PROMPT, QUESTIONS, answer, stream
from harness.wait import eventually, raises
from realm_client import Client, NotAllowed, NotFound, Unauthenticated

BAD = {kind: new_key() for kind in ("disabled", "expired", "wrong", "removed")}
FUTURE = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
SOON = new_key()


def fill(folder: Folder) -> None:
    folder.tenant("acme", apiKeys=[{"secretName": "acme-keys"}, {"secretName": "acme-more"}])
    folder.tenant("zeta")
    folder.tenant("frozen", suspended=True)
    folder.tenant("cli", apiKeys=[{"secretName": "cli-made"}])
    folder.pipeline("secret", ["acme"], step("only", "{{ inputs.text }}", tokens_max=4))
    folder.secret(
        "acme-more",
        {
            "disabled": entry(BAD["disabled"], disabled=True),
            "expired": entry(BAD["expired"], expiresAt="2020-01-01T00:00:00Z"),
            "future": entry(SOON, expiresAt=FUTURE),
        },
    )


@pytest.fixture(scope="module")
def server(serve: Serve) -> Server:
    return serve(fill)


async def test_wrong_revoked_and_expired_keys_are_refused_alike_at_every_door(
    server: Server,
) -> None:
    answers = {kind: await every_refusal(server, key) for kind, key in BAD.items()}
    first = answers["wrong"]
    assert [status for status, *_ in first] == [401, 401, 401, 4401]
    for kind, got in answers.items():
        assert got == first, kind
    for key in (SOON, server.folder.key("acme")):
        async with Client(server.url, key) as client:
            assert client.tenant == "default/acme"


async def every_refusal(server: Server, key: str) -> list[tuple[Any, ...]]:
    """Status, headers and body of a key's refusal: two HTTP doors, upgrade, first frame."""
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(trust_env=False, headers=headers) as client:
        models = await client.get(f"{server.http}/models")
        chat = await client.post(f"{server.http}/chat/completions", json={"nonsense": 1})
    refusals: list[tuple[Any, ...]] = [
        (answer.status_code, undated(answer.headers), answer.content) for answer in (models, chat)
    ]
    with pytest.raises(InvalidStatus) as upgrade:
        async with raw(server.url, key):
            raise AssertionError("the key opened the door")
    response = upgrade.value.response
    refusals.append((response.status_code, undated(response.headers), response.body))
    async with raw(server.url) as stranger:
        await stranger.send({"type": "auth", "api_key": key})
        frame = await stranger.frame()
        refusals.append((await stranger.closed(), frame))
    return refusals


def undated(headers: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items() if name.lower() != "date"}


async def test_the_client_says_which_family_of_refusal_it_was(server: Server) -> None:
    for send_key in ("header", "first_frame"):
        with pytest.raises(Unauthenticated):
            await Client(server.url, BAD["expired"], send_key=send_key).connect()
    with pytest.raises(NotAllowed) as suspended:
        async with server.client("frozen") as client:
            await client.health()
    assert suspended.value.code == "suspended"


async def test_a_key_in_the_first_frame_opens_the_same_door(server: Server) -> None:
    async with server.client("acme", send_key="first_frame") as client:
        assert client.tenant == "default/acme"
        assert await answer(client, QUESTIONS[0], max_tokens=2)


async def test_one_tenants_key_never_reaches_anothers_pipeline(server: Server) -> None:
    async with server.client("zeta") as client:
        assert list((await client.metadata()).pipelines) == []
        refused = []
        for name in ("secret", "absent"):
            with pytest.raises(NotFound) as unknown:
                await client.pipeline(name, {"text": "x"})
            refused.append((unknown.value.code, unknown.value.message.replace(name, "it")))
    assert refused[0] == refused[1]
    async with server.client("acme") as client:
        assert list((await client.metadata()).pipelines) == ["secret"]
        assert (await client.pipeline("secret", {"text": "x"})).outputs.keys() == {"only"}


async def test_one_tenants_prompt_is_never_cached_for_another(server: Server) -> None:
    async def cached_tokens(tenant: str) -> int:
        async with server.client(tenant) as client:
            reply = await client.generate(LONG_PROMPT, max_tokens=2, temperature=0)
        assert reply.usage.cached_tokens < reply.usage.prompt_tokens
        return reply.usage.cached_tokens

    assert await cached_tokens("acme") == 0
    own = await cached_tokens("acme")
    assert own >= 32
    assert await cached_tokens("zeta") == 0
    assert await cached_tokens("acme") == own
    assert await cached_tokens("zeta") == own


async def test_keys_made_and_revoked_on_the_command_line_act_on_the_running_server(
    server: Server,
) -> None:
    where = ["--manifests", str(server.folder.path), "--tenant", "cli"]
    made = realm("api-key", "create", *where, "--name", "laptop", "--expires", "90d")
    assert made.returncode == 0, made.stderr
    key = made.stdout.strip()
    assert re.fullmatch(r"rk_[\w-]{43}", key)
    assert realm("api-key", "create", *where, "--name", "phone").returncode == 0
    again = realm("api-key", "create", *where, "--name", "phone")
    assert again.returncode != 0
    assert "phone" in again.stderr

    listed = realm("api-key", "list", *where)
    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["laptop", "phone"]
    assert key not in listed.stdout
    assert not any(key in path.read_text() for path in server.folder.path.glob("*.yaml"))

    client = Client(server.url, key)

    async def is_in() -> bool:
        try:
            await client.connect()
        except Unauthenticated:
            return False
        return True

    await eventually(is_in, "the new key opens the door")
    assert await answer(client, QUESTIONS[0], max_tokens=2)
    assert realm("api-key", "revoke", *where, "--name", "laptop").returncode == 0
    await raises(Unauthenticated, client.health, "the revoked key is refused on its open socket")
    await client.close()
    gone = realm("api-key", "revoke", *where, "--name", "laptop")
    assert gone.returncode != 0
    assert "laptop" in gone.stderr


async def test_a_tenant_that_is_suspended_while_it_streams_gets_no_new_call(
    server: Server,
) -> None:
    server.folder.tenant("pause")
    await server.says("tenant default/pause: ready")
    async with server.client("pause") as client:
        await stream(client, QUESTIONS[3], max_tokens=4)
        server.folder.tenant("pause", suspended=True)
        suspended = await raises(NotAllowed, client.health, "the tenant is suspended")
        assert suspended.code == "suspended"
        server.folder.tenant("pause")

        async def is_back() -> bool:
            try:
                return (await client.health()).status == "ok"
            except NotAllowed:
                return False

        await eventually(is_back, "the tenant is back")
    server.folder.remove("tenant-pause.yaml")
