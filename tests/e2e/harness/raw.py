"""A WebSocket without the client: for frames that no well-behaved client sends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any, TypeAlias

from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Origin, Subprotocol

Json: TypeAlias = Any

#: Longer than any single frame takes.
FRAME_S_MAX = 60.0


class Raw:
    """One socket that has been upgraded, perhaps not yet authenticated."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    async def send(self, frame: Json) -> None:
        """Sends an object as JSON, and text or bytes as they are."""
        await self.socket.send(frame if isinstance(frame, str | bytes) else json.dumps(frame))

    async def frame(self) -> Json:
        """The server's next frame."""
        async with asyncio.timeout(FRAME_S_MAX):
            return json.loads(await self.socket.recv())

    async def until(self, **fields: Json) -> Json:
        """The next frame that carries these fields; those before it are dropped."""
        while True:
            frame = await self.frame()
            if fields.items() <= frame.items():
                return frame

    async def closed(self) -> int | None:
        """The code the server closes with."""
        async with asyncio.timeout(FRAME_S_MAX):
            await self.socket.wait_closed()
        return self.socket.close_code


@asynccontextmanager
async def raw(
    url: str,
    key: str | None = None,
    *,
    origin: str | None = None,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> AsyncIterator[Raw]:
    """Upgrades; with a key, its `ready` frame has been read."""
    own = {} if key is None else {"Authorization": f"Bearer {key}"}
    async with connect(
        url,
        subprotocols=[Subprotocol("realm.v1")],
        additional_headers=own | dict(headers),
        origin=None if origin is None else Origin(origin),
        compression=None,
        proxy=None,
    ) as socket:
        connection = Raw(socket)
        if key is not None:
            assert (await connection.frame())["type"] == "ready"
        yield connection
