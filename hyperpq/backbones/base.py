"""`Backbone`: the interface of all image encoders, and the checks that they share."""

from __future__ import annotations

import abc
import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex

import numpy as np
import xxhash

from hyperpq.datasets.preprocessing import Preprocessing
from hyperpq.errors import BackboneError, InvalidInputError
from hyperpq.utils.imports import need_torch

if TYPE_CHECKING:
    import torch

    from hyperpq.backbones.trainable import TrainableNetwork
    from hyperpq.backbones.tuned import TunedWeights

BATCH_SIZE = 32
"""Images that a network encodes at once on a CPU.

EfficientNet-Lite0 on 2 cores has the same rate from 8 to 64 within the noise; 32 keeps the
activations small.
"""

Precision = Literal["float32", "bfloat16", "float16", "int8"]
"""Type of numbers that a network multiplies and convolves in."""
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "float16", "int8")
PrecisionChoice = Precision | Literal["auto"]
"""The same, or the one that `choose_precision` finds to be faster."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Backbones that are a file of the user: the file may move, as its hash identifies it.
_FILE_KINDS = ("onnx", "torchscript")


class Backbone(abc.ABC):
    """A frozen network that turns pixels into features.

    Parameters
    ----------
    name : str
        As given to `load_backbone`.
    d : int
        Width of a feature.
    preprocessing : Preprocessing
        How an image is prepared for the network.
    weights_hash : str
        xxh3_128, hexadecimal, of the file with the weights or of the parameters; it is the same on
        every machine.
    device : str
        ``cpu`` or ``cuda:N``.
    mean, std : sequence of float, optional
        Normalization of the input, ``(x / 255 - mean) / std``; None if the network itself
        normalizes its input.

    Attributes
    ----------
    reload : callable, optional
        Loads the network again where a pickle of it is read; set by `load_backbone`. Without it a
        backbone is pickled like any object.
    tuned : TunedWeights, optional
        What fine-tuning changed; ``weights_hash`` is then that of the weights with the change.
    base_hash : str
        ``weights_hash`` without the change.
    open_network : callable, optional
        Makes the PyTorch module, without the change, that takes normalized images (n, 3, S, S).
        None if the network cannot be fine-tuned.
    trainable_prefix : str
        Begin of the names of the tensors of that module that fine-tuning may change.
    precision : {"float32", "bfloat16", "float16", "int8"}
        Type of numbers of the network, which an index records. The shorter floating-point types are
        those of a GPU; see `load_backbone` for what a CPU computes.
    batch_size : int
        Images that the network encodes at once.
    batches_in_flight : int
        Batches that it may be given with `begin` before features of the first are taken; 0 if it
        computes while it is called.
    """

    precision: Precision = "float32"
    batch_size = BATCH_SIZE
    batches_in_flight = 0

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
        self.reload: Callable[[], Backbone] | None = None
        self.tuned: TunedWeights | None = None
        self.base_hash = weights_hash
        self.open_network: Callable[[], torch.nn.Module] | None = None
        self.trainable_prefix = ""
        self.mean = None if mean is None else tuple(float(v) for v in mean)
        self.std = None if std is None else tuple(float(v) for v in std)

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        # A session of ONNX Runtime cannot be pickled, and weights need not travel.
        if self.reload is None:
            return super().__reduce_ex__(protocol)
        return self.reload, ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, d={self.d}, device={self.device!r})"

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Encode images, at most `batch_size` at once.

        Parameters
        ----------
        pixels : ndarray, shape (n, S, S, 3), uint8
            Images prepared by `preprocessing`, where S is its size; n may be 0.

        Returns
        -------
        ndarray, shape (n, d), float32
            Features, in the order of the images.

        Raises
        ------
        InvalidInputError
            If shape or dtype differ.
        BackboneError
            If the network fails or returns a value that is not finite.
        """
        pixels = self._checked(pixels)
        features = np.empty((len(pixels), self.d), dtype=np.float32)
        step, waiting = self.batch_size, deque[tuple[int, PendingFeatures]]()
        for start in range(0, len(pixels), step):
            waiting.append((start, self.begin(pixels[start : start + step])))
            while len(waiting) > self.batches_in_flight or (
                waiting and start + step >= len(pixels)
            ):
                place, pending = waiting.popleft()
                features[place : place + step] = pending.features()
        return features

    def begin(self, pixels: np.ndarray) -> PendingFeatures:
        """Give images to the network, which may still be busy with them when this returns.

        Parameters and errors are those of a call; errors of the network may come later. The pixels
        may be changed as soon as this returns.
        """
        pixels = self._checked(pixels)
        step = self.batch_size
        return PendingFeatures(
            self.name,
            [self._begin(pixels[start : start + step]) for start in range(0, len(pixels), step)],
            (len(pixels), self.d),
        )

    def _checked(self, pixels: np.ndarray) -> np.ndarray:
        pixels = np.asarray(pixels)
        expected = (self.preprocessing.size, self.preprocessing.size, 3)
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != expected:
            raise InvalidInputError(
                f"pixels have shape {pixels.shape} and dtype {pixels.dtype}; expected shape (n, "
                f"{', '.join(map(str, expected))}) and dtype uint8 for backbone {self.name!r}."
            )
        return pixels

    @property
    def devices(self) -> tuple[str, ...]:
        """All devices that the network is on; the first is ``device``."""
        return (self.device,)

    def take_tuned(self, tuned: TunedWeights | None) -> None:
        """Record that the network already has changed weights; for loaders."""
        if tuned is not None:
            tuned.check_belongs(self.name, self.base_hash)
            self.tuned, self.weights_hash = tuned, tuned.weights_hash

    def trainable(self, device: str = "cpu") -> TrainableNetwork:
        """The network as a PyTorch module in float32, for fine-tuning.

        Parameters
        ----------
        device : str
            ``cpu`` or ``cuda:N``.

        Returns
        -------
        TrainableNetwork
            A copy of its own: training it leaves this backbone as it is.

        Raises
        ------
        BackboneError
            If the backbone is an ONNX or a TorchScript file.
        MissingDependencyError
            If PyTorch is not installed.
        """
        need_torch("networks that are fine-tuned")
        from hyperpq.backbones.trainable import TrainableNetwork

        return TrainableNetwork(self, device)

    @abc.abstractmethod
    def _features(self, pixels: np.ndarray) -> np.ndarray:
        """Features (n, d) of 1 to `batch_size` images that have been checked."""

    def _begin(self, pixels: np.ndarray) -> Callable[[], np.ndarray]:
        """The same as a call that waits for the features, where the network can work alone."""
        features = self._features(pixels)
        return lambda: features

    def identity(self) -> dict[str, Any]:
        """What an index records of the network that made its features, as JSON types."""
        return {
            "name": self.name,
            "d": self.d,
            "weights_hash": self.weights_hash,
            "preprocessing": self.preprocessing.to_dict(),
            "normalization": {
                "mean": None if self.mean is None else list(self.mean),
                "std": None if self.std is None else list(self.std),
            },
            "dtype": self.precision,
        }

    def check_matches(self, recorded: Mapping[str, object]) -> None:
        """Check that features of this network can be compared with those of an index.

        Parameters
        ----------
        recorded : mapping
            The `identity` of the network that the index was built with.

        Raises
        ------
        BackboneError
            If backbone, weights or preprocessing differ.
        """
        mine = self.identity()
        then = recorded.get("name")
        if _kind(then) != _kind(self.name):
            raise BackboneError(
                f"backbone is {self.name!r}; expected {then!r}, with which the index was built; "
                "use that one, or build a new index."
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
                    f"backbone {self.name!r} has the {label} {mine[key]}; expected "
                    f"{recorded.get(key)}, as recorded in the index; install or name the backbone "
                    "that the index was built with, or build a new index."
                )


class PendingFeatures:
    """Features that a network may still be computing."""

    def __init__(
        self, name: str, parts: Sequence[Callable[[], np.ndarray]], shape: tuple[int, int]
    ) -> None:
        self._name, self._parts, self._shape = name, parts, shape

    def features(self) -> np.ndarray:
        """The features (n, d), float32; waits for them.

        Raises
        ------
        BackboneError
            If the network failed or returned a value that is not finite.
        """
        features = np.empty(self._shape, np.float32)
        start = 0
        for part in self._parts:
            values = part()
            features[start : start + len(values)] = values
            start += len(values)
        bad = int((~np.isfinite(features)).any(axis=1).sum())
        if bad:
            raise BackboneError(
                f"backbone {self._name!r} returned values that are not finite for {bad} of "
                f"{len(features)} images; check its weights and its normalization, or choose "
                "another backbone."
            )
        return features


def check_normalization(where: str, mean: Any, std: Any) -> tuple[list[float], list[float]]:
    """Return three finite means and three positive deviations, checked.

    ``where`` names their source in the error, a `BackboneError`.
    """
    for label, values, low in (("mean", mean, -math.inf), ("std", std, 0.0)):
        good = isinstance(values, list | tuple) and len(values) == 3
        if not (good and all(type(v) in (int, float) and low < v < math.inf for v in values)):
            kind = "positive" if low == 0 else "finite"
            raise BackboneError(f"{where}: {label} is {values!r}; expected three {kind} numbers.")
    return list(mean), list(std)


def recorded_precision(identity: Mapping[str, object]) -> Precision:
    """The precision in the `Backbone.identity` of an index; float32 if it is not known here."""
    return next((known for known in PRECISIONS if known == identity.get("dtype")), "float32")


def hash_files(paths: Iterable[str]) -> str:
    """xxh3_128 of the concatenated content of files, hexadecimal."""
    digest = xxhash.xxh3_128()
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def first_line(error: Exception) -> str:
    """The first line of the text of an error, or the name of its type if it has no text."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def _kind(name: object) -> object:
    kind = str(name).partition(":")[0]
    return kind if kind in _FILE_KINDS else name
