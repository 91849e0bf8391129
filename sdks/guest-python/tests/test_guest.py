"""What every program has of the SDK."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from componentize_py_types import Err
from wit_world.exports.handler import Request
from wit_world.imports import types

from realm_guest import (
    Asked,
    Constraint,
    Constraint_Grammar,
    Constraint_JsonObject,
    Constraint_JsonSchema,
    Constraint_Regex,
    Outcome,
    Params,
    Program,
    answer,
    elapsed_ms,
    generate,
    now_ms,
    random_bytes,
    store_delete,
    store_get,
    store_keys,
    store_set,
)
from realm_guest.raw import member
from realm_guest.rehearsal import Rehearsal


def one(function: Callable[[Params], Outcome]) -> Program:
    program = Program()
    program.function(name="one")(function)
    return program


def count(params: Params) -> Outcome:
    asked = Asked.take(params)
    return Outcome(answer(asked, asked.model.tokenize("count", False)).finish)


def test_generations_of_a_prefix_begin_with_it() -> None:
    def forks(params: Params) -> Outcome:
        asked = Asked.take(params)
        model = asked.model
        one, two, three = (model.tokenize(word, False) for word in ("one ", "two ", "three"))
        with model.keep(one, 0) as prefix, prefix.extend(two) as longer:
            steps = (generate(each, three, asked.params) for each in (prefix, longer, prefix))
            said = ["".join(token.text for step in each for token in step) for each in steps]
            return Outcome(data=[longer.length(), *said])

    told = Rehearsal(program=one(forks), answer=lambda prompt: f"[{prompt}]").call("one", {})
    assert told.outcome.data == [2, "[one three]", "[one two three]", "[one three]"]


def form(**of: Any) -> Any:
    return {"response_format": of}


def named(**of: Any) -> Any:
    return form(type="json_schema", json_schema=of)


@pytest.mark.parametrize(
    ("sentence", "params"),
    [
        ("`max_tokens` must be from 1 to 4294967295", {"max_tokens": 0}),
        ("`seed` must be a whole number of at least 0", {"seed": -1}),
        ("`seed` must be a whole number of at least 0", {"seed": True}),
        ("`stop` must be a string or a list of strings", {"stop": [1]}),
        ("`temperature` must be a number", {"temperature": "hot"}),
        ("`logit_bias` must be an object of numbers by token ids", {"logit_bias": {"01": 1}}),
        ("unknown parameter `colour`", {"colour": "red"}),
        ("`response_format` must be an object", {"response_format": "text"}),
        ("`response_format.type` must be a string", form()),
        (
            "`response_format.type` must be "
            "`text`, `json_object`, `json_schema`, `regex` or `grammar`",
            form(type="xml"),
        ),
        ("`response_format.regex` must be a string", form(type="regex")),
        ("unknown parameter `response_format.regex`", form(type="text", regex="a")),
        ("`response_format.json_schema` must be an object", form(type="json_schema")),
        ("`response_format.json_schema.schema` must be a JSON schema", named(schema=[])),
        ("`response_format.json_schema.name` must be a string", named(schema={}, name=1)),
        ("`response_format.json_schema.strict` must be a boolean", named(schema={}, strict="no")),
        ("unknown parameter `response_format.json_schema.more`", named(schema={}, more=1)),
        ("params must be a JSON object", []),
    ],
)
def test_parameters_are_read_strictly(sentence: str, params: Any) -> None:
    with pytest.raises(Err) as refused:
        Rehearsal(program=one(count)).call("one", params)
    assert refused.value.value == types.Error_Invalid(sentence)


@pytest.mark.parametrize(
    ("of", "constraint"),
    [
        (None, None),
        ({"type": "text"}, None),
        ({"type": "json_object"}, Constraint_JsonObject()),
        ({"type": "regex", "regex": "a+"}, Constraint_Regex("a+")),
        ({"type": "grammar", "grammar": 'start: "a"'}, Constraint_Grammar('start: "a"')),
    ],
)
def test_the_form_of_an_answer_is_said_in_the_words_of_the_common_apis(
    of: Any, constraint: Constraint | None
) -> None:
    def take(params: Params) -> Outcome:
        return Outcome(data=Asked.take(params).params.constraint)

    said = Rehearsal(program=one(take)).call("one", {"response_format": of})
    assert said.outcome.data == constraint


@pytest.mark.parametrize(
    "sent", ['{"b": {"maximum": 1.0}, "1": {}, "enum": ["\\"}", "\u00e9", 1e400]}', "true"]
)
def test_a_schema_is_handed_on_as_it_was_sent(sent: str) -> None:
    schema = f'{{"name": "it", "description": null, "strict": false, "schema" : {sent} }}'
    text = f'{{"a": "{{", "response_format": {{"json_schema": {schema}, "type": "json_schema"}}}}'
    constraint = Params.parse(text).constraint("response_format")
    assert constraint == Constraint_JsonSchema(sent)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (r'{"a": {"b": 1}, "b\"": 2, "\u0062" : [3, "]"] , "b": 4 }', "4"),
        (r'{"a": {"b": 1}, "\u0062" : [3, "]"] }', '[3, "]"]'),
        (" { } ", None),
    ],
)
def test_a_member_of_json_text_is_the_last_of_its_name_and_of_no_object_within(
    text: str, found: str | None
) -> None:
    assert member(text, "b") == found


def test_what_nobody_serves_is_an_unknown_function() -> None:
    with pytest.raises(Err) as refused:
        Rehearsal(program=one(count)).call("other", {})
    assert refused.value.value == types.Error_UnknownFunction("other")


@pytest.mark.parametrize(
    ("params", "text", "finish"),
    [
        ({}, "one two three four", types.Finish.STOP),
        ({"max_tokens": 2}, "one two ", types.Finish.LENGTH),
        ({"stop": " three"}, "one two", types.Finish.STOP),
    ],
)
def test_an_answer_streams_and_ends_as_its_parameters_say(
    params: Any, text: str, finish: types.Finish
) -> None:
    rehearsal = Rehearsal(program=one(count), answer=lambda _prompt: "one two three four")
    said = rehearsal.call("one", params)
    assert (said.text, said.outcome.finish) == (text, finish)
    assert len(said.pieces) > 1


def test_an_exception_fails_the_program_with_its_words() -> None:
    def fail(_params: Params) -> Outcome:
        raise ZeroDivisionError("no more")

    with pytest.raises(Err) as refused:
        one(fail).handler()().handle(Request("one", "{}"))
    assert refused.value.value == types.Error_Failed("ZeroDivisionError: no more")


def test_what_a_program_stores_outlives_its_call_and_time_and_randomness_are_the_hosts() -> None:
    def keep(_params: Params) -> Outcome:
        before = store_get("count") or b"\0"
        store_set("count", bytes([before[0] + 1]))
        store_set("other", random_bytes(2))
        at = now_ms() + elapsed_ms()
        return Outcome(data=[before[0], store_keys("co"), at, store_delete("x")])

    rehearsal = Rehearsal(program=one(keep), now_ms=1200)
    assert rehearsal.call("one", {}).outcome.data == [0, ["count"], 1200, False]
    assert rehearsal.call("one", {}).outcome.data == [1, ["count"], 1200, False]
    assert rehearsal.store == {"count": b"\2", "other": b"\0\1"}
