"""`Service`: what the routes share: the index, the queue of searches, files and numbers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial

import numpy as np
from starlette.requests import Request as HttpRequest

from hyperpq._version import __version__
from hyperpq.errors import HyperPQError, InvalidInputError
from hyperpq.images.moves import HASH
from hyperpq.index.reader import IndexView
from hyperpq.server.batcher import Batcher, BoundedPool
from hyperpq.server.columns import columns_of
from hyperpq.server.exploring import Explorations, Explored
from hyperpq.server.files import IndexedFiles, OpenImage
from hyperpq.server.metrics import Metrics
from hyperpq.server.schemas import (
    MAX_PARTS,
    Column,
    IndexFacts,
    SampleImage,
)
from hyperpq.server.search_body import wanted_by
from hyperpq.server.served_index import Reply, Request, Served, ServedImages, ServedIndex
from hyperpq.server.settings import ServerSettings
from hyperpq.server.uploads import Body, Held
from hyperpq.utils.devices import default_threads
from hyperpq.utils.json_text import path_text

log = logging.getLogger(__name__)

# Seconds between two looks at the manifest of the index, which is one small file.
_RELOAD_SECONDS = 1.0
# Files that wait for a thread or are read: a page of results asks for all its thumbnails at once.
_FILES = 2000
_BLOCK = 256 << 10


class Service:
    """An index at work.

    Parameters
    ----------
    served : ServedIndex
        The index.
    settings : ServerSettings
        How much it takes on.
    """

    def __init__(self, served: ServedIndex, settings: ServerSettings) -> None:
        self.served, self.limits = served, settings.limits
        self.metrics = Metrics()
        self.held = Held(self.limits.held_bytes)
        self.files = IndexedFiles(
            served, follow_links=settings.follow_links, remote_images=settings.remote_images
        )
        self.explorations = Explorations(served)
        self.is_ready = False
        self._searches: Batcher[Request, Reply] = Batcher(
            self._answers, size=self.limits.batch, limit=self.limits.queue
        )
        self._pool = BoundedPool(default_threads(), _FILES)
        # Of a snapshot, with what says which.
        self._known_columns: tuple[Served, int, list[Column]] | None = None
        self.metrics.waiting.set_function(lambda: self._searches.waiting)
        self.metrics.held.set_function(lambda: self.held.bytes)
        self.metrics.rows.set_function(lambda: self.served.current.index.ntotal)
        self.metrics.cells.set_function(lambda: self.served.current.index.nlist)
        self.metrics.snapshot.set_function(lambda: self.served.current.index.collection.snapshot)

    @contextlib.asynccontextmanager
    async def running(self, app: object) -> AsyncIterator[None]:
        """While the server runs, the network is loaded, and new snapshots are shown."""
        tasks = [asyncio.create_task(self._load()), asyncio.create_task(self._reload())]
        try:
            yield
        finally:
            self.is_ready = False
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._searches.close()
            self._pool.close()
            self.explorations.close()

    async def _load(self) -> None:
        try:
            await asyncio.to_thread(self.served.current.load)
        except HyperPQError as error:
            log.error("the server is not ready: %s", error)
        else:
            self.is_ready = True

    async def _reload(self) -> None:
        said = ""
        while True:
            await asyncio.sleep(_RELOAD_SECONDS)
            try:
                is_new = await asyncio.to_thread(self.served.reload)
            except Exception as error:  # whatever it is, the next look may find a good index
                if str(error) != said:
                    self.metrics.reloads.labels("failed").inc()
                    log.warning("the index is shown as it was: %s", str(error) or repr(error))
                said = str(error)
                continue
            said = ""
            if is_new:
                self.metrics.reloads.labels("done").inc()

    def facts(self) -> IndexFacts:
        """What the index is."""
        served = self.served.current
        index, view = served.index, served.index.view()
        network = served.reader.backbone_identity if isinstance(served, ServedImages) else {}
        return IndexFacts(
            kind=served.kind,
            rows=view.ntotal,
            snapshot=index.collection.snapshot,
            d=index.d,
            code_bytes=view.rows.code_size,
            nlist=view.nlist,
            recall=served.recall if view.nlist else None,
            attributes=_names(view, served.kind),
            backbone=network.get("name"),
            max_k=self.limits.k,
            max_images=MAX_PARTS,
            max_upload_bytes=self.limits.upload_bytes,
            version=__version__,
        )

    async def columns(self) -> list[Column]:
        """What conditions can name.

        Raises
        ------
        BusyError
        """
        return await self._pool.run(self._columns)

    def _columns(self) -> list[Column]:
        served = self.served.current
        rows = served.index.view().rows
        snapshot = served.index.collection.snapshot
        if self._known_columns is None or self._known_columns[:2] != (served, snapshot):
            self._known_columns = served, snapshot, columns_of(rows, served.kind)
        return self._known_columns[2]

    async def sample(self, n: int) -> list[SampleImage]:
        """Images of the index, spread over all its ids.

        Raises
        ------
        BusyError
        """
        return await self._pool.run(partial(self._sample, n))

    def _sample(self, n: int) -> list[SampleImage]:
        view = self.served.current.index.view()
        ids = view.ids
        some = ids[np.unique(np.linspace(0, len(ids) - 1, min(n, len(ids))).astype(np.int64))]
        paths = view.paths_of(some) if len(some) else []
        return [
            SampleImage(id=id, path=path_text(path))
            for id, path in zip(some.tolist(), paths, strict=True)
        ]

    async def explored(self) -> Explored:
        """Groups, map and codewords of the index.

        Raises
        ------
        BusyError
            If they are being made, too.
        """
        return await self._pool.run(self.explorations.current)

    async def images_with(self, m: int, codeword: int, n: int) -> list[SampleImage]:
        """The first images that use a codeword.

        Raises
        ------
        BusyError, InvalidInputError
        """
        explored = await self.explored()
        return await self._pool.run(partial(explored.images_with, m, codeword, n))

    async def search(self, request: HttpRequest) -> bytes:
        """The JSON of the answer to a search.

        Raises
        ------
        HyperPQError, pydantic.ValidationError, RefusedError, BusyError
        """
        # Nobody sends an image in vain.
        self._searches.check_room()
        with Body(request, self.limits, self.held) as body:
            wanted = await wanted_by(request, body)
            if wanted.k > self.limits.k:
                raise InvalidInputError(
                    f"k is {wanted.k}; expected at most {self.limits.k} results."
                )
            reply = await self._searches.submit(wanted, self.limits.answer_seconds)
        assert isinstance(reply, bytes)  # errors are raised
        return reply

    def _answers(self, requests: Sequence[Request]) -> list[Reply]:
        self.metrics.batches.observe(len(requests))
        return self.served.current.answers(requests)

    async def thumbnail(self, id: int, size: int, known: str | None) -> tuple[str, bytes | None]:
        """Version and content of a thumbnail; no content where the client knows the version.

        Raises
        ------
        NoImageError, BusyError
        """
        return await self._pool.run(partial(self._thumbnail, id, size, known))

    def _thumbnail(self, id: int, size: int, known: str | None) -> tuple[str, bytes | None]:
        with self.files.open(id) as image:
            version = f"{image.version}-{size}"
            if version == known:
                return version, None
            return version, self.files.thumbnail(image, size, self.limits.megapixels)

    async def image(self, id: int) -> tuple[OpenImage, Callable[[range], AsyncIterator[bytes]]]:
        """The file of an image, and what gives some of its bytes in blocks, and closes it.

        Raises
        ------
        NoImageError, BusyError
        """
        stack = contextlib.ExitStack()
        image = await self._pool.run(partial(stack.enter_context, self.files.open(id)))
        return image, partial(self._blocks, image, stack)

    async def _blocks(
        self, image: OpenImage, stack: contextlib.ExitStack, part: range
    ) -> AsyncIterator[bytes]:
        with stack:
            image.file.seek(part.start)
            left = len(part)
            while left:
                block = await self._pool.run(partial(image.file.read, min(_BLOCK, left)))
                if not block:
                    return
                left -= len(block)
                yield block


def _names(view: IndexView, kind: str) -> list[str]:
    """The names that a condition can use."""
    own = [name for name in view.attribute_names if name != HASH]
    return [*own, "id", "path"] if kind == "images" else [*own, "id"]
