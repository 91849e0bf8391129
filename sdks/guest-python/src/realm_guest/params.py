"""Strict reading of a function's parameters: each is taken by name, what is left is refused."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from wit_world.imports.model import Bias, Constraint
from wit_world.imports.types import Message

from realm_guest.format import to_constraint
from realm_guest.raw import member
from realm_guest.refusal import invalid, nothing_left

T = TypeVar("T")

U32_MAX = 2**32 - 1
U64_MAX = 2**64 - 1

#: The roles that chat templates know.
ROLES = ("system", "user", "assistant", "tool")


class Params:
    """A function's parameters. Take what the function knows, then call `finish`."""

    def __init__(self, fields: dict[str, Any], text: str) -> None:
        self._fields = fields
        #: As they were sent.
        self._text = text

    @classmethod
    def parse(cls, text: str) -> Params:
        """Reads a JSON object."""
        try:
            fields = json.loads(text)
        except ValueError:
            fields = None
        if not isinstance(fields, dict):
            raise invalid("params must be a JSON object")
        return cls(fields, text)

    def take(self, name: str) -> Any:
        """The parameter of that name; `None` where it is not there, or null."""
        return self._fields.pop(name, None)

    def text(self, name: str) -> str | None:
        """A text."""
        return self._of(name, str, "a string")

    def required_text(self, name: str) -> str:
        """A text that must be there."""
        text = self.text(name)
        if text is None:
            raise invalid(f"`{name}` is missing")
        return text

    def flag(self, name: str) -> bool | None:
        """Yes or no."""
        return self._of(name, bool, "true or false")

    def number(self, name: str) -> float | None:
        """A number. Its range is the host's to check."""
        value = self.take(name)
        if value is None:
            return None
        if not _is_number(value):
            raise invalid(f"`{name}` must be a number")
        return float(value)

    def whole(self, name: str, least: int = 0, most: int = U64_MAX) -> int | None:
        """A whole number from `least` to `most`."""
        value = self.take(name)
        if value is None:
            return None
        if type(value) is not int or value < 0:
            raise invalid(f"`{name}` must be a whole number of at least 0")
        if not least <= value <= most:
            raise invalid(f"`{name}` must be from {least} to {most}")
        return value

    def whole32(self, name: str, least: int) -> int | None:
        """A whole number from `least` to the most that 32 bits hold."""
        return self.whole(name, least, U32_MAX)

    def texts(self, name: str) -> list[str]:
        """One text or a list of texts."""
        value = self.take(name)
        texts = [] if value is None else value if isinstance(value, list) else [value]
        if not all(isinstance(text, str) for text in texts):
            raise invalid(f"`{name}` must be a string or a list of strings")
        return texts

    def biases(self, name: str) -> list[Bias]:
        """What is added to the logits of tokens: an object of numbers, by the tokens' ids."""
        value = self.take(name) or {}
        expected = f"`{name}` must be an object of numbers by token ids"
        if not isinstance(value, dict):
            raise invalid(expected)
        biases = []
        for key, by in value.items():
            is_id = key.isascii() and key.isdigit() and str(int(key)) == key
            if not is_id or int(key) > U32_MAX or not _is_number(by):
                raise invalid(expected)
            biases.append(Bias(int(key), float(by)))
        return biases

    def constraint(self, name: str) -> Constraint | None:
        """The form of an answer, in the words of the common APIs.

        An object whose `type` is `text`, `json_object`, `json_schema`, `regex` or `grammar`, with
        what it needs beside it. Whether that means anything is the host's to say.
        """
        form = self.take(name)
        return None if form is None else to_constraint(name, form, lambda: self._schema(name))

    def _schema(self, name: str) -> str:
        """The schema as it was sent: an answer has its keys in the schema's order."""
        text = self._text
        for each in (name, "json_schema", "schema"):
            text = member(text, each) or ""
        return text

    def messages(self) -> list[Message]:
        """The conversation in `messages`, which must be there and not be empty."""
        value = self.take("messages")
        if value is None:
            raise invalid("`messages` is missing")
        if not isinstance(value, list) or not value:
            raise invalid("`messages` must be a list of at least one message")
        return [_message(f"messages[{at}]", each) for at, each in enumerate(value)]

    def finish(self) -> None:
        """Refuses whatever has not been taken."""
        for name in self._fields:
            raise invalid(f"unknown parameter `{name}`")

    def _of(self, name: str, kind: type[T], expected: str) -> T | None:
        value = self.take(name)
        if value is not None and not isinstance(value, kind):
            raise invalid(f"`{name}` must be {expected}")
        return value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _message(name: str, value: object) -> Message:
    if not isinstance(value, dict):
        raise invalid(f"`{name}` must be an object")
    texts = []
    for field in ("role", "content"):
        text = value.pop(field, None)
        if not isinstance(text, str):
            problem = "is missing" if text is None else "must be a string"
            raise invalid(f"`{name}.{field}` {problem}")
        texts.append(text)
    role, content = texts
    if role not in ROLES:
        raise invalid(f"`{name}.role` must be one of {', '.join(ROLES)}")
    nothing_left(value, name)
    return Message(role, content)
