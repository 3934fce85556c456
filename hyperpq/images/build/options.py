"""What a build is asked for, and what it reports."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from hyperpq.errors import InvalidInputError
from hyperpq.training.presets import get_recipe
from hyperpq.utils.validation import as_count

# Where the metadata of an index has what a build says of its images.
METADATA_KEY = "pictures"
# Fields whose names in an index, which formats up to 3 fix, are other ones.
_STORED = {"metric": "score"}
# Options that an index keeps for life.
FIXED = frozenset(
    ("bits", "recipe", "objective", "metric", "seed", "train_size", "view_size", "epochs")
)


def M_of_bits(bits: int) -> int:
    """Subquantizers of 8 bits for a code length; an impossible one is an `InvalidInputError`."""
    if not isinstance(bits, int) or bits % 8 or not 8 <= bits <= 512:
        raise InvalidInputError(f"bits is {bits!r}; choose a multiple of 8 from 8 to 512.")
    return bits // 8


@dataclass(frozen=True)
class BuildOptions:
    """What decides the content of an index; a build is only resumed with the same.

    Attributes
    ----------
    bits : int
        Bits of an image's code, a multiple of 8 from 8 to 512.
    backbone : str
        See `backbones.load_backbone`.
    seed : int
        Of sample, views and training.
    train_size : int
        Most images to train on, chosen at random.
    view_size : int
        Most of these that views are made of, at the price of that many more images.
    recipe : str
        Preset of the training.
    objective : {"semantic", "fidelity"}
        See `Recipe`.
    codec : str, optional
        Index directory whose codec a new index takes, at the length of ``bits``, in place of
        training one.
    epochs : int, optional
        In place of the recipe's.
    metric : str, optional
        See `lorentz.score_of`; ``l1``, or that of ``codec``, unless given.
    max_megapixels : float
        Larger images are skipped.
    include_hidden, exclude
        See `datasets.folder.list_images`.
    """

    bits: int = 64
    backbone: str = "lite0"
    seed: int = 0
    train_size: int = 25_000
    view_size: int = 5000
    recipe: str = "default"
    objective: str = "semantic"
    codec: str | None = None
    epochs: int | None = None
    metric: str | None = None
    max_megapixels: float = 200.0
    include_hidden: bool = False
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        M_of_bits(self.bits)
        as_count(self.seed, "seed", 0)
        as_count(self.train_size, "train_size")
        as_count(self.view_size, "view_size", 0)
        if self.epochs is not None:
            as_count(self.epochs, "epochs", 0)
        if not self.max_megapixels > 0:
            raise InvalidInputError(
                f"max_megapixels is {self.max_megapixels}; expected more than 0."
            )
        exclude = (self.exclude,) if isinstance(self.exclude, str) else tuple(self.exclude)
        object.__setattr__(self, "exclude", exclude)
        get_recipe(self.recipe, self.bits, objective=self.objective)
        if self.codec is not None:
            object.__setattr__(self, "codec", os.path.abspath(self.codec))

    def to_stored(self) -> dict[str, Any]:
        """Fields as JSON types, by the names that they have in an index."""
        out = asdict(self) | {"exclude": list(self.exclude)}
        return {_STORED.get(name, name): value for name, value in out.items()}

    @classmethod
    def from_stored(cls, fields: Mapping[str, Any]) -> BuildOptions:
        """The options that `to_stored` wrote."""
        names = {stored: name for name, stored in _STORED.items()}
        return cls(**{names.get(name, name): value for name, value in fields.items()})


@dataclass
class BuildReport:
    """What a build did.

    Attributes
    ----------
    images : int
        In the index.
    added, forgotten : int
    skipped : dict of bytes to str
        Path and reason.
    seconds : dict of str to float
        Of each phase.
    """

    images: int
    added: int
    forgotten: int
    skipped: dict[bytes, str]
    seconds: dict[str, float] = field(default_factory=dict)
