"""How long to wait before trying again. Pure: randomness and time are arguments."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from typing import Protocol

from realm_client.errors import RealmError


class Clock(Protocol):
    """What this package needs of time."""

    def now(self) -> float:
        """Seconds that never go backwards."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Waits."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> float:
        """Seconds that never go backwards."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Waits."""
        await asyncio.sleep(seconds)


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential back-off with full jitter, bounded in attempts and in total time.

    The defaults make six attempts in at most 30 s: longer than a pod takes to be replaced behind
    its service, shorter than a person waits.
    """

    base_s: float = 0.2
    cap_s: float = 10.0
    attempts_max: int = 6
    total_s_max: float = 30.0

    def delay_s(
        self, attempts: int, elapsed_s: float, error: RealmError, rng: random.Random
    ) -> float | None:
        """The pause after `attempts` failed attempts, `None` when it is time to give up."""
        if not error.retryable or attempts >= self.attempts_max:
            return None
        # The exponent is bounded by attempts_max, but a caller may make that large.
        ceiling_s = min(self.cap_s, self.base_s * 2.0 ** min(attempts - 1, 32))
        delay_s = _spread(error, ceiling_s, rng)
        return delay_s if elapsed_s + delay_s <= self.total_s_max else None


#: How much later than `retry_after` a client may come: those refused together come apart.
RETRY_AFTER_SPREAD = 0.1


def _spread(error: RealmError, ceiling_s: float, rng: random.Random) -> float:
    if error.retry_after is None:
        return rng.uniform(0.0, ceiling_s)
    return error.retry_after * rng.uniform(1.0, 1.0 + RETRY_AFTER_SPREAD)
