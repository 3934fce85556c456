"""`TrainableNetwork`: a backbone as a PyTorch module that can be fine-tuned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from hyperpq.backbones.tuned import TunedWeights
from hyperpq.errors import BackboneError, InvalidInputError

if TYPE_CHECKING:
    from torch.nn.modules.batchnorm import _BatchNorm

    from hyperpq.backbones.base import Backbone


class TrainableNetwork(nn.Module):
    """The network of a backbone, with the normalization of its input and pooled output.

    Parameters
    ----------
    backbone : Backbone
        Of the embedded networks, ``timm:`` or ``open_clip:``. If it is tuned, so is the module.
    device : str
        ``cpu`` or ``cuda:N``.

    Attributes
    ----------
    name, base_hash : str
        Of the network without changes.
    size : int
        Side of the images, in pixels, that its features are made of.
    prefix : str
        The tensors that may change have names that begin with it: of an OpenCLIP model those of the
        image side.

    Raises
    ------
    BackboneError
        If the backbone has no PyTorch module.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, device: str) -> None:
        super().__init__()
        if backbone.open_network is None or backbone.mean is None or backbone.std is None:
            raise BackboneError(
                f"backbone {backbone.name!r} cannot be fine-tuned, as its file holds a finished "
                "program; expected an embedded network such as 'lite0', timm:NAME or "
                "open_clip:MODEL/PRETRAINED."
            )
        self.name, self.base_hash = backbone.name, backbone.base_hash
        self.size, self.prefix = backbone.preprocessing.size, backbone.trainable_prefix
        self.module = backbone.open_network().float()
        self._before = {key: value.clone() for key, value in self.module.state_dict().items()}
        if backbone.tuned is not None:
            self.load_changes(backbone.tuned)
        self.register_buffer("mean", torch.tensor(backbone.mean).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(backbone.std).reshape(1, 3, 1, 1))
        self.to(device)
        # 1.7 times as fast as the other order on a CPU, and the order that tensor cores take.
        self.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.eval()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.mean.device

    def forward(self, x: Tensor) -> Tensor:
        """Features (n, d), float32, of images (n, 3, S, S) with values from 0 to 255."""
        x = ((x / 255 - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        # In float32 before the mean: bfloat16 would round it to three digits.
        out = self.module(x).float()
        return out.mean(dim=(2, 3)) if out.ndim == 4 else out

    def works_at(self, size: int) -> bool:
        """Whether the network takes images of another side than its own."""
        try:
            with torch.no_grad():
                self(torch.zeros(1, 3, size, size, device=self.device))
        except (RuntimeError, AssertionError, ValueError):  # as each network has it
            return False
        return True

    def choose(self, blocks: int | None = None) -> list[tuple[str, nn.Parameter]]:
        """Decide which parameters learn, and freeze all others.

        Parameters
        ----------
        blocks : int, optional
            The last so many blocks, with what follows them; all unless given.

        Returns
        -------
        list of (str, Parameter)
            Names and parameters that learn.

        Raises
        ------
        InvalidInputError
            If the network has fewer blocks.
        """
        frozen = self._before_blocks(blocks) if blocks is not None else frozenset()
        chosen = []
        for name, parameter in self.module.named_parameters():
            learns = name.startswith(self.prefix) and name not in frozen
            parameter.requires_grad_(learns)
            if learns:
                chosen.append((name, parameter))
        return chosen

    def _before_blocks(self, count: int) -> frozenset[str]:
        """Names of the parameters before the last so many blocks of each part."""
        frozen: set[str] = set()
        for at, part in self._parts():
            list_name, units = _block_list(part)
            if count > len(units):
                raise InvalidInputError(
                    f"blocks is {count}; expected at most {len(units)}, the blocks of backbone "
                    f"{self.name!r}, or None for the whole network."
                )
            first = f"{list_name}.{len(units) - count}."
            for name, _ in part.named_parameters():
                if name.startswith(first):
                    break
                frozen.add(at + name)
        return frozenset(frozen)

    def _parts(self) -> Iterator[tuple[str, nn.Module]]:
        """The networks side by side, each with the beginning of its names."""
        if isinstance(self.module, CombinedModule):
            for name, part in self.module.named_children():
                yield f"{name}.", part
        elif self.prefix:
            yield self.prefix, self.module.get_submodule(self.prefix.rstrip("."))
        else:
            yield "", self.module

    def batch_norms(self) -> list[_BatchNorm]:
        """The batch normalizations whose parameters learn."""
        kind = nn.modules.batchnorm._BatchNorm
        found = [m for m in self.module.modules() if isinstance(m, kind) and m.track_running_stats]
        return [m for m in found if m.weight is None or m.weight.requires_grad]

    def train_chosen(self, *, batch_statistics: bool) -> None:
        """Change to training mode: batch normalizations that don't learn keep their statistics."""
        self.module.train()
        learning = set(self.batch_norms()) if batch_statistics else set()
        for module in self.module.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module not in learning:
                module.eval()

    def changes(self, *, half: bool = True) -> TunedWeights:
        """What differs from the network as it came; see `TunedWeights.between`."""
        after = {
            key: value
            for key, value in self.module.state_dict().items()
            if key.startswith(self.prefix)
        }
        before = {key: self._before[key] for key in after}
        return TunedWeights.between(self.name, self.base_hash, before, after, half=half)

    def load_changes(self, tuned: TunedWeights | None) -> None:
        """Take on the weights of changes, or those of the network as it came for None."""
        state: Mapping[str, Tensor] = self._before
        if tuned is not None:
            tuned.check_belongs(self.name, self.base_hash)
            state = tuned.apply(state)
        self.module.load_state_dict(state)


class CombinedModule(nn.Module):
    """Networks with the same normalization side by side; the input is made smaller for each."""

    def __init__(self, parts: Sequence[tuple[str, nn.Module, int]]) -> None:
        super().__init__()
        for name, module, _ in parts:
            self.add_module(name, module)
        self._sizes = [(name, size) for name, _, size in parts]
        self._largest = max(size for _, size in self._sizes)

    def forward(self, x: Tensor) -> Tensor:
        """Features (n, d) of normalized images (n, 3, S, S)."""
        features = []
        for name, size in self._sizes:
            side = round(x.shape[2] * size / self._largest)
            own = x
            if side != x.shape[2]:
                own = interpolate(
                    x, size=(side, side), mode="bicubic", antialias=True, align_corners=False
                )
            out = self.get_submodule(name)(own).float()
            features.append(out.mean(dim=(2, 3)) if out.ndim == 4 else out)
        return torch.cat(features, 1)


def _block_list(module: nn.Module) -> tuple[str, nn.ModuleList | nn.Sequential]:
    """The list of modules with the most parameters: the blocks, or the stages, of a network."""
    lists = [
        (name, one)
        for name, one in module.named_modules()
        if isinstance(one, nn.ModuleList | nn.Sequential) and len(one) > 1
    ]
    if not lists:
        raise InvalidInputError(
            "blocks is given, but the network has no list of blocks; expected None for the whole "
            "network."
        )
    return max(lists, key=lambda found: sum(p.numel() for p in found[1].parameters()))
