"""Whatever a stranger sends: a typed error for them, and nothing for anybody else."""

from __future__ import annotations

import asyncio
import json
import socket as sockets
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.exceptions import InvalidStatus

from conftest import Serve
from harness.folder import Folder
from harness.raw import raw
from harness.server import Server
from harness.talk import QUESTIONS, answer, asked, stream

MESSAGE_BYTES_MAX = 1 << 20

MALFORMED = {
    "not JSON": "hello",
    "not an object": "[1, 2]",
    "empty": "",
    "half": '{"id":"1","function":',
    "no function": {"id": "1"},
    "no id": {"function": "health"},
    "empty id": {"id": "", "function": "health"},
    "long id": {"id": "x" * 65, "function": "health"},
    "numeric id": {"id": 1, "function": "health"},
    "unknown field": {"id": "1", "function": "health", "urgent": True},
    "unknown type": {"type": "shout", "id": "1"},
    "params of the wrong type": {"id": "1", "function": "health", "params": []},
    "negative deadline": {"id": "1", "function": "health", "deadline_ms": -1},
    "deep": "[" * 100_000,
    "binary": b'{"id":"1","function":"health"}',
    "authenticated twice": {"type": "auth", "api_key": "rk_other"},
}


def fill(folder: Folder) -> None:
    folder.tenant("acme")
    folder.tenant("zeta")


@pytest.fixture(scope="module")
def server(serve: Serve) -> Server:
    return serve(fill, "--allow-origin", "https://app.example")


@pytest.fixture(scope="module")
def key(server: Server) -> str:
    return server.folder.key("acme")


@pytest.mark.parametrize("what", MALFORMED)
async def test_a_malformed_frame_is_refused_and_the_connection_goes_on(
    server: Server, key: str, what: str
) -> None:
    async with raw(server.url, key) as socket:
        await socket.send(MALFORMED[what])
        refusal = await socket.frame()
        assert refusal["type"] == "error", refusal
        assert refusal["error"]["code"] == "invalid"
        assert len(refusal["error"]["message"]) < 1000
        await socket.send({"id": "1", "function": "health"})
        assert (await socket.frame())["status"] == "complete"


async def test_malformed_frames_disturb_no_stream_on_this_or_another_socket(
    server: Server, key: str
) -> None:
    async with server.client("zeta") as other:
        expected = await answer(other, QUESTIONS[0])
        beside = asyncio.create_task(stream(other, QUESTIONS[0]))
        async with raw(server.url, key) as socket:
            params = {"messages": asked(QUESTIONS[0]), "max_tokens": 24, "temperature": 0}
            await socket.send({"id": "mine", "function": "chat", "params": params})
            for frame in MALFORMED.values():
                await socket.send(frame)
            text, refused = "", 0
            while (frame := await socket.frame()).get("status") != "complete":
                if frame.get("type") == "error":
                    refused += 1
                else:
                    text += frame["data"]["text"]
        assert refused == len(MALFORMED)
        assert text == expected
        assert (await beside).text == expected


async def test_the_id_of_a_running_call_is_refused_and_the_call_goes_on(
    server: Server, key: str
) -> None:
    async with raw(server.url, key) as socket:
        params = {"messages": asked(QUESTIONS[0]), "max_tokens": 24, "temperature": 0}
        await socket.send({"id": "same", "function": "chat", "params": params})
        await socket.send({"id": "same", "function": "health"})
        refusal = await socket.until(type="error")
        assert "same" in refusal["error"]["message"]
        assert (await socket.until(id="same", status="complete"))["usage"]["completion_tokens"] > 1


async def test_a_message_beyond_the_limit_is_refused_typed_and_closes_only_its_own_socket(
    server: Server, key: str
) -> None:
    async with raw(server.url, key) as bystander, raw(server.url, key) as socket:
        largest = {"id": "1", "function": "tokenize", "params": {"text": ""}}
        largest["params"] = {"text": "x" * (MESSAGE_BYTES_MAX - len(json.dumps(largest)))}
        assert len(json.dumps(largest)) == MESSAGE_BYTES_MAX
        await socket.send(largest)
        first = await socket.frame()
        assert first["id"] == "1", "a message of exactly the limit is taken"
        await socket.send(json.dumps(largest) + " ")
        refusal = await socket.frame()
        assert (refusal["type"], refusal["error"]["code"]) == ("error", "too_large")
        assert await socket.closed() == 1009
        await bystander.send({"id": "1", "function": "health"})
        assert (await bystander.frame())["status"] == "complete"


async def test_a_body_beyond_the_limit_is_refused_typed(server: Server, key: str) -> None:
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(trust_env=False, headers=headers) as client:
        body = b" " * (MESSAGE_BYTES_MAX + 1)
        answered = await client.post(f"{server.http}/chat/completions", content=body)
    assert answered.status_code == 413
    assert answered.json()["error"]["code"] == "too_large"


async def test_sixty_four_calls_run_on_a_socket_and_one_more_is_refused(
    server: Server,
) -> None:
    folder = server.folder
    key = folder.tenant("crowd", limits={"calls": 100})
    await server.says("tenant default/crowd: ready")
    async with raw(server.url, key) as socket:
        params = {"messages": asked(QUESTIONS[0]), "max_tokens": 16, "temperature": 0}
        for number in range(65):
            await socket.send({"id": str(number), "function": "chat", "params": params})
        ended: dict[str, Any] = {}
        while len(ended) < 65:
            frame = await socket.frame()
            if frame["status"] != "streaming":
                ended[frame["id"]] = frame
    refused = {id_: end["error"]["code"] for id_, end in ended.items() if end["status"] == "error"}
    assert refused == {"64": "too_many_calls"}


async def test_a_page_of_a_foreign_origin_is_turned_away(server: Server, key: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with raw(server.url, key, origin="https://evil.example"):
            raise AssertionError("a foreign page was let in")
    assert refused.value.response.status_code == 403
    async with raw(server.url, key, origin="https://app.example") as socket:
        await socket.send({"id": "1", "function": "health"})
        assert (await socket.frame())["status"] == "complete"


async def test_a_stranger_who_says_anything_but_a_key_is_closed(server: Server) -> None:
    async with raw(server.url) as socket:
        await socket.send({"id": "1", "function": "health"})
        assert (await socket.frame())["error"]["code"] == "unauthenticated"
        assert await socket.closed() == 4401


async def test_a_client_that_reads_nothing_loses_its_call_and_no_other(
    server: Server, key: str
) -> None:
    async with server.client("zeta") as other:
        expected = await answer(other, QUESTIONS[0])
        reader, writer = await asyncio.open_connection(*address(server), limit=1)
        writer.get_extra_info("socket").setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 1)
        body = {"model": "smollm2", "prompt": "Once", "stream": True, "max_tokens": 400}
        text = json.dumps(body)
        writer.write(
            f"POST /v1/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"
            f"content-length: {len(text)}\r\n\r\n{text}".encode()
        )
        await writer.drain()
        await reader.read(1)
        assert (await stream(other, QUESTIONS[0])).text == expected
        writer.transport.abort()


def address(server: Server) -> tuple[str, int]:
    parts = urlsplit(server.http)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(noise=st.binary(min_size=1, max_size=400))
def test_bytes_that_are_not_http_end_no_server(server: Server, noise: bytes) -> None:
    with sockets.create_connection(address(server), timeout=10) as socket:
        socket.sendall(noise)
        socket.shutdown(sockets.SHUT_WR)
        while socket.recv(4096):
            pass
    assert server.is_running


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner),
    max_leaves=12,
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(frame=json_values, params=json_values)
def test_any_json_is_answered_typed(server: Server, key: str, frame: Any, params: Any) -> None:
    async def ask() -> None:
        async with raw(server.url, key) as socket:
            await socket.send(json.dumps(frame))
            await socket.send({"id": "1", "function": "tokenize", "params": params})
            await socket.send({"id": "2", "function": "health"})
            while (answered := await socket.frame()).get("id") != "2":
                assert "error" in answered

    asyncio.run(ask())
