"""`ImageMetadata`: what an index records about its images in its metadata."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

MAX_MEGAPIXELS = 200.0
"""Default limit on the size of an image."""

# The name of the entry is part of the format of an index, and so are the names of its fields.
_KEY = "pictures"


@dataclass(frozen=True)
class ImageMetadata:
    """What an index of images records about them.

    Attributes
    ----------
    backbone : dict
        `Backbone.identity` of the network that the features come from.
    max_megapixels : float
        Larger images are skipped.
    options : dict
        The options of the build, see `BuildOptions.to_stored`.
    """

    backbone: dict[str, Any]
    max_megapixels: float = MAX_MEGAPIXELS
    options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_index(cls, metadata: Mapping[str, Any]) -> ImageMetadata | None:
        """Read the metadata of an index; None if it is not an index of images."""
        stored = metadata.get(_KEY)
        if not isinstance(stored, Mapping):
            return None
        backbone, options = stored.get("backbone"), stored.get("options", {})
        limit = stored.get("max_megapixels", MAX_MEGAPIXELS)
        if not isinstance(backbone, dict) or not isinstance(backbone.get("name"), str):
            return None
        if not isinstance(options, dict) or type(limit) not in (int, float):
            return None
        return cls(backbone, float(limit), options)

    def to_index(self) -> dict[str, Any]:
        """Metadata of an index, from which `from_index` reads this."""
        return {_KEY: asdict(self)}
