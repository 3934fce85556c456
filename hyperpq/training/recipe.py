"""`Recipe`: every choice of a training, and the presets `paper` and `default`."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from numbers import Integral, Real
from typing import Any

from hyperpq.errors import InvalidInputError

PRESETS = ("default", "paper")

# Radius r, attention beta, temperature T, levels, warm-up epochs and feature width F for each
# published setting and code length, from the official configuration files.
PAPER_SETTINGS: dict[str, dict[int, tuple[float, float, float, tuple[int, ...], int, int]]] = {
    "cifar10-i": {
        16: (0.8, 5, 0.2, (200, 100, 50), 3, 32),
        32: (0.6, 5, 0.2, (200, 100, 50), 5, 64),
        64: (1.5, 1, 0.2, (200, 100, 50), 3, 64),
    },
    "cifar10-ii": {
        16: (0.8, 5, 0.2, (100, 50, 25), 3, 32),
        32: (1.5, 1, 0.2, (100, 50, 25), 3, 64),
        64: (1.5, 1, 0.2, (100, 50, 25), 3, 64),
    },
    "flickr25k": {
        16: (1.5, 5, 0.5, (50, 20), 1, 32),
        32: (0.5, 15, 0.5, (50, 20), 1, 64),
        64: (0.5, 15, 0.5, (50, 20), 1, 64),
    },
    "nuswide": {
        16: (0.8, 5, 0.2, (200, 100, 75), 3, 32),
        32: (0.8, 5, 0.5, (200, 100, 75), 3, 64),
        64: (0.8, 5, 0.5, (200, 100, 75), 3, 128),
    },
}


def _as_kind(value: Any, name: str, kind: str) -> Any:
    """``value`` as the kind of a field, if nothing is lost by it."""
    if kind == "bool" and isinstance(value, bool):
        return value
    if kind == "str" and isinstance(value, str):
        return value
    if kind == "int" and isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    if kind == "float" and isinstance(value, Real) and math.isfinite(value):
        return float(value)
    if kind.startswith("tuple") and isinstance(value, (tuple, list)):
        return tuple(_as_kind(item, name, "int") for item in value)
    what = {"str": "a name", "bool": "True or False", "float": "a finite number"}
    raise InvalidInputError(f"{name} is {value!r}; expected {what.get(kind, 'whole numbers')}.")


@dataclass(frozen=True)
class Recipe:
    """All hyperparameters of a training.

    Attributes
    ----------
    name : str
        Preset it came from.
    width : int
        F, tangent coordinates over all subspaces; D = F // M, at least 1.
    conditioning, head : str
        See `HiHPQCodec`.
    max_norm, beta : float
        Clip radius and attention sharpness, see `LorentzProductQuantizer`.
    radius : float
        Median length of a subspace's tangent vector at the start.
    temperature : float
        T of all three losses, in units of the product distance.
    levels : tuple of int
        Clusters of each level of the hierarchy, finest first.
    prototype_weight, neighbour_weight : float
        Weights beside the contrastive loss.
    warmup_epochs : int
        Epochs of contrastive loss alone before the hierarchy enters.
    epochs, batch : int
        Passes over the training set and pictures a step.
    optimizer : {"sgd", "adamw"}
        With ``lr``, ``momentum`` (sgd) and ``weight_decay``; curvatures are never decayed.
    lr_warmup : float
        Epochs of linear rise before the cosine.
    train_curvature : bool
        Whether the curvatures are learned.
    repair : bool
        Whether unused codewords are moved to crowded places after each epoch.
    views : str
        Strength of picture views: ``paper`` or ``mild`` (`datasets.augment`).
    n_views : int
        Views made of each training picture.
    """

    name: str = "default"
    width: int = 64
    conditioning: str = "root"
    head: str = "linear"
    max_norm: float = 1.5
    beta: float = 20.0
    radius: float = 0.6
    temperature: float = 0.5
    levels: tuple[int, ...] = (100, 50, 25)
    prototype_weight: float = 1.0
    neighbour_weight: float = 0.1
    warmup_epochs: int = 3
    epochs: int = 30
    batch: int = 128
    optimizer: str = "adamw"
    lr: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 0.01
    lr_warmup: float = 1.0
    train_curvature: bool = True
    repair: bool = True
    views: str = "mild"
    n_views: int = 4

    def __post_init__(self) -> None:
        for f in fields(self):
            # Plain Python numbers, which JSON can hold, whatever kind of number was given.
            object.__setattr__(self, f.name, _as_kind(getattr(self, f.name), f.name, str(f.type)))
        positive = ("width", "max_norm", "beta", "radius", "temperature", "batch", "lr", "n_views")
        for name in positive:
            if not getattr(self, name) > 0:
                raise InvalidInputError(f"{name} is {getattr(self, name)}; expected more than 0.")
        for name in ("epochs", "warmup_epochs", "weight_decay", "lr_warmup", "momentum"):
            if getattr(self, name) < 0:
                raise InvalidInputError(f"{name} is {getattr(self, name)}; expected 0 or more.")
        if self.optimizer not in ("sgd", "adamw"):
            raise InvalidInputError(f"optimizer is {self.optimizer!r}; choose sgd or adamw.")
        if self.views not in ("paper", "mild"):
            raise InvalidInputError(f"views are {self.views!r}; choose paper or mild.")
        if any(level < 2 for level in self.levels):
            raise InvalidInputError(f"levels are {self.levels}; each needs at least 2 clusters.")

    def with_(self, **changes: Any) -> Recipe:
        """Copy with some fields changed; an unknown field is an `InvalidInputError`."""
        known = {f.name for f in fields(self)}
        unknown = sorted(set(changes) - known)
        if unknown:
            raise InvalidInputError(
                f"a recipe has no {', '.join(unknown)}; its fields are {', '.join(sorted(known))}."
            )
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Fields as JSON types, recorded in the codec."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def paper(bits: int, dataset: str = "cifar10-ii") -> Recipe:
    """The published recipe for a code length.

    Parameters
    ----------
    bits : int
        Bits of a code; lengths that weren't published take the nearest that was.
    dataset : str
        Whose settings: a key of `PAPER_SETTINGS`.

    Returns
    -------
    Recipe
        Without the known defects of the official code (docs/method.md): no weight decay on
        curvatures, no choice of epoch on test data, self pairs masked in the neighbour loss.
    """
    if dataset not in PAPER_SETTINGS:
        raise InvalidInputError(
            f"dataset is {dataset!r}; settings were published for {', '.join(PAPER_SETTINGS)}."
        )
    table = PAPER_SETTINGS[dataset]
    r, beta, temperature, levels, warmup, width = table[min(table, key=lambda b: abs(b - bits))]
    return Recipe(
        name="paper",
        width=width,
        conditioning="unit",
        max_norm=r,
        beta=beta,
        temperature=temperature,
        levels=levels,
        warmup_epochs=warmup,
        epochs=50,
        optimizer="sgd",
        lr=0.01,
        weight_decay=5e-3,
        repair=False,
        views="paper",
    )


def get_recipe(recipe: str | Recipe, bits: int, **changes: Any) -> Recipe:
    """A preset by name (or a recipe as it is) for a code length, with some fields changed."""
    if isinstance(recipe, Recipe):
        return recipe.with_(**changes)
    if recipe == "paper":
        return paper(bits).with_(**changes)
    if recipe == "default":
        # Subspaces of at least 16 dimensions: at 64 bits .588 against .580 with 8 (CIFAR-10 II).
        return Recipe(width=max(64, 2 * bits)).with_(**changes)
    raise InvalidInputError(f"recipe is {recipe!r}; choose one of {', '.join(PRESETS)}.")
