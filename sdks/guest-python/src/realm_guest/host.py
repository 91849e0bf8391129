"""What a program reaches besides models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

from wit_world.imports import config, reply
from wit_world.imports import log as lines
from wit_world.imports.types import Logprobs

Level = Literal["debug", "info", "warn", "error"]


def write_text(text: str) -> None:
    """Sends a piece of text to the client, and waits while that is slow to read."""
    reply.write_text(text)


def write_scored(text: str, logprobs: Sequence[Logprobs]) -> None:
    """The same, with how likely the tokens were since the piece before."""
    reply.write_scored(text, list(logprobs))


def write_json(value: Any) -> None:
    """Sends a value to the client."""
    reply.write_json(json.dumps(value))


def setting(key: str) -> str | None:
    """What the tenant's owner has set for the program under that name."""
    return config.get(key)


def tenant() -> str:
    """Who is calling: `namespace/name`."""
    return config.tenant()


def log(level: Level, message: str) -> None:
    """Leaves a line for whoever runs the host. Only so many are kept of one call."""
    lines.emit(lines.Level[level.upper()], message)
