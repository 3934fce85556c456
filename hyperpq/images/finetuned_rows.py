"""`FinetunedRows`: the rows of an index by a tuned network, for one commit that replaces all.

While they are made, others may add images to the index. These are encoded at the end.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hyperpq.datasets.listing import ImageFile
from hyperpq.errors import DatasetError
from hyperpq.images.build.options import as_finetune
from hyperpq.images.changes import entries, entries_of
from hyperpq.images.extract import extract_features
from hyperpq.images.updater import Updater
from hyperpq.index.cells import learned_cells
from hyperpq.index.path_map import KEY
from hyperpq.store import Rows, live_batches
from hyperpq.store.segments import MAX_COMPACTED_FEATURES, MAX_COMPACTED_ROWS

if TYPE_CHECKING:
    from hyperpq.backbones.tuned import TunedWeights
    from hyperpq.images.build.stages import Build
    from hyperpq.images.image_index import ImageIndex
    from hyperpq.index.index_codec import IndexCodec
    from hyperpq.index.training_record import TrainingRecord
    from hyperpq.index.view import RowView

# Images that others add while those before them are encoded, in the last attempts under the lock.
_FEW, _ATTEMPTS = 64, 3


class FinetunedRows:
    """The images of an index by a tuned network; see `Collection.replace_vectors`.

    Parameters
    ----------
    made : ImageIndex
        What was made of them in the working directory.
    build : Build
        How it was made.
    record : dict
        What was measured when the network was fine-tuned.
    """

    def __init__(self, made: ImageIndex, build: Build, record: dict[str, Any]) -> None:
        assert made.index.collection.held is not None  # it is trained
        self.codec: IndexCodec = made.index.collection.held
        self.training: TrainingRecord | None = made.index.training
        self.tuned: TunedWeights | None = build.network.tuned
        self._made, self._build, self._record = made, build, record
        self._show_made()

    def _show_made(self) -> None:
        self._rows = self._made.index.view().rows
        # An image that was changed meanwhile may be there twice, with another size or time.
        self._ids = {(path, state): id for path, state, id in entries(self._made.index.collection)}

    def make_cells(self, nlist: int) -> None:
        """Group the new codes by as many cells, or by none, as those of the former network."""
        coder, count = self.codec.coder, min(nlist, self._rows.ntotal)
        self.codec = self.codec.with_cells(learned_cells(self._rows.segments, coder, count))

    def catch_up(self, images: ImageIndex) -> None:
        """Encode what others have added meanwhile; a few images at the end may be left."""
        for _ in range(_ATTEMPTS):
            images.index.refresh()
            missing = self._missing(images.index.view().rows)
            self._add(missing)
            if len(missing) <= _FEW:
                return

    def _missing(self, rows: RowView) -> list[ImageFile]:
        found = (
            ImageFile(path, *state)
            for path, state, _ in entries_of(rows, self._build.place)
            if (path, state) not in self._ids
        )
        return sorted(found, key=lambda file: file.path)

    def _add(self, files: list[ImageFile]) -> None:
        """Encode images, all of which must be readable."""
        if not files:
            return
        build = self._build
        with build.progress.phase("encode", len(files)) as phase:
            paths = [file.path for file in files]
            features = extract_features(paths, build.network, build.read_options, phase)
        if features.skipped:
            row, reason = features.skipped[0]
            name = os.fsdecode(files[row].path)
            raise DatasetError(
                f"{name} cannot be read ({reason}), and the index has it; expected all images, as "
                "features of a tuned network are made from them; bring it back, or remove it from "
                "the index with hyperpq forget, and repeat the command with --resume."
            )
        Updater(self._made).add_features(files, features.plain, features.sizes, features.hashes)
        self._show_made()

    def metadata(self, former: Mapping[str, Any]) -> dict[str, Any]:
        """The metadata of the index with the tuned network."""
        stored = former[KEY]
        settings = as_finetune(self._build.options.finetune)
        assert settings is not None  # it was fine-tuned
        options = {**stored.get("options", {}), "finetune": settings.to_dict()}
        if options.get("precision") == "int8":
            # The tuned network computes in float32, see `_options`.
            del options["precision"]
        return {
            **former,
            KEY: {
                **stored,
                "backbone": self._build.network.identity(),
                "options": options,
                "finetuned": self._record,
            },
        }

    def rows(self, former: RowView) -> Iterator[Rows]:
        """The rows of the index with codes and features of the tuned network."""
        self._add(self._missing(former))
        kept = self._rows.feature_codec
        most = MAX_COMPACTED_ROWS
        if kept is not None:
            most = max(1, MAX_COMPACTED_FEATURES // kept.size)
        for rows in live_batches(former.segments, most, features=False):
            ids = np.array([self._ids[key] for key in self._keys(rows, former)], np.int64)
            features = None if kept is None else self._features(ids, kept.size)
            codes = self._rows.codes_of(ids)
            yield Rows(codes, rows.ids, rows.attributes, rows.path_strings, features)

    @staticmethod
    def _keys(rows: Rows, former: RowView) -> Iterator[tuple[bytes, tuple[int, int]]]:
        """Path, size and time of each row, as `entries` has them."""
        times = np.asarray(rows.attribute("mtime")).view(np.int64).tolist()
        sizes = np.asarray(rows.attribute("size")).tolist()
        for path, size, time in zip(rows.paths or (), sizes, times, strict=True):
            yield former.path_map.shown(path), (size, time)

    def _features(self, ids: NDArray[np.int64], size: int) -> NDArray[np.uint8]:
        out = np.empty((len(ids), size), np.uint8)
        for features, rows, positions in self._rows.features_at(ids):
            out[positions] = features[rows]
        return out
