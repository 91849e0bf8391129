"""Says what memory tenants, their connections and their streams take of an agent.

One `realm serve` with a cache so small that all of it is in use before anything is measured: what
grows from there on is what tenants and streams take. More streams than a batch has places for, so
that most of them are parked: a program waits for a token, and its turn has not come.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from harness.folder import MODEL, Folder
from harness.metrics import Metrics
from harness.server import Server
from harness.talk import LONG_PROMPT, asked
from realm_client import Client

#: Tokens of a sequence, and blocks of the cache: twice the places of a batch.
CONTEXT = 2048
KV_BLOCKS = 128

#: Answers that are long against a measurement, and those that put every block into use.
TOKENS_LONG = 1000
TOKENS_WARM = 48
WARM_STREAMS = 64

#: The part of the streams without which the rest says nothing.
MOST = 0.9

#: After the last thing that happened, until nothing of it is left to do.
STILL_S = 5.0

KIB = 1024


class Scale:
    """Says by how much the process has grown since it was last looked at."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._before = server.resident_bytes()

    def say(self, what: str, count: int) -> None:
        """Prints what each of so many takes."""
        time.sleep(STILL_S)
        now = self._server.resident_bytes()
        each = (now - self._before) / count / KIB
        print(f"{what:<40} {each:>8.1f} KiB each, of {count}", flush=True)
        self._before = now


def main() -> None:
    """Measures tenants first, then their connections, then their streams."""
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--tenants", type=int, default=1000)
    flags.add_argument("--streams", type=int, default=200, help="a tenant's each")
    args = flags.parse_args()
    names = [f"t{index}" for index in range(args.tenants)]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Folder(Path(scratch) / "manifests")
        model = Path(os.environ["REALM_TEST_MODEL"])
        folder.model(model, context=CONTEXT, kvBlocks=KV_BLOCKS)
        folder.tenant("warm", limits={"calls": WARM_STREAMS})
        server = Server(folder, Path(scratch) / "home").start()
        try:
            asyncio.run(_warm(server))
            scale = Scale(server)
            for name in names:
                folder.tenant(name)
            server.await_line(f"tenant default/{names[-1]}: ready")
            scale.say("a tenant that is registered", len(names))
            asyncio.run(_streams(server, names[: args.streams], scale))
        finally:
            server.close()


async def _warm(server: Server) -> None:
    """Has every block of the cache in use once."""
    async with server.client("warm") as client:
        await asyncio.gather(*(_read(client, index, TOKENS_WARM) for index in range(WARM_STREAMS)))


async def _streams(server: Server, names: Sequence[str], scale: Scale) -> None:
    """Opens a connection of each tenant, and lets each stream an answer."""
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(server.client(name)) for name in names]
        await asyncio.to_thread(scale.say, "its connection", len(names))
        reading = [
            asyncio.create_task(_read(client, index, TOKENS_LONG))
            for index, client in enumerate(clients)
        ]
        await asyncio.sleep(STILL_S)
        # One whose answer is short has left by then.
        going_on = sum(not task.done() for task in reading)
        await asyncio.to_thread(scale.say, "its stream", going_on)
        metrics = server.metrics()
        running, waiting = _sequences(metrics, "running"), _sequences(metrics, "queued")
        print(f"of the streams {running:.0f} run and {waiting:.0f} wait for a place", flush=True)
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
    assert going_on >= MOST * len(names), f"only {going_on} streams were there to be measured"


def _sequences(metrics: Metrics, what: str) -> float:
    return metrics.value(f"realm_engine_sequences_{what}", model=f"default/{MODEL}")


async def _read(client: Client, index: int, max_tokens: int) -> None:
    """Reads a greedy answer to a question that nobody else asks."""
    question = f"{index}. {LONG_PROMPT}"
    async for _ in client.chat_stream(asked(question), max_tokens=max_tokens, temperature=0):
        pass


if __name__ == "__main__":
    main()
