"""`TrainableIndex`: how an index gets its codec, and another one later."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperpq.codec.feature_codec import KeptFeatures, feature_codec
from hyperpq.errors import InvalidInputError, TrainingError
from hyperpq.index.cells import Cells
from hyperpq.index.collection import Collection
from hyperpq.index.encoded import recoded
from hyperpq.index.index_codec import IndexCodec
from hyperpq.index.learning import (
    TRAIN_SIZE,
    CodecPlan,
    objective_of,
    plan_again,
    product_metric_of,
    record_of,
    refuse_for_plain_codebooks,
)
from hyperpq.index.path_map import settled
from hyperpq.index.searcher import trained
from hyperpq.index.vector_index import VectorIndex
from hyperpq.index.view import RowView
from hyperpq.progress import ProgressLike, as_progress
from hyperpq.utils.devices import resolve_device
from hyperpq.utils.imports import need_torch
from hyperpq.utils.validation import as_count, as_features, as_rows, as_views

if TYPE_CHECKING:
    from typing_extensions import Self

    from hyperpq.codec.base import Codec
    from hyperpq.codec.config import PQConfig
    from hyperpq.store import IndexStore
    from hyperpq.training.recipe import Recipe


class TrainableIndex(VectorIndex):
    """The part of a `HiHPQIndex` that learns."""

    _objective: str
    _plain: PQConfig | None

    @classmethod
    def from_codec(
        cls, codec: Codec, *, device: str = "auto", features: KeptFeatures = "none"
    ) -> Self:
        """An empty index with a trained codec.

        Parameters
        ----------
        codec : Codec
            The codec.
        device, features
            As in the constructor.

        Raises
        ------
        NotTrainedError
            The codec is not trained.
        """
        codec.check_trained()
        where = resolve_device(device)
        held = IndexCodec(codec.to(where).eval())
        kept = feature_codec(features, held.d)
        rows = Collection(held.code_size, codec=held, features=kept, device=where)
        return cls._around(rows, held, where)

    @classmethod
    def _in_directory(cls, codec: IndexCodec, store: IndexStore, *, device: str) -> Self:
        """The index of an opened directory."""
        where = resolve_device(device)
        codec = codec.on(where)
        rows = Collection(codec.code_size, store, codec=codec, device=where)
        return cls._around(rows, codec, where)

    @classmethod
    def _around(cls, collection: Collection, codec: IndexCodec, device: str) -> Self:
        from hyperpq.codec.config import AdditiveConfig, PQConfig

        config = codec.config
        index = cls.__new__(cls)
        index.d, index._M, index._nbits = codec.d, codec.M, codec.nbits
        # Nobody has asked for the metric of additive codes, which another recipe does not have.
        index._metric = "l1" if isinstance(config, AdditiveConfig) else codec.metric
        index._metric = product_metric_of(config) or index._metric
        index._objective = "semantic"
        index._plain = config if isinstance(config, PQConfig) else None
        index.device, index.collection = device, collection
        return index

    @property
    def objective(self) -> str:
        """What codes keep: ``semantic``, ``fidelity``, ``balanced``, or ``plain`` codebooks."""
        held = self.collection.held
        if held is not None:
            return objective_of(held.config)
        return "plain" if self._plain is not None else self._objective

    @property
    def metric(self) -> str:
        """Metric of the codec; before training the one that it will have."""
        from hyperpq.codec.config import fidelity_metric

        if self.collection.held is not None:
            return super().metric
        if self.objective == "fidelity":
            return fidelity_metric(self._metric)
        return "balanced" if self.objective == "balanced" else self._metric

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
        metric is then the one that the index was made with. An index that has vectors and keeps
        their features is trained again by `retrain`. With plain codebooks the arguments are ``x``,
        ``seed`` and ``progress``, see `PQCodec.fit`.

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
            ``default``, ``balanced``, ``paper`` or a recipe of your own.
        seed : int
            The same data, recipe, seed and machine give the same codec.
        progress : Progress or bool, optional
            Where to report; True, or `hyperpq.progress.RichProgress()`, draws bars.
        trace_path : path-like, optional
            JSON-lines file for losses and code statistics of each epoch.
        checkpoint : path-like, optional
            File that is written after each epoch.
        resume : bool
            Whether to continue from ``checkpoint`` if it exists.
        **changes
            Fields of the recipe to change, such as ``epochs=10``. An ``objective`` here counts more
            than the one that the index was made with.

        Raises
        ------
        InvalidInputError
            If a value or shape is not as described.
        TrainingError
            If training diverges or collapses, or the index has vectors or a directory already.
        """
        from hyperpq.training.task import TrainingRun

        if self.ntotal or self.path:
            again = self.ntotal and self.has_features
            hint = "call retrain()" if again else "train a new index"
            raise TrainingError(
                f"the index has {self.ntotal} vectors coded by its codec; expected a new one; "
                f"{hint}."
            )
        features = as_features(x, self.d)
        as_count(len(features), "the number of rows of x")
        if self._plain is not None:
            refuse_for_plain_codebooks(
                self._metric,
                views=views,
                view_rows=view_rows,
                recipe=None if recipe == "default" else recipe,
                trace_path=trace_path,
                checkpoint=checkpoint,
                resume=resume or None,
                **changes,
            )
        rows = None if view_rows is None else as_rows(view_rows, "view_rows", len(features))
        if rows is not None and views is None:
            raise InvalidInputError("view_rows are given without views; expected both.")
        n_views = len(features) if rows is None else len(rows)
        plan, shown = self._plan(recipe, seed, changes), as_progress(progress)
        codec = plan.learn(
            features,
            TrainingRun(
                Path(trace_path) if trace_path else None,
                Path(checkpoint) if checkpoint else None,
                resume,
                shown,
            ),
            None if views is None else as_views(views, n_views, self.d),
            rows,
        )
        record = record_of(codec, features, plan.seed, shown) if self.has_features else None
        self.collection.set_codec(IndexCodec(codec), codec.code_size, record)

    def _plan(self, recipe: str | Recipe, seed: int, changes: dict[str, Any]) -> CodecPlan:
        """The first training of this index."""
        from hyperpq.training.presets import get_recipe

        chosen = None
        if self._plain is None:
            if self._objective != "semantic":
                changes = {"objective": self._objective, **changes}
            chosen = get_recipe(recipe, self._M * self._nbits, **changes)
        return CodecPlan(
            self._M,
            self._nbits,
            self._metric,
            chosen,
            self._plain,
            as_count(seed, "seed", 0),
            self.device,
        )

    def make_cells(self, nlist: int | Literal["auto"] = "auto") -> None:
        """Group the codes by cells, so that a search can look at some of them, see ``nprobe``.

        Cells are learned from the codes of the index by k-means, in the space of `reconstruct`. A
        vector is in the cell whose centroid is nearest to what its code decodes to. What is added
        later goes into the cells that are there; another call makes new ones, for an index that has
        grown by much. Answers of searches without ``nprobe`` stay the same.

        In a directory the new order of all codes is one commit, and the lock is held while it is
        written. `retrain` makes new ones for its new codec, as many as before or one for each
        vector that it learns from; `with_bits` makes none.

        Parameters
        ----------
        nlist : int or "auto"
            Number of cells; 0 removes them. ``"auto"`` is the power of two nearest to a thousandth
            of the number of vectors.

        Raises
        ------
        NotTrainedError
            If the index has no codec.
        InvalidInputError
            If there are fewer vectors than cells.
        MissingDependencyError
            If faiss is not installed.
        SnapshotChangedError
            If another process or thread replaces the codec or the cells meanwhile.
        StoreError
            If the system refuses; the index is as it was.
        """
        trained(self.collection.held)
        self.collection.check_writable()
        self.collection.regroup(nlist)

    def retrain(
        self,
        *,
        recipe: str | Recipe | None = None,
        seed: int = 0,
        bits: int | None = None,
        train_size: int = TRAIN_SIZE,
        progress: ProgressLike = None,
        **changes: Any,
    ) -> None:
        """Learn the codec again from the kept features, and encode all vectors anew.

        For an index that has grown, or whose vectors are of another kind than those that its codec
        was learned from. The index needs ``features``; no vector has to be given again. Ids,
        attributes and paths stay. The same features, recipe, seed and machine give the same codec.

        In a directory the new codec and all codes are one commit, and the files of the former ones
        are removed after it. Other processes keep their snapshot until they call `refresh` or
        change the index, and their additions that were encoded by the former codec are encoded
        again. The lock of the index is held while the new rows are written, and not while they are
        learned from and encoded.

        Parameters
        ----------
        recipe : str or Recipe, optional
            ``default``, ``balanced``, ``paper`` or your own; by default the one that the codec was
            learned by.
        seed : int
            Of every random choice.
        bits : int, optional
            Bits of a code from then on, a multiple of ``nbits``; the same as now by default.
        train_size : int
            Vectors that are learned from at most; if there are more, they are drawn at random.
        progress : Progress or bool, optional
            Where to report.
        **changes
            Fields of the recipe to change, such as ``epochs=10`` or ``objective="fidelity"``.

        Raises
        ------
        NotTrainedError
            If the index has no codec.
        InvalidInputError
            If the index keeps no features or has no vectors, or a value is not as described.
            Nothing was changed.
        TrainingError
            If training diverges or collapses; nothing was changed.
        StoreError
            If the system refuses; nothing was changed.
        """
        from hyperpq.training.task import TrainingRun

        view = self.collection.view()
        codec, size = trained(view.codec), as_count(train_size, "train_size")
        view.kept_by()
        if not view.ntotal:
            raise InvalidInputError(
                "the index has no vectors; expected at least one to learn from; add some, or train "
                "a new index."
            )
        self.collection.check_writable()
        plan = plan_again(
            codec,
            trained_on=None if view.training is None else view.training.n,
            metric=self._metric,
            bits=bits,
            recipe=recipe,
            seed=seed,
            device=self.device,
            changes=changes,
        )
        shown = as_progress(progress)
        with shown.phase("features", None, ""):
            x = sample_of(view, size, plan.seed)
        learned = plan.learn(x, TrainingRun(progress=shown))
        record = record_of(learned, x, plan.seed, shown)
        new = IndexCodec(learned)
        if self.nlist:
            codes = new.encode(x)
            new = new.with_cells(Cells.learn(codes, new.coder, min(self.nlist, len(codes))))
        self.collection.recode(new, record, tuned=view.tuned, progress=shown)
        self.collection.store_recall()

    def with_bits(
        self,
        bits: int,
        *,
        nbits: int = 8,
        metric: str | None = None,
        x: ArrayLike | None = None,
        rows: bool = False,
        features: KeptFeatures | None = None,
    ) -> Self:
        """An index in memory with codes of another length and the same learned representation.

        It has no cells, which `make_cells` of the new index makes of its codes.

        Parameters
        ----------
        bits, nbits, metric, x
            See `LearnedCodec.with_bits`, also for errors and for what is fitted anew.
        rows : bool
            Whether it has the rows of this index, encoded anew from their kept features. Otherwise
            it is empty.
        features : {"none", "int8", "float16", "float32"}, optional
            What it keeps of its vectors; by default what this index keeps.

        Raises
        ------
        InvalidInputError
            If a value is not as described, or ``rows`` is True and this index keeps no features.
            Plain codebooks have one length, and ``metric`` and ``x`` are not for them.
        """
        need_torch("codes of another length")
        from hyperpq.codec.learned import LearnedCodec

        view = self.collection.view()
        codec = trained(view.codec)
        shorter: Codec = codec
        if isinstance(codec, LearnedCodec):
            learned = codec.with_bits(bits, nbits=nbits, metric=metric, x=x)
            learned.warn_of_noise()
            shorter = learned
        elif x is not None or (bits, nbits, metric) != (codec.M * codec.nbits, codec.nbits, None):
            raise InvalidInputError(
                f"bits is {bits!r} and nbits {nbits!r}, but the index has plain codebooks, whose "
                f"codes have {codec.M * codec.nbits} bits with nbits {codec.nbits}; expected these "
                "alone; to change them, train an index with the metric 'l1'."
            )
        kept = view.feature_codec
        read_by = view.kept_by() if rows else None
        if features is not None:
            kept = feature_codec(features, self.d)
        other = self.from_codec(
            shorter, device=self.device, features="none" if kept is None else kept.kind
        )
        other.collection.set_tuned(view.tuned)
        if read_by is not None:
            batches = view.batches(features=True)
            new = recoded(
                batches, trained(other.collection.held), read_by, keep=kept, total=view.ntotal
            )
            other.collection.put(new, view.next_id)
        other.metadata = settled(self.metadata, self.path, None)
        other.scanner = self.scanner
        return other


def sample_of(rows: RowView, most: int, seed: int) -> NDArray[np.float32]:
    """Features (n, d) of at most so many rows, drawn at random, in the order of their ids."""
    ids = rows.ids
    if len(ids) > most:
        ids = np.sort(np.random.default_rng(seed).permutation(ids)[:most])
    return rows.features_of(ids)
