"""`ImageMetadata`: what an index records about its images in its metadata."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from sys import float_info
from typing import Any

from hyperpq.errors import CorruptIndexError, InvalidInputError
from hyperpq.index.path_map import KEY, parse_roots

MAX_MEGAPIXELS = 200.0
"""Default limit on the size of an image."""


@dataclass(frozen=True)
class ImageMetadata:
    """What an index of images records about them, but for their folders, see `images.roots`.

    Attributes
    ----------
    backbone : dict
        `Backbone.identity` of the network that the features come from.
    max_megapixels : float
        Larger images are skipped.
    options : dict
        The options of the build, see `BuildOptions.to_stored`.
    finetuned : dict, optional
        What was measured when the network was fine-tuned, see `FinetuneResult.to_dict`; None for a
        network as it came.
    """

    backbone: dict[str, Any]
    max_megapixels: float = MAX_MEGAPIXELS
    options: dict[str, Any] = field(default_factory=dict)
    finetuned: dict[str, Any] | None = None

    @classmethod
    def from_index(cls, metadata: Mapping[str, Any]) -> ImageMetadata | None:
        """Read the metadata of an index; None if it is not an index of images.

        Raises
        ------
        CorruptIndexError
            If it says that it is one, and what it says of its images is not valid.
        """
        if KEY not in metadata:
            return None
        stored = metadata[KEY]
        fields = stored if isinstance(stored, Mapping) else {}
        backbone, options = fields.get("backbone"), fields.get("options", {})
        limit = fields.get("max_megapixels", MAX_MEGAPIXELS)
        finetuned = fields.get("finetuned")
        if (
            not isinstance(backbone, dict)
            or not isinstance(backbone.get("name"), str)
            or not isinstance(backbone.get("preprocessing", {}), dict)
            or not isinstance(options, dict)
            or not (finetuned is None or _is_record(finetuned))
            or type(limit) not in (int, float)
            or not 0 < limit <= float_info.max
        ):
            raise CorruptIndexError(
                f"the entry {KEY!r} of the metadata of the index is not valid; expected "
                "backbone, max_megapixels and options, as hyperpq build writes them."
            )
        parse_roots(metadata)
        return cls(backbone, float(limit), options, finetuned)

    def to_index(self) -> dict[str, Any]:
        """Metadata of an index, from which `from_index` reads this."""
        stored = asdict(self)
        if self.finetuned is None:
            del stored["finetuned"]
        return {KEY: stored}


def _is_record(value: object) -> bool:
    """Whether a value is what `FinetuneResult.to_dict` returns, as far as it is read."""
    if not isinstance(value, dict) or not isinstance(value.get("rounds"), list):
        return False
    return all(type(value.get(name)) is int for name in ("kept", "images"))


def describe_finetuning(record: Mapping[str, Any]) -> str:
    """What fine-tuning has brought, for people, from `ImageMetadata.finetuned`."""
    images, rounds = record["images"], len(record["rounds"]) - 1
    on = "1 image" if images == 1 else f"{images:,} images"
    if rounds < 0:
        return f"on {on}, together with the codec"
    if not record["kept"]:
        return f"on {on}, but no round was better, so the network is as it was"
    of = "1 round" if rounds == 1 else f"{rounds} rounds"
    return f"on {on} in {of}, of which number {record['kept']} is kept"


def no_images(path: object) -> InvalidInputError:
    """The error for an index of vectors where one of images is needed."""
    return InvalidInputError(
        f"{path} is an index of vectors; expected an index of images; open it with HiHPQIndex.load."
    )
