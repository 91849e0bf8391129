"""Nobody wakes an agent of which nobody wants anything, whatever it has loaded or served before."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from conftest import Serve
from harness.folder import MODEL, Folder
from harness.plane import Plane
from harness.server import Server
from harness.talk import QUESTIONS, answer
from harness.threads import total, watch
from realm_client import Client

#: Wake-ups in a second, of all threads together.
WAKES_MAX = 10.0

#: Until what came last has been followed by everything that it leads to.
STILL_S = 3.0

#: Longer than any look that an agent takes by itself.
LOOK_S = 12.0


def fill(folder: Folder) -> None:
    folder.tenant("acme")


def assert_is_let_sleep(pid: int) -> None:
    time.sleep(STILL_S)
    names = watch(pid, LOOK_S)
    assert total(names).wakes <= WAKES_MAX, names


async def talk(client: Client) -> None:
    async with client:
        assert await answer(client, QUESTIONS[0])


async def wakes_in_a_call(server: Server) -> float:
    look = asyncio.create_task(asyncio.to_thread(watch, server.pid, 1.0))
    await talk(server.client("acme"))
    return total(await look).wakes


def test_an_idle_server_is_not_woken_before_a_call_or_after_it(serve: Serve) -> None:
    server = serve(fill)
    assert_is_let_sleep(server.pid)
    # What is measured sees work where there is some.
    assert asyncio.run(wakes_in_a_call(server)) > WAKES_MAX
    assert_is_let_sleep(server.pid)


def test_an_idle_agent_of_a_cluster_is_not_woken_but_for_its_operator(
    plane: Plane, model: Path
) -> None:
    operator = plane.operator("operator-0")
    agent = plane.agent("alpha", [operator])
    plane.apply("Model", MODEL, {"sources": [model.absolute().as_uri()], "kvBlocks": 256})
    plane.tenant("acme", models=[{"name": MODEL}])
    plane.await_condition("model", MODEL, "True")
    plane.await_condition("tenant", "acme", "True")
    asyncio.run(talk(agent.client("acme")))
    assert_is_let_sleep(agent.daemon.pid)
