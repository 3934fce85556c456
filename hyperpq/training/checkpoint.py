"""Checkpoints of a training: one safetensors file, replaced after each epoch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from hyperpq.codec.hihpq import HiHPQCodec
from hyperpq.errors import CorruptIndexError, TrainingError
from hyperpq.utils.files import atomic_write

# Characters of the reason in an error about a damaged file.
_MAX_REASON = 300


def save_checkpoint(
    path: Path,
    codec: HiHPQCodec,
    optimizers: Sequence[torch.optim.Optimizer],
    generator: torch.Generator,
    epoch: int,
    fingerprint: str,
) -> None:
    """Write everything that the next epoch needs.

    Parameters
    ----------
    path : Path
        File to replace, atomically.
    codec, optimizers, generator
        Their states.
    epoch : int
        Epochs done.
    fingerprint : str
        Of data, recipe and seed: only the same training may be resumed from the file.
    """
    from safetensors.torch import save

    tensors = {f"codec.{k}": v for k, v in codec.state_dict().items()}
    tensors["generator"] = generator.get_state()
    numbers: dict[str, float] = {}
    for index, optimizer in enumerate(optimizers):
        for parameter, state in optimizer.state_dict()["state"].items():
            for name, value in state.items():
                key = f"optimizer.{index}.{parameter}.{name}"
                if isinstance(value, torch.Tensor):
                    tensors[key] = value
                elif value is not None:
                    numbers[key] = value
    facts = {"epoch": epoch, "fingerprint": fingerprint, "numbers": numbers}
    tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    atomic_write(path, save(tensors, metadata={"hyperpq": json.dumps(facts)}))


def load_checkpoint(
    path: Path,
    codec: HiHPQCodec,
    optimizers: Sequence[torch.optim.Optimizer],
    generator: torch.Generator,
    fingerprint: str,
) -> int:
    """Restore what `save_checkpoint` wrote; the parameters are the same.

    Returns
    -------
    int
        Epochs done; 0 if there is no checkpoint.

    Raises
    ------
    TrainingError
        The checkpoint belongs to another training.
    CorruptIndexError
        The file can't be read.
    """
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        return 0
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads(file.metadata()["hyperpq"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        if facts["fingerprint"] != fingerprint:
            raise TrainingError(
                f"{path} belongs to a training with other data, settings or seed; expected the "
                "same; delete it or train without resume."
            )
        _restore(codec, optimizers, generator, tensors, facts["numbers"])
        return int(facts["epoch"])
    except TrainingError:
        raise
    # RuntimeError: PyTorch refuses tensors of other names or shapes.
    except (SafetensorError, ValueError, KeyError, TypeError, IndexError, RuntimeError) as error:
        raise CorruptIndexError(
            f"{path} is not a checkpoint ({str(error)[:_MAX_REASON]}); expected one that this "
            "version wrote; delete it to train from the start."
        ) from error


def _restore(
    codec: HiHPQCodec,
    optimizers: Sequence[torch.optim.Optimizer],
    generator: torch.Generator,
    tensors: Mapping[str, torch.Tensor],
    numbers: Mapping[str, Any],
) -> None:
    """Give codec, optimisers and generator the state of a checkpoint."""
    codec.load_state_dict(
        {k.removeprefix("codec."): v for k, v in tensors.items() if k.startswith("codec.")}
    )
    generator.set_state(tensors["generator"])
    states: list[dict[int, dict[str, Any]]] = [{} for _ in optimizers]
    for key, value in {**tensors, **numbers}.items():
        if key.startswith("optimizer."):
            _, index, parameter, name = key.split(".", 3)
            states[int(index)].setdefault(int(parameter), {})[name] = value
    for optimizer, state in zip(optimizers, states, strict=True):
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})
        # Adam turns a step number into a float32 tensor; RiemannianAdam then rounds differently.
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for position, values in state.items():
            plain = {k: v for k, v in values.items() if not isinstance(v, torch.Tensor)}
            optimizer.state[parameters[position]].update(plain)
