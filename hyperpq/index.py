"""`HiHPQIndex`: train, add, search, save and load, in the shapes and habits of FAISS."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hyperpq import scan
from hyperpq.devices import resolve_device
from hyperpq.errors import CorruptIndexError, InvalidInputError, NotTrainedError, StoreError
from hyperpq.store import IndexStore, Rows, Shard, replace_directory
from hyperpq.validation import as_array, as_count, as_features, as_ids, as_rows

if TYPE_CHECKING:
    from hyperpq.codec import HiHPQCodec
    from hyperpq.progress import Progress
    from hyperpq.training.recipe import Recipe

# Queries whose tables are in memory at once.
_QUERIES = 256
_LARGEST_ID = np.iinfo(np.int64).max


class HiHPQIndex:
    """Exhaustive index over learned hyperbolic product codes.

    An index starts in memory. `save` writes it to a directory, `load` opens one; from then on it
    lies on disk, and every `add` appends a shard that is durable when the call returns.

    Parameters
    ----------
    d : int
        Width of the vectors.
    M : int
        Subquantizers: codes of one vector.
    nbits : {8, 4}
        Bits of a code; M * nbits bits a vector.
    score : {"l1", "geodesic", "chord"}
        How distances add up over the subspaces, see `lorentz.score_of`. An index that was trained
        with ``objective="fidelity"`` has the score ``inner``, see `AdditiveQuantizer`.
    device : str
        ``auto`` (a CUDA device if there is one), ``cpu``, ``cuda`` or ``cuda:n``, for training and
        encoding.

    Attributes
    ----------
    codec : HiHPQCodec or None
        None before training.
    metadata : dict
        JSON-able facts of the caller's, stored with the index when it is first saved.
    path : Path or None
        Where the index lies, None while in memory.

    Examples
    --------
    >>> import numpy as np
    >>> from hyperpq import HiHPQIndex
    >>> x = np.random.default_rng(0).normal(size=(300, 16)).astype("float32")
    >>> index = HiHPQIndex(16, M=2, device="cpu")
    >>> index.train(x, epochs=1)
    >>> index.add(x)
    >>> D, I = index.search(x[:5], 10)
    >>> D.shape, I.dtype
    ((5, 10), dtype('int64'))
    """

    def __init__(
        self, d: int, M: int = 4, nbits: int = 8, *, score: str = "l1", device: str = "auto"
    ) -> None:
        from hyperpq.additive import INNER, AdditiveQuantizer
        from hyperpq.quantizer import LorentzProductQuantizer

        self.d = as_count(d, "d")
        self.M, self.nbits, self.score = as_count(M, "M"), as_count(nbits, "nbits"), score
        if score == INNER:
            AdditiveQuantizer(self.M, 2, self.nbits)
        else:
            LorentzProductQuantizer(self.M, 1, self.nbits, score=score)
        self.device = resolve_device(device)
        self.codec: HiHPQCodec | None = None
        self.metadata: dict[str, Any] = {}
        self._store: IndexStore | None = None
        self._memory: list[Rows] = []
        self._next_id = 0

    @property
    def is_trained(self) -> bool:
        """Whether `add` and `search` can be called."""
        return self.codec is not None

    @property
    def path(self) -> Path | None:
        """Directory of the index, None while it is in memory."""
        return self._store.path if self._store else None

    @property
    def store(self) -> IndexStore | None:
        """The store of an index that lies on disk."""
        return self._store

    @property
    def parts(self) -> Sequence[Rows | Shard]:
        """Stored shards, or the rows in memory."""
        return self._store.shards if self._store else self._memory

    @property
    def ntotal(self) -> int:
        """Vectors in the index."""
        return self._store.ntotal if self._store else sum(part.n for part in self._memory)

    @property
    def next_id(self) -> int:
        """Id that the next vector without an id of its own gets."""
        return self._store.next_id if self._store else self._next_id

    @property
    def code_size(self) -> int:
        """Bytes of one coded vector."""
        return (self.M * self.nbits + 7) // 8

    def __len__(self) -> int:
        return self.ntotal

    def __repr__(self) -> str:
        state = f"ntotal={self.ntotal}" if self.is_trained else "not trained"
        place = f", path={str(self.path)!r}" if self.path else ""
        return (
            f"HiHPQIndex(d={self.d}, M={self.M}, nbits={self.nbits}, score={self.score!r}, "
            f"{state}{place})"
        )

    def _trained(self) -> HiHPQCodec:
        if self.codec is None:
            raise NotTrainedError("the index isn't trained; call train(x) before this.")
        return self.codec

    def train(
        self,
        x: Any,
        views: Any | None = None,
        *,
        view_rows: Any | None = None,
        recipe: str | Recipe = "default",
        seed: int = 0,
        progress: Progress | None = None,
        trace_path: str | os.PathLike[str] | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        resume: bool = False,
        **changes: Any,
    ) -> None:
        """Learn the codec from features, without labels.

        Parameters
        ----------
        x : array_like, shape (n, d)
            Features of the training pictures. Any n from 1 works: with fewer features than
            codewords these repeat, and below 16 the codec is PCA and k-means alone.
        views : array_like, shape (V, n, d), optional
            Features of V augmented views of the same pictures. Without them views are made in
            feature space, by noise with the covariance of the data (`training.views`).
        view_rows : array_like, shape (v,), optional
            Rows of ``x`` that the views are of, if not of all: ``views`` has shape (V, v, d) then.
            Pictures without views help too, at a fraction of the price.
        recipe : str or Recipe
            ``default``, ``paper`` or a recipe of your own.
        seed : int
            Same data, recipe, seed and machine: same codec.
        progress : Progress, optional
            `hyperpq.progress.RichProgress()` draws a bar.
        trace_path : path-like, optional
            JSON-lines file with losses and code statistics of each epoch.
        checkpoint : path-like, optional
            File written after each epoch.
        resume : bool
            Go on from ``checkpoint`` if it is there.
        **changes
            Fields of the recipe to change, e.g. ``epochs=10``, or ``objective="fidelity"`` for
            codes that keep the exact neighbours of the features (their score is ``inner``).

        Raises
        ------
        InvalidInputError
            Bad values or shapes.
        TrainingError
            Divergence or collapse; or the index has vectors or lies on disk already.
        """
        from hyperpq.errors import TrainingError
        from hyperpq.training.recipe import get_recipe
        from hyperpq.training.trainer import train_codec

        if self.ntotal or self._store:
            raise TrainingError(
                f"the index has {self.ntotal} vectors coded by its codec; train a new index."
            )
        features = as_features(x, self.d)
        as_count(len(features), "the number of rows of x")
        rows = None if view_rows is None else as_rows(view_rows, "view_rows", len(features))
        if rows is not None and views is None:
            raise InvalidInputError("view_rows are given without views; expected both.")
        chosen = get_recipe(recipe, self.M * self.nbits, **changes)
        n_views = len(features) if rows is None else len(rows)
        self.codec = train_codec(
            features,
            None if views is None else self._views(views, n_views),
            view_rows=rows,
            M=self.M,
            nbits=self.nbits,
            score=self.score,
            recipe=chosen,
            seed=as_count(seed, "seed", 0),
            device=self.device,
            trace_path=Path(trace_path) if trace_path else None,
            checkpoint=Path(checkpoint) if checkpoint else None,
            resume=resume,
            progress=progress,
        )
        self.score = self.codec.quantizer.score

    def with_bits(self, bits: int, *, nbits: int = 8, score: str | None = None) -> HiHPQIndex:
        """An empty index of another code length from the same training.

        See `HiHPQCodec.with_bits`: the representation stays, its codebooks are fitted anew.

        Raises
        ------
        NotTrainedError, InvalidInputError
        """
        codec = self._trained().with_bits(bits, nbits=nbits, score=score)
        q = codec.quantizer
        other = HiHPQIndex(self.d, q.M, q.nbits, score=q.score, device=self.device)
        other.codec, other.metadata = codec.to(self.device), dict(self.metadata)
        return other

    def _views(self, views: Any, n: int) -> NDArray[Any]:
        array = as_array(views, "views")
        if array.ndim != 3 or array.shape[1:] != (n, self.d) or not len(array):
            raise InvalidInputError(
                f"views have shape {array.shape}; expected (V, {n}, {self.d}), V >= 1."
            )
        for v, view in enumerate(array):
            as_features(view, self.d, f"views[{v}]")
        return array

    def add(self, x: Any, ids: Any | None = None) -> None:
        """Encode vectors and append them.

        Parameters
        ----------
        x : array_like, shape (n, d)
            Vectors.
        ids : array_like, shape (n,), optional
            Ids of your own, unique and not negative; counted on from the highest unless given.

        Raises
        ------
        NotTrainedError, InvalidInputError
            Nothing was added.
        StoreError
            The disk refused; nothing was added.
        """
        codec = self._trained()
        features = as_features(x, self.d)
        # Ids are checked before the work of encoding.
        labels = self._new_ids(ids, len(features))
        if len(features):
            self.append(Rows(codec.encode(features), labels))

    def _new_ids(self, ids: Any | None, n: int) -> NDArray[np.int64]:
        if ids is None:
            if self.next_id > _LARGEST_ID - n:
                raise InvalidInputError(
                    f"ids can't be counted on from {self.next_id}; pass ids of your own."
                )
            return np.arange(self.next_id, self.next_id + n, dtype=np.int64)
        labels = as_ids(ids, n)
        for part in self.parts:
            taken = part.ids if part.dead is None else part.ids[~part.dead]
            repeated = np.intersect1d(labels, taken)
            if repeated.size:
                raise InvalidInputError(
                    f"ids contain {repeated[0]}, which the index has already; ids are unique."
                )
        return labels

    def append(self, *rows: Rows, remove: Mapping[str, NDArray[np.int64]] | None = None) -> None:
        """Append rows that are coded already, in one durable step if the index lies on disk.

        Parameters
        ----------
        *rows : Rows
            Codes by this index's codec with ids that it doesn't have yet (not checked again).
        remove : mapping of str to ndarray, optional
            Shard name to row numbers to remove in the same step; only for an index on disk.
        """
        next_id = max([self.next_id, *(min(int(r.ids.max()), _LARGEST_ID - 1) + 1 for r in rows)])
        if self._store:
            self._store.commit(append=rows, remove=remove, next_id=next_id)
        else:
            if remove:
                raise StoreError("rows are removed from an index on disk; save it first.")
            self._memory.extend(rows)
            self._next_id = next_id

    def encode(self, x: Any) -> NDArray[np.uint8]:
        """Vectors (n, d) -> codes (n, code_size) uint8, see `HiHPQCodec.encode`."""
        return self._trained().encode(x)

    def decode(self, codes: Any) -> NDArray[np.float32]:
        """Codes -> tangent vectors (n, M * D) of their codewords, see `HiHPQCodec.decode`."""
        return self._trained().decode(codes)

    def embed(self, x: Any) -> NDArray[np.float32]:
        """Vectors (n, d) -> tangent vectors (n, M * D) before quantization."""
        return self._trained().embed(x)

    def reconstruct(self, id: int) -> NDArray[np.float32]:
        """Decoded tangent vector (M * D,) of the vector with this id.

        The learned map keeps M * D coordinates of a vector, so the answer lives in the space of
        `embed`, not in that of the features.

        Raises
        ------
        InvalidInputError
            The index has no such id.
        """
        codec = self._trained()
        id = as_count(id, "id", 0)
        for part in self.parts:
            rows = np.flatnonzero(part.ids == id)
            if part.dead is not None:
                rows = rows[~part.dead[rows]]
            if rows.size:
                return codec.decode(part.tiled.row(int(rows[0]))[None])[0]
        raise InvalidInputError(f"id is {id!r}; the index has no vector with it.")

    def search(
        self, x: Any, k: int, *, threads: int | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Exact k nearest codes under asymmetric hyperbolic distance.

        Parameters
        ----------
        x : array_like, shape (nq, d)
            Queries.
        k : int
            Results a query.
        threads : int, optional
            All cores unless given; the answer doesn't depend on it.

        Returns
        -------
        D : ndarray, shape (nq, k), float32
            Scores, ascending; +inf where the index has fewer than k vectors.
        I : ndarray, shape (nq, k), int64
            Ids, equal scores by the lower one; -1 beside +inf.

        Raises
        ------
        NotTrainedError, InvalidInputError
        """
        codec = self._trained()
        k = as_count(k, "k")
        if threads is not None:
            as_count(threads, "threads")
        queries = as_features(x, self.d)
        D = np.full((len(queries), k), np.inf, np.float32)
        I = np.full((len(queries), k), -1, np.int64)  # noqa: E741
        parts = [scan.Part(part.tiled, part.ids, part.alive) for part in self.parts]
        for start in range(0, len(queries), _QUERIES):
            rows = slice(start, start + _QUERIES)
            tables = codec.tables(queries[rows])
            d, i = scan.search_parts(tables, parts, min(k, max(self.ntotal, 1)), threads=threads)
            D[rows, : d.shape[1]], I[rows, : i.shape[1]] = d, i
        return D, I

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the index to a directory; it lies there from now on.

        An index that lies at ``path`` already is up to date there, and nothing is written.

        Parameters
        ----------
        path : path-like
            A directory that doesn't exist yet.
        overwrite : bool
            Replace an index that is there; the old one stays whole until the new one is.

        Raises
        ------
        NotTrainedError
            There is nothing to save.
        StoreError
            The place is taken or the disk refuses.
        """
        from hyperpq.codec_files import to_files

        codec = self._trained()
        target = Path(os.path.abspath(path))
        if self._store and target.exists() and target.samefile(self._store.path):
            return
        settings = {
            "d": self.d,
            "M": self.M,
            "nbits": self.nbits,
            "score": self.score,
            "metadata": self.metadata,
        }
        work = target
        if overwrite and target.is_dir() and any(target.iterdir()):
            IndexStore.open(target)
            # Beside what a link points to, so that a rename can put it there.
            place = Path(os.path.realpath(target))
            work = place.with_name(place.name + ".saving-hyperpq")
            shutil.rmtree(work, ignore_errors=True)
        store = IndexStore.create(work, settings=settings, files=to_files(codec))
        try:
            if self.parts:
                store.commit(append=self.parts, next_id=self.next_id)
            if work != target:
                replace_directory(work, target)
        except BaseException:
            # Without its rows it would look like an empty index.
            shutil.rmtree(work, ignore_errors=True)
            raise
        self._store, self._memory = IndexStore.open(target), []

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, device: str = "auto", verify: bool = False
    ) -> HiHPQIndex:
        """Open an index directory; codes are memory-mapped, not read.

        Parameters
        ----------
        path : path-like
            What `save` or `hyperpq build` wrote.
        device : str
            As in the constructor.
        verify : bool
            Check every checksum first.

        Raises
        ------
        IndexNotFoundError, CorruptIndexError, FormatVersionError
        """
        store = IndexStore.open(path, verify=verify)
        # After the opening: that there is no index is said without loading torch.
        from hyperpq.codec_files import from_files

        codec = from_files({name: store.read_file(name) for name in store.file_names})
        settings = store.settings
        q = codec.quantizer
        own = {"d": codec.d, "M": q.M, "nbits": q.nbits, "score": q.score}
        metadata = settings.get("metadata", {})
        if any(settings.get(name) != value for name, value in own.items()):
            raise CorruptIndexError(
                f"{store.path}: manifest.json and codec.json disagree; expected {own}."
            )
        if not isinstance(metadata, dict):
            raise CorruptIndexError(f"{store.path}: metadata in manifest.json isn't an object.")
        index = cls(codec.d, q.M, q.nbits, score=q.score, device=device)
        if any(part.code_size != index.code_size for part in store.shards):
            raise CorruptIndexError(
                f"{store.path}: a shard has codes of another size than {index.code_size} bytes."
            )
        index.codec = codec.to(index.device).eval()
        index.metadata = metadata
        index._store = store
        return index
