"""Waiting for what another process does: the only place where time passes by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
E = TypeVar("E", bound=Exception)

#: Longer than a change of a manifest or a certificate takes on a slow machine.
WITHIN_S = 40.0

#: Between two looks.
LOOK_EVERY_S = 0.05


async def eventually(
    probe: Callable[[], Awaitable[T | None]], what: str, *, within_s: float = WITHIN_S
) -> T:
    """The first value of `probe` that is true. Fails, naming `what`, when there is none in time."""
    until = time.monotonic() + within_s
    while True:
        found = await probe()
        if found:
            return found
        if time.monotonic() > until:
            raise AssertionError(f"{what}: not within {within_s:.0f} s, and the last was {found!r}")
        await asyncio.sleep(LOOK_EVERY_S)


async def raises(kind: type[E], attempt: Callable[[], Awaitable[object]], what: str) -> E:
    """The failure that `attempt` will end with once a change has taken effect."""

    async def probe() -> E | None:
        try:
            await attempt()
        except kind as error:
            return error
        return None

    return await eventually(probe, what)


def until(probe: Callable[[], bool], what: str, *, within_s: float = WITHIN_S) -> None:
    """As `eventually`, for what goes on while no test waits for anything else."""
    end = time.monotonic() + within_s
    while not probe():
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {within_s:.0f} s")
        time.sleep(LOOK_EVERY_S)
