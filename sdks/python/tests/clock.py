"""Time for tests."""

from __future__ import annotations

import asyncio


class ManualClock:
    """Time that passes only by sleeping, and then at once."""

    def __init__(self) -> None:
        self.time = 100.0
        self.sleeps: list[float] = []

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.time += seconds
        await asyncio.sleep(0)
