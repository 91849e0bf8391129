"""What a program reaches besides models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

from wit_world.imports import clock, config, random, reply, store
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


def store_get(key: str) -> bytes | None:
    """What the tenant's programs keep on this node under that name.

    The store outlives a call and not a restart, and has 1024 entries and 256 KiB.
    """
    return store.get(key)


def store_set(key: str, value: bytes) -> None:
    """Keeps a value. Refused where there is no room."""
    store.set(key, value)


def store_delete(key: str) -> bool:
    """Whether there was one."""
    return store.delete(key)


def store_keys(prefix: str = "", after: str | None = None) -> list[str]:
    """The first keys, at most 256, that begin with `prefix` and come after `after`."""
    return store.keys(prefix, after)


def now_ms() -> int:
    """Milliseconds since the Unix epoch, in steps of 100."""
    return clock.now()


def elapsed_ms() -> int:
    """Milliseconds since the call began, in steps of 100."""
    return clock.elapsed()


def random_bytes(count: int) -> bytes:
    """So many random bytes, at most 4096."""
    return random.bytes(count)
