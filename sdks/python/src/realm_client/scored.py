"""Reads the probabilities of tokens that a server sent. Pure."""

from __future__ import annotations

from realm_client.fields import FieldError, Fields, item_count
from realm_client.reply import Json, Logprobs, ScoredToken


def decode_logprobs(fields: Fields) -> tuple[Logprobs, ...]:
    """Those of a piece or of a whole answer; none where they were not asked for."""
    return fields.optional("logprobs", lambda key: fields.items(key, _logprobs)) or ()


def _logprobs(value: Json) -> Logprobs:
    fields = Fields(value, "logprobs")
    top = fields.optional("top", lambda key: fields.items(key, _token)) or ()
    return Logprobs(_token(fields.raw("chosen")), top)


def _token(value: Json) -> ScoredToken:
    fields = Fields(value, "token")
    text = fields.text("text")
    numbers = fields.optional("bytes", lambda key: fields.items(key, item_count))
    try:
        spelling = text.encode() if numbers is None else bytes(numbers)
    except ValueError as error:
        raise FieldError("token.bytes are not bytes") from error
    return ScoredToken(fields.count("id"), text, spelling, fields.logarithm("logprob"))
