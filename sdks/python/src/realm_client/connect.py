"""Opens one session, once: address, upgrade, authentication. Every failure is typed."""

from __future__ import annotations

import ipaddress
import json
import ssl
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.datastructures import Headers
from websockets.exceptions import (
    InvalidHandshake,
    InvalidMessage,
    InvalidProxy,
    InvalidStatus,
    ProxyError,
)
from websockets.typing import Subprotocol

from realm_client.backoff import Clock
from realm_client.errors import (
    Busy,
    ConnectionLost,
    InsecureServer,
    NotAllowed,
    ProtocolError,
    RealmError,
    Unauthenticated,
)
from realm_client.fields import FieldError, Fields
from realm_client.frames import SERVER_MESSAGE_BYTES_MAX, SUBPROTOCOL, decode_error
from realm_client.protocol import Connection
from realm_client.session import Session

#: Where the server listens, when the address names no path.
PATH = "/v1/ws"

#: How long TCP, TLS and the upgrade may take together.
OPEN_S_MAX = 10.0

#: The server pings every 20 s too and gives up after 60 s of silence; so does this side.
PING_S = 20.0
PONG_S_MAX = 40.0

#: How long the closing handshake may take before the socket is dropped.
CLOSE_S_MAX = 2.0

SendKey = Literal["header", "first_frame"]


@dataclass(frozen=True, slots=True)
class Target:
    """Where to connect, as whom."""

    url: str
    api_key: str = field(repr=False)
    ssl: ssl.SSLContext | None = None
    send_key: SendKey = "header"


@dataclass(frozen=True, slots=True)
class Opened:
    """A session that is ready for calls, and what its server said of itself."""

    session: Session
    tenant: str
    version: str


def to_ws_url(url: str) -> str:
    """The endpoint's address; `http` and `https` mean their WebSocket kin."""
    parts = urlsplit(url)
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    if scheme not in {"ws", "wss"} or not parts.hostname:
        raise ValueError(f"`{url}` is not an address like wss://host[:port]")
    if parts.username is not None or parts.fragment:
        raise ValueError("the address carries neither a user nor a fragment")
    path = PATH if parts.path in {"", "/"} else parts.path
    return urlunsplit((scheme, parts.netloc, path, parts.query, ""))


async def open_session(target: Target, clock: Clock) -> Opened:
    """Connects, upgrades, authenticates."""
    socket = await _open_socket(target)
    frame_key = target.api_key if target.send_key == "first_frame" else None
    session = Session(socket, Connection(api_key=frame_key), clock)
    try:
        ready = await session.begin()
    except BaseException:
        session.abort()
        raise
    return Opened(session, ready.tenant, ready.version)


class _Connect(connect):
    """The library's client, without redirects: the key goes to the named server alone."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


async def _open_socket(target: Target) -> ClientConnection:
    tls: dict[str, Any] = {} if target.ssl is None else {"ssl": target.ssl}
    try:
        socket = await _Connect(
            target.url,
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            additional_headers=_headers(target),
            # Frames are a few dozen bytes and must not wait for a compressor.
            compression=None,
            proxy=None if _is_loopback(target.url) else True,
            open_timeout=OPEN_S_MAX,
            ping_interval=PING_S,
            ping_timeout=PONG_S_MAX,
            close_timeout=CLOSE_S_MAX,
            max_size=SERVER_MESSAGE_BYTES_MAX,
            **tls,
        )
    except InvalidStatus as error:
        raise _refused_upgrade(error) from error
    except ssl.SSLCertVerificationError as error:
        raise InsecureServer(f"the server's certificate: {error.verify_message}") from error
    except (OSError, EOFError, InvalidMessage, ProxyError) as error:
        raise ConnectionLost(f"no connection to {target.url}: {error}") from error
    except (InvalidProxy, ImportError) as error:
        raise ConnectionLost(f"no way through the proxy: {error}", code="proxy") from error
    except InvalidHandshake as error:
        raise ProtocolError(f"the upgrade failed: {error}") from error
    if socket.subprotocol != SUBPROTOCOL:
        socket.transport.abort()
        raise ProtocolError(f"the server does not speak {SUBPROTOCOL}")
    return socket


def _headers(target: Target) -> Headers:
    headers = Headers()
    if target.send_key == "header":
        headers["Authorization"] = f"Bearer {target.api_key}"
    return headers


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _refused_upgrade(error: InvalidStatus) -> RealmError:
    """The server answered the upgrade with a status and, if it was Realm itself, an error body."""
    status = error.response.status_code
    try:
        body = Fields(json.loads(error.response.body or b""), "body")
        return decode_error(body.raw("error")).to_error()
    except (FieldError, ValueError, RecursionError):
        return _status_error(status)


def _status_error(status: int) -> RealmError:
    message = f"the server answered the upgrade with HTTP {status}"
    code = f"http_{status}"
    if status == HTTPStatus.UNAUTHORIZED:
        return Unauthenticated(message, code=code)
    if status == HTTPStatus.FORBIDDEN:
        return NotAllowed(message, code=code)
    if status in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}:
        return Busy(message, code=code)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return ConnectionLost(message, code=code)
    return ProtocolError(message)
