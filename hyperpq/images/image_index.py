"""`ImageIndex`: search by images, with a backbone, a `HiHPQIndex` and the paths of its images."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hyperpq.errors import BackboneError, InvalidInputError
from hyperpq.filters.where import Where
from hyperpq.images.changes import entries
from hyperpq.images.extract import Features, ReadOptions, extract_features
from hyperpq.images.listing import PathLike
from hyperpq.images.metadata import ImageMetadata
from hyperpq.images.results import Answer, Encoded, Hits, SameFile, UpdateReport
from hyperpq.images.sources import ImageLike, Source, as_sources, path_of
from hyperpq.images.updater import Updater
from hyperpq.index.hihpq_index import HiHPQIndex
from hyperpq.progress import ProgressLike, as_progress
from hyperpq.utils.validation import as_count

if TYPE_CHECKING:
    from hyperpq.backbones.base import Backbone
    from hyperpq.datasets.folder import ImageFile


class ImageIndex:
    """An index of images, opened from the directory that `build_index` wrote.

    Parameters
    ----------
    index : HiHPQIndex
        An index of images.
    backbone : Backbone, optional
        The network that the index was built with; loaded when it is first needed by default.

    Attributes
    ----------
    index : HiHPQIndex
        Codes and codec.
    backbone_identity : dict
        Network, weights and preprocessing that the features come from.
    max_megapixels : float
        Larger images are skipped.

    Raises
    ------
    InvalidInputError
        If the index is not one of images.
    BackboneError
        If the index was built with another network.
    """

    def __init__(self, index: HiHPQIndex, backbone: Backbone | None = None) -> None:
        metadata = ImageMetadata.from_index(index.metadata)
        if metadata is None:
            raise InvalidInputError(
                f"{index.path} is an index of vectors; expected an index of images, which "
                "`hyperpq build` makes; `hyperpq search` and the class HiHPQIndex search vectors."
            )
        self.index = index
        self.metadata = metadata
        self.backbone_identity: dict[str, Any] = metadata.backbone
        self.max_megapixels = metadata.max_megapixels
        self._backbone = self._given_backbone = backbone
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
            Directory that `hyperpq build` or `build_index` wrote.
        device : str
            Device of the network and of the codec.
        backbone : Backbone or str, optional
            The network that the index was built with, or its name.
        verify : bool
            Whether to check all checksums first.

        Raises
        ------
        IndexNotFoundError, CorruptIndexError, FormatVersionError, BackboneError
        """
        index = HiHPQIndex.load(path, device=device, verify=verify)
        if isinstance(backbone, str):
            from hyperpq.backbones import load_backbone

            backbone = load_backbone(backbone, device=device)
        return cls(index, backbone)

    def __getstate__(self) -> dict[str, Any]:
        # Another process loads the network when it first needs it, as this one did.
        return self.__dict__ | {"_backbone": self._given_backbone}

    def __repr__(self) -> str:
        return f"ImageIndex({self.index!r}, backbone={self.backbone_identity['name']!r})"

    def __len__(self) -> int:
        return self.index.ntotal

    @property
    def backbone(self) -> Backbone:
        """The network; it is loaded when first needed and checked against the recorded one."""
        if self._backbone is None:
            from hyperpq.backbones import load_backbone

            name = self.backbone_identity["name"]
            if name.startswith("torchscript:"):
                # A TorchScript file is a program, and an index may come from a stranger.
                raise BackboneError(
                    f"{self.index.path} was built with {name!r}, a file that can run code; "
                    "if you trust it, name it yourself: --backbone torchscript:FILE."
                )
            loaded = load_backbone(name, device=self.index.device)
            loaded.check_matches(self.backbone_identity)
            self._backbone = loaded
        return self._backbone

    def query(
        self,
        images: ImageLike | Sequence[ImageLike],
        k: int = 50,
        *,
        exclude_self: bool = False,
        where: str | Where | None = None,
        threads: int | None = None,
        workers: int = 0,
        progress: ProgressLike = None,
    ) -> list[Answer]:
        """Find the images nearest to each query image.

        Parameters
        ----------
        images : sequence of path-like, ndarray or PIL.Image.Image
            Query images, or one of them. An array is (H, W, 3) uint8, RGB, or (H, W) uint8, grey.
            An image that cannot be read gets an `Answer` with an ``error``; the other images are
            answered.
        k : int
            Number of results for each query; fewer if the index has fewer images.
        exclude_self : bool
            Whether to exclude the query image itself, by whatever path or link the index has it. A
            copy is another file.
        where : str or Where, optional
            Condition that the results fulfil, on ``folder``, ``size``, ``mtime``, ``width``,
            ``height``, ``path`` and ``id``, such as ``"folder == 'cats' and width >= 512"``.
        threads : int, optional
            Number of threads of the search; all cores by default.
        workers : int
            Number of decoding threads; 0 means one per core.
        progress : Progress or bool, optional
            Where to report progress; True draws bars on stderr.

        Returns
        -------
        list of Answer
            In the order of ``images``.
        """
        k = as_count(k, "k")
        sources = as_sources(images)
        paths = [path_of(source) for source in sources]
        where = Where(where) if isinstance(where, str) else where
        features = self._features(sources, "query", workers, progress)
        own: list[Callable[[bytes], bool] | None] = [None] * len(features.rows)
        if exclude_self:
            same = SameFile()
            own = [same.names(paths[row]) for row in features.rows]
        more = int(exclude_self)
        while True:
            D, I = self.index.search(  # noqa: E741
                features.plain, k + more, where=where, threads=threads
            )
            hits = Hits(D, I, self._paths_of(np.unique(I[I >= 0])))
            found = [hits.results(number, k, is_own) for number, is_own in enumerate(own)]
            if not any(hits.is_short(number, results, k) for number, results in enumerate(found)):
                break
            # The index has an image by several paths, so one more result was not enough.
            more *= 4
        answers = dict(zip(features.rows.tolist(), found, strict=True))
        failures = dict(features.skipped)
        return [
            Answer(path, answers[row]) if row in answers else Answer(path, error=failures[row])
            for row, path in enumerate(paths)
        ]

    def encode(
        self,
        images: ImageLike | Sequence[ImageLike],
        *,
        workers: int = 0,
        progress: ProgressLike = None,
    ) -> Encoded:
        """Encode images without adding them; parameters as in `query`."""
        sources = as_sources(images)
        paths = [path_of(source) for source in sources]
        features = self._features(sources, "encode", workers, progress)
        return Encoded(
            self.index.encode(features.plain),
            [paths[row] for row in features.rows],
            {paths[row]: reason for row, reason in features.skipped},
        )

    def paths(self) -> list[bytes]:
        """Paths of all images in the index, sorted."""
        return sorted(path for path, *_ in entries(self.index.collection))

    def update(
        self,
        files: Sequence[ImageFile],
        *,
        remove_below: Sequence[PathLike] = (),
        unknown: Collection[bytes] = (),
        skipped: dict[bytes, str] | None = None,
        workers: int = 0,
        progress: ProgressLike = None,
    ) -> UpdateReport:
        """Bring the index in line with a listing: add new and changed images, remove missing ones.

        Parameters
        ----------
        files : sequence of ImageFile
            The images that exist. An image with the size and mtime that the index has recorded is
            not read again.
        remove_below : sequence of path-like
            Folders that the listing covers: images of the index that are below one of them and
            not in the listing are removed.
        unknown : collection of bytes
            Paths that the listing could not examine, see `datasets.folder.Listing`: images at or
            below them are kept.
        skipped : dict, optional
            Paths that the listing skipped, with the reasons, for ``skipped.csv``.
        workers : int
            Number of decoding threads; 0 means one per core.
        progress : Progress or bool, optional
            Where to report progress; True draws bars on stderr.

        Returns
        -------
        UpdateReport

        Notes
        -----
        A changed image that cannot be read now keeps its row, and the next update tries again. Its
        row is removed if the file can be read and is no image any more. Size and mtime are
        those of before the file was read, so what changes while it is read counts as changed in the
        next update. Other content with the same size and mtime is not noticed.
        """
        return Updater(self).update(
            files,
            remove_below=remove_below,
            unknown=unknown,
            skipped=skipped,
            workers=workers,
            progress=progress,
        )

    def remove(self, below: PathLike | Sequence[PathLike]) -> int:
        """Remove the images at or below some paths, in one transaction; no file is touched.

        Parameters
        ----------
        below : path-like or sequence of path-like
            Folders or images, which need not exist any more.

        Returns
        -------
        int
            Number of images removed.

        Raises
        ------
        InvalidInputError
            If the index has no image at or below one of the paths; nothing was changed.
        """
        return Updater(self).remove(below)

    def add_features(
        self,
        files: Sequence[ImageFile],
        features: NDArray[np.float32],
        sizes: NDArray[np.int32],
        *,
        remove: Sequence[int] = (),
    ) -> None:
        """Encode features of images and add them in one commit, which may be without images.

        Parameters
        ----------
        files : sequence of ImageFile
            The n images.
        features : ndarray, shape (n, d), float32
            Their features.
        sizes : ndarray, shape (n, 2), int32
            Their width and height.
        remove : sequence of int
            Ids of images to remove in the same commit.
        """
        Updater(self).add_features(files, features, sizes, remove=remove)

    def _features(
        self, sources: list[Source], phase_name: str, workers: int, progress: ProgressLike
    ) -> Features:
        options = ReadOptions(workers, self.max_megapixels)
        with as_progress(progress).phase(phase_name, len(sources)) as phase:
            return extract_features(sources, self.backbone, options, phase)

    def _paths_of(self, ids: NDArray[np.int64]) -> dict[int, bytes]:
        """Paths of ids."""
        paths = self.index.collection.view().paths_of(ids)
        return dict(zip(ids.tolist(), paths, strict=True))
