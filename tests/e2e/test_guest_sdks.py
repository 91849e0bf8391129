"""Programs in JavaScript, Python and Go, built with their toolchains and called with the model."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from conftest import Serve, from_environment
from harness.folder import Folder, Json
from harness.guests import guests, wardens
from harness.server import Server
from harness.talk import LONG_PROMPT, QUESTIONS, asked
from realm_client import Chunk, Client, InvalidRequest, NotFound, Reply, TextReply

#: An interpreter is compiled at each start of a server, and here by a debug build.
READY_S_MAX = 240.0

#: The most that a text stream may keep to itself: an answer that comes whole has one piece.
PIECES_MIN = 3

#: A word that the model answers the first question with.
SECRET = "Rayleigh"

SETTINGS = {
    "javascript": {"fields": "person, place"},
    "python": {"style": "Sum up the text in one short sentence."},
    "go": {"secrets": SECRET},
}

#: What is watched for in answers to `PROMPT`, by the name of the tenants that do.
WARDED: Mapping[str, Mapping[str, str]] = {
    "quiet": {},
    "redacts": {"redact": " the "},
    "bans": {"ban": "the"},
    "short": {"prompt-tokens": "2"},
    "ends": {"end": " the ", "redact": "Earth"},
    "only": {"only": "yes no"},
}

#: What of that the example in Rust has too.
RUST = {"quiet", "redacts", "bans", "short"}

PROMPT = "The sun is a star. The moon is"

FACTS = "Ada Lovelace was born in London."

TOPICS = ["people", "places"]

#: An object with one of the topics, and nothing else.
TOPIC = {
    "type": "object",
    "additionalProperties": False,
    "required": ["topic"],
    "properties": {"topic": {"enum": TOPICS}},
}


@pytest.fixture(scope="module")
def components() -> Mapping[str, Path]:
    cache = from_environment("REALM_TEST_NODE").parent / "guests"
    modules = from_environment("REALM_TEST_GUEST_NODE") / "node_modules"
    return {name: guest.component(cache) for name, guest in guests(modules).items()}


@pytest.fixture(scope="module")
def hooked(warden: Path) -> Mapping[str, Path]:
    """Programs with hooks that are to do the same in every language."""
    cache = from_environment("REALM_TEST_NODE").parent / "guests"
    modules = from_environment("REALM_TEST_GUEST_NODE") / "node_modules"
    built = {name: guest.component(cache) for name, guest in wardens(modules).items()}
    return {"rust": warden} | built


@pytest.fixture(scope="module")
def warded(serve: Serve, hooked: Mapping[str, Path]) -> Server:
    def fill(folder: Folder) -> None:
        folder.tenant("plain")
        for language, component in hooked.items():
            for name, config in WARDED.items():
                if language != "rust" or name in RUST:
                    program = {"sources": [component.as_uri()], "config": config}
                    folder.tenant(f"{language}-{name}", program=program)

    server = serve(fill, ready=False)
    for name in server.folder.objects:
        server.await_line(f"{name}: ready", READY_S_MAX)
    return server


@pytest.fixture(scope="module")
def server(serve: Serve, components: Mapping[str, Path]) -> Server:
    def fill(folder: Folder) -> None:
        folder.tenant("plain")
        for language, component in components.items():
            program = {"sources": [component.as_uri()], "config": SETTINGS[language]}
            folder.tenant(language, program=program)

    server = serve(fill, ready=False)
    for name in server.folder.objects:
        server.await_line(f"{name}: ready", READY_S_MAX)
    return server


async def heard(client: Client, function: str, params: Json) -> tuple[list[Chunk], Reply]:
    """The pieces of a call's reply, and its end."""
    async with client.call_stream(function, params) as stream:
        return [chunk async for chunk in stream], await stream.result()


async def test_a_program_in_javascript_streams_values_and_returns_their_whole(
    server: Server,
) -> None:
    async with server.client("javascript") as client:
        assert (await client.call("fields", {})).data == ["person", "place"]
        chunks, reply = await heard(client, "extract", {"text": FACTS})
    facts = reply.data
    assert [chunk.value for chunk in chunks] == [
        {"field": field, "value": facts[field]} for field in ("person", "place")
    ]
    assert reply.finish == "stop"
    for value in facts.values():
        assert value is None or value in FACTS


async def test_a_program_in_python_reads_a_text_part_by_part_and_streams_of_each(
    server: Server,
) -> None:
    long: Json = {"text": f"{LONG_PROMPT} {LONG_PROMPT}", "part_tokens": 160}
    async with server.client("python") as client:
        parts = (await client.call("parts", long)).data["parts"]
        chunks, reply = await heard(client, "summarise", long)
    lines = "".join(chunk.text or "" for chunk in chunks).splitlines()
    assert len(parts) > 1
    assert " ".join(parts).split() == long["text"].split()
    assert reply.data == {"parts": len(parts)}
    assert len(lines) == len(parts)
    assert all(re.match(r"- \S+ \S+", line) for line in lines)
    assert len(chunks) > len(parts) * PIECES_MIN
    assert reply.finish == "stop"


async def test_a_program_in_go_changes_an_answer_while_it_streams(server: Server) -> None:
    question: Json = {"messages": asked(QUESTIONS[0]), "max_tokens": 24, "temperature": 0}
    async with server.client("plain") as client:
        plain = await client.chat(**question)
    async with server.client("go") as client:
        clean = await client.call("redact", {"text": "Ask jo@example.org, or +49 30 123456."})
        chunks, reply = await heard(client, "chat", question)
    assert clean.data == {"text": "Ask [address], or [number]."}
    assert SECRET in plain.text
    assert "".join(chunk.text or "" for chunk in chunks) == plain.text.replace(SECRET, "[secret]")
    assert len(chunks) > PIECES_MIN
    assert reply.finish == plain.finish


@pytest.mark.parametrize(
    ("language", "function", "params"),
    [
        ("javascript", "extract", {"text": FACTS}),
        ("python", "summarise", {"text": FACTS}),
        ("go", "chat", {"messages": asked(FACTS)}),
    ],
)
async def test_refusals_of_host_and_program_reach_the_client_typed(
    server: Server, language: str, function: str, params: Json
) -> None:
    async with server.client(language) as client:
        with pytest.raises(InvalidRequest, match="unknown parameter `colour`"):
            await client.call(function, params | {"colour": "red"})
        with pytest.raises(NotFound) as hidden:
            await client.call(function, params | {"model": "other"})
        assert hidden.value.code == "unknown_model"
        with pytest.raises(NotFound):
            await client.call("generate", {"prompt": "Once"})


@pytest.mark.parametrize(
    ("language", "function", "params"),
    [
        ("javascript", "answer", {"text": FACTS, "question": "What is it about?"}),
        ("python", "summarise", {"text": FACTS}),
        ("go", "chat", {"messages": asked(FACTS)}),
    ],
)
async def test_an_answer_keeps_to_the_form_that_is_asked_of_a_program(
    server: Server, language: str, function: str, params: Json
) -> None:
    named = {"name": "topic", "strict": True, "schema": TOPIC}
    form = {"response_format": {"type": "json_schema", "json_schema": named}}
    async with server.client(language) as client:
        reply = await client.call(function, params | form)
        with pytest.raises(InvalidRequest, match=r"`response_format\.type` must be"):
            await client.call(function, params | {"response_format": {"type": "xml"}})
    answer = json.loads(reply.text.removeprefix("- "))
    assert list(answer) == ["topic"]
    assert answer["topic"] in TOPICS
    assert reply.finish == "stop"


async def test_what_is_asked_of_the_sampler_passes_through_a_program(server: Server) -> None:
    sampling = {"max_tokens": 6, "seed": 7, "logprobs": 2, "logit_bias": {"28": -100}, "top_k": 9}
    question: Json = {"messages": asked(QUESTIONS[1])} | sampling
    scored = []
    for tenant in ("plain", "go"):
        async with server.client(tenant) as client:
            chunks, _ = await heard(client, "chat", question)
        scored.append([each for chunk in chunks for each in chunk.logprobs])
    built_in, go = scored
    assert len(built_in) == 6
    assert [each.chosen.id for each in go] == [each.chosen.id for each in built_in]
    assert [len(each.top) for each in go] == [2] * 6


async def generated(server: Server, tenant: str) -> TextReply:
    async with server.client(tenant) as client:
        return await client.generate(PROMPT, max_tokens=48, temperature=0)


@pytest.mark.parametrize("name", sorted(RUST - {"short"}))
async def test_hooks_do_the_same_in_every_language(warded: Server, name: str) -> None:
    said = {
        language: await generated(warded, f"{language}-{name}")
        for language in ("rust", "javascript", "python", "go")
    }
    plain = await generated(warded, "plain")
    for language, reply in said.items():
        assert reply.text == said["rust"].text, language
        assert reply.finish == plain.finish, language
    text = said["rust"].text
    blotted = f"{plain.text.replace(' the ', '#####')} [{plain.text.count(' the ')} blotted out]"
    assert text == {"quiet": plain.text, "redacts": blotted}.get(name, text)
    if name == "bans":
        assert re.search(r"\bthe", plain.text)
        assert not re.search(r"\bthe", text)


async def test_whatever_is_asked_of_a_generation_passes_through_hooks(warded: Server) -> None:
    sampling = {"temperature": 0.9, "top_k": 9, "top_p": 0.9, "min_p": 0.01, "typical_p": 0.95}
    penalties = {"repetition_penalty": 1.1, "frequency_penalty": 0.1, "presence_penalty": 0.2}
    bounds = {"max_tokens": 12, "stop": ["\n\n", "zebra"], "logit_bias": {"28": -100}}
    form = {"response_format": {"type": "regex", "regex": "[ -~\n]+"}}
    draw = {"prompt": PROMPT, "seed": 2**40 + 7, "logprobs": 2}
    params: Json = draw | sampling | penalties | bounds | form
    said = {}
    for tenant in ("plain", "rust-quiet", "javascript-quiet", "python-quiet", "go-quiet"):
        async with warded.client(tenant) as client:
            chunks, reply = await heard(client, "generate", params)
        text = "".join(chunk.text or "" for chunk in chunks)
        scored = [each.chosen.id for chunk in chunks for each in chunk.logprobs]
        said[tenant] = (text, scored, reply.finish)
    assert len(said["plain"][1]) == 12
    assert all(each == said["plain"] for each in said.values()), said


@pytest.mark.parametrize("language", ["javascript", "python", "go"])
async def test_hooks_refuse_end_and_steer_an_answer_in_every_language(
    warded: Server, language: str
) -> None:
    with pytest.raises(InvalidRequest, match="the prompt has more than 2 tokens"):
        await generated(warded, f"{language}-short")
    plain = await generated(warded, "plain")
    ended = await generated(warded, f"{language}-ends")
    assert ended.text == plain.text[: plain.text.index(" the ")].replace("Earth", "#####")
    assert ended.finish == "stop"
    only = await generated(warded, f"{language}-only")
    assert re.fullmatch("( ?(yes|no))+", only.text)


async def test_a_program_in_go_keeps_a_tally_and_says_since_when(server: Server) -> None:
    async with server.client("go") as client:
        before = (await client.call("tally", {"reset": True})).data
        for _ in range(2):
            await client.call("redact", {"text": "Ask jo@example.org, or +49 30 123456."})
        tally = (await client.call("tally", {"reset": True})).data
        after = (await client.call("tally", {})).data
    ident, since = tally.pop("tally").split()
    assert tally == {"address": 2, "number": 2}
    assert re.fullmatch("[0-9a-f]{8}", ident)
    assert not before["tally"].startswith(ident), "no two tallies have the same id"
    began = datetime.fromisoformat(since)
    assert abs((datetime.now(UTC) - began).total_seconds()) < READY_S_MAX
    assert after == {"tally": ""}
