"""What the threads of a process do: how often they are woken, and what they take of a core."""

from __future__ import annotations

import os
import re
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

#: How the clock of `/proc` counts the time of threads.
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Work:
    """Of one name of threads, since they began or for each second of a time."""

    #: Switches to it: after a wait, and where others had been put before it.
    wakes: float = 0.0
    #: Seconds of a core.
    cpu_s: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.wakes + other.wakes, self.cpu_s + other.cpu_s)


def _thread(task: Path) -> tuple[str, Work]:
    """A thread's name and what it has done."""
    status = (task / "status").read_text()
    name = re.search(r"^Name:\t(.*)$", status, re.M)
    switches = re.findall(r"^(?:non)?voluntary_ctxt_switches:\t(\d+)$", status, re.M)
    # Behind the name, which may hold spaces: user and system time are its 12th and 13th fields.
    fields = (task / "stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    return name[1] if name else "?", Work(sum(map(int, switches)), ticks / TICKS_PER_S)


def _all(pid: int) -> dict[str, tuple[str, Work]]:
    """Every thread of the process by its number."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            found[task.name] = _thread(task)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended
    return found


def watch(pid: int, span_s: float) -> Mapping[str, Work]:
    """What the threads of each name do in a second, looked at for `span_s` seconds.

    A thread that began meanwhile counts with all it did; one that ended is not counted.
    """
    began, before = time.monotonic(), _all(pid)
    time.sleep(span_s)
    after, took_s = _all(pid), time.monotonic() - began
    names: dict[str, Work] = defaultdict(Work)
    for number, (name, now) in after.items():
        then = before.get(number, (name, Work()))[1]
        names[name] += Work((now.wakes - then.wakes) / took_s, (now.cpu_s - then.cpu_s) / took_s)
    return dict(names)


def total(names: Mapping[str, Work]) -> Work:
    """All threads together."""
    return sum(names.values(), Work())
