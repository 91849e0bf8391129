"""Every agent is a door for every model: calls go where their model is, or wait until it is."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import openai
import pytest
import trustme

from harness.folder import Json, step
from harness.metrics import parse
from harness.plane import HOSTNAME, Agent, Operator, Plane
from harness.talk import QUESTIONS, TOKENS, answer, asked, stream
from harness.vectors import APART_MAX, ENCODER, apart, reference
from harness.wait import eventually, raises
from realm_client import Busy, Client, Moved, RateLimited, RealmError, Unauthenticated

QUESTION = QUESTIONS[0]

#: A call through a door reaches its node on a slow machine long before this.
SOON_S = 60.0


@pytest.fixture(scope="module")
def operator(plane: Plane) -> Operator:
    """The only operator."""
    return plane.operator("operator-0")


@pytest.fixture(scope="module")
def alpha(plane: Plane, operator: Operator) -> Agent:
    """The node of the model `left`."""
    return plane.agent("alpha", [operator])


@pytest.fixture(scope="module")
def beta(plane: Plane, operator: Operator) -> Agent:
    """The node of the model `right`."""
    return plane.agent("beta", [operator])


def only_on(node: str) -> Json:
    """A placement that one node fits."""
    return {"nodeSelector": {HOSTNAME: node}}


def tenant(plane: Plane, name: str, *models: str, **spec: Json) -> None:
    """A tenant with a key and the right to these models."""
    plane.key(name)
    grants = [{"name": model} for model in models]
    keys = [{"secretName": f"{name}-keys"}]
    plane.apply("Tenant", name, {"models": grants, "apiKeys": keys, **spec})


async def served(agent: Agent, name: str) -> None:
    """Waits until a door has a way to the tenant's model."""

    async def answers() -> str:
        try:
            async with agent.client(name) as client:
                return await answer(client, QUESTION, max_tokens=1)
        except RealmError:
            return ""

    await eventually(answers, f"{agent.node} serves {name}", within_s=SOON_S)


async def opened(agent: Agent, name: str) -> None:
    """Waits until the tenant's key opens a door."""

    async def opens() -> bool:
        try:
            async with agent.client(name) as client:
                return bool(await client.health())
        except RealmError:
            return False

    await eventually(opens, f"{agent.node} knows {name}")


@pytest.fixture(scope="module")
def placed(plane: Plane, alpha: Agent, beta: Agent, model: Path) -> None:
    """One model on each node; a tenant of the first, a tenant of both, and a pipeline of both."""
    source = model.absolute().as_uri()
    for name, agent in (("left", alpha), ("right", beta)):
        spec = {"sources": [source], "kvBlocks": 256, "placement": only_on(agent.node)}
        plane.apply("Model", name, spec)
    tenant(plane, "acme", "left")
    tenant(plane, "both", "left", "right")
    one = step("one", "{{ inputs.text }}", tokens_max=4) | {"model": {"name": "left"}}
    two = step("two", "{{ steps.one }}", tokens_max=4) | {"model": {"name": "right"}}
    plane.apply(
        "Pipeline",
        "across",
        {
            "inputs": [{"name": "text"}],
            "steps": [one, two | {"dependsOn": ["one"]}],
            "outputs": [{"name": "one", "step": "one"}, {"name": "two", "step": "two"}],
            "tenants": ["both"],
        },
    )
    for name in ("left", "right"):
        assert plane.await_condition("model", name, "True", within_s=SOON_S)["reason"] == "Serving"
    for name in ("acme", "both"):
        plane.await_condition("tenant", name, "True", within_s=SOON_S)
    asyncio.run(served(alpha, "acme"))
    asyncio.run(served(beta, "acme"))


def handed_on(agent: Agent, outcome: str) -> float:
    """Calls that a door has handed on, by how they ended."""
    text = httpx.get(agent.metrics, trust_env=False).text
    return parse(text).value("realm_relay_calls_total", outcome=outcome)


def booked_by(agent: Agent, pipeline: str) -> float:
    """Tokens that a node has generated for steps of a pipeline."""
    metrics = parse(httpx.get(agent.metrics, trust_env=False).text)
    return metrics.value("realm_engine_tenant_generated_tokens_total", pipeline=pipeline)


@pytest.mark.usefixtures("placed")
async def test_an_answer_streams_through_the_door_of_a_node_without_the_model(
    alpha: Agent, beta: Agent
) -> None:
    before = handed_on(beta, "served")
    async with alpha.client("acme") as client:
        whole = await answer(client, QUESTION)
    async with beta.client("acme") as client:
        heard = await stream(client, QUESTION)
    assert heard.text == whole
    assert len(heard.gaps_s) > TOKENS // 3
    assert handed_on(beta, "served") == before + 1
    assert handed_on(alpha, "served") == 0


@pytest.mark.usefixtures("placed")
async def test_the_official_client_streams_through_that_door_too(
    plane: Plane, alpha: Agent, beta: Agent
) -> None:
    async with alpha.client("acme") as client:
        whole = await answer(client, QUESTION)
    http = openai.DefaultAsyncHttpxClient(trust_env=False)
    key = plane.key("acme")
    async with openai.AsyncOpenAI(
        base_url=beta.http, api_key=key, max_retries=0, http_client=http
    ) as official:
        streamed = await official.chat.completions.create(
            model="left",
            messages=[{"role": "user", "content": QUESTION}],
            max_tokens=TOKENS,
            temperature=0,
            logprobs=True,
            stream=True,
        )
        choices = [chunk.choices[0] async for chunk in streamed]
    assert "".join(choice.delta.content or "" for choice in choices) == whole
    told = [choice.logprobs.content or [] for choice in choices if choice.logprobs]
    assert "".join(token.token for each in told for token in each) == whole


@pytest.mark.usefixtures("placed")
async def test_a_door_without_the_program_knows_its_functions_and_models(beta: Agent) -> None:
    async with beta.client("acme") as client:
        known = await client.metadata()
    assert {"chat", "generate", "tokenize"} <= {function.name for function in known.functions}
    assert [(model.alias, model.ready) for model in known.models] == [("left", True)]


@pytest.mark.usefixtures("placed")
async def test_a_refusal_of_the_other_node_comes_with_its_numbers(beta: Agent) -> None:
    async with beta.client("acme") as client:
        with pytest.raises(RealmError) as refused:
            await client.generate("x", max_tokens=0)
    assert refused.value.code == "invalid"
    assert "max_tokens" in str(refused.value)
    async with beta.client("acme") as client:
        with pytest.raises(RealmError) as refused:
            await client.generate("x", model="other")
    assert refused.value.code == "unknown_model"


@pytest.mark.usefixtures("placed")
async def test_what_runs_elsewhere_is_charged_once_and_at_its_door(
    plane: Plane, alpha: Agent, beta: Agent
) -> None:
    # Half of each is one door's.
    limits = {"requestsPerMinute": 20, "outputTokensPerMinute": 40, "inputTokensPerMinute": 2000}
    tenant(plane, "meter", "left", limits=limits)
    await served(alpha, "meter")
    async with beta.client("meter") as client:
        await client.health()
        first = await client.chat(asked(QUESTION), max_tokens=20, temperature=0)
        assert first.quota is not None
        assert first.usage.completion_tokens == 20
        assert first.quota.requests is not None
        assert 8 <= first.quota.requests <= 9
        assert first.quota.output_tokens is not None
        assert first.quota.output_tokens <= 2
        assert first.quota.input_tokens is not None
        computed = first.usage.prompt_tokens - first.usage.cached_tokens
        assert abs(1000 - computed - first.quota.input_tokens) <= 20
        with pytest.raises(RateLimited):
            for _ in range(3):
                await client.chat(asked(QUESTIONS[1]), max_tokens=4, temperature=0)
    async with alpha.client("meter") as client:
        # It has served them all and has charged none but its own.
        own = await client.chat(asked(QUESTION), max_tokens=1, temperature=0)
        assert own.quota is not None
        assert own.quota.output_tokens is not None
        assert own.quota.output_tokens >= 15


@pytest.mark.usefixtures("placed")
async def test_streams_through_another_door_have_together_what_that_door_has(
    plane: Plane, alpha: Agent, beta: Agent
) -> None:
    # Half of it is one door's: a token in two seconds.
    per_minute = 30
    tenant(plane, "thrifty", "left", limits={"outputTokensPerMinute": 2 * per_minute})
    await opened(beta, "thrifty")
    await served(alpha, "thrifty")
    async with beta.client("thrifty") as client:

        async def cut(prompt: str) -> tuple[int, RateLimited]:
            tokens = 0
            running = client.generate_stream(prompt, max_tokens=200, temperature=0, logprobs=0)
            with pytest.raises(RateLimited) as refused:
                async for chunk in running:
                    tokens += len(chunk.logprobs)
            return tokens, refused.value

        began = time.monotonic()
        ended = await asyncio.gather(*(cut(f"1, 2, 3, {at},") for at in range(4, 7)))
        earned = (time.monotonic() - began) * per_minute / 60
    tokens = [came for came, _ in ended]
    # A piece of several tokens goes as a whole or not at all.
    assert per_minute * 2 // 3 <= sum(tokens) <= per_minute + earned + 1, tokens
    for _, refused in ended:
        assert refused.code == "too_many_tokens"
        assert refused.retry_after is not None
        assert 0 < refused.retry_after <= 60 / per_minute

    async def is_idle() -> bool:
        metrics = parse((await asyncio.to_thread(httpx.get, alpha.metrics, trust_env=False)).text)
        return metrics.value("realm_engine_sequences_running") == 0

    await eventually(is_idle, "the other node computes for nobody", within_s=SOON_S)


@pytest.mark.usefixtures("placed")
async def test_texts_become_vectors_through_the_door_of_a_node_without_their_model(
    plane: Plane, alpha: Agent, beta: Agent, encoder: Path
) -> None:
    spec = {"sources": [encoder.absolute().as_uri()], "placement": only_on(alpha.node)}
    plane.apply("Model", ENCODER, spec)
    assert plane.await_condition("model", ENCODER, "True", within_s=SOON_S)["reason"] == "Serving"
    # It keeps no answer's past, and asks for no memory to keep it in.
    status = plane.get("model", ENCODER)["status"]
    assert status["architecture"] == "bert"
    assert status["estimate"]["kvBytesPerBlock"] == 0
    assert plane.condition("model", ENCODER, "Fits")["status"] == "True"
    limits = {"inputTokensPerMinute": 2000}
    tenant(plane, "reader", ENCODER, limits=limits)
    known = reference()
    await opened(beta, "reader")

    async def embeds() -> bool:
        try:
            async with beta.client("reader") as client:
                return bool(await client.embed("a"))
        except RealmError:
            return False

    await eventually(embeds, "the tenant's program is where its model is", within_s=SOON_S)
    before = handed_on(beta, "served")
    async with beta.client("reader") as client:
        found = await client.embed(known.texts)
        with pytest.raises(RealmError) as refused:
            await client.embed(["a", "sea " * 600])
    assert refused.value.code == "too_long"
    assert refused.value.message.startswith("text 1 has 602 tokens")
    assert handed_on(beta, "served") == before + 1
    for vector, expected in zip(found.vectors, known.vectors, strict=True):
        assert apart(vector, expected) <= APART_MAX
    assert found.quota is not None
    # Half of the limit is one door's, and time gives back meanwhile.
    assert found.quota.input_tokens is not None
    assert abs(1000 - known.tokens - found.quota.input_tokens) <= 20
    async with alpha.client("reader") as client:
        # It has served them and has charged only its own.
        own = await client.embed("a")
    assert own.quota is not None
    assert own.quota.input_tokens is not None
    assert own.quota.input_tokens >= 990


@pytest.mark.usefixtures("placed")
async def test_a_pipeline_runs_over_the_nodes_of_its_models(
    plane: Plane, alpha: Agent, beta: Agent
) -> None:
    replies = []
    for agent in (alpha, beta):
        async with agent.client("both") as client:
            running = client.pipeline_stream("across", {"text": "Once upon a time"})
            steps = [str(chunk.step) async for chunk in running]
            reply = await running.result()
        assert set(steps) == {"one", "two"}
        assert steps == sorted(steps)
        assert reply.usage is not None
        assert reply.usage.completion_tokens >= 2
        replies.append(reply.outputs)
    assert replies[0] == replies[1]
    assert replies[0].keys() == {"one", "two"}
    for agent in (alpha, beta):
        booked = booked_by(agent, f"{plane.tenants}/across")
        assert booked >= 2, f"{agent.node} books its step of both calls under the pipeline"


@pytest.mark.usefixtures("placed")
async def test_a_revoked_key_opens_neither_door(plane: Plane, alpha: Agent, beta: Agent) -> None:
    tenant(plane, "brief", "left")
    for agent in (alpha, beta):
        await served(agent, "brief")
    metadata = {"name": "brief-keys", "namespace": plane.tenants}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {}}
    async with alpha.client("brief") as one, beta.client("brief") as other:
        await one.health()
        await other.health()
        plane.cluster.admin.apply(secret)
        done = plane.cluster.admin.kubectl(
            *("patch", "secret", "brief-keys", "--namespace", plane.tenants),
            *("--type", "json", "--patch", '[{"op": "remove", "path": "/data/main"}]'),
        )
        assert done.returncode == 0, done.stderr
        for client in (one, other):
            ask = asking(client)
            await raises(Unauthenticated, ask, "the key is gone from its Secret")


def asking(client: Client) -> Callable[[], Awaitable[str]]:
    """Asks for one token."""
    return lambda: answer(client, QUESTION, max_tokens=1)


@pytest.mark.usefixtures("placed")
async def test_a_peer_takes_nobody_without_a_certificate_of_its_authority(
    plane: Plane, alpha: Agent
) -> None:
    stranger = trustme.CA()
    issued = stranger.issue_cert("127.0.0.1", common_name="realm")
    without, other = ssl.create_default_context(), ssl.create_default_context()
    issued.configure_cert(other)
    for what, context in (("no certificate", without), ("another authority", other)):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        with pytest.raises((ssl.SSLError, ConnectionError, EOFError)):
            await greeted(alpha.peer_port, context)
            pytest.fail(f"let in with {what}")
    # A client's key proves nothing there: the port speaks nothing before the certificate.
    async with httpx.AsyncClient(verify=False, trust_env=False) as client:
        key = {"Authorization": f"Bearer {plane.key('acme')}"}
        with pytest.raises(httpx.TransportError):
            await client.get(f"https://127.0.0.1:{alpha.peer_port}/v1/models", headers=key)
        with pytest.raises(httpx.TransportError):
            await client.get(f"http://127.0.0.1:{alpha.peer_port}/v1/models", headers=key)


async def greeted(port: int, context: ssl.SSLContext) -> bytes:
    """The first bytes that a server says over TLS; a client is let in when there are any."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    try:
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
        return await reader.readexactly(1)
    finally:
        writer.close()


@pytest.mark.usefixtures("placed")
async def test_the_first_call_of_a_sleeping_model_waits_until_it_is_loaded(
    plane: Plane, alpha: Agent, beta: Agent, model: Path
) -> None:
    spec = {
        "sources": [model.absolute().as_uri()],
        "kvBlocks": 256,
        "placement": only_on(alpha.node),
        "scaling": {"min": 0, "max": 1, "idleAfterSeconds": 3600},
    }
    plane.apply("Model", "sleepy", spec)
    asleep = plane.await_condition("model", "sleepy", "True", within_s=SOON_S)
    assert asleep["reason"] == "ScaledToZero"
    tenant(plane, "dreamer", "sleepy")
    await opened(beta, "dreamer")
    async with beta.client("dreamer") as client:
        began = time.monotonic()
        heard = await stream(client, QUESTION, max_tokens=8)
    assert heard.text
    assert time.monotonic() - began < SOON_S
    assert plane.await_condition("model", "sleepy", "True")["reason"] == "Serving"


@pytest.mark.usefixtures("placed")
async def test_a_model_that_is_nowhere_is_not_waited_for(
    plane: Plane, beta: Agent, model: Path
) -> None:
    plane.apply("Model", "off", {"sources": [model.absolute().as_uri()], "replicas": 0})
    tenant(plane, "idle", "off")
    await opened(beta, "idle")
    began = time.monotonic()
    async with beta.client("idle") as client:
        with pytest.raises(Busy) as refused:
            await answer(client, QUESTION, max_tokens=1)
    assert refused.value.code == "model_not_ready"
    assert refused.value.retry_after is not None
    assert time.monotonic() - began < SOON_S / 4


@pytest.mark.usefixtures("placed")
async def test_a_node_that_dies_in_the_middle_of_an_answer_ends_it_with_its_own_error(
    alpha: Agent, beta: Agent
) -> None:
    before = handed_on(beta, "cut")
    async with beta.client("acme", resume=False) as client:
        running = client.chat_stream(asked(QUESTION), max_tokens=2000, temperature=0)
        with pytest.raises(Moved):
            async for chunk in running:
                if chunk.index == 1:
                    alpha.daemon.kill()
    assert handed_on(beta, "cut") == before + 1
    alpha.start()
    await served(beta, "acme")


@pytest.mark.usefixtures("placed")
async def test_agents_that_start_while_their_operator_is_away_hand_calls_to_each_other(
    operator: Operator, alpha: Agent, beta: Agent
) -> None:
    operator.daemon.kill()
    for agent in (alpha, beta):
        agent.daemon.kill()
        agent.start()
    await served(beta, "acme")
    # A new process counts from nothing.
    assert handed_on(beta, "served") > 0
    operator.start()
