"""Memory and writes of a process, as Linux counts them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def own_memory(pid: int | str = "self") -> int:
    """Bytes of a process in memory that belong to no file; 0 on other systems than Linux."""
    return _status(pid, "RssAnon")


def resident_memory() -> int:
    """Bytes of this process that are resident."""
    return _status("self", "VmRSS")


def peak_memory() -> int:
    """Peak of `resident_memory` since the last `reset_peak_memory`."""
    return _status("self", "VmHWM")


def reset_peak_memory() -> None:
    """Let the kernel count the peak of resident memory from now on."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def bytes_written() -> int:
    """Bytes that this process has passed to write calls; 0 on other systems than Linux."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) for line in lines if line.startswith("wchar"))


def _status(pid: int | str, field: str) -> int:
    """A field of the status file of a process, in bytes."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(field)), 0)
