"""Who never stops calling: streams that no fault may cut, and requests until one is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from harness.plane import Agent
from harness.talk import QUESTIONS, stream
from realm_client import RateLimited

#: Seconds of a stream in a debug build: some run across every moment of a fault.
TOKENS = 48


class Caller:
    """One client of one door, with one stream after the other."""

    def __init__(self, agent: Agent, tenant: str) -> None:
        self.agent = agent
        self.answers = 0
        self._tenant = tenant
        self._is_over = False

    async def run(self) -> None:
        """Streams until told to stop, and fails as a stream does."""
        async with self.agent.client(self._tenant) as client:
            while not self._is_over:
                question = QUESTIONS[self.answers % len(QUESTIONS)]
                assert (await stream(client, question, max_tokens=TOKENS)).text
                self.answers += 1

    def stop(self) -> None:
        """Lets the running stream come to its end."""
        self._is_over = True


@asynccontextmanager
async def calling(agents: Sequence[Agent], tenant: str) -> AsyncIterator[list[Caller]]:
    """Streams at every door within the block; all of them must end well."""
    callers = [Caller(agent, tenant) for agent in agents]
    async with asyncio.TaskGroup() as group:
        for caller in callers:
            group.create_task(caller.run())
        yield callers
        for caller in callers:
            caller.stop()


async def let_in(agent: Agent, name: str) -> int:
    """Requests in a row that a door admits before it refuses one."""
    admitted = 0
    async with agent.client(name) as client:
        while True:
            try:
                await client.metadata()
            except RateLimited:
                return admitted
            admitted += 1
