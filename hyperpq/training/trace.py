"""The trace of a training, epoch by epoch, and checks for divergence and collapse."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor

from hyperpq.errors import TrainingError
from hyperpq.quantizers.kmeans import MAX_VALUE
from hyperpq.utils.files import atomic_write

# A contrastive loss this much above chance and above the first one is divergence.
_DIVERGED_ABOVE = 2
# Codes with less than this share of the possible entropy in every subspace have collapsed.
_COLLAPSED_BELOW = 0.1


class Trace:
    """JSON lines with the statistics of each epoch; a resumed training adds to them.

    Parameters
    ----------
    path : Path or None
        File to write; None keeps the lines in memory only.
    epoch : int
        First epoch that will be run. Lines of this epoch and later ones are dropped.

    Raises
    ------
    TrainingError
        The file is not a trace.
    """

    def __init__(self, path: Path | None, epoch: int = 0) -> None:
        self._path = path
        self.lines: list[dict[str, Any]] = []
        if path is not None and epoch and path.exists():
            try:
                lines = [json.loads(text) for text in path.read_text().splitlines()]
                self.lines = [line for line in lines if line["epoch"] < epoch]
            except (ValueError, KeyError, TypeError) as error:
                raise TrainingError(
                    f"{path} isn't the trace of this training ({error}); "
                    "move it away or give another path."
                ) from error
        self._write()

    def add(self, **facts: object) -> None:
        """Append a line with the statistics of one epoch."""
        self.lines.append(facts)
        self._write()

    def _write(self) -> None:
        if self._path is not None:
            text = "".join(json.dumps(line) + "\n" for line in self.lines)
            atomic_write(self._path, text.encode())


class CodeStatistics(TypedDict):
    """Statistics of the codes of each subspace.

    Attributes
    ----------
    used : list of int
        Codewords in use.
    entropy : list of float
        Entropy of the codes, in bits.
    """

    used: list[int]
    entropy: list[float]


def code_statistics(codes: Tensor, K: int) -> CodeStatistics:
    """Codewords in use, and entropy in bits, of each subspace of codes (n, M)."""
    used, entropy = [], []
    for column in codes.long().T:
        p = torch.bincount(column, minlength=K).double() / len(column)
        p = p[p > 0]
        used.append(len(p))
        entropy.append(round(max(0.0, -float((p * p.log2()).sum())), 4))
    return {"used": used, "entropy": entropy}


def check_loss(losses: dict[str, float], batch: int, epoch: int, first: float) -> None:
    """Raise if the losses of an epoch are not finite, or far above chance and above the first one.

    Parameters
    ----------
    losses : dict of str to float
        Means of the epoch.
    batch : int
        B images; chance is ``log(2 B - 1)``.
    epoch : int
        For the message.
    first : float
        Contrastive loss of the first batch. Among copies of one image it is far above chance from
        the beginning, since nothing tells of which copy a view is.

    Raises
    ------
    TrainingError
        The training diverged; the message says what to change.
    """
    bad = [name for name, value in losses.items() if not math.isfinite(value)]
    if bad:
        raise TrainingError(
            f"training diverged in epoch {epoch}: the {bad[0]} loss is {losses[bad[0]]}; "
            "lower the learning rate or raise the temperature."
        )
    chance = math.log(max(2 * batch - 1, 2))
    if losses["contrastive"] > max(chance, first) + _DIVERGED_ABOVE:
        raise TrainingError(
            f"training diverged in epoch {epoch}: the contrastive loss is "
            f"{losses['contrastive']:.2f}, chance is {chance:.2f}; lower the learning rate, "
            "raise the temperature or use epochs=0 (PCA and k-means)."
        )


def check_values(values: Mapping[str, Tensor], epoch: int) -> None:
    """Raise if the last step of an epoch left values that float32 can't go on with.

    Parameters
    ----------
    values : mapping of str to Tensor
        Values by their names in the message.
    epoch : int
        For the message.

    Raises
    ------
    TrainingError
        The training diverged; the message says what to change.
    """
    for name, value in values.items():
        largest = float(value.detach().abs().max())
        if not largest < MAX_VALUE:
            raise TrainingError(
                f"training diverged in epoch {epoch}: the {name} reach {largest:.2g}; "
                "lower the learning rate or raise the temperature."
            )


def is_collapsed(codes: Tensor, K: int) -> bool:
    """Whether codes (n, M) have under a tenth of the possible entropy in every subspace."""
    entropy = code_statistics(codes, K)["entropy"]
    return max(entropy) < _COLLAPSED_BELOW * math.log2(min(K, max(len(codes), 2)))
