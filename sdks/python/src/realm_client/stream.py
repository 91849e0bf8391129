"""One call as its caller holds it: starts when first read, ends when left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from types import TracebackType
from typing import Generic, TypeVar

from realm_client.errors import (
    CallCancelled,
    ConnectionLost,
    DeadlineExceeded,
    Draining,
    ProtocolError,
    RealmError,
)
from realm_client.fields import FieldError
from realm_client.policy import Policy
from realm_client.reply import Chunk, Completion
from realm_client.request import Request
from realm_client.resuming import Resuming, Starter
from realm_client.running import RunningCall
from realm_client.session import Session

R = TypeVar("R")
T = TypeVar("T")


class Stream(Generic[R]):
    """A call whose answer arrives in pieces.

    Iterate over it for the chunks, await `result()` for the whole, or do both in that order.
    The call starts with the first of these. Leaving the iteration early, leaving an `async with`
    block, or cancelling the task that waits cancels the call on the server too.
    """

    def __init__(
        self,
        starter: Starter,
        request: Request,
        finish: Callable[[tuple[Chunk, ...], Completion], R],
        policy: Policy,
    ) -> None:
        """Made by the client's methods."""
        self._starter = starter
        self._request = request
        self._finish = finish
        self._policy = policy
        self._call: RunningCall | None = None
        self._cancelled = False
        self._iterated = False
        self._began_at: float | None = None
        self._attempts = 0
        self._lock = asyncio.Lock()

    @property
    def chunks(self) -> tuple[Chunk, ...]:
        """All chunks that have arrived so far."""
        return () if self._call is None else self._call.chunks

    async def result(self) -> R:
        """Waits for the end and gives the whole answer."""
        try:
            completion = await self._read(RunningCall.end)
        except asyncio.CancelledError:
            self.cancel()
            raise
        try:
            return self._finish(self.chunks, completion)
        except FieldError as error:
            raise ProtocolError(str(error)) from error

    def cancel(self) -> None:
        """Ends the call; a call that has ended stays ended."""
        self._cancelled = True
        if self._call is not None:
            self._call.cancel()

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        if self._iterated:
            raise RuntimeError("a stream is iterated over once")
        self._iterated = True
        try:
            while (chunk := await self._read(RunningCall.next)) is not None:
                yield chunk
        finally:
            self.cancel()

    async def __aenter__(self) -> Stream[R]:
        async with self._lock:
            await self._running()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.cancel()

    async def _read(self, step: Callable[[RunningCall], Awaitable[T]]) -> T:
        """One step of reading; begins the call, and begins it again where the policy says so."""
        async with self._lock:
            while True:
                try:
                    return await step(await self._running())
                except RealmError as error:
                    delay_s = self._retry_delay_s(error)
                    if delay_s is None:
                        raise
                    self._call = None
                await self._policy.clock.sleep(delay_s)

    async def _running(self) -> RunningCall:
        if self._call is not None:
            return self._call
        if self._cancelled:
            raise CallCancelled("the call was cancelled", code="cancelled")
        left_s = self._deadline_left_s()
        self._attempts += 1
        try:
            async with asyncio.timeout(left_s):
                call = self._begin(await self._starter.place(), left_s)
        except TimeoutError as error:
            raise _deadline_error() from error
        self._call = call
        if self._cancelled:
            call.cancel()
        return call

    def _begin(self, session: Session, left_s: float | None) -> RunningCall:
        call = RunningCall(self._policy.unread_max)
        if self._request.resumable:
            resuming = Resuming(
                self._starter, self._request, self._policy, self._deadline_left_s, call
            )
            call.attach(resuming.cancel)
            resuming.begin(session)
        else:
            request = replace(self._request, deadline_s=left_s)
            call.attach(session.start(request, call))
        return call

    def _elapsed_s(self) -> float:
        now = self._policy.clock.now()
        if self._began_at is None:
            self._began_at = now
        return now - self._began_at

    def _deadline_left_s(self) -> float | None:
        if self._request.deadline_s is None:
            return None
        left_s = self._request.deadline_s - self._elapsed_s()
        if left_s <= 0:
            raise _deadline_error()
        return left_s

    def _retry_delay_s(self, error: RealmError) -> float | None:
        """How long to wait before the call is made again, `None` where the error is the answer."""
        if self._cancelled or self.chunks or isinstance(error, ConnectionLost):
            return None  # what was begun may not be begun twice; a call that was cut may have been
        if isinstance(error, Draining) and self._attempts == 1:
            return 0.0  # it crossed the `going_away` on its way; the next session takes it
        if self._policy.retry is None:
            return None
        elapsed_s = self._elapsed_s()
        delay_s = self._policy.retry.delay_s(self._attempts, elapsed_s, error, self._policy.rng)
        deadline_s = self._request.deadline_s
        if delay_s is not None and deadline_s is not None and elapsed_s + delay_s >= deadline_s:
            return None
        return delay_s


def _deadline_error() -> RealmError:
    return DeadlineExceeded("the call's deadline has passed", code="deadline_exceeded")
