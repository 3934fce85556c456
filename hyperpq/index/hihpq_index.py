"""`HiHPQIndex`: train, add, search, remove, save and load, with the interface of FAISS."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperpq.codes import check_sizes, code_size
from hyperpq.errors import InvalidInputError, NotTrainedError, TrainingError
from hyperpq.filters.selectors import IDSelector, SearchParameters
from hyperpq.filters.where import Where
from hyperpq.index.collection import Collection
from hyperpq.index.directory import codec_settings, open_directory
from hyperpq.index.search import memory_for, range_search, search
from hyperpq.utils.devices import resolve_device
from hyperpq.utils.validation import as_choice, as_count, as_features, as_number, as_rows, as_views

if TYPE_CHECKING:
    from hyperpq.codec.base import Codec
    from hyperpq.index.faiss_bridge import FaissExport
    from hyperpq.progress import Progress
    from hyperpq.store.index_store import Durability
    from hyperpq.training.recipe import Recipe


class HiHPQIndex:
    """Exhaustive index over learned hyperbolic product codes.

    An index consists of a codec, which `train` learns, and a `Collection` of coded rows. A new
    index is in memory. `save` moves it to a directory and `load` opens one; from then on every
    change is durable when the call returns. `docs/reference/faiss.md` compares the methods with
    those of FAISS.

    Parameters
    ----------
    d : int
        Width of the vectors.
    M : int
        Number of subquantizers, and so of codes of one vector.
    nbits : {8, 4}
        Bits of one code; a vector has M * nbits bits.
    metric : {"l1", "geodesic", "chord"}
        How distances add up over the subspaces, see `ProductQuantizer`. Training with
        ``objective="fidelity"`` replaces it by ``inner``, see `AdditiveCodec`.
    device : str
        ``auto`` (a CUDA device if there is one), ``cpu``, ``cuda`` or ``cuda:N``: where vectors are
        trained on and encoded.

    Attributes
    ----------
    d, M, nbits, metric
        As above.
    device : str
        Name of the device in use.
    codec : Codec or None
        The map between vectors and codes; None before training.
    collection : Collection
        The coded rows.

    Notes
    -----
    *Threads.* Several threads can search one index at the same time. A search sees the rows before
    or after a change that another thread makes meanwhile, never a part of it. Changes by several
    threads take place one after another. `train` must not run at the same time as other calls.

    *Processes.* One process at a time can change an index directory; another one gets an
    `IndexLockedError`. Any number of processes can read it. They keep the snapshot that they
    opened until they call `refresh`.

    *Fork.* A forked child can search and read an index on the CPU: codes stay memory-mapped, and
    the scan starts its threads in each call. PyTorch's own threads do not survive a fork, so
    encoding is single-threaded in the child. Fork while no other thread changes the index, and not
    after CUDA was used. Parent and child then have an index each: changes of an index in memory
    stay in the process that makes them.

    Examples
    --------
    >>> import numpy as np
    >>> from hyperpq import HiHPQIndex
    >>> x = np.random.default_rng(0).normal(size=(300, 16)).astype("float32")
    >>> index = HiHPQIndex(16, M=2, device="cpu")
    >>> index.train(x, epochs=1)
    >>> index.add(x, attributes={"width": np.arange(300)})
    >>> D, I = index.search(x[:5], 10, where="width < 100")
    >>> D.shape, I.dtype, bool((I < 100).all())
    ((5, 10), dtype('int64'), True)
    """

    def __init__(
        self, d: int, M: int = 4, nbits: int = 8, *, metric: str = "l1", device: str = "auto"
    ) -> None:
        from hyperpq.codec.config import LEARNED_METRICS

        self.d, self.M, self.nbits = as_count(d, "d"), as_count(M, "M"), as_count(nbits, "nbits")
        check_sizes(self.M, 1, self.nbits)
        self.metric: str = as_choice(metric, "metric", LEARNED_METRICS)
        self.device = resolve_device(device)
        self.codec: Codec | None = None
        self.collection = Collection(self.code_size)

    @classmethod
    def from_codec(cls, codec: Codec, *, device: str = "auto") -> HiHPQIndex:
        """An empty index with a trained codec."""
        index = cls.__new__(cls)
        index.d, index.M, index.nbits, index.metric = codec.d, codec.M, codec.nbits, codec.metric
        index.device = resolve_device(device)
        index.codec = codec.to(index.device).eval()
        index.collection = Collection(index.code_size)
        return index

    def __len__(self) -> int:
        return self.ntotal

    def __repr__(self) -> str:
        state = f"ntotal={self.ntotal}" if self.is_trained else "not trained"
        place = f", path={str(self.path)!r}" if self.path else ""
        return (
            f"{type(self).__name__}(d={self.d}, M={self.M}, nbits={self.nbits}, "
            f"metric={self.metric!r}, {state}{place})"
        )

    @property
    def is_trained(self) -> bool:
        """Whether the index has a codec, which `add` and `search` need."""
        return self.codec is not None

    @property
    def code_size(self) -> int:
        """Bytes of one coded vector."""
        return code_size(self.M, self.nbits)

    @property
    def ntotal(self) -> int:
        """Number of vectors in the index."""
        return self.collection.ntotal

    @property
    def next_id(self) -> int:
        """Id of the next vector that is added without an id."""
        return self.collection.next_id

    @property
    def ids(self) -> NDArray[np.int64]:
        """Ids of all vectors, shape (ntotal,), int64, ascending."""
        return self.collection.view().ids

    @property
    def attribute_names(self) -> list[str]:
        """Names of the attribute columns, sorted."""
        return self.collection.view().attribute_names

    @property
    def path(self) -> Path | None:
        """Directory of the index; None for an index in memory."""
        return self.collection.path

    @property
    def metadata(self) -> dict[str, Any]:
        """JSON values of your own that are stored with the index.

        They are read-only; assign a mapping to change them: ``index.metadata = {"made": "here"}``.
        The assignment is checked at once. In an index directory it is durable when it returns.
        """
        return self.collection.metadata

    @metadata.setter
    def metadata(self, value: Mapping[str, Any]) -> None:
        self.collection.metadata = value

    def _trained(self) -> Codec:
        if self.codec is None:
            raise NotTrainedError(
                "the index is not trained; expected a codec; call train(x) first."
            )
        return self.codec

    def train(
        self,
        x: ArrayLike,
        views: ArrayLike | None = None,
        *,
        view_rows: ArrayLike | None = None,
        recipe: str | Recipe = "default",
        seed: int = 0,
        progress: Progress | None = None,
        trace_path: str | os.PathLike[str] | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        resume: bool = False,
        **changes: Any,
    ) -> None:
        """Learn the codec from vectors, without labels.

        Parameters
        ----------
        x : array_like, shape (n, d)
            Features of the training images, at least one. With fewer than 16 the codec is PCA and
            k-means alone.
        views : array_like, shape (V, n, d), optional
            Features of V augmented views of the same images. By default views are made in feature
            space, by noise with the covariance of the data.
        view_rows : array_like, shape (v,), optional
            Rows of ``x`` that ``views``, then of shape (V, v, d), belong to; all rows by default.
        recipe : str or Recipe
            ``default``, ``paper`` or a recipe of your own.
        seed : int
            The same data, recipe, seed and machine give the same codec.
        progress : Progress, optional
            Where to report; `hyperpq.progress.RichProgress()` draws a bar.
        trace_path : path-like, optional
            JSON-lines file for losses and code statistics of each epoch.
        checkpoint : path-like, optional
            File that is written after each epoch.
        resume : bool
            Whether to continue from ``checkpoint`` if it exists.
        **changes
            Fields of the recipe to change, such as ``epochs=10``, or ``objective="fidelity"`` for
            codes that keep the exact neighbours of the features.

        Raises
        ------
        InvalidInputError
            If a value or shape is not as described.
        TrainingError
            If training diverges or collapses, or the index has vectors or a directory already.
        """
        from hyperpq.progress import SilentProgress
        from hyperpq.training.presets import get_recipe
        from hyperpq.training.task import TrainingRun
        from hyperpq.training.train import train_codec

        if self.ntotal or self.path:
            raise TrainingError(
                f"the index has {self.ntotal} vectors coded by its codec; expected a new one; "
                "train a new index."
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
            None if views is None else as_views(views, n_views, self.d),
            view_rows=rows,
            M=self.M,
            nbits=self.nbits,
            metric=self.metric,
            recipe=chosen,
            seed=as_count(seed, "seed", 0),
            device=self.device,
            run=TrainingRun(
                Path(trace_path) if trace_path else None,
                Path(checkpoint) if checkpoint else None,
                resume,
                progress or SilentProgress(),
            ),
        )
        self.metric = self.codec.metric

    def with_bits(
        self, bits: int, *, nbits: int = 8, metric: str | None = None, x: ArrayLike | None = None
    ) -> HiHPQIndex:
        """An empty index with codes of another length and the same learned representation.

        Parameters, errors and what is fitted anew: see `LearnedCodec.with_bits`.
        """
        from hyperpq.codec.learned import LearnedCodec

        codec = self._trained()
        if not isinstance(codec, LearnedCodec):
            raise InvalidInputError(
                f"bits is {bits!r}, but plain codebooks have codes of {codec.M * codec.nbits} bits "
                "only; expected a learned codec; train a HiHPQIndex."
            )
        shorter = codec.with_bits(bits, nbits=nbits, metric=metric, x=x)
        other = HiHPQIndex.from_codec(shorter, device=self.device)
        other.metadata = self.metadata
        return other

    def encode(self, x: ArrayLike) -> NDArray[np.uint8]:
        """Vectors (n, d) -> codes (n, code_size) uint8, see `Codec.encode`."""
        return self._trained().encode(x)

    def decode(self, codes: ArrayLike) -> NDArray[np.float32]:
        """Codes -> tangent vectors (n, M * D) of their codewords, see `Codec.decode`."""
        return self._trained().decode(codes)

    def embed(self, x: ArrayLike) -> NDArray[np.float32]:
        """Vectors (n, d) -> tangent vectors (n, M * D) before quantization, see `Codec.embed`."""
        return self._trained().embed(x)

    def search(
        self,
        x: ArrayLike,
        k: int,
        *,
        params: SearchParameters | None = None,
        where: str | Where | None = None,
        threads: int | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Find the k nearest vectors of each query by their codes; the result is exact.

        Parameters
        ----------
        x : array_like, shape (nq, d)
            Queries.
        k : int
            Number of results for each query.
        params : SearchParameters, optional
            Which ids are searched, as in FAISS.
        where : str or Where, optional
            Which rows are searched by their attributes, such as ``"width >= 512"``.
        threads : int, optional
            Number of threads, one for each core by default. It does not change the result.

        Returns
        -------
        D : ndarray, shape (nq, k), float32
            Distances, ascending; +inf where there are fewer than k vectors.
        I : ndarray, shape (nq, k), int64
            Ids, ties by the lower one; -1 beside +inf.

        Raises
        ------
        NotTrainedError, InvalidInputError
        """
        codec, k, queries = self._trained(), as_count(k, "k"), as_features(x, self.d)
        segments = self.collection.view().code_segments(params, where)
        return search(codec, segments, queries, k, threads)

    def range_search(
        self,
        x: ArrayLike,
        radius: float,
        *,
        params: SearchParameters | None = None,
        where: str | Where | None = None,
        threads: int | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
        """Find all vectors at a distance below ``radius``; other parameters as in `search`.

        Returns
        -------
        lims : ndarray, shape (nq + 1,), int64
            The results of query q are those from ``lims[q]`` to ``lims[q + 1]``.
        D : ndarray, shape (lims[-1],), float32
            Distances, ascending for each query.
        I : ndarray, shape (lims[-1],), int64
            Ids, ties by the lower one.
        """
        codec, queries = self._trained(), as_features(x, self.d)
        radius = as_number(radius, "radius")
        segments = self.collection.view().code_segments(params, where)
        return range_search(codec, segments, queries, radius, threads)

    def search_and_reconstruct(
        self,
        x: ArrayLike,
        k: int,
        *,
        params: SearchParameters | None = None,
        where: str | Where | None = None,
        threads: int | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
        """`search`, with what `reconstruct` returns for each result.

        Returns
        -------
        D, I
            As `search`.
        R : ndarray, shape (nq, k, M * D), float32
            Tangent vectors; NaN where there is no result.
        """
        codec, k, queries = self._trained(), as_count(k, "k"), as_features(x, self.d)
        rows = self.collection.view()
        D, I = search(codec, rows.code_segments(params, where), queries, k, threads)  # noqa: E741
        found = np.unique(I[I >= 0])
        decoded = codec.decode(rows.codes_of(found))
        with memory_for(k):
            R = np.full((*I.shape, decoded.shape[1]), np.nan, np.float32)
        R[I >= 0] = decoded[np.searchsorted(found, I[I >= 0])]
        return D, I, R

    def reconstruct(self, id: int) -> NDArray[np.float32]:
        """Decoded tangent vector (M * D,) of the vector with this id, in the space of `embed`.

        Raises
        ------
        NotTrainedError, InvalidInputError
            The latter if the index has no such id.
        """
        return self.reconstruct_batch([as_count(id, "id", 0)])[0]

    def reconstruct_batch(self, ids: ArrayLike) -> NDArray[np.float32]:
        """`reconstruct` for several ids: (n,) -> (n, M * D) float32."""
        return self._trained().decode(self.collection.view().codes_of(ids))

    def reconstruct_n(self, i0: int = 0, ni: int = -1) -> NDArray[np.float32]:
        """`reconstruct` for the ids from ``i0`` to ``i0 + ni - 1``, or all from i0 if ni is -1.

        Returns
        -------
        ndarray, shape (ni, M * D), float32
            In the order of the ids.
        """
        codec, i0 = self._trained(), as_count(i0, "i0", 0)
        ni = as_count(ni, "ni", -1, np.iinfo(np.int64).max - i0 + 1)
        rows = self.collection.view()
        if ni < 0:
            ids = rows.ids[rows.ids >= i0]
        else:
            # Of more ids than there are rows, one of the first is missing.
            ids = np.arange(i0, i0 + min(ni, rows.ntotal + 1), dtype=np.int64)
        return codec.decode(rows.codes_of(ids))

    def select(
        self, params: SearchParameters | None = None, where: str | Where | None = None
    ) -> NDArray[np.int64]:
        """Ids (n,) int64, ascending, of the rows that `search` with these arguments searches."""
        return self.collection.view().select(params, where)

    def attributes_of(self, ids: ArrayLike) -> dict[str, NDArray[Any]]:
        """Attributes of rows, in the order of ``ids``.

        Parameters
        ----------
        ids : array_like, shape (n,)
            Ids of the index.

        Returns
        -------
        dict of str to ndarray, each shape (n,)
            Numbers, ``datetime64[ns]``, or strings (object, None where there is none).

        Raises
        ------
        InvalidInputError
            If the index does not have one of the ids.
        """
        return self.collection.view().attributes_of(ids)

    def add(
        self,
        x: ArrayLike,
        ids: ArrayLike | None = None,
        *,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        """Encode vectors and add them, in one transaction.

        Parameters
        ----------
        x : array_like, shape (n, d)
            Vectors.
        ids : array_like, shape (n,), optional
            Distinct ids, at least 0, that are not in the index; counted on from the highest one by
            default.
        attributes : mapping of str to array_like, each shape (n,), optional
            Columns to filter by: numbers, times or strings, see `store.columns.as_column`. The
            first addition decides which columns the index has; all later ones give the same.

        Raises
        ------
        NotTrainedError, InvalidInputError, StoreError
            Nothing was added.
        """
        codec, features = self._trained(), as_features(x, self.d)
        columns = self.collection.check_new(len(features), ids, attributes)
        if len(features):
            self.collection.add(codec.encode(features), ids, attributes=columns)

    def add_with_ids(
        self, x: ArrayLike, ids: ArrayLike, *, attributes: Mapping[str, Any] | None = None
    ) -> None:
        """`add` with ids of your own, by FAISS's name."""
        if ids is None:
            raise InvalidInputError("ids are None; expected one for each row of x; or call add(x).")
        self.add(x, ids, attributes=attributes)

    def update(
        self, x: ArrayLike, ids: ArrayLike, *, attributes: Mapping[str, Any] | None = None
    ) -> None:
        """Replace the vectors of some ids, in one transaction.

        Parameters
        ----------
        x : array_like, shape (n, d)
            New vectors.
        ids : array_like, shape (n,)
            Ids of the index, each once.
        attributes : mapping of str to array_like, optional
            New values of some columns; the others, and paths, stay.

        Raises
        ------
        NotTrainedError, InvalidInputError, StoreError
            Nothing was changed.
        """
        codec, features = self._trained(), as_features(x, self.d)
        self.collection.update(ids, codec.encode(features), attributes=attributes)

    def remove_ids(
        self, ids: ArrayLike | IDSelector | None = None, *, where: str | Where | None = None
    ) -> int:
        """Remove vectors, in one transaction.

        Parameters
        ----------
        ids : array_like of int, or IDSelector, optional
            Ids; those that are not in the index are ignored.
        where : str or Where, optional
            A condition on attributes, see `search`. With ``ids`` both must hold.

        Returns
        -------
        int
            Number of vectors removed.
        """
        return self.collection.remove(ids, where=where)

    def merge_from(self, other: HiHPQIndex, add_id: int = 0) -> None:
        """Add all vectors of another index with the same codec, in one transaction.

        Parameters
        ----------
        other : HiHPQIndex
            The other index, which stays as it is (FAISS would empty it).
        add_id : int
            Number added to its ids.

        Raises
        ------
        NotTrainedError, InvalidInputError, StoreError
            If the codecs or attributes differ or an id would occur twice; nothing was changed.
        """
        from hyperpq.codec.serialization import difference

        if not isinstance(other, HiHPQIndex):
            raise InvalidInputError(f"other is of {type(other)}; expected a HiHPQIndex.")
        if why := difference(self._trained(), other._trained()):
            raise InvalidInputError(
                f"other cannot be merged: {why}; expected the same codec in both; train once."
            )
        self.collection.merge(other.collection.view(), add_id)

    def reset(self) -> None:
        """Remove all vectors and count ids from 0 again; the codec stays."""
        self.collection.reset()

    def compact(self) -> bool:
        """Join small segments and drop deleted rows, see `Collection.compact`."""
        return self.collection.compact()

    def refresh(self) -> bool:
        """Show what other processes have committed since; whether there was anything."""
        return self.collection.refresh()

    def clone(self) -> HiHPQIndex:
        """A copy in memory, with the same codec object."""
        other = copy.copy(self)
        other.collection = self.collection.clone()
        return other

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the index to a directory.

        An index in memory moves there: `path` names the directory from then on, and every later
        change is stored in it. An index that is in a directory already stays there, and a copy is
        written to ``path``; `load` opens the copy. If it already is in the directory ``path``,
        nothing is written, as all changes are stored. `write_index` always writes a copy.

        Parameters
        ----------
        path : path-like
            A directory that does not exist yet.
        overwrite : bool
            Whether to replace an index that is there. It stays whole until the new one is.

        Raises
        ------
        NotTrainedError
            If there is no codec to save.
        StoreError
            If the place is taken or the system refuses.
        """
        self._write(path, overwrite=overwrite, move=self.path is None)

    def _write(self, path: str | os.PathLike[str], *, overwrite: bool, move: bool) -> None:
        from hyperpq.codec.serialization import to_files

        codec = self._trained()
        self.collection.save(
            path,
            settings=codec_settings(codec),
            files=to_files(codec),
            overwrite=overwrite,
            move=move,
        )

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        device: str = "auto",
        verify: bool = False,
        durability: Durability = "full",
    ) -> HiHPQIndex:
        """Open an index directory; codes are memory-mapped, not read.

        Parameters
        ----------
        path : path-like
            What `save` or `hyperpq build` wrote.
        device : str
            As in the constructor.
        verify : bool
            Whether to check every checksum first.
        durability : {"full", "fast"}
            ``fast`` leaves out every fsync: changes survive a kill, but a power cut may destroy the
            index.

        Raises
        ------
        IndexNotFoundError, CorruptIndexError, FormatVersionError, InvalidInputError
        """
        codec, store = open_directory(path, verify=verify, durability=durability)
        index = cls.from_codec(codec, device=device)
        index.collection = Collection(index.code_size, store)
        return index

    @classmethod
    def from_faiss(cls, faiss_index: Any) -> HiHPQIndex:
        """An index with the codes and ids of a FAISS `IndexPQ`; see `faiss_bridge.from_faiss`."""
        from hyperpq.index.faiss_bridge import from_faiss

        codec, codes, ids = from_faiss(faiss_index)
        index = cls.from_codec(codec, device="cpu")
        index.collection.add(codes, ids)
        return index

    def to_faiss(self, how: str = "auto") -> FaissExport:
        """A FAISS index with the same results; see `faiss_bridge.to_faiss`."""
        from hyperpq.index.faiss_bridge import to_faiss

        batches = list(self.collection.view().batches())
        codes = [np.empty((0, self.code_size), np.uint8), *(batch.codes for batch in batches)]
        ids = [np.empty(0, np.int64), *(batch.ids for batch in batches)]
        return to_faiss(self._trained(), np.concatenate(codes), np.concatenate(ids), how=how)

    def write_faiss(self, path: str | os.PathLike[str], how: str = "auto") -> None:
        """Write `to_faiss` to a file that ``faiss.read_index`` reads."""
        from hyperpq.index.faiss_bridge import write_faiss

        write_faiss(self.to_faiss(how), path)
