"""Says how often an agent is woken, and what it takes of a core, while nobody wants anything of it.

One `realm serve` with one model and one tenant: looked at when everything is ready and nothing has
been asked, and again when a call has been answered. Nobody probes it or reads its metrics.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from pathlib import Path

from harness.folder import Folder
from harness.server import Server
from harness.talk import answer
from harness.threads import Work, total, watch

#: After the last thing that happened, until nothing of it is left to do.
STILL_S = 5.0


def _print(when: str, pid: int, span_s: float) -> Work:
    """Looks at the process, and prints what each name of threads did and all together."""
    time.sleep(STILL_S)
    names = watch(pid, span_s)
    print(f"{when}, over {span_s:.0f} s", flush=True)
    print(f"  {'threads':<20} {'wake-ups/s':>10} {'of a core':>10}")
    everybody = total(names)
    for name, work in [*sorted(names.items(), key=lambda row: -row[1].wakes), ("all", everybody)]:
        print(f"  {name:<20} {work.wakes:>10.2f} {work.cpu_s:>10.3%}", flush=True)
    return everybody


def main() -> None:
    """Measures once with nothing asked, and once behind a call."""
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--seconds", type=float, default=60.0, help="how long each look takes")
    span_s = flags.parse_args().seconds
    with tempfile.TemporaryDirectory() as scratch:
        folder = Folder(Path(scratch) / "manifests")
        folder.model(Path(os.environ["REALM_TEST_MODEL"]))
        folder.tenant("acme")
        server = Server(folder, Path(scratch) / "home").start()
        try:
            _print("nothing asked yet", server.pid, span_s)
            asyncio.run(_call(server))
            _print("a call was answered", server.pid, span_s)
        finally:
            server.close()


async def _call(server: Server) -> None:
    async with server.client("acme") as client:
        await answer(client, "Say hello.")


if __name__ == "__main__":
    main()
