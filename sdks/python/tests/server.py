"""A server of `realm.v1` on loopback that does what each test tells it to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from types import TracebackType
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

KEY = "rk_right"
USAGE = {"prompt_tokens": 5, "cached_tokens": 0, "completion_tokens": 2}

#: No test takes longer; one that would hang fails.
TEST_S_MAX = 20.0


class Peer:
    """The server's end of one connection."""

    def __init__(self, socket: ServerConnection, number: int) -> None:
        self.socket = socket
        self.number = number

    async def send(self, frame: Any) -> None:
        await self.socket.send(frame if isinstance(frame, str | bytes) else json.dumps(frame))

    async def frame(self) -> Any:
        """The client's next frame."""
        return json.loads(await self.socket.recv())

    async def chunk(self, call_id: str, index: int, text: str, **data: Any) -> None:
        data = {"text": text, **data}
        await self.send({"id": call_id, "status": "streaming", "index": index, "data": data})

    async def complete(self, call_id: str, data: Any = None) -> None:
        frame = {"id": call_id, "status": "complete", "data": data or {}, "finish": "stop"}
        await self.send(frame | {"usage": USAGE, "quota": {"requests": 59}})

    async def refuse(self, call_id: str, code: str, **fields: Any) -> None:
        error = {"code": code, "message": f"refused: {code}", **fields}
        await self.send({"id": call_id, "status": "error", "error": error})

    def cut(self) -> None:
        """Drops the connection as a killed process does."""
        self.socket.transport.abort()


Script = Callable[[Peer], Awaitable[None]]


class RealmServer:
    """Runs `script` on every connection that authenticates; a test's time is limited here."""

    def __init__(self, script: Script, *, subprotocol: str = "realm.v1") -> None:
        self._script = script
        self._subprotocol = subprotocol
        self._limit = asyncio.timeout(TEST_S_MAX)
        self._server: Server
        self._handlers: set[asyncio.Task[Any]] = set()
        self.connections = 0
        self.refusals: list[Response] = []  # given to the next upgrades instead of a socket
        self.upgrades: list[Headers] = []
        self.knocked = asyncio.Event()  # somebody asked for an upgrade
        self.failures: list[BaseException] = []

    @property
    def url(self) -> str:
        port = next(iter(self._server.sockets)).getsockname()[1]
        return f"ws://127.0.0.1:{port}"

    async def __aenter__(self) -> RealmServer:
        await self._limit.__aenter__()
        self._server = await serve(
            self._serve,
            "127.0.0.1",
            0,
            subprotocols=[Subprotocol(self._subprotocol)],
            select_subprotocol=lambda _socket, _offered: (
                Subprotocol(self._subprotocol) if self._subprotocol == "realm.v1" else None
            ),
            process_request=self._check,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.close()
        for handler in self._handlers:
            handler.cancel()  # a script may wait for what a failed test no longer does
        await self._server.wait_closed()
        await self._limit.__aexit__(kind, error, trace)
        assert self.failures == []

    def _check(self, _socket: ServerConnection, request: Request) -> Response | None:
        self.upgrades.append(request.headers)
        self.knocked.set()
        if self.refusals:
            return self.refusals.pop(0)
        if request.path != "/v1/ws":
            return refusal(HTTPStatus.NOT_FOUND, None)
        key = request.headers.get("Authorization")
        if key is not None and key != f"Bearer {KEY}":
            return refusal(HTTPStatus.UNAUTHORIZED, "unauthenticated")
        return None

    async def _serve(self, socket: ServerConnection) -> None:
        self.connections += 1
        handler = asyncio.current_task()
        assert handler is not None
        self._handlers.add(handler)
        peer = Peer(socket, self.connections)
        try:
            if "Authorization" not in self.upgrades[-1] and not await self._first_frame(peer):
                return
            await peer.send(
                {"type": "ready", "protocol": "realm.v1", "tenant": "default/acme", "version": "1"}
            )
            await self._script(peer)
        except ConnectionClosed:
            pass
        except Exception as error:  # noqa: BLE001 - a failed script fails its test at the end
            self.failures.append(error)

    async def _first_frame(self, peer: Peer) -> bool:
        if await peer.frame() == {"type": "auth", "api_key": KEY}:
            return True
        error = {"code": "unauthenticated", "message": "the API key is missing or wrong"}
        await peer.send({"type": "error", "error": error})
        await peer.socket.close(4401)
        return False


def refusal(status: HTTPStatus, code: str | None) -> Response:
    """An answer to an upgrade that is not an upgrade."""
    body = (
        b"<html>"
        if code is None
        else json.dumps({"error": {"code": code, "message": f"refused: {code}"}}).encode()
    )
    headers = Headers({"Content-Length": str(len(body)), "Connection": "close"})
    return Response(status.value, status.phrase, headers, body)
