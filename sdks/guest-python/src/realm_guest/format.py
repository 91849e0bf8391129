"""What an answer keeps to, as callers say it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from wit_world.imports.model import (
    Constraint,
    Constraint_Grammar,
    Constraint_JsonObject,
    Constraint_JsonSchema,
    Constraint_Regex,
)

from realm_guest.refusal import invalid, nothing_left

_TYPES = "`text`, `json_object`, `json_schema`, `regex` or `grammar`"


def to_constraint(path: str, form: Any, sent: Callable[[], str]) -> Constraint | None:
    """The form of an answer in the words of the common APIs, which is at `path`.

    Whether it means anything is the host's to say. `sent` gives the text of the schema in it.
    """
    if not isinstance(form, dict):
        raise invalid(f"`{path}` must be an object")
    constraint: Constraint | None = None
    match _text(form, path, "type"):
        case "text":
            pass
        case "json_object":
            constraint = Constraint_JsonObject()
        case "json_schema":
            _check_schema(f"{path}.json_schema", form.pop("json_schema", None))
            constraint = Constraint_JsonSchema(sent())
        case "regex":
            constraint = Constraint_Regex(_text(form, path, "regex"))
        case "grammar":
            constraint = Constraint_Grammar(_text(form, path, "grammar"))
        case _:
            raise invalid(f"`{path}.type` must be {_TYPES}")
    nothing_left(form, path)
    return constraint


def _check_schema(path: str, named: Any) -> None:
    if not isinstance(named, dict):
        raise invalid(f"`{path}` must be an object")
    if not isinstance(named.pop("schema", None), dict | bool):
        raise invalid(f"`{path}.schema` must be a JSON schema")
    # A schema is always kept to, and what it is called is for its owner.
    for label in ("name", "description"):
        if not isinstance(named.pop(label, None), str | None):
            raise invalid(f"`{path}.{label}` must be a string")
    if not isinstance(named.pop("strict", None), bool | None):
        raise invalid(f"`{path}.strict` must be a boolean")
    nothing_left(named, path)


def _text(fields: dict[str, Any], path: str, name: str) -> str:
    text = fields.pop(name, None)
    if not isinstance(text, str):
        raise invalid(f"`{path}.{name}` must be a string")
    return text
