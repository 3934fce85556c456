"""A synthetic data set: drawn images in a known hierarchy of kingdoms, families and species.

It serves demonstrations and tests, and shows whether training finds a hierarchy that is known.
The painters of the species are in `paint_life` and `paint_places`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hyperpq.datasets.canvas import Canvas
from hyperpq.datasets.paint_life import LIFE
from hyperpq.datasets.paint_places import PLACES
from hyperpq.errors import DatasetError, InvalidInputError

TREE = LIFE | PLACES
"""Painters by kingdom, family and species."""

_OVERSAMPLING = 4


def species() -> list[str]:
    """All paths ``kingdom/family/species``, in the order in which they are drawn."""
    return [
        f"{kingdom}/{family}/{name}"
        for kingdom, families in TREE.items()
        for family, members in families.items()
        for name in members
    ]


def draw_image(path: str, number: int, *, size: int = 96, seed: int = 0) -> Image.Image:
    """Draw one image.

    Parameters
    ----------
    path : str
        ``kingdom/family/species``, one of `species`.
    number : int
        Number of the image within its species; each number gives a different image.
    size : int
        Length of a side in pixels.
    seed : int
        Each seed gives a different data set.

    Returns
    -------
    PIL.Image.Image
        Mode RGB. The same arguments give the same image.
    """
    kingdom, family, name = path.split("/")
    rng = np.random.default_rng([seed, number, *path.encode()])
    canvas = Canvas(size * _OVERSAMPLING, rng)
    TREE[kingdom][family][name](canvas)
    smooth = canvas.image.reduce(_OVERSAMPLING)
    light = rng.uniform(0.88, 1.06) + rng.normal(0, 0.012, 3)
    grain = rng.normal(0, rng.uniform(1, 4), (size, size, 1))
    pixels = np.asarray(smooth, np.float64) * light + grain
    return Image.fromarray(np.clip(np.round(pixels), 0, 255).astype(np.uint8))


def draw_dataset(
    folder: str | Path, n: int = 300, *, size: int = 96, seed: int = 0
) -> dict[str, Any]:
    """Draw n images into ``folder/kingdom/family/species/``, alternately as JPEG and as PNG.

    Parameters
    ----------
    folder : path
        Created if it does not exist. Files with the same names are replaced.
    n : int
        Number of images, distributed evenly over the species.
    size : int
        Length of a side in pixels.
    seed : int
        The same seed draws the same images.

    Returns
    -------
    dict
        ``n``, ``size``, ``seed`` and ``tree`` (kingdom -> family -> species -> number of images).
        The same is written to ``folder/hierarchy.json``.

    Raises
    ------
    InvalidInputError
        If ``n`` or ``size`` is out of range.
    DatasetError
        If the folder cannot be written.
    """
    if n < 1 or not 16 <= size <= 1024:
        raise InvalidInputError(
            f"n is {n} and size is {size}; expected at least one image of 16 to 1024 pixels."
        )
    root = Path(folder)
    names = species()
    tree: dict[str, dict[str, dict[str, int]]] = {}
    try:
        for position, path in enumerate(names):
            count = n // len(names) + (position < n % len(names))
            kingdom, family, name = path.split("/")
            tree.setdefault(kingdom, {}).setdefault(family, {})[name] = count
            for number in range(count):
                image = draw_image(path, number, size=size, seed=seed)
                target = root / path / f"{name}-{number:03}"
                target.parent.mkdir(parents=True, exist_ok=True)
                if number % 2:
                    image.save(target.with_suffix(".png"))
                else:
                    image.save(target.with_suffix(".jpg"), quality=92)
        description = {"n": n, "size": size, "seed": seed, "tree": tree}
        (root / "hierarchy.json").write_text(json.dumps(description, indent=2) + "\n")
    except OSError as error:
        raise DatasetError(
            f"{os.fspath(root)} cannot be written ({error.strerror or error}); "
            "give a folder that you may write to."
        ) from error
    return description
