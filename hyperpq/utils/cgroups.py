"""The CPU time that control groups of Linux, such as those of containers, allow a process."""

from __future__ import annotations

import math
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path


def cpu_quota(root: Path = Path("/")) -> int | None:
    """Number of cores whose time the control groups of this process allow it.

    Parameters
    ----------
    root : Path
        Root of the file system; another one in tests.

    Returns
    -------
    int or None
        The smallest quota of the group of the process and of the groups above it, in cores,
        rounded up; None where none is set or known. Both versions of control groups are read.
    """
    quotas = [quota for folder in _groups(root) if (quota := _quota(folder)) is not None]
    return max(1, math.ceil(min(quotas))) if quotas else None


def _quota(folder: Path) -> float | None:
    """Quota of one group in cores, from the files of version 2 or of version 1."""
    words = _read(folder / "cpu.max").split()
    if not words:
        words = [_read(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
    try:
        quota, period = (int(word) for word in words)
    except ValueError:  # "max", or a file is missing or has other contents.
        return None
    return quota / period if quota > 0 and period > 0 else None


def _groups(root: Path) -> Iterator[Path]:
    """Folders of the groups of this process that can limit its CPU time, and of those above."""
    paths = {}
    for line in _read(root / "proc/self/cgroup").splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if hierarchy == "0" and not controllers:
            paths["cgroup2"] = path
        elif "cpu" in controllers.split(","):
            paths["cgroup"] = path
    for line in _read(root / "proc/self/mountinfo").splitlines():
        mount, _, system = line.partition(" - ")
        fields, kind, options = mount.split(" "), *_kind_and_options(system)
        if kind not in paths or len(fields) < 5:
            continue
        if kind == "cgroup" and "cpu" not in options:
            continue
        top, point = _unescaped(fields[3]), _unescaped(fields[4])
        # The mount shows the groups below `top`. In a container that may be the group of the
        # process itself, which /proc/self/cgroup names by its path from the top of the machine.
        below = posixpath.relpath(posixpath.join("/", paths[kind]), posixpath.join("/", top))
        if below.startswith(".."):
            below = "."
        folder = root / point.lstrip("/")
        yield folder
        for part in below.split("/"):
            folder = folder / part
            yield folder


def _kind_and_options(system: str) -> tuple[str, list[str]]:
    """Type of a file system and its options, from the end of a line of mountinfo."""
    words = system.split(" ")
    return words[0], words[-1].split(",")


def _unescaped(path: str) -> str:
    """A path of mountinfo, where spaces and the like are octal numbers after a backslash."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)


def _read(path: Path) -> str:
    """Contents of a file; an empty string where it cannot be read."""
    try:
        return path.read_text("utf-8", "surrogateescape")
    except (OSError, ValueError):
        return ""
