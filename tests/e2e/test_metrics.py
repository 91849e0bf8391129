"""What Prometheus reads."""

from __future__ import annotations

import pytest

from conftest import Serve
from harness.folder import MODEL, Folder
from harness.server import Server
from harness.talk import LONG_PROMPT, QUESTIONS, asked
from harness.wait import until
from realm_client import CallCancelled, NotFound

#: Family, kind, and the labels each sample carries.
DOCUMENTED = {
    "realm_gateway_requests": ("counter", {"tenant", "function", "code"}),
    "realm_time_to_first_token_seconds": ("histogram", {"function"}),
    "realm_inter_token_seconds": ("histogram", set()),
    "realm_request_seconds": ("histogram", {"function"}),
    "realm_calls_running": ("gauge", set()),
    "realm_gateway_connections": ("gauge", set()),
    "realm_gateway_connections_refused": ("counter", set()),
    "realm_gateway_frames_refused": ("counter", set()),
    "realm_engine_sequences_queued": ("gauge", {"model"}),
    "realm_engine_sequences_running": ("gauge", {"model"}),
    "realm_engine_kv_blocks_used": ("gauge", {"model"}),
    "realm_engine_kv_blocks_cached": ("gauge", {"model"}),
    "realm_engine_kv_blocks": ("gauge", {"model"}),
    "realm_engine_prompt_tokens": ("counter", {"model"}),
    "realm_engine_cached_tokens": ("counter", {"model"}),
    "realm_engine_generated_tokens": ("counter", {"model"}),
    "realm_engine_kv_used_ratio": ("gauge", {"model"}),
    "realm_engine_kv_block_tokens": ("gauge", {"model"}),
    "realm_engine_tenant_sequences_queued": ("gauge", {"model", "tenant"}),
    "realm_engine_tenant_sequences_running": ("gauge", {"model", "tenant"}),
    "realm_engine_tenant_kv_blocks_used": ("gauge", {"model", "tenant"}),
    "realm_engine_tenant_kv_blocks_cached": ("gauge", {"model", "tenant"}),
    "realm_engine_seconds": ("counter", {"model", "state"}),
    "realm_engine_kv_block_seconds": ("counter", {"model"}),
    "realm_engine_tenant_prompt_tokens": ("counter", {"model", "tenant", "pipeline"}),
    "realm_engine_tenant_cached_tokens": ("counter", {"model", "tenant", "pipeline"}),
    "realm_engine_tenant_generated_tokens": ("counter", {"model", "tenant", "pipeline"}),
    "realm_engine_tenant_device_seconds": ("counter", {"model", "tenant", "pipeline"}),
    "realm_engine_tenant_kv_block_seconds": ("counter", {"model", "tenant", "pipeline"}),
    "realm_engine_tenant_queue_seconds": ("histogram", {"model", "tenant"}),
    "realm_engine_tenant_first_token_seconds": ("histogram", {"model", "tenant"}),
    "realm_engine_tenant_inter_token_seconds": ("histogram", {"model", "tenant"}),
    "realm_program_fuel": ("counter", {"tenant", "pipeline"}),
    "realm_program_host_calls": ("counter", {"tenant", "pipeline"}),
    "realm_program_hook_overruns": ("counter", {"tenant", "pipeline"}),
    "realm_program_runs_waiting": ("gauge", {"tenant"}),
    "realm_program_instance_waits": ("counter", {"tenant", "pipeline"}),
    "realm_agent_generation": ("gauge", set()),
    "realm_agent_model_state": ("gauge", {"model", "state"}),
    "realm_agent_tenants": ("gauge", {"state"}),
    "realm_agent_tenant_weight": ("gauge", {"tenant", "priority"}),
    "realm_agent_tenant_kv_blocks_limit": ("gauge", {"tenant"}),
    "realm_agent_pipelines": ("gauge", {"state"}),
    "realm_gateway_ready": ("gauge", set()),
    "realm_gateway_draining": ("gauge", set()),
    "realm_build_info": ("gauge", {"version"}),
}


def fill(folder: Folder) -> None:
    folder.tenant("acme")


@pytest.fixture(scope="module")
def server(serve: Serve) -> Server:
    return serve(fill)


async def test_every_documented_family_is_there_with_its_help_kind_and_labels(
    server: Server,
) -> None:
    async with server.client("acme") as client:
        await client.chat(asked(QUESTIONS[0]), max_tokens=4, temperature=0)
    families = server.metrics().families
    assert {name for name in families if name.startswith("realm_")} == DOCUMENTED.keys()
    for name, (kind, labels) in DOCUMENTED.items():
        family = families[name]
        assert family.type == kind, name
        assert family.documentation.endswith("."), name
        for sample in family.samples:
            assert sample.labels.keys() - {"le"} == labels, sample


async def test_what_happens_is_counted(server: Server) -> None:
    tenant = {"tenant": "default/acme"}
    before = server.metrics()

    def grown(sample: str, **labels: str) -> float:
        return after.value(sample, **labels) - before.value(sample, **labels)

    async with server.client("acme") as client:
        replies = [await client.generate(LONG_PROMPT, max_tokens=8, temperature=0) for _ in "ab"]
        with pytest.raises(NotFound):
            await client.call("a function of nobody's", {})
        stream = client.chat_stream(asked(QUESTIONS[0]), max_tokens=500)
        chunks = aiter(stream)
        await anext(chunks)
        during = server.metrics()
        stream.cancel()
        with pytest.raises(CallCancelled):
            await stream.result()
    assert during.value("realm_calls_running") == 1
    # The scrape itself came over a connection, each time.
    connections = "realm_gateway_connections"
    assert during.value(connections) == before.value(connections) + 1
    assert during.value("realm_engine_sequences_running", model=f"default/{MODEL}") == 1
    until(
        lambda: server.metrics().value("realm_engine_sequences_running") == 0,
        "the engine is done with the call that was cancelled",
    )
    after = server.metrics()
    requests = "realm_gateway_requests_total"
    assert grown(requests, function="generate", code="ok", **tenant) == 2
    assert grown(requests, function="other", code="unknown_function", **tenant) == 1
    assert grown(requests, function="chat", code="cancelled", **tenant) == 1
    cached = sum(reply.usage.cached_tokens for reply in replies)
    assert cached > 0
    # The question that was cancelled may have found its own beginning too.
    assert grown("realm_engine_cached_tokens_total") >= cached
    assert grown("realm_engine_generated_tokens_total") >= 16
    generated = grown("realm_engine_generated_tokens_total")
    assert grown("realm_engine_tenant_generated_tokens_total", **tenant) == generated
    assert grown("realm_engine_tenant_first_token_seconds_count", **tenant) == 3
    for tokens in ("prompt", "cached"):
        of_tenant = grown(f"realm_engine_tenant_{tokens}_tokens_total", **tenant)
        assert of_tenant == grown(f"realm_engine_{tokens}_tokens_total")
    assert grown("realm_program_fuel_total", **tenant) > 0
    assert grown("realm_program_host_calls_total", **tenant) >= 16
    assert grown("realm_time_to_first_token_seconds_count", function="generate") == 2
    assert grown("realm_inter_token_seconds_count") >= 2
    assert after.value("realm_calls_running") == 0
