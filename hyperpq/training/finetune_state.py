"""What fine-tuning has reached after each round, and its checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from hyperpq.backbones.base import Backbone
from hyperpq.backbones.tuned import TunedWeights
from hyperpq.errors import BackboneError, CorruptIndexError, TrainingError
from hyperpq.training.finetune_check import MIN_GAIN
from hyperpq.training.finetune_images import TrainingImages
from hyperpq.training.finetune_settings import FinetuneSettings
from hyperpq.utils.files import atomic_write

# Images that the fingerprint reads.
_FINGERPRINT_IMAGES = 16


@dataclass(frozen=True)
class RoundRecord:
    """What was measured of a round.

    Attributes
    ----------
    round : int
        Its number, from 1; 0 is the network before the first.
    steps, images : int
        Steps, and views that the network has seen in them.
    seconds : float
        Duration of the steps.
    loss : float or None
        Mean over the last tenth of the steps.
    score : float or None
        Agreement of the held-out images, 0 to 1 (`FinetuneCheck`).
    """

    round: int
    steps: int = 0
    images: int = 0
    seconds: float = 0.0
    loss: float | None = None
    score: float | None = None


@dataclass(frozen=True)
class FinetuneState:
    """Where fine-tuning stands after a round.

    Attributes
    ----------
    records : tuple of RoundRecord
        That of the network as it was, and one a round.
    last : TunedWeights or None
        The weights that the next round starts from.
    kept : TunedWeights or None
        Those of the best round, or those from before.
    kept_round : int
        Its number; 0 for none.
    seconds : float
        Time that the rounds have taken.
    """

    records: tuple[RoundRecord, ...]
    last: TunedWeights | None
    kept: TunedWeights | None
    kept_round: int
    seconds: float

    def after(self, record: RoundRecord, last: TunedWeights, seconds: float) -> FinetuneState:
        """The state after one more round, which is kept if its score is clearly the best.

        Without scores, the last round is kept.
        """
        state = replace(self, records=(*self.records, record), last=last, seconds=seconds)
        best = self.records[self.kept_round].score
        if record.score is not None and best is not None:
            gain = MIN_GAIN * (1 - best) if self.kept_round == 0 else 0
            if not record.score > best + gain:
                return state
        return replace(state, kept=last, kept_round=record.round)


def finetune_fingerprint(
    images: TrainingImages, backbone: Backbone, settings: FinetuneSettings
) -> str:
    """Digest of all that fine-tuning depends on, with some of the images for all of them."""
    facts = [settings.to_dict(), backbone.identity(), len(images)]
    digest = xxhash.xxh3_128(json.dumps(facts, sort_keys=True).encode())
    rows = np.unique(np.linspace(0, len(images) - 1, _FINGERPRINT_IMAGES).astype(np.int64))
    digest.update(np.ascontiguousarray(images.pixels(rows)).data)
    return digest.hexdigest()


def save_state(path: Path, fingerprint: str, state: FinetuneState) -> None:
    """Replace the checkpoint, atomically."""
    from safetensors.numpy import save

    tensors: dict[str, NDArray[Any]] = {}
    named: dict[str, dict[str, str] | None] = {}
    for part in ("last", "kept"):
        weights: TunedWeights | None = getattr(state, part)
        named[part] = None
        if weights is not None:
            named[part] = {"backbone": weights.backbone, "base_hash": weights.base_hash}
            if part == "last" or weights is not state.last:
                tensors |= {f"{part}.{name}": value for name, value in weights.changes.items()}
    facts = {
        "fingerprint": fingerprint,
        "records": [asdict(record) for record in state.records],
        "kept_round": state.kept_round,
        "kept_is_last": state.kept is state.last,
        "seconds": state.seconds,
        **named,
    }
    atomic_write(path, save(tensors, metadata={"hyperpq": json.dumps(facts)}))


def load_state(path: Path, fingerprint: str, start: FinetuneState) -> FinetuneState:
    """What `save_state` wrote, or the state at the start if there is no such file.

    Raises
    ------
    TrainingError
        The checkpoint belongs to another training.
    CorruptIndexError
        The file can't be read.
    """
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        return start
    try:
        with safe_open(path, framework="np") as file:
            facts = json.loads(file.metadata()["hyperpq"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        if facts["fingerprint"] != fingerprint:
            raise TrainingError(
                f"{path} belongs to a fine-tuning with other images, settings or network; expected "
                "the same; delete it or fine-tune without resume."
            )
        last = _weights("last", facts["last"], tensors)
        kept = last if facts["kept_is_last"] else _weights("kept", facts["kept"], tensors)
        return FinetuneState(
            tuple(RoundRecord(**record) for record in facts["records"]),
            last,
            kept,
            int(facts["kept_round"]),
            float(facts["seconds"]),
        )
    except TrainingError:
        raise
    except (SafetensorError, ValueError, KeyError, TypeError, BackboneError) as error:
        raise CorruptIndexError(
            f"{path} is not a checkpoint of fine-tuning ({str(error)[:200]}); expected one that "
            "this version wrote; delete it to start again."
        ) from error


def _weights(
    part: str, named: Mapping[str, str] | None, tensors: Mapping[str, NDArray[Any]]
) -> TunedWeights | None:
    if named is None:
        return None
    own = {
        key.removeprefix(f"{part}."): value
        for key, value in tensors.items()
        if key.startswith(f"{part}.")
    }
    return TunedWeights(named["backbone"], named["base_hash"], own)
