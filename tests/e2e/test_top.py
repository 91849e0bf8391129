"""`realm top` and `realm explain`: who is served, and who waits behind whom."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from conftest import Serve
from harness.folder import MODEL, Folder, Json
from harness.server import Server, realm
from harness.wait import eventually
from realm_client import Client, RateLimited, RealmError

#: A greedy model goes on with this until it may not.
ENDLESS = "1, 2, 3, 4,"

#: Of each tenant: more than there are KV blocks for, so that some wait.
STREAMS = 12


def fill(folder: Folder) -> None:
    folder.tenant("heavy", weight=300, limits={"calls": STREAMS, "kvBlocks": 4096})
    folder.tenant("light", weight=100, limits={"calls": STREAMS, "kvBlocks": 4096})
    folder.tenant("tight", limits={"calls": 4, "kvBlocks": 4})
    folder.tenant("limited", limits={"requestsPerMinute": 1})
    folder.tenant("idle", priority="High", cache={"shareGroup": "quiet"})


@pytest.fixture(scope="module")
def server(serve: Serve, model: Path) -> Server:
    def with_few_blocks(folder: Folder) -> None:
        folder.model(model, kvBlocks=16, context=512)
        fill(folder)

    return serve(with_few_blocks)


def address(server: Server) -> str:
    return server.addresses.metrics.removeprefix("http://").removesuffix("/metrics")


def top(server: Server, *flags: str) -> str:
    done = realm("top", "--metrics", address(server), "--once", *flags)
    assert done.returncode == 0, done.stderr
    return done.stdout


def explain(server: Server, *args: str) -> str:
    done = realm("explain", *args, "--manifests", server.folder.path)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(server: Server, *flags: str) -> dict[str, Json]:
    """The rows of one look, by tenant."""
    told = json.loads(top(server, "--json", *flags))
    return {row["tenant"].removeprefix("default/"): row for row in told}


async def _go_on(client: Client) -> None:
    """One call after the other: an answer ends where the tenant's blocks or the context do."""
    while True:
        try:
            async for _ in client.generate_stream(ENDLESS, max_tokens=2000, temperature=0):
                pass
        except RealmError:
            await asyncio.sleep(0.1)


@asynccontextmanager
async def streaming(server: Server, **streams: int) -> AsyncIterator[None]:
    """Calls of some tenants that go on for as long as this is open."""
    clients = [server.client(name) for name in streams]
    for client in clients:
        await client.__aenter__()
    calls = [
        asyncio.create_task(_go_on(client))
        for client, count in zip(clients, streams.values(), strict=True)
        for _ in range(count)
    ]
    try:
        yield
    finally:
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        for client in clients:
            await client.__aexit__(None, None, None)


async def eventually_rows(server: Server, names: tuple[str, ...]) -> dict[str, Json]:
    """A look in which all of these run something."""
    for _ in range(20):
        found = await asyncio.to_thread(rows, server, "--every", "2")
        if all(found.get(name, {}).get("running", 0) > 0 for name in names):
            return found
    raise AssertionError(f"not all of {names} run: {found}")


async def test_shares_are_what_weights_say_and_what_each_gets_is_near_them(server: Server) -> None:
    async with streaming(server, heavy=STREAMS, light=STREAMS):
        found = await eventually_rows(server, ("heavy", "light"))
        text = await asyncio.to_thread(top, server)
    heavy, light = found["heavy"], found["light"]
    assert (heavy["entitled"], light["entitled"]) == (0.75, 0.25)
    assert heavy["got"] + light["got"] == pytest.approx(1.0, abs=0.01)
    assert heavy["queued"] + light["queued"] > 0, "there are not blocks for all"
    for row, other in ((heavy, "default/light"), (light, "default/heavy")):
        assert row["behind"] == ([other] if row["queued"] > 0 else [])
    assert light["model"] == f"default/{MODEL}"
    head, *lines = text.splitlines()
    assert head.split()[:6] == ["TENANT", "MODEL", "RUNS", "WAITS", "ENTITLED", "GOT"]
    assert {line.split()[0] for line in lines} >= {"default/heavy", "default/light"}


async def test_limits_that_refuse_calls_are_told(server: Server) -> None:
    looking = asyncio.create_task(asyncio.to_thread(rows, server, "--every", "4"))
    async with server.client("limited") as client:
        await client.chat([{"role": "user", "content": "Hello"}], max_tokens=1)
        while not looking.done():
            with pytest.raises(RateLimited):
                await client.chat([{"role": "user", "content": "Hello"}], max_tokens=1)
            await asyncio.sleep(0.2)
    assert (await looking)["limited"]["refused"]["too_many_requests"] > 0


async def test_what_a_tenant_gets_and_what_keeps_it_waiting_is_told_in_words(
    server: Server,
) -> None:
    where = ("--metrics", address(server))
    async with streaming(server, tight=4):
        await eventually_rows(server, ("tight",))
        expected = (
            "tenant      default/tight",
            f"now         default/{MODEL}: entitled to 100% of its time",
            "waits       for",
            "wrong       nothing",
        )

        async def is_told() -> bool:
            # Of two seconds, in which another tenant's last sequence may still have ended.
            told = await asyncio.to_thread(explain, server, "tenant/tight", *where)
            return all(each in told for each in expected)

        await eventually(is_told, "it has the model to itself and waits for its own limit")


async def test_why_a_model_is_not_there_is_told_of_it_and_of_who_may_use_it(
    server: Server, tmp_path: Path
) -> None:
    server.folder.model(tmp_path / "nowhere.gguf", "lost")
    server.folder.tenant("waits", models=["lost"])
    await server.says("model default/lost: failed, SourceNotFound")
    where = ("--metrics", address(server))
    told = explain(server, "model/lost", *where)
    assert "wrong       SourceNotFound: " in told
    assert "wrong       nothing" not in told
    assert "wrong       model default/lost SourceNotFound: " in explain(
        server, "tenant/waits", *where
    )
    server.folder.remove("tenant-waits.yaml")
    server.folder.remove("model-lost.yaml")


def test_what_is_asked_for_is_told_without_a_server(server: Server) -> None:
    told = explain(server, "tenant/idle")
    assert "priority High: it comes before those of other priorities" in told
    assert "shares in   quiet" in told
    assert "now         not looked at" in told
    assert "wrong       nothing" in explain(server, f"model/{MODEL}")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("explain", "acme"), "`acme` is none of tenant/NAME, model/NAME and pipeline/NAME"),
        (("top", "--every", "0"), "0.1 to 3600"),
        (("top", "--metrics", "127.0.0.1:1", "--once"), "connect to 127.0.0.1:1"),
    ],
)
def test_what_cannot_be_done_is_an_error_in_one_sentence(
    server: Server, args: tuple[str, ...], said: str
) -> None:
    where = ("--manifests", str(server.folder.path)) if args[0] == "explain" else ()
    done = realm(*args, *where)
    assert done.returncode != 0
    assert said in done.stderr
