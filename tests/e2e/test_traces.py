"""What a call leaves at a collector of traces: its way through door, program, engine and nodes."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import trustme

from conftest import Serve
from harness.collector import Collector, Span
from harness.folder import MODEL, Folder, Json, step
from harness.plane import HOSTNAME, Agent, Plane, free_port
from harness.raw import raw
from harness.server import Server
from harness.talk import QUESTIONS, TOKENS, answer, asked
from harness.wait import eventually
from realm_client import RateLimited, RealmError

QUESTION = QUESTIONS[0]

#: What a run of the built-in program's `chat` leaves.
CHAT = ("", "/tokenize_chat", "/generate", "/generate/queue", "/generate/prefill")

#: Ids of calls, each of one test.
_ids = itertools.count(1)


def run_of(path: str) -> set[str]:
    """The ways to all spans of one run of `chat`."""
    return {f"{path}/program{each}" for each in (*CHAT, "/generate/decode")}


def parent(sampled: str = "01") -> tuple[str, str, str]:
    """A trace, a span of it, and how a client names both."""
    trace, span = secrets.token_hex(16), secrets.token_hex(8)
    return trace, span, f"00-{trace}-{span}-{sampled}"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    """One collector for every server here; each test knows its traces."""
    collector = Collector()
    yield collector
    collector.close()


def fill(folder: Folder) -> None:
    folder.tenant("acme")
    folder.tenant("brief", limits={"requestsPerMinute": 1})
    steps = (
        step("one", "{{ inputs.text }}", tokens_max=4),
        step("two", "{{ steps.one }}", tokens_max=4),
    )
    folder.pipeline("digest", ["acme"], *steps)


@pytest.fixture(scope="module")
def server(serve: Serve, collector: Collector) -> Server:
    return serve(fill, "--otlp-endpoint", collector.url)


def call(function: str = "chat", **fields: object) -> dict[str, object]:
    """A call of `chat`, with an id of its own."""
    params = {"messages": asked(QUESTION), "max_tokens": TOKENS, "temperature": 0}
    return {"id": f"traced-{next(_ids)}", "function": function, "params": params} | fields


async def ended(server: Server, frame: dict[str, object], tenant: str = "acme") -> str:
    """The text of a call, at its end."""
    async with raw(server.url, server.folder.key(tenant)) as socket:
        await socket.send(frame)
        text = ""
        while (said := await socket.frame())["status"] == "streaming":
            text += said["data"]["text"]
        assert said["status"] == "complete", said
    return text


def within(inner: Span, outer: Span) -> bool:
    """Whether one span lies in another; clocks of one machine differ by no more."""
    slack_ns = 2_000_000
    return outer.start <= inner.start + slack_ns and inner.end <= outer.end + slack_ns


async def test_a_call_over_websocket_leaves_its_way_under_its_clients_span(
    server: Server, collector: Collector
) -> None:
    trace, span, traceparent = parent()
    frame = call(traceparent=traceparent, tracestate="vendor=value")
    text = await ended(server, frame)
    left = await asyncio.to_thread(collector.trace, trace)
    root = left.one(f"chat {MODEL}")
    assert set(left.paths) == {root.name, f"{root.name}/admit", *run_of(root.name)}
    assert (root.parent, root.kind, root.state) == (span, "server", "vendor=value")
    expected = {
        "realm.tenant": "default/acme",
        "realm.function": "chat",
        "realm.call": frame["id"],
        "realm.door": "websocket",
        "realm.outcome": "ok",
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "realm",
        "gen_ai.request.model": MODEL,
        "gen_ai.response.finish_reasons": ["length"],
        "gen_ai.usage.output_tokens": TOKENS,
    }
    assert expected.items() <= root.attributes.items()
    assert root.attributes["gen_ai.usage.input_tokens"] > 10
    generate = left.one("generate")
    tokens = [generate.attributes[f"realm.sequence.{each}_tokens"] for each in ("input", "output")]
    assert tokens == [root.attributes["gen_ai.usage.input_tokens"], TOKENS]
    assert generate.attributes["realm.model"] == f"default/{MODEL}"
    assert left.one("program").attributes["realm.program.fuel"] > 0
    decode, prefill, queue = (left.one(name) for name in ("decode", "prefill", "queue"))
    assert (queue.end, prefill.end) == (prefill.start, decode.start)
    assert generate.events["first_token"] == decode.start
    assert root.start < root.events["first_piece"] < root.end
    assert all(within(each, root) and not each.is_error for each in left.spans)
    assert_silent(collector, server, text)


def assert_silent(collector: Collector, server: Server, *texts: str) -> None:
    """Nothing that came says what was asked, what was answered, or a key."""
    words = [QUESTION, server.folder.key("acme"), *(text for text in texts if len(text) > 8)]
    for body in collector.bodies:
        for word in words:
            assert word.encode() not in body


async def test_calls_of_a_socket_belong_to_the_span_of_its_upgrade(
    server: Server, collector: Collector
) -> None:
    trace, span, traceparent = parent()
    headers = {"traceparent": traceparent}
    frame = call()
    async with raw(server.url, server.folder.key("acme"), headers=headers) as socket:
        await socket.send(frame)
        await socket.until(status="complete")
    left = await asyncio.to_thread(collector.trace, trace)
    assert left.one(f"chat {MODEL}").parent == span


async def test_a_call_over_http_leaves_its_way_under_its_clients_span(
    server: Server, collector: Collector
) -> None:
    trace, span, traceparent = parent()
    answered = await asked_by_http(server, {"traceparent": traceparent, "tracestate": "a=b"})
    left = await asyncio.to_thread(collector.trace, trace)
    root = left.one(f"chat {MODEL}")
    assert (root.parent, root.state) == (span, "a=b")
    assert root.attributes["realm.door"] == "http"
    assert root.attributes["realm.call"] == answered["id"]
    assert run_of(root.name) <= set(left.paths)
    assert_silent(collector, server, answered["choices"][0]["message"]["content"])


async def asked_by_http(server: Server, headers: dict[str, str]) -> Json:
    """What the OpenAI door answers to the question."""
    body = {"model": MODEL, "messages": asked(QUESTION), "max_tokens": 4, "temperature": 0}
    key = {"Authorization": f"Bearer {server.folder.key('acme')}"}
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        answered = await client.post(
            f"{server.http}/chat/completions", json=body, headers=key | headers
        )
    assert answered.is_success, answered.text
    return answered.json()


async def test_a_call_whose_client_names_no_span_begins_a_trace(
    server: Server, collector: Collector
) -> None:
    for nonsense in ({}, {"traceparent": "00-nonsense"}, {"traceparent": "0" * 10_000}):
        frame = call(**nonsense)
        await ended(server, frame)
        left = await asyncio.to_thread(collector.called, str(frame["id"]))
        assert left.one(f"chat {MODEL}").parent == ""


async def test_a_client_that_wants_no_trace_leaves_none(
    server: Server, collector: Collector
) -> None:
    trace, _, traceparent = parent("00")
    await ended(server, call(traceparent=traceparent))
    last = call()
    await ended(server, last)
    # What came later has been exported.
    await asyncio.to_thread(collector.called, str(last["id"]))
    assert trace not in {span.trace for span in collector.spans}


async def test_a_pipeline_leaves_its_steps(server: Server, collector: Collector) -> None:
    frame = call("pipeline", params={"pipeline": "digest", "input": {"text": QUESTION}})
    await ended(server, frame)
    left = await asyncio.to_thread(collector.called, str(frame["id"]))
    root = left.one("pipeline digest")
    steps = left.all("step")
    assert [each.attributes["realm.step"] for each in steps] == ["one", "two"]
    assert {each.parent for each in steps} == {root.id}
    assert steps[0].end <= steps[1].start
    assert run_of(f"{root.name}/step") <= set(left.paths)
    assert len(left.all("decode")) == 2
    assert root.attributes["realm.pipeline"] == "digest"
    assert_silent(collector, server)


async def test_a_call_that_is_cancelled_says_so_and_is_no_error(
    server: Server, collector: Collector
) -> None:
    frame = call()
    params = {"messages": asked(QUESTION), "max_tokens": 1500, "temperature": 0}
    async with raw(server.url, server.folder.key("acme")) as socket:
        await socket.send(frame | {"params": params})
        await socket.until(status="streaming")
        await socket.send({"type": "cancel", "id": frame["id"]})
        await socket.until(status="cancelled")
    left = await asyncio.to_thread(collector.called, str(frame["id"]))
    for name in (f"chat {MODEL}", "program", "generate", "decode"):
        span = left.one(name)
        assert (span.outcome, span.is_error) == ("cancelled", False), name
    assert left.one("generate").attributes["realm.sequence.output_tokens"] > 0


async def test_a_call_that_is_refused_says_why(server: Server, collector: Collector) -> None:
    async with server.client("brief") as client:
        await answer(client, QUESTION, max_tokens=1)
        with pytest.raises(RateLimited):
            await answer(client, QUESTION, max_tokens=1)

    async def refused() -> Span | None:
        found = [span for span in collector.spans if span.outcome == "too_many_requests"]
        return found[0] if found else None

    span = await eventually(refused, "the refused call is exported")
    assert span.is_error
    assert span.attributes["error.type"] == "too_many_requests"
    assert span.attributes["realm.tenant"] == "default/brief"


async def test_what_a_server_has_left_is_exported_when_it_ends(
    serve: Serve, collector: Collector
) -> None:
    server = serve(fill, "--otlp-endpoint", collector.url)
    frame = call()
    await ended(server, frame)
    server.terminate()
    assert await asyncio.to_thread(server.wait) == 0
    assert frame["id"] in {span.attributes.get("realm.call") for span in collector.spans}


async def test_a_collector_that_is_not_there_disturbs_no_call_and_is_named_once(
    serve: Serve,
) -> None:
    server = serve(fill, "--otlp-endpoint", f"http://127.0.0.1:{free_port()}")
    async with server.client("acme") as client:
        first = await answer(client, QUESTION)
        said = await server.says("traces do not reach the collector")
        for _ in range(3):
            assert await answer(client, QUESTION) == first
    started = time.monotonic()
    server.terminate()
    assert await asyncio.to_thread(server.wait) == 0
    assert time.monotonic() - started < 10
    assert [line for line in server.err.lines if "do not reach" in line] == [said]


async def test_the_environment_says_where_to_and_who(
    serve: Serve, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-scope=mine")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "somebody")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    server = serve(fill)
    frame = call()
    await ended(server, frame)
    left = await asyncio.to_thread(collector.called, str(frame["id"]))
    expected = {"service.name": "somebody", "deployment.environment.name": "test"}
    assert expected.items() <= left.spans[0].resource.items()
    assert collector.headers["x-scope"] == "mine"


async def test_a_sampler_of_the_environment_leaves_a_client_its_own_word(
    serve: Serve, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    server = serve(fill, "--otlp-endpoint", collector.url)
    silent = call()
    await ended(server, silent)
    trace, _, traceparent = parent()
    await ended(server, call(traceparent=traceparent))
    await asyncio.to_thread(collector.trace, trace)
    assert silent["id"] not in {span.attributes.get("realm.call") for span in collector.spans}


async def test_a_collector_with_tls_is_believed_by_its_authority(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(file)
    secure = Collector(authority)
    try:
        stranger = serve(fill, "--otlp-endpoint", secure.url)
        await ended(stranger, call())
        await stranger.says("traces do not reach the collector")
        assert not secure.spans
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(file))
        friend = serve(fill, "--otlp-endpoint", secure.url)
        frame = call()
        await ended(friend, frame)
        await asyncio.to_thread(secure.called, str(frame["id"]))
    finally:
        secure.close()


async def test_nothing_is_exported_unless_somebody_says_where_to(
    serve: Serve, collector: Collector
) -> None:
    server = serve(fill)
    trace, _, traceparent = parent()
    await ended(server, call(traceparent=traceparent))
    server.terminate()
    assert await asyncio.to_thread(server.wait) == 0
    assert trace not in {span.trace for span in collector.spans}


async def test_an_address_that_is_none_is_refused_at_the_start(serve: Serve) -> None:
    with pytest.raises(AssertionError, match="collector's address"):
        serve(fill, "--otlp-endpoint", "collector:4318")


class Pair:
    """Two nodes, each with a model of its own, and tenants of the first and of both."""

    def __init__(self, plane: Plane, model: Path, collector: Collector) -> None:
        operator = plane.operator("operator-0")
        flags = ("--otlp-endpoint", collector.url)
        self.alpha = plane.agent("alpha", [operator], flags=flags)
        self.beta = plane.agent("beta", [operator], flags=flags)
        for name, agent in (("left", self.alpha), ("right", self.beta)):
            placement = {"nodeSelector": {HOSTNAME: agent.node}}
            source = model.absolute().as_uri()
            plane.apply(
                "Model", name, {"sources": [source], "kvBlocks": 256, "placement": placement}
            )
        plane.key("both")
        grants = [{"name": "left"}, {"name": "right"}]
        plane.apply("Tenant", "both", {"models": grants, "apiKeys": [{"secretName": "both-keys"}]})
        one = step("one", "{{ inputs.text }}", tokens_max=4) | {"model": {"name": "left"}}
        two = step("two", "{{ steps.one }}", tokens_max=4) | {"model": {"name": "right"}}
        plane.apply(
            "Pipeline",
            "across",
            {
                "inputs": [{"name": "text"}],
                "steps": [one, two | {"dependsOn": ["one"]}],
                "outputs": [{"name": "two", "step": "two"}],
                "tenants": ["both"],
            },
        )
        for name in ("left", "right"):
            plane.await_condition("model", name, "True")
        plane.await_condition("tenant", "both", "True")
        asyncio.run(served(self.beta))


async def served(agent: Agent) -> None:
    """Waits until a door has a way to both models."""

    async def answers() -> bool:
        try:
            async with agent.client("both") as client:
                for model in ("left", "right"):
                    await client.chat(asked(QUESTION), model=model, max_tokens=1)
        except RealmError:
            return False
        return True

    await eventually(answers, f"{agent.node} has a way to both models")


@pytest.fixture(scope="module")
def pair(plane: Plane, model: Path, collector: Collector) -> Pair:
    return Pair(plane, model, collector)


async def test_a_call_that_is_handed_on_is_one_trace_of_two_nodes(
    plane: Plane, pair: Pair, collector: Collector
) -> None:
    trace, span, traceparent = parent()
    frame = call(traceparent=traceparent, tracestate="vendor=value")
    frame["params"] = {"messages": asked(QUESTION), "model": "left", "max_tokens": 4}
    async with raw(f"{pair.beta.url}/v1/ws", plane.key("both")) as socket:
        await socket.send(frame)
        await socket.until(status="complete")
    left = await asyncio.to_thread(collector.trace, trace, spans=10)
    root = left.one("chat left")
    serve = f"{root.name}/forward/serve"
    expected = {root.name, f"{root.name}/admit", f"{root.name}/forward", serve, *run_of(serve)}
    assert set(left.paths) == expected
    assert root.parent == span
    forward, there = left.one("forward"), left.one("serve")
    assert (forward.kind, there.kind) == ("client", "server")
    assert (forward.attributes["realm.node"], there.attributes["realm.node"]) == ("alpha", "beta")
    assert forward.attributes["realm.model"] == f"{plane.tenants}/left"
    nodes = {each.name: each.resource["k8s.node.name"] for each in left.spans}
    assert (nodes["chat left"], nodes["forward"]) == ("beta", "beta")
    assert {nodes[name] for name in ("serve", "program", "decode")} == {"alpha"}
    assert {each.resource["service.name"] for each in left.spans} == {"realm-agent"}
    assert {each.state for each in left.spans} == {"vendor=value"}
    assert there.attributes["realm.tenant"] == f"{plane.tenants}/both"


async def test_a_pipeline_across_two_nodes_is_one_trace(
    plane: Plane, pair: Pair, collector: Collector
) -> None:
    trace, _, traceparent = parent()
    frame = call("pipeline", traceparent=traceparent)
    frame["params"] = {"pipeline": "across", "input": {"text": QUESTION}}
    async with raw(f"{pair.beta.url}/v1/ws", plane.key("both")) as socket:
        await socket.send(frame)
        await socket.until(status="complete")
    left = await asyncio.to_thread(collector.trace, trace, spans=18)
    step_path = "pipeline across/step"
    away, here = run_of(f"{step_path}/forward/serve"), run_of(step_path)
    assert away | here <= set(left.paths)
    nodes = [each.resource["k8s.node.name"] for each in left.all("program")]
    assert sorted(nodes) == ["alpha", "beta"]
