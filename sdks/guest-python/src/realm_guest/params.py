"""Strict reading of a function's parameters: each is taken by name, what is left is refused."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from componentize_py_types import Err
from wit_world.imports.model import Bias
from wit_world.imports.types import Error_Invalid, Message

T = TypeVar("T")

U32_MAX = 2**32 - 1
U64_MAX = 2**64 - 1

#: The roles that chat templates know.
ROLES = ("system", "user", "assistant", "tool")


def invalid(sentence: str) -> Err[Error_Invalid]:
    """A parameter that is missing, unknown or out of range; the sentence names it."""
    return Err(Error_Invalid(sentence))


class Params:
    """A function's parameters. Take what the function knows, then call `finish`."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self._fields = fields

    @classmethod
    def parse(cls, text: str) -> Params:
        """Reads a JSON object."""
        try:
            fields = json.loads(text)
        except ValueError:
            fields = None
        if not isinstance(fields, dict):
            raise invalid("params must be a JSON object")
        return cls(fields)

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
    for field in value:
        raise invalid(f"unknown parameter `{name}.{field}`")
    return Message(role, content)
