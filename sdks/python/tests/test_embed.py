"""Texts as parameters, and vectors as the server sends them."""

from __future__ import annotations

import base64
import struct
from typing import Any

import pytest

from realm_client import Client, ModelInfo, ProtocolError
from realm_client.reply import EmbedInfo
from server import KEY, Peer, RealmServer


def packed(*numbers: float) -> str:
    """A vector as the server writes it."""
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


async def test_texts_go_as_they_are_and_vectors_come_in_their_order() -> None:
    frames: list[Any] = []

    async def script(peer: Peer) -> None:
        while True:
            frame = await peer.frame()
            frames.append(frame)
            vectors = [packed(at, -0.5) for at, _ in enumerate(frame["params"]["texts"])]
            data = {"vectors": vectors, "dimensions": 2, "tokens": [3] * len(vectors)}
            await peer.complete(frame["id"], data)

    async with RealmServer(script) as server, Client(server.url, KEY) as client:
        one = await client.embed("sea")
        found = await client.embed(["sea", [1, 2]], model="m", dimensions=2, normalize=False)
    assert [list(vector) for vector in one.vectors] == [[0.0, -0.5]]
    assert [list(vector) for vector in found.vectors] == [[0.0, -0.5], [1.0, -0.5]]
    assert (found.dimensions, tuple(found.tokens)) == (2, (3, 3))
    assert found.usage is not None
    assert all(frame["function"] == "embed" and not frame["stream"] for frame in frames)
    assert [frame["params"] for frame in frames] == [
        {"texts": ["sea"]},
        {"texts": ["sea", [1, 2]], "model": "m", "dimensions": 2, "normalize": False},
    ]


@pytest.mark.parametrize(
    "vector", [1.5, [0.5, 0.5], "no base64", packed(1.0), packed(1.0, 2.0, 3.0), "AAAAAAA="]
)
async def test_what_is_no_vector_is_a_protocol_error(vector: Any) -> None:
    async def script(peer: Peer) -> None:
        data = {"vectors": [vector], "dimensions": 2, "tokens": [1]}
        await peer.complete((await peer.frame())["id"], data)

    async with RealmServer(script) as server, Client(server.url, KEY) as client:
        with pytest.raises(ProtocolError):
            await client.embed("sea")


async def test_metadata_says_what_a_model_can_be_asked_for_where_that_is_known() -> None:
    embeds = {"dimensions": 4, "tokens_max": 8, "shortens": True}
    models = [
        {"alias": "m", "ready": True, "context": 8, "functions": ["embed"], "embeds": embeds},
        {"alias": "far", "ready": True, "context": None, "functions": None},
    ]

    async def script(peer: Peer) -> None:
        data = {"version": "1", "functions": [], "models": models, "pipelines": []}
        await peer.complete((await peer.frame())["id"], data)

    async with RealmServer(script) as server, Client(server.url, KEY) as client:
        found = (await client.metadata()).models
    assert tuple(found) == (
        ModelInfo("m", True, 8, ("embed",), EmbedInfo(4, 8, True)),
        ModelInfo("far", True, None),
    )
