"""What a training says about itself, epoch by epoch, and when it is ill."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hyperpq.errors import TrainingError
from hyperpq.quantizers.kmeans import MAX_VALUE
from hyperpq.utils.files import atomic_write


class Trace:
    """One JSON object a line, one line an epoch; a resumed training goes on where it was.

    Parameters
    ----------
    path : Path or None
        File to write; None keeps the lines in memory only.
    epoch : int
        Lines of epochs from this one on are dropped (they will be run again).
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

    def add(self, **facts: Any) -> None:
        """Append a line."""
        self.lines.append(facts)
        self._write()

    def _write(self) -> None:
        if self._path is not None:
            text = "".join(json.dumps(line) + "\n" for line in self.lines)
            atomic_write(self._path, text.encode())


def code_statistics(codes: Tensor, K: int) -> dict[str, list[Any]]:
    """Codewords in use and entropy (bits) of each subspace's codes; ``codes`` is (n, M)."""
    used, entropy = [], []
    for column in codes.long().T:
        p = torch.bincount(column, minlength=K).double() / len(column)
        p = p[p > 0]
        used.append(len(p))
        entropy.append(round(max(0.0, -float((p * p.log2()).sum())), 4))
    return {"used": used, "entropy": entropy}


def check_loss(losses: dict[str, float], batch: int, epoch: int, first: float) -> None:
    """Raise if an epoch's losses are not finite or far above chance and where they began.

    Parameters
    ----------
    losses : dict of str to float
        Means of the epoch.
    batch : int
        B images; chance is ``log(2 B - 1)``.
    epoch : int
        For the message.
    first : float
        Contrastive loss of the first batch. Among copies of one image it is far above chance
        from the beginning, as which copy a view is of can't be told.

    Raises
    ------
    TrainingError
        With the loss and what to change.
    """
    bad = [name for name, value in losses.items() if not math.isfinite(value)]
    if bad:
        raise TrainingError(
            f"training diverged in epoch {epoch}: the {bad[0]} loss is {losses[bad[0]]}; "
            "lower the learning rate or raise the temperature."
        )
    chance = math.log(max(2 * batch - 1, 2))
    if losses["contrastive"] > max(chance, first) + 2:
        raise TrainingError(
            f"training diverged in epoch {epoch}: the contrastive loss is "
            f"{losses['contrastive']:.2f}, chance is {chance:.2f}; lower the learning rate, "
            "raise the temperature or use epochs=0 (PCA and k-means)."
        )


def check_values(values: Mapping[str, Tensor], epoch: int) -> None:
    """Raise if the last step of an epoch left values that float32 can't go on with.

    Raises
    ------
    TrainingError
        With what they are and what to change.
    """
    for name, value in values.items():
        largest = float(value.detach().abs().max())
        if not largest < MAX_VALUE:
            raise TrainingError(
                f"training diverged in epoch {epoch}: the {name} reach {largest:.2g}; "
                "lower the learning rate or raise the temperature."
            )


def is_collapsed(codes: Tensor, K: int) -> bool:
    """Whether every subspace has under a tenth of the entropy that it could have."""
    entropy = code_statistics(codes, K)["entropy"]
    return max(entropy) < 0.1 * math.log2(min(K, max(len(codes), 2)))
