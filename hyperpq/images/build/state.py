"""The working directory of a build: the files from which an interrupted build continues."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperpq.datasets.listing import ImageFile, Listing
from hyperpq.errors import InvalidInputError
from hyperpq.images import skipped as skipped_files
from hyperpq.images.build.plan import Plan, read_plan, write_plan
from hyperpq.images.extract import Features
from hyperpq.store import find_place
from hyperpq.store.lock import HOLDER_NAME, LOCK_NAME
from hyperpq.utils.files import atomic_write, fsync_folder, make_folder

# Arrays of `Features` in the files of a batch.
_ARRAYS = ("rows", "plain", "views", "sizes", "hashes")


def working_directory(path: str | os.PathLike[str]) -> Path:
    """Directory of an unfinished build of the index ``path``; it exists until that is finished.

    It is ``INDEX.building``, or ``INDEX/.building`` where INDEX cannot be renamed, see
    `store.find_place`.

    Raises
    ------
    StoreError
        If no index can be made there.
    """
    return find_place(path).working_directory(".building")


class BuildState:
    """The files of a working directory; each is written completely or not at all.

    Files that earlier versions have written are read, so names and content stay as they are.

    Attributes
    ----------
    path : Path
        The working directory, see `working_directory`.
    index, checkpoint, trace : Path
        The trained index that is being filled, the checkpoint and the trace of the training.
    discarded : Path
        The name of the directory while it is removed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.index = self.path / "index"
        self.checkpoint = self.path / "checkpoint.safetensors"
        self.trace = self.path / "training.jsonl"
        self._plan, self._settings = self.path / "plan.bin", self.path / "settings.json"
        self._finished = self.path / "finished"
        self.discarded = self.path.with_name(self.path.name + "-done")

    def exists(self) -> bool:
        """Whether there is an unfinished build."""
        return self.path.exists()

    def clean_up(self) -> bool:
        """Remove what a finished build has left; whether it had not yet removed its directory."""
        shutil.rmtree(self.discarded, ignore_errors=True)
        left = self._finished.exists() and not self.index.exists()
        if left:
            self.discard()
        return left

    def restart(self) -> None:
        """Make the next `read_plan` start from the beginning."""
        self._settings.unlink(missing_ok=True)
        # After a power cut the settings must not be there without the files that they vouch for.
        fsync_folder(self.path)

    def finish(self) -> None:
        """Mark the index as complete, before it is moved to its place."""
        atomic_write(self._finished, b"")

    def discard(self) -> None:
        """Remove the directory in one step, as a part of it must not be taken for a build."""
        try:
            os.rename(self.path, self.discarded)
        except FileNotFoundError:
            return  # another process that found the finished build has done so
        # A power cut must not undo the rename and keep the removals.
        fsync_folder(self.path.parent)
        shutil.rmtree(self.discarded, ignore_errors=True)

    def read_options(self) -> dict[str, Any] | None:
        """The options of the unfinished build, as `BuildOptions.to_stored` wrote them.

        None if there are none yet.
        """
        if not (self._settings.exists() and self._plan.exists()):
            return None
        options: dict[str, Any] = json.loads(self._settings.read_text())["options"]
        return options

    def read_plan(self, settings: dict[str, Any]) -> Plan | None:
        """The plan of a build with equal settings; None, in an empty directory, if there is none.

        Raises
        ------
        InvalidInputError
            If the plan is that of a build with other settings.
        """
        if self._settings.exists() and self._plan.exists():
            if json.loads(self._settings.read_text()) != settings:
                raise InvalidInputError(
                    f"{self.path} is an interrupted build with other folders or options; repeat "
                    "these, or start again with --overwrite."
                )
            return read_plan(self._plan)
        # Without settings, all other files belong to a build that was given up.
        for entry in self.path.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            elif entry.name not in (LOCK_NAME, HOLDER_NAME):
                entry.unlink()
        return None

    def write_plan(
        self, settings: dict[str, Any], files: Iterable[ImageFile], found: Listing
    ) -> Plan:
        """Write the list of images, and then the settings, which make it valid.

        Parameters
        ----------
        settings : dict
            What a resumed build is recognised by.
        files : iterable of ImageFile
            The images.
        found : Listing
            What else was found, once all images have been gone through.
        """
        write_plan(self._plan, files, found)
        atomic_write(self._settings, json.dumps(settings, indent=1).encode())
        return read_plan(self._plan)

    def make_folder(self, name: str) -> None:
        """Make a folder for features or for skipped files, durably."""
        make_folder(self.path / name)

    def read_features(self, folder: str, number: int) -> Features | None:
        """Features that `write_features` wrote; None if they are not complete."""
        base = self._batch(folder, number)
        note = base.with_suffix(".json")
        if not note.exists():
            return None
        rows, plain, views, sizes, hashes = (
            _load(base.with_suffix(f".{name}.npy")) for name in _ARRAYS
        )
        skipped = [(row, reason) for row, reason in json.loads(note.read_text())]
        return Features(rows, plain, views, sizes, hashes, skipped)

    def write_features(self, folder: str, number: int, features: Features) -> None:
        """Write a batch of features: the arrays, and then the JSON file that makes them valid."""
        base = self._batch(folder, number)
        for name in _ARRAYS:
            data = io.BytesIO()
            np.save(data, getattr(features, name), allow_pickle=False)
            atomic_write(base.with_suffix(f".{name}.npy"), data.getvalue())
        atomic_write(base.with_suffix(".json"), json.dumps(features.skipped).encode())

    def read_skipped(self, number: int) -> dict[bytes, str]:
        """Files that were skipped in a segment that has been encoded, with the reasons."""
        return skipped_files.from_csv(self._batch("skipped", number, ".csv").read_bytes())

    def write_skipped(self, number: int, skipped: dict[bytes, str]) -> None:
        """Write what `read_skipped` reads, before the segment is committed."""
        atomic_write(self._batch("skipped", number, ".csv"), skipped_files.to_csv(skipped))

    def _batch(self, folder: str, number: int, ending: str = "") -> Path:
        return self.path / folder / f"{number:05d}{ending}"


def _load(path: Path) -> NDArray[Any]:
    array: NDArray[Any] = np.load(path, allow_pickle=False)
    return array
