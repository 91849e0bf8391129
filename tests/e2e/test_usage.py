"""What tenants have used adds up to what the engine did, and `realm usage` tells it."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import time

import pytest

from conftest import Serve
from harness.folder import MODEL, Folder, step
from harness.server import Server, realm
from harness.talk import LONG_PROMPT, QUESTIONS, asked
from harness.wait import until

TENANTS = ("acme", "globex", "initech")
MODEL_NAME = f"default/{MODEL}"


def fill(folder: Folder) -> None:
    for tenant in TENANTS:
        folder.tenant(tenant)
    steps = (
        step("summary", "Summarise: {{ inputs.text }}", tokens_max=8),
        step("headline", "Write a headline: {{ steps.summary }}", tokens_max=4),
    )
    folder.pipeline("digest", ["acme", "globex"], *steps)


@pytest.fixture(scope="module")
def server(serve: Serve) -> Server:
    return serve(fill)


def usage(server: Server, *flags: str) -> str:
    address = server.addresses.metrics.removeprefix("http://").removesuffix("/metrics")
    done = realm("usage", "--metrics", address, *flags)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def work(server: Server, tenant: str) -> None:
    async with server.client(tenant) as client:
        calls = [
            client.chat(asked(question), max_tokens=12, temperature=0) for question in QUESTIONS[:2]
        ]
        await asyncio.gather(*calls)
        if tenant != "initech":
            await client.pipeline("digest", {"text": LONG_PROMPT})


async def test_what_tenants_and_pipelines_used_adds_up_to_what_the_engine_did(
    server: Server,
) -> None:
    began = time.monotonic()
    first = server.metrics()
    await asyncio.gather(*(work(server, tenant) for tenant in TENANTS))
    until(
        lambda: server.metrics().value("realm_engine_kv_blocks_used") == 0,
        "the engine is done with all of it",
    )
    found = server.metrics()
    for kind in ("prompt_tokens", "cached_tokens", "generated_tokens", "kv_block_seconds"):
        of_tenants = found.value(f"realm_engine_tenant_{kind}_total", model=MODEL_NAME)
        assert of_tenants == pytest.approx(found.value(f"realm_engine_{kind}_total")), kind
    computing = found.value("realm_engine_seconds_total", state="computing")
    assert found.value("realm_engine_tenant_device_seconds_total") == pytest.approx(computing)
    for state in ("computing", "overhead"):
        assert found.value("realm_engine_seconds_total", state=state) > 0
    last = server.metrics()
    took = last.value("realm_engine_seconds_total") - first.value("realm_engine_seconds_total")
    assert took == pytest.approx(time.monotonic() - began, abs=0.5), "each moment is in one state"
    for tenant in TENANTS:
        used = {"tenant": f"default/{tenant}", "model": MODEL_NAME}
        for pipeline in ("-", "default/digest"):
            is_its = pipeline == "-" or tenant != "initech"
            for kind in ("device_seconds", "kv_block_seconds", "generated_tokens"):
                value = found.value(f"realm_engine_tenant_{kind}_total", pipeline=pipeline, **used)
                assert (value > 0) == is_its, (tenant, pipeline, kind)
            fuel = {"tenant": used["tenant"], "pipeline": pipeline}
            assert (found.value("realm_program_fuel_total", **fuel) > 0) == is_its


async def test_usage_is_told_as_csv_and_json_of_all_and_of_one(server: Server) -> None:
    await work(server, "acme")
    rows = list(csv.DictReader(io.StringIO(usage(server))))
    assert {row["what"] for row in rows} == {"program", "engine", "idle", "overhead"}
    engine = [row for row in rows if row["what"] == "engine"]
    assert {"-", "default/digest"} <= {row["pipeline"] for row in engine}
    loaded = sum(float(row["device_seconds"]) for row in rows if row["model"] == MODEL_NAME)
    now = server.metrics().value("realm_engine_seconds_total", model=MODEL_NAME)
    assert loaded == pytest.approx(now, abs=5), "a model's rows are all of its time"
    told = json.loads(usage(server, "--tenant", "acme", "--format", "json"))
    assert {row["tenant"] for row in told} == {"default/acme"}
    generated = sum(row.get("generated_tokens", 0) for row in told)
    metrics = server.metrics()
    assert generated == metrics.value(
        "realm_engine_tenant_generated_tokens_total", tenant="default/acme"
    )
    assert generated >= 12


async def test_what_a_tenant_that_is_gone_has_used_stays_in_the_sums(server: Server) -> None:
    await work(server, "initech")
    before = server.metrics().value("realm_engine_tenant_generated_tokens_total")
    server.folder.remove("tenant-initech.yaml")
    until(
        lambda: (
            server.metrics().value(
                "realm_engine_tenant_generated_tokens_total", tenant="default/initech"
            )
            == 0
        ),
        "the tenant's own rows are gone",
    )
    after = server.metrics()
    assert after.value("realm_engine_tenant_generated_tokens_total") == before
    assert after.value("realm_engine_tenant_device_seconds_total", tenant="-") > 0


def test_an_address_without_metrics_is_named(server: Server) -> None:
    door = server.addresses.listen
    done = realm("usage", "--metrics", door)
    assert done.returncode == 1
    assert done.stderr.startswith(f"realm: {door} has no metrics: it answered `HTTP/1.")
