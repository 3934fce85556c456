"""`ImageIndex`: search by images, with a backbone, a `HiHPQIndex` and the paths of its images."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperpq.errors import BackboneError
from hyperpq.filters.where import Where
from hyperpq.images.changes import entries
from hyperpq.images.extract import Features, ReadOptions, extract_features
from hyperpq.images.listing import PathLike
from hyperpq.images.metadata import ImageMetadata, no_images
from hyperpq.images.nearest import Excluded, SameFile, Search, Wanted
from hyperpq.images.queries import Queries
from hyperpq.images.results import Answers, Encoded, UpdateReport
from hyperpq.images.sources import ImageLike, Source, as_sources, path_of
from hyperpq.images.updater import Updater
from hyperpq.index.hihpq_index import HiHPQIndex
from hyperpq.progress import ProgressLike, as_progress

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
            raise no_images(index.path)
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
        images: ImageLike | Iterable[ImageLike] | None = None,
        k: int = 50,
        *,
        like: int | Sequence[int] | NDArray[np.int64] | None = None,
        vectors: ArrayLike | None = None,
        exclude_self: bool = False,
        where: str | Where | None = None,
        max_distance: float | None = None,
        min_similarity: float | None = None,
        existing: bool = False,
        threads: int | None = None,
        workers: int = 0,
        progress: ProgressLike = None,
    ) -> Answers:
        """Find the images nearest to each query.

        Parameters
        ----------
        images : image or iterable of images, optional
            Query images. Each is a path (text or a path object), the content of an image file
            (bytes, or a file that is open for reading bytes), an array (H, W, 3) uint8 of RGB or
            (H, W) uint8 of grey values, or an image of Pillow. Bytes are never taken for a path.
        k : int
            Number of results for each query; fewer if the index has fewer images.
        like : int or sequence of int, optional
            Ids of images of the index to search for, instead of ``images``: by their kept
            features, or by their files in an index that keeps none.
        vectors : array_like, shape (n, d) or (d,), optional
            Features to search for, instead of ``images``, as the network of the index makes them.
        exclude_self : bool
            Whether to exclude the query image itself, by whatever path or link the index has it. A
            copy is another file.
        where : str or Where, optional
            Condition that the results fulfil, on ``folder``, ``size``, ``mtime``, ``width``,
            ``height``, ``path`` and ``id``, such as ``"folder == 'cats' and width >= 512"``.
        max_distance : float, optional
            Largest distance of a result.
        min_similarity : float, optional
            Smallest similarity of a result, from 0 to 100.
        existing : bool
            Whether to leave out images whose files are gone or on a disk that is not mounted.
        threads : int, optional
            Number of threads of the search; all cores by default.
        workers : int
            Number of decoding threads; 0 means one per core.
        progress : Progress or bool, optional
            Where to report progress; True draws bars on stderr.

        Returns
        -------
        Answers
            A list with an `Answer` for each query, in their order. An image that cannot be read,
            or an id that the index does not have, gets an `Answer` with an ``error``; the other
            queries are answered.

        Raises
        ------
        InvalidInputError
            If something is of a type that is no query, or a value is not possible.
        """
        wanted = Wanted(k, max_distance, min_similarity, existing)
        condition = Where(where) if isinstance(where, str) else where

        def read(sources: list[Source]) -> Features:
            return self._features(sources, "query", workers, progress)

        rows = self.index.view()
        queries = Queries.of(rows, read, images=images, like=like, vectors=vectors)
        excluded: list[Excluded | None] = [None] * len(queries.rows)
        if exclude_self:
            same = SameFile()
            excluded = [
                same.names(queries.paths[row], queries.ids.get(row))
                for row in queries.rows.tolist()
            ]
        search = Search(rows, wanted, condition, threads)
        return queries.answers(search.results(queries.features, excluded))

    def encode(
        self,
        images: ImageLike | Iterable[ImageLike],
        *,
        workers: int = 0,
        progress: ProgressLike = None,
    ) -> Encoded:
        """Encode images without adding them; parameters as in `query`."""
        sources = as_sources(images)
        features = self._features(sources, "encode", workers, progress)
        return Encoded(
            self.index.encode(features.plain),
            features.rows,
            [os.fsdecode(path_of(sources[row])) for row in features.rows],
            dict(features.skipped),
        )

    def paths(self) -> list[str]:
        """Paths of all images in the index, as `Result.path`, sorted by their bytes."""
        return [os.fsdecode(path) for path in sorted(p for p, *_ in entries(self.index.collection))]

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
