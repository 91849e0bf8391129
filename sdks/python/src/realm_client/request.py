"""What a caller asks for, as sessions send it."""

from __future__ import annotations

from dataclasses import dataclass

from realm_client.answer import Resume
from realm_client.reply import Json


@dataclass(frozen=True, slots=True)
class Trace:
    """The caller's own span, in the words of W3C Trace Context."""

    traceparent: str
    tracestate: str | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One call, or one more leg of it."""

    function: str
    params: dict[str, Json]
    stream: bool = True
    deadline_s: float | None = None
    resumable: bool = False
    resume: Resume | None = None
    trace: Trace | None = None
