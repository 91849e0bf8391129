"""What a kubelet makes of a Pod, here where none runs programs: its program, in its image.

Command, arguments, environment, files and user are what the Pod says. Every Pod has an address of
its own, as in a cluster, and so its ports too; loopback has room for all of them. `0.0.0.0` alone
is another one here, for it would be everybody's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import httpx

from harness.contain import NOBODY
from harness.daemon import Daemon, environment
from harness.image import Image, Pod, pid_in

Json: TypeAlias = Any
Done: TypeAlias = subprocess.CompletedProcess[str]

#: The kinds of probes that a container may have.
PROBES = ("startup", "liveness", "readiness")

EVERYWHERE = "0.0.0.0"


def new_address() -> str:
    """One of sixteen million addresses of loopback, so that it is nobody else's."""
    return "127." + ".".join(str(1 + secrets.randbelow(254)) for _ in range(3))


@dataclass(frozen=True, slots=True)
class Probe:
    """A question of the kubelet's, and what it takes for a yes."""

    scheme: str
    port: int
    path: str
    timeout_s: float

    @classmethod
    def all_of(cls, template: Json) -> Mapping[str, Probe]:
        """The probes of a Pod's only container, by kind, as an API server has completed them."""
        [container] = template["spec"]["containers"]
        found = {kind: container.get(f"{kind}Probe") for kind in PROBES}
        return {kind: cls._of(each, container) for kind, each in found.items() if each}

    @classmethod
    def _of(cls, probe: Json, container: Json) -> Probe:
        get = probe["httpGet"]
        assert "host" not in get, "a kubelet asks the Pod itself"
        port = ports_of(container).get(get["port"], get["port"])
        return cls(get["scheme"].lower(), port, get["path"], probe["timeoutSeconds"])

    def answer(self, ip: str) -> int:
        """The status of the answer; 0 where there is none in time."""
        url = f"{self.scheme}://{ip}:{self.port}{self.path}"
        with contextlib.suppress(httpx.TransportError):
            # A kubelet knows no authority of Pods and believes every certificate.
            return httpx.get(url, verify=False, trust_env=False, timeout=self.timeout_s).status_code
        return 0

    def passes(self, ip: str) -> bool:
        """Whether a kubelet is content."""
        return 200 <= self.answer(ip) < 400


def ports_of(container: Json) -> Mapping[str, int]:
    """A container's ports by their names."""
    return {each["name"]: each["containerPort"] for each in container.get("ports", [])}


def assert_is_contained(pod: Json) -> None:
    """Checks that a Pod asks for as little as the root has that programs are given here."""
    [container] = pod["spec"]["containers"]
    context = pod["spec"]["securityContext"] | container["securityContext"]
    assert (context["runAsUser"], context["runAsGroup"]) == (NOBODY, NOBODY)
    assert context["runAsNonRoot"]
    assert context["readOnlyRootFilesystem"]
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}


class Program:
    """The program of a Pod's only container."""

    def __init__(
        self,
        pod: Json,
        image: Image,
        folder: Path,
        mounted: Mapping[str, Path],
        names: Mapping[str, str],
    ) -> None:
        """`mounted` has the volumes by where they are seen, `names` whom a name leads to."""
        assert_is_contained(pod)
        [container] = pod["spec"]["containers"]
        self.name = pod["metadata"]["name"]
        self.ip = new_address()
        self.ports = ports_of(container)
        self.args = [each.replace(EVERYWHERE, self.ip) for each in container["args"]]
        command = container.get("command", image.entrypoint)
        self._image = dataclasses.replace(image, entrypoint=command)
        self._folder = folder
        self._daemon: Daemon | None = None
        hosts = folder / "hosts"
        hosts.write_text("".join(f"{ip} {name}\n" for name, ip in names.items()))
        writable = writable_mounts(pod)
        self._pod = Pod(
            reads={path: here for path, here in mounted.items() if path not in writable}
            | {"/etc/hosts": hosts},
            writes={path: here for path, here in mounted.items() if path in writable},
            env={each["name"]: self._value(each, pod) for each in container.get("env", [])},
        )

    def give(self, reads: Mapping[str, Path], env: Mapping[str, str]) -> None:
        """Adds what this machine has in place of what a cluster has."""
        pod = self._pod
        self._pod = Pod({**pod.reads, **reads}, pod.writes, {**pod.env, **env})

    def _value(self, entry: Json, pod: Json) -> str:
        if "value" in entry:
            return str(entry["value"])
        path = entry["valueFrom"]["fieldRef"]["fieldPath"]
        if path == "status.podIP":
            return self.ip
        found = pod
        for name in path.split("."):
            found = found[name]
        return str(found)

    @property
    def daemon(self) -> Daemon:
        """The process; started anew it finds its volumes as it left them."""
        if self._daemon is None:
            self._daemon = self._image.daemon(self._folder, self.name, self.args, self._pod)
        return self._daemon

    @property
    def pid(self) -> int:
        """The program of a running daemon, as this machine counts."""
        return pid_in(self.daemon)

    def run(self, within_s: float) -> Done:
        """Runs the program to its end."""
        return subprocess.run(
            self._image.command(self._folder, self.name, self.args, self._pod),
            capture_output=True,
            text=True,
            cwd=self._folder,
            env=environment(self._folder),
            timeout=within_s,
            check=False,
        )

    def listens(self, port: str) -> bool:
        """Whether somebody takes connections at a port of the container."""
        try:
            socket.create_connection((self.ip, self.ports[port]), timeout=1.0).close()
        except OSError:
            return False
        return True


def writable_mounts(pod: Json) -> set[str]:
    """Where a Pod's container may write: scratch volumes alone, as the chart has them."""
    [container] = pod["spec"]["containers"]
    scratch = {each["name"] for each in pod["spec"]["volumes"] if "emptyDir" in each}
    mounts = container["volumeMounts"]
    return {
        each["mountPath"]
        for each in mounts
        if each["name"] in scratch and not each.get("readOnly", False)
    }


@contextlib.contextmanager
def programs() -> Iterator[Callable[[Program], Program]]:
    """Gives what starts a program; all end with the block, and say their last lines if it fails."""
    started: list[Program] = []

    def start(program: Program) -> Program:
        started.append(program)
        program.daemon.start()
        return program

    try:
        yield start
    except BaseException as error:
        error.add_note("\n".join(f"-- {each.name}\n{each.daemon.tail()}" for each in started))
        raise
    finally:
        for program in reversed(started):
            program.daemon.close()
