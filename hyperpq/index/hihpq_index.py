"""`HiHPQIndex`: train, add, search, remove, save and load, in the shapes and habits of FAISS."""

from __future__ import annotations

import copy
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hyperpq.codes import check_sizes
from hyperpq.errors import CorruptIndexError, InvalidInputError
from hyperpq.index.code_index import CodeIndex
from hyperpq.index.editing import EditableIndex
from hyperpq.store import IndexStore, MemoryStore, Rows, live_blocks, replace_directory
from hyperpq.store.index_store import Durability
from hyperpq.utils.devices import resolve_device
from hyperpq.utils.validation import as_array, as_choice, as_count, as_features, as_ids, as_rows

if TYPE_CHECKING:
    from hyperpq.codec.base import Codec
    from hyperpq.index.faiss_bridge import FaissExport
    from hyperpq.progress import Progress
    from hyperpq.training.recipe import Recipe


class HiHPQIndex(EditableIndex):
    """Exhaustive index over learned hyperbolic product codes.

    An index starts in memory. `save` writes it to a directory, `load` opens one; from then on it
    lies on disk, and every change is durable when the call returns. `docs/faiss.md` has the calls
    of FAISS beside these.

    Parameters
    ----------
    d : int
        Width of the vectors.
    M : int
        Subquantizers: codes of one vector.
    nbits : {8, 4}
        Bits of a code; M * nbits bits a vector.
    metric : {"l1", "geodesic", "chord"}
        How distances add up over the subspaces, see `lorentz.score_of`. An index that was trained
        with ``objective="fidelity"`` has the metric ``inner``, see `AdditiveQuantizer`.
    device : str
        ``auto`` (a CUDA device if there is one), ``cpu``, ``cuda`` or ``cuda:n``, for training and
        encoding.

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

        d, M, nbits = as_count(d, "d"), as_count(M, "M"), as_count(nbits, "nbits")
        check_sizes(M, 1, nbits)
        as_choice(metric, "metric", LEARNED_METRICS)
        super().__init__(d, M, nbits, metric, resolve_device(device))

    @classmethod
    def from_codec(cls, codec: Codec, *, device: str = "auto") -> HiHPQIndex:
        """An empty index with a codec that is there already."""
        index = cls.__new__(cls)
        CodeIndex.__init__(
            index, codec.d, codec.M, codec.nbits, codec.metric, resolve_device(device)
        )
        index.codec = codec.to(index.device).eval()
        return index

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
            Features of the training images. Any n from 1 works: with fewer features than
            codewords these repeat, and below 16 the codec is PCA and k-means alone.
        views : array_like, shape (V, n, d), optional
            Features of V augmented views of the same images. Without them views are made in
            feature space, by noise with the covariance of the data (`training.views`).
        view_rows : array_like, shape (v,), optional
            Rows of ``x`` that the views are of, if not of all: ``views`` has shape (V, v, d) then.
            Images without views help too, at a fraction of the price.
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
            codes that keep the exact neighbours of the features (their metric is ``inner``).

        Raises
        ------
        InvalidInputError
            Bad values or shapes.
        TrainingError
            Divergence or collapse; or the index has vectors or lies on disk already.
        """
        from hyperpq.errors import TrainingError
        from hyperpq.training.presets import get_recipe
        from hyperpq.training.train import train_codec

        if self.ntotal or self.store:
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
            metric=self.metric,
            recipe=chosen,
            seed=as_count(seed, "seed", 0),
            device=self.device,
            trace_path=Path(trace_path) if trace_path else None,
            checkpoint=Path(checkpoint) if checkpoint else None,
            resume=resume,
            progress=progress,
        )
        self.metric = self.codec.metric

    def with_bits(
        self, bits: int, *, nbits: int = 8, metric: str | None = None, x: Any = None
    ) -> HiHPQIndex:
        """An empty index of another code length from the same training.

        See `HiHPQCodec.with_bits`: the representation stays, its codebooks are fitted anew, and to
        features ``x`` (n, d) in the place of its sample if they are given.

        Raises
        ------
        NotTrainedError, InvalidInputError
        """
        from hyperpq.codec.learned import LearnedCodec

        codec = self._trained()
        if not isinstance(codec, LearnedCodec):
            raise InvalidInputError(
                f"plain codebooks have codes of {codec.M * codec.nbits} bits and no others; "
                "train a HiHPQIndex for codes of any length."
            )
        codec = codec.with_bits(bits, nbits=nbits, metric=metric, x=x)
        other = HiHPQIndex.from_codec(codec, device=self.device)
        other.metadata = dict(self.metadata)
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

    def clone(self) -> HiHPQIndex:
        """A copy in memory."""
        other = copy.copy(self)
        other.metadata, other._rows = dict(self.metadata), MemoryStore()
        other._rows.commit(append=live_blocks(self.parts), next_id=self.next_id)
        return other

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
        from hyperpq.codec.serialization import to_files

        codec = self._trained()
        target = Path(os.path.abspath(path))
        if self.path and target.exists() and target.samefile(self.path):
            return
        settings = {
            "d": self.d,
            "M": self.M,
            "nbits": self.nbits,
            "score": self.metric,
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
                store.commit(append=live_blocks(self.parts), next_id=self.next_id)
            if work != target:
                replace_directory(work, target)
        except BaseException:
            # Without its rows it would look like an empty index.
            shutil.rmtree(work, ignore_errors=True)
            raise
        self._rows = IndexStore.open(target)

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
            Check every checksum first.
        durability : {"full", "fast"}
            ``fast`` leaves out every fsync: changes survive a kill, but a power cut may cost the
            index.

        Raises
        ------
        IndexNotFoundError, CorruptIndexError, FormatVersionError, InvalidInputError
        """
        if durability not in ("full", "fast"):
            raise InvalidInputError(f"durability is {durability!r}; expected 'full' or 'fast'.")
        store = IndexStore.open(path, verify=verify)
        store.durability = durability
        # After the opening: that there is no index is said without loading torch.
        from hyperpq.codec.serialization import from_files

        codec = from_files({name: store.read_file(name) for name in store.file_names})
        settings = store.settings
        own = {"d": codec.d, "M": codec.M, "nbits": codec.nbits, "score": codec.metric}
        metadata = settings.get("metadata", {})
        if any(settings.get(name) != value for name, value in own.items()):
            raise CorruptIndexError(
                f"{store.path}: manifest.json and codec.json disagree; expected {own}."
            )
        if not isinstance(metadata, dict):
            raise CorruptIndexError(f"{store.path}: metadata in manifest.json isn't an object.")
        index = cls.from_codec(codec, device=device)
        if any(part.code_size != index.code_size for part in store.shards):
            raise CorruptIndexError(
                f"{store.path}: a shard has codes of another size than {index.code_size} bytes."
            )
        index.metadata, index._rows = metadata, store
        return index

    @classmethod
    def from_faiss(cls, faiss_index: Any) -> HiHPQIndex:
        """An index with the codes and ids of a FAISS `IndexPQ`; see `faiss_bridge.from_faiss`."""
        from hyperpq.index.faiss_bridge import from_faiss

        codec, codes, ids = from_faiss(faiss_index)
        index = cls.from_codec(codec, device="cpu")
        index.append(Rows(codes, as_ids(ids, len(codes))))
        return index

    def to_faiss(self, how: str = "auto") -> FaissExport:
        """A FAISS index with the same answers; see `faiss_bridge.to_faiss`."""
        from hyperpq.index.faiss_bridge import to_faiss

        blocks = list(live_blocks(self.parts))
        codes = [np.empty((0, self.code_size), np.uint8), *(block.codes for block in blocks)]
        ids = [np.empty(0, np.int64), *(block.ids for block in blocks)]
        return to_faiss(self._trained(), np.concatenate(codes), np.concatenate(ids), how=how)

    def write_faiss(self, path: str | os.PathLike[str], how: str = "auto") -> None:
        """Write `to_faiss` to a file that ``faiss.read_index`` reads."""
        from hyperpq.index.faiss_bridge import write_faiss

        write_faiss(self.to_faiss(how), path)
