"""Refusals of parameters, with a sentence that names them."""

from __future__ import annotations

from collections.abc import Iterable

from componentize_py_types import Err
from wit_world.imports.types import Error_Invalid


def invalid(sentence: str) -> Err[Error_Invalid]:
    """A parameter that is missing, unknown or out of range; the sentence names it."""
    return Err(Error_Invalid(sentence))


def nothing_left(fields: Iterable[str], path: str) -> None:
    """Refuses whatever has not been taken of the object at `path`."""
    for name in fields:
        raise invalid(f"unknown parameter `{path}.{name}`")
