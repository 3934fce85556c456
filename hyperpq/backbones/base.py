"""What every image encoder has in common."""

from __future__ import annotations

import abc
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import xxhash

from hyperpq.datasets.decode import Preprocessing
from hyperpq.errors import BackboneError, InvalidInputError

# Images a network sees at once. EfficientNet-Lite0 on 2 cores gives the same rate from 8 to 64
# within the noise; 32 keeps the activations small and feeds a GPU well enough.
BATCH = 32

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Backbones that are the user's own file: the file may move, its hash says whether it is the same.
FILE_KINDS = ("onnx", "torchscript")


class Backbone(abc.ABC):
    """A frozen network that turns pixels into features.

    Parameters
    ----------
    name : str
        As given to `load_backbone`.
    d : int
        Width of a feature.
    preprocessing : Preprocessing
        How an image becomes the pixels that the network sees.
    weights_hash : str
        xxh3_128, hexadecimal, of the weights' file or of the parameters: the same on every machine.
    device : str
        ``cpu`` or ``cuda:N``.
    mean, std : sequence of float, optional
        Of the input's normalisation ``(x / 255 - mean) / std``; None where the network's own file
        holds it.
    """

    def __init__(
        self,
        name: str,
        d: int,
        preprocessing: Preprocessing,
        weights_hash: str,
        device: str,
        *,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
    ) -> None:
        self.name = name
        self.d = d
        self.preprocessing = preprocessing
        self.weights_hash = weights_hash
        self.device = device
        self.mean = None if mean is None else tuple(float(v) for v in mean)
        self.std = None if std is None else tuple(float(v) for v in std)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, d={self.d}, device={self.device!r})"

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Encode images, at most `BATCH` at once.

        Parameters
        ----------
        pixels : ndarray, shape (n, S, S, 3), uint8
            Images prepared by `preprocessing`, S its size; n may be 0.

        Returns
        -------
        ndarray, shape (n, d), float32
            Features, in the order of the images.

        Raises
        ------
        InvalidInputError
            If shape or dtype differ.
        BackboneError
            If the network fails or gives a value that isn't finite.
        """
        pixels = np.asarray(pixels)
        expected = (self.preprocessing.size, self.preprocessing.size, 3)
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != expected:
            raise InvalidInputError(
                f"pixels: found shape {pixels.shape} of {pixels.dtype}, expected (n, "
                f"{', '.join(map(str, expected))}) of uint8 for backbone {self.name!r}"
            )
        features = np.empty((len(pixels), self.d), dtype=np.float32)
        for start in range(0, len(pixels), BATCH):
            features[start : start + BATCH] = self._features(pixels[start : start + BATCH])
        bad = int((~np.isfinite(features)).any(axis=1).sum())
        if bad:
            raise BackboneError(
                f"backbone {self.name!r} gave values that aren't finite for {bad} of {len(pixels)} "
                "images; its weights or its normalisation don't fit, choose another backbone"
            )
        return features

    @abc.abstractmethod
    def _features(self, pixels: np.ndarray) -> np.ndarray:
        """Features (n, d) of 1 to `BATCH` checked images."""

    def identity(self) -> dict[str, Any]:
        """What an index records of the network that made its features, ready for JSON."""
        return {
            "name": self.name,
            "d": self.d,
            "weights_hash": self.weights_hash,
            "preprocessing": self.preprocessing.to_dict(),
            "normalization": {
                "mean": None if self.mean is None else list(self.mean),
                "std": None if self.std is None else list(self.std),
            },
            "dtype": "float32",
        }

    def check_matches(self, recorded: Mapping[str, Any]) -> None:
        """Make sure that features of this network can be compared with recorded ones.

        Parameters
        ----------
        recorded : mapping
            `identity` of the network that made the index.

        Raises
        ------
        BackboneError
            If backbone, weights or preprocessing differ; the message names what and what to do.
        """
        mine = self.identity()
        then = recorded.get("name")
        if _kind(then) != _kind(self.name):
            raise BackboneError(
                f"the index was made with backbone {then!r}, this is {self.name!r}; "
                f"use {then!r}, or build a new index"
            )
        labels = {
            "weights_hash": "weights",
            "preprocessing": "preprocessing",
            "normalization": "normalization",
            "d": "feature width",
            "dtype": "feature type",
        }
        for key, label in labels.items():
            if recorded.get(key) != mine[key]:
                raise BackboneError(
                    f"the {label} of backbone {self.name!r} differ from the index's: found "
                    f"{mine[key]}, expected {recorded.get(key)}; install or give the one that the "
                    "index was made with, or build a new index"
                )


def check_normalization(where: str, mean: Any, std: Any) -> tuple[list[float], list[float]]:
    """Check three finite means and three positive deviations; `where` begins the error."""
    for label, values, low in (("mean", mean, -math.inf), ("std", std, 0.0)):
        good = isinstance(values, list | tuple) and len(values) == 3
        if not (good and all(type(v) in (int, float) and low < v < math.inf for v in values)):
            kind = "positive" if low == 0 else "finite"
            raise BackboneError(f"{where}: {label} is {values!r}; three {kind} numbers are needed")
    return list(mean), list(std)


def hash_files(paths: Iterable[str]) -> str:
    """xxh3_128 of the files' bytes, one after the other, hexadecimal."""
    digest = xxhash.xxh3_128()
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def first_line(error: Exception) -> str:
    """The first line of an error's text, or its type where there is none."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def _kind(name: object) -> object:
    kind = str(name).partition(":")[0]
    return kind if kind in FILE_KINDS else name
