"""The methods of imagededup, as functions of one image: baselines of `benchmarks.duplicates`."""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

HASHES = ("PHash", "DHash", "WHash", "AHash")
CNN = "CNN of imagededup"

Describe = Callable[[Image.Image], NDArray[Any]]


def imagededup_methods() -> dict[str, Describe]:
    """Functions of imagededup from an image to a hash (8,) uint8, or to features."""
    try:
        import torchvision  # noqa: F401

        with_cnn = True
    except ImportError:
        with_cnn = False
    with contextlib.nullcontext() if with_cnn else _stand_in():
        from imagededup import methods

    def hashed(name: str) -> Describe:
        encoder = getattr(methods, name)(verbose=False)

        def describe(image: Image.Image) -> NDArray[np.uint8]:
            text = encoder.encode_image(image_array=np.asarray(image))
            return np.frombuffer(bytes.fromhex(text), np.uint8)

        return describe

    found = {name: hashed(name) for name in HASHES}
    if with_cnn:
        encoder = methods.CNN(verbose=False)
        found[CNN] = lambda image: encoder.encode_image(image_array=np.asarray(image))[0]
    return found


@contextlib.contextmanager
def _stand_in() -> Iterator[None]:
    """Modules that imagededup imports beside the hashes, and that need torchvision."""

    def named(name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return object

    names = [f"imagededup.{name}" for name in ("methods.cnn", "utils.models", "utils.plotter")]
    for name in names:
        module = types.ModuleType(name)
        module.__dict__["__getattr__"] = named
        sys.modules[name] = module
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]
