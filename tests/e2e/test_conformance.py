"""`realm conformance tenancy` at a server that keeps its tenants apart, and at ones that do not."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from conftest import Serve
from harness.folder import Folder, entry, new_key
from harness.server import Server, binary
from harness.wait import eventually
from realm_client import ProgramError

#: Beyond the slowest of these runs on a busy machine.
RUN_S_MAX = 180.0

#: The fewest trials of which a verdict is made.
TRIALS = 20

#: The exit status where nothing failed and not everything is known.
NOT_KNOWN = 3

#: Tight, so that attacks end soon.
PROGRAM = {
    "memoryBytes": 16 << 20,
    "fuel": 300_000_000,
    "hostCalls": 5_000,
    "outputBytes": 100_000,
    "deadlineMs": 30_000,
    # Enough for a hook to be late before it ends.
    "tokenFuel": 1_000_000_000,
    "tokenDeadlineMs": 5,
}

#: Another key of the first tenant.
SECOND = new_key()


@pytest.fixture(scope="module")
def server(serve: Serve, hostile: Path, pirate: Path) -> Server:
    def fill(folder: Folder) -> None:
        folder.tenant("one", apiKeys=[{"secretName": "one-keys"}, {"secretName": "one-more"}])
        folder.secret("one-more", {"second": entry(SECOND)})
        folder.tenant("other")
        # One call in three seconds, once the first few are spent, and two tokens in one.
        folder.tenant("frugal", limits={"requestsPerMinute": 20, "outputTokensPerMinute": 120})
        attack = {"sources": [hostile.as_uri()]}
        folder.tenant("mallory", program=attack, limits={"program": PROGRAM})
        folder.tenant("pirate", program={"sources": [pirate.as_uri()]})

    return serve(fill)


@dataclass(frozen=True, slots=True)
class Ran:
    """What a run said."""

    status: int
    report: Any
    said: str

    def check(self, name: str) -> Any:
        """One of its checks."""
        return next(check for check in self.report["checks"] if check["id"] == name)

    def figure(self, check: str, name: str) -> Any:
        """A figure whose name begins so."""
        figures = self.check(check)["figures"]
        return next(figure for figure in figures if figure["name"].startswith(name))


@dataclass(frozen=True, slots=True)
class Tenancy:
    """Runs the command at a server, as two tenants, with next to no trials."""

    server: Server
    folder: Path

    def __call__(self, *checks: str, other: str | None = None, **keys: str) -> Ran:
        """Tries `checks`; `other` and those of `keys` stand in for, or beside, the good ones."""
        shown = {"key": self.server.folder.key("one")}
        shown["other_key"] = other or self.server.folder.key("other")
        command = [binary(), "conformance", "tenancy", "--url", self.server.url, "--json"]
        command += ["--trials", str(TRIALS), "--words", "64", "--seed", "7"]
        for name, key in (shown | keys).items():
            file = self.folder / name
            file.write_text(f"{key}\n")
            command += [f"--{name.replace('_', '-')}-file", str(file)]
        for check in checks:
            command += ["--check", check]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("REALM_")}
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=RUN_S_MAX, check=False, env=environment
        )
        assert done.stdout, done.stderr
        said = done.stdout + done.stderr
        assert not any(key in said for key in (shown | keys).values())
        return Ran(done.returncode, json.loads(done.stdout), said)


@pytest.fixture
def tenancy(server: Server, tmp_path: Path) -> Tenancy:
    return Tenancy(server, tmp_path)


def test_a_server_that_keeps_tenants_apart_is_seen_to(
    tenancy: Tenancy, record_property: Callable[[str, object], None]
) -> None:
    ran = tenancy(
        *("keys", "stream-limits", "retry-after", "program-exhaustion"),
        limited_key=tenancy.server.folder.key("frugal"),
        hostile_key=tenancy.server.folder.key("mallory"),
    )
    verdicts = {check["id"]: check["verdict"] for check in ran.report["checks"]}
    expected = dict.fromkeys(("keys", "stream-limits", "retry-after", "program-exhaustion"), "pass")
    assert verdicts == expected, ran.said
    assert (ran.status, ran.report["verdict"]) == (0, "pass")
    assert ran.report["tenants"] == ["default/one", "default/other"]
    assert all(check["trials"] and check["threshold"] for check in ran.report["checks"])
    assert ran.figure("stream-limits", "tokens over what a tenant had left")["value"] <= 1
    assert "one was cut" in ran.check("stream-limits")["why"]
    pause = ran.figure("program-exhaustion", "longest pause beside `loop`")
    record_property("longest pause beside a loop, ms", round(pause["value"]))


async def test_tokens_that_an_attack_has_chosen_without_its_hook_are_counted(
    server: Server,
) -> None:
    late = {"tenant": "default/mallory", "pipeline": "-"}

    # The hook is ended when it has burnt its fuel, a tenth of a second on a fast machine, and on a
    # busy one the first step may take as long as that.
    async def is_counted() -> bool:
        async with server.client("mallory") as client:
            with pytest.raises(ProgramError):
                await client.call("overrun_hook", {})
        return server.metrics().value("realm_program_hook_overruns_total", **late) > 0

    await eventually(is_counted, "tokens without their hook")


def test_what_could_not_be_tried_is_skipped_and_passes_nothing(tenancy: Tenancy) -> None:
    ran = tenancy("retry-after", "program-exhaustion")
    assert (ran.status, ran.report["verdict"]) == (NOT_KNOWN, "skipped")
    assert "--limited-key-file" in ran.check("retry-after")["why"]
    assert "--hostile-key-file" in ran.check("program-exhaustion")["why"]
    ran = tenancy("program-exhaustion", hostile_key=tenancy.server.folder.key("pirate"))
    assert "no function `loop`" in ran.check("program-exhaustion")["why"]
    assert ran.status == NOT_KNOWN


def test_two_keys_of_one_tenant_leak_what_its_cache_holds(
    tenancy: Tenancy, record_property: Callable[[str, object], None]
) -> None:
    ran = tenancy("keys", "prefix-timing", other=SECOND)
    assert (ran.status, ran.report["verdict"]) == (1, "fail")
    assert ran.check("keys")["why"] == "both keys are of default/one"
    timing = ran.check("prefix-timing")
    assert (timing["verdict"], timing["trials"]) == ("fail", TRIALS)
    assert ran.figure("prefix-timing", "trials that told")["value"] == TRIALS
    # How sure that is depends on how busy this machine is.
    leak = ran.figure("prefix-timing", "saved by the other tenant's cache")
    record_property("saved by the other tenant's cache, ms", round(leak["value"]))


def test_an_attack_that_another_limit_ends_is_a_failure(tenancy: Tenancy, hostile: Path) -> None:
    folder = tenancy.server.folder
    # Memory for which the fuel does not last: `eat_memory` ends, and not at the limit of memory.
    loose = PROGRAM | {"memoryBytes": 1 << 30, "fuel": 20_000_000}
    attack = {"sources": [hostile.as_uri()]}
    folder.tenant("trudy", program=attack, limits={"program": loose})
    tenancy.server.await_line("tenant default/trudy: ready")
    ran = tenancy("program-exhaustion", hostile_key=folder.key("trudy"))
    assert (ran.status, ran.report["verdict"]) == (1, "fail")
    assert "`eat_memory` ended with `program_fuel`" in ran.check("program-exhaustion")["why"]
    folder.remove("tenant-trudy.yaml")


def test_a_table_for_people_says_the_same(tenancy: Tenancy) -> None:
    folder = tenancy.server.folder
    keys = {"REALM_API_KEY": folder.key("one"), "REALM_OTHER_API_KEY": folder.key("other")}
    done = subprocess.run(
        [binary(), "conformance", "tenancy", "--url", tenancy.server.url, "--check", "keys"],
        capture_output=True,
        text=True,
        timeout=RUN_S_MAX,
        check=False,
        env=os.environ | keys,
    )
    assert done.returncode == 0, done.stderr
    first, second, *_ = done.stdout.splitlines()
    assert first.split() == ["CHECK", "VERDICT", "TRIALS", "WHY"]
    assert second.split()[:2] == ["keys", "pass"]
    assert done.stdout.splitlines()[-1].startswith("pass: default/one and default/other at ws://")
