"""`HiHPQIndex`: train, add, search, remove, save and load, with the interface of FAISS."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from hyperpq.codec.feature_codec import KeptFeatures, feature_codec
from hyperpq.codes import check_sizes, code_size
from hyperpq.errors import InvalidInputError
from hyperpq.index.collection import Collection
from hyperpq.index.directory import LOCK_TIMEOUT, open_directory
from hyperpq.index.searcher import trained
from hyperpq.index.trainable import TrainableIndex
from hyperpq.utils.devices import resolve_device
from hyperpq.utils.imports import need_torch
from hyperpq.utils.validation import as_choice, as_count

if TYPE_CHECKING:
    from hyperpq.codec.config import PQConfig
    from hyperpq.index.faiss_bridge import FaissExport
    from hyperpq.store.index_store import Durability

_FAISS = "conversions from and to FAISS"


class HiHPQIndex(TrainableIndex):
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
        Number of subquantizers, and so of codes of one vector: 8 codes of 8 bits are 64 bits.
    nbits : {8, 4}
        Bits of one code; a vector has M * nbits bits.
    metric : {"l1", "geodesic", "chord", "cosine", "l2", "ip"}
        How distances add up over the subspaces, see `ProductQuantizer`. With the objective
        ``fidelity``: whose neighbours codes keep, those by ``cosine``, its default, by the
        Euclidean distance (``l2``) or by the inner product (``ip``); ``cosine`` alone says that
        objective, too. With ``l2`` and ``ip`` and no objective the index has plain codebooks and
        learns no representation, like FAISS's ``IndexPQ``; ``d`` must be a multiple of M.
    objective : {"semantic", "fidelity", "balanced"}, optional
        What codes keep: ``semantic``, the default, brings vectors that belong together close to
        each other; ``fidelity`` keeps the exact neighbours, as FAISS's codes do, see
        `AdditiveCodec`. ``balanced`` gives half of the codes to each, M at least 2, and adds up
        both distances, see `BalancedCodec`; the metric above is that of its semantic codes.
    rotation : int
        With plain codebooks, the width of the vectors after a learned rotation (OPQ), see
        `PQConfig`; 0 for none.
    features : {"none", "int8", "float16", "float32"}
        What is kept of the vectors themselves, beside their codes: nothing, or each of them as a
        `FeatureCodec` writes it. With features the codec can be learned anew (`retrain`), codes of
        another length can be made (`with_bits`), and the vectors be read (`features_of`). ``int8``
        takes d + 4 bytes a vector, which no search reads. Codes are then those of the vectors as
        they are kept.
    device : str
        ``auto`` (a CUDA device if there is one), ``cpu``, ``cuda`` or ``cuda:N``: where vectors are
        trained on and encoded.

    Attributes
    ----------
    d, M, nbits
        As above; M is that of the codec once there is one.
    device : str
        Name of the device in use.
    codec : Codec or None
        The map between vectors and codes; None before training.
    collection : Collection
        The coded rows, with their codec.

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
        M: int = 8,
        nbits: int = 8,
        *,
        metric: str = "l1",
        objective: str | None = None,
        rotation: int = 0,
        features: KeptFeatures = "none",
        device: str = "auto",
    ) -> None:
        from hyperpq.codec.config import INNER, LEARNED_METRICS, PQConfig
        from hyperpq.quantizers.flat_metrics import FLAT_METRICS

        self.d, self._M, self._nbits = as_count(d, "d"), as_count(M, "M"), as_count(nbits, "nbits")
        check_sizes(self._M, 1, self._nbits)
        # What is asked for; `metric` is what the codec has.
        named = "cosine" if metric == INNER else metric
        self._metric: str = as_choice(named, "metric", LEARNED_METRICS)
        self._plain: PQConfig | None = None
        for flat in FLAT_METRICS:
            if metric == flat and objective != "fidelity":
                self._plain = PQConfig(self.d, self._M, self._nbits, flat, rotation)
        if rotation and self._plain is None:
            raise InvalidInputError(
                f"rotation is {rotation!r} with the metric {metric!r}; expected 0, as only plain "
                "codebooks (the metrics 'l2' and 'ip') have a rotation."
            )
        self._objective = self._as_objective(objective)
        self.device = resolve_device(device)
        kept = feature_codec(features, self.d)
        size = code_size(self._M, self._nbits)
        self.collection = Collection(size, features=kept, device=self.device)

    def _as_objective(self, objective: str | None) -> str:
        from hyperpq.codec.config import balanced_parts, check_metric

        if objective is None:
            return "fidelity" if self._metric == "cosine" else "semantic"
        checked = as_choice(objective, "objective", ("semantic", "fidelity", "balanced"))
        if self._plain is not None:
            raise InvalidInputError(
                f"objective is {objective!r} with the metric {self._metric!r}; expected none, as "
                "plain codebooks learn no representation; choose the metric 'l1', or the objective "
                "'fidelity'."
            )
        check_metric(self._metric, checked)
        if checked == "balanced":
            balanced_parts(self._M, self._nbits)
        return checked

    def __repr__(self) -> str:
        state = f"ntotal={self.ntotal}" if self.is_trained else "not trained"
        plain, kept = self.objective == "plain", self.collection.feature_codec
        facts = [
            f"d={self.d}, M={self.M}, nbits={self.nbits}, metric={self.metric!r}",
            "" if plain else f"objective={self.objective!r}",
            f"rotation={self._plain.rotation}" if self._plain and self._plain.rotation else "",
            "" if kept is None else f"features={kept.kind!r}",
            state,
            f"path={str(self.path)!r}" if self.path else "",
        ]
        return f"{type(self).__name__}({', '.join(filter(None, facts))})"

    def clone(self) -> HiHPQIndex:
        """A copy in memory, with the same codec object."""
        return self._with(self.collection.clone())

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
        self.collection.save(path, overwrite=overwrite, move=move)

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
            What `save` or `hyperpq build` wrote, or the URL of an index that `hyperpq push`
            published, such as ``s3://bucket/index``. What is published now is copied into the
            user's cache, and opened with ``read_only``.
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
        return cls._in_directory(codec, store, device=device)

    @classmethod
    def from_faiss(cls, faiss_index: Any) -> HiHPQIndex:
        """An index with the codes and ids of one of FAISS; see `faiss_bridge.from_faiss`."""
        need_torch(_FAISS)
        from hyperpq.index.faiss_bridge import from_faiss

        codec, codes, ids = from_faiss(faiss_index)
        index = cls.from_codec(codec, device="cpu")
        index.collection.add(codes, ids)
        return index

    def to_faiss(self, how: str = "auto") -> FaissExport:
        """A FAISS index with the same results; see `faiss_bridge.to_faiss`."""
        need_torch(_FAISS)
        from hyperpq.index.faiss_bridge import to_faiss

        rows = self.collection.view()
        codec, batches = trained(rows.codec), list(rows.batches())
        codes = [np.empty((0, rows.code_size), np.uint8), *(batch.codes for batch in batches)]
        ids = [np.empty(0, np.int64), *(batch.ids for batch in batches)]
        cells = trained(rows.held).cells
        return to_faiss(codec, np.concatenate(codes), np.concatenate(ids), how=how, cells=cells)

    def write_faiss(self, path: str | os.PathLike[str], how: str = "auto") -> None:
        """Write `to_faiss` to a file that ``faiss.read_index`` reads."""
        from hyperpq.index.faiss_bridge import write_faiss

        write_faiss(self.to_faiss(how), path)
