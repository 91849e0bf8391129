"""One socket: carries frames between the state machine and the calls that run on it.

Two tasks own the socket: one reads, one writes. Neither ever waits for a caller.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from realm_client import protocol
from realm_client.backoff import Clock
from realm_client.errors import RealmError
from realm_client.protocol import Connection
from realm_client.request import Request
from realm_client.running import Sink

log = logging.getLogger("realm_client")

#: The close code of a socket that was cut without a close frame.
_CLOSE_CUT = 1006


class Session:
    """One connection that was opened, with its calls. Made by `connect.open_session`."""

    def __init__(self, socket: ClientConnection, connection: Connection, clock: Clock) -> None:
        self._socket = socket
        self._connection = connection
        self._clock = clock
        self._calls: dict[str, Sink] = {}
        # At most one call and one cancel for each place, and the first frame: bounded by CALLS_MAX.
        self._outbox: list[str] = []
        self._close_code: int | None = None
        self._outbox_changed = asyncio.Event()
        self._places_changed = asyncio.Event()
        self._ready: asyncio.Future[protocol.Ready] = asyncio.get_running_loop().create_future()
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def accepts_calls(self) -> bool:
        """Whether new calls may start here, places apart."""
        return self._connection.accepts_calls

    @property
    def has_place(self) -> bool:
        """Whether one more call may start now."""
        return self.accepts_calls and self._connection.calls < protocol.CALLS_MAX

    async def begin(self) -> protocol.Ready:
        """Starts the tasks and waits until the server is ready for calls."""
        self._connection.opened(self._clock.now())
        self._tasks = [
            asyncio.create_task(self._read(), name="realm-client-read"),
            asyncio.create_task(self._write(), name="realm-client-write"),
        ]
        self._follow()
        return await self._ready

    def start(self, request: Request, sink: Sink) -> Callable[[], None]:
        """Starts a call whose answer goes to `sink`, and gives the way to cancel it."""
        call_id = self._connection.start(request, self._clock.now())
        self._calls[call_id] = sink
        self._follow()
        return lambda: self._cancel(call_id)

    async def place_changed(self) -> None:
        """Waits until a call has ended or the connection takes no more."""
        self._places_changed.clear()
        await self._places_changed.wait()

    async def close(self) -> None:
        """Ends running calls and closes the socket."""
        self._connection.closed(protocol.CLOSE_NORMAL, "this client was closed")
        self._follow()
        await self._socket.close(protocol.CLOSE_NORMAL)
        await self.wait_closed()

    async def wait_closed(self) -> None:
        """Waits until both tasks are done."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    def abort(self) -> None:
        """Drops the socket at once."""
        for task in self._tasks:
            task.cancel()
        self._stop_timer()
        self._socket.transport.abort()

    def _cancel(self, call_id: str) -> None:
        self._calls.pop(call_id, None)
        self._connection.cancel(call_id, self._clock.now())
        self._follow()

    async def _read(self) -> None:
        code, reason = _CLOSE_CUT, ""
        try:
            while True:
                message = await self._socket.recv()
                self._connection.received(message, self._clock.now())
                self._follow()
                # One turn of the loop, so that readers keep up with frames that arrived together.
                await asyncio.sleep(0)
        except ConnectionClosed as closed:
            if closed.rcvd is not None:
                code, reason = closed.rcvd.code, closed.rcvd.reason
            elif closed.sent is not None:
                reason = closed.sent.reason
        finally:
            self._connection.closed(code, reason)
            self._follow()

    async def _write(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            while self._close_code is None:
                while self._outbox:
                    await self._socket.send(self._outbox.pop(0))
                if self._close_code is None:
                    self._outbox_changed.clear()
                    await self._outbox_changed.wait()
            await self._socket.close(self._close_code)

    def _follow(self) -> None:
        """Does what the state machine says after each thing that happened to it."""
        for event in self._connection.take_events():
            self._on_event(event)
        self._outbox.extend(self._connection.take_frames())
        if self._connection.retiring and self._connection.live_calls == 0:
            self._shut(protocol.CLOSE_NORMAL)
        self._outbox_changed.set()
        self._places_changed.set()
        self._set_timer()

    def _on_event(self, event: protocol.Event) -> None:
        match event:
            case protocol.Ready():
                if not self._ready.done():
                    self._ready.set_result(event)
            case protocol.ChunkReceived(call_id, chunk):
                if (call := self._calls.get(call_id)) is not None:
                    call.feed(chunk)
            case protocol.CallCompleted(call_id, completion):
                if (call := self._calls.pop(call_id, None)) is not None:
                    call.complete(completion)
            case protocol.CallFailed(call_id, error):
                if (call := self._calls.pop(call_id, None)) is not None:
                    call.fail(error)
            case protocol.Retiring(reason, resume):
                log.info("no new calls on this connection: %s", reason)
                for call in list(self._calls.values()) if resume else ():
                    call.retire()
            case protocol.Ended(error, close_code):
                self._on_end(error, close_code)

    def _on_end(self, error: RealmError, close_code: int | None) -> None:
        if not self._ready.done():
            self._ready.set_exception(error)
            # Nobody may be waiting any more; the error is then nobody's to see.
            self._ready.exception()
        self._outbox.clear()
        self._shut(protocol.CLOSE_NORMAL if close_code is None else close_code)

    def _shut(self, code: int) -> None:
        if self._close_code is None:
            self._close_code = code

    def _set_timer(self) -> None:
        self._stop_timer()
        at = self._connection.next_tick_at()
        if at is not None:
            delay_s = max(0.0, at - self._clock.now())
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._tick)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._connection.tick(self._clock.now())
        self._follow()
