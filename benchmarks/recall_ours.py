"""Methods of hyperpq in `benchmarks.recall`.

``hyperpq fidelity`` is ``objective="fidelity"`` with the metric of the neighbours; ``hyperpq
fidelity, corrected`` is the same index, searched with ``refine=200``: it ranks the best codes again
by what the whole code says of its distance, without kept features. ``hyperpq balanced`` and
``hyperpq default`` are the presets, which are made for images that belong together, and not for
exact neighbours.
"""

from __future__ import annotations

from functools import partial

from benchmarks.baselines import Floats, Ids
from benchmarks.recall_methods import MakeCodes
from hyperpq import HiHPQIndex
from hyperpq.codec.learned import LearnedCodec
from hyperpq.training.presets import get_recipe
from hyperpq.training.recipe import Recipe
from hyperpq.training.train import train_codec

# How many of the best codes are ranked again, by what their codes say or by kept features.
CANDIDATES = 200
CORRECTED = ", corrected"


def train_ours(name: str, x: Floats, size: int, metric: str, seed: int) -> LearnedCodec:
    """Train the codec of ``hyperpq NAME`` on rows (n, d), without views."""
    if name == "fidelity":
        recipe = Recipe(name=name).replace(objective=name)
        return train_codec(x, None, M=size, metric=metric, recipe=recipe, seed=seed)
    return train_codec(x, None, M=size, recipe=get_recipe(name, 8 * size), seed=seed)


class HyperPQCodes:
    """Codes of an index of hyperpq.

    Parameters
    ----------
    name : str
        ``fidelity`` or a preset.
    d, size, metric, seed
        As of `MakeCodes`.
    """

    def __init__(self, name: str, d: int, size: int, metric: str, seed: int) -> None:
        self.bytes = size
        self._train = partial(train_ours, name, size=size, metric=metric, seed=seed)
        self._index = HiHPQIndex(d, M=size, device="cpu")
        self._is_corrected = name == "fidelity"

    def train(self, x: Floats) -> None:
        """Train on the rows of x (n, d)."""
        self._index = HiHPQIndex.from_codec(self._train(x), device="cpu")

    def add(self, x: Floats) -> None:
        """Encode the rows of x (n, d) and keep their codes."""
        self._index.add(x)

    def search(self, query: Floats, k: int) -> dict[str, Ids]:
        """The k nearest rows of each query (nq, d), shape (nq, k), with and without corrections."""
        found = {"": self._index.search(query, k)[1]}
        if self._is_corrected:
            found[CORRECTED] = self._index.search(query, k, refine=CANDIDATES)[1]
        return found


OURS: dict[str, MakeCodes] = {
    f"hyperpq {name}": partial(HyperPQCodes, name) for name in ("fidelity", "balanced", "default")
}
# Names in the runs of one training.
VARIANTS = {"hyperpq fidelity": ("", CORRECTED)}
# These bring features to unit length.
UNIT_LENGTH = ("hyperpq balanced", "hyperpq default")
