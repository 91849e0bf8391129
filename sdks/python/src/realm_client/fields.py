"""Reads typed fields from JSON a server sent, and says which field was wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from realm_client.reply import Json

T = TypeVar("T")


class FieldError(ValueError):
    """A field is missing or of another type than the protocol says."""


class Fields:
    """An object of the server's, read field by field. Fields nobody asks for are ignored."""

    def __init__(self, value: Json, where: str) -> None:
        if not isinstance(value, dict):
            raise FieldError(f"{where} is not an object")
        self._fields: dict[str, Json] = value
        self._where = where

    def __contains__(self, key: str) -> bool:
        return key in self._fields

    def has(self, key: str) -> bool:
        """Whether the field is there and not null."""
        return self._fields.get(key) is not None

    def raw(self, key: str) -> Json:
        """The field as it is, `None` when it is not there."""
        return self._fields.get(key)

    def text(self, key: str) -> str:
        """A string."""
        value = self._fields.get(key)
        if not isinstance(value, str):
            raise FieldError(f"{self._where}.{key} is not a string")
        return value

    def count(self, key: str) -> int:
        """A whole number that is not negative."""
        value = self._fields.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise FieldError(f"{self._where}.{key} is not a count")
        return value

    def number(self, key: str) -> float:
        """A number that is not negative."""
        value = self._fields.get(key)
        if not isinstance(value, int | float) or isinstance(value, bool) or value < 0:
            raise FieldError(f"{self._where}.{key} is not a number")
        return value

    def logarithm(self, key: str) -> float:
        """The logarithm of a probability: a number that is not positive."""
        value = self._fields.get(key)
        if not isinstance(value, int | float) or isinstance(value, bool) or not value <= 0:
            raise FieldError(f"{self._where}.{key} is not a logarithm of a probability")
        return value

    def flag(self, key: str) -> bool:
        """A boolean."""
        value = self._fields.get(key)
        if not isinstance(value, bool):
            raise FieldError(f"{self._where}.{key} is not a boolean")
        return value

    def items(self, key: str, read: Callable[[Json], T]) -> tuple[T, ...]:
        """An array whose items `read` understands."""
        value = self._fields.get(key)
        if not isinstance(value, list):
            raise FieldError(f"{self._where}.{key} is not an array")
        return tuple(read(item) for item in value)

    def object(self, key: str) -> Fields:
        """An object in this one."""
        return Fields(self._fields.get(key), f"{self._where}.{key}")

    def optional(self, key: str, read: Callable[[str], T]) -> T | None:
        """What `read` makes of the field, `None` when it is not there."""
        return read(key) if self.has(key) else None


def item_text(value: Json) -> str:
    """An item that is a string."""
    return Fields({"item": value}, "array").text("item")


def item_count(value: Json) -> int:
    """An item that is a count."""
    return Fields({"item": value}, "array").count("item")
