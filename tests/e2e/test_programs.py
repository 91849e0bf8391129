"""Tenants' own programs: one that behaves visibly differently, and many attacks on the host."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import statistics
import time
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx
import pytest

from conftest import Serve
from harness.folder import MODEL, Folder, step
from harness.server import Server, realm
from harness.talk import LONG_PROMPT, QUESTIONS, answer, asked, stream
from harness.wait import eventually
from realm_client import (
    Backoff,
    Busy,
    Client,
    DeadlineExceeded,
    NotFound,
    ProgramError,
    RealmError,
    TextReply,
)

#: Tight, so that an attack ends soon; the deadline alone is long enough to watch a victim.
LIMITS = {
    "memoryBytes": 16 << 20,
    "fuel": 300_000_000,
    "hostCalls": 5_000,
    "outputBytes": 100_000,
    "deadlineMs": 30_000,
}

#: So long does the attack go on that only a deadline ends.
ATTACK_MS = 3_000

#: A pause of a stream that nobody would call undisturbed, on the slowest machine.
GAP_S_MAX = 0.5

#: Tokens of the stream that is watched during an attack.
WATCHED = 120

ENDINGS = {
    "loop": "program_fuel",
    "eat_memory": "program_memory",
    "flood_host_calls": "program_host_calls",
    "flood_output": "program_output",
    "flood_logprobs": "program_output",
    "trap": "program_failed",
    "overflow_stack": "program_failed",
    "garbage_json": "program_failed",
    "garbage_data": "program_failed",
    "garbage_logprobs": "program_failed",
}


@pytest.fixture(scope="module")
def server(serve: Serve, hostile: Path, pirate: Path) -> Server:
    def fill(folder: Folder) -> None:
        folder.tenant("victim")
        attack = {"sources": [hostile.as_uri()]}
        folder.tenant("mallory", program=attack, limits={"program": LIMITS})
        endless = LIMITS | {"fuel": 10**15, "deadlineMs": ATTACK_MS}
        folder.tenant("sisyphus", program=attack, limits={"program": endless})
        voice = {"voice": "You are a robot."}
        folder.tenant("pirate", program={"sources": [pirate.as_uri()]})
        folder.tenant("robot", program={"sources": [pirate.as_uri()], "config": voice})
        folder.pipeline("loud", ["pirate"], step("only", "{{ inputs.text }}", tokens_max=8))

    return serve(fill)


async def test_a_tenants_own_program_behaves_as_its_author_wants(server: Server) -> None:
    question = asked(QUESTIONS[0])
    sampling: Any = {"max_tokens": 16, "temperature": 0}
    replies: dict[str, TextReply] = {}
    for tenant in ("victim", "pirate", "robot"):
        async with server.client(tenant) as client:
            replies[tenant] = await client.chat(question, **sampling)
    async with server.client("victim") as client:
        voice = "You are a pirate. Answer as a pirate would."
        as_pirate = await client.chat(asked(QUESTIONS[0], voice), **sampling)
    assert replies["pirate"].text == as_pirate.text.upper()
    assert replies["pirate"].text != replies["victim"].text.upper()
    assert replies["robot"].text.isupper()
    assert replies["robot"].text != replies["pirate"].text


async def test_a_program_exports_functions_of_its_own_and_only_to_its_tenant(
    server: Server,
) -> None:
    async with server.client("pirate") as client:
        assert (await client.call("shout", {"text": "ahoy, café"})).data == {"text": "AHOY, CAFÉ"}
        functions = {function.name for function in (await client.metadata()).functions}
        assert "shout" in functions
        assert "generate" not in functions
        with pytest.raises(NotFound):
            await client.generate("Once", max_tokens=1)
    async with server.client("victim") as client:
        with pytest.raises(NotFound):
            await client.call("shout", {"text": "x"})


async def test_a_good_key_is_told_that_its_program_is_not_there_and_a_wrong_one_is_not(
    serve: Serve, pirate: Path, tmp_path: Path
) -> None:
    source = tmp_path / "late.wasm"

    def fill(folder: Folder) -> None:
        folder.tenant("late", program={"sources": [source.as_uri()]})

    server = serve(fill, ready=False)
    await server.says("tenant default/late: failed")
    body = {"model": MODEL, "messages": asked(QUESTIONS[0]), "max_tokens": 1}
    async with httpx.AsyncClient(trust_env=False) as http:

        async def ask(key: str) -> httpx.Response:
            headers = {"Authorization": f"Bearer {key}"}
            return await http.post(f"{server.http}/chat/completions", json=body, headers=headers)

        answered = await ask(server.folder.key("late"))
        assert answered.status_code == HTTPStatus.SERVICE_UNAVAILABLE
        assert answered.json()["error"]["code"] == "program_not_ready"
        assert "SourceNotFound" in answered.json()["error"]["message"]
        assert int(answered.headers["retry-after"]) > 0
        wrong = await ask("rk_wrong")
        assert wrong.status_code == HTTPStatus.UNAUTHORIZED
        assert "program" not in wrong.text
    async with server.client("late", retry=Backoff(attempts_max=1)) as client:
        with pytest.raises(Busy) as refused:
            await client.call("shout", {"text": "ahoy"})
        assert refused.value.code == "program_not_ready"
    shutil.copy(pirate, source)
    async with server.client("late", retry=Backoff(attempts_max=100, total_s_max=120)) as client:
        assert (await client.call("shout", {"text": "ahoy"})).data == {"text": "AHOY"}


async def test_a_pipeline_runs_in_its_tenants_program(server: Server) -> None:
    async with server.client("pirate") as client:
        outputs = (await client.pipeline("loud", {"text": QUESTIONS[0]})).outputs
        said = await client.chat(asked(QUESTIONS[0]), max_tokens=8, temperature=0)
    assert outputs == {"only": said.text}
    assert said.text.isupper()


@pytest.mark.parametrize(("attack", "code"), ENDINGS.items())
async def test_an_attack_ends_typed_while_another_tenant_streams_on(
    server: Server, attack: str, code: str
) -> None:
    async with (
        server.client("victim") as victim,
        server.client("mallory") as mallory,
    ):
        expected = await answer(victim, QUESTIONS[1])
        streaming = asyncio.create_task(stream(victim, QUESTIONS[1]))
        with pytest.raises(ProgramError) as ended:
            await mallory.call(attack, {})
        assert ended.value.code == code
        assert (await streaming).text == expected
        # The tenant itself is not punished: the limit was of one call.
        with pytest.raises(ProgramError):
            await mallory.call("trap", {})


async def test_a_program_that_loops_does_not_slow_another_tenants_stream(
    server: Server, record_property: Callable[[str, object], None]
) -> None:
    async with (
        server.client("victim") as victim,
        server.client("sisyphus") as sisyphus,
    ):
        alone = await stream(victim, LONG_PROMPT, WATCHED)
        began = time.monotonic()
        attack = asyncio.create_task(fails(sisyphus, "loop"))
        beside = await stream(victim, LONG_PROMPT, WATCHED)
        error = await attack
        lasted_s = time.monotonic() - began
    for when, heard in (("alone", alone), ("beside a loop", beside)):
        median, worst = statistics.median(heard.gaps_s), max(heard.gaps_s)
        record_property(
            f"gap between tokens {when}, ms", f"{median * 1e3:.0f} to {worst * 1e3:.0f}"
        )
    assert isinstance(error, DeadlineExceeded)
    assert lasted_s >= ATTACK_MS / 1000
    assert beside.text == alone.text
    assert max(beside.gaps_s) < max(GAP_S_MAX, 10 * max(alone.gaps_s))
    assert statistics.median(beside.gaps_s) < 5 * statistics.median(alone.gaps_s)


async def fails(client: Client, function: str) -> RealmError:
    """How a call fails."""
    try:
        await client.call(function, {})
    except RealmError as error:
        return error
    raise AssertionError(f"`{function}` was served")


async def test_loops_of_a_tenants_every_call_leave_the_others_a_turn(server: Server) -> None:
    async with (
        server.client("victim") as victim,
        server.client("sisyphus") as sisyphus,
    ):
        attacks = [asyncio.create_task(fails(sisyphus, "loop")) for _ in range(8)]
        heard = await stream(victim, QUESTIONS[2])
        tokens = await victim.tokenize("still here")
        errors = await asyncio.gather(*attacks)
    assert {error.code for error in errors} == {"deadline_exceeded"}
    assert heard.text
    assert tokens.count == 2
    assert max(heard.gaps_s) < ATTACK_MS / 1000


async def test_a_program_cannot_reach_a_model_that_its_tenant_was_not_granted(
    server: Server,
) -> None:
    async with server.client("mallory") as mallory:
        granted = await mallory.call("steal_model", {"model": MODEL})
        assert granted.data == "llama"
        for name in ("default/smollm2", "other", "../smollm2", "*", ""):
            with pytest.raises(NotFound) as hidden:
                await mallory.call("steal_model", {"model": name})
            assert hidden.value.code == "unknown_model"


async def test_a_program_cannot_hide_or_reword_what_the_host_refused(server: Server) -> None:
    async with server.client("mallory") as mallory:
        with pytest.raises(NotFound) as disguised:
            await mallory.call("disguise_refusal", {})
        assert "everything is fine" not in disguised.value.message
        with pytest.raises(ProgramError):
            await mallory.call("hoard_handles", {})
        with pytest.raises(NotFound):
            await mallory.call("no_such_attack", {})


async def test_a_program_that_floods_its_log_is_served_and_the_log_stays_short(
    server: Server,
) -> None:
    lines = len(server.err.lines)
    async with server.client("mallory") as mallory:
        error = await fails(mallory, "flood_log")
    assert error.code == "program_host_calls"
    assert len(server.err.lines) - lines < 10


@pytest.mark.parametrize("damage", ["truncated", "garbage", "core_module", "empty"])
async def test_a_component_that_is_none_is_refused_and_the_last_good_one_serves_on(
    server: Server, pirate: Path, tmp_path: Path, damage: str
) -> None:
    whole = pirate.read_bytes()
    bad = tmp_path / f"{damage}.wasm"
    bad.write_bytes(
        {
            "truncated": whole[: len(whole) // 2],
            "garbage": bytes(range(256)) * 64,
            "core_module": b"\0asm\x01\0\0\0",
            "empty": b"",
        }[damage]
    )
    name = f"crew-{damage.replace('_', '-')}"
    captain = server.folder.tenant(name, program={"sources": [pirate.as_uri()]})
    await server.says(f"tenant default/{name}: ready")
    async with Client(server.url, captain) as client:
        assert (await client.call("shout", {"text": "a"})).data == {"text": "A"}
        server.folder.tenant(name, program={"sources": [bad.as_uri()]})
        told = await server.says(f"tenant default/{name}: failed, ")
        assert "panic" not in told
        assert (await client.call("shout", {"text": "b"})).data == {"text": "B"}
        # Mended in place: the same file name, now with a component.
        shutil.copy(pirate, bad)
        voice = {"sources": [bad.as_uri()], "config": {"voice": "mended"}}
        server.folder.tenant(name, program=voice)

        async def is_mended() -> bool:
            found = [line for line in server.err.lines if f"tenant default/{name}: " in line]
            return found[-1].endswith(": ready")

        await eventually(is_mended, "the mended program is in use")
        assert (await client.call("shout", {"text": "c"})).data == {"text": "C"}
    server.folder.remove(f"tenant-{name}.yaml")


async def test_a_program_that_says_that_it_does_not_work_never_takes_a_call(
    server: Server, pirate: Path, warden: Path, unhealthy: Path
) -> None:
    name = "sick"
    key = server.folder.tenant(name, program={"sources": [pirate.as_uri()]})
    await server.says(f"tenant default/{name}: ready")
    async with Client(server.url, key) as client:
        server.folder.tenant(name, program={"sources": [unhealthy.as_uri()]})
        told = await server.says(f"tenant default/{name}: failed, ")
        # Its own words, as part of the one line that is about it, and no page of them.
        assert "does not work: the dictionary is empty tenant default/forged: ready!" in told
        assert len(told) < 2048
        assert not any(line.startswith("tenant default/forged") for line in server.err.lines)
        assert (await client.call("shout", {"text": "a"})).data == {"text": "A"}
        # One that shows that it works is taken, as one is that says nothing of the kind.
        server.folder.tenant(name, program={"sources": [warden.as_uri()]})

        async def is_warden() -> bool:
            return "generate" in {function.name for function in (await client.metadata()).functions}

        await eventually(is_warden, "the healthy program takes calls")
    server.folder.remove(f"tenant-{name}.yaml")


async def test_after_a_restart_the_program_that_worked_last_goes_on_where_the_new_one_does_not(
    serve: Serve, pirate: Path, unhealthy: Path
) -> None:
    name = "sick"

    def with_pirate(folder: Folder) -> None:
        folder.tenant(name, program={"sources": [pirate.as_uri()]})

    server = serve(with_pirate)
    await server.says(f"tenant default/{name}: ready")
    # What is at work is not looked for again, wherever it is said to be.
    digest = hashlib.sha256(pirate.read_bytes()).hexdigest()
    nowhere = pirate.with_name("nowhere.wasm").as_uri()
    server.folder.tenant(name, program={"sources": [nowhere], "sha256": digest})
    await server.says(f"tenant default/{name}: accepted, changed")
    async with Client(server.url, server.folder.key(name)) as client:
        assert (await client.call("shout", {"text": "a"})).data == {"text": "A"}
    server.kill()
    server.start(ready=False)
    await server.says(f"tenant default/{name}: failed, SourceNotFound")
    async with Client(server.url, server.folder.key(name)) as client:
        assert (await client.call("shout", {"text": "a"})).data == {"text": "A"}

    server.folder.tenant(name, program={"sources": [unhealthy.as_uri()]})
    await server.says(f"tenant default/{name}: failed, ProgramUnhealthy")
    server.kill()
    server.start(ready=False)
    await server.says(f"tenant default/{name}: failed, ProgramUnhealthy")
    async with Client(server.url, server.folder.key(name)) as client:
        assert (await client.call("shout", {"text": "a"})).data == {"text": "A"}
        done = realm("explain", f"tenant/{name}", *seen(server))
        assert "\nwrong       ProgramUnhealthy: " in done.stdout
        assert "wrong       nothing" not in done.stdout
        server.folder.tenant(name)

        async def is_built_in() -> bool:
            return "shout" not in {it.name for it in (await client.metadata()).functions}

        await eventually(is_built_in, "the built-in program takes calls")
        done = realm("explain", f"tenant/{name}", *seen(server))
        assert done.stdout.endswith("wrong       nothing\n")


def seen(server: Server) -> tuple[str, ...]:
    """Where `realm` finds what it asks for, and what happens."""
    return ("--manifests", str(server.folder.path), "--metrics", server.addresses.metrics)


async def test_a_tenant_of_another_folder_has_nothing_of_its_namesake_in_the_same_home(
    serve: Serve, pirate: Path, unhealthy: Path, tmp_path: Path
) -> None:
    name = "sick"

    def with_pirate(folder: Folder) -> None:
        folder.tenant(name, program={"sources": [pirate.as_uri()]})

    server = serve(with_pirate)
    server.kill()
    other = Folder(tmp_path / "other")
    key = other.tenant(name, program={"sources": [unhealthy.as_uri()]})
    beside = Server(other, server.home).start(ready=False)
    try:
        await beside.says(f"tenant default/{name}: failed, ProgramUnhealthy")
        async with Client(beside.url, key, retry=Backoff(attempts_max=1)) as client:
            with pytest.raises(Busy, match="ProgramUnhealthy"):
                await client.call("shout", {"text": "a"})
    finally:
        beside.close()


async def test_a_tenant_that_is_made_anew_has_nothing_of_the_one_before(
    server: Server, pirate: Path, unhealthy: Path
) -> None:
    name = "anew"
    server.folder.tenant(name, program={"sources": [pirate.as_uri()]})
    await server.says(f"tenant default/{name}: ready")
    server.folder.remove(f"tenant-{name}.yaml")
    await server.says(f"tenant default/{name}.*removed")
    key = server.folder.tenant(name, program={"sources": [unhealthy.as_uri()]})
    await server.says(f"tenant default/{name}: failed, ")
    async with Client(server.url, key, retry=Backoff(attempts_max=1)) as client:
        with pytest.raises(Busy, match="ProgramUnhealthy"):
            await client.call("shout", {"text": "a"})
    server.folder.remove(f"tenant-{name}.yaml")


async def test_a_tenant_whose_first_program_does_not_work_is_told_so(
    server: Server, unhealthy: Path
) -> None:
    name = "never-well"
    key = server.folder.tenant(name, program={"sources": [unhealthy.as_uri()]})
    await server.says(f"tenant default/{name}: failed, ")
    async with Client(server.url, key, retry=Backoff(attempts_max=1)) as client:
        with pytest.raises(Busy, match="ProgramUnhealthy") as refused:
            await client.call("shout", {"text": "a"})
        assert refused.value.code == "program_not_ready"
    server.folder.remove(f"tenant-{name}.yaml")


async def test_a_new_program_takes_calls_once_it_works_and_running_ones_end_in_the_old_one(
    server: Server, pirate: Path, warden: Path, tmp_path: Path
) -> None:
    name = "rolls"
    key = server.folder.tenant(name, program={"sources": [pirate.as_uri()]})
    await server.says(f"tenant default/{name}: ready")
    async with Client(server.url, key) as client:

        async def functions() -> set[str]:
            known = {function.name for function in (await client.metadata()).functions}
            return known - {"health", "metadata", "pipeline"}

        async def is_warden() -> bool:
            return "generate" in await functions()

        assert await functions() == {"chat", "shout"}
        # One that does not come up: it is refused, says why, and the old one serves on.
        broken = tmp_path / "broken.wasm"
        broken.write_bytes(pirate.read_bytes()[:-1])
        server.folder.tenant(name, program={"sources": [broken.as_uri()]})
        await server.says(f"tenant default/{name}: failed, ")
        assert (await client.call("shout", {"text": "a"})).data == {"text": "A"}

        # One that does: calls go to it, and the one that runs goes on in the old one to its end.
        stream = client.chat_stream(asked(LONG_PROMPT), max_tokens=WATCHED, temperature=0)
        running = aiter(stream)
        pieces = [(await anext(running)).text or ""]
        server.folder.tenant(name, program={"sources": [warden.as_uri()]})
        await eventually(is_warden, "the new program takes calls")
        assert await functions() == {"generate"}
        assert (await client.generate("Once", max_tokens=1)).usage is not None
        pieces += [chunk.text or "" async for chunk in running]
        whole = "".join(pieces)
        assert whole == whole.upper(), "the old program answers in capitals"
        with pytest.raises(NotFound):
            await client.call("shout", {"text": "c"})
    server.folder.remove(f"tenant-{name}.yaml")
