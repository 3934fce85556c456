"""`IndexCodec`: the codec of an index, which is made in PyTorch only where that is needed."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperpq.codec.coder import Coder, coder_of
from hyperpq.codec.freezing import has_corrections
from hyperpq.codec.stored_codec import StoredCodec
from hyperpq.index.cells import Cells
from hyperpq.store.manifest import CELLS_FILE
from hyperpq.utils.forks import ForkSafeLock, cached
from hyperpq.utils.imports import need_torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from typing_extensions import Self

    from hyperpq.codec.base import Codec
    from hyperpq.codec.config import AnyConfig
    from hyperpq.store import Rows


class IndexCodec:
    """A codec as an index holds it: learned or given, or what the files of a directory say.

    It encodes and compares by a coder, see `Coder`. What was read from files needs PyTorch for
    `module` alone, or on a GPU.

    Parameters
    ----------
    module : Codec, optional
        The codec, on the device of the index.
    files : mapping of str to bytes, optional
        The files of a codec, instead, see `StoredCodec.read`.
        There may be the file of cells among them.
    device : str
        Torch device of the second.

    Attributes
    ----------
    cells : Cells or None
        What the codes are grouped by; None where they are not.
    """

    def __init__(
        self,
        module: Codec | None = None,
        files: Mapping[str, bytes] | None = None,
        device: str = "cpu",
    ) -> None:
        own = None if files is None else dict(files)
        cells = None if own is None else own.pop(CELLS_FILE, None)
        self.cells = None if cells is None else Cells.from_bytes(cells)
        self._module, self._files, self._device = module, own, device
        self._stored = None if own is None else StoredCodec.read(own)
        self._making = ForkSafeLock()

    @classmethod
    def of(cls, module: Codec | None) -> Self | None:
        """That of a codec; None of None."""
        return None if module is None else cls(module)

    def on(self, device: str) -> Self:
        """The same on another device; a codec that was given is moved there itself."""
        if self._stored is None:
            self.module.to(device).eval()
            return self
        if device == self._device:
            return self
        other = copy.copy(self)
        other._module, other._device = None, device
        return other

    def with_cells(self, cells: Cells | None) -> Self:
        """The same codec, by which codes are grouped by other cells, or by none."""
        other = copy.copy(self)
        other.cells = cells
        return other

    def grouped(self, batches: Iterable[Rows]) -> Iterable[Rows]:
        """Rows with their cells, if there are any; one batch at a time is asked for."""
        return batches if self.cells is None else self.cells.grouped(batches, self.coder)

    def files(self) -> dict[str, bytes]:
        """The files of the codec, see `hyperpq.codec.serialization.to_files`, and of its cells."""
        own = self._own_files()
        return own if self.cells is None else own | {CELLS_FILE: self.cells.to_bytes()}

    def _own_files(self) -> dict[str, bytes]:
        if self._files is not None:
            return dict(self._files)
        from hyperpq.codec.serialization import to_files

        return to_files(self.module)

    @property
    def module(self) -> Codec:
        """The codec in PyTorch, always the same object.

        Raises
        ------
        MissingDependencyError
            It was read from files, and PyTorch is not installed.
        """
        with self._making:
            if self._module is None:
                need_torch("learning, GPUs and codecs as PyTorch modules")
                from hyperpq.codec.serialization import of_stored

                assert self._stored is not None
                self._module = of_stored(self._stored).to(self._device).eval()
            return self._module

    @cached
    def _frozen(self) -> Coder:
        assert self._stored is not None
        return self._stored.freeze()

    @property
    def coder(self) -> Coder:
        """What encodes and compares, always the same object.

        Raises
        ------
        NotTrainedError
            The codec is not trained.
        """
        if self._stored is not None and self._device == "cpu":
            return self._frozen
        return coder_of(self.module)

    @property
    def is_trained(self) -> bool:
        """Whether it can be used; what was read from files always can."""
        return self._stored is not None or self.module.is_trained

    @property
    def config(self) -> AnyConfig:
        """The settings."""
        return self._sizes.config

    @property
    def _sizes(self) -> StoredCodec | Codec:
        return self.module if self._stored is None else self._stored

    @property
    def n_sample(self) -> int | None:
        """Vectors of the training that the codec keeps; None where it keeps none."""
        if self._stored is not None:
            return self._stored.n_sample
        from hyperpq.codec.learned import LearnedCodec

        return self.module.n_sample if isinstance(self.module, LearnedCodec) else None

    def difference(self, other: IndexCodec) -> str | None:
        """In what two codecs differ, see `hyperpq.codec.serialization.difference`.

        Raises
        ------
        MissingDependencyError
            Their files differ, and PyTorch is not installed.
        """
        if self._files is not None and self._files == other._files:
            return None
        ours, theirs = self.module, other.module
        from hyperpq.codec.serialization import difference

        return difference(ours, theirs)

    @property
    def recipe(self) -> dict[str, Any]:
        """How it was trained, see `Codec`."""
        return (self.module if self._stored is None else self._stored).recipe

    @property
    def curvatures(self) -> NDArray[np.float32]:
        """Curvatures of the subspaces, with their signs; none where all are of flat codebooks."""
        if self._stored is not None:
            return self._stored.curvatures
        found: NDArray[np.float32] = self.module.quantizer.curvatures.cpu().numpy()
        return found

    @property
    def d(self) -> int:
        """Width of the features."""
        return self._sizes.d

    @property
    def M(self) -> int:
        """Codes of one vector."""
        return self._sizes.M

    @property
    def nbits(self) -> int:
        """Bits of one code."""
        return self._sizes.nbits

    @property
    def metric(self) -> str:
        """Name of the distance that the tables add up to."""
        return self._sizes.metric

    @property
    def code_size(self) -> int:
        """Bytes of one coded vector."""
        return self._sizes.code_size

    @property
    def has_corrections(self) -> bool:
        """See `Codec.has_corrections`."""
        return has_corrections(self.config)

    def encode(self, x: ArrayLike) -> NDArray[np.uint8]:
        """See `Codec.encode`."""
        return self.coder.encode(x)

    def decode(self, codes: ArrayLike) -> NDArray[np.float32]:
        """See `Codec.decode`."""
        return self.coder.decode(codes)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # What files say does not change.
        other = copy.copy(self)
        other._module = copy.deepcopy(self._module, memo)
        return other

    def __getstate__(self) -> dict[str, Any]:
        # A lock cannot be copied, and a coder is made again.
        kept = self.__dict__.keys() - {"_making", "_frozen"}
        return {name: self.__dict__[name] for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._making = ForkSafeLock()
