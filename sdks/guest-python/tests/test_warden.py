"""Hooks, and what a program says of its health."""

from __future__ import annotations

import ast

import pytest
from build import names
from componentize_py_types import Err
from wit_world.imports.types import Finish

import warden
from realm_guest import GenerateParams, greedy
from realm_guest.health import health
from realm_guest.hooks import (
    Ask,
    Beside,
    Request,
    Steer,
    Steer_Add,
    Steer_Only,
    Steer_Same,
    Verdict,
    Verdict_Pass,
    Verdict_Rewrite,
    Verdict_Stop,
    hooks,
)
from realm_guest.rehearsal import Rehearsal, Rehearsed


def said(answer: str, **settings: str) -> Rehearsed:
    of = {name.replace("_", "-"): value for name, value in settings.items()}
    rehearsal = Rehearsal(
        program=warden.program, answer=lambda _prompt: answer, hooks=warden.watch, settings=of
    )
    return rehearsal.call("generate", {"prompt": "one two"})


def request() -> Request:
    return Request("model", [], GenerateParams(greedy(), [], None, None, [], None, 0))


def test_a_word_is_blotted_out_however_its_pieces_fall_and_counted_at_the_end() -> None:
    text = said("see a b and a c a b", redact="a b").text
    assert text == "see ### and a c ### [2 blotted out]"
    assert said("see a b").text == "see a b"


def test_an_answer_ends_before_a_word_and_says_no_more() -> None:
    heard = said("see a c and a b and more", end="a b", redact="see")
    assert heard.text == "### a c and "
    assert heard.outcome.finish == Finish.STOP
    assert said("see a", end="a b").text == "see a"


def test_words_are_banned_or_the_only_ones_by_the_tokens_that_begin_them() -> None:
    first, *rest = said("a cat", ban="cat").steers
    assert isinstance(first, Steer_Add)
    assert [bias.by for bias in first.value] == [-100, -100]
    assert rest == [Steer_Same()]
    assert isinstance(said("yes", only="yes no").steers[0], Steer_Only)


def test_a_prompt_that_is_too_long_is_refused() -> None:
    with pytest.raises(Err, match="the prompt has more than 1 tokens"):
        said("no", prompt_tokens="1")


class All(Beside):
    """Everything that hooks may be asked."""

    def bias(self, last: int | None) -> Steer:
        return Steer_Only([last or 7])

    def on_token(self, token: int, text: str) -> Verdict:
        return Verdict_Stop(text) if token else Verdict_Rewrite(text)

    def on_finish(self, finish: Finish) -> str:
        return finish.name


def standing(beside: Beside | None) -> Ask:
    return lambda _request: beside


def test_hooks_are_asked_what_they_override() -> None:
    for beside, stages in ((None, set()), (Beside(), set()), (All(), {"BIAS", "TOKEN", "FINISH"})):
        asked = hooks(standing(beside))()
        assert {stage.name for stage in asked.on_request(request()).stages} == stages
    assert asked.bias(None) == Steer_Only([7])
    assert asked.on_token(1, "a") == Verdict_Stop("a")
    assert asked.on_finish(Finish.LENGTH) == "LENGTH"


def test_what_hooks_do_not_override_changes_nothing() -> None:
    asked = hooks(standing(None))()
    plan = asked.on_request(request())
    assert plan.params == request().params
    assert asked.bias(3) == Steer_Same()
    assert asked.on_token(1, "a") == Verdict_Pass()
    assert asked.on_finish(Finish.STOP) == ""


def test_an_exception_before_a_generation_refuses_it_with_its_words() -> None:
    def fail(_request: Request) -> Beside:
        raise ValueError("no more")

    with pytest.raises(Err, match="ValueError: no more"):
        hooks(fail)().on_request(request())


def test_a_program_is_healthy_unless_it_raises_and_then_says_why() -> None:
    health(warden.check)().check()

    def fail() -> None:
        raise ValueError("no dictionary")

    with pytest.raises(Err) as told:
        health(fail)().check()
    assert told.value.value == "no dictionary"


def test_the_world_of_a_component_follows_from_what_its_module_defines() -> None:
    text = "from a import B as Hooks\nHealth: int = 1\nHandler = x\nclass C: pass\nif 1: D = 2"
    assert list(names(ast.parse(text))) == ["Hooks", "Health", "Handler", "C"]
