"""`ImageReader`: what an index of images answers, and nothing that changes it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike

from hyperpq.backbones.base import recorded_precision
from hyperpq.errors import BackboneError, SnapshotChangedError
from hyperpq.filters.where import Where
from hyperpq.images.changes import entries
from hyperpq.images.decoders import WorkersLike
from hyperpq.images.extract import Features, ReadOptions, extract_features
from hyperpq.images.metadata import ImageMetadata, no_images
from hyperpq.images.nearest import Excluded, Search, Wanted
from hyperpq.images.queries import LikeIds, Queries, QueryLike
from hyperpq.images.results import Answers, Encoded
from hyperpq.images.sources import ImageLike, Source, as_sources, path_of
from hyperpq.index.hihpq_index import HiHPQIndex
from hyperpq.index.refine import Refine
from hyperpq.progress import ProgressLike, as_progress
from hyperpq.utils.forks import ForkSafeLock

if TYPE_CHECKING:
    from typing_extensions import Self

    from hyperpq.backbones.base import Backbone
    from hyperpq.backbones.tuned import TunedWeights
    from hyperpq.index.reader import IndexView


class ImageReader:
    """The part of `ImageIndex` that changes nothing; see there."""

    def __init__(self, index: HiHPQIndex, backbone: Backbone | None = None) -> None:
        metadata = ImageMetadata.from_index(index.metadata)
        if metadata is None:
            raise no_images(index.path)
        self.index = index
        self.max_megapixels = metadata.max_megapixels
        self._backbone = self._given_backbone = backbone
        self._loading = ForkSafeLock()
        self._known_identity: tuple[Mapping[str, Any], dict[str, Any]] = {}, metadata.backbone
        if backbone is not None:
            backbone.check_matches(metadata.backbone)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        device: str = "auto",
        backbone: Backbone | str | None = None,
        verify: bool = False,
        read_only: bool = False,
    ) -> Self:
        """Open an index directory.

        Parameters
        ----------
        path : path-like
            Directory that `hyperpq build` or `build_index` wrote, or a URL; see `HiHPQIndex.load`.
        device : str
            Device of the network and of the codec.
        backbone : Backbone or str, optional
            The network that the index was built with, or its name.
        verify : bool
            Whether to check all checksums first.
        read_only : bool
            Whether to refuse every change.

        Raises
        ------
        IndexNotFoundError, CorruptIndexError, FormatVersionError, BackboneError
        """
        index = HiHPQIndex.load(path, device=device, verify=verify, read_only=read_only)
        if isinstance(backbone, str):
            from hyperpq.backbones import load_backbone

            tuned = index.view().rows.tuned
            metadata = ImageMetadata.from_index(index.metadata)
            precision = recorded_precision({} if metadata is None else metadata.backbone)
            backbone = load_backbone(backbone, device=device, tuned=tuned, precision=precision)
        return cls(index, backbone)

    def __getstate__(self) -> dict[str, Any]:
        # Another process loads the network when it first needs it, as this one did.
        state = self.__dict__ | {"_backbone": self._given_backbone}
        del state["_loading"], state["_known_identity"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state | {"_loading": ForkSafeLock(), "_known_identity": ({}, {})}

    def __repr__(self) -> str:
        name = self.backbone_identity["name"]
        return f"{type(self).__name__}({self.index!r}, backbone={name!r})"

    def __len__(self) -> int:
        return self.index.ntotal

    @property
    def backbone_identity(self) -> dict[str, Any]:
        """Network, weights and preprocessing that the features come from."""
        return self._identity_of(self.index.view())

    @property
    def backbone(self) -> Backbone:
        """The network; it is loaded when first needed and checked against the recorded one.

        If the index has fine-tuned it, these are the tuned weights of the snapshot that is shown.
        """
        return self._backbone_of(self.index.view())

    def _identity_of(self, view: IndexView) -> dict[str, Any]:
        stored = view.rows.metadata
        known, identity = self._known_identity
        # The object is that of the snapshot, and there may be thousands of folders to check in it.
        if stored is not known:
            metadata = ImageMetadata.from_index(stored)
            if metadata is None:
                raise no_images(self.index.path)
            identity = metadata.backbone
            self._known_identity = stored, identity
        return identity

    def _backbone_of(self, view: IndexView) -> Backbone:
        """The network of one snapshot; another process may have fine-tuned it since."""
        recorded = self._identity_of(view)
        # Threads that need it first at the same time would load it several times.
        with self._loading:
            loaded = self._backbone
            if loaded is None or loaded.weights_hash != recorded.get("weights_hash"):
                loaded = self._load_backbone(recorded, view.rows.tuned)
                self._backbone = loaded
            return loaded

    def _load_backbone(self, recorded: Mapping[str, Any], tuned: TunedWeights | None) -> Backbone:
        from hyperpq.backbones import load_backbone

        given = self._given_backbone
        name = recorded["name"] if given is None else given.name
        if name.startswith("torchscript:") and given is None:
            # A TorchScript file is a program, and an index may come from a stranger.
            raise BackboneError(
                f"{self.index.path} was built with {name!r}, a file that can run code; "
                "if you trust it, name it yourself: --backbone torchscript:FILE."
            )
        loaded = load_backbone(
            name, device=self.index.device, tuned=tuned, precision=recorded_precision(recorded)
        )
        loaded.check_matches(recorded)
        return loaded

    def check_backbone(self, backbone: Backbone) -> None:
        """Check that features of a network can be added to the rows that are shown now.

        Raises
        ------
        SnapshotChangedError
            If the network of the index was fine-tuned since it was asked for.
        """
        if backbone.weights_hash != self.backbone_identity.get("weights_hash"):
            raise SnapshotChangedError(
                f"{self.index.path}: its network was fine-tuned while images were encoded; "
                "expected features of one network; repeat the command, which encodes them again."
            )

    def query(
        self,
        images: QueryLike | Iterable[QueryLike] | None = None,
        k: int = 50,
        *,
        like: LikeIds | None = None,
        vectors: ArrayLike | None = None,
        exclude_self: bool = False,
        where: str | Where | None = None,
        max_distance: float | None = None,
        min_similarity: float | None = None,
        existing: bool = False,
        refine: Refine = "auto",
        nprobe: int | None = None,
        recall: float | None = None,
        threads: int | None = None,
        workers: WorkersLike = 0,
        progress: ProgressLike = None,
    ) -> Answers:
        """Find the images nearest to each query.

        Parameters
        ----------
        images : image or iterable of images, optional
            Query images. Each is a path (text or a path object), the content of an image file
            (bytes, or a file that is open for reading bytes), an array (H, W, 3) uint8 of RGB or
            (H, W) uint8 of grey values, an image of Pillow, or a `UrlImage`, which is fetched from
            the web. Bytes are never taken for a path. A `Combination` of images is one query.
        k : int
            Number of results for each query; fewer if the index has fewer images.
        like : int, sequence of int or Combination of int, optional
            Ids of images of the index to search for, instead of ``images``: by their kept
            features, or by their files in an index that keeps none.
        vectors : array_like, shape (n, d) or (d,), optional
            Features to search for, instead of ``images``, as the network of the index makes them.
        exclude_self : bool
            Whether to exclude the query image itself, or all images of a `Combination`, by whatever
            path or link the index has them. A copy is another file.
        where : str or Where, optional
            Condition that the results fulfil, on ``folder``, ``size``, ``mtime``, ``width``,
            ``height``, ``path`` and ``id``, such as ``"folder == 'cats' and width >= 512"``.
        max_distance : float, optional
            Largest distance of a result.
        min_similarity : float, optional
            Smallest similarity of a result, from 0 to 100.
        existing : bool
            Whether to leave out images whose files are gone or on a disk that is not mounted.
        refine : int or "auto", optional
            How many of the best codes are ranked again by the kept features, see
            `HiHPQIndex.search`; 0 or None for none. ``"auto"`` is a number that the index
            measures. In an index that keeps no features it is 200 if the objective is
            ``fidelity``, whose codes can be ranked again, and otherwise none.
        nprobe : int, optional
            How many cells of an index with cells are searched, see `HiHPQIndex.search`; all by
            default.
        recall : float, optional
            The share of the exact results that is to be found, such as 0.95, which decides
            ``nprobe``, see `HiHPQIndex.search`.
        threads : int, optional
            Number of threads of the search; all cores by default.
        workers : int or str
            Number of workers that decode images, 0 for one per core; or their kind:
            ``"threads"``, ``"processes"`` or ``"device"`` (the GPU decodes JPEG files), also with
            their number, such as ``"processes:8"``. By default processes read many files for a
            network on a GPU, and threads everything else.
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
        wanted = Wanted(k, max_distance, min_similarity, existing, refine, nprobe, recall)
        condition = Where(where) if isinstance(where, str) else where

        rows = self.index.view()

        def read(sources: list[Source]) -> Features:
            return self._features(sources, rows, "query", workers, progress)

        queries = Queries.of(rows, read, images=images, like=like, vectors=vectors)
        excluded: Sequence[Excluded | None] = [None] * len(queries.rows)
        if exclude_self:
            excluded = queries.excluded()
        search = Search(rows, wanted, condition, threads)
        return queries.answers(search.results(queries.features, excluded))

    def encode(
        self,
        images: ImageLike | Iterable[ImageLike],
        *,
        workers: WorkersLike = 0,
        progress: ProgressLike = None,
    ) -> Encoded:
        """Encode images without adding them; parameters as in `query`."""
        sources, rows = as_sources(images), self.index.view()
        features = self._features(sources, rows, "encode", workers, progress)
        return Encoded(
            rows.encode(features.plain),
            features.rows,
            [os.fsdecode(path_of(sources[row])) for row in features.rows],
            dict(features.skipped),
        )

    def paths(self) -> list[str]:
        """Paths of all images in the index, as `Result.path`, sorted by their bytes."""
        return [os.fsdecode(path) for path in sorted(p for p, *_ in entries(self.index.collection))]

    def refresh(self) -> bool:
        """Show what other processes have stored since; whether there was anything.

        A query that runs meanwhile in another thread shows the index before or after that.

        Raises
        ------
        StoreError
            If another index has taken the place of this one: open it again.
        """
        return self.index.refresh()

    def _features(
        self,
        sources: list[Source],
        view: IndexView,
        phase_name: str,
        workers: WorkersLike,
        progress: ProgressLike,
    ) -> Features:
        options = ReadOptions(workers, self.max_megapixels)
        with as_progress(progress).phase(phase_name, len(sources)) as phase:
            return extract_features(sources, self._backbone_of(view), options, phase)
