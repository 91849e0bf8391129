"""Moves an answer from server to server: what is decided in `answer`, done.

An answer is brought by one call at a time, a *leg*. Where its server goes away, the leg goes on
until another server has taken over; where it was cut, the reader waits meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Protocol

from realm_client.answer import Answer
from realm_client.errors import ConnectionLost, DeadlineExceeded, ProtocolError, RealmError
from realm_client.policy import Policy
from realm_client.reply import Chunk, Completion
from realm_client.request import Request
from realm_client.running import RunningCall
from realm_client.session import Session


class Starter(Protocol):
    """Finds places for calls. The client is one."""

    @property
    def closed(self) -> bool:
        """Whether nothing can be started any more."""
        ...

    async def place(self) -> Session:
        """A session on which one more call may start now."""
        ...

    def spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Runs `work` beside the caller, until the client is closed at the latest."""
        ...


class _Leg:
    """The call on one connection."""

    def __init__(self, owner: Resuming, resumed: int) -> None:
        self._owner = owner
        self.resumed = resumed
        self.retiring = False
        self.gave = False  # tokens that were new
        self.cancel: Callable[[], None] = lambda: None
        self._settled: asyncio.Future[RealmError | None] = (
            asyncio.get_running_loop().create_future()
        )

    async def settled(self) -> RealmError | None:
        """Waits until the leg has taken over or is not needed; an error where it was refused."""
        return await self._settled

    def settle(self, failure: RealmError | None) -> None:
        if not self._settled.done():
            self._settled.set_result(failure)

    def feed(self, chunk: Chunk) -> None:
        self._owner.on_chunk(self, chunk)

    def complete(self, completion: Completion) -> None:
        self._owner.on_complete(self, completion)

    def fail(self, error: RealmError) -> None:
        self._owner.on_fail(self, error)

    def retire(self) -> None:
        self._owner.on_retire(self)


class Resuming:
    """One answer and its legs. What they bring goes to `running`, which the caller reads."""

    def __init__(
        self,
        starter: Starter,
        request: Request,
        policy: Policy,
        left_s: Callable[[], float | None],
        running: RunningCall,
    ) -> None:
        """`left_s` gives what is left of the call's deadline, and raises when nothing is."""
        self._starter = starter
        self._request = request
        self._policy = policy
        self._left_s = left_s
        self._running = running
        self._answer = Answer()
        self._current: _Leg | None = None
        self._candidate: _Leg | None = None
        # What the current leg brings while a candidate is asked to go on from before it: as many
        # chunks as may wait for a reader, who cannot have them yet.
        self._held: list[Chunk] = []
        self._cause: RealmError | None = None
        self._attempts = 0
        self._since = policy.clock.now()
        self._mover: asyncio.Task[None] | None = None

    def begin(self, session: Session) -> None:
        """Starts the first leg."""
        self._current = self._start(session)

    def cancel(self) -> None:
        """Gives the answer up, wherever it is made."""
        if self._mover is not None:
            self._mover.cancel()
        for leg in (self._current, self._candidate):
            if leg is not None:
                leg.cancel()
                leg.settle(None)
        self._current = self._candidate = None

    def on_chunk(self, leg: _Leg, chunk: Chunk) -> None:
        """A leg brings a piece."""
        if leg is self._candidate:
            self._adopt(leg)
        if leg is not self._current:
            return
        if self._candidate is None:
            self._feed(leg, chunk)
            return
        self._held.append(chunk)
        if len(self._held) >= self._policy.unread_max:
            self._stop_waiting(self._candidate)

    def on_complete(self, leg: _Leg, completion: Completion) -> None:
        """A leg came to the answer's end."""
        if leg is self._candidate:
            self._adopt(leg)
        if leg is not self._current:
            return
        self._release()
        if self._candidate is not None:
            self._candidate.cancel()
            self._candidate.settle(None)
        self._current = self._candidate = None
        self._running.complete(self._answer.whole(completion, leg.resumed))

    def on_fail(self, leg: _Leg, error: RealmError) -> None:
        """A leg ended before the answer."""
        if leg is self._candidate:
            self._candidate = None
            self._release()
            leg.settle(error)
        elif leg is self._current:
            self._current = None
            self._cause = error
            if leg.gave:
                self._attempts = 0
                self._since = self._policy.clock.now()
            if self._candidate is not None:
                return  # it may still take over
            if self._starter.closed or not self._answer.survives(error):
                self._running.fail(error)
            else:
                self._move()

    def on_retire(self, leg: _Leg) -> None:
        """A leg's server goes away, and says that answers may be resumed."""
        leg.retiring = True
        if leg is self._current and self._answer.resumable:
            self._move()

    def _start(self, session: Session) -> _Leg:
        resume = self._answer.resume()
        leg = _Leg(self, 0 if resume is None else len(resume.tokens))
        request = replace(self._request, resume=resume, deadline_s=self._left_s())
        leg.cancel = session.start(request, leg)
        return leg

    def _feed(self, leg: _Leg | None, chunk: Chunk) -> None:
        before = self._answer.token_count
        try:
            numbered = self._answer.take(chunk)
        except ProtocolError as error:
            self.cancel()
            self._running.fail(error)
            return
        if self._answer.token_count > before:
            if leg is not None:
                leg.gave = True
            self._attempts = 0
        self._running.feed(numbered)

    def _release(self) -> None:
        """Nobody goes on from before what is held: it is the answer's, wherever it came from.

        The leg that brought it may have been cut meanwhile.
        """
        held, self._held = self._held, []
        for chunk in held:
            self._feed(self._current, chunk)

    def _stop_waiting(self, candidate: _Leg) -> None:
        """The reader has waited long enough for `candidate` while its server says nothing."""
        self._candidate = None
        candidate.cancel()
        self._release()
        candidate.settle(ConnectionLost("no server took over while the answer went on"))

    def _adopt(self, leg: _Leg) -> None:
        """`leg` has gone on from where it was asked to; the one before it is done."""
        old, self._current, self._candidate = self._current, leg, None
        self._held = []
        self._cause = None
        if old is not None:
            old.cancel()
        leg.settle(None)

    def _move(self) -> None:
        if self._mover is None or self._mover.done():
            self._mover = self._starter.spawn(self._moving())
            self._mover.add_done_callback(self._moved)

    async def _moving(self) -> None:
        """Finds a server that goes on; without one the answer ends where its leg does."""
        while not self._running.ended:
            failure = await self._find_in_time()
            if failure is not None:
                self._forget_candidate()
                if self._current is None:
                    self._give_up(failure)
                return
            if self._current is not None and not self._current.retiring:
                return
            # Cut again meanwhile, or its server goes away too.

    def _moved(self, mover: asyncio.Task[None]) -> None:
        """The search is over; one that was cancelled may not even have begun."""
        if mover.cancelled():
            self._forget_candidate()
            if self._current is None:
                self._running.fail(self._cause or ConnectionLost("the client is closed"))

    def _forget_candidate(self) -> None:
        """Nobody waits any more for a server to take over."""
        candidate, self._candidate = self._candidate, None
        if candidate is not None:
            candidate.cancel()
        self._release()

    async def _find_in_time(self) -> RealmError | None:
        try:
            async with asyncio.timeout(self._left_s()):
                return await self._find()
        except TimeoutError:
            return DeadlineExceeded("the call's deadline has passed", code="deadline_exceeded")
        except DeadlineExceeded as error:
            return error

    async def _find(self) -> RealmError | None:
        """Asks servers until one takes over; why none did when it is time to give up."""
        if self._attempts == 0:
            self._since = self._policy.clock.now()
        while True:
            self._attempts += 1
            failure = await self._ask()
            if failure is None or self._running.ended:
                return None
            elapsed_s = self._policy.clock.now() - self._since
            delay_s = self._policy.reconnect.delay_s(
                self._attempts, elapsed_s, failure, self._policy.rng
            )
            if delay_s is None or self._starter.closed or not self._answer.resumable:
                return failure
            await self._policy.clock.sleep(delay_s)

    async def _ask(self) -> RealmError | None:
        if self._attempts > self._policy.reconnect.attempts_max:
            return ConnectionLost("the answer was taken up again and again, and got no further")
        try:
            session = await self._starter.place()
            if self._running.ended:
                return None
            if not self._answer.resumable:
                return ConnectionLost("what has arrived since cannot be resumed")
            self._candidate = leg = self._start(session)
        except RealmError as error:
            return error
        return await leg.settled()

    def _give_up(self, failure: RealmError) -> None:
        """Says why the answer was cut; that nobody went on with it is the cause of the error."""
        self._release()
        error = self._cause
        if error is None or isinstance(failure, DeadlineExceeded):
            error = failure
        else:
            error.__cause__ = failure
        self._running.fail(error)
