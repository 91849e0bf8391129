"""What a tenant may spend, and what it is told when that is spent."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass

import httpx
import pytest

from conftest import Serve
from harness.folder import MODEL, Folder, step
from harness.raw import raw
from harness.server import Server
from harness.talk import QUESTIONS, answer, asked, stream
from harness.wait import eventually
from realm_client import Backoff, Client, DeadlineExceeded, InvalidRequest, RateLimited

#: Long beside a first token on a busy machine, short beside the whole of `ENDLESS`'s answer.
DEADLINE_MS = 1_500

#: Tokens that a tenant may have in a minute: one in six seconds.
TERSE = 10

#: The same, for several streams at once: one in three seconds.
CROWDED = 20

#: Tokens of prompts that a tenant may send in a minute.
BRIEF = 60

#: Requests that a tenant may make in a minute, and those of them that a door has in hand which has
#: been started again: an eighth.
REQUESTS = 24
IN_HAND = 3

#: KV blocks that a tenant may hold, and the gauges that say how many it does: of sequences that
#: run, and of what is kept of those that did.
KV_BLOCKS = 4
HELD = ("realm_engine_tenant_kv_blocks_used", "realm_engine_tenant_kv_blocks_cached")

#: A greedy model goes on with this until it may not.
ENDLESS = "1, 2, 3, 4,"


def fill(folder: Folder) -> None:
    folder.tenant("frugal", limits={"requestsPerMinute": 3})
    folder.tenant("patient", limits={"requestsPerMinute": 60})
    for name in ("terse", "terse-http", "terse-steps"):
        folder.tenant(name, limits={"outputTokensPerMinute": TERSE})
    folder.pipeline("long", ["terse-steps"], step("all", "{{ inputs.text }}", tokens_max=40))
    folder.tenant("crowded", limits={"outputTokensPerMinute": CROWDED})
    folder.tenant("watched", limits={"outputTokensPerMinute": TERSE}, limitsMode="Shadow")
    folder.tenant("brief", limits={"inputTokensPerMinute": BRIEF})
    folder.tenant("narrow", limits={"calls": 2})
    folder.tenant("short", limits={"context": 64})
    folder.tenant("curt", limits={"outputTokens": 9})
    folder.tenant("small", limits={"kvBlocks": KV_BLOCKS})
    folder.tenant("hasty", limits={"program": {"deadlineMs": DEADLINE_MS}})
    folder.tenant("often", limits={"requestsPerMinute": REQUESTS})
    folder.tenant("tried", limits={"requestsPerMinute": 2}, limitsMode="Shadow")
    folder.tenant("free")


@pytest.fixture(scope="module")
def server(serve: Serve) -> Server:
    return serve(fill)


async def test_more_requests_than_a_minutes_are_refused_with_the_time_to_wait(
    server: Server,
) -> None:
    async with server.client("frugal") as client:
        left = []
        for _ in range(3):
            reply = await client.chat(asked(QUESTIONS[0]), max_tokens=1, temperature=0)
            assert reply.quota is not None
            left.append(reply.quota.requests)
        with pytest.raises(RateLimited) as refused:
            await answer(client, QUESTIONS[0], max_tokens=1)
    assert left == [2, 1, 0]
    assert refused.value.code == "too_many_requests"
    assert refused.value.retry_after is not None
    assert 0 < refused.value.retry_after <= 20
    headers = {"Authorization": f"Bearer {server.folder.key('frugal')}"}
    async with httpx.AsyncClient(trust_env=False, headers=headers) as http:
        body = {"model": MODEL, "messages": asked(QUESTIONS[0])}
        answered = await http.post(f"{server.http}/chat/completions", json=body)
    assert answered.status_code == 429
    assert 0 < int(answered.headers["retry-after"]) <= 20
    assert answered.json()["error"]["code"] == "rate_limit_exceeded"


async def test_in_shadow_what_would_be_refused_is_served_and_counted(server: Server) -> None:
    async with server.client("tried") as client:
        for _ in range(5):
            await client.chat(asked(QUESTIONS[0]), max_tokens=1, temperature=0)
    shadowed = {
        code: server.metrics().value(
            "realm_gateway_tenant_shadowed_total", tenant="default/tried", code=code
        )
        for code in ("too_many_requests", "too_many_tokens")
    }
    assert shadowed == {"too_many_requests": 3, "too_many_tokens": 0}


async def test_a_client_that_waits_as_told_is_served(server: Server) -> None:
    retry = Backoff(attempts_max=10, total_s_max=60)
    async with server.client("patient", retry=retry) as client:
        calls = [answer(client, QUESTIONS[0], max_tokens=1) for _ in range(12)]
        assert len(await asyncio.gather(*calls)) == 12


@dataclass(frozen=True, slots=True)
class Cut:
    """A stream that came to the end of what its tenant had."""

    tokens: int
    text: str
    refused: RateLimited


async def cut(client: Client, prompt: str = ENDLESS) -> Cut:
    """Streams until nothing is left; every token is told with its probability."""
    tokens = 0
    running = client.generate_stream(prompt, max_tokens=200, temperature=0, logprobs=0)
    with pytest.raises(RateLimited) as refused:
        async for chunk in running:
            tokens += len(chunk.logprobs)
    return Cut(tokens, refused.value.text, refused.value)


def had(began: float, per_minute: int) -> float:
    """Tokens that a tenant may have had since then, by the clock of this machine."""
    return per_minute + (time.monotonic() - began) * per_minute / 60 + 1


async def nothing_runs(server: Server) -> None:
    """Waits until the engine computes for nobody."""

    async def probe() -> bool:
        metrics = server.metrics()
        return metrics.value("realm_engine_sequences_running") == 0

    await eventually(probe, "no sequence runs")


async def test_a_stream_is_cut_at_the_token_that_its_tenant_has_not_got(server: Server) -> None:
    began = time.monotonic()
    async with server.client("terse") as client, server.client("free") as free:
        first = await cut(client)
        assert TERSE <= first.tokens <= had(began, TERSE)
        assert first.refused.code == "too_many_tokens"
        assert f"more than {TERSE} tokens per minute" in str(first.refused)
        whole = await free.generate(ENDLESS, max_tokens=first.tokens, temperature=0)
        assert first.text == whole.text
        assert first.refused.retry_after is not None
        assert 0 < first.refused.retry_after <= 60 / TERSE
        with pytest.raises(RateLimited) as early:
            await answer(client, QUESTIONS[0], max_tokens=1)
        assert early.value.retry_after is not None
        assert early.value.retry_after <= first.refused.retry_after
        # Who comes when it was told to has a token, and no other is told to wait for more.
        await asyncio.sleep(early.value.retry_after)
        second = await cut(client)
        assert second.tokens >= 1
        assert first.tokens + second.tokens <= had(began, TERSE)
    await nothing_runs(server)
    made = server.metrics().value(
        "realm_engine_tenant_generated_tokens_total", tenant="default/terse", pipeline="-"
    )
    # The engine is told at its next step.
    assert first.tokens + second.tokens <= made <= first.tokens + second.tokens + 8


async def test_a_stream_over_http_is_cut_with_an_error_of_its_form(server: Server) -> None:
    headers = {"Authorization": f"Bearer {server.folder.key('terse-http')}"}
    body = {"model": MODEL, "messages": asked(QUESTIONS[0]), "stream": True, "logprobs": True}
    body |= {"max_tokens": 200, "temperature": 0}
    began = time.monotonic()
    events = []
    async with (
        httpx.AsyncClient(trust_env=False, headers=headers) as http,
        http.stream("POST", f"{server.http}/chat/completions", json=body) as answered,
    ):
        assert answered.status_code == 200
        async for line in answered.aiter_lines():
            if line.startswith("data: ") and line != "data: [DONE]":
                events.append(json.loads(line.removeprefix("data: ")))
    *pieces, last = events
    told = [choice["logprobs"] for piece in pieces for choice in piece["choices"]]
    tokens = sum(len(each["content"]) for each in told if each)
    assert TERSE <= tokens <= had(began, TERSE)
    assert last["error"]["code"] == "rate_limit_exceeded"
    assert last["error"]["type"] == "tokens"
    assert 0 < last["error"]["retry_after_ms"] <= 60_000 / TERSE


async def test_streams_side_by_side_have_together_what_their_tenant_has(server: Server) -> None:
    began = time.monotonic()
    async with server.client("crowded") as client:
        streams = await asyncio.gather(*(cut(client, f"{ENDLESS} {at},") for at in range(5, 9)))
    tokens = [stream.tokens for stream in streams]
    assert CROWDED <= sum(tokens) <= had(began, CROWDED), tokens
    assert {stream.refused.code for stream in streams} == {"too_many_tokens"}
    async with server.client("crowded", retry=Backoff(attempts_max=10, total_s_max=60)) as client:
        assert (await client.generate(ENDLESS, max_tokens=1, temperature=0)).text


async def test_a_step_of_a_pipeline_is_cut_as_a_stream_is(server: Server) -> None:
    async with server.client("terse-steps") as client:
        with pytest.raises(RateLimited) as refused:
            async for _ in client.pipeline_stream("long", {"text": ENDLESS}):
                pass
    assert refused.value.code == "too_many_tokens"
    assert refused.value.text


async def test_in_shadow_a_stream_that_would_be_cut_goes_on_and_is_counted_once(
    server: Server,
) -> None:
    async with server.client("watched") as client:
        reply = await client.generate(ENDLESS, max_tokens=3 * TERSE, temperature=0)
    assert reply.usage.completion_tokens == 3 * TERSE
    counted = server.metrics().value(
        "realm_gateway_tenant_shadowed_total", tenant="default/watched", code="too_many_tokens"
    )
    assert counted == 1


async def test_a_prompt_waits_until_there_are_tokens_for_all_of_it(server: Server) -> None:
    async with server.client("brief") as client:
        with pytest.raises(InvalidRequest) as heavy:
            await client.generate("word " * BRIEF * 2, max_tokens=1)
        assert heavy.value.code == "too_long"
        assert f"limits.inputTokensPerMinute is {BRIEF}" in str(heavy.value)
        assert heavy.value.retry_after is None
        reply = await client.generate("word " * 40, max_tokens=1, temperature=0)
        prompt = reply.usage.prompt_tokens
        assert reply.quota is not None
        assert reply.quota.input_tokens is not None
        left = reply.quota.input_tokens
        assert BRIEF - prompt <= left <= BRIEF - prompt + 2
        with pytest.raises(RateLimited) as refused:
            await client.generate("other " * 30, max_tokens=1)
        assert refused.value.code == "too_many_tokens"
        assert refused.value.retry_after is not None
        # At one a second, those that are missing.
        assert 30 - left - 2 <= refused.value.retry_after <= 32 - left + 1
        await asyncio.sleep(refused.value.retry_after)
        assert (await client.generate("other " * 30, max_tokens=1)).usage.prompt_tokens >= 30


async def test_one_call_more_than_the_tenant_may_run_at_once_is_refused(server: Server) -> None:
    async with server.client("narrow") as client:
        running = [client.chat_stream(asked(q), temperature=0) for q in QUESTIONS[:2]]
        reading = [aiter(call) for call in running]
        for chunks in reading:
            await anext(chunks)
        with pytest.raises(RateLimited) as refused:
            await answer(client, QUESTIONS[2], max_tokens=1)
        assert refused.value.code == "too_many_calls"
        for call in running:
            call.cancel()
    async with server.client("narrow", retry=Backoff()) as client:
        assert await answer(client, QUESTIONS[2], max_tokens=2)


async def test_a_prompt_beyond_the_tenants_context_is_refused_and_an_answer_ends_at_it(
    server: Server,
) -> None:
    async with server.client("short") as client:
        with pytest.raises(InvalidRequest) as refused:
            await client.generate("word " * 80, max_tokens=1)
        assert refused.value.code == "too_long"
        reply = await client.generate("word " * 40, max_tokens=500, temperature=0)
    assert reply.usage.prompt_tokens + reply.usage.completion_tokens <= 64
    assert reply.finish == "length"


async def test_an_answer_ends_at_the_tenants_limit_whatever_was_asked_for(server: Server) -> None:
    async with server.client("curt") as client, server.client("free") as free:
        counting = "1, 2, 3, 4,"
        whole = await free.generate(counting, max_tokens=9, temperature=0)
        for reply in (
            await client.generate(counting, max_tokens=500, temperature=0),
            await client.generate(counting, temperature=0),
        ):
            assert (reply.text, reply.finish) == (whole.text, "length")
            assert reply.usage.completion_tokens == 9
        reply = await client.generate(counting, max_tokens=3, temperature=0)
    assert reply.usage.completion_tokens == 3


async def test_an_answer_that_was_longer_before_it_was_resumed_ends_at_once_and_costs_nothing(
    server: Server,
) -> None:
    params = {"prompt": ENDLESS, "max_tokens": 40, "temperature": 0}
    async with server.client("free") as free:
        tokens: list[int] = []
        text, seed = "", 0
        async for chunk in free.generate_stream(ENDLESS, max_tokens=12, temperature=0):
            text += chunk.text or ""
            assert chunk.progress is not None
            tokens += chunk.progress.tokens
            seed = seed if chunk.progress.seed is None else chunk.progress.seed
    assert len(tokens) == 12
    resume = {"tokens": tokens, "text_bytes": len(text.encode()) - 1, "seed": seed}
    async with raw(server.url, server.folder.key("curt")) as socket:
        await socket.send({"id": "1", "function": "generate", "params": params, "resume": resume})
        lacked = await socket.until(status="streaming")
        complete = await socket.until(status="complete")
    assert lacked["data"]["text"] == text[-1]
    assert complete["finish"] == "length"
    assert (complete["usage"]["prompt_tokens"], complete["usage"]["completion_tokens"]) == (0, 0)


async def test_a_tenant_holds_no_more_kv_blocks_than_it_may(server: Server) -> None:
    async with server.client("small") as client, server.client("free") as free:
        calls = [stream(client, question, max_tokens=16) for question in QUESTIONS[:6]]
        running = asyncio.gather(*calls)
        held = []
        while not running.done():
            metrics = await asyncio.to_thread(server.metrics)
            held.append(sum(metrics.value(name, tenant="default/small") for name in HELD))
        together = await running
        assert 0 < max(held) <= KV_BLOCKS, held
        alone = [await answer(free, question, max_tokens=16) for question in QUESTIONS[:6]]
    assert [heard.text for heard in together] == alone


async def test_a_call_ends_at_its_deadline_or_its_tenants_with_what_had_come(
    server: Server,
) -> None:
    async with server.client("hasty") as client:
        with pytest.raises(DeadlineExceeded) as cut:
            async for _ in client.generate_stream(ENDLESS, max_tokens=2000, temperature=0):
                pass
        assert cut.value.code == "deadline_exceeded"
        assert cut.value.text
    async with server.client("free") as client:
        with pytest.raises(DeadlineExceeded):
            deadline_s = DEADLINE_MS / 1000
            await client.generate(ENDLESS, max_tokens=2000, temperature=0, deadline_s=deadline_s)


async def all_it_may(server: Server) -> int:
    """Calls until one is refused; gives how many were not."""
    admitted = 0
    async with server.client("often") as client:
        with pytest.raises(RateLimited):
            while admitted < 10 * REQUESTS:
                await answer(client, QUESTIONS[0], max_tokens=1)
                admitted += 1
    return admitted


async def test_a_server_that_is_killed_and_starts_again_hands_out_no_second_minute(
    serve: Serve,
) -> None:
    began = time.monotonic()
    server = serve(fill)
    before = await all_it_may(server)
    assert REQUESTS <= before <= had(began, REQUESTS)
    server.kill()
    again = time.monotonic()
    await asyncio.to_thread(server.start)
    after = await all_it_may(server)
    earned = (time.monotonic() - again) * REQUESTS / 60
    assert IN_HAND <= after <= IN_HAND + earned + 1
