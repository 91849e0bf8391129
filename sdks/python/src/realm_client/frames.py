"""The frames of `realm.v1`: bytes of the server to typed frames, calls to bytes. Pure."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import NoReturn, TypeAlias

from realm_client.errors import InvalidRequest, RealmError, from_code
from realm_client.fields import FieldError, Fields, item_count
from realm_client.reply import Chunk, Completion, Json, Progress, Quota, Usage
from realm_client.request import Request
from realm_client.scored import decode_logprobs

#: The name both sides agree on in the upgrade.
SUBPROTOCOL = "realm.v1"

#: The largest message a server takes; larger ones are refused here, where only one call suffers.
MESSAGE_BYTES_MAX = 1 << 20

#: The largest message a server sends; a larger one breaks the protocol and ends the connection.
SERVER_MESSAGE_BYTES_MAX = 8 << 20


class FrameError(ValueError):
    """A frame that `realm.v1` does not know; `call_id` is the call it spoiled, where it says."""

    def __init__(self, message: str, call_id: str | None = None) -> None:
        super().__init__(message)
        self.call_id = call_id


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """Why something was refused, as it was on the wire."""

    code: str
    message: str
    retry_after: float | None

    def to_error(self) -> RealmError:
        """A new exception; each call that fails gets its own."""
        return from_code(self.code, self.message, self.retry_after)


@dataclass(frozen=True, slots=True)
class ReadyFrame:
    tenant: str
    version: str


@dataclass(frozen=True, slots=True)
class GoingAwayFrame:
    grace_s: float
    resume: bool


@dataclass(frozen=True, slots=True)
class ConnectionErrorFrame:
    error: ErrorBody


@dataclass(frozen=True, slots=True)
class ChunkFrame:
    call_id: str
    chunk: Chunk


@dataclass(frozen=True, slots=True)
class CompleteFrame:
    call_id: str
    completion: Completion


@dataclass(frozen=True, slots=True)
class ErrorFrame:
    call_id: str
    error: ErrorBody


@dataclass(frozen=True, slots=True)
class CancelledFrame:
    call_id: str


@dataclass(frozen=True, slots=True)
class UnknownFrame:
    """A notice of a newer server. Notices may be added to `realm.v1`; calls stay as they are."""

    kind: str


CallFrame: TypeAlias = ChunkFrame | CompleteFrame | ErrorFrame | CancelledFrame
ServerFrame: TypeAlias = (
    ReadyFrame | GoingAwayFrame | ConnectionErrorFrame | CallFrame | UnknownFrame
)


def decode(message: str | bytes) -> ServerFrame:
    """Reads one message of the server's."""
    if not isinstance(message, str):
        raise FrameError("a binary message")
    try:
        fields = Fields(json.loads(message, parse_constant=_refuse_constant), "frame")
        if not fields.has("id"):
            return _decode_notice(fields)
        call_id = fields.text("id")
    except (ValueError, RecursionError) as error:
        raise FrameError(f"a frame that cannot be read: {error}") from error
    try:
        return _decode_call(call_id, fields)
    except FieldError as error:
        raise FrameError(str(error), call_id) from error


def encode_auth(api_key: str) -> str:
    """The first frame where the key is not in the upgrade request."""
    return _encode({"type": "auth", "api_key": api_key})


def encode_cancel(call_id: str) -> str:
    """Ends a running call."""
    return _encode({"type": "cancel", "id": call_id})


def encode_call(call_id: str, request: Request, deadline_ms: int | None) -> str:
    """Starts a call; what the server would not even parse is refused here."""
    frame: dict[str, Json] = {
        "type": "call",
        "id": call_id,
        "function": request.function,
        "params": request.params,
        "stream": request.stream,
    }
    if request.resumable:
        frame["resumable"] = True
    if request.resume is not None:
        frame["resume"] = dataclasses.asdict(request.resume)
    if deadline_ms is not None:
        frame["deadline_ms"] = deadline_ms
    if request.trace is not None:
        frame["traceparent"] = request.trace.traceparent
        if request.trace.tracestate:
            frame["tracestate"] = request.trace.tracestate
    try:
        text = _encode(frame)
        size = len(text.encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"the parameters are not JSON: {error}", code="invalid") from error
    if size > MESSAGE_BYTES_MAX:
        raise InvalidRequest(
            f"the call has {size} bytes and a message holds {MESSAGE_BYTES_MAX}", code="too_large"
        )
    return text


def decode_error(value: Json) -> ErrorBody:
    """An error object, in a frame or in the body of a refused upgrade."""
    fields = Fields(value, "error")
    retry_after_ms = fields.optional("retry_after_ms", fields.number)
    return ErrorBody(
        code=fields.text("code"),
        message=fields.text("message"),
        retry_after=None if retry_after_ms is None else retry_after_ms / 1000,
    )


def _encode(frame: dict[str, Json]) -> str:
    # Without escapes a lone surrogate fails in `str.encode` here, not in the server's parser.
    return json.dumps(frame, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _decode_notice(fields: Fields) -> ServerFrame:
    match fields.text("type"):
        case "ready":
            return ReadyFrame(tenant=fields.text("tenant"), version=fields.text("version"))
        case "going_away":
            grace_s = fields.number("grace_ms") / 1000
            return GoingAwayFrame(grace_s, resume=fields.optional("resume", fields.flag) or False)
        case "error":
            return ConnectionErrorFrame(decode_error(fields.raw("error")))
        case kind:
            return UnknownFrame(kind)


def _decode_call(call_id: str, fields: Fields) -> CallFrame:
    match fields.text("status"):
        case "streaming":
            return ChunkFrame(call_id, _decode_chunk(fields))
        case "complete":
            return CompleteFrame(call_id, _decode_completion(fields))
        case "error":
            return ErrorFrame(call_id, decode_error(fields.raw("error")))
        case "cancelled":
            return CancelledFrame(call_id)
        case status:
            raise FieldError(f"frame.status is `{status}`")


def _decode_chunk(fields: Fields) -> Chunk:
    index = fields.count("index")
    data = fields.object("data")
    text = data.optional("text", data.text)
    if text is None and "value" not in data:
        raise FieldError("frame.data has neither text nor value")
    step = data.optional("step", data.text)
    progress = _decode_progress(fields.object("progress")) if fields.has("progress") else None
    return Chunk(
        index=index,
        text=text,
        step=step,
        value=data.raw("value"),
        progress=progress,
        logprobs=decode_logprobs(data),
    )


def _decode_progress(fields: Fields) -> Progress:
    return Progress(
        first=fields.count("first"),
        tokens=fields.items("tokens", item_count),
        seed=fields.optional("seed", fields.count),
    )


def _decode_completion(fields: Fields) -> Completion:
    return Completion(
        data=fields.raw("data"),
        finish=fields.optional("finish", fields.text),
        usage=_decode_usage(fields.object("usage")) if fields.has("usage") else None,
        quota=_decode_quota(fields.object("quota")) if fields.has("quota") else None,
    )


def _decode_usage(fields: Fields) -> Usage:
    return Usage(
        prompt_tokens=fields.count("prompt_tokens"),
        cached_tokens=fields.count("cached_tokens"),
        completion_tokens=fields.count("completion_tokens"),
    )


def _decode_quota(fields: Fields) -> Quota:
    return Quota(
        requests=fields.optional("requests", fields.count),
        input_tokens=fields.optional("input_tokens", fields.count),
        output_tokens=fields.optional("output_tokens", fields.count),
    )
