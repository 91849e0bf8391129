"""Fills a real API server, changes objects at a rate, and says how long a change takes.

A change is a tenant's weight. Its time counts from before the request to the API server:
to `published`, when the operator had left a state with it for every agent; to `told`, when the operator had handed the state with it to the stream of the last agent, and to
`held`, when the last agent's ledger had it on its disk.
"""

from __future__ import annotations

import argparse
import bisect
import os
import re
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Self

import httpx

from conftest import define
from harness.cluster import Cluster
from harness.crowd import AT_ONCE, Crowd, Size
from harness.metrics import Metrics, parse
from harness.plane import Operator, Plane
from harness.wait import until

#: How far the agents stand back from the control plane, with which they share the cores.
AGENTS_NICE = 10

#: Far longer than anything here takes.
WITHIN_S = 900.0

#: How long everything has to stand still to be called still: longer than a change may wait.
STILL_S = 12.0

#: After a change, the weight of a tenant; nothing else has it.
WEIGHT = 2000


@dataclass
class Usage:
    """What a process takes, looked at twice a second."""

    pid: int
    rss_mib: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._began, self._cpu_s = time.monotonic(), self.cpu_s()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()
        self.cores = (self.cpu_s() - self._cpu_s) / (time.monotonic() - self._began)

    def cpu_s(self) -> float:
        """Seconds of processor that it has used."""
        stat = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")

    def rss(self) -> float:
        """MiB of memory that it has now."""
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.pid}/status").read_text())
        assert found is not None
        return int(found[1]) / 1024

    def _look(self) -> None:
        while not self._is_over.wait(0.5):
            self.rss_mib.append(self.rss())


def percentiles(name: str, values: Sequence[float]) -> None:
    """One line of the result, in seconds."""
    ordered = sorted(values)
    points = {p: ordered[min(len(ordered) - 1, int(len(ordered) * p / 100))] for p in (50, 90, 99)}
    line = ", ".join(f"p{p} {value:.3f} s" for p, value in points.items())
    print(f"{name}: {line}, most {ordered[-1]:.3f} s of {len(ordered)}", flush=True)


class Told:
    """When the operator had handed each generation to the stream of each agent, by its log."""

    def __init__(self, operator: Operator) -> None:
        self.generations: dict[str, list[int]] = defaultdict(list)
        self.times: dict[str, list[float]] = defaultdict(list)
        line = re.compile(r'^(\S+)Z DEBUG .* told node="(\S+)" generation=(\d+)', re.MULTILINE)
        for at, node, generation in line.findall(operator.daemon.text()):
            self.generations[node].append(int(generation))
            self.times[node].append(seconds(at))

    def last(self, generation: int) -> float:
        """When the last agent had been told this generation or a newer one."""
        return max(self._of(node, generation) for node in self.generations)

    def _of(self, node: str, generation: int) -> float:
        index = bisect.bisect_left(self.generations[node], generation)
        return self.times[node][index]


class Published:
    """When the operator had left each generation for every agent, by its log."""

    def __init__(self, operator: Operator) -> None:
        line = re.compile(r"^(\S+)Z DEBUG .* published generation=(\d+)", re.MULTILINE)
        found = line.findall(operator.daemon.text())
        self.generations = [int(generation) for _, generation in found]
        self.times = [seconds(at) for at, _ in found]

    def at(self, generation: int) -> float:
        """When this generation or a newer one was left for all."""
        return self.times[bisect.bisect_left(self.generations, generation)]


def seconds(at: str) -> float:
    """The time of a line of a log, since the epoch."""
    return datetime.fromisoformat(f"{at}+00:00").timestamp()


def scrape(operator: Operator) -> Metrics:
    return parse(httpx.get(operator.metrics).text)


def plans(before: Metrics, after: Metrics) -> str:
    """How many plans there were in between, and how long they took."""
    name = "realm_operator_plan_seconds"
    count = after.value(f"{name}_count") - before.value(f"{name}_count")
    total = after.value(f"{name}_sum") - before.value(f"{name}_sum")
    return f"{count:.0f} plans, {1000 * total / max(count, 1):.2f} ms each"


def writes(plane: Plane, operator: Operator) -> int:
    """How often the operator has written a status."""
    refs = [write["objectRef"] for write in plane.cluster.writes(operator.name)]
    return sum(ref.get("subresource") == "status" for ref in refs)


def settle(crowd: Crowd, operator: Operator) -> None:
    """Waits until every object is ready and nobody writes any more."""
    crowd.await_ready(WITHIN_S)
    count, since = writes(crowd.plane, operator), time.monotonic()
    while time.monotonic() - since < STILL_S:
        time.sleep(0.5)
        if (now := writes(crowd.plane, operator)) != count:
            count, since = now, time.monotonic()


def change(crowd: Crowd, rate: float, seconds: float) -> dict[tuple[str, int], float]:
    """Changes one tenant after the other at a rate, whatever the answers take."""
    asked: dict[tuple[str, int], Future[tuple[float, float]]] = {}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        began = time.monotonic()
        for step in range(int(rate * seconds)):
            time.sleep(max(0.0, began + step / rate - time.monotonic()))
            index = step % crowd.size.tenants
            weight = WEIGHT + step // crowd.size.tenants
            asked[f"t{index}", weight] = pool.submit(crowd.weigh, index, weight)
    times = {change: future.result() for change, future in asked.items()}
    percentiles("the API server takes a change", [end - start for start, end in times.values()])
    return {change: start for change, (start, _) in times.items()}


def measure(crowd: Crowd, operator: Operator, rate: float, seconds: float) -> None:
    """The changes, and what became of them."""
    assert crowd.agents is not None
    # They stand for as many machines, of which the control plane would feel nothing.
    os.setpriority(os.PRIO_PGRP, crowd.agents.pid, AGENTS_NICE)
    before, status_before = scrape(operator), writes(crowd.plane, operator)
    with Usage(operator.daemon.pid) as usage, Usage(crowd.agents.pid) as of_agents:
        began = change(crowd, rate, seconds)
        until(
            lambda: began.keys() <= crowd.held().keys(),
            "every ledger has it all",
            within_s=WITHIN_S,
        )
    after = scrape(operator)
    published, told, held = Published(operator), Told(operator), crowd.held()
    percentiles(
        "from asking to published",
        [published.at(held[change].generation) - at for change, at in began.items()],
    )
    percentiles(
        "from asking to told all agents",
        [told.last(held[change].generation) - at for change, at in began.items()],
    )
    percentiles(
        "from asking to held by the first",
        [held[change].first_s - at for change, at in began.items()],
    )
    percentiles(
        "from asking to held by all", [held[change].all_s - at for change, at in began.items()]
    )
    print(f"operator: {plans(before, after)}, {usage.cores:.2f} cores, ", end="")
    print(f"resident {min(usage.rss_mib):.0f} to {max(usage.rss_mib):.0f} MiB")
    print(f"agents: {of_agents.cores:.2f} cores, resident {max(of_agents.rss_mib):.0f} MiB")
    settle(crowd, operator)
    print(f"statuses written for it: {writes(crowd.plane, operator) - status_before}", flush=True)


def resync(crowd: Crowd, operator: Operator) -> None:
    """Everything is read, planned and compared anew by an operator that starts."""
    before = writes(crowd.plane, operator)
    accepted = crowd.held().keys()
    operator.daemon.kill()
    operator.start()
    index = crowd.size.tenants - 1
    began = time.time()
    crowd.weigh(index, WEIGHT - 1)
    key = (f"t{index}", WEIGHT - 1)
    assert key not in accepted
    until(lambda: key in crowd.held(), "the new leader tells everybody", within_s=WITHIN_S)
    settle(crowd, operator)
    written = [
        (write["objectRef"]["resource"], write["objectRef"]["name"])
        for write in crowd.plane.cluster.writes(operator.name)
        if write["objectRef"].get("subresource") == "status"
    ][before:]
    others = set(written) - {("tenants", f"t{index}")}
    print(f"a new leader told everybody after {crowd.held()[key].all_s - began:.1f} s ", end="")
    print(f"and wrote the status of {len(others)} objects that had not changed", flush=True)
    assert not others, others


def main() -> None:
    """Measures once."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("tenants", 1000), ("models", 200), ("pipelines", 100), ("agents", 100)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--rate", type=float, default=20.0, help="changes a second")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long")
    args = parser.parse_args()
    if args.rate * args.seconds > args.tenants:
        # An agent that is slow would skip the first of two changes, which then is held by nobody.
        parser.error("every tenant changes once at most: fewer seconds, or more tenants")
    size = Size(args.tenants, args.models, args.pipelines, args.agents)
    os.environ.setdefault("REALM_TEST_LOG", "info,realm_operator::fleet=debug,realm_operator::link::server::session=debug")
    with tempfile.TemporaryDirectory() as base:
        folder = Path(base)
        (folder / "cluster").mkdir()
        (folder / "plane").mkdir()
        with Cluster(folder / "cluster") as cluster:
            define(cluster)
            plane = Plane(cluster, folder / "plane", cluster.namespace())
            try:
                run(plane, size, args.rate, args.seconds)
            finally:
                plane.close()


def run(plane: Plane, size: Size, rate: float, seconds: float) -> None:
    """Fills the cluster, then measures."""
    operator = plane.operator("operator-0")
    crowd = Crowd(plane, size)
    crowd.start_agents(operator)
    began, empty = time.monotonic(), scrape(operator)
    crowd.create()
    print(f"created after {time.monotonic() - began:.0f} s", flush=True)
    settle(crowd, operator)
    print(f"all ready and still after {time.monotonic() - began - STILL_S:.0f} s", flush=True)
    print(f"while filling: {plans(empty, scrape(operator))}", flush=True)
    print(f"operator at rest: {Usage(operator.daemon.pid).rss():.0f} MiB", flush=True)
    measure(crowd, operator, rate, seconds)
    resync(crowd, operator)


if __name__ == "__main__":
    main()
