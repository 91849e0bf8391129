"""What holds for every call of a client."""

from __future__ import annotations

import random
from dataclasses import dataclass

from realm_client.backoff import Backoff, Clock


@dataclass(frozen=True, slots=True)
class Policy:
    """When to try again, and how many chunks may wait to be read."""

    retry: Backoff | None
    reconnect: Backoff
    unread_max: int
    clock: Clock
    rng: random.Random
