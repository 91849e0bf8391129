"""A pipeline of two steps: both stream, each sees the one before, and all of it ends as one."""

from __future__ import annotations

import pytest

from conftest import Serve
from harness.folder import MODEL, Folder, step
from harness.server import Server
from harness.talk import LONG_PROMPT, asked
from harness.wait import eventually
from realm_client import CallCancelled, Client

SUMMARISE = "Summarise this text:\n\n{{ inputs.text }}"
HEADLINE = "Write one headline for this summary:\n\n{{ steps.summary }}"
SYSTEM = "You write headlines of at most ten words."


def fill(folder: Folder) -> None:
    folder.tenant("acme")
    steps = (
        step("summary", SUMMARISE, tokens_max=40),
        step("headline", HEADLINE, tokens_max=16, system=SYSTEM),
    )
    folder.pipeline("digest", ["acme"], *steps)
    folder.pipeline("endless", ["acme"], step("all", "{{ inputs.text }}", tokens_max=1500))
    folder.pipeline(
        "hasty",
        ["acme"],
        step("slow", "{{ inputs.text }}", tokens_max=1500, deadlineMs=1, onError={"use": "none"}),
        step("after", "Repeat: {{ steps.slow }}", tokens_max=4),
    )


@pytest.fixture(scope="module")
def server(serve: Serve) -> Server:
    return serve(fill)


@pytest.fixture(scope="module")
def key(server: Server) -> str:
    return server.folder.key("acme")


async def blocks_are_free(server: Server) -> None:
    """Waits until no sequence holds a block of the KV cache."""

    async def probe() -> bool:
        metrics = server.metrics()
        used = metrics.value("realm_engine_kv_blocks_used")
        return used + metrics.value("realm_engine_sequences_running") == 0

    await eventually(probe, "every KV block is free again")


async def test_both_steps_stream_in_their_order_and_the_second_reads_the_first(
    server: Server, key: str
) -> None:
    async with Client(server.url, key) as client:
        stream = client.pipeline_stream("digest", {"text": LONG_PROMPT})
        chunks = [chunk async for chunk in stream]
        reply = await stream.result()
        summary = await client.chat(
            asked(SUMMARISE.replace("{{ inputs.text }}", LONG_PROMPT)),
            max_tokens=40,
            temperature=0,
        )
        headline = await client.chat(
            asked(HEADLINE.replace("{{ steps.summary }}", reply.outputs["summary"]), SYSTEM),
            max_tokens=16,
            temperature=0,
        )
    steps = [chunk.step for chunk in chunks]
    first_of_second = steps.index("headline")
    assert set(steps[:first_of_second]) == {"summary"}
    assert set(steps[first_of_second:]) == {"headline"}
    assert first_of_second > 10
    assert len(steps) - first_of_second > 2
    for name in ("summary", "headline"):
        streamed = "".join(chunk.text or "" for chunk in chunks if chunk.step == name)
        assert reply.outputs[name] == streamed
    assert reply.outputs == {"summary": summary.text, "headline": headline.text}


async def test_a_pipeline_in_one_piece_has_the_same_outputs(server: Server, key: str) -> None:
    async with Client(server.url, key) as client:
        stream = client.pipeline_stream("digest", {"text": LONG_PROMPT})
        assert await client.pipeline("digest", {"text": LONG_PROMPT}) is not None
        whole = await client.pipeline("digest", {"text": LONG_PROMPT})
        assert whole.outputs == (await stream.result()).outputs
    assert whole.usage is not None
    assert whole.usage.completion_tokens > 16


@pytest.mark.parametrize("step_name", ["summary", "headline"])
async def test_a_pipeline_is_cancelled_as_one_in_either_step(
    server: Server, key: str, step_name: str
) -> None:
    cancelled = {"code": "cancelled", "function": "pipeline"}
    before = server.metrics().value("realm_gateway_requests_total", **cancelled)
    async with Client(server.url, key) as client:
        stream = client.pipeline_stream("digest", {"text": LONG_PROMPT})
        async for chunk in stream:
            if chunk.step == step_name:
                stream.cancel()
                break
        with pytest.raises(CallCancelled):
            await stream.result()
        await blocks_are_free(server)
    assert server.metrics().value("realm_gateway_requests_total", **cancelled) == before + 1


async def test_a_step_that_fails_can_be_replaced_by_a_text(server: Server, key: str) -> None:
    async with Client(server.url, key) as client:
        reply = await client.pipeline("hasty", {"text": LONG_PROMPT})
        after = await client.chat(asked("Repeat: none"), max_tokens=4, temperature=0)
    assert reply.outputs == {"slow": "none", "after": after.text}


async def test_a_cancelled_call_and_a_client_that_leaves_free_every_block(
    server: Server, key: str
) -> None:
    async with Client(server.url, key) as client:
        stream = client.chat_stream(asked(LONG_PROMPT), max_tokens=1500, temperature=0)
        async for _ in stream:
            assert server.metrics().value("realm_engine_kv_blocks_used") > 0
            break
        with pytest.raises(CallCancelled):
            await stream.result()
        await blocks_are_free(server)
    leaving = Client(server.url, key)
    left = leaving.pipeline_stream("endless", {"text": LONG_PROMPT})
    async for _ in left:
        break
    await leaving.close()
    await blocks_are_free(server)
    metrics = server.metrics()
    cached = metrics.value("realm_engine_kv_blocks_cached", model=f"default/{MODEL}")
    assert cached <= metrics.value("realm_engine_kv_blocks", model=f"default/{MODEL}")
