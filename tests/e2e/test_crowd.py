"""A small crowd: every change reaches every agent, and what changes nothing writes nothing.

`tests/scale/run` measures the same with a large one.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from harness.crowd import Crowd, Size
from harness.folder import Json
from harness.plane import Operator, Plane
from harness.wait import until

SIZE = Size(tenants=20, models=6, pipelines=4, agents=5)

#: Nothing here is timed; a machine that does other things meanwhile is slow.
WITHIN_S = 120.0

#: What turns no condition is written ten seconds after it came at most, and a slow machine is given
#: a little more.
QUIET = timedelta(seconds=12)


@pytest.fixture(scope="module")
def operator(plane: Plane) -> Operator:
    """The only operator."""
    return plane.operator("operator-0")


@pytest.fixture(scope="module")
def crowd(plane: Plane, operator: Operator) -> Crowd:
    """All objects, and agents that hold them all."""
    crowd = Crowd(plane, SIZE)
    crowd.start_agents(operator)
    crowd.create()
    crowd.await_ready(WITHIN_S)
    return crowd


def test_every_change_reaches_every_ledger(crowd: Crowd) -> None:
    weights = {index: 1000 + index for index in range(SIZE.tenants)}
    for index, weight in weights.items():
        crowd.weigh(index, weight)
    wanted = {(f"t{index}", weight) for index, weight in weights.items()}
    until(lambda: wanted <= crowd.held().keys(), "every ledger has every weight", within_s=WITHIN_S)
    until(lambda: not crowd.unready("Tenant"), "every status says so", within_s=WITHIN_S)


def test_an_operator_that_starts_anew_and_finds_all_as_it_was_writes_no_status(
    crowd: Crowd, operator: Operator
) -> None:
    plane = crowd.plane
    crowd.weigh(0, 2000)
    until(lambda: not crowd.unready("Tenant"), "every status is the newest", within_s=WITHIN_S)
    # What its killed predecessor still had to write is the new leader's to write, and no waste.
    until(lambda: has_written_all(plane, operator), "nothing is left to write", within_s=WITHIN_S)
    before = statuses(plane, operator)
    operator.daemon.kill()
    operator.start()
    # Only a leader that has read everything plans this, and it writes this status last.
    crowd.weigh(0, 3000)
    until(lambda: ("t0", 3000) in crowd.held(), "the new leader plans", within_s=WITHIN_S)
    until(lambda: not crowd.unready("Tenant"), "its status is written", within_s=WITHIN_S)
    written = statuses(plane, operator)[len(before) :]
    assert set(written) == {("tenants", "t0")}, written


def has_written_all(plane: Plane, operator: Operator) -> bool:
    """Whether the operator's last status was written so long ago that none can be waiting."""
    writes = plane.cluster.writes(operator.name)
    at = [write["stageTimestamp"] for write in writes if _is_status(write)]
    return datetime.now(UTC) - datetime.fromisoformat(max(at)) > QUIET


def statuses(plane: Plane, operator: Operator) -> list[tuple[str, str]]:
    """Every status that the operator has written."""
    writes = plane.cluster.writes(operator.name)
    refs = [write["objectRef"] for write in writes if _is_status(write)]
    return [(ref["resource"], ref["name"]) for ref in refs]


def _is_status(write: Json) -> bool:
    return bool(write["objectRef"].get("subresource") == "status")
