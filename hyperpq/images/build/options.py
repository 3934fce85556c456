"""`BuildOptions`: what a build is asked for; `BuildReport`: what it did."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypedDict

from hyperpq.backbones.base import PRECISIONS, PrecisionChoice
from hyperpq.codec.config import (
    INNER,
    LEARNED_METRICS,
    balanced_parts,
    check_metric,
    stored_metric,
)
from hyperpq.codec.feature_codec import KEPT, KeptFeatures
from hyperpq.errors import InvalidInputError
from hyperpq.images.metadata import MAX_MEGAPIXELS
from hyperpq.index.cells import as_nlist
from hyperpq.training.finetune_settings import FinetuneSettings
from hyperpq.training.presets import END_TO_END, get_recipe
from hyperpq.utils.validation import as_choice, as_count, as_number

ViewMakers = Literal["auto", "files", "device"]
"""Where augmented views are made, see `BuildOptions`."""

# Fields that are stored in an index under another name, which the format fixes.
_STORED_NAMES = {"metric": "score"}
FIXED_OPTIONS = frozenset(
    (
        *("bits", "recipe", "objective", "metric", "seed", "train_size", "view_size", "n_views"),
        *("epochs", "features", "finetune", "precision", "views", "cells"),
    )
)
"""Options that an index has for life, as its codec was trained with them."""
_TRAINING_OPTIONS = (
    *("recipe", "objective", "epochs", "train_size", "view_size", "n_views"),
    *("finetune", "views"),
)
GRAPH_VIEWS = 2
"""Views of each image by default where training has a neighbour graph. Four have nearly that mAP
(docs/method/choices.md)."""
# Views of the builds whose indexes do not record their number.
_UNRECORDED_VIEWS = 4


def subquantizers(bits: int) -> int:
    """Number M of 8-bit codes in a code of ``bits`` bits.

    Raises
    ------
    InvalidInputError
        If ``bits`` is not a multiple of 8 from 8 to 512.
    """
    if not isinstance(bits, int) or bits % 8 or not 8 <= bits <= 512:
        raise InvalidInputError(f"bits is {bits!r}; expected a multiple of 8 from 8 to 512.")
    return bits // 8


class BuildChoices(TypedDict, total=False):
    """Fields of `BuildOptions`, but for the backbone, that the caller of a build chooses."""

    bits: int
    seed: int
    train_size: int
    view_size: int
    n_views: int | None
    recipe: str
    objective: str
    codec: str | os.PathLike[str] | None
    epochs: int | None
    metric: str | None
    max_megapixels: float
    include_hidden: bool
    exclude: Sequence[str]
    features: KeptFeatures
    finetune: FinetuneSettings | float | None
    precision: PrecisionChoice
    views: ViewMakers
    cells: int | Literal["auto"] | None


@dataclass(frozen=True)
class BuildOptions:
    """What determines the content of an index; a build is only resumed with equal options.

    Attributes
    ----------
    bits : int
        Bits of the code of an image, a multiple of 8 from 8 to 512.
    backbone : str
        Name of the network, see `backbones.load_backbone`.
    seed : int
        Seed of the sample, the views and the training.
    train_size : int
        Largest number of images to train on; they are chosen at random.
    view_size : int
        Largest number of these images that augmented views are made of. Each of them costs as much
        time as ``1 + n_views`` images.
    n_views : int, optional
        Views of each of these images. None, the default, becomes `GRAPH_VIEWS`, or the ``n_views``
        of a recipe without a neighbour graph. Where the recipe has more, the others are made of
        views of other images (``transferred_views``).
    recipe : str
        Preset of the training, see `get_recipe`. ``paper-finetuned`` trains network and codec
        together, and needs ``finetune``.
    objective : {"semantic", "fidelity", "balanced"}
        See `Recipe`.
    codec : path-like, optional
        Index directory whose codec a new index takes, at the length of ``bits``, instead of
        training one.
    epochs : int, optional
        Number of epochs; that of the recipe by default.
    metric : {"l1", "geodesic", "chord", "cosine", "l2", "ip"}, optional
        See `HiHPQIndex`; ``l1``, ``cosine`` with the objective ``fidelity``, or the metric of
        ``codec``, by default.
    max_megapixels : float
        Larger images are skipped.
    include_hidden, exclude
        See `datasets.folder.list_images`.
    features : {"int8", "float16", "float32", "none"}
        How the index keeps the features of its images, see `FeatureCodec`. With features it can
        learn its codec again when it has grown. They take 1,284 bytes an image as int8 and 2,560
        as float16 with the network ``lite0``.
    finetune : FinetuneSettings, float or None
        Settings by which the network is fine-tuned on the training images before anything is
        encoded, or only a number of minutes. The index then has tuned weights of its own. None, the
        default, leaves the network as it is.
    precision : {"auto", "float32", "int8", "bfloat16", "float16"}
        What the network computes in, see `load_backbone`. ``auto``, the default, chooses int8 or
        float32 when a build begins, and the index records which: another machine may choose
        otherwise. It is float32 with ``finetune``, where int8 is an error, and that of ``codec``
        with a codec.
    views : {"auto", "files", "device"}
        Where augmented views are made: by the workers from the decoded files, or on the device of
        the network, see `images.device_passes`. ``auto``, the default, chooses ``device`` if that
        is a GPU when a build begins, and the index records which.
    cells : int, "auto" or None
        Number of cells that the codes of a new index are grouped by, see `HiHPQIndex.make_cells`.
    """

    # The order of the fields is that of the stored options.
    bits: int = 64
    backbone: str = "lite0"
    seed: int = 0
    train_size: int = 25_000
    view_size: int = 5000
    n_views: int | None = None
    recipe: str = "default"
    objective: str = "semantic"
    codec: str | os.PathLike[str] | None = None
    epochs: int | None = None
    metric: str | None = None
    max_megapixels: float = MAX_MEGAPIXELS
    include_hidden: bool = False
    exclude: Sequence[str] = ()
    features: KeptFeatures = "int8"
    finetune: FinetuneSettings | float | None = None
    precision: PrecisionChoice = "auto"
    views: ViewMakers = "auto"
    cells: int | Literal["auto"] | None = None

    def __post_init__(self) -> None:
        subquantizers(self.bits)
        as_count(self.seed, "seed", 0)
        as_count(self.train_size, "train_size")
        as_count(self.view_size, "view_size", 0)
        if self.epochs is not None:
            as_count(self.epochs, "epochs", 0)
        if not 0 < as_number(self.max_megapixels, "max_megapixels") < math.inf:
            raise InvalidInputError(
                f"max_megapixels is {self.max_megapixels}; expected a finite number above 0."
            )
        for name in ("backbone", "recipe", "objective", "metric"):
            value = getattr(self, name)
            if not isinstance(value, str) and (name != "metric" or value is not None):
                raise InvalidInputError(f"{name} is {value!r}; expected a name.")
        if not isinstance(self.include_hidden, bool):
            raise InvalidInputError(
                f"include_hidden is {self.include_hidden!r}; expected True or False."
            )
        object.__setattr__(self, "exclude", _as_patterns(self.exclude))
        as_choice(self.features, "features", KEPT)
        if self.cells is not None:
            as_nlist(self.cells, 0)
        as_choice(self.precision, "precision", (*PRECISIONS, "auto"))
        as_choice(self.views, "views", ("auto", "files", "device"))
        if self.metric is not None:
            named = "cosine" if self.metric == INNER else self.metric
            object.__setattr__(self, "metric", as_choice(named, "metric", LEARNED_METRICS))
            check_metric(named, self.objective)
        recipe = get_recipe(self.recipe, self.bits, objective=self.objective)
        if self.n_views is None:
            has_graph = recipe.graph.graph_neighbours > 0
            object.__setattr__(self, "n_views", GRAPH_VIEWS if has_graph else recipe.views.n_views)
        as_count(self.n_views, "n_views")
        if self.objective == "balanced":
            balanced_parts(subquantizers(self.bits))
        object.__setattr__(self, "finetune", as_finetune(self.finetune))
        if self.finetune is not None and self.precision == "int8":
            raise InvalidInputError(
                "precision is 'int8' and finetune is given; expected 'float32' or 'auto', as a "
                "fine-tuned network loses too much in int8."
            )
        if self.recipe == END_TO_END:
            self._check_end_to_end()
        if self.codec is not None:
            object.__setattr__(self, "codec", os.path.abspath(self.codec))

    def _check_end_to_end(self) -> None:
        """Raise `InvalidInputError` unless network and codec can learn together."""
        problem, settings = "", self.finetune
        if self.objective != "semantic":
            problem = f"objective is {self.objective!r}; expected 'semantic'"
        elif not isinstance(settings, FinetuneSettings):
            problem = "finetune is not given; expected it, without a limit in minutes"
        elif settings.minutes:
            problem = f"finetune is {settings.minutes:g} minutes; expected no limit"
        if problem:
            raise InvalidInputError(
                f"{problem}, as the recipe {END_TO_END!r} trains network and codec together for a "
                "number of epochs; change it, or choose the recipe 'paper'."
            )

    def to_stored(self) -> dict[str, Any]:
        """Fields as JSON types, by the names that they have in an index."""
        stored = {"metric": stored_metric(self.metric), "exclude": list(self.exclude)}
        out = asdict(self) | stored
        if self.finetune is None:
            # As versions that cannot fine-tune have written it, and read it.
            del out["finetune"]
        if self.precision == "float32":
            del out["precision"]
        if self.views != "device":
            del out["views"]
        if self.cells is None:
            del out["cells"]
        return {_STORED_NAMES.get(name, name): value for name, value in out.items()}

    @classmethod
    def from_stored(cls, fields: Mapping[str, Any]) -> BuildOptions:
        """The options that `to_stored` wrote; missing fields take their defaults.

        Raises
        ------
        InvalidInputError
            If a field is not known or has a value that is not valid.
        """
        names = {stored: name for name, stored in _STORED_NAMES.items()}
        known = {names.get(name, name): value for name, value in fields.items()}
        if len(known) < len(fields) or not known.keys() <= cls.__dataclass_fields__.keys():
            unknown = sorted(map(repr, known.keys() - cls.__dataclass_fields__.keys()))
            raise InvalidInputError(
                f"the stored options of the build have {', '.join(unknown) or 'a name twice'}; "
                "expected only options of hyperpq build, so a later version may have written them."
            )
        # The path of another index is never stored, and earlier versions kept no features and
        # computed in float32.
        earlier: dict[str, Any] = {
            "features": "none",
            "precision": "float32",
            "views": "files",
            "n_views": _UNRECORDED_VIEWS,
        }
        return cls(**earlier | known | {"codec": None})


def as_finetune(value: object) -> FinetuneSettings | None:
    """Settings of fine-tuning from these, from a number of minutes, or as `to_stored` wrote them.

    Raises
    ------
    InvalidInputError
        If it is none of these.
    """
    if value is None or isinstance(value, FinetuneSettings):
        return value
    if isinstance(value, Mapping):
        unknown = value.keys() - FinetuneSettings.__dataclass_fields__.keys()
        if unknown:
            raise InvalidInputError(
                f"the stored settings of fine-tuning have {min(map(repr, unknown))}; expected "
                "those of FinetuneSettings, so a later version may have written them."
            )
        return FinetuneSettings(**value)
    minutes = as_number(value, "finetune")
    if not 0 < minutes < math.inf:
        raise InvalidInputError(
            f"finetune is {minutes:g} minutes; expected more than 0, or FinetuneSettings."
        )
    return FinetuneSettings(minutes=minutes)


def check_codec_alone(
    options: Mapping[str, object], shown: Callable[[str], str] = lambda name: name
) -> None:
    """Raise `InvalidInputError` if a codec is given together with options of the training.

    ``shown`` says how the error writes the name of an option.
    """
    given = [shown(name) for name in _TRAINING_OPTIONS if options.get(name) is not None]
    if options.get("codec") is not None and given:
        names, codec = " and ".join(given), shown("codec")
        raise InvalidInputError(
            f"{codec} is given, so nothing is trained and {names} would have no effect; leave out "
            f"{names}, or train a codec by leaving out {codec}."
        )


def _as_patterns(value: object) -> tuple[str, ...]:
    """The patterns of ``exclude``."""
    patterns = (value,) if isinstance(value, str) else value
    if not isinstance(patterns, Sequence) or isinstance(patterns, bytes):
        raise InvalidInputError(f"exclude is {value!r}; expected a list of patterns.")
    for pattern in patterns:
        try:
            os.fsencode(pattern if isinstance(pattern, str) else None)  # type: ignore[arg-type]
        except (TypeError, UnicodeEncodeError):
            raise InvalidInputError(
                f"exclude has {pattern!r}; expected text in the syntax of .gitignore."
            ) from None
    return tuple(patterns)


@dataclass
class BuildReport:
    """What a build did.

    Attributes
    ----------
    images : int
        Number of images in the index.
    added, removed : int
        Number of images added and removed; a changed image counts as both.
    kept : int
        Number of images that the index keeps as they were, although they could not be examined or
        not be read; see ``skipped``.
    skipped : dict of bytes to str
        Path and reason of each file that could not be used.
    seconds : dict of str to float
        Duration of each phase.
    other : dict of str to int
        Number of files in formats that are not read, by the ending of their names, see
        `datasets.listing.Listing`.
    moved : int
        Number of images that were recognised by another path or with another time, and not encoded
        again. They count neither as removed nor as added.
    places : dict of bytes to bytes
        Former and present path of each folder that has moved; its images are not counted.
    relearned : str, optional
        Why the codec was learned again, as a sentence; None if it was not.
    finetuned : str, optional
        What fine-tuning the network has brought; None if it was not asked for.
    """

    images: int
    added: int
    removed: int
    skipped: dict[bytes, str]
    seconds: dict[str, float] = field(default_factory=dict)
    kept: int = 0
    other: dict[str, int] = field(default_factory=dict)
    moved: int = 0
    places: dict[bytes, bytes] = field(default_factory=dict)
    relearned: str | None = None
    finetuned: str | None = None


def other_files(other: Mapping[str, int], most: int = 5) -> str:
    """How many files of other kinds there are: ``12 files of other kinds (8 .psd, 4 .ico)``."""
    total = sum(other.values())
    counts = sorted(other.items(), key=lambda item: (-item[1], item[0]))
    kinds = [f"{n:,} {ending or 'without an ending'}" for ending, n in counts[:most]]
    if len(counts) > most:
        kinds.append(f"{sum(n for _, n in counts[most:]):,} more")
    what = "1 file of another kind" if total == 1 else f"{total:,} files of other kinds"
    return f"{what} ({', '.join(kinds)})"
