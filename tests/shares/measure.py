"""Says what parts of an engine's time and cache tenants get that all want more than there is.

One `realm serve`, and two rounds: a client against sixty-four of another tenant of the same weight,
and three tenants of the weights 1, 2 and 4 that ask for different things. What each has had is what
its books say: device time, and for the blocks that it held their part of the cache for that long.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import tempfile
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from harness.folder import MODEL, Folder
from harness.metrics import Metrics
from harness.server import Server
from realm_client import Busy, Client

#: Tokens of a sequence, and blocks of the cache.
CONTEXT = 2048
KV_BLOCKS = 1024

#: Nothing that anybody comes to.
LIMITS = {
    "requestsPerMinute": 1_000_000,
    "inputTokensPerMinute": 100_000_000,
    "outputTokensPerMinute": 100_000_000,
    "calls": 256,
    "kvBlocks": KV_BLOCKS,
}

#: Until every tenant has its calls in the batch and others waiting.
WARM_S = 10.0

#: How long a client waits that is refused without a word of when.
PAUSE_S = 0.2

WORDS = ("river", "stone", "cloud", "amber", "lamp", "north", "bridge", "paper", "salt", "copper")


@dataclass(frozen=True, slots=True)
class Load:
    """What a tenant asks for: clients, their calls in flight, and words and tokens of each."""

    weight: int
    clients: int
    calls: int
    words: tuple[int, int]
    tokens: tuple[int, int]


#: Chats, of which one tenant keeps sixteen in flight and the other sixteen times as many.
UNEQUAL = {
    "one": Load(100, 1, 16, (32, 128), (16, 64)),
    "many": Load(100, 64, 4, (32, 128), (16, 64)),
}

#: Documents, chats, and long answers to short questions.
WEIGHTS = {
    "reads": Load(100, 4, 8, (256, 768), (8, 16)),
    "chats": Load(200, 4, 8, (32, 128), (16, 64)),
    "writes": Load(400, 4, 8, (8, 16), (128, 256)),
}


def main() -> None:
    """Measures both rounds, one after the other."""
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--seconds", type=float, default=60.0, help="of each round")
    flags.add_argument("--rounds", type=int, default=1)
    args = flags.parse_args()
    for _ in range(args.rounds):
        for loads in (UNEQUAL, WEIGHTS):
            _say(loads, _measure(loads, args.seconds))


def _measure(loads: Mapping[str, Load], seconds: float) -> dict[str, float]:
    """What each tenant has had while all asked, in seconds."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Folder(Path(scratch) / "manifests")
        folder.model(Path(os.environ["REALM_TEST_MODEL"]), context=CONTEXT, kvBlocks=KV_BLOCKS)
        for name, load in loads.items():
            folder.tenant(name, weight=load.weight, limits=LIMITS)
        server = Server(folder, Path(scratch) / "home").start()
        try:
            return asyncio.run(_ask(server, loads, seconds))
        finally:
            server.close()


async def _ask(server: Server, loads: Mapping[str, Load], seconds: float) -> dict[str, float]:
    async with AsyncExitStack() as stack:
        lanes = []
        for name, load in loads.items():
            for index in range(load.clients):
                client = await stack.enter_async_context(server.client(name))
                draws = [random.Random(f"{name} {index} {lane}") for lane in range(load.calls)]
                lanes += [asyncio.create_task(_lane(client, load, draw)) for draw in draws]
        await asyncio.sleep(WARM_S)
        before = server.metrics()
        await asyncio.sleep(seconds)
        after = server.metrics()
        broken = [lane for lane in lanes if lane.done()]
        for lane in lanes:
            lane.cancel()
        await asyncio.gather(*lanes, return_exceptions=True)
    assert not broken, f"{len(broken)} calls have ended for good: {broken[0].exception()}"
    return {name: _had(after, name) - _had(before, name) for name in loads}


async def _lane(client: Client, load: Load, draw: random.Random) -> None:
    """Calls of one client, one after another."""
    while True:
        prompt = " ".join(draw.choices(WORDS, k=draw.randint(*load.words)))
        tokens = draw.randint(*load.tokens)
        try:
            await client.generate(f"{prompt} 1, 2, 3, 4,", max_tokens=tokens, temperature=0)
        except Busy:
            await asyncio.sleep(PAUSE_S)


def _had(metrics: Metrics, name: str) -> float:
    of = {"tenant": f"default/{name}", "model": f"default/{MODEL}"}
    blocks = metrics.value("realm_engine_tenant_kv_block_seconds_total", **of)
    return metrics.value("realm_engine_tenant_device_seconds_total", **of) + blocks / KV_BLOCKS


def _say(loads: Mapping[str, Load], had: Mapping[str, float]) -> None:
    """Prints parts, how far the worst is off, and Jain's index of what weights have had."""
    weights = sum(load.weight for load in loads.values())
    whole = sum(had.values())
    off = 0.0
    for name, load in loads.items():
        part, due = had[name] / whole, load.weight / weights
        off = max(off, abs(part / due - 1))
        print(f"{name:<8} weight {load.weight}  {had[name]:7.2f} s  {part:6.1%} of {due:.1%}")
    each = [had[name] / load.weight for name, load in loads.items()]
    jain = sum(each) ** 2 / (len(each) * sum(of * of for of in each))
    print(f"Jain index {jain:.4f}, furthest off {off:.1%}", flush=True)


if __name__ == "__main__":
    main()
