"""Why a call was not served, or not to its end: one class per family of wire codes."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from realm_client.reply import Chunk


class RealmError(Exception):
    """Any failure of this client. A code this release does not know arrives as this very class.

    `code` is stable and for programs, `message` is for people. `retry_after` is in seconds, where
    the server knows it. `chunks` is what had arrived of a streamed reply before it failed.
    """

    #: Whether the same call may succeed later, without anything being changed.
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, code: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.retry_after = retry_after
        self.chunks: tuple[Chunk, ...] = ()

    @property
    def text(self) -> str:
        """The text that had arrived before the failure."""
        return "".join(chunk.text or "" for chunk in self.chunks)

    def __str__(self) -> str:
        return f"{self.message} ({self.code})"


class Unauthenticated(RealmError):
    """The API key is missing, wrong, expired or revoked; the server does not say which."""


class NotAllowed(RealmError):
    """The tenant is suspended or was not granted what the call names."""


class InvalidRequest(RealmError):
    """The call itself is wrong: a parameter, its size, or a prompt longer than the context."""


class NotFound(RealmError):
    """The server knows no function, model or pipeline of that name."""


class RateLimited(RealmError):
    """One of the tenant's limits is spent; `retry_after` says when it refills."""

    retryable = True


class Busy(RealmError):
    """The server has no place or is starting, or the model or the program is not ready yet."""

    retryable = True


class Draining(RealmError):
    """The server is going away and takes no new calls."""

    retryable = True


class Moved(RealmError):
    """The server went away before the call's end; another one can serve it from the start."""

    retryable = True


class DeadlineExceeded(RealmError):
    """The call took longer than its deadline."""


class SlowReader(RealmError):
    """Chunks were read more slowly than they arrived, and the room for unread ones is spent."""


class CallCancelled(RealmError):
    """The call was cancelled before its end."""


class ProgramError(RealmError):
    """The tenant's own program failed or went over one of its limits."""


class ServerError(RealmError):
    """The server failed; its log has the cause."""


class ConnectionLost(RealmError):
    """The connection could not be made, or was cut before the call's end."""

    retryable = True

    def __init__(self, message: str, *, code: str = "connection_lost") -> None:
        super().__init__(message, code=code)


class InsecureServer(RealmError):
    """The server's certificate does not prove that it is the server asked for."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="insecure_server")


class ProtocolError(RealmError):
    """The server said something that `realm.v1` does not allow."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="protocol_error")


_CLASSES: dict[str, type[RealmError]] = {
    "unauthenticated": Unauthenticated,
    "suspended": NotAllowed,
    "not_allowed": NotAllowed,
    "unknown_function": NotFound,
    "unknown_model": NotFound,
    "unknown_pipeline": NotFound,
    "invalid": InvalidRequest,
    "too_large": InvalidRequest,
    "too_long": InvalidRequest,
    "unsupported": InvalidRequest,
    "too_many_requests": RateLimited,
    "too_many_tokens": RateLimited,
    "too_many_calls": RateLimited,
    "model_not_ready": Busy,
    "program_not_ready": Busy,
    "busy": Busy,
    "starting": Busy,
    "draining": Draining,
    "moved": Moved,
    "deadline_exceeded": DeadlineExceeded,
    "slow_reader": SlowReader,
    "cancelled": CallCancelled,
    "program_memory": ProgramError,
    "program_fuel": ProgramError,
    "program_host_calls": ProgramError,
    "program_output": ProgramError,
    "program_failed": ProgramError,
    "internal": ServerError,
}


def from_code(code: str, message: str, retry_after: float | None = None) -> RealmError:
    """The error that stands for a code on the wire."""
    return _CLASSES.get(code, RealmError)(message, code=code, retry_after=retry_after)
