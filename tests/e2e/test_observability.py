"""A real Prometheus that scrapes an operator and an agent at work: every panel has data."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from harness.folder import Json, step
from harness.plane import Agent, Operator, Plane, free_port
from harness.prometheus import Prometheus
from harness.talk import LONG_PROMPT, QUESTIONS, asked
from harness.wait import until
from harness.watching import alerts, documented, panels
from realm_client import Client, NotFound, ProgramError, RateLimited, Unauthenticated

#: What Grafana would put in place of its variables.
ALL = {"$node": ".*", "$tenant": ".*", "$model": ".*", "$__rate_interval": "1m"}

#: Only while a download runs, a tenant or a model fails, a model is asleep or limits are in shadow,
#: which none is or does here.
UNSEEN = {
    "realm_agent_model_failed",
    "realm_agent_model_fetched_bytes",
    "realm_agent_tenant_failed",
    "realm_gateway_tenant_shadowed_total",
    "realm_relay_calls_held",
}

#: How a call may end.
CODE = re.compile(
    "ok|unauthenticated|suspended|not_allowed|unsupported|unknown_(function|model|pipeline)|invalid|too_large|"
    "too_many_(requests|tokens|calls)|too_long|model_not_ready|busy|draining|deadline_exceeded|"
    "slow_reader|cancelled|moved|program_(memory|fuel|host_calls|output|failed|not_ready)|"
    "starting|internal"
)


@dataclass(frozen=True)
class Watched:
    """Realm at work, and Prometheus beside it."""

    plane: Plane
    operator: Operator
    agent: Agent
    prometheus: Prometheus

    def scrape(self) -> str:
        """What both processes say now."""
        with httpx.Client(trust_env=False) as client:
            return "".join(
                client.get(url).raise_for_status().text
                for url in (self.operator.metrics, self.agent.metrics)
            )


@pytest.fixture(scope="module")
def watched(plane: Plane, model: Path, hostile: Path) -> Iterator[Watched]:
    """One agent with a model that is served and one that cannot be, and three tenants."""
    operator = plane.operator("operator-0")
    agent = plane.agent("alpha", [operator])
    lose_each_other(plane, operator)
    source = model.absolute().as_uri()
    plane.apply("Model", "smollm2", {"sources": [source], "replicas": 1, "kvBlocks": 256})
    plane.apply("Model", "broken", {"sources": [f"{source}.gone"], "replicas": 1})
    grants = [{"name": "smollm2"}, {"name": "broken"}]
    attack = {"sources": [hostile.absolute().as_uri()]}
    specs: dict[str, Json] = {
        "acme": {},
        "mallory": {"program": attack, "limits": {"program": {"fuel": 50_000_000}}},
        "brief": {"limits": {"requestsPerMinute": 2}},
    }
    for name, spec in specs.items():
        plane.key(name)
        keys = {"models": grants, "apiKeys": [{"secretName": f"{name}-keys"}]}
        plane.apply("Tenant", name, keys | spec)
    only = step("only", "{{ inputs.text }}", tokens_max=2)
    outputs = {"inputs": [{"name": "text"}], "outputs": [{"name": "only", "step": "only"}]}
    plane.apply("Pipeline", "echo", outputs | {"steps": [only], "tenants": ["acme"]})
    for name in specs:
        plane.await_condition("tenant", name, "True", within_s=120.0)
    plane.await_condition("model", "smollm2", "True", within_s=120.0)
    jobs = {"operator": [operator.metrics], "agent": [agent.metrics]}
    prometheus = Prometheus(plane.folder / "prometheus", free_port(), jobs)
    prometheus.start()
    try:
        yield Watched(plane, operator, agent, prometheus)
    finally:
        prometheus.close()


def lose_each_other(plane: Plane, operator: Operator) -> None:
    """The agent loses its operator, and the operator another agent."""

    def tells(line: str) -> bool:
        with httpx.Client(trust_env=False) as client:
            try:
                return line in client.get(operator.metrics).text
            except httpx.TransportError:
                return False

    until(lambda: tells('realm_operator_node_up{node="alpha"} 1'), "alpha is connected")
    operator.daemon.kill()
    operator.start()
    until(lambda: tells('realm_operator_node_up{node="alpha"} 1'), "alpha is back")
    brief = plane.agent("beta", [operator])
    until(lambda: tells('realm_operator_node_up{node="beta"} 1'), "beta is connected")
    brief.daemon.kill()
    until(lambda: tells("realm_operator_link_endings_total{"), "the operator misses beta")


async def work(watched: Watched) -> None:
    """Calls of every kind: served, streamed, refused, and ended by a limit."""
    agent = watched.agent
    async with agent.client("acme") as client:
        for _ in "ab":
            await client.generate(LONG_PROMPT, max_tokens=4, temperature=0)
        async for _ in client.chat_stream(asked(QUESTIONS[0]), max_tokens=4, temperature=0):
            pass
        await client.pipeline("echo", {"text": "x"})
        with pytest.raises(NotFound):
            await client.call("a function of nobody's", {})
    async with agent.client("mallory") as client:
        with pytest.raises(ProgramError):
            await client.call("loop", {})
    with pytest.raises(Unauthenticated):
        async with Client(f"ws://127.0.0.1:{agent.port}", "rk_wrong") as client:
            await client.health()


async def overdraw(watched: Watched) -> None:
    """One call more than the tenant may make."""
    async with watched.agent.client("brief") as client:
        with pytest.raises(RateLimited):
            for _ in range(3):
                await client.generate(QUESTIONS[1], max_tokens=1)


@pytest.fixture(scope="module")
def busy(watched: Watched) -> Watched:
    """The same once Prometheus has seen everything move."""
    until(lambda: "realm_gateway_ready 1" in watched.scrape(), "the agent serves again")
    until(
        lambda: bool(watched.prometheus.query("realm_operator_node_up == 1")),
        "the agent is back at the operator",
    )
    asyncio.run(overdraw(watched))
    requests = "sum(realm_gateway_requests_total)"
    for weight in (7, 8):
        asyncio.run(work(watched))
        watched.plane.apply(
            "Tenant", "acme", watched.plane.spec("tenant", "acme") | {"weight": weight}
        )
        watched.plane.await_condition("tenant", "acme", "True")
        now = sum(
            sample.value
            for family in text_string_to_metric_families(watched.scrape())
            for sample in family.samples
            if sample.name == "realm_gateway_requests_total"
        )

        def is_seen(now: float = now) -> bool:
            [sample] = watched.prometheus.query(requests)
            return float(sample["value"][1]) >= now

        until(is_seen, "Prometheus has seen the calls")
    return watched


def test_every_query_of_every_panel_has_data(busy: Watched) -> None:
    def has_data(expr: str) -> bool:
        samples = busy.prometheus.query(expr)
        return any(not math.isnan(float(sample["value"][1])) for sample in samples)

    for name, panel in panels():
        for target in panel["targets"]:
            expr = target["expr"]
            for variable, value in ALL.items():
                expr = expr.replace(variable, value)
            until(lambda expr=expr: has_data(expr), f"{name}: {expr}", within_s=15.0)  # type: ignore[misc]


def test_every_metric_is_documented_and_every_documented_one_is_told(busy: Watched) -> None:
    families = text_string_to_metric_families(busy.scrape())
    told = {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in families
        if family.name.startswith("realm_")
    }
    assert told | UNSEEN == documented()


def test_prometheus_takes_every_alert_of_the_running_processes(busy: Watched) -> None:
    for rule in alerts().values():
        busy.prometheus.query(rule["expr"])
    failed = busy.prometheus.query(alerts()["RealmModelFailed"]["expr"])
    assert [sample["metric"]["model"] for sample in failed] == [f"{busy.plane.tenants}/broken"]


def test_no_label_has_a_value_outside_of_its_closed_set(busy: Watched) -> None:
    own = busy.plane.tenants
    words = {
        "tenant": {"-"} | {f"{own}/{name}" for name in ("acme", "mallory", "brief")},
        "model": {f"{own}/smollm2", f"{own}/broken"},
        "pipeline": {"-", "other", f"{own}/echo"},
        "node": {"alpha", "beta"},
        "function": {"generate", "chat", "tokenize", "pipeline", "health", "metadata", "other"},
        "kind": {"Model", "Tenant", "Pipeline"},
        "priority": {"low", "normal", "high"},
        "status": {"True", "False", "Unknown"},
        "outcome": {
            *("written", "unchanged", "failed"),
            *("served", "refused", "cut", "cancelled", "not_taken"),
        },
    }
    word = re.compile(r"[A-Z][A-Za-z]+|throttled|error")
    patterns = {
        "code": CODE,
        "state": re.compile(
            r"pending|fetching|loading|ready|failed|connected|draining|away"
            r"|computing|idle|overhead"
        ),
        "reason": word,
        "condition": word,
        "le": re.compile(r"[0-9.e-]+|\+Inf"),
        "version": re.compile(r"\d+\.\d+\.\d+"),
    }
    for family in text_string_to_metric_families(busy.scrape()):
        for sample in family.samples:
            for label, value in sample.labels.items():
                where = f"{sample.name} {label}={value}"
                if label in words:
                    assert value in words[label], where
                else:
                    assert patterns[label].fullmatch(value), where


def test_a_scrape_tells_no_key_and_nothing_of_what_was_asked(busy: Watched) -> None:
    text = busy.scrape()
    for tenant in ("acme", "mallory", "brief"):
        assert busy.plane.key(tenant) not in text
    for secret in ("rk_", LONG_PROMPT[:20], QUESTIONS[0], "a function of nobody's"):
        assert secret not in text


def test_a_tenant_that_is_removed_has_no_series_left(busy: Watched) -> None:
    name = f"{busy.plane.tenants}/brief"
    assert f'realm_engine_tenant_generated_tokens_total{{model="{busy.plane.tenants}/smollm2"' in (
        busy.scrape()
    )
    assert busy.prometheus.series(f'{{tenant="{name}"}}')
    done = busy.plane.cluster.admin.kubectl(
        "delete", "tenant", "brief", "--namespace", busy.plane.tenants, "--timeout=60s"
    )
    assert done.returncode == 0, done.stderr
    until(lambda: name not in busy.scrape(), "nothing is told of the tenant that is gone")
