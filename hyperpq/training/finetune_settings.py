"""`FinetuneSettings`: every setting of fine-tuning.

Where a value comes from is said with each field. *H100* means measured on CIFAR-10 with lite0 on
one card (docs/method/finetune.md has the figures); *CPU* means measured on small sets without one.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from hyperpq.datasets.augment import AUGMENTATIONS, Augmentation
from hyperpq.datasets.device_views import TUNING
from hyperpq.errors import InvalidInputError
from hyperpq.training.fields import (
    POSITIVE,
    SHARE,
    Bounds,
    CheckedSettings,
    choice,
    flag,
    optional_whole,
    real,
    whole,
)

BatchNormMode = Literal["recalibrate", "train", "frozen"]
ViewStrength = Literal["tuning", "mild", "paper"]

_GPU_BATCH, _CPU_BATCH = 256, 32


@dataclass(frozen=True)
class FinetuneSettings(CheckedSettings):
    """How a network is fine-tuned; the module says where the values come from."""

    minutes: float = real(0.0)
    """Time for the steps of all rounds together, in minutes, from which the number of epochs is
    derived by the measured rate of the first steps. 0 takes ``epochs``. Results with a time limit
    depend on the speed of the machine; with ``epochs`` they do not."""

    rounds: int = whole(3, POSITIVE)
    """Rounds of features, graph and epochs. H100: the second round of two gains .037 of mAP."""

    epochs: int = whole(12, POSITIVE)
    """Passes over the training images in a round, without effect if ``minutes`` is given. H100:
    410 steps of 256 pairs, on 5,000 images, are 21."""

    learning_rate: float = real(2e-4, POSITIVE)
    """Highest rate of AdamW for the network. H100: with 1e-3 the graph decays from round to
    round."""

    head_learning_rate: float = real(1e-3, POSITIVE)
    """That for the linear head, which starts as PCA in each round. H100."""

    weight_decay: float = real(0.02)
    """Decay of weights with two or more axes. H100."""

    warmup_steps: int = whole(30)
    """Steps in which the rate rises, before it falls on a cosine. H100."""

    temperature: float = real(0.1, POSITIVE)
    """Temperature of the cosines. H100."""

    width: int = whole(256, POSITIVE)
    """Coordinates of the linear head. H100."""

    batch: int | None = optional_whole(POSITIVE)
    """Images in a step, and as many ends of walks on the graph, one view each; None takes 256 on a
    GPU (H100), and 32 on a CPU, where lite0 then needs 3.7 GB of memory, and more than 10 with
    256."""

    resolution: int | None = optional_whole(Bounds(low=32))
    """Side of the training views in pixels; None takes 5/7 of the network's own, 160 for 224
    (H100: as good as 224 in the same time). Networks with a fixed size, such as most vision
    transformers, always have their own. Features of the rounds are those of the network's size."""

    blocks: int | None = optional_whole(POSITIVE)
    """Train the last so many blocks and what follows them; None trains the whole network."""

    batch_norm: BatchNormMode = choice("frozen", BatchNormMode)
    """``frozen``: the statistics of the network as it came. ``train``: those of the batch in
    training, running ones afterwards (H100). ``recalibrate``: as ``train``, and after each round
    the statistics are computed anew from plain training images at the network's own size. CPU:
    90 steps bring mAP@1000 from .365 to .479, .439 and .412, in this order."""

    augmentation: ViewStrength = choice("tuning", ViewStrength)
    """Strength of the views: ``tuning`` (H100), or one of the head's recipes."""

    ema: float = real(0.0, Bounds(high=1, high_open=True))
    """Decay in each step of an average of the weights, which takes the place of the weights at the
    end of a round; 0 leaves it out."""

    anchor: float = real(0.0, SHARE)
    """Share of the affinities that comes from the graph of the frozen network, against drift."""

    neighbours: int = whole(20, POSITIVE)
    """Neighbours of each image on the graph. H100."""

    graph_steps: int = whole(8, POSITIVE)
    """Steps of the walk whose affinities are the targets, an even number. H100."""

    walk_steps: int = whole(2)
    """Steps of the walk from an image to its partner in the batch. H100."""

    positive_weight: float = real(0.2, SHARE)
    """Share of the target on the partner. H100."""

    holdout_check: bool = flag(True)
    """Whether held-out images decide which round is kept, or the frozen network. Without it the
    last round is kept."""

    seed: int = whole(0)
    """Of every random choice."""

    def __post_init__(self) -> None:
        """Check the fields, and that the walk has two equal halves."""
        super().__post_init__()
        if self.graph_steps % 2:
            raise InvalidInputError(f"graph_steps is {self.graph_steps}; expected an even number.")

    @property
    def views(self) -> Augmentation:
        """The augmentation that ``augmentation`` names."""
        return TUNING if self.augmentation == "tuning" else AUGMENTATIONS[self.augmentation]

    def replace(self, **changes: object) -> FinetuneSettings:
        """Copy with some fields changed.

        Raises
        ------
        InvalidInputError
            A field is unknown, or its value isn't valid.
        """
        known = [one.name for one in fields(self)]
        if unknown := sorted(set(changes) - set(known)):
            raise InvalidInputError(
                f"fine-tuning has no {', '.join(unknown)}; its fields are {', '.join(known)}."
            )
        return replace(self, **changes)  # type: ignore[arg-type]

    def on_device(self, device: str) -> FinetuneSettings:
        """The settings with the number of images in a step that ``cpu`` or ``cuda:N`` has."""
        if self.batch is not None:
            return self
        return self.replace(batch=_CPU_BATCH if device == "cpu" else _GPU_BATCH)

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON types."""
        return asdict(self)
