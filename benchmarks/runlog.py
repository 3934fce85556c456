"""Measured runs as lines of JSON, in the cache and beside the published pages."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

Run = dict[str, Any]


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

    Parameters
    ----------
    file : Path
        It need not exist yet.
    fields : sequence of str
        Fields whose values identify a run; these values are its key.

    Attributes
    ----------
    file, fields
        The parameters.
    runs : dict
        Runs by key.
    """

    def __init__(self, file: Path, fields: Sequence[str] = Key._fields) -> None:
        self.file, self.fields = file, tuple(fields)
        self.runs: dict[tuple[Any, ...], Run] = {}
        if file.exists():
            text = file.read_text("utf-8")
            complete = text[: text.rfind("\n") + 1]
            if complete != text:  # the process was killed while it wrote the last line
                self._rewrite(complete)
            for line in complete.splitlines():
                run = json.loads(line)
                self.runs[self.key_of(run)] = run

    def __contains__(self, key: tuple[Any, ...]) -> bool:
        return key in self.runs

    def append(self, run: Run) -> None:
        """Add a run to the file."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(run) + "\n")
        self.runs[self.key_of(run)] = run

    def remove(self, keys: Collection[tuple[Any, ...]]) -> None:
        """Remove runs from the file."""
        self.runs = {key: run for key, run in self.runs.items() if key not in keys}
        self._write()

    def update(self, runs: Iterable[Run]) -> None:
        """Add runs in place of those of the same key, and write the whole file anew."""
        self.runs |= {self.key_of(run): run for run in runs}
        self._write()

    def key_of(self, run: Run) -> tuple[Any, ...]:
        """The key of a run."""
        return tuple(run[field] for field in self.fields)

    def _write(self) -> None:
        self._rewrite("".join(json.dumps(run) + "\n" for run in self.runs.values()))

    def _rewrite(self, text: str) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.file.with_suffix(".part")
        unfinished.write_text(text, "utf-8")
        os.replace(unfinished, self.file)
