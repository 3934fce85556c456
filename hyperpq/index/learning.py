"""How the codec of an index is learned, by the first training and by later ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hyperpq.codes import check_sizes
from hyperpq.errors import InvalidInputError
from hyperpq.index.training_record import TrainingRecord
from hyperpq.utils.imports import need_torch
from hyperpq.utils.validation import as_count

if TYPE_CHECKING:
    from hyperpq.codec.base import Codec
    from hyperpq.codec.config import AnyConfig, PQConfig
    from hyperpq.progress import Progress
    from hyperpq.training.recipe import Recipe
    from hyperpq.training.task import TrainingRun

LEARNING = "codecs that are learned"
"""What needs PyTorch, for `need_torch`."""
TRAIN_SIZE = 25_000
"""Vectors that a codec is learned from at most, unless told otherwise."""


@dataclass(frozen=True)
class CodecPlan:
    """What a codec is to be, checked before any work.

    Attributes
    ----------
    M, nbits : int
        Codes of a vector, and bits of each.
    metric : str
        Metric of learned codes, see `train_codec`.
    recipe : Recipe or None
        How it is learned; None for plain codebooks.
    plain : PQConfig or None
        Plain codebooks.
    seed : int
        Of every random choice.
    device : str
        Torch device.
    """

    M: int
    nbits: int
    metric: str
    recipe: Recipe | None
    plain: PQConfig | None
    seed: int
    device: str

    def learn(
        self,
        x: NDArray[np.float32],
        run: TrainingRun,
        views: NDArray[Any] | None = None,
        view_rows: NDArray[np.int64] | None = None,
    ) -> Codec:
        """Learn the codec from vectors (n, d), on the device of the plan.

        ``views`` (V, v, d) and ``view_rows`` (v,) are those of `train_codec`.
        """
        need_torch(LEARNING)
        if self.plain is not None:
            from hyperpq.codec.pq import PQCodec

            plain = self.plain
            return PQCodec.fit(
                x,
                plain.M,
                plain.nbits,
                metric=plain.metric,
                rotation=plain.rotation,
                seed=self.seed,
                progress=run.progress,
            ).to(self.device)
        from hyperpq.training.train import train_codec

        return train_codec(
            x,
            views,
            view_rows=view_rows,
            M=self.M,
            nbits=self.nbits,
            metric=self.metric,
            recipe=self.recipe,
            seed=self.seed,
            device=self.device,
            run=run,
        )


def record_of(
    codec: Codec, x: NDArray[np.float32], seed: int, progress: Progress
) -> TrainingRecord:
    """What an index stores of the training of a codec from vectors (n, d)."""
    from hyperpq.training.fit import FitStatistics

    with progress.phase("fit", None, ""):
        fit = FitStatistics.of(x, seed=seed)
    return TrainingRecord(len(x), objective_of(codec.config), codec.is_learned, fit)


def objective_of(config: AnyConfig) -> str:
    """What codes with these settings keep, see `TrainingRecord.objective`."""
    from hyperpq.codec.config import AdditiveConfig, BalancedConfig, PQConfig

    if isinstance(config, PQConfig):
        return "plain"
    if isinstance(config, BalancedConfig):
        return "balanced"
    return "fidelity" if isinstance(config, AdditiveConfig) else "semantic"


def product_metric_of(config: AnyConfig) -> str | None:
    """Metric of product codes, those of the semantic part; None without any."""
    from hyperpq.codec.config import BalancedConfig, CodecConfig

    if isinstance(config, BalancedConfig):
        config = config.semantic
    return config.metric if isinstance(config, CodecConfig) else None


def recipe_of(codec: Codec, n: int | None) -> Recipe:
    """The recipe that a codec was learned by, for a training with another number of vectors.

    The epochs are left open if the number of vectors n had decided them, or if n is not known.
    """
    from hyperpq.training.recipe import GROUP_OF, Recipe

    fields = {name: value for name, value in codec.recipe.items() if name in GROUP_OF}
    recipe = Recipe().replace(**fields)
    usual = None if n is None else recipe.replace(epochs=None).for_size(n).optimiser.epochs
    return recipe.replace(epochs=None) if usual in (None, recipe.optimiser.epochs) else recipe


def plan_again(
    codec: Codec,
    *,
    trained_on: int | None,
    metric: str,
    bits: int | None,
    recipe: str | Recipe | None,
    seed: int,
    device: str,
    changes: dict[str, Any],
) -> CodecPlan:
    """The plan of a training that replaces a codec, see `HiHPQIndex.retrain`.

    Parameters
    ----------
    codec : Codec
        The codec.
    trained_on : int or None
        Number of vectors that it was learned from, if that is known.
    metric : str
        Metric of product codes, if the codec is none of these.
    bits, recipe, seed, changes
        Arguments of `retrain`.
    device : str
        Torch device.
    """
    from hyperpq.codec.additive import AdditiveCodec
    from hyperpq.codec.config import balanced_parts
    from hyperpq.codec.pq import PQCodec
    from hyperpq.geometry.registry import METRICS
    from hyperpq.training.presets import get_recipe

    nbits, seed = codec.nbits, as_count(seed, "seed", 0)
    bits = codec.M * nbits if bits is None else as_count(bits, "bits")
    if bits % nbits:
        raise InvalidInputError(
            f"bits is {bits}; expected a multiple of {nbits}, the bits of one code of the index."
        )
    M = bits // nbits
    check_sizes(M, 2, nbits)
    if isinstance(codec, PQCodec):
        refuse_for_plain_codebooks(codec.metric, recipe=recipe, **changes)
        plain = replace(codec.config, M=M)
        return CodecPlan(M, nbits, codec.metric, None, plain, seed, device)
    if recipe is None:
        chosen = recipe_of(codec, trained_on).replace(**changes)
    else:
        # A preset may have an objective of its own.
        keeps = isinstance(recipe, str) and recipe != "balanced"
        kept = {"objective": objective_of(codec.config)} if keeps else {}
        chosen = get_recipe(recipe, bits, **kept | changes)
    if chosen.objective == "balanced":
        balanced_parts(M, nbits)
    wanted = product_metric_of(codec.config) or (metric if metric in METRICS else "l1")
    if isinstance(codec, AdditiveCodec) and chosen.objective == "fidelity":
        wanted = codec.metric
    return CodecPlan(M, nbits, wanted, chosen, None, seed, device)


def refuse_for_plain_codebooks(metric: str, **arguments: object) -> None:
    """Raise `InvalidInputError` if any argument is there that only learned codes have."""
    for name, value in arguments.items():
        if value is not None:
            raise InvalidInputError(
                f"{name} is given, but an index with the metric {metric!r} has plain codebooks; "
                "expected x, seed and progress alone; for a learned representation make an index "
                "with the metric 'l1'."
            )
