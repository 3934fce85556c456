"""`ReadingAhead`: images in object storage are read while others are decoded.

A decoding thread would wait for each of its objects in turn. So all objects of the batches that are
in work are asked for at once, by threads of their own, and decoding begins with what is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, BinaryIO

from hyperpq.datasets.decode_errors import reason
from hyperpq.datasets.remote_source import REQUESTS_AT_ONCE, RemoteSource
from hyperpq.errors import ImageUnavailableError
from hyperpq.images.sources import EncodedImage, NamedBytes, Source
from hyperpq.utils.locations import is_remote

if TYPE_CHECKING:
    from hyperpq.images.decoders import DecodedBatch, Decoder


class RequestedImage(EncodedImage):
    """An image in object storage that has been asked for.

    Parameters
    ----------
    url : bytes
        Its URL, which is its name.
    content : Future of bytes
        What the storage answers; its errors are those of `RemoteSource`.
    """

    def __init__(self, url: bytes, content: Future[bytes]) -> None:
        super().__init__(b"", url)
        self._answer = content

    def read(self) -> BinaryIO:
        """The content; waits for it.

        Raises
        ------
        ImageUnavailableError
            If the storage does not give it.
        """
        try:
            data = self._answer.result()
        except OSError as error:
            raise ImageUnavailableError(reason(error)) from error
        self.size = len(data)
        content = NamedBytes(data)
        content.name = self.name
        return content


class ReadingAhead:
    """A `Decoder` that asks for the objects of a batch before another decoder begins with it.

    Parameters
    ----------
    decoder : Decoder
        What decodes. It gets the content of objects, which threads of this process decode.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._requests: ThreadPoolExecutor | None = None

    def submit(self, sources: Sequence[Source]) -> DecodedBatch:
        """See `Decoder`."""
        return self._decoder.submit([self._asked_for(source) for source in sources])

    def _asked_for(self, source: Source) -> Source:
        if not isinstance(source, bytes) or not is_remote(source):
            return source
        if self._requests is None:
            self._requests = ThreadPoolExecutor(REQUESTS_AT_ONCE, thread_name_prefix="request")
        return RequestedImage(source, self._requests.submit(RemoteSource().read, source))

    def close(self) -> None:
        """See `Decoder`."""
        if self._requests is not None:
            # A decoding thread that waits for one of them gets an error.
            self._requests.shutdown(wait=False, cancel_futures=True)
        self._decoder.close()
