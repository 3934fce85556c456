"""A description of the machine that figures were measured on."""

from __future__ import annotations

import datetime
import platform
from pathlib import Path

from hyperpq.utils.devices import usable_cores


def describe_machine() -> str:
    """Date, processor and number of cores in one line."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    cores = usable_cores()
    return f"{datetime.date.today()}, {name}, {cores} core{'s' if cores > 1 else ''}"
