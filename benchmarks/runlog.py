"""Measured runs as lines of JSON, in the cache and beside the published pages."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

Run = dict[str, Any]

# Values that earlier versions wrote into run files, by field, and the values of today.
_FORMER: dict[str, dict[str, str]] = {
    "variant": {"conditioned": "normalized"},
    "group": {"score": "metric"},
    "name": {
        "no graph: views of a picture": "no graph, positives are views",
        "graph, walk alone": "graph, positives of the walk only",
        "diffusion alone": "graph, diffusion only",
        "a picture weighs as a view": "an image weighs as much as a view",
        "pictures alone on the graph": "graph of images without views",
        "and continuous with quantized": "continuous with quantized as well",
        "k-means alone, not refined": "k-means, not refined",
        "vectors not averaged": "no smoothing",
        "neither": "not refined, no smoothing",
        "unit length, no roots": "unit length, no power normalization",
    },
}
_FORMER_OPTION, _OPTION = " --peers ", " --baselines "


class Key(NamedTuple):
    """What identifies a run of `benchmarks.quality`.

    Attributes
    ----------
    method, variant : str
        ``exact`` or a baseline with its input, ``raw`` or ``normalized``; or ``hyperpq`` with the
        name of a recipe.
    bits, seed : int
        Both are 0 for ``exact``.
    """

    method: str
    variant: str
    bits: int
    seed: int


class RunLog:
    """Runs in a file of JSON lines; each is written as soon as it is measured.

    Runs of earlier versions get the names of today when they are read.

    Parameters
    ----------
    file : Path
        It need not exist yet.
    fields : sequence of str
        Fields whose values identify a run; these values are its key.

    Attributes
    ----------
    runs : dict
        Runs by key.
    """

    def __init__(self, file: Path, fields: Sequence[str] = Key._fields) -> None:
        self.file, self._fields = file, fields
        self.runs: dict[tuple[Any, ...], Run] = {}
        if file.exists():
            text = file.read_text("utf-8")
            complete = text[: text.rfind("\n") + 1]
            if complete != text:  # the process was killed while it wrote the last line
                self._rewrite(complete)
            for line in complete.splitlines():
                run = _with_current_names(json.loads(line))
                self.runs[self._key(run)] = run

    def __contains__(self, key: tuple[Any, ...]) -> bool:
        return key in self.runs

    def append(self, run: Run) -> None:
        """Add a run to the file."""
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(run) + "\n")
        self.runs[self._key(run)] = run

    def remove(self, keys: Collection[tuple[Any, ...]]) -> None:
        """Remove runs from the file."""
        self.runs = {key: run for key, run in self.runs.items() if key not in keys}
        self._rewrite("".join(json.dumps(run) + "\n" for run in self.runs.values()))

    def _key(self, run: Run) -> tuple[Any, ...]:
        return tuple(run[field] for field in self._fields)

    def _rewrite(self, text: str) -> None:
        unfinished = self.file.with_suffix(".part")
        unfinished.write_text(text, "utf-8")
        os.replace(unfinished, self.file)


def _with_current_names(run: Run) -> Run:
    """The run with the names of today in place of those of earlier versions."""
    out = dict(run)
    for field, names in _FORMER.items():
        if field in out:
            out[field] = names.get(out[field], out[field])
    if "command" in out:
        out["command"] = out["command"].replace(_FORMER_OPTION, _OPTION)
    return out


def published_path(log: Path, out: Path) -> Path:
    """Where a run file of the cache is published, beside the page made from it."""
    return out / "runs" / f"{log.parent.name}-{log.name}"


def restore_published(log: Path, out: Path) -> None:
    """Copy the published runs to the cache if it has none of its own."""
    if not log.exists() and published_path(log, out).exists():
        shutil.copyfile(published_path(log, out), log)


def publish(log: Path, out: Path) -> None:
    """Copy the runs of the cache beside their page: hours of measuring in a few kilobytes."""
    published_path(log, out).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(log, published_path(log, out))
