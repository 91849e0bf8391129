"""JSON as it was sent: parsed and written anew, it may be longer and have other numbers."""

from __future__ import annotations

import json
import re

#: What there is between keys and values, before the first and behind the last of them.
_BETWEEN = re.compile(r"[ \t\n\r]*[{:,}]?[ \t\n\r]*")


def member(text: str, name: str) -> str | None:
    """The text of a member of an object; of several of that name the last, as everywhere.

    `text` is JSON that has been parsed before.
    """
    decode = json.JSONDecoder().raw_decode
    found = None
    at = _past_between(text, 0)
    while text.startswith('"', at):
        key, at = decode(text, at)
        start = _past_between(text, at)
        _, end = decode(text, start)
        if key == name:
            found = text[start:end]
        at = _past_between(text, end)
    return found


def _past_between(text: str, at: int) -> int:
    between = _BETWEEN.match(text, at)
    return at if between is None else between.end()
