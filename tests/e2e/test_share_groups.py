"""What tenants of a share group have of each other's cache, and that nobody else has it."""

from __future__ import annotations

import httpx
import pytest

from conftest import Serve
from harness.folder import MODEL, Folder, Json
from harness.server import Server
from harness.talk import LONG_PROMPT, asked
from harness.wait import eventually
from realm_client import RealmError


def system(test: str) -> str:
    """A system prompt of a test's own: what another test has computed is of no use to it."""
    return f"You are the {test} desk of the city library. {LONG_PROMPT}"


#: As long as the system prompt, so that a tail which were shared would show.
QUESTION = f"What may I borrow, and for how long? {LONG_PROMPT}"

SHARES = {"config": {"shared_prefix": "system"}}


def fill(folder: Folder) -> None:
    for name in ("first", "second", "leaver"):
        folder.tenant(name, cache={"shareGroup": "support"}, program=SHARES)
    folder.tenant("secret", cache={"shareGroup": "support"})
    folder.tenant("stranger", program=SHARES)
    folder.tenant("other", cache={"shareGroup": "first"}, program=SHARES)
    folder.tenant("wrong", program={"config": {"shared_prefix": "all"}})


@pytest.fixture(scope="module")
def server(serve: Serve) -> Server:
    return serve(fill)


async def cached(server: Server, tenant: str, test: str, question: str = QUESTION) -> int:
    """Tokens of a chat's prompt that were in the cache."""
    async with server.client(tenant) as client:
        chat = asked(question, system(test))
        reply = await client.chat(chat, max_tokens=1, temperature=0)
    return reply.usage.cached_tokens


async def test_a_member_finds_the_system_prompt_of_another_and_nothing_behind_it(
    server: Server,
) -> None:
    async with server.client("first") as client:
        public = len((await client.tokenize(system("support"))).tokens)
    assert await cached(server, "first", "support") == 0
    whole = await cached(server, "first", "support")
    assert whole > public + 32, "its own cache holds the question as well"
    shared = await cached(server, "second", "support")
    # The template adds some tokens, and what fills no block is no part of it.
    assert public - 64 < shared < public + 32
    assert await cached(server, "second", "support") == whole, "what it computed itself is its own"
    assert await cached(server, "second", "support", f"{QUESTION} Please.") > shared


async def test_openais_clients_share_without_a_word(server: Server) -> None:
    await cached(server, "first", "front")
    body: Json = {
        "model": MODEL,
        "max_tokens": 1,
        "messages": [
            {"role": "system", "content": system("front")},
            {"role": "user", "content": "Where is the library?"},
        ],
    }
    headers = {"Authorization": f"Bearer {server.folder.key('second')}"}
    async with httpx.AsyncClient(trust_env=False, headers=headers, timeout=60) as http:
        answered = await http.post(f"{server.http}/chat/completions", json=body)
    details = answered.json()["usage"]["prompt_tokens_details"]
    assert details["cached_tokens"] > 0


async def test_who_is_in_no_group_or_another_or_makes_nothing_public_finds_nothing(
    server: Server,
) -> None:
    await cached(server, "first", "loan")
    for tenant in ("stranger", "other", "secret"):
        assert await cached(server, tenant, "loan") == 0, tenant


async def test_who_leaves_the_group_loses_what_is_public_there_with_its_next_call(
    server: Server,
) -> None:
    await cached(server, "first", "return")
    assert await cached(server, "leaver", "return", "In short?") > 0
    server.folder.tenant("leaver", program=SHARES)

    async def has_left() -> bool:
        return await cached(server, "leaver", "return", "In short?") == 0

    await eventually(has_left, "it finds nothing of the group")


async def test_a_setting_that_says_nothing_known_is_an_error_of_the_program(
    server: Server,
) -> None:
    async with server.client("wrong") as client:
        with pytest.raises(RealmError) as failed:
            await client.chat(asked("Hello?"), max_tokens=1)
    assert "`shared_prefix` must be `system` or `none`" in str(failed.value)
