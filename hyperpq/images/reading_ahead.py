"""`ReadingAhead`: images in object storage are read while others are decoded.

A decoding thread would wait for each of its objects in turn. So all objects of the batches that are
in work are asked for at once, by threads of their own, and decoding begins with what is there.
Together they take a limited number of bytes, so that large ones are read a few at a time.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, BinaryIO

from hyperpq.datasets.decode_errors import reason
from hyperpq.datasets.remote_source import REQUESTS_AT_ONCE, RemoteSource
from hyperpq.errors import ImageUnavailableError
from hyperpq.images.sources import EncodedImage, NamedBytes, Source
from hyperpq.utils.locations import is_remote

if TYPE_CHECKING:
    from hyperpq.images.decoders import DecodedBatch, Decoder

# All objects that have been asked for and are not yet decoded.
_MAX_BYTES = 1 << 30
# What is asked for of each at first, as its size is not known: a photo in nearly all cases.
_FIRST = 16 << 20


class _ByteBudget:
    """A number of bytes for the contents of objects, which have numbers in the order of decoding.

    Whoever needs more than there is waits. The first object that is not decoded never does, since
    decoding waits for it: so there is an end to all waiting, and this object may be too much.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity, self._used = capacity, 0
        self._next, self._is_closed = 0, False
        # By their numbers, in their order.
        self._taken: OrderedDict[int, int] = OrderedDict()
        self._changed = threading.Condition()

    def enter(self) -> int:
        """The number of one more object, which takes nothing yet."""
        with self._changed:
            self._next += 1
            self._taken[self._next] = 0
            return self._next

    def take(self, number: int, size: int) -> None:
        """Take this many bytes for an object, instead of those that it has.

        Raises
        ------
        CancelledError
            If nobody waits for it any more.
        """
        # Two objects that keep a part and wait for more would wait for each other.
        self.keep(number, 0)
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._is_closed
                    or self._used + size <= self._capacity
                    or number == next(iter(self._taken))
                )
            )
            if self._is_closed:
                raise CancelledError
            self._used += size
            self._taken[number] = size

    def keep(self, number: int, size: int) -> None:
        """Take other bytes for an object at once, as its content is there."""
        with self._changed:
            self._used += size - self._taken[number]
            self._taken[number] = size
            self._changed.notify_all()

    def leave(self, number: int) -> None:
        """Give back what an object has."""
        with self._changed:
            self._used -= self._taken.pop(number)
            self._changed.notify_all()

    def close(self) -> None:
        """Let nobody wait any more."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()


class RequestedImage(EncodedImage):
    """An image in object storage that has been asked for.

    Parameters
    ----------
    url : bytes
        Its URL, which is its name.
    budget : _ByteBudget
        Where its content is counted until `drop` is called.
    requests : ThreadPoolExecutor
        Threads that ask for it; its errors are those of `RemoteSource`.
    """

    def __init__(self, url: bytes, budget: _ByteBudget, requests: ThreadPoolExecutor) -> None:
        super().__init__(b"", url)
        self._budget, self._number = budget, budget.enter()
        self._answer: Future[bytes] | None = requests.submit(self._ask)

    def _ask(self) -> bytes:
        source, content = RemoteSource(), b""
        self._budget.take(self._number, _FIRST)
        try:
            content = source.start(self.name, _FIRST)
            if len(content) == _FIRST:
                content, size = b"", source.status(self.name).size
                source.check_size(self.name, size)
                self._budget.take(self._number, size)
                content = source.read(self.name)
            return content
        finally:
            self._budget.keep(self._number, len(content))

    def read(self) -> BinaryIO:
        """The content; waits for it.

        Raises
        ------
        ImageUnavailableError
            If the storage does not give it.
        """
        assert self._answer is not None  # it is not dropped
        try:
            data = self._answer.result()
        except OSError as error:
            raise ImageUnavailableError(reason(error)) from error
        self.size = len(data)
        content = NamedBytes(data)
        content.name = self.name
        return content

    def drop(self) -> None:
        """Forget the content, which is not read any more."""
        self._answer = None
        self._budget.leave(self._number)


class ReadingAhead:
    """A `Decoder` that asks for the objects of a batch before another decoder begins with it.

    Parameters
    ----------
    decoder : Decoder
        What decodes, in the order of the images. It gets the content of objects, which threads of
        this process decode, and drops it.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._budget = _ByteBudget(_MAX_BYTES)
        self._requests: ThreadPoolExecutor | None = None

    def submit(self, sources: Sequence[Source]) -> DecodedBatch:
        """See `Decoder`."""
        return self._decoder.submit([self._asked_for(source) for source in sources])

    def _asked_for(self, source: Source) -> Source:
        if not isinstance(source, bytes) or not is_remote(source):
            return source
        if self._requests is None:
            self._requests = ThreadPoolExecutor(REQUESTS_AT_ONCE, thread_name_prefix="request")
        return RequestedImage(source, self._budget, self._requests)

    def close(self) -> None:
        """See `Decoder`."""
        self._budget.close()
        if self._requests is not None:
            # A decoding thread that waits for one of them gets an error.
            self._requests.shutdown(wait=False, cancel_futures=True)
        self._decoder.close()
