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

DESCRIPTION = "hierarchy.json"
"""Name of the file that describes a drawn set."""
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
        New or empty, or with a smaller set of the same ``size`` and ``seed``, to which the images
        that it lacks are added. No file is replaced, and others in such a folder stay.
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
        If ``n`` or ``size`` is out of range, or the folder holds anything else; nothing is changed.
    DatasetError
        If the folder cannot be written.
    """
    if n < 1 or not 16 <= size <= 1024:
        raise InvalidInputError(
            f"n is {n} and size is {size}; expected at least one image of 16 to 1024 pixels."
        )
    root = Path(folder)
    names = species()
    counts = {path: n // len(names) + (i < n % len(names)) for i, path in enumerate(names)}
    tree: dict[str, dict[str, dict[str, int]]] = {}
    for path, count in counts.items():
        kingdom, family, name = path.split("/")
        tree.setdefault(kingdom, {}).setdefault(family, {})[name] = count
    description = {"n": n, "size": size, "seed": seed, "tree": tree}
    try:
        _check_free(root, n, size, seed)
        root.mkdir(parents=True, exist_ok=True)
        # Before the images, so that a set whose drawing was interrupted can be completed.
        (root / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")
        for path, count in counts.items():
            for number in range(count):
                ending = ".png" if number % 2 else ".jpg"
                target = root / path / f"{path.rpartition('/')[2]}-{number:03}{ending}"
                if not os.path.lexists(target):
                    _save(draw_image(path, number, size=size, seed=seed), target)
    except OSError as error:
        raise DatasetError(
            f"{os.fspath(root)} cannot be written ({error.strerror or error}); "
            "give a folder that you may write to."
        ) from error
    return description


def _check_free(root: Path, n: int, size: int, seed: int) -> None:
    """Raise `InvalidInputError` unless a set can be drawn into a folder, or completed there."""
    try:
        names = sorted(os.listdir(root))
    except FileNotFoundError:
        return
    if not names:
        return
    former = _described(root)
    if former is None:
        raise InvalidInputError(
            f"{os.fspath(root)} has other files, such as {names[0]}; expected a new or empty "
            "folder for drawn images."
        )
    if (former["size"], former["seed"]) != (size, seed) or former["n"] > n:
        raise InvalidInputError(
            f"{os.fspath(root)} has {former['n']} drawn images of size {former['size']} with seed "
            f"{former['seed']}; expected a new or empty folder, or at least as many images of that "
            "size and seed."
        )


def _described(root: Path) -> dict[str, Any] | None:
    """``n``, ``size`` and ``seed`` of the set in a folder; None if there is none."""
    try:
        stored = json.loads((root / DESCRIPTION).read_text())
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    if not isinstance(stored, dict) or "tree" not in stored:
        return None
    values = {name: stored.get(name) for name in ("n", "size", "seed")}
    return values if all(type(value) is int for value in values.values()) else None


def _save(image: Image.Image, target: Path) -> None:
    """Write an image, completely or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.part")
    if target.suffix == ".png":
        image.save(aside, "PNG")
    else:
        image.save(aside, "JPEG", quality=92)
    aside.replace(target)
