"""One long-running process of a cluster: its log in a file, and its certain end."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

#: From a signal to the end; a process that runs on is then killed.
END_S_MAX = 10.0

#: How long a process that was asked to end may let its calls go on.
LEAVE_S_MAX = 60.0

#: Lines of a log beside a failure: the last of a panic, or a few requests.
TAIL_LINES_MAX = 30


def cluster_folders() -> Sequence[Path]:
    """Where the programs of a cluster are, and the definitions of other projects' resources."""
    folders = os.environ.get("REALM_TEST_CLUSTER")
    assert folders is not None, "REALM_TEST_CLUSTER is not set; start these tests with tests/run"
    return [Path(folder) for folder in folders.split(os.pathsep)]


def binary(name: str) -> str:
    """A program of the cluster, or one of Realm's own."""
    folders = os.pathsep.join(str(folder) for folder in cluster_folders())
    found = shutil.which(name, path=folders) or shutil.which(name)
    assert found is not None, f"there is no {name} on PATH or in {folders}; tests/run builds it"
    return found


def environment(home: Path) -> dict[str, str]:
    """What a program sees: nothing of the person who runs the tests."""
    return {"PATH": os.defpath, "HOME": str(home), "TMPDIR": str(home)}


class Daemon:
    """A process that runs until it is closed; then it may be started again."""

    def __init__(
        self,
        folder: Path,
        name: str,
        *flags: str,
        label: str | None = None,
        env: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """`label` tells the processes of one program apart."""
        self.label = label or name
        self.flags = flags
        self._command = [binary(name), *flags]
        self._folder = folder
        self._env = environment(folder) | dict(env)
        self._log = folder / f"{self.label}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the process. It ends with the thread that starts it, even when that is killed."""
        assert self._process is None, f"{self.label} runs already"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *self._command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env=self._env,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process."""
        assert self._process is not None, f"{self.label} has not been started"
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """What the process ended with, once it has ended by itself."""
        return None if self._process is None else self._process.poll()

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended by itself."""
        return self.exit_code is not None

    def text(self) -> str:
        """All that the process said."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def tail(self) -> str:
        """The last of what the process said."""
        return "\n".join(self.text().splitlines()[-TAIL_LINES_MAX:])

    def close(self) -> None:
        """Ends the process and its children, in an orderly way if it has one."""
        if self._process is None:
            return
        self._signal(signal.SIGTERM)
        try:
            self._process.wait(END_S_MAX)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def terminate(self) -> int:
        """Asks for an orderly end, as Kubernetes does, and waits for it. Gives the exit code."""
        assert self._process is not None, f"{self.label} has not been started"
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(LEAVE_S_MAX)
        self._process = None
        return code

    def kill(self) -> None:
        """Ends the process and its children at once, as a node that loses power does."""
        if self._process is not None:
            self._signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Stops the process where it is, as a machine that is suspended does."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Lets the process go on, to which no time seems to have passed."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        # A process that has been waited for is nobody any more, and its number may be another's.
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, number)
