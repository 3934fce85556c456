"""`Recipe`: every choice of a training, and the presets `paper` and `default`."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import asdict, dataclass, fields
from numbers import Integral, Real
from typing import Any

from hyperpq.errors import InvalidInputError
from hyperpq.quantizers.product import CURVATURE_RANGE

PRESETS = ("default", "paper")
OBJECTIVES = ("semantic", "fidelity")
# beta times the median squared distance to the nearest codeword.
SHARPNESS = 2.0
# Fields whose names in a codec file, which its versions up to 3 fix, are other ones.
_STORED = {"image_weight": "picture_weight"}
# Epochs up to `_FULL` features, and the least of more.
_EPOCHS, _FULL = (24, 8), 5000
_NOT_NEGATIVE = (
    "subspaces",
    "hidden",
    "beta",
    "continuous_weight",
    "cross_weight",
    "quantized_weight",
    "graph_neighbours",
    "graph_steps",
    "image_weight",
    "walk",
    "prototype_weight",
    "neighbour_weight",
    "epochs",
    "distil_epochs",
    "average_neighbours",
    "warmup_epochs",
    "weight_decay",
    "lr_warmup",
    "momentum",
)

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
    if kind.endswith(" | None"):
        if value is None:
            return None
        kind = kind.removesuffix(" | None")
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
    objective : {"semantic", "fidelity"}
        ``semantic``: images that belong together get near codes. ``fidelity``: codes keep the
        exact cosine neighbours of the features (`training.fidelity`); of the other fields only
        ``epochs`` counts then.
    width : int
        F, tangent coordinates over all subspaces.
    subspaces : int
        Subspaces that the representation is learned on; the codebooks of the requested length are
        fitted to it afterwards. 0 learns on the code's own M subspaces and keeps the codebooks as
        trained, as published.
    conditioning, head, hidden, dropout
        See `HiHPQCodec`.
    max_norm : float
        Clip radius.
    beta : float
        Attention sharpness, see `LorentzProductQuantizer`; 0 derives it from the data, as
        `SHARPNESS` over the median squared distance to the nearest codeword at the start.
    radius : float
        Median length of a subspace's tangent vector at the start: the scale of all distances.
    temperature : float
        T of all losses, in units of the product distance.
    continuous_weight, cross_weight, quantized_weight : float
        Weights of the contrast between continuous views, between continuous and quantized ones
        (as at search time), and between quantized ones (the paper's).
    graph_neighbours : int
        Neighbours of each image on the graph of the training features, `graph.reach` at most. 0
        leaves the graph out: the partner of a view is another view of the same image, as
        published.
    graph_steps : int
        Steps of the diffusion whose affinities the contrast imitates; 0 takes the partner alone.
    image_weight : float
        Of an image beside each of its views, in the mean that is on the graph; 0 derives it from
        the data (`graph.image_weight`).
    walk : int
        Steps on the graph from an image to its partner; 0 stays there.
    partner_weight : float
        Share of the contrast's target that is on the partner; the rest follows the affinities.
    levels : tuple of int
        Clusters of each level of the hierarchy, finest first.
    prototype_weight, neighbour_weight : float
        Weights beside the contrastive loss.
    warmup_epochs : int
        Epochs of contrastive loss alone before the hierarchy enters.
    epochs : int, optional
        Passes over the training set. None takes 24, and the fewer the more there are than 5,000
        features, but not less than 8 (`with_epochs`).
    batch : int
        Images a step.
    optimizer : {"sgd", "adamw"}
        With ``lr``, ``momentum`` (sgd) and ``weight_decay``; curvatures are never decayed.
    lr_warmup : float
        Epochs of linear rise before the cosine.
    train_curvature : bool
        Whether the curvatures are learned; they start at ``curvature``.
    curvature : float
        Start of every c, in the range of the quantizer.
    repair : bool
        Whether unused codewords are moved to crowded places after each epoch.
    guard : bool
        Whether a held-out part of the features decides if the learned codec is kept
        (`training.guard`).
    views : str
        Strength of image views: ``paper`` or ``mild`` (`datasets.augment`).
    n_views : int
        Views made of each training image.
    """

    name: str = "default"
    objective: str = "semantic"
    width: int = 256
    subspaces: int = 8
    average_weight: float = 0.15
    average_neighbours: int = 12
    distil_epochs: int = 4
    conditioning: str = "root"
    head: str = "linear"
    hidden: int = 0
    dropout: float = 0.0
    max_norm: float = 1.5
    beta: float = 0.0
    radius: float = 0.6
    temperature: float = 0.25
    continuous_weight: float = 1.0
    cross_weight: float = 0.0
    quantized_weight: float = 0.0
    graph_neighbours: int = 20
    graph_steps: int = 8
    image_weight: float = 0.0
    walk: int = 2
    partner_weight: float = 0.2
    levels: tuple[int, ...] = (100, 50, 25)
    prototype_weight: float = 0.0
    neighbour_weight: float = 0.0
    warmup_epochs: int = 2
    epochs: int | None = None
    batch: int = 256
    optimizer: str = "adamw"
    lr: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 0.01
    lr_warmup: float = 1.0
    train_curvature: bool = True
    curvature: float = 1.0
    repair: bool = True
    guard: bool = True
    views: str = "mild"
    n_views: int = 4

    def __post_init__(self) -> None:
        for f in fields(self):
            # Plain Python numbers, which JSON can hold, whatever kind of number was given.
            object.__setattr__(self, f.name, _as_kind(getattr(self, f.name), f.name, str(f.type)))
        positive = ("width", "max_norm", "radius", "temperature", "batch", "lr", "n_views")
        for name in positive:
            if not getattr(self, name) > 0:
                raise InvalidInputError(f"{name} is {getattr(self, name)}; expected more than 0.")
        for name in _NOT_NEGATIVE:
            if (getattr(self, name) or 0) < 0:
                raise InvalidInputError(f"{name} is {getattr(self, name)}; expected 0 or more.")
        if self.optimizer not in ("sgd", "adamw"):
            raise InvalidInputError(f"optimizer is {self.optimizer!r}; choose sgd or adamw.")
        if self.views not in ("paper", "mild"):
            raise InvalidInputError(f"views are {self.views!r}; choose paper or mild.")
        if self.objective not in OBJECTIVES:
            raise InvalidInputError(
                f"objective is {self.objective!r}; choose one of {', '.join(OBJECTIVES)}."
            )
        if self.subspaces and self.width % self.subspaces:
            raise InvalidInputError(
                f"width is {self.width}; expected a multiple of subspaces, {self.subspaces}."
            )
        if self.graph_steps % 2:
            raise InvalidInputError(f"graph_steps is {self.graph_steps}; expected an even number.")
        for name in ("partner_weight", "average_weight"):
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidInputError(f"{name} is {getattr(self, name)}; expected 0 to 1.")
        if not 0 <= self.dropout < 1:
            raise InvalidInputError(f"dropout is {self.dropout}; expected 0 to below 1.")
        low, high = CURVATURE_RANGE
        if not low <= self.curvature <= high:
            raise InvalidInputError(f"curvature is {self.curvature}; expected {low} to {high}.")
        if not self.continuous_weight + self.cross_weight + self.quantized_weight > 0:
            raise InvalidInputError(
                "continuous_weight, cross_weight and quantized_weight are all 0; one must be more."
            )
        if any(level < 2 for level in self.levels):
            raise InvalidInputError(f"levels are {self.levels}; each needs at least 2 clusters.")

    @property
    def quantizes(self) -> bool:
        """Whether quantized points take part in the contrast."""
        return self.cross_weight + self.quantized_weight > 0

    @property
    def learns_codebooks(self) -> bool:
        """Whether codebooks are learned with the head; else they are only fitted afterwards."""
        return not self.subspaces or self.quantizes

    def replace(self, **changes: Any) -> Recipe:
        """Copy with some fields changed; an unknown field is an `InvalidInputError`."""
        known = {f.name for f in fields(self)}
        unknown = sorted(set(changes) - known)
        if unknown:
            raise InvalidInputError(
                f"a recipe has no {', '.join(unknown)}; its fields are {', '.join(sorted(known))}."
            )
        return dataclasses.replace(self, **changes)

    def with_epochs(self, n: int) -> Recipe:
        """Copy whose ``epochs`` are a number: those for n features if they were left open."""
        if self.epochs is not None:
            return self
        most, least = _EPOCHS
        return dataclasses.replace(self, epochs=int(min(most, max(least, round(most * _FULL / n)))))

    def to_dict(self) -> dict[str, Any]:
        """Fields as JSON types, recorded in the codec."""
        return {
            _STORED.get(k, k): list(v) if isinstance(v, tuple) else v
            for k, v in asdict(self).items()
        }


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
        subspaces=0,
        average_weight=0.0,
        average_neighbours=0,
        distil_epochs=0,
        conditioning="unit",
        continuous_weight=0.0,
        quantized_weight=1.0,
        graph_neighbours=0,
        graph_steps=0,
        walk=0,
        partner_weight=1.0,
        prototype_weight=1.0,
        neighbour_weight=0.1,
        max_norm=r,
        beta=beta,
        temperature=temperature,
        levels=levels,
        warmup_epochs=warmup,
        epochs=50,
        batch=128,
        optimizer="sgd",
        lr=0.01,
        weight_decay=5e-3,
        repair=False,
        guard=False,
        views="paper",
    )


def get_recipe(recipe: str | Recipe, bits: int, **changes: Any) -> Recipe:
    """A preset by name (or a recipe as it is) for a code length, with some fields changed."""
    if isinstance(recipe, Recipe):
        return recipe.replace(**changes)
    if recipe == "paper":
        return paper(bits).replace(**changes)
    if recipe == "default":
        return Recipe().replace(**changes)
    raise InvalidInputError(f"recipe is {recipe!r}; choose one of {', '.join(PRESETS)}.")
