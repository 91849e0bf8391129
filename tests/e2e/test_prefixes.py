"""A program holds what many generations begin with: one text, several questions."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from conftest import Serve
from harness.folder import Folder, Json
from harness.server import Server
from harness.talk import LONG_PROMPT, answer
from realm_client import Busy, Client, InvalidRequest, Message, Usage

#: Tokens of a KV block.
BLOCK = 32

#: So many prefixes a tenant may keep of a model.
KEPT_MAX = 16

TOKENS = 12

QUESTIONS = ["Who mended nets?", "What did the boy carry?", "What rang at last?"]

ANSWERS: dict[str, Any] = {"max_tokens": TOKENS, "temperature": 0}


def text(of: str) -> str:
    """A text of some hundred tokens that no other test reads, from its first word on."""
    return f"{of}. {LONG_PROMPT * 3}"


def begun(read: str) -> list[Message]:
    """What the reader's conversations about a text begin with."""
    content = f"Answer questions about this text with words of it.\n\n{read}"
    return [{"role": "system", "content": content}]


@pytest.fixture(scope="module")
def server(serve: Serve, reader: Path, hostile: Path, model: Path) -> Server:
    def fill(folder: Folder) -> None:
        # Of which a flood of a few texts fills all, and the reader's texts a part.
        folder.model(model, context=2048, kvBlocks=64)
        program = {"sources": [reader.as_uri()]}
        folder.tenant("reader", program=program)
        folder.tenant("small", program=program, limits={"kvBlocks": 4})
        folder.tenant("mallory", program={"sources": [hostile.as_uri()]})
        folder.tenant("plain")

    return serve(fill)


@dataclass(frozen=True, slots=True)
class Read:
    """What a reader said."""

    answers: Sequence[str]
    #: Tokens of each answer's prompt that were in the cache.
    cached: Sequence[int]
    #: Tokens of the prefix.
    prefix: int
    usage: Usage


async def read(client: Client, function: str, of: str, questions: Sequence[str]) -> Read:
    params: Json = {"text": of, "questions": list(questions), **ANSWERS}
    async with client.call_stream(function, params) as stream:
        values = [chunk.value async for chunk in stream]
        reply = await stream.result()
    assert [value["question"] for value in values] == list(questions)
    assert reply.usage is not None
    answers, cached = ([value[key] for value in values] for key in ("answer", "cached"))
    return Read(answers, cached, reply.data["prefix"], reply.usage)


async def test_every_question_finds_the_text_and_is_answered_as_if_it_were_asked_alone(
    server: Server,
) -> None:
    of = text("Harbours")
    async with server.client("reader") as reader, server.client("plain") as plain:
        first = await read(reader, "ask", of, QUESTIONS)
        alone = [
            await plain.chat([*begun(of), {"role": "user", "content": question}], **ANSWERS)
            for question in QUESTIONS
        ]
        again = await read(reader, "ask", of, QUESTIONS[:1])
    assert first.answers == [reply.text for reply in alone]
    whole = first.prefix // BLOCK * BLOCK
    assert whole > 200
    assert all(cached == whole for cached in first.cached), first
    # It is computed once, in the words of the bill: with a token for the step that ends it.
    prompts = [reply.usage.prompt_tokens for reply in alone]
    written = [reply.usage.completion_tokens for reply in alone]
    assert first.usage == Usage(
        prompt_tokens=first.prefix + sum(prompts),
        cached_tokens=len(QUESTIONS) * whole,
        completion_tokens=1 + sum(written),
    )
    # The next call finds what is still there of it, as of any prompt.
    assert again.usage.cached_tokens >= 2 * whole - BLOCK


async def test_a_discussion_goes_on_from_what_was_said(server: Server) -> None:
    of = text("Boats")
    async with server.client("reader") as reader, server.client("plain") as plain:
        discussed = await read(reader, "discuss", of, QUESTIONS)
        messages = begun(of)
        for question, said in zip(QUESTIONS, discussed.answers, strict=True):
            messages.append({"role": "user", "content": question})
            assert (await plain.chat(messages, **ANSWERS)).text == said
            messages.append({"role": "assistant", "content": said})
    assert discussed.cached[0] == discussed.prefix // BLOCK * BLOCK
    assert list(discussed.cached) == sorted(discussed.cached)
    assert discussed.cached[-1] > discussed.cached[0], "what was said is kept as well"


async def test_a_text_that_is_held_stays_whatever_others_and_its_own_tenant_compute(
    server: Server,
) -> None:
    of = text("Bells")
    async with server.client("reader") as reader, server.client("plain") as plain:

        async def flood() -> None:
            for number in range(8):
                await answer(plain, text(f"Flood {number}"), max_tokens=1)

        async def own(name: str) -> None:
            for number in range(5):
                await read(reader, "ask", text(f"{name} {number}"), QUESTIONS[:1])

        held, *_ = await asyncio.gather(
            read(reader, "discuss", of, QUESTIONS * 2), flood(), own("Other")
        )
        # Nobody holds it any more, and its tenant's own texts push it out.
        await own("Later")
        later = await read(reader, "ask", of, QUESTIONS[:1])
    whole = held.prefix // BLOCK * BLOCK
    assert all(cached >= whole for cached in held.cached), held
    assert later.usage.cached_tokens == whole, "the question finds what was computed anew"


async def test_who_keeps_more_than_it_may_is_refused_and_all_is_freed_with_the_call(
    server: Server,
) -> None:
    async with server.client("mallory") as mallory, server.client("reader") as reader:
        for _ in range(2):
            kept: list[Json] = []
            with pytest.raises(Busy):
                async with mallory.call_stream("hoard_prefixes", {}) as stream:
                    async for chunk in stream:
                        kept.append(chunk.value)
            assert kept == [KEPT_MAX]
        assert (await read(reader, "ask", text("Quays"), QUESTIONS[:1])).answers
    async with server.client("small") as small:
        with pytest.raises(InvalidRequest) as refused:
            await read(small, "ask", text("Gulls"), QUESTIONS[:1])
        assert refused.value.code == "too_long"
