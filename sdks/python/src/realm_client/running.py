"""One call on one connection: what has arrived of it, and what its reader has taken."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from realm_client.errors import CallCancelled, RealmError, SlowReader
from realm_client.reply import Chunk, Completion

#: Chunks that may wait for a slow reader before its call ends.
#:
#: A chunk is mostly one token: at 50 tokens a second this is twenty seconds, longer than any pause
#: a program makes while it still wants the stream.
CHUNKS_UNREAD_MAX = 1024


class Sink(Protocol):
    """Where a session puts what arrives of a call."""

    def feed(self, chunk: Chunk) -> None:
        """A chunk arrived."""
        ...

    def complete(self, completion: Completion) -> None:
        """The call was served; nothing follows."""
        ...

    def fail(self, error: RealmError) -> None:
        """The call ended with a failure; nothing follows."""
        ...

    def retire(self) -> None:
        """The server goes away; the call goes on for a while."""
        ...


class RunningCall:
    """Fed as frames arrive, read by the stream. One reader at a time."""

    def __init__(self, unread_max: int) -> None:
        self._unread_max = unread_max
        self._cancel: Callable[[], None] = lambda: None
        self._chunks: list[Chunk] = []
        self._taken = 0
        self._collecting = False
        self._completion: Completion | None = None
        self._error: RealmError | None = None
        self._changed = asyncio.Event()

    @property
    def chunks(self) -> tuple[Chunk, ...]:
        """All chunks so far, read or not."""
        return tuple(self._chunks)

    @property
    def ended(self) -> bool:
        """Whether nothing more will arrive."""
        return self._completion is not None or self._error is not None

    def attach(self, cancel: Callable[[], None]) -> None:
        """`cancel` tells the server; it is called at most once, and not after the end."""
        self._cancel = cancel

    def retire(self) -> None:
        """A call that cannot be resumed goes on where it is."""

    def feed(self, chunk: Chunk) -> None:
        """A chunk arrived."""
        if self.ended:
            return
        self._chunks.append(chunk)
        self._changed.set()
        unread = len(self._chunks) - self._taken
        if unread > self._unread_max and not self._collecting:
            self._cancel()
            message = f"{unread} chunks of the reply were waiting to be read"
            self.fail(SlowReader(message, code="slow_reader"))

    def complete(self, completion: Completion) -> None:
        """The call was served."""
        if not self.ended:
            self._completion = completion
            self._changed.set()

    def fail(self, error: RealmError) -> None:
        """The call ended with a failure."""
        if not self.ended:
            error.chunks = self.chunks
            self._error = error
            self._changed.set()

    def cancel(self) -> None:
        """Ends the call from this side."""
        if not self.ended:
            self._cancel()
            self.fail(CallCancelled("the call was cancelled", code="cancelled"))

    async def next(self) -> Chunk | None:
        """The next chunk, `None` after the last of a call that was served."""
        while self._taken == len(self._chunks):
            if self._completion is not None:
                return None
            if self._error is not None:
                raise self._error
            await self._wait()
        chunk = self._chunks[self._taken]
        self._taken += 1
        return chunk

    async def end(self) -> Completion:
        """The end of the call; chunks are kept, however many they are."""
        self._collecting = True
        try:
            while self._completion is None:
                if self._error is not None:
                    raise self._error
                await self._wait()
        finally:
            self._collecting = False
        return self._completion

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()
