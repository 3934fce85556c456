"""`Recipe`: every setting of a training, in one commented file.

The settings form seven groups, each a frozen dataclass. Below, every field has its default, its
unit where it has one, and where its value comes from:

- *paper*: the HiHPQ paper (arXiv 2401.07212) or the configuration files of its official code. The
  values of the preset ``paper`` that differ from the defaults are in `training.presets`.
- *measured*: chosen by the experiments of docs/method/choices.md.

The names of all fields are different, so `Recipe.replace` takes the fields of every group::

    recipe = Recipe().replace(epochs=10, width=128)
    recipe.optimiser.epochs, recipe.representation.width
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from hyperpq.codec.config import Head, Normalization
from hyperpq.errors import InvalidInputError
from hyperpq.geometry.registry import CURVATURE_RANGE, GeometryName
from hyperpq.training.fields import (
    POSITIVE,
    SHARE,
    Bounds,
    CheckedSettings,
    choice,
    flag,
    optional_whole,
    real,
    text,
    whole,
    wholes,
)

Objective = Literal["semantic", "fidelity", "balanced"]
OptimizerName = Literal["sgd", "adamw"]
Augmentation = Literal["paper", "mild"]

# The default number of epochs: MAX_EPOCHS for up to FULL_EPOCHS_ROWS features, for more features
# fewer in proportion, and never less than MIN_EPOCHS (measured).
MAX_EPOCHS, MIN_EPOCHS, FULL_EPOCHS_ROWS = 24, 8, 5000


@dataclass(frozen=True)
class RepresentationSettings(CheckedSettings):
    """The map from a feature to tangent vectors, and the space that they live in."""

    width: int = whole(256, POSITIVE)
    """F, the tangent coordinates of all subspaces together; a multiple of ``subspaces``. Measured;
    the paper has 32, 64 or 128, by data set and code length."""

    subspaces: int = whole(8)
    """Number of subspaces that the representation is learned on. The codebooks of the requested
    code length are fitted to it afterwards. 0 learns on the M subspaces of the code itself and
    keeps the codebooks as trained, as in the paper. Measured."""

    normalization: Normalization = choice("power", Normalization)
    """What happens to a feature first. ``power``: signed square root, minus the mean of the
    training set, unit length (measured). ``unit``: unit length (paper). ``none``: nothing."""

    head: Head = choice("linear", Head)
    """Kind of the linear map to tangent vectors. ``linear`` (paper); ``orthogonal`` has orthonormal
    columns times one scale, a point on a Stiefel manifold."""

    hidden: int = whole(0)
    """Units of a residual branch beside the linear map; 0 leaves the branch out. Measured: 1024
    units gain nothing."""

    dropout: float = real(0.0, Bounds(high=1, high_open=True))
    """Share of the units of the branch that are left out in a training step, 0 to below 1."""

    max_norm: float = real(1.5, POSITIVE)
    """Clip radius: longer tangent vectors of a subspace are shortened to this length. Paper: 0.5 to
    1.5, by data set and code length."""

    radius: float = real(0.6, POSITIVE)
    """Median length of the tangent vectors of a subspace at the start, in the units of
    ``max_norm``. It sets the scale of all distances. Measured."""

    geometry: GeometryName = choice("lorentz", GeometryName)
    """Space of each subspace: ``lorentz`` (hyperbolic; paper), ``euclidean`` or ``sphere``. Their
    mAP differs by at most .001 (measured)."""

    curvature: float = real(1.0, Bounds(*CURVATURE_RANGE))
    """c of every subspace at the start; the curvature is -c in hyperbolic and c in spherical
    space. Paper."""

    train_curvature: bool = flag(True)
    """Whether the curvatures are learned (paper). Euclidean space has none to learn."""

    def __post_init__(self) -> None:
        """Check the fields, and that the subspaces have equal widths."""
        super().__post_init__()
        if self.subspaces and self.width % self.subspaces:
            raise InvalidInputError(
                f"width is {self.width}; expected a multiple of subspaces, {self.subspaces}."
            )


@dataclass(frozen=True)
class ContrastSettings(CheckedSettings):
    """The contrastive loss between the images of a batch (paper, equation 8)."""

    temperature: float = real(0.25, POSITIVE)
    """T of all losses, in units of the product distance. Measured; the paper has 0.2 or 0.5."""

    continuous_weight: float = real(1.0)
    """Weight of the contrast of continuous with continuous points. Measured; the paper has 0."""

    cross_weight: float = real(0.0)
    """Weight of the contrast of continuous with quantized points, which a search compares.
    Measured."""

    quantized_weight: float = real(0.0)
    """Weight of the contrast of quantized with quantized points. Measured; the paper has 1."""

    positive_weight: float = real(0.2, SHARE)
    """Share of the target, 0 to 1, that is on the positive of each view; the rest is distributed by
    the affinities of the graph. Measured; without a graph it is all on the positive."""

    straight_through: bool = flag(False)
    """How a point is quantized in training. False: softly, by attention over the codebook (paper).
    True: to its nearest codeword, with the gradient passed on to the point. Measured."""

    def __post_init__(self) -> None:
        """Check the fields, and that there is something to contrast."""
        super().__post_init__()
        if not self.continuous_weight + self.cross_weight + self.quantized_weight > 0:
            raise InvalidInputError(
                "continuous_weight, cross_weight and quantized_weight are all 0; expected at least "
                "one to be more."
            )

    @property
    def quantizes(self) -> bool:
        """Whether quantized points take part."""
        return self.cross_weight + self.quantized_weight > 0


@dataclass(frozen=True)
class GraphSettings(CheckedSettings):
    """The neighbour graph of the training features, which says what belongs together.

    The defaults are measured; the paper has no graph.
    """

    graph_neighbours: int = whole(20)
    """Neighbours of each image on the graph, at most `graph.walk_support` of them. 0 leaves the
    graph out: the positive of a view is then another view of the same image (paper)."""

    graph_steps: int = whole(8)
    """Steps of the random walk whose affinities the contrast imitates; an even number. 0 takes the
    positives alone."""

    image_weight: float = real(0.0)
    """Weight of an image beside each of its views, in the mean that is on the graph. 0 derives it
    from the data (`graph.image_weight`)."""

    walk_steps: int = whole(2)
    """Steps of the random walk from an image to its positive; 0 takes the image itself."""

    def __post_init__(self) -> None:
        """Check the fields, and that the walk has two equal halves."""
        super().__post_init__()
        if self.graph_steps % 2:
            raise InvalidInputError(f"graph_steps is {self.graph_steps}; expected an even number.")


@dataclass(frozen=True)
class HierarchySettings(CheckedSettings):
    """The hierarchical losses of the paper, over clusters of the training features.

    Beside the graph they gain nothing, so their weights are 0 (measured).
    """

    levels: tuple[int, ...] = wholes((100, 50, 25))
    """Clusters of each level, finest first, each at least 2. Paper: by data set."""

    prototype_weight: float = real(0.0)
    """Weight of the prototype loss beside the contrastive loss. The paper has 1."""

    neighbour_weight: float = real(0.0)
    """Weight of the neighbour loss beside the contrastive loss. The paper has 0.1."""

    warmup_epochs: int = whole(2)
    """Epochs of the contrastive loss alone, before the hierarchical losses join. The paper has 1 to
    5, by data set."""

    def __post_init__(self) -> None:
        """Check the fields, and the size of each level."""
        super().__post_init__()
        if any(level < 2 for level in self.levels):
            raise InvalidInputError(f"levels are {self.levels}; expected 2 or more clusters each.")


@dataclass(frozen=True)
class CodebookSettings(CheckedSettings):
    """The codebooks, and the smoothing of the vectors that are coded."""

    beta: float = real(0.0)
    """Sharpness of the attention over a codebook, per squared distance. The paper has 1, 5 or 15.
    0 derives it from the data (`initialize.ATTENTION_SHARPNESS`)."""

    smoothing_weight: float = real(0.15, SHARE)
    """Share, 0 to 1, of the mean of the nearest centroids in a vector that is coded or queried with
    (query expansion and database-side augmentation), for codes of up to 64 bits. Measured; the
    paper has none."""

    smoothing_neighbours: int = whole(12)
    """Centroids in that mean. Measured."""

    distil_epochs: int = whole(4)
    """Passes over the sample in which fitted codewords learn to rank as continuous distances do.
    Measured; the paper has none."""

    repair: bool = flag(True)
    """Whether codewords that no feature uses move to features far from theirs, after each epoch.
    The official code has no such step."""


@dataclass(frozen=True)
class OptimiserSettings(CheckedSettings):
    """The optimiser and its schedule."""

    epochs: int | None = optional_whole()
    """Passes over the training set; 0 leaves PCA and k-means. None takes as many as the number of
    features asks for (`Recipe.for_size`). Measured; the paper has 50."""

    batch: int = whole(256, POSITIVE)
    """Images in a step, each with two views. Measured; the paper has 128."""

    optimizer: OptimizerName = choice("adamw", OptimizerName)
    """``adamw`` (measured) or ``sgd`` (paper). An orthogonal head takes the Riemannian one of the
    two."""

    lr: float = real(1e-3, POSITIVE)
    """Highest learning rate. Measured; the paper has 0.01 with ``sgd``."""

    momentum: float = real(0.9)
    """Momentum of ``sgd``. Paper."""

    weight_decay: float = real(0.01)
    """Decay of weights and codebooks; biases and curvatures are never decayed. Measured; the paper
    has 0.005."""

    lr_warmup: float = real(1.0)
    """Epochs in which the rate rises linearly, before it falls to 0 on a cosine. Paper."""

    @property
    def settled_epochs(self) -> int:
        """The epochs where they may not be left open: after `Recipe.for_size`."""
        if self.epochs is None:
            raise ValueError("epochs is None; expected a number; settle it by Recipe.for_size.")
        return self.epochs


@dataclass(frozen=True)
class ViewSettings(CheckedSettings):
    """The augmented views of the training images."""

    augmentation: Augmentation = choice("mild", Augmentation)
    """Strength of the augmentation of images: ``paper`` or ``mild``, see `datasets.augment`.
    Measured."""

    n_views: int = whole(4, POSITIVE)
    """Views of each training image, made once before the training. Measured; the paper draws new
    ones for every step."""

    transferred_views: int = whole(0)
    """Further views of each training image that has views of its own, made of views of other images
    (`training.feature_views.transferred_views`). They cost no pass of the network. `hyperpq build`
    sets as many as its ``--n-views`` leaves of ``n_views`` (measured)."""


@dataclass(frozen=True)
class Recipe(CheckedSettings):
    """All settings of a training; the module documents every field."""

    name: str = text("default")
    """Preset that the recipe came from. Recorded with the codec, and of no effect."""

    objective: Objective = choice("semantic", Objective)
    """What codes keep. ``semantic``: images that belong together get near codes (paper).
    ``fidelity``: codes keep the exact cosine neighbours of the features
    (`training.reconstruction`); of all other fields only ``epochs`` counts then. ``balanced``: one
    half of the codes is semantic and the other of fidelity, and a search adds up both distances
    (`codec.BalancedCodec`)."""

    balance: float = real(0.25, SHARE)
    """Weight of the distance by fidelity codes beside that by semantic codes, 0 to 1; of effect
    with the objective ``balanced``. Measured."""

    holdout_check: bool = flag(True)
    """Whether a held-out part of the features decides if the learned codec is kept
    (`training.holdout_check`). The paper has no such check."""

    representation: RepresentationSettings = RepresentationSettings()
    contrast: ContrastSettings = ContrastSettings()
    graph: GraphSettings = GraphSettings()
    hierarchy: HierarchySettings = HierarchySettings()
    codebooks: CodebookSettings = CodebookSettings()
    optimiser: OptimiserSettings = OptimiserSettings()
    views: ViewSettings = ViewSettings()

    def __post_init__(self) -> None:
        """Check the fields, and that each group is one."""
        super().__post_init__()
        for group, kind in GROUPS.items():
            value = getattr(self, group)
            if not isinstance(value, kind):
                raise InvalidInputError(f"{group} is {value!r}; expected {kind.__name__}.")

    @property
    def learns_codebooks(self) -> bool:
        """Whether codebooks are learned with the head; else they are only fitted afterwards."""
        return not self.representation.subspaces or self.contrast.quantizes

    @property
    def is_semantic(self) -> bool:
        """Whether codes, or some of them, are learned from views and the graph."""
        return self.objective != "fidelity"

    def replace(self, **changes: object) -> Recipe:
        """Copy with some fields changed.

        Parameters
        ----------
        **changes
            Fields of the recipe and of its groups by their own names, e.g. ``epochs=10``.

        Raises
        ------
        InvalidInputError
            A field is unknown, or its value isn't valid.
        """
        unknown = sorted(set(changes) - set(GROUP_OF))
        if unknown:
            raise InvalidInputError(
                f"a recipe has no {', '.join(unknown)}; its fields are "
                f"{', '.join(sorted(GROUP_OF))}."
            )
        own: dict[str, Any] = {}
        by_group: dict[str, dict[str, Any]] = {}
        for name, value in changes.items():
            group = GROUP_OF[name]
            (by_group.setdefault(group, {}) if group else own)[name] = value
        for group, values in by_group.items():
            own[group] = dataclasses.replace(getattr(self, group), **values)
        return dataclasses.replace(self, **own)

    def for_size(self, n: int) -> Recipe:
        """Copy whose ``epochs`` are a number: those for n features if they were left open."""
        if self.optimiser.epochs is not None:
            return self
        epochs = round(MAX_EPOCHS * FULL_EPOCHS_ROWS / n)
        return self.replace(epochs=min(MAX_EPOCHS, max(MIN_EPOCHS, epochs)))

    def to_dict(self) -> dict[str, Any]:
        """All fields by their own names, as JSON types and without groups."""
        out: dict[str, Any] = {}
        for name, group in GROUP_OF.items():
            value = getattr(getattr(self, group) if group else self, name)
            out[name] = list(value) if isinstance(value, tuple) else value
        return out


# The groups of a recipe, and the group of every field ("" for the recipe's own fields).
GROUPS: dict[str, type[CheckedSettings]] = {
    one.name: type(one.default)
    for one in dataclasses.fields(Recipe)
    if isinstance(one.default, CheckedSettings)
}
GROUP_OF: dict[str, str] = {
    one.name: "" for one in dataclasses.fields(Recipe) if one.name not in GROUPS
} | {one.name: group for group, kind in GROUPS.items() for one in dataclasses.fields(kind)}
