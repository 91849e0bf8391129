"""What a tenant may spend, and what it is told when that is spent."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from conftest import Serve
from harness.folder import MODEL, Folder
from harness.server import Server
from harness.talk import QUESTIONS, answer, asked, stream
from realm_client import Backoff, DeadlineExceeded, InvalidRequest, RateLimited

#: Long beside a first token on a busy machine, short beside the whole of `ENDLESS`'s answer.
DEADLINE_MS = 1_500

#: A greedy model goes on with this until it may not.
ENDLESS = "1, 2, 3, 4,"


def fill(folder: Folder) -> None:
    folder.tenant("frugal", limits={"requestsPerMinute": 3})
    folder.tenant("patient", limits={"requestsPerMinute": 60})
    folder.tenant("terse", limits={"outputTokensPerMinute": 10})
    folder.tenant("brief", limits={"inputTokensPerMinute": 20})
    folder.tenant("narrow", limits={"calls": 2})
    folder.tenant("short", limits={"context": 64})
    folder.tenant("small", limits={"kvBlocks": 4})
    folder.tenant("hasty", limits={"program": {"deadlineMs": DEADLINE_MS}})
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


@pytest.mark.parametrize("tenant", ["terse", "brief"])
async def test_tokens_are_charged_as_they_are_spent_and_the_debt_is_waited_for(
    server: Server, tenant: str
) -> None:
    async with server.client(tenant) as client:
        overdrawing = await client.chat(asked(QUESTIONS[0]), max_tokens=20, temperature=0)
        assert overdrawing.quota is not None
        left = {
            "terse": overdrawing.quota.output_tokens,
            "brief": overdrawing.quota.input_tokens,
        }
        assert left[tenant] == 0
        with pytest.raises(RateLimited) as refused:
            await answer(client, QUESTIONS[0], max_tokens=1)
    assert refused.value.code == "too_many_tokens"
    assert refused.value.retry_after is not None
    assert refused.value.retry_after > 1


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


async def test_a_tenant_holds_no_more_kv_blocks_than_it_may(server: Server) -> None:
    async with server.client("small") as client, server.client("free") as free:
        calls = [stream(client, question, max_tokens=16) for question in QUESTIONS[:6]]
        together = await asyncio.gather(*calls)
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
