"""Runs one program as a container runtime would: `contain.py SPEC`, where SPEC is JSON.

A program of its own, for what it does to itself cannot be undone:

1. enter new namespaces of mounts, processes and IPC, and of users where it is nobody's root;
2. mount what the program may see into its root, then make the root read-only;
3. make that root the only one there is;
4. give up root, every capability, and the way back to them;
5. become the program.

Signals and the network are those of whoever starts it.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from pathlib import Path
from typing import TypedDict

#: Who runs in an image that names no other user, by convention of the bases without a shell.
NOBODY = 65532

CLONE_NEWNS = 0x0002_0000
CLONE_NEWIPC = 0x0800_0000
CLONE_NEWUSER = 0x1000_0000
CLONE_NEWPID = 0x2000_0000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 0x20, 0x1000, 0x4000, 0x4_0000
MS_NOATIME, MS_NODIRATIME, MS_RELATIME = 0x400, 0x800, 0x20_0000
MNT_DETACH = 2

#: What a mount keeps when another user's namespace mounts it again; bits of `statvfs` and `mount`
#: alike, but for the last, which `statvfs` knows by another.
KEPT = MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME | MS_NODIRATIME
ST_RELATIME = 0x1000

PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 1, 24, 38, 47
PR_CAP_AMBIENT_CLEAR_ALL = 4

#: Devices that every runtime gives.
DEVICES = ("null", "zero", "full", "random", "urandom")


class Mount(TypedDict):
    """One file or folder that the program sees."""

    source: str
    target: str
    is_writable: bool


class Spec(TypedDict):
    """What is run, and what it sees. Every mount's target is in the root already, and empty."""

    root: str
    mounts: list[Mount]
    command: list[str]
    env: dict[str, str]


_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _mount(source: str, target: str, flags: int, kind: str | None = None) -> None:
    blobs = (source.encode(), target.encode(), kind.encode() if kind else None)
    _check(_libc.mount(*blobs, ctypes.c_ulong(flags), None), f"mount {source} at {target}")


def _prctl(option: int, value: int) -> None:
    _check(_libc.prctl(option, value, 0, 0, 0), f"prctl {option}")


def _unshare() -> bool:
    """Whether whoever runs this is root, and gave it up for no namespace of users."""
    is_root = os.geteuid() == 0
    outside = (os.geteuid(), os.getegid())
    users = 0 if is_root else CLONE_NEWUSER
    _check(_libc.unshare(CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWPID | users), "unshare")
    if not is_root:
        Path("/proc/self/setgroups").write_text("deny")
        for name, number in zip(("uid", "gid"), outside, strict=True):
            Path(f"/proc/self/{name}_map").write_text(f"{NOBODY} {number} 1")
    return is_root


def _bind(source: str, target: str, *, is_writable: bool) -> None:
    _mount(source, target, MS_BIND | MS_REC)
    _restrict(target, MS_NOSUID | (0 if is_writable else MS_RDONLY))


def _restrict(target: str, flags: int) -> None:
    now = os.statvfs(target).f_flag
    flags |= (now & KEPT) | (MS_RELATIME if now & ST_RELATIME else 0)
    _mount("none", target, MS_REMOUNT | MS_BIND | flags)


def _furnish(spec: Spec) -> None:
    root = spec["root"]
    _mount("none", "/", MS_REC | MS_PRIVATE)
    _mount(root, root, MS_BIND)
    for mount in spec["mounts"]:
        _bind(mount["source"], root + mount["target"], is_writable=mount["is_writable"])
    for device in DEVICES:
        _bind(f"/dev/{device}", f"{root}/dev/{device}", is_writable=True)
    _mount("proc", f"{root}/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "proc")
    _restrict(root, MS_RDONLY | MS_NOSUID | MS_NODEV)


def _move_in(root: str) -> None:
    os.chdir(root)
    # The new root lies over the old one, which is then taken from under it.
    _check(_libc.pivot_root(b".", b"."), "pivot_root")
    _check(_libc.umount2(b".", MNT_DETACH), "umount the old root")
    os.chdir("/")


def _give_up(*, is_root: bool) -> None:
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    for capability in range(last + 1):
        _prctl(PR_CAPBSET_DROP, capability)
    _check(_libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), "clear capabilities")
    if is_root:
        os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    # Forgotten with every change of user, so the last thing that is asked for.
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def main(spec: Spec) -> int:
    """The program's end is this one's, and a signal to both is left to the program."""
    is_root = _unshare()
    child = os.fork()
    if child == 0:
        _furnish(spec)
        _move_in(spec["root"])
        _give_up(is_root=is_root)
        os.execve(spec["command"][0], spec["command"], spec["env"])
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    code = main(json.loads(sys.argv[1]))
    # As a shell tells of a signal.
    sys.exit(code if code >= 0 else 128 - code)
