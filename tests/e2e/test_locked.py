"""`--lock-weights`: what the system lets nobody lock is refused, and not loaded without a word."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.server import binary

#: Room for a page or two.
LIMIT_BYTES = 64 << 10


def bounded() -> list[str]:
    """What a command is started with to be let lock next to nothing; root's rights go as well."""
    for tool in ("prlimit", "setpriv"):
        assert shutil.which(tool), f"there is no `{tool}` on PATH; util-linux has it"
    rights = ["setpriv", "--bounding-set", "-ipc_lock"] if os.geteuid() == 0 else []
    return ["prlimit", f"--memlock={LIMIT_BYTES}", *rights]


@pytest.mark.parametrize("locks", [True, False])
def test_weights_that_may_not_be_locked_are_refused_where_that_is_asked_for(
    tmp_path: Path, model: Path, *, locks: bool
) -> None:
    command = [*bounded(), binary(), "run", "--home", str(tmp_path), "--model", str(model)]
    command += ["--max-tokens", "1", *(["--lock-weights"] if locks else []), "Hello"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode == 0) is not locks, done.stderr
    assert ("be locked in memory (RLIMIT_MEMLOCK)" in done.stderr) is locks, done.stderr
