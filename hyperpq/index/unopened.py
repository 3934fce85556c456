"""`OpensLater`: an index in a directory travels to another process by its path."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, TypeVar

from hyperpq.index.collection import Collection
from hyperpq.utils.forks import ForkSafeLock

if TYPE_CHECKING:
    from typing_extensions import Self

    from hyperpq.index.directory import DirectoryReference
    from hyperpq.index.index_codec import IndexCodec
    from hyperpq.store import IndexStore

V = TypeVar("V", bound="OpensLater")


class OpensLater(ABC):
    """The pickle of an index, which in a directory is opened again where it is first used.

    Attributes
    ----------
    device : str
        See `HiHPQIndex`.
    collection : Collection
        The rows.
    """

    device: str
    collection: Collection

    @classmethod
    @abstractmethod
    def _in_directory(cls, codec: IndexCodec, store: IndexStore, *, device: str) -> Self:
        """The index of an opened directory."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        reference = self.__dict__.get("_reference") or self.collection.reference
        if reference is None:
            return super().__reduce_ex__(protocol)
        return unopened, (type(self), reference, self.__dict__.get("_device") or self.device)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Open an index that came from another process, when it is first used.

            An error then belongs to the call that uses it. While a pickle is read it would end a
            worker of a pool without a word.
            """
            fields = self.__dict__
            if "_opening" in fields and not name.startswith("__"):
                with fields["_opening"]:
                    if "_reference" in fields:
                        opened = fields["_reference"].open_with_codec()
                        index = type(self)._in_directory(*opened, device=fields["_device"])
                        fields |= index.__dict__
                        del fields["_reference"], fields["_device"]
            if name not in fields:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            return fields[name]


def unopened(cls: type[V], reference: DirectoryReference, device: str) -> V:
    """An index in a directory that is opened when it is first used."""
    index = cls.__new__(cls)
    index.__dict__ |= {"_reference": reference, "_device": device, "_opening": ForkSafeLock()}
    return index
