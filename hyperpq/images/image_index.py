"""`ImageIndex`: a backbone, a `HiHPQIndex` and the paths of images behind one face."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hyperpq.errors import BackboneError, CorruptIndexError, InvalidInputError
from hyperpq.filters.where import Where
from hyperpq.images import skipped as skipped_files
from hyperpq.images.build.options import METADATA_KEY
from hyperpq.images.extract import Reader, extract_features
from hyperpq.images.listing import PathLike, as_paths
from hyperpq.index.hihpq_index import HiHPQIndex
from hyperpq.progress import Progress, SilentProgress
from hyperpq.store import Categories, Rows
from hyperpq.store.columns import TIME
from hyperpq.utils.validation import as_count

if TYPE_CHECKING:
    from hyperpq.backbones.base import Backbone
    from hyperpq.datasets.folder import ImageFile

# Images of one shard and one commit: at 160 images a second a kill loses half a minute.
GROUP = 4096


@dataclass(frozen=True)
class Result:
    """One image found.

    Attributes
    ----------
    rank : int
        From 1.
    distance : float
        Score of the index, smaller is nearer.
    id : int
    path : bytes
        As the file system has it.
    """

    rank: int
    distance: float
    id: int
    path: bytes


@dataclass(frozen=True)
class Answer:
    """What a query gave: results, or the reason why the query image can't be read."""

    query: bytes
    results: list[Result] = field(default_factory=list)
    error: str | None = None


@dataclass(frozen=True)
class Encoded:
    """Codes (n, code_size) uint8 with their paths, and the reasons of images without one."""

    codes: NDArray[np.uint8]
    paths: list[bytes]
    skipped: dict[bytes, str]


@dataclass
class Update:
    """What an update changed.

    Attributes
    ----------
    added, forgotten, unchanged : int
        Images; a changed image counts as forgotten and added.
    skipped : dict of bytes to str
        Path and reason of the files that could not be used.
    """

    added: int = 0
    forgotten: int = 0
    unchanged: int = 0
    skipped: dict[bytes, str] = field(default_factory=dict)


class ImageIndex:
    """An index of images, opened from the directory that `build.build_index` made.

    Attributes
    ----------
    index : HiHPQIndex
        Codes and codec.
    backbone_identity : dict
        Network, weights and preprocessing that the features come from.
    """

    def __init__(self, index: HiHPQIndex, backbone: Backbone | None = None) -> None:
        images = index.metadata.get(METADATA_KEY)
        if not isinstance(images, dict) or not isinstance(images.get("backbone"), dict):
            raise InvalidInputError(
                f"{index.path} is an index of vectors, not of images; "
                "open it with HiHPQIndex.load or build one with `hyperpq build`."
            )
        self.index = index
        self.backbone_identity: dict[str, Any] = images["backbone"]
        self.max_megapixels = float(images.get("max_megapixels", 200.0))
        self._backbone = backbone
        if backbone is not None:
            backbone.check_matches(self.backbone_identity)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        device: str = "auto",
        backbone: Backbone | str | None = None,
        verify: bool = False,
    ) -> ImageIndex:
        """Open an index directory.

        Parameters
        ----------
        path : path-like
            What `hyperpq build` wrote.
        device : str
            For the network and the codec.
        backbone : Backbone or str, optional
            A loaded network, or the name of one; it must be the one that made the index.
        verify : bool
            Check every checksum first.

        Raises
        ------
        IndexNotFoundError, CorruptIndexError, FormatVersionError, BackboneError
        """
        index = HiHPQIndex.load(path, device=device, verify=verify)
        if isinstance(backbone, str):
            from hyperpq.backbones import load_backbone

            backbone = load_backbone(backbone, device=device)
        return cls(index, backbone)

    def __repr__(self) -> str:
        return f"ImageIndex({self.index!r}, backbone={self.backbone_identity['name']!r})"

    def __len__(self) -> int:
        return self.index.ntotal

    @property
    def backbone(self) -> Backbone:
        """The network, loaded when it is first needed and checked against the recorded one."""
        if self._backbone is None:
            from hyperpq.backbones import load_backbone

            name = self.backbone_identity.get("name")
            if not isinstance(name, str):
                raise BackboneError(
                    f"{self.index.path} doesn't say which backbone it was made with."
                )
            if name.startswith("torchscript:"):
                # A TorchScript file is a program, and an index may come from a stranger.
                raise BackboneError(
                    f"{self.index.path} was made with {name!r}, a file that can run code; "
                    "if you trust it, name it yourself: --backbone torchscript:FILE."
                )
            loaded = load_backbone(name, device=self.index.device)
            loaded.check_matches(self.backbone_identity)
            self._backbone = loaded
        return self._backbone

    def query(
        self,
        images: Sequence[PathLike],
        k: int = 50,
        *,
        exclude_self: bool = False,
        where: str | Where | None = None,
        threads: int | None = None,
        workers: int = 0,
        progress: Progress | None = None,
    ) -> list[Answer]:
        """Find the images nearest to each query image.

        Parameters
        ----------
        images : sequence of path-like
            Query images; a bad one gets an `Answer` with an ``error``, the others are answered.
        k : int
            Results a query; fewer when the index has fewer.
        exclude_self : bool
            Leave the query image itself out, recognised by its path.
        where : str or Where, optional
            Which images are searched, by ``folder``, ``size``, ``mtime``, ``width``, ``height``,
            ``path`` and ``id``, such as ``"folder == 'cats' and width >= 512"``.
        threads : int, optional
            Of the search.
        workers : int
            Decoding threads; 0 takes one a core.
        progress : Progress, optional
            Where to report.

        Returns
        -------
        list of Answer
            In the order of ``images``.
        """
        k = as_count(k, "k")
        paths = as_paths(images)
        reader = Reader(workers=workers, max_megapixels=self.max_megapixels)
        where = Where(where) if isinstance(where, str) else where
        progress = progress or SilentProgress()
        with progress.phase("query", len(paths)) as phase:
            features = extract_features(paths, self.backbone, reader, phase)
        D, I = self.index.search(  # noqa: E741
            features.plain, k + exclude_self, where=where, threads=threads
        )
        known = self._paths_of(np.unique(I))
        answers = {row: Answer(paths[row], error=reason) for row, reason in features.skipped}
        for row, distances, ids in zip(features.rows.tolist(), D, I, strict=True):
            own = os.path.abspath(paths[row]) if exclude_self else None
            found = [
                (float(distance), int(id))
                for distance, id in zip(distances, ids, strict=True)
                if id >= 0 and known[int(id)] != own
            ]
            results = [
                Result(rank, distance, id, known[id])
                for rank, (distance, id) in enumerate(found[:k], 1)
            ]
            answers[row] = Answer(paths[row], results)
        return [answers[row] for row in range(len(paths))]

    def encode(
        self, images: Sequence[PathLike], *, workers: int = 0, progress: Progress | None = None
    ) -> Encoded:
        """Codes of images, without adding them."""
        paths = as_paths(images)
        reader = Reader(workers=workers, max_megapixels=self.max_megapixels)
        with (progress or SilentProgress()).phase("encode", len(paths)) as phase:
            features = extract_features(paths, self.backbone, reader, phase)
        return Encoded(
            self.index.encode(features.plain),
            [paths[row] for row in features.rows],
            {paths[row]: reason for row, reason in features.skipped},
        )

    def _paths_of(self, ids: NDArray[np.int64]) -> dict[int, bytes]:
        """Paths of ids."""
        out = {}
        for rows, piece in self.index.find(ids):
            here = rows >= 0
            for id, row in zip(ids[here].tolist(), rows[here].tolist(), strict=True):
                out[id] = piece.path(row)
        return out

    def _listed(self) -> Iterator[tuple[bytes, tuple[int, int], int]]:
        """Path, (size, mtime) and id of every image in the index."""
        for piece in self.index.parts:
            sizes, times = piece.attribute("size"), piece.attribute("mtime")
            if isinstance(sizes, Categories) or isinstance(times, Categories):
                raise CorruptIndexError(f"{self.index.path}: size or mtime isn't a number.")
            columns = sizes.tolist(), times.view(np.int64).tolist(), piece.ids.tolist()
            for row, (path, *values) in enumerate(zip(piece.paths or [], *columns, strict=True)):
                if piece.dead is None or not piece.dead[row]:
                    yield path, (values[0], values[1]), values[2]

    def update(
        self,
        files: Sequence[ImageFile],
        *,
        forget_below: Sequence[PathLike] = (),
        skipped: dict[bytes, str] | None = None,
        workers: int = 0,
        progress: Progress | None = None,
    ) -> Update:
        """Bring the index in line with a listing: add what is new or changed, forget what is gone.

        Parameters
        ----------
        files : sequence of ImageFile
            The images that are there. One with the size and mtime that the index has is not
            read again.
        forget_below : sequence of path-like
            Folders that the listing covers: images of the index below them that it lacks are
            removed.
        skipped : dict, optional
            Paths that the listing left out, with reasons, for ``skipped.csv``.
        workers : int
            Decoding threads; 0 takes one a core.
        progress : Progress, optional
            Where to report.

        Returns
        -------
        Update
        """
        progress = progress or SilentProgress()
        listed = {file.path: file for file in files}
        below = tuple(os.path.join(os.path.abspath(os.fsencode(r)), b"") for r in forget_below)
        report, known, gone = Update(skipped=dict(skipped or {})), set(), []
        stale: dict[bytes, int] = {}
        for path, state, id in self._listed():
            file = listed.get(path)
            if file is None:
                if path.startswith(below) or path + b"/" in below:
                    gone.append(id)
            elif (file.size, file.mtime_ns) == state:
                known.add(path)
            else:
                stale[path] = id
        report.unchanged = len(known)
        new = [file for path, file in sorted(listed.items()) if path not in known]
        if gone:
            self.index.remove_ids(gone)
            report.forgotten = len(gone)
        reader = Reader(workers=workers, max_megapixels=self.max_megapixels)
        with progress.phase("encode", len(new)) as phase:
            for start in range(0, len(new), GROUP):
                group = new[start : start + GROUP]
                features = extract_features([f.path for f in group], self.backbone, reader, phase)
                old = [stale[f.path] for f in group if f.path in stale]
                new_files = [group[r] for r in features.rows]
                rows = self.code_rows(new_files, features.plain, features.sizes)
                if rows.n or old:
                    self.index.append(rows, remove=np.array(old, np.int64))
                report.added += rows.n
                report.forgotten += len(old)
                report.skipped |= {group[r].path: reason for r, reason in features.skipped}
        self._write_skipped(report.skipped, listed, below)
        return report

    def code_rows(
        self,
        files: Sequence[ImageFile],
        features: NDArray[np.float32],
        sizes: NDArray[np.int32],
    ) -> Rows:
        """Codes, ids, paths and attributes of images, ready for `HiHPQIndex.append`.

        Parameters
        ----------
        files : sequence of ImageFile
        features : ndarray, shape (n, d), float32
        sizes : ndarray, shape (n, 2), int32
            Width and height.
        """
        first = self.index.next_id
        return Rows(
            self.index.encode(features),
            np.arange(first, first + len(files), dtype=np.int64),
            {
                "folder": _folders(file.path for file in files),
                "size": np.array([file.size for file in files], np.int64),
                "mtime": np.array([file.mtime_ns for file in files], np.int64).view(TIME),
                "width": sizes[:, 0],
                "height": sizes[:, 1],
            },
            [file.path for file in files],
        )

    def _write_skipped(
        self, skipped: dict[bytes, str], listed: dict[bytes, Any], below: tuple[bytes, ...]
    ) -> None:
        """Renew the lines of ``skipped.csv`` that this update has looked at."""
        store = self.index.store
        if store is None:
            return
        old = skipped_files.from_csv(store.read_report(skipped_files.NAME))
        kept = {
            path: reason
            for path, reason in old.items()
            if path not in listed and not path.startswith(below)
        }
        store.write_report(skipped_files.NAME, skipped_files.to_csv(kept | skipped))


def _folders(paths: Iterable[bytes]) -> Categories:
    """Names of the folders that images lie in."""
    names = (os.path.basename(os.path.dirname(path)) for path in paths)
    # Bytes that aren't UTF-8 stand as \\xNN: a filter is text.
    texts = (name.decode("utf-8", "backslashreplace") for name in names)
    return Categories.from_strings(texts)
