"""What is kept of an answer, and what is made of it where it moves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm_client import Chunk, ConnectionLost, Moved, ProtocolError, ServerError, Usage
from realm_client.answer import Answer, Resume
from realm_client.reply import Completion, Progress


def chunk(text: str, first: int, *tokens: int, seed: int | None = None) -> Chunk:
    return Chunk(0, text, progress=Progress(first, tokens, seed))


def test_an_answer_is_resumed_behind_what_has_arrived() -> None:
    answer = Answer()
    assert answer.resumable
    assert answer.resume() is None
    assert answer.take(chunk("é", 0, 5, 6, seed=7)).index == 0
    assert answer.take(chunk("b", 2)).index == 1
    assert answer.take(chunk("c", 2, 8)).index == 2
    assert answer.resume() == Resume((5, 6, 8), 4, 7)


@pytest.mark.parametrize(
    "bare",
    [
        Chunk(0, "x"),
        Chunk(0, value=1, progress=Progress(0, (1,), 7)),
        chunk("x", 0, 1),  # without a seed nobody can draw what follows
    ],
)
def test_an_answer_that_is_not_followed_from_its_first_token_is_not_resumed(bare: Chunk) -> None:
    answer = Answer()
    answer.take(bare)
    assert not answer.resumable
    assert not answer.survives(ConnectionLost("cut"))
    answer.take(chunk("y", 1, 2, seed=7))
    assert not answer.resumable


@pytest.mark.parametrize("first", [0, 2, 9])
def test_a_token_that_is_lost_or_doubled_breaks_the_protocol(first: int) -> None:
    answer = Answer()
    answer.take(chunk("x", 0, 1, seed=7))
    with pytest.raises(ProtocolError):
        answer.take(chunk("y", first, 2))


def test_an_answer_survives_the_end_of_its_server_and_nothing_else() -> None:
    answer = Answer()
    assert answer.survives(ConnectionLost("cut"))
    assert answer.survives(Moved("gone", code="moved"))
    assert not answer.survives(ServerError("broken", code="internal"))


@given(st.integers(0, 100), st.integers(0, 100), st.integers(0, 100), st.integers(0, 200))
def test_the_usage_is_that_of_the_whole_answer(
    prompt: int, resumed: int, made: int, cached: int
) -> None:
    usage = Usage(prompt + resumed, min(cached, prompt + resumed), made)
    whole = Answer().whole(Completion({}, "stop", usage, None), resumed).usage
    assert whole is not None
    assert (whole.prompt_tokens, whole.completion_tokens) == (prompt, resumed + made)
    assert whole.cached_tokens == min(cached, prompt)
