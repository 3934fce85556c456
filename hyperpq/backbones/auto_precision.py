"""`choose_precision`: what ``precision="auto"`` means on this machine."""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xxhash

from hyperpq.backbones.base import Backbone, Precision
from hyperpq.errors import InvalidInputError
from hyperpq.utils.cache import read_cached, write_cached
from hyperpq.utils.imports import import_onnxruntime

INT8_KEEPS_QUALITY = frozenset({"lite0"})
"""Networks whose codes, learned from features in int8, have the same mAP@1000 within .003 on
CIFAR-10 and on the 15 scenes (docs/results/encode.md). The others were not measured."""
VARIABLE = "HYPERPQ_PRECISION"
"""Environment variable that takes the place of the trial."""
# The features are not quite the same, so a small gain is no reason.
_MIN_GAIN = 1.25
_TRIAL_IMAGES, _TRIAL_ROUNDS = 8, 5
_CHOICES: tuple[Precision, ...] = ("float32", "int8")

Load = Callable[[Precision], Backbone]


def choose_precision(name: str, weights_hash: str, load: Load) -> Precision:
    """Choose between float32 and int8 for an embedded network on a CPU.

    Both are timed in turn when they are first needed, for about a second. The result is kept in the
    user's cache, for this processor, this network and this version of ONNX Runtime.

    Parameters
    ----------
    name, weights_hash : str
        Of the network.
    load : callable
        Loads the network in a precision.

    Returns
    -------
    {"float32", "int8"}
        What the variable ``HYPERPQ_PRECISION`` says, where it is set; otherwise float32 for a
        network that is not in `INT8_KEEPS_QUALITY`, and int8 if it is at least 1.25 times as fast.

    Raises
    ------
    InvalidInputError
        If the variable has another value.
    """
    asked = os.environ.get(VARIABLE)
    if asked and asked not in _CHOICES:
        raise InvalidInputError(f"{VARIABLE} is {asked!r}; expected {' or '.join(_CHOICES)}.")
    if asked:
        return "int8" if asked == "int8" else "float32"
    if name not in INT8_KEEPS_QUALITY:
        return "float32"
    file = f"speed-{name}-{_circumstances(weights_hash)}.json"
    gain = _kept_gain(read_cached(file))
    if gain is None:
        gain = measure_gain(load("float32"), load("int8"))
        write_cached(file, json.dumps({"gain": gain}).encode())
    return "int8" if gain >= _MIN_GAIN else "float32"


def measure_gain(
    usual: Backbone, other: Backbone, clock: Callable[[], float] = time.perf_counter
) -> float:
    """By what factor the second network is faster, from the medians of some rounds in turn."""
    side = usual.preprocessing.size
    pixels = np.random.default_rng(0).integers(0, 256, (_TRIAL_IMAGES, side, side, 3), np.uint8)
    seconds: dict[Backbone, list[float]] = {usual: [], other: []}
    for round_ in range(_TRIAL_ROUNDS + 1):
        for network, times in seconds.items():
            start = clock()
            network(pixels)
            if round_:  # the first allocates memory
                times.append(clock() - start)
    return statistics.median(seconds[usual]) / max(statistics.median(seconds[other]), 1e-9)


def _kept_gain(content: bytes | None) -> float | None:
    """The gain in a file of the cache; None if there is none."""
    try:
        gain = json.loads(content or b"null")["gain"]
    except (ValueError, TypeError, KeyError):
        return None
    return gain if isinstance(gain, float) and math.isfinite(gain) else None


def _circumstances(weights_hash: str) -> str:
    """A hash of what the speed depends on."""
    facts = (weights_hash, _processor(), import_onnxruntime().__version__)
    return xxhash.xxh3_64("\n".join(facts).encode()).hexdigest()


def _processor() -> str:
    """Name and instruction sets of the processor, as far as the system says."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    # Of the first core: those of x86 and ARM have different names.
    wanted = ("model name", "flags", "Features", "CPU part")
    first = {key.strip(): value for key, _, value in (ln.partition(":") for ln in reversed(lines))}
    return " ".join(first.get(key, "") for key in wanted)
