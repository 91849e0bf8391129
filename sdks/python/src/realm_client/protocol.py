"""One connection of `realm.v1` as a state machine: no socket, no clock, no task.

The owner tells it what happened (`opened`, `received`, `closed`, `tick`, `start`, `cancel`), each
with the time, then takes what follows from that: `take_frames` for the socket, `take_events` for
the callers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from realm_client import frames
from realm_client.errors import (
    CallCancelled,
    ConnectionLost,
    DeadlineExceeded,
    Draining,
    ProtocolError,
    RateLimited,
    RealmError,
    Unauthenticated,
)
from realm_client.frames import ErrorBody, FrameError
from realm_client.reply import Chunk, Completion
from realm_client.request import Request

#: Calls that may run at once on one connection; the server's own limit.
CALLS_MAX = 64

#: How long `ready` may take: the server gives a client 10 s to authenticate; 5 s are for the way.
READY_S_MAX = 15.0

#: How long the answer to a cancel may take before the call's place is given to another. An engine
#: step takes well under a second; the rest is for a network that comes back.
CANCEL_S_MAX = 10.0

#: How much later than its deadline the server's own answer may arrive before this side gives up.
DEADLINE_SLACK_S = 2.0

#: All that one call may answer. Some 10 million tokens of text: a bound on memory, not on use.
REPLY_BYTES_MAX = 64 << 20

CLOSE_NORMAL = 1000
CLOSE_GOING_AWAY = 1001
CLOSE_PROTOCOL_ERROR = 1002
CLOSE_UNAUTHENTICATED = 4401
CLOSE_AUTH_TOO_LATE = 4408


@dataclass(frozen=True, slots=True)
class Ready:
    """The server knows the caller; calls may start."""

    tenant: str
    version: str


@dataclass(frozen=True, slots=True)
class ChunkReceived:
    """The next piece of a running call."""

    call_id: str
    chunk: Chunk


@dataclass(frozen=True, slots=True)
class CallCompleted:
    """A call was served to its end."""

    call_id: str
    completion: Completion


@dataclass(frozen=True, slots=True)
class CallFailed:
    """A call ended with a failure, the server's or this side's."""

    call_id: str
    error: RealmError


@dataclass(frozen=True, slots=True)
class Retiring:
    """No new calls here any more; `reason` says why. Running ones go on.

    With `resume` the server asks for those that can be resumed to be resumed elsewhere.
    """

    reason: str
    resume: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """The connection is over. The socket is still to be closed where `close_code` is given."""

    error: RealmError
    close_code: int | None


Event: TypeAlias = Ready | ChunkReceived | CallCompleted | CallFailed | Retiring | Ended


@dataclass(slots=True)
class _Call:
    """What is known of one call that the server has not ended."""

    deadline_at: float | None
    next_index: int = 0
    reply_bytes: int = 0
    answered: bool = False
    given_up_at: float | None = None  # a cancel was sent; whatever still comes is dropped


class Connection:
    """The state of one connection and of the calls on it."""

    def __init__(self, *, api_key: str | None = None) -> None:
        """With an `api_key` the first frame carries it; without, the upgrade request did."""
        self._api_key = api_key
        self._ready = False
        self._ready_by: float | None = None
        self._retiring = False
        self._ended = False
        self._complaint: ErrorBody | None = None
        self._calls: dict[str, _Call] = {}
        self._last_id = 0
        self._frames: list[str] = []
        self._events: list[Event] = []

    @property
    def accepts_calls(self) -> bool:
        """Whether `start` may be called, places apart."""
        return self._ready and not self._retiring and not self._ended

    @property
    def retiring(self) -> bool:
        """Whether the connection only waits for its running calls."""
        return self._retiring

    @property
    def calls(self) -> int:
        """Places taken: running calls, and cancelled ones the server has not ended yet."""
        return len(self._calls)

    @property
    def live_calls(self) -> int:
        """Calls somebody still waits for."""
        return sum(call.given_up_at is None for call in self._calls.values())

    def take_frames(self) -> list[str]:
        """The messages to send, in order."""
        taken, self._frames = self._frames, []
        return taken

    def take_events(self) -> list[Event]:
        """What happened since the last time."""
        taken, self._events = self._events, []
        return taken

    def next_tick_at(self) -> float | None:
        """When `tick` has something to do, if nothing else happens before."""
        return min(self._limits(), default=None)

    def opened(self, now: float) -> None:
        """The upgrade is through."""
        self._ready_by = now + READY_S_MAX
        if self._api_key is not None:
            self._frames.append(frames.encode_auth(self._api_key))

    def start(self, request: Request, now: float) -> str:
        """Starts a call and names it."""
        self._check_start()
        call_id = str(self._last_id + 1)
        deadline_s = request.deadline_s
        deadline_ms = None if deadline_s is None else max(1, math.ceil(deadline_s * 1000))
        frame = frames.encode_call(call_id, request, deadline_ms)
        self._last_id += 1
        deadline_at = None if deadline_s is None else now + deadline_s
        self._calls[call_id] = _Call(deadline_at)
        self._frames.append(frame)
        return call_id

    def cancel(self, call_id: str, now: float) -> None:
        """Gives a call up: no event follows for it. A call that has ended stays ended."""
        call = self._calls.get(call_id)
        if call is not None and call.given_up_at is None:
            call.given_up_at = now
            self._frames.append(frames.encode_cancel(call_id))

    def received(self, message: str | bytes, now: float) -> None:
        """A message came in."""
        if self._ended:
            return
        try:
            frame = frames.decode(message)
        except FrameError as error:
            self._refuse_frame(error, now)
            return
        match frame:
            case frames.ReadyFrame():
                self._on_ready(frame)
            case frames.GoingAwayFrame(grace_s, resume):
                reason = f"the server is going away and waits {grace_s:g} s for running calls"
                self._retire(reason, resume=resume)
            case frames.ConnectionErrorFrame(error_body):
                self._on_complaint(error_body, now)
            case frames.UnknownFrame():
                pass
            case _:
                self._on_call_frame(frame, len(message), now)

    def closed(self, code: int, reason: str) -> None:
        """The socket is closed or was cut (code 1006)."""
        if not self._ended:
            self._end(_CloseCause(code, reason, self._complaint, ready=self._ready), None)

    def tick(self, now: float) -> None:
        """Time has passed."""
        if not self._ready and self._ready_by is not None and now >= self._ready_by:
            self._end(_Cause("the server did not answer the authentication in time"), CLOSE_NORMAL)
        for call_id, call in list(self._calls.items()):
            limit = _limit_of(call)
            if limit is None or now < limit:
                continue
            if call.given_up_at is not None:
                del self._calls[call_id]
            else:
                self._fail(call_id, _deadline_error(), now)

    def _check_start(self) -> None:
        if self._ended or not self._ready:
            raise ConnectionLost("the connection is not open")
        if self._retiring:
            raise Draining("this connection takes no new calls", code="draining")
        if len(self._calls) >= CALLS_MAX:
            raise RateLimited(f"more than {CALLS_MAX} calls at once", code="too_many_calls")

    def _limits(self) -> Iterator[float]:
        if self._ended:
            return
        if not self._ready and self._ready_by is not None:
            yield self._ready_by
        for call in self._calls.values():
            limit = _limit_of(call)
            if limit is not None:
                yield limit

    def _on_ready(self, frame: frames.ReadyFrame) -> None:
        if self._ready:
            self._end(_Violation("a second `ready`"), CLOSE_PROTOCOL_ERROR)
            return
        self._ready = True
        self._events.append(Ready(frame.tenant, frame.version))

    def _on_complaint(self, error: ErrorBody, now: float) -> None:
        """The server refused a frame without saying which.

        No call that has had no answer can count on one: such calls fail rather than wait for ever.
        Those that were answered go on.
        """
        self._complaint = error
        if not self._ready:
            return  # a close with the cause follows
        self._retire(f"the server refused a frame: {error.message}")
        for call_id, call in list(self._calls.items()):
            if not call.answered and call.given_up_at is None:
                self._fail(call_id, error.to_error(), now)

    def _on_call_frame(self, frame: frames.CallFrame, size: int, now: float) -> None:
        call = self._calls.get(frame.call_id)
        if call is None:
            self._on_stray(frame.call_id)
            return
        call.answered = True
        if not isinstance(frame, frames.ChunkFrame):
            self._on_last_frame(frame, given_up=call.given_up_at is not None)
        elif call.given_up_at is None:
            call.reply_bytes += size
            self._on_chunk(frame, call, now)

    def _on_chunk(self, frame: frames.ChunkFrame, call: _Call, now: float) -> None:
        index = frame.chunk.index
        if index != call.next_index:
            error = ProtocolError(f"chunk {index} came where {call.next_index} was due")
            self._fail(frame.call_id, error, now)
        elif call.reply_bytes > REPLY_BYTES_MAX:
            error = ProtocolError(f"the reply has more than {REPLY_BYTES_MAX} bytes")
            self._fail(frame.call_id, error, now)
        else:
            call.next_index += 1
            self._events.append(ChunkReceived(frame.call_id, frame.chunk))

    def _on_last_frame(
        self,
        frame: frames.CompleteFrame | frames.ErrorFrame | frames.CancelledFrame,
        *,
        given_up: bool,
    ) -> None:
        del self._calls[frame.call_id]
        if given_up:
            return
        match frame:
            case frames.CompleteFrame(call_id, completion):
                self._events.append(CallCompleted(call_id, completion))
            case frames.ErrorFrame(call_id, error):
                self._events.append(CallFailed(call_id, error.to_error()))
            case frames.CancelledFrame(call_id):
                error_ = CallCancelled("the server cancelled the call", code="cancelled")
                self._events.append(CallFailed(call_id, error_))

    def _on_stray(self, call_id: str) -> None:
        """A frame of a call that ended is late news of one given up; any other id is made up."""
        if not self._was_issued(call_id):
            self._end(_Violation("a frame of a call nobody made"), CLOSE_PROTOCOL_ERROR)

    def _was_issued(self, call_id: str) -> bool:
        # The length first: a number of a megabyte would take long to read.
        if len(call_id) > len(str(self._last_id)) or not call_id.isascii():
            return False
        return call_id.isdigit() and 0 < int(call_id) <= self._last_id

    def _refuse_frame(self, error: FrameError, now: float) -> None:
        call_id = error.call_id
        if call_id is None or not self._was_issued(call_id):
            self._end(_Violation(str(error)), CLOSE_PROTOCOL_ERROR)
        elif call_id in self._calls and self._calls[call_id].given_up_at is None:
            self._fail(call_id, ProtocolError(str(error)), now)

    def _fail(self, call_id: str, error: RealmError, now: float) -> None:
        self._events.append(CallFailed(call_id, error))
        self.cancel(call_id, now)

    def _retire(self, reason: str, *, resume: bool = False) -> None:
        if not self._retiring:
            self._retiring = True
            self._events.append(Retiring(reason, resume))

    def _end(self, cause: _Cause, close_code: int | None) -> None:
        self._ended = True
        for call_id, call in self._calls.items():
            if call.given_up_at is None:
                self._events.append(CallFailed(call_id, cause.to_error()))
        self._calls.clear()
        self._frames.clear()
        self._events.append(Ended(cause.to_error(), close_code))


class _Cause:
    """Why a connection ended; makes one exception for each call it takes along."""

    def __init__(self, message: str) -> None:
        self._message = message

    def to_error(self) -> RealmError:
        return ConnectionLost(self._message)


class _Violation(_Cause):
    """The server broke the protocol."""

    def to_error(self) -> RealmError:
        return ProtocolError(self._message)


class _CloseCause(_Cause):
    """The socket was closed by the server, or cut.

    `complaint` is what the server had said about the connection. Before `ready` it is the reason
    of the close; later it is only the likely one, and running calls are not to blame for it.
    """

    def __init__(self, code: int, reason: str, complaint: ErrorBody | None, *, ready: bool) -> None:
        said = reason if complaint is None else complaint.message
        said = said or _CLOSE_TEXT.get(code, "the server gave no reason")
        super().__init__(f"the connection was closed ({code}): {said}")
        self._code = code
        self._refusal = None if ready else complaint

    def to_error(self) -> RealmError:
        if self._refusal is not None:
            return self._refusal.to_error()
        if self._code in {CLOSE_UNAUTHENTICATED, CLOSE_AUTH_TOO_LATE}:
            return Unauthenticated(self._message, code="unauthenticated")
        return super().to_error()


_CLOSE_TEXT = {
    CLOSE_NORMAL: "the server is done with it",
    CLOSE_GOING_AWAY: "the server is shutting down",
    1006: "it was cut",
    1009: "a message was too big",
    CLOSE_UNAUTHENTICATED: "the API key was refused",
    CLOSE_AUTH_TOO_LATE: "the authentication came too late",
}


def _limit_of(call: _Call) -> float | None:
    if call.given_up_at is not None:
        return call.given_up_at + CANCEL_S_MAX
    return None if call.deadline_at is None else call.deadline_at + DEADLINE_SLACK_S


def _deadline_error() -> RealmError:
    return DeadlineExceeded("the call's deadline has passed", code="deadline_exceeded")
