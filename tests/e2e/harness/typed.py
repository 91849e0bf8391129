"""What a document tells people to type, and somebody who types it."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

Done: TypeAlias = subprocess.CompletedProcess[str]

ROOT = Path(__file__).parents[3]

#: The longest command waits until debug builds serve the samples.
COMMAND_S_MAX = 120.0


def blocks(text: str) -> Sequence[str]:
    """Every block of commands, in order, as it stands."""
    return re.findall(r"```sh\n(.*?)```", text, re.S)


def section(document: Path, heading: str) -> str:
    """What stands below a heading, up to the next one; before all of them where it is empty."""
    parts = re.split(r"^## (.*)\n", f"## \n{document.read_text()}", flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))[heading]


def commands(document: Path) -> Sequence[str]:
    """Every command of a document, in order, where each has a line of its own."""
    return [
        line
        for block in blocks(document.read_text())
        for line in block.replace("\\\n", "").splitlines()
    ]


@dataclass(frozen=True, slots=True)
class Reader:
    """Somebody who types what a document says."""

    home: Path
    kubeconfig: Path
    #: Where they type it.
    folder: Path = ROOT

    def type(self, *lines: str, **env: str) -> str:
        """Runs commands in one shell, each of which must succeed."""
        done = self.attempt(*lines, **env)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def attempt(self, *lines: str, **more: str) -> Done:
        """Runs commands in one shell until one fails."""
        path = f"{os.environ['REALM_TEST_CLUSTER']}:{os.environ['PATH']}"
        env = {"PATH": path, "HOME": str(self.home), "KUBECONFIG": str(self.kubeconfig)}
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", "\n".join(lines)],
            cwd=self.folder,
            env={**env, "PYTHONPATH": os.environ["PYTHONPATH"], **more},
            capture_output=True,
            text=True,
            timeout=COMMAND_S_MAX,
            check=False,
        )
