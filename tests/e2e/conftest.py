"""What every module of these tests gets: the model, the Node clients, and servers of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest

from harness.folder import Folder
from harness.server import Server

GUESTS = Path(__file__).parents[1] / "guests"
PROGRAMS = Path(__file__).parents[2] / "sdks" / "guest-rust" / "programs"


def from_environment(name: str) -> Path:
    """A path that tests/run hands over."""
    value = os.environ.get(name)
    if value is None:
        raise AssertionError(f"{name} is not set; start these tests with tests/run")
    path = Path(value)
    assert path.exists(), f"{name} is {value}, which does not exist"
    return path


@pytest.fixture(scope="session")
def model() -> Path:
    """The model file that everything here is served from."""
    return from_environment("REALM_TEST_MODEL")


@pytest.fixture(scope="session")
def node_folder() -> Path:
    """The folder with `node_modules`."""
    return from_environment("REALM_TEST_NODE")


@pytest.fixture(scope="session")
def hostile() -> Path:
    """The component that attacks its host."""
    return GUESTS / "hostile" / "hostile.wasm"


@pytest.fixture(scope="session")
def pirate() -> Path:
    """The example of a tenant's own program."""
    return PROGRAMS / "pirate" / "pirate.wasm"


class Serve(Protocol):
    """Starts a server of a folder that `fill` writes, and ends it with the tests that use it."""

    def __call__(self, fill: Callable[[Folder], None], *flags: str, ready: bool = True) -> Server:
        """Without `ready`, the folder holds something that never will be."""
        ...


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Serve]:
    """Servers of one module; the default model is in their folders already."""
    with ExitStack() as stack:

        def start(fill: Callable[[Folder], None], *flags: str, ready: bool = True) -> Server:
            base = tmp_path_factory.mktemp("realm")
            folder = Folder(base / "manifests")
            folder.model(model)
            fill(folder)
            server = Server(folder, base / "home", *flags)
            stack.callback(server.close)
            _running.append(server)
            stack.callback(_running.remove, server)
            return server.start(ready=ready)

        yield start


#: For the report of a test that fails.
_running: list[Server] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Shows what the tests measured, not only that it was within bounds."""
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        if report.when == "call":
            for name, value in report.user_properties:
                terminalreporter.write_line(f"{name}: {value}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Shows what the servers said beside the failure."""
    report = yield
    if report.failed:
        report.sections += [(f"realm serve, process {s.pid}", s.tail()) for s in _running]
    return report
