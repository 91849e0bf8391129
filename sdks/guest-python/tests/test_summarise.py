"""The example: texts longer than a model reads."""

from __future__ import annotations

import pytest
from componentize_py_types import Err

from realm_guest.rehearsal import Rehearsal
from summarise import program

TEXT = "One is here. Two is there. Three is gone."


def test_each_part_has_a_line_of_its_own() -> None:
    asked: list[str] = []

    def say(prompt: str) -> str:
        asked.append(prompt)
        return f" Line {len(asked)} it is.\nAnd more."

    text = TEXT * 6
    rehearsal = Rehearsal(program=program, answer=say)
    said = rehearsal.call("summarise", {"text": text, "part_tokens": 16})
    assert said.text == "".join(f"- Line {at} it is.\n" for at in range(1, len(asked) + 1))
    assert said.outcome.data == {"parts": len(asked)}
    assert len(asked) > 1


def test_a_line_is_as_the_caller_wants_it_however_many_lines_it_has() -> None:
    rehearsal = Rehearsal(program=program, answer=lambda _prompt: '{\n"tone": "calm"\n}')
    params = {"text": TEXT, "response_format": {"type": "json_object"}}
    said = rehearsal.call("summarise", params)
    assert said.text == '- {\n"tone": "calm"\n}\n'


def test_a_text_is_cut_between_sentences_into_as_few_parts_as_fit() -> None:
    rehearsal = Rehearsal(program=program, context=2048)
    text = "a b c d e f g. " * 4
    cut = rehearsal.call("parts", {"text": text, "part_tokens": 16}).outcome.data["parts"]
    assert cut == ["a b c d e f g. a b c d e f g."] * 2


def test_what_fits_nowhere_is_refused_by_its_name() -> None:
    with pytest.raises(Err, match="has a sentence of more than 16 tokens"):
        Rehearsal(program=program).call("parts", {"text": "a " * 20, "part_tokens": 16})


def test_the_tenants_owner_says_what_is_asked_for() -> None:
    heard: list[str] = []

    def say(prompt: str) -> str:
        heard.append(prompt)
        return "So."

    settings = {"style": "Sum up as a pirate would."}
    rehearsal = Rehearsal(program=program, answer=say, settings=settings)
    said = rehearsal.call("summarise", {"text": TEXT})
    assert said.text == "- So.\n"
    assert heard[0].startswith("system: Sum up as a pirate would.\n")
