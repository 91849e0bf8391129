"""Answers that keep to a form: a real model, every door, and grammars that are made to hurt."""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import Any

import openai
import pytest

from conftest import Serve
from harness.folder import Folder, new_key
from harness.server import Server
from harness.talk import QUESTIONS, answer, asked
from realm_client import Client, InvalidRequest, ResponseFormat

KEY, OTHER = new_key(), new_key()

PERSON: dict[str, Any] = {
    "type": "object",
    "required": ["name", "age", "hobbies"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "maxLength": 30},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "hobbies": {"type": "array", "maxItems": 3, "items": {"enum": ["chess", "golf", "tea"]}},
    },
}

ASKED = asked("Invent a person and describe them.")

#: Seconds that a refusal may take on a machine that runs other tests: compiling is bounded by work,
#: a second or two at its worst.
REFUSED_S = 20


@pytest.fixture(scope="module")
def server(serve: Serve) -> Server:
    def fill(folder: Folder) -> None:
        folder.tenant("acme", key=KEY)
        folder.tenant("other", key=OTHER)

    return serve(fill)


def schema(schema: dict[str, Any]) -> ResponseFormat:
    return {"type": "json_schema", "json_schema": {"name": "it", "schema": schema, "strict": True}}


def check_person(text: str) -> None:
    person = json.loads(text)
    assert list(person) == ["name", "age", "hobbies"], "in the schema's order"
    assert len(str(person["name"])) <= 30
    assert int(person["age"]) in range(151)
    assert len(person["hobbies"]) <= 3
    assert set(person["hobbies"]) <= {"chess", "golf", "tea"}


async def test_an_answer_is_of_its_schema_whatever_is_drawn(server: Server) -> None:
    async with Client(server.url, KEY) as client:
        for temperature in (0, 1, 2):
            reply = await client.chat(
                ASKED, max_tokens=400, temperature=temperature, response_format=schema(PERSON)
            )
            assert reply.finish == "stop"
            check_person(reply.text)


async def test_a_stream_has_the_same_tokens_and_the_same_end(server: Server) -> None:
    settings: dict[str, Any] = {"max_tokens": 400, "temperature": 1, "seed": 7}
    async with Client(server.url, KEY) as client:
        whole = await client.chat(ASKED, response_format=schema(PERSON), **settings)
        stream = client.chat_stream(ASKED, response_format=schema(PERSON), **settings)
        text = "".join([chunk.text async for chunk in stream if chunk.text])
        assert text == whole.text
        check_person(text)


async def test_expressions_grammars_and_any_object_are_kept_to(server: Server) -> None:
    async with Client(server.url, KEY) as client:
        date = r"[0-9]{4}-(0[1-9]|1[0-2])-[0-3][0-9]"
        formatted = await client.generate(
            "The moon landing was on ", response_format={"type": "regex", "regex": date}
        )
        assert re.fullmatch(date, formatted.text), formatted.text
        rules = 'start: N ("+" N)~2\nN: /[1-9][0-9]?/'
        total = await client.generate(
            "A sum: ", response_format={"type": "grammar", "grammar": rules}
        )
        assert re.fullmatch(r"[1-9][0-9]?(\+[1-9][0-9]?){2}", total.text), total.text
        anything = await client.chat(
            ASKED, max_tokens=500, temperature=0, response_format={"type": "json_object"}
        )
        assert anything.text.startswith("{")
        if anything.finish == "stop":
            assert isinstance(json.loads(anything.text), dict)


async def test_the_official_client_gets_its_schema_and_its_errors(server: Server) -> None:
    http = openai.DefaultAsyncHttpxClient(trust_env=False)
    client = openai.AsyncOpenAI(base_url=server.http, api_key=KEY, max_retries=0, http_client=http)
    messages: Any = [{"role": "user", "content": "Invent a person."}]

    async def create(response_format: Any, **more: Any) -> Any:
        return await client.chat.completions.create(
            model="smollm2",
            messages=messages,
            max_tokens=400,
            temperature=1,
            response_format=response_format,
            **more,
        )

    completion = await create(schema(PERSON))
    assert completion.choices[0].finish_reason == "stop"
    check_person(completion.choices[0].message.content)
    pieces = [
        chunk.choices[0].delta.content or ""
        async for chunk in await create(schema(PERSON), stream=True)
        if chunk.choices
    ]
    check_person("".join(pieces))
    for wrong, said in [
        ({"type": "xml"}, "response_format.type"),
        (schema({"type": "strin"}), "strin"),
        ({"type": "regex", "regex": "("}, "unclosed"),
    ]:
        with pytest.raises(openai.BadRequestError, match=re.escape(said)):
            await create(wrong)
    await client.close()


HOSTILE: dict[str, ResponseFormat] = {
    "deep": {
        "type": "json_schema",
        "json_schema": {"schema": json.loads('{"items":' * 60 + "{}" + "}" * 60)},
    },
    "recursive": schema({"allOf": [{"$ref": "#"}, {"type": "object"}]}),
    "patterns": schema({"patternProperties": {f"^(a|b)*{n}(a|b){{20}}$": {} for n in range(900)}}),
    "huge": {"type": "regex", "regex": "\\p{L}" * 13000},
    "nested": {"type": "regex", "regex": "(" * 30000 + "a" + ")" * 30000},
    "repeats": {"type": "regex", "regex": "((a{1,1000}){1,1000}){1,1000}b"},
    "alternatives": {"type": "regex", "regex": "(a|b)*a(a|b){4000}c"},
    "rules": {"type": "grammar", "grammar": "start: " + "[" * 30000},
    "repeated rules": {"type": "grammar", "grammar": 'start: a{1000000}\na: "x" a?'},
}


async def test_hostile_forms_end_in_time_while_another_tenant_streams_on(server: Server) -> None:
    async with Client(server.url, OTHER) as neighbour, Client(server.url, KEY) as hostile:
        alone = await answer(neighbour, QUESTIONS[0])

        async def ask(name: str) -> str:
            started = time.monotonic()
            try:
                reply = await hostile.generate(
                    "a", max_tokens=20, response_format=HOSTILE[name], deadline_s=60
                )
                outcome = f"{reply.finish}"
            except InvalidRequest as refused:
                outcome = str(refused)
            took = time.monotonic() - started
            assert took < REFUSED_S, f"{name} took {took:.1f} s: {outcome}"
            return outcome

        async def flood() -> list[str]:
            return await asyncio.gather(*(ask(name) for name in HOSTILE))

        flooding = asyncio.create_task(flood())
        answers = [await answer(neighbour, QUESTIONS[0])]
        while not flooding.done():
            answers.append(await answer(neighbour, QUESTIONS[0]))
        outcomes = dict(zip(HOSTILE, await flooding, strict=True))
        assert set(answers) == {alone}
        for name in ["recursive", "patterns", "nested", "rules"]:
            assert "response_format" in outcomes[name], name
