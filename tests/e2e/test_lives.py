"""How a server ends, well and badly, and how it comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import httpx
import pytest

from conftest import Serve
from harness.folder import MODEL, Folder, step
from harness.raw import Raw, raw
from harness.server import Server
from harness.talk import QUESTIONS, answer, asked
from realm_client import Backoff, ConnectionLost, Draining

#: Long enough to be caught in the middle, well within any grace.
LONG = 150


def fill(folder: Folder) -> None:
    folder.tenant("acme")
    folder.tenant("zeta")
    folder.pipeline("echo", ["acme"], step("only", "{{ inputs.text }}", tokens_max=4))


@pytest.fixture
def server(serve: Serve) -> Iterator[Server]:
    server = serve(fill, "--grace", "60")
    yield server
    server.close()


async def test_a_kill_without_resume_is_a_typed_error_and_the_client_comes_back_by_itself(
    server: Server,
) -> None:
    patient = Backoff(attempts_max=100, total_s_max=120)
    async with server.client("acme", retry=patient, reconnect=patient, resume=False) as client:
        expected = await answer(client, QUESTIONS[0])
        stream = client.chat_stream(asked(QUESTIONS[0]), max_tokens=LONG, temperature=0)
        heard = []
        with pytest.raises(ConnectionLost) as lost:
            async for chunk in stream:
                heard.append(chunk.text or "")
                if len(heard) == 5:
                    server.kill()
        assert lost.value.text.startswith("".join(heard))
        assert len(heard) >= 5
        for path in server.folder.path.glob("*.yaml"):
            path.write_text("kind: [\n")
        server.start()
        assert await answer(client, QUESTIONS[0]) == expected
        assert (await client.pipeline("echo", {"text": "x"})).outputs.keys() == {"only"}
    async with server.client("zeta") as other:
        assert other.tenant == "default/zeta"
    assert any("tenant-acme.yaml:" in line for line in server.err.lines)


async def test_a_server_whose_folder_was_emptied_while_it_was_down_serves_nobody(
    server: Server,
) -> None:
    server.kill()
    for file in ("tenant-acme.yaml", "pipeline-echo.yaml"):
        server.folder.remove(file)
    server.start()
    async with server.client("zeta") as client:
        assert await answer(client, QUESTIONS[0], max_tokens=2)


async def test_a_key_revoked_while_the_server_was_down_never_opens_a_door_again(
    server: Server,
) -> None:
    key = server.folder.key("acme")
    server.kill()
    server.folder.tenant("acme", apiKeys=[])
    server.start(ready=False)
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(trust_env=False, headers=headers) as http:
        statuses = []
        while not any("tenant default/zeta: ready" in line for line in server.err.lines):
            statuses.append((await http.get(f"{server.http}/models")).status_code)
        statuses.append((await http.get(f"{server.http}/models")).status_code)
    # While the server starts it says so of every key that it does not know.
    assert set(statuses) <= {503, 401}
    assert statuses[-1] == 401


async def test_a_restarted_server_calls_no_good_key_a_wrong_one(server: Server) -> None:
    headers = {"Authorization": f"Bearer {server.folder.key('acme')}"}
    server.kill()
    server.start(ready=False)
    async with httpx.AsyncClient(trust_env=False, headers=headers) as http:
        while (answered := await http.get(f"{server.http}/models")).status_code != 200:
            assert answered.status_code == 503
            assert answered.json()["error"]["code"] == "starting"
            assert int(answered.headers["retry-after"]) > 0
        # By then its program is there, if perhaps no model yet.
        body = {"model": MODEL, "messages": asked(QUESTIONS[0]), "max_tokens": 1}
        answered = await http.post(f"{server.http}/chat/completions", json=body)
        if answered.status_code != 200:
            assert answered.json()["error"]["code"] == "model_not_ready"


async def test_a_stream_goes_on_at_its_only_server_once_that_is_back(server: Server) -> None:
    patient = Backoff(attempts_max=100, total_s_max=120)
    async with server.client("acme", reconnect=patient) as client:
        stream = client.chat_stream(asked(QUESTIONS[0]), max_tokens=LONG, temperature=0)
        heard = []
        async for chunk in stream:
            heard.append(chunk.text or "")
            if len(heard) == 5:
                server.kill()
                server.start(ready=False)
        reply = await stream.result()
    assert len(heard) > 5
    assert reply.text == "".join(heard)
    assert reply.finish in {"stop", "length"}


async def begin(socket: Raw, max_tokens: int) -> str:
    """Starts a stream on a raw socket; gives its first piece."""
    params = {"messages": asked(QUESTIONS[0]), "max_tokens": max_tokens, "temperature": 0}
    await socket.send({"id": "long", "function": "chat", "params": params})
    piece = await socket.until(id="long", status="streaming")
    text: str = piece["data"]["text"]
    return text


async def test_sigterm_lets_the_running_stream_finish_and_takes_no_new_call(
    server: Server,
) -> None:
    key = server.folder.key("acme")
    async with server.client("zeta") as client:
        expected = await answer(client, QUESTIONS[0], max_tokens=LONG)
    async with raw(server.url, key) as socket, raw(server.url, server.folder.key("zeta")) as idle:
        text = await begin(socket, LONG)
        server.terminate()
        while (frame := await socket.frame()).get("type") != "going_away":
            text += frame["data"]["text"]
        assert frame["grace_ms"] == 60_000
        assert (await idle.frame())["type"] == "going_away"
        assert await idle.closed() == 1001
        await socket.send({"id": "late", "function": "tokenize", "params": {"text": "x"}})
        late = None
        while (frame := await socket.frame()).get("status") != "complete":
            if frame["id"] == "late":
                late = frame
            else:
                text += frame["data"]["text"]
        assert frame["id"] == "long"
        assert text == expected
        assert late is not None
        assert (late["status"], late["error"]["code"]) == ("error", "draining")
        assert await socket.closed() == 1001
    assert await asyncio.to_thread(server.wait) == 0


async def test_a_draining_server_is_not_ready_and_its_doors_say_why(server: Server) -> None:
    base = server.http.removesuffix("/v1")
    key = server.folder.key("acme")
    async with (
        httpx.AsyncClient(trust_env=False, headers={"Authorization": f"Bearer {key}"}) as http,
        raw(server.url, key) as socket,
        server.client("acme", reconnect=Backoff(attempts_max=1)) as client,
    ):
        assert (await http.get(f"{base}/readyz")).status_code == 200
        # Longer than all that is asked of it meanwhile takes.
        await begin(socket, 4 * LONG)
        server.terminate()
        await socket.until(type="going_away")
        assert (await http.get(f"{base}/readyz")).status_code == 503
        assert (await http.get(f"{base}/healthz")).status_code == 200
        refused = await http.post(f"{server.http}/completions", json={"model": "m", "prompt": "x"})
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "draining"
        with pytest.raises((Draining, ConnectionLost)):
            await answer(client, QUESTIONS[0], max_tokens=1)
        await socket.until(id="long", status="complete")
    assert await asyncio.to_thread(server.wait) == 0


async def test_a_stream_longer_than_the_grace_ends_typed_and_the_exit_is_orderly(
    serve: Serve,
) -> None:
    # No grace at all: any other could be longer than the stream on a fast machine.
    server = serve(fill, "--grace", "0")
    async with raw(server.url, server.folder.key("acme")) as socket:
        await begin(socket, 2000)
        server.terminate()
        cut = await socket.until(id="long", status="error")
        assert cut["error"]["code"] == "moved"
        assert await socket.closed() == 1001
    assert await asyncio.to_thread(server.wait) == 0


async def test_a_second_signal_ends_it_at_once(server: Server) -> None:
    async with raw(server.url, server.folder.key("acme")) as socket:
        await begin(socket, 2000)
        server.terminate()
        await socket.until(type="going_away")
        server.terminate()
        await asyncio.to_thread(server.wait)
