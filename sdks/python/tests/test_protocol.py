"""The state machine alone: what it sends and says for each thing that happens."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm_client import errors, protocol
from realm_client.frames import MESSAGE_BYTES_MAX
from realm_client.protocol import Connection
from realm_client.reply import Logprobs, ScoredToken
from realm_client.request import Request

READY = {"type": "ready", "protocol": "realm.v1", "tenant": "default/acme", "version": "0.0.0"}
USAGE = {"prompt_tokens": 5, "cached_tokens": 0, "completion_tokens": 9}


def opened(**options: Any) -> Connection:
    connection = Connection(**options)
    connection.opened(0.0)
    return connection


def ready() -> Connection:
    connection = opened()
    tell(connection, READY)
    connection.take_events()
    return connection


def tell(connection: Connection, frame: Any, now: float = 0.0) -> None:
    connection.received(json.dumps(frame), now)


def chunk(call_id: str, index: int, text: str = "x") -> dict[str, Any]:
    return {"id": call_id, "status": "streaming", "index": index, "data": {"text": text}}


def scored(**token: Any) -> dict[str, Any]:
    """The data of a piece with the probability of one token."""
    chosen = {"id": 1, "text": "x", "logprob": -1.0} | token
    return {"text": "x", "logprobs": [{"chosen": chosen}]}


def complete(call_id: str) -> dict[str, Any]:
    return {"id": call_id, "status": "complete", "data": {}, "finish": "stop", "usage": USAGE}


def sent(connection: Connection) -> list[Any]:
    return [json.loads(frame) for frame in connection.take_frames()]


def failure(event: protocol.Event) -> errors.RealmError:
    assert isinstance(event, protocol.CallFailed | protocol.Ended)
    return event.error


def ends(events: list[protocol.Event]) -> list[str]:
    kinds = (protocol.CallCompleted, protocol.CallFailed)
    return [event.call_id for event in events if isinstance(event, kinds)]


def test_a_key_given_to_the_connection_is_its_first_frame() -> None:
    assert sent(opened(api_key="rk_1")) == [{"type": "auth", "api_key": "rk_1"}]
    assert sent(opened()) == []


def test_calls_start_only_after_ready() -> None:
    connection = opened()
    with pytest.raises(errors.ConnectionLost):
        connection.start(Request("health", {}), 0.0)
    tell(connection, READY)
    assert connection.take_events() == [protocol.Ready("default/acme", "0.0.0")]
    connection.start(Request("health", {}), 0.0)
    assert [frame["function"] for frame in sent(connection)] == ["health"]


def test_a_call_frame_carries_everything_the_caller_said() -> None:
    connection = ready()
    connection.start(Request("generate", {"prompt": "Grüße"}, stream=False, deadline_s=1.2345), 0.0)
    assert sent(connection) == [
        {
            "type": "call",
            "id": "1",
            "function": "generate",
            "params": {"prompt": "Grüße"},
            "stream": False,
            "deadline_ms": 1235,
        }
    ]


@pytest.mark.parametrize(
    "params",
    [{"x": float("nan")}, {"x": object()}, {"x": "\ud800"}, {"x": "y" * MESSAGE_BYTES_MAX}],
    ids=["nan", "object", "lone surrogate", "too large"],
)
def test_what_no_server_would_read_is_refused_before_it_is_sent(params: dict[str, Any]) -> None:
    connection = ready()
    with pytest.raises(errors.InvalidRequest):
        connection.start(Request("generate", params), 0.0)
    assert connection.calls == 0
    assert sent(connection) == []


def test_a_call_streams_to_its_end() -> None:
    connection = ready()
    call_id = connection.start(Request("generate", {}), 0.0)
    tell(connection, chunk(call_id, 0, "Hel"))
    tell(connection, chunk(call_id, 1, "lo"))
    last = complete(call_id) | {"quota": {"requests": 59, "input_tokens": None}}
    tell(connection, last)
    first, second, end = connection.take_events()
    assert isinstance(first, protocol.ChunkReceived)
    assert isinstance(second, protocol.ChunkReceived)
    assert (first.chunk.text, second.chunk.text) == ("Hel", "lo")
    assert isinstance(end, protocol.CallCompleted)
    assert end.completion.usage is not None
    assert end.completion.usage.completion_tokens == 9
    assert end.completion.quota is not None
    assert (end.completion.quota.requests, end.completion.quota.input_tokens) == (59, None)
    assert connection.calls == 0


def test_a_chunk_may_carry_a_value_and_a_step() -> None:
    connection = ready()
    call_id = connection.start(Request("pipeline", {}), 0.0)
    frame = {"id": call_id, "status": "streaming", "index": 0, "data": {"value": None, "step": "s"}}
    tell(connection, frame)
    (event,) = connection.take_events()
    assert isinstance(event, protocol.ChunkReceived)
    assert (event.chunk.text, event.chunk.value, event.chunk.step) == (None, None, "s")


def test_a_chunk_may_say_how_likely_its_tokens_were() -> None:
    connection = ready()
    call_id = connection.start(Request("generate", {"logprobs": 1}), 0.0)
    half = {"id": 7, "text": " \ufffd", "bytes": [32, 195], "logprob": -2.5}
    told = {"chosen": half, "top": [{"id": 5, "text": " é", "logprob": 0}]}
    frame = chunk(call_id, 0)
    frame["data"]["logprobs"] = [told, {"chosen": half}]
    tell(connection, frame)
    scored = ScoredToken(7, " \ufffd", b" \xc3", -2.5)
    expected = Logprobs(scored, (ScoredToken(5, " é", " é".encode(), 0),)), Logprobs(scored)
    (event,) = connection.take_events()
    assert isinstance(event, protocol.ChunkReceived)
    assert event.chunk.logprobs == expected


@pytest.mark.parametrize("index", [0, 2, 7])
def test_a_repeated_or_skipped_chunk_ends_its_call_alone(index: int) -> None:
    connection = ready()
    broken, sound = (connection.start(Request("generate", {}), 0.0) for _ in range(2))
    sent(connection)
    for call_id in (broken, sound):
        tell(connection, chunk(call_id, 0))
    connection.take_events()
    tell(connection, chunk(broken, index))
    (event,) = connection.take_events()
    assert isinstance(failure(event), errors.ProtocolError)
    assert sent(connection) == [{"type": "cancel", "id": broken}]
    tell(connection, chunk(sound, 1))
    tell(connection, complete(sound))
    assert ends(connection.take_events()) == [sound]


@pytest.mark.parametrize(
    "frame",
    [
        {"status": "streaming", "index": -1, "data": {"text": "x"}},
        {"status": "streaming", "index": True, "data": {"text": "x"}},
        {"status": "streaming", "index": 0, "data": {}},
        {"status": "streaming", "index": 0, "data": {"text": 1}},
        {"status": "streaming", "index": 0, "data": []},
        {"status": "streaming", "index": 0, "data": {"text": "x", "logprobs": [{}]}},
        {"status": "streaming", "index": 0, "data": scored(logprob=0.5)},
        {"status": "streaming", "index": 0, "data": scored(bytes=[256])},
        {"status": "complete", "data": {}, "usage": {"prompt_tokens": 1}},
        {"status": "error", "error": "no"},
        {"status": "error", "error": {"code": "busy"}},
        {"status": "paused"},
        {},
    ],
)
def test_a_frame_that_is_wrong_for_its_call_ends_that_call(frame: dict[str, Any]) -> None:
    connection = ready()
    call_id = connection.start(Request("generate", {}), 0.0)
    tell(connection, {"id": call_id, **frame})
    (event,) = connection.take_events()
    assert isinstance(event, protocol.CallFailed)
    assert isinstance(event.error, errors.ProtocolError)
    assert connection.accepts_calls


@pytest.mark.parametrize(
    "message",
    [
        "",
        "{",
        "[]",
        "1",
        "{}",
        b"{}",
        '{"type":"ready"}',
        '{"id":7,"status":"cancelled"}',
        '{"id":"2","status":"cancelled"}',
        '{"id":"01","status":"cancelled"}',
        '{"id":"\u0661","status":"cancelled"}',
        '{"type":"going_away","grace_ms":NaN}',
        json.dumps(READY),
        "[" * 100_000,
    ],
)
def test_a_message_nobody_can_place_ends_the_connection(message: str | bytes) -> None:
    connection = ready()
    call_id = connection.start(Request("generate", {}), 0.0)
    connection.received(message, 0.0)
    events = connection.take_events()
    assert ends(events) == [call_id]
    assert all(isinstance(failure(event), errors.ProtocolError) for event in events)
    end = events[-1]
    assert isinstance(end, protocol.Ended)
    assert end.close_code == protocol.CLOSE_PROTOCOL_ERROR
    assert not connection.accepts_calls


def test_notices_of_a_newer_server_are_passed_over() -> None:
    connection = ready()
    tell(connection, {"type": "news", "text": "hello"})
    assert connection.take_events() == []
    assert connection.accepts_calls


def test_a_refused_call_carries_code_and_waiting_time() -> None:
    connection = ready()
    call_id = connection.start(Request("generate", {}), 0.0)
    error = {"code": "too_many_requests", "message": "slower", "retry_after_ms": 1200}
    tell(connection, {"id": call_id, "status": "error", "error": error})
    (event,) = connection.take_events()
    refusal = failure(event)
    assert isinstance(refusal, errors.RateLimited)
    assert (refusal.code, refusal.message) == ("too_many_requests", "slower")
    assert refusal.retry_after == pytest.approx(1.2)


def test_a_code_of_a_newer_server_is_a_plain_realm_error() -> None:
    connection = ready()
    call_id = connection.start(Request("generate", {}), 0.0)
    error = {"code": "beamed_up", "message": "elsewhere"}
    tell(connection, {"id": call_id, "status": "error", "error": error})
    (event,) = connection.take_events()
    assert type(failure(event)) is errors.RealmError
    assert failure(event).code == "beamed_up"


def test_a_cancelled_call_is_silent_and_keeps_its_place_until_answered() -> None:
    connection = ready()
    call_id = connection.start(Request("generate", {}), 0.0)
    sent(connection)
    connection.cancel(call_id, 1.0)
    connection.cancel(call_id, 1.0)
    assert sent(connection) == [{"type": "cancel", "id": call_id}]
    tell(connection, chunk(call_id, 5))
    assert (connection.calls, connection.live_calls) == (1, 0)
    tell(connection, {"id": call_id, "status": "cancelled"})
    assert connection.calls == 0
    assert connection.take_events() == []


def test_a_cancel_that_crossed_the_end_is_no_violation() -> None:
    connection = ready()
    call_id = connection.start(Request("generate", {}), 0.0)
    connection.cancel(call_id, 0.0)
    tell(connection, complete(call_id))
    tell(connection, {"id": call_id, "status": "cancelled"})
    assert connection.take_events() == []
    assert connection.accepts_calls


def test_a_place_is_free_again_when_a_cancel_is_never_answered() -> None:
    connection = ready()
    call_id = connection.start(Request("generate", {}), 0.0)
    connection.cancel(call_id, 1.0)
    assert connection.next_tick_at() == 1.0 + protocol.CANCEL_S_MAX
    connection.tick(1.0 + protocol.CANCEL_S_MAX)
    assert connection.calls == 0
    assert connection.next_tick_at() is None


def test_a_call_the_server_cancelled_by_itself_says_so() -> None:
    connection = ready()
    call_id = connection.start(Request("generate", {}), 0.0)
    tell(connection, {"id": call_id, "status": "cancelled"})
    (event,) = connection.take_events()
    assert isinstance(failure(event), errors.CallCancelled)


def test_a_deadline_the_server_forgets_ends_the_call_here() -> None:
    connection = ready()
    call_id = connection.start(Request("generate", {}, deadline_s=5.0), 10.0)
    sent(connection)
    limit = 15.0 + protocol.DEADLINE_SLACK_S
    assert connection.next_tick_at() == limit
    connection.tick(limit - 0.001)
    assert connection.take_events() == []
    connection.tick(limit)
    (event,) = connection.take_events()
    assert isinstance(failure(event), errors.DeadlineExceeded)
    assert sent(connection) == [{"type": "cancel", "id": call_id}]


def test_one_call_more_than_the_places_is_refused() -> None:
    connection = ready()
    for _ in range(protocol.CALLS_MAX):
        connection.start(Request("generate", {}), 0.0)
    with pytest.raises(errors.RateLimited):
        connection.start(Request("generate", {}), 0.0)
    tell(connection, complete("7"))
    connection.start(Request("generate", {}), 0.0)


def test_a_reply_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "REPLY_BYTES_MAX", 200)
    connection = ready()
    call_id = connection.start(Request("generate", {}), 0.0)
    for index in range(10):
        tell(connection, chunk(call_id, index))
    events = connection.take_events()
    assert ends(events) == [call_id]
    assert isinstance(failure(events[-1]), errors.ProtocolError)


def test_going_away_lets_running_calls_finish_and_takes_no_new_ones() -> None:
    connection = ready()
    call_id = connection.start(Request("generate", {}), 0.0)
    tell(connection, {"type": "going_away", "grace_ms": 30000})
    (event,) = connection.take_events()
    assert isinstance(event, protocol.Retiring)
    with pytest.raises(errors.Draining):
        connection.start(Request("generate", {}), 0.0)
    tell(connection, chunk(call_id, 0))
    tell(connection, complete(call_id))
    assert ends(connection.take_events()) == [call_id]
    assert connection.live_calls == 0


def test_a_refused_frame_fails_the_calls_that_had_no_answer() -> None:
    connection = ready()
    streaming, waiting = (connection.start(Request("generate", {}), 0.0) for _ in range(2))
    tell(connection, chunk(streaming, 0))
    connection.take_events()
    tell(connection, {"type": "error", "error": {"code": "invalid", "message": "what?"}})
    retiring, failed = connection.take_events()
    assert isinstance(retiring, protocol.Retiring)
    assert isinstance(failed, protocol.CallFailed)
    assert (failed.call_id, failed.error.code) == (waiting, "invalid")
    tell(connection, complete(streaming))
    assert ends(connection.take_events()) == [streaming]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (1000, errors.ConnectionLost),
        (1001, errors.ConnectionLost),
        (1006, errors.ConnectionLost),
        (1009, errors.ConnectionLost),
        (4401, errors.Unauthenticated),
        (4408, errors.Unauthenticated),
    ],
)
def test_a_close_ends_every_call_with_an_error_of_its_own(
    code: int, kind: type[errors.RealmError]
) -> None:
    connection = ready()
    for _ in range(2):
        connection.start(Request("generate", {}), 0.0)
    connection.closed(code, "")
    first, second, end = connection.take_events()
    assert type(failure(first)) is kind
    assert failure(first) is not failure(second)
    assert isinstance(end, protocol.Ended)
    assert end.close_code is None
    connection.closed(code, "")
    assert connection.take_events() == []


def test_before_ready_the_servers_own_word_is_the_cause() -> None:
    connection = opened(api_key="rk_1")
    tell(connection, {"type": "error", "error": {"code": "suspended", "message": "suspended"}})
    connection.closed(4401, "")
    (event,) = connection.take_events()
    assert isinstance(failure(event), errors.NotAllowed)


def test_a_server_that_never_says_ready_is_left() -> None:
    connection = opened()
    assert connection.next_tick_at() == protocol.READY_S_MAX
    connection.tick(protocol.READY_S_MAX)
    (event,) = connection.take_events()
    assert isinstance(failure(event), errors.ConnectionLost)
    assert isinstance(event, protocol.Ended)
    assert event.close_code == protocol.CLOSE_NORMAL


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=10,
)
FRAMES = st.fixed_dictionaries(
    {},
    optional={
        "id": st.sampled_from(["1", "2", "3", "4", ""]) | JSON,
        "type": st.sampled_from(["ready", "error", "going_away", "other"]) | JSON,
        "status": st.sampled_from(["streaming", "complete", "error", "cancelled"]) | JSON,
        "index": st.integers(0, 3) | JSON,
        "data": st.just({"text": "x"}) | JSON,
        "error": st.just({"code": "busy", "message": "m"}) | JSON,
        "usage": st.just(USAGE) | JSON,
        "grace_ms": JSON,
        "finish": JSON,
    },
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("receive"), FRAMES.map(json.dumps) | st.text() | st.binary()),
        st.tuples(st.just("start"), st.none()),
        st.tuples(st.just("cancel"), st.sampled_from(["1", "2", "3", "9"])),
        st.tuples(st.just("wait"), st.floats(0, 20)),
        st.tuples(st.just("close"), st.sampled_from([1000, 1001, 1006, 4401])),
    ),
    max_size=30,
)


@given(steps=STEPS)
def test_whatever_happens_every_call_ends_at_most_once_and_all_end_with_the_connection(
    steps: list[tuple[str, Any]],
) -> None:
    connection, now = ready(), 0.0
    started: set[str] = set()
    cancelled: set[str] = set()
    events: list[protocol.Event] = []
    for what, argument in steps:
        match what:
            case "receive":
                connection.received(argument, now)
            case "start" if connection.accepts_calls:
                started.add(connection.start(Request("generate", {}, deadline_s=8.0), now))
            case "cancel":
                if argument in started and argument not in ends(events):
                    cancelled.add(argument)
                connection.cancel(argument, now)
            case "wait":
                now += argument
                connection.tick(now)
            case "close":
                connection.closed(argument, "")
        events += connection.take_events()
        assert connection.live_calls <= connection.calls <= len(started)
    connection.closed(1006, "")
    events += connection.take_events()
    finished = ends(events)
    assert len(finished) == len(set(finished))
    assert set(finished) == started - cancelled
    assert connection.next_tick_at() is None


@given(order=st.lists(st.sampled_from(["1", "2", "3"]), max_size=60))
def test_interleaved_streams_reach_their_own_calls_in_order(order: list[str]) -> None:
    connection = ready()
    for _ in range(3):
        connection.start(Request("generate", {}), 0.0)
    counts = {"1": 0, "2": 0, "3": 0}
    for call_id in order:
        tell(connection, chunk(call_id, counts[call_id], f"{call_id}:{counts[call_id]}"))
        counts[call_id] += 1
    got: dict[str, list[str | None]] = {"1": [], "2": [], "3": []}
    for event in connection.take_events():
        assert isinstance(event, protocol.ChunkReceived)
        got[event.call_id].append(event.chunk.text)
    assert got == {name: [f"{name}:{i}" for i in range(count)] for name, count in counts.items()}


CODES = (
    "unauthenticated suspended not_allowed unknown_function unknown_model unknown_pipeline invalid "
    "too_large too_many_requests too_many_tokens too_many_calls too_long unsupported "
    "model_not_ready program_not_ready busy starting draining deadline_exceeded slow_reader "
    "cancelled program_memory program_fuel program_host_calls program_output program_failed "
    "internal"
)


@pytest.mark.parametrize("code", CODES.split(" "))
def test_every_code_of_the_server_has_the_class_of_its_family(code: str) -> None:
    assert type(errors.from_code(code, "m")) is not errors.RealmError
