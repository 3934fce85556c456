"""`TunedWeights`: what fine-tuning changed in a network, as a small file without pickles.

The change is stored, not the weights: the float16 of a small change has a small error. A tensor
of the tuned network is ``base + change`` in float32, which is the same on every machine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from hyperpq.errors import BackboneError

if TYPE_CHECKING:
    import torch

# Version of the file, in its metadata.
_FORMAT = 1
_KEY = "hyperpq"
_DTYPES = (np.dtype("float16"), np.dtype("float32"))
# A larger file is refused before it is parsed: the largest image towers have 5 GB in float16.
_MAX_BYTES = 16 << 30


@dataclass(frozen=True, eq=False)
class TunedWeights:
    """Changes of the weights of a backbone.

    Two objects are equal if their hashes are.

    Parameters
    ----------
    backbone : str
        Name of the network, as given to `load_backbone`.
    base_hash : str
        ``weights_hash`` of the network without the changes.
    changes : mapping of str to ndarray
        Differences from the tensors of the network by their names in its state dict: only those
        that are not zero, float16 or float32, with the statistics of batch normalization.

    Raises
    ------
    BackboneError
        If a value is not finite or a type is another one.
    """

    backbone: str
    base_hash: str
    changes: Mapping[str, NDArray[Any]]

    def __post_init__(self) -> None:
        """Check the changes, and make them read-only."""
        checked = {}
        for name in sorted(self.changes):
            change = np.ascontiguousarray(self.changes[name]).reshape(self.changes[name].shape)
            if change.dtype not in _DTYPES:
                raise BackboneError(
                    f"{self._where}: {name} is {change.dtype}; expected float16 or float32."
                )
            if not np.isfinite(change).all():
                raise BackboneError(
                    f"{self._where}: {name} has values that are not finite; expected finite ones."
                )
            change = change.view()
            change.flags.writeable = False
            checked[name] = change
        object.__setattr__(self, "changes", MappingProxyType(checked))

    @property
    def _where(self) -> str:
        return f"tuned weights of backbone {self.backbone!r}"

    def __eq__(self, other: object) -> bool:
        """Whether the other one has the same hash."""
        return isinstance(other, TunedWeights) and other.hash == self.hash

    def __hash__(self) -> int:
        """Of `hash`."""
        return hash(self.hash)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by the three parameters, as a read-only mapping has no pickle."""
        return TunedWeights, (self.backbone, self.base_hash, dict(self.changes))

    @cached_property
    def hash(self) -> str:
        """xxh3_128, hexadecimal, of network, names, shapes, types and values."""
        digest = xxhash.xxh3_128(f"{self.backbone} {self.base_hash}\n".encode())
        for name, change in self.changes.items():
            digest.update(f"{name} {change.shape} {change.dtype.str}\n".encode())
            digest.update(change.tobytes())
        return digest.hexdigest()

    @cached_property
    def weights_hash(self) -> str:
        """``weights_hash`` of the tuned network: that of the base and the change together."""
        return xxhash.xxh3_128(f"{self.base_hash} {self.hash}".encode()).hexdigest()

    @property
    def nbytes(self) -> int:
        """Bytes of the changes."""
        return sum(change.nbytes for change in self.changes.values())

    @classmethod
    def between(
        cls,
        backbone: str,
        base_hash: str,
        before: Mapping[str, torch.Tensor],
        after: Mapping[str, torch.Tensor],
        *,
        half: bool = True,
    ) -> TunedWeights:
        """The changes from one state dict to another with the same names.

        Parameters
        ----------
        backbone, base_hash : str
            See `TunedWeights`.
        before, after : mapping of str to Tensor
            State dicts. Tensors that are not floating-point, such as counters, are left out.
        half : bool
            Whether tensors of two or more axes are rounded to float16. Vectors, such as the
            statistics of batch normalization, are 1 % of the bytes and stay in float32.

        Raises
        ------
        BackboneError
            If a value is not finite.
        """
        changes: dict[str, NDArray[Any]] = {}
        for name, first in before.items():
            if not first.is_floating_point():
                continue
            change = (after[name].detach().cpu().float() - first.detach().cpu().float()).numpy()
            # Overflow, which no training should reach, keeps the full precision.
            if half and change.ndim >= 2 and np.abs(change).max(initial=0) < 65504:
                change = change.astype(np.float16)
            if change.any():
                changes[name] = change
        return cls(backbone, base_hash, changes)

    def apply(self, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The state dict of the tuned network.

        Parameters
        ----------
        state : mapping of str to Tensor
            State dict of the network without the changes.

        Returns
        -------
        dict of str to Tensor
            New tensors where there are changes, and the given ones elsewhere.

        Raises
        ------
        BackboneError
            If a name or a shape is not that of the network.
        """
        import torch

        out = dict(state)
        for name, change in self.changes.items():
            found = out.get(name)
            floating = found is not None and found.is_floating_point()
            self._check_fits(name, None if found is None else tuple(found.shape), floating=floating)
            assert found is not None
            added = torch.from_numpy(change.astype(np.float32)).to(found.device)
            out[name] = (found.float() + added).to(found.dtype)
        return out

    def apply_to_arrays(self, state: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """As `apply`, with NumPy arrays in place of tensors, and the same values."""
        out = dict(state)
        for name, change in self.changes.items():
            found = out.get(name)
            floating = found is not None and found.dtype.kind == "f"
            self._check_fits(name, None if found is None else found.shape, floating=floating)
            assert found is not None
            added = found.astype(np.float32) + change.astype(np.float32)
            out[name] = added.astype(found.dtype)
        return out

    def _check_fits(self, name: str, shape: tuple[int, ...] | None, *, floating: bool) -> None:
        """Raise `BackboneError` unless the network has such a tensor."""
        if shape is None or not floating:
            raise BackboneError(
                f"{self._where} change {name!r}, which the network does not have; expected "
                "names of its tensors; use the weights with the network that they belong to."
            )
        if shape != self.changes[name].shape:
            raise BackboneError(
                f"{self._where}: {name} has shape {self.changes[name].shape}; expected {shape}; "
                "use the weights with the network that they belong to."
            )

    def check_belongs(self, backbone: str, base_hash: str) -> None:
        """Raise `BackboneError` unless these are changes of that network."""
        if (backbone, base_hash) != (self.backbone, self.base_hash):
            raise BackboneError(
                f"the tuned weights belong to backbone {self.backbone!r} with weights "
                f"{self.base_hash}; expected {backbone!r} with {base_hash}; load the backbone that "
                "was tuned, or tune this one."
            )

    def part(self, name: str, base_hash: str) -> TunedWeights | None:
        """The changes of the network ``name`` that is a part of this one; None if it has none."""
        own = {
            key.removeprefix(f"{name}."): change
            for key, change in self.changes.items()
            if key.startswith(f"{name}.")
        }
        return TunedWeights(name, base_hash, own) if own else None

    def to_bytes(self) -> bytes:
        """As a safetensors file, the same bytes for the same changes."""
        from safetensors.numpy import save

        facts = {
            "format": _FORMAT,
            "backbone": self.backbone,
            "base_hash": self.base_hash,
            "hash": self.hash,
        }
        metadata = {_KEY: json.dumps(facts, sort_keys=True)}
        return bytes(save(dict(self.changes), metadata=metadata))

    @classmethod
    def from_bytes(cls, data: bytes, source: str = "the tuned weights") -> TunedWeights:
        """Read what `to_bytes` wrote.

        Parameters
        ----------
        data : bytes
            Content of the file.
        source : str
            Name of the file for errors.

        Raises
        ------
        BackboneError
            If it is no such file, was written by a later version, or is damaged.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        if len(data) > _MAX_BYTES:
            raise BackboneError(
                f"{source} has {len(data):,} bytes; expected at most {_MAX_BYTES:,}."
            )
        try:
            facts = json.loads(_metadata(data)[_KEY])
            version, name, base = facts["format"], facts["backbone"], facts["base_hash"]
            recorded = facts["hash"]
            tensors = load(data)
            for text in (name, base):
                # JSON can hold what is no text.
                str(text).encode()
        # RecursionError: JSON nested too deep.
        except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise BackboneError(
                f"{source} is not a file of tuned weights ({type(error).__name__}: "
                f"{str(error)[:200]}); expected one that hyperpq wrote; restore it from a backup "
                "or fine-tune again."
            ) from error
        if version != _FORMAT:
            raise BackboneError(
                f"{source} has format {version!r}; expected {_FORMAT}; install the version of "
                "hyperpq that wrote it."
            )
        weights = cls(str(name), str(base), tensors)
        if weights.hash != recorded:
            raise BackboneError(
                f"{source} is damaged: its content has hash {weights.hash}; expected {recorded}; "
                "restore it from a backup or fine-tune again."
            )
        return weights


def _metadata(data: bytes) -> Mapping[str, str]:
    """The metadata in the header of a safetensors file."""
    length = int.from_bytes(data[:8], "little")
    if not 2 <= length <= len(data) - 8:
        raise ValueError("the header is longer than the file")
    header = json.loads(data[8 : 8 + length])
    found = header["__metadata__"]
    if not isinstance(found, dict):
        raise ValueError("the metadata is not a mapping")
    return found
