"""Programs that stand beside their own generations, with a real model in the batch."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from conftest import Serve
from harness.folder import Folder
from harness.server import Server
from harness.talk import QUESTIONS, answer
from realm_client import InvalidRequest, ProgramError, TextReply

#: The same answer every time.
GREEDY: Any = {"max_tokens": 48, "temperature": 0}

PROMPT = "The sun is a star. The moon is"

#: Ends soon; a token waits no longer than a moment.
LIMITS = {"tokenFuel": 400_000_000, "tokenDeadlineMs": 5}


@pytest.fixture(scope="module")
def server(serve: Serve, warden: Path, hostile_hooks: Path) -> Server:
    def fill(folder: Folder) -> None:
        folder.tenant("victim")
        folder.tenant("plain", program={"sources": [warden.as_uri()]})
        for name in ("loop", "million_biases", "megabytes", "slow"):
            attack = {"sources": [hostile_hooks.as_uri()], "config": {"attack": name}}
            limits = {"program": LIMITS}
            folder.tenant(name.replace("_", "-"), program=attack, limits=limits)

    return serve(fill)


async def generated(server: Server, tenant: str, prompt: str = PROMPT) -> TextReply:
    async with server.client(tenant) as client:
        return await client.generate(prompt, **GREEDY)


async def warded(server: Server, warden: Path, name: str, config: dict[str, str]) -> None:
    """A tenant whose program is the warden, with these settings."""
    server.folder.tenant(name, program={"sources": [warden.as_uri()], "config": config})
    await server.says(f"tenant default/{name}: ready")


async def test_a_word_is_blotted_out_of_a_stream_and_another_never_said(
    server: Server, warden: Path
) -> None:
    plain = (await generated(server, "plain")).text
    assert plain == (await generated(server, "victim")).text, "without settings it changes nothing"
    word = max(re.findall(r"[a-z]{3,}", plain), key=len)

    await warded(server, warden, "redacts", {"redact": word})
    blotted = plain.replace(word, "#" * len(word))
    text = (await generated(server, "redacts")).text
    assert text == f"{blotted} [{plain.count(word)} blotted out]"

    await warded(server, warden, "bans", {"ban": word})
    banned = (await generated(server, "bans")).text
    assert word not in banned
    assert banned != plain

    await warded(server, warden, "short", {"prompt-tokens": "2"})
    with pytest.raises(InvalidRequest, match="more than 2 tokens"):
        await generated(server, "short")


async def test_hooks_that_attack_end_their_own_answer_while_another_tenant_streams_on(
    server: Server,
) -> None:
    expected = await generated(server, "victim")
    codes = {
        "loop": "program_fuel",
        "million-biases": "program_failed",
        "megabytes": "program_failed",
    }
    for tenant, code in codes.items():
        async with server.client("victim") as client:
            neighbour = asyncio.create_task(answer(client, QUESTIONS[0]))
            with pytest.raises(ProgramError) as caught:
                await generated(server, tenant)
            assert caught.value.code == code, tenant
            await neighbour
    assert (await generated(server, "victim")).text == expected.text


async def test_a_hook_that_is_always_late_is_counted_and_loses_no_token(server: Server) -> None:
    plain = await generated(server, "victim")
    async with server.client("slow") as client:
        reply = await client.call("generate", {"prompt": PROMPT, "max_tokens": 24})
    assert reply.text
    assert plain.text.startswith(reply.text)
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 24
    late = server.metrics().value(
        "realm_program_hook_overruns_total", tenant="default/slow", pipeline="-"
    )
    assert late > 0
