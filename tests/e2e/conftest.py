"""What every module of these tests gets: the model, the Node clients, servers and a cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import Protocol

import httpx
import pytest
import yaml

from harness.cluster import Cluster
from harness.daemon import cluster_folders
from harness.folder import Folder
from harness.plane import Plane
from harness.server import Server
from harness.user import User

ROOT = Path(__file__).parents[2]
GUESTS = ROOT / "tests" / "guests"
PROGRAMS = ROOT / "sdks" / "guest-rust" / "programs"
DEFINITIONS = ROOT / "crds" / "yaml"


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
def encoder() -> Path:
    """A model of sentences, which embeds and does not generate."""
    return from_environment("REALM_TEST_ENCODER")


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


@pytest.fixture(scope="session")
def reader() -> Path:
    """The example of a program with a prefix."""
    return PROGRAMS / "reader" / "reader.wasm"


@pytest.fixture(scope="session")
def warden() -> Path:
    """The example of a program with hooks."""
    return PROGRAMS / "warden" / "warden.wasm"


@pytest.fixture(scope="session")
def hostile_hooks() -> Path:
    """The component whose hooks attack their host."""
    return GUESTS / "hostile-hooks" / "hostile_hooks.wasm"


@pytest.fixture(scope="session")
def unhealthy() -> Path:
    """A program that says of itself that it does not work."""
    return GUESTS / "unhealthy" / "unhealthy.wasm"


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


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """An API server for everybody; each test keeps to namespaces of its own."""
    with _clusters(tmp_path_factory) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def definitions(cluster: Cluster) -> Sequence[httpx.Response]:
    """What the API server answered to the definitions of Realm's resources."""
    return put_definitions(cluster, *DEFINITIONS.glob("*.yaml"))


def put_definitions(cluster: Cluster, *files: Path) -> Sequence[httpx.Response]:
    """Applies definitions of resources."""
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    things = [yaml.safe_load(file.read_text()) for file in sorted(files)]
    return [cluster.admin.patch(f"{path}/{each['metadata']['name']}", each) for each in things]


@pytest.fixture(scope="session")
def resources(cluster: Cluster, definitions: Sequence[httpx.Response]) -> Cluster:
    """The same API server, once it serves Realm's resources."""
    await_definitions(cluster, definitions)
    return cluster


def define(cluster: Cluster) -> None:
    """Makes a cluster serve Realm's resources."""
    await_definitions(cluster, put_definitions(cluster, *DEFINITIONS.glob("*.yaml")))


@pytest.fixture(scope="session")
def all_kinds(resources: Cluster) -> Cluster:
    """The same API server, once it also knows the kinds of other projects that the chart has."""
    files = [folder.glob("*.yaml") for folder in cluster_folders()]
    await_definitions(resources, put_definitions(resources, *chain.from_iterable(files)))
    return resources


def await_definitions(cluster: Cluster, definitions: Sequence[httpx.Response]) -> None:
    """Waits until the definitions are served."""
    for answer in definitions:
        assert answer.is_success, answer.text
    names = [f"crd/{answer.json()['metadata']['name']}" for answer in definitions]
    done = cluster.admin.kubectl("wait", "--for=condition=Established", "--timeout=30s", *names)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def admin(resources: Cluster) -> User:
    """Somebody who may do everything with Realm's resources."""
    return resources.admin


@pytest.fixture
def namespace(cluster: Cluster) -> str:
    """A namespace of the test's own."""
    return cluster.namespace()


@pytest.fixture
def bare_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """An API server that one test has for itself, for what is of a whole cluster."""
    with _clusters(tmp_path_factory) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def whole_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with controllers and a scheduler, to which a module adds its nodes."""
    with _clusters(tmp_path_factory) as cluster:
        cluster.run_controllers()
        yield cluster


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    """Realm in a cluster of its own, whose objects are nobody else's."""
    with _clusters(tmp_path_factory) as cluster:
        define(cluster)
        plane = Plane(cluster, tmp_path_factory.mktemp("plane"), cluster.namespace())
        _running.append(plane)
        try:
            yield plane
        finally:
            _running.remove(plane)
            plane.close()


@contextmanager
def _clusters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    _running.append(cluster)
    try:
        with cluster:
            yield cluster
    finally:
        _running.remove(cluster)


class Running(Protocol):
    """Processes whose last words belong beside a failure."""

    @property
    def label(self) -> str:
        """Which of several they are."""
        ...

    def tail(self) -> str:
        """The last of what they said."""
        ...


#: For the report of a test that fails.
_running: list[Running] = []


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
        report.sections += [(each.label, each.tail()) for each in _running]
    return report
