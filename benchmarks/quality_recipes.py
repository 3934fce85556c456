"""The recipes of hyperpq that `benchmarks.quality` measures, and how their codes are searched."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Final

from benchmarks.baselines import Floats, Ids
from benchmarks.featuresets import FeatureSet
from benchmarks.provenance import HYPERPQ_CODE
from hyperpq import HiHPQIndex, scan
from hyperpq.codec.feature_codec import FeatureCodec
from hyperpq.codec.learned import LearnedCodec
from hyperpq.codec.sample import SAMPLE_SIZE
from hyperpq.training.presets import PAPER_SETTINGS, PRESETS, get_recipe, paper
from hyperpq.training.recipe import Recipe
from hyperpq.training.task import TrainingRun
from hyperpq.training.train import train_codec

# The presets, and the default recipe with the objective of exact neighbours.
RECIPES = (*PRESETS, "fidelity")
# Bits of the shortest codes of a recipe with two parts.
SHORTEST = {"balanced": 16}

# A recipe whose codes are searched with refinement is a variant of its own, from the same training.
REFINED = ", refined"
REFINED_RECIPES = ("default", "balanced")
# Candidates of a query, as an index of images chooses them by default, and how the index keeps the
# features that rank them again.
CANDIDATES: Final = "auto"
KEPT: Final = "int8"
REFINED_CODE = (*HYPERPQ_CODE, "hyperpq/index/refine.py", "hyperpq/index/calibration.py")


def variants(name: str) -> list[str]:
    """The variants that one training of a recipe serves."""
    return [name, name + REFINED] if name in REFINED_RECIPES else [name]


def is_refined(variant: str) -> bool:
    """Whether the search of a variant is refined."""
    return variant.endswith(REFINED)


def recipe_of(variant: str, bits: int, dataset: str) -> Recipe:
    """The recipe of a variant; ``paper`` with the settings published for the data set, if any."""
    name = variant.removesuffix(REFINED)
    if name == "paper" and dataset in PAPER_SETTINGS:
        return paper(bits, dataset)
    if name == "fidelity":
        return Recipe(name=name).replace(objective="fidelity")
    return get_recipe(name, bits)


def train_codecs(
    features: FeatureSet, name: str, lengths: Sequence[int], seed: int
) -> Iterator[tuple[int, LearnedCodec, float]]:
    """Yield each length in bits, a codec, and the seconds that it took.

    A recipe whose representation does not depend on the code length is trained once; the codebooks
    of the other lengths are fitted to it.
    """
    x = features.train
    first: LearnedCodec | None = None
    seconds = 0.0
    for bits in lengths:
        recipe = recipe_of(name, bits, features.dataset)
        start = time.perf_counter()
        if first is None or not recipe.representation.subspaces:
            views = features.views(recipe.views.augmentation)
            start = time.perf_counter()
            trace = features.folder / f"training-{name}-{bits}-{seed}.jsonl"
            first = train_codec(
                x,
                views,
                view_rows=features.view_rows,
                M=bits // 8,
                recipe=recipe,
                seed=seed,
                run=TrainingRun(trace_path=trace),
            )
            seconds = time.perf_counter() - start
            yield bits, first, seconds
        else:
            # The codec holds a sample of at most SAMPLE_SIZE features. `train_codec` fits
            # codebooks to all features, so they are given if the sample does not hold them all.
            everything = x if len(x) > SAMPLE_SIZE else None
            other = first.with_bits(bits, x=everything, seed=seed)
            yield bits, other, seconds + time.perf_counter() - start


class CodeSearch:
    """The database in the codes of a codec, encoded once.

    Parameters
    ----------
    codec : LearnedCodec
    database : ndarray, shape (N, d), float32

    Attributes
    ----------
    codec
        The parameter.
    codes : ndarray, shape (N, M), uint8
    seconds : float
        How long the encoding took.
    """

    def __init__(self, codec: LearnedCodec, database: Floats) -> None:
        self.codec, self._database = codec, database
        start = time.perf_counter()
        self.codes = codec.encode(database)
        self.seconds = time.perf_counter() - start

    def find(self, query: Floats, k: int) -> Ids:
        """Rows of the k nearest codes of each query (nq, d), shape (nq, k)."""
        return scan.search(self.codec.tables(query), self.codes, k)[1]

    def find_refined(self, query: Floats, k: int) -> Ids:
        """The same, the best of them ranked again by kept features."""
        index = HiHPQIndex.from_codec(self.codec, features=KEPT, device="cpu")
        index.add(self._database)
        found: Ids = index.search(query, k, refine=CANDIDATES)[1]
        return found

    def bytes(self, refined: bool) -> int:
        """Bytes of a row: its code, and its features where they are kept for refinement."""
        kept = FeatureCodec(KEPT, self.codec.d).size if refined else 0
        return self.codec.code_size + kept
