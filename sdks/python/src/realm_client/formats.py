"""What an answer keeps to: the words of the OpenAI API, and regular expressions and grammars."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NotRequired, TypedDict


class TextFormat(TypedDict):
    """Any text, as without a format."""

    type: Literal["text"]


class JsonObjectFormat(TypedDict):
    """One JSON object, whatever is in it."""

    type: Literal["json_object"]


class NamedSchema(TypedDict):
    """A JSON schema. It is always kept to, and its name is for its owner."""

    schema: Mapping[str, object] | bool
    name: NotRequired[str]
    description: NotRequired[str]
    strict: NotRequired[bool]


class JsonSchemaFormat(TypedDict):
    """One JSON value of a schema, with keys in the schema's order."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


class RegexFormat(TypedDict):
    """A text that a regular expression matches as a whole."""

    type: Literal["regex"]
    regex: str


class GrammarFormat(TypedDict):
    """A text of a grammar in Lark's notation, from its rule `start`."""

    type: Literal["grammar"]
    grammar: str


ResponseFormat = TextFormat | JsonObjectFormat | JsonSchemaFormat | RegexFormat | GrammarFormat
