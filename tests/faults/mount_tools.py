"""Work in a process that has its own mounts, or another user's rights."""

from __future__ import annotations

import ctypes
import os
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from fault_tools import fork

_NEW_MOUNTS, _NEW_USER = 0x00020000, 0x10000000
_PRIVATE, _RECURSIVE = 1 << 18, 1 << 14
BIND, READ_ONLY, REMOUNT = 1 << 12, 1, 1 << 5
NOBODY = 54321
_IMPOSSIBLE = 77


def _call(name: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments):
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")


def mount(
    source: Path | str, target: Path, kind: str = "none", flags: int = 0, options: str = ""
) -> None:
    """Mount a file system; a child of `with_mounts` may do so."""
    _call(
        "mount",
        os.fsencode(source),
        os.fsencode(target),
        kind.encode(),
        ctypes.c_ulong(flags),
        options.encode(),
    )


def _own_mounts() -> None:
    user, group = os.geteuid(), os.getegid()
    if user == 0:
        _call("unshare", _NEW_MOUNTS)
    else:
        _call("unshare", _NEW_MOUNTS | _NEW_USER)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    _call("mount", b"none", b"/", None, ctypes.c_ulong(_PRIVATE | _RECURSIVE), None)


def _run(prepare: Callable[[], None], work: Callable[[], None], reason: str) -> None:
    pid = fork()
    if pid == 0:
        status = 1
        try:
            try:
                prepare()
            except (OSError, AttributeError) as error:
                os.write(2, f"child: {error}\n".encode())
                status = _IMPOSSIBLE
            else:
                work()
                status = 0
        except BaseException:
            os.write(2, f"child:\n{traceback.format_exc()}".encode())
        finally:
            os._exit(status)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code == _IMPOSSIBLE:
        pytest.skip(reason)
    assert code == 0


def with_mounts(prepare: Callable[[], None], work: Callable[[], None]) -> None:
    """Run ``prepare``, which mounts, and ``work`` in a process whose mounts nobody else sees.

    The test is skipped if the system refuses what ``prepare`` does.
    """

    def mounts() -> None:
        _own_mounts()
        prepare()

    _run(mounts, work, "the system lets the tests mount nothing of that kind")


def as_nobody(work: Callable[[], None]) -> None:
    """Run ``work`` as a user without rights; the test is skipped unless root runs it."""

    def drop() -> None:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)

    _run(drop, work, "only root can become another user")
