"""`realm serve` as a process: its addresses, what it says, how it ends."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import IO, Any, TypeVar

import httpx

from harness.folder import Folder
from harness.metrics import Metrics, parse
from realm_client import Client

T = TypeVar("T")

#: A debug build on a slow machine: compiling a component, reading a model.
START_S_MAX = 120.0

#: From a signal to the end, besides the grace that a test gives.
END_S_MAX = 30.0

#: Where the door and the metrics listen when nobody cares.
ANY_PORT = "127.0.0.1:0"


def binary() -> str:
    """The `realm` under test."""
    found = shutil.which("realm")
    if found is None:
        raise AssertionError("there is no `realm` on PATH; tests/run builds it and says where")
    return found


def realm(*args: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs a command of `realm` to its end."""
    command = [binary(), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@dataclass(frozen=True, slots=True)
class Addresses:
    """What a server prints when it starts."""

    ws: str
    http: str
    metrics: str

    @property
    def listen(self) -> str:
        """The door's address, for a server that is to take its place."""
        return self.http.split("://")[1].split("/")[0]


def parse_addresses(lines: Iterable[str]) -> Addresses | None:
    """The addresses among the lines of standard output; `None` until all are there."""
    found = dict(re.findall(r"^(listening|http|metrics)  +(\S+)$", "\n".join(lines), re.M))
    if not {"listening", "http", "metrics"} <= found.keys():
        return None
    return Addresses(found["listening"], found["http"], found["metrics"])


def parse_key(lines: Iterable[str]) -> str | None:
    """The sample's key, once the whole line to copy has been printed."""
    found = re.search(r"^key  +(\S+)\n\ncurl [^\0]*\n$", "\n".join(lines), re.M)
    return found[1] if found else None


@dataclass
class Output:
    """The lines of a process so far, and a way to wait for more."""

    lines: list[str] = field(default_factory=list)
    grown: threading.Condition = field(default_factory=threading.Condition)
    is_over: bool = False


def _follow(output: Output, stream: IO[str]) -> None:
    """Takes in lines until the process closes the stream."""
    with stream:
        for line in stream:
            with output.grown:
                output.lines.append(line.rstrip("\n"))
                output.grown.notify_all()
    with output.grown:
        output.is_over = True
        output.grown.notify_all()


class Server:
    """One `realm serve`, of the sample where there is no folder.

    `start` it again after it ended, and it has the same home and the same address.
    """

    def __init__(self, folder: Folder | None, home: Path, *flags: str) -> None:
        self._folder = folder
        self.home = home
        self._flags = flags
        self._process: subprocess.Popen[str]
        self._followers: list[threading.Thread] = []
        self._addresses: Addresses | None = None
        self.out = Output()
        self.err = Output()

    @property
    def folder(self) -> Folder:
        """The manifests; the sample has none that tests may write."""
        assert self._folder is not None, "this server serves the sample"
        return self._folder

    @property
    def addresses(self) -> Addresses:
        """Where the running server listens."""
        assert self._addresses is not None, "the server has not been started"
        return self._addresses

    @property
    def url(self) -> str:
        """The WebSocket door."""
        return self.addresses.ws

    @property
    def http(self) -> str:
        """The HTTP door, with its `/v1`."""
        return self.addresses.http

    def client(self, tenant: str, **options: Any) -> Client:
        """A client with the tenant's key."""
        return Client(self.url, self.folder.key(tenant), **options)

    @property
    def label(self) -> str:
        """Which of several servers it is."""
        return f"realm serve, process {self.pid}"

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def start(self, *, ready: bool = True) -> Server:
        """Starts the process and waits until it listens, and until it serves all of its folder."""
        listen = self._addresses.listen if self._addresses else ANY_PORT
        folder = [] if self._folder is None else [str(self._folder.path)]
        command = [binary(), "serve", *folder, "--home", str(self.home), *self._flags]
        if "--listen" not in self._flags:
            command += ["--listen", listen]
        command += ["--metrics", ANY_PORT]
        self.out, self.err = Output(), Output()
        self._process = subprocess.Popen(
            command,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"RUST_BACKTRACE": "1"},
        )
        pairs = ((self.out, self._process.stdout), (self.err, self._process.stderr))
        self._followers = [threading.Thread(target=_follow, args=pair) for pair in pairs]
        for follower in self._followers:
            follower.start()
        self._addresses = self._await(self.out, parse_addresses, "its addresses")
        if ready and self._folder is not None:
            for name in self._folder.objects:
                self.await_line(re.escape(f"{name}: ready"))
        return self

    def await_line(self, pattern: str, within_s: float = START_S_MAX) -> str:
        """The first line on standard error that holds `pattern`; waits for it."""

        def find(lines: list[str]) -> str | None:
            return next((line for line in lines if re.search(pattern, line)), None)

        return self._await(self.err, find, f"`{pattern}`", within_s)

    async def says(self, pattern: str) -> str:
        """As `await_line`, for a test that goes on meanwhile."""
        return await asyncio.to_thread(self.await_line, pattern)

    async def sample_key(self) -> str:
        """The key that a server without a folder prints, once it opens the door."""
        return await asyncio.to_thread(lambda: self._await(self.out, parse_key, "its key"))

    def _await(
        self,
        output: Output,
        find: Callable[[list[str]], T | None],
        what: str,
        within_s: float = START_S_MAX,
    ) -> T:
        until = time.monotonic() + within_s
        with output.grown:
            while True:
                if (found := find(output.lines)) is not None:
                    return found
                left_s = until - time.monotonic()
                if output.is_over or left_s <= 0:
                    why = "it ended" if output.is_over else f"within {within_s:.0f} s"
                    raise AssertionError(f"the server did not say {what} ({why})\n{self.tail()}")
                output.grown.wait(left_s)

    def tail(self, lines_max: int = 60) -> str:
        """The last of what the server said."""
        return "\n".join([*self.out.lines[-lines_max:], *self.err.lines[-lines_max:]])

    def metrics(self) -> Metrics:
        """What Prometheus would read now."""
        with httpx.Client(trust_env=False) as client:
            answer = client.get(self.addresses.metrics)
        assert answer.status_code == HTTPStatus.OK, answer.text
        return parse(answer.text)

    def resident_bytes(self) -> int:
        """The process's resident memory."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.M)
        assert found is not None, status
        return int(found[1]) * 1024

    @property
    def is_running(self) -> bool:
        """Whether the process lives."""
        return self._process.poll() is None

    def terminate(self) -> None:
        """Asks for an orderly end, as Kubernetes does."""
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it at once, as the kernel does for want of memory."""
        self._process.kill()
        self.wait()

    def wait(self) -> int:
        """The exit code, once it has ended; everything it said has then been heard."""
        code = self._process.wait(END_S_MAX)
        for follower in self._followers:
            follower.join()
        return code

    def close(self) -> None:
        """Ends it if it runs."""
        if self.is_running:
            self.kill()
        else:
            self.wait()
