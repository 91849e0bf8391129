"""What every program has of the SDK."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from componentize_py_types import Err
from wit_world.exports.handler import Request
from wit_world.imports import types

from realm_guest import Asked, Outcome, Params, Program, answer
from realm_guest.rehearsal import Rehearsal


def one(function: Callable[[Params], Outcome]) -> Program:
    program = Program()
    program.function(name="one")(function)
    return program


def count(params: Params) -> Outcome:
    asked = Asked.take(params)
    return Outcome(answer(asked, asked.model.tokenize("count", False)).finish)


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
        ("params must be a JSON object", []),
    ],
)
def test_parameters_are_read_strictly(sentence: str, params: Any) -> None:
    with pytest.raises(Err) as refused:
        Rehearsal(program=one(count)).call("one", params)
    assert refused.value.value == types.Error_Invalid(sentence)


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
