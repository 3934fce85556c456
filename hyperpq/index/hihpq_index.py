"""`HiHPQIndex`: train, add, search, remove, save and load, with the interface of FAISS."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperpq.codes import check_sizes
from hyperpq.errors import InvalidInputError, TrainingError
from hyperpq.index.collection import Collection
from hyperpq.index.directory import LOCK_TIMEOUT, codec_settings, open_directory
from hyperpq.index.path_map import settled
from hyperpq.index.vector_index import VectorIndex
from hyperpq.utils.devices import resolve_device
from hyperpq.utils.validation import as_choice, as_count, as_features, as_rows, as_views

if TYPE_CHECKING:
    from hyperpq.codec.base import Codec
    from hyperpq.codec.config import PQConfig
    from hyperpq.index.faiss_bridge import FaissExport
    from hyperpq.progress import ProgressLike
    from hyperpq.store.index_store import Durability
    from hyperpq.training.recipe import Recipe


class HiHPQIndex(VectorIndex):
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
    metric : {"l1", "geodesic", "chord", "l2", "ip"}
        How distances add up over the subspaces, see `ProductQuantizer`. Codes that are trained with
        ``objective="fidelity"`` have the metric ``inner`` whatever is said here, see
        `AdditiveCodec`. With ``l2`` and ``ip`` the index has plain codebooks and learns no
        representation, like FAISS's ``IndexPQ``; ``d`` must be a multiple of M.
    rotation : int
        With plain codebooks, the width of the vectors after a learned rotation (OPQ), see
        `PQConfig`; 0 for none.
    device : str
        ``auto`` (a CUDA device if there is one), ``cpu``, ``cuda`` or ``cuda:N``: where vectors are
        trained on and encoded.

    Attributes
    ----------
    d, M, nbits
        As above.
    device : str
        Name of the device in use.
    codec : Codec or None
        The map between vectors and codes; None before training.
    collection : Collection
        The coded rows.

    Notes
    -----
    *As a container.* ``len(index)`` is the number of vectors, ``id in index`` says whether there is
    one with an id, iteration gives the ids in ascending order, ``index[id]`` is
    ``index.reconstruct(id)``, and ``index[ids]`` is ``index.reconstruct_batch(ids)``.
    ``del index[id]`` removes vectors that must be there, unlike `remove_ids`.

    *Threads.* Several threads can search one index at the same time. A search sees the rows before
    or after a change that another thread makes meanwhile, never a part of it. Changes by several
    threads take place one after another. `train` must not run at the same time as other calls.

    *Processes.* Any number of processes can read an index directory. They keep the snapshot that
    they opened until they call `refresh` or change the index. Changes by several processes take
    place one after another: a change waits while another process writes, and is made to what that
    one has stored, see `Collection`.

    *Pickle.* An index in a directory travels to another process by its path: a pickle has neither
    codes nor codec, and the index shows the same snapshot there, or the newest one if that is gone.
    An index in memory is pickled with all its rows. Pickles are for processes of one program; files
    are made by `save`, and bytes that can come from somebody else by `serialize_index`.

    *Copies.* `copy.copy` gives an index of its own with the same codec object; no row is copied,
    and changes of one do not show in the other. That of an index in a directory is in the same
    directory. `copy.deepcopy` copies the codec, too, and `clone` gives an index in memory.

    *Fork.* A forked child can search, read and change an index on the CPU, whatever other threads
    of the parent are doing with it: codes stay memory-mapped, and the scan starts its threads in
    each call. PyTorch's own threads do not survive a fork, so encoding is single-threaded in the
    child. Do not fork after CUDA was used. Parent and child then have an index each: changes of an
    index in memory stay in the process that makes them.

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
        self,
        d: int,
        M: int = 4,
        nbits: int = 8,
        *,
        metric: str = "l1",
        rotation: int = 0,
        device: str = "auto",
    ) -> None:
        from hyperpq.codec.config import LEARNED_METRICS, PQConfig
        from hyperpq.quantizers.flat_metrics import FLAT_METRICS

        self.d, self.M, self.nbits = as_count(d, "d"), as_count(M, "M"), as_count(nbits, "nbits")
        check_sizes(self.M, 1, self.nbits)
        # What is asked for; `metric` is what the codec has.
        self._metric: str = as_choice(metric, "metric", (*LEARNED_METRICS, *FLAT_METRICS))
        self._plain: PQConfig | None = None
        for flat in FLAT_METRICS:
            if metric == flat:
                self._plain = PQConfig(self.d, self.M, self.nbits, flat, rotation)
        if rotation and self._plain is None:
            raise InvalidInputError(
                f"rotation is {rotation!r} with the metric {metric!r}; expected 0, as only plain "
                "codebooks (the metrics 'l2' and 'ip') have a rotation."
            )
        self.device = resolve_device(device)
        self.codec: Codec | None = None
        self.collection = Collection(self.code_size)

    @classmethod
    def from_codec(cls, codec: Codec, *, device: str = "auto") -> HiHPQIndex:
        """An empty index with a trained codec.

        Raises
        ------
        NotTrainedError
            The codec is not trained.
        """
        from hyperpq.codec.pq import PQCodec
        from hyperpq.quantizers.additive import INNER

        codec.check_trained()
        index = cls.__new__(cls)
        index.d, index.M, index.nbits = codec.d, codec.M, codec.nbits
        # Nobody has asked for the metric of additive codes, which another recipe does not have.
        index._metric = "l1" if codec.metric == INNER else codec.metric
        index._plain = codec.config if isinstance(codec, PQCodec) else None
        index.device = resolve_device(device)
        index.codec = codec.to(index.device).eval()
        index.collection = Collection(index.code_size)
        return index

    def __repr__(self) -> str:
        state = f"ntotal={self.ntotal}" if self.is_trained else "not trained"
        rotation = (
            f"rotation={self._plain.rotation}, " if self._plain and self._plain.rotation else ""
        )
        place = f", path={str(self.path)!r}" if self.path else ""
        return (
            f"{type(self).__name__}(d={self.d}, M={self.M}, nbits={self.nbits}, "
            f"metric={self.metric!r}, {rotation}{state}{place})"
        )

    def train(
        self,
        x: ArrayLike,
        views: ArrayLike | None = None,
        *,
        view_rows: ArrayLike | None = None,
        recipe: str | Recipe = "default",
        seed: int = 0,
        progress: ProgressLike = None,
        trace_path: str | os.PathLike[str] | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        resume: bool = False,
        **changes: Any,
    ) -> None:
        """Learn the codec from vectors, without labels.

        An index in memory without vectors can be trained again, which replaces its codec. The
        metric is then the one that the index was made with. With plain codebooks the arguments are
        ``x``, ``seed`` and ``progress``, see `PQCodec.fit`.

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
        progress : Progress or bool, optional
            Where to report; True draws bars on stderr.
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
        from hyperpq.progress import as_progress
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
        if self._plain is not None:
            self._refuse_for_plain_codebooks(
                views=views,
                view_rows=view_rows,
                recipe=None if recipe == "default" else recipe,
                trace_path=trace_path,
                checkpoint=checkpoint,
                resume=resume or None,
                **changes,
            )
            self._fit_plain_codebooks(self._plain, features, seed, progress)
            return
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
            metric=self._metric,
            recipe=chosen,
            seed=as_count(seed, "seed", 0),
            device=self.device,
            run=TrainingRun(
                Path(trace_path) if trace_path else None,
                Path(checkpoint) if checkpoint else None,
                resume,
                as_progress(progress),
            ),
        )

    def _refuse_for_plain_codebooks(self, **arguments: object) -> None:
        for name, value in arguments.items():
            if value is not None:
                raise InvalidInputError(
                    f"{name} is given, but an index with the metric {self._metric!r} has plain "
                    "codebooks; expected x, seed and progress alone; for a learned representation "
                    "make an index with the metric 'l1'."
                )

    def _fit_plain_codebooks(
        self, settings: PQConfig, x: NDArray[np.float32], seed: int, progress: ProgressLike
    ) -> None:
        from hyperpq.codec.pq import PQCodec

        codec = PQCodec.fit(
            x,
            settings.M,
            settings.nbits,
            metric=settings.metric,
            rotation=settings.rotation,
            seed=seed,
            progress=progress,
        )
        self.codec = codec.to(self.device)

    def with_bits(
        self, bits: int, *, nbits: int = 8, metric: str | None = None, x: ArrayLike | None = None
    ) -> HiHPQIndex:
        """An empty index with codes of another length and the same learned representation.

        Parameters, errors and what is fitted anew: see `LearnedCodec.with_bits`.
        """
        from hyperpq.codec.hihpq import HiHPQCodec
        from hyperpq.codec.learned import LearnedCodec

        codec = self._trained()
        if not isinstance(codec, LearnedCodec):
            raise InvalidInputError(
                f"bits is {bits!r}, but plain codebooks have codes of {codec.M * codec.nbits} bits "
                "only; expected a learned codec; train an index with the metric 'l1'."
            )
        shorter = codec.with_bits(bits, nbits=nbits, metric=metric, x=x)
        if isinstance(shorter, HiHPQCodec):
            shorter.warn_of_noise()
        other = HiHPQIndex.from_codec(shorter, device=self.device)
        other.metadata = settled(self.metadata, self.path, None)
        return other

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
        read_only: bool = False,
        lock_timeout: float = LOCK_TIMEOUT,
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
        read_only : bool
            Whether to refuse every change. Nothing is written to the directory in either case
            before the index is changed.
        lock_timeout : float
            Seconds that a change waits while another process writes to the directory, before it
            raises an `IndexLockedError`; 0, not to wait.

        Raises
        ------
        IndexNotFoundError, CorruptIndexError, FormatVersionError, InvalidInputError
        """
        codec, store = open_directory(
            path,
            verify=verify,
            durability=durability,
            read_only=read_only,
            lock_timeout=lock_timeout,
        )
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
