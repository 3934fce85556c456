"""`DeviceDecoding`: JPEG files are decoded and resized on the device of the network.

nvImageCodec decodes the files of a batch together, on a GPU by its decoding engines, and PyTorch
resizes them there. Threads read the files and their headers, and decode whatever is not a plain
JPEG file, or what the device refuses, as they do without a device. On a CPU nvImageCodec takes
libjpeg-turbo, as Pillow does, and gives the same pixels but of large images, which Pillow decodes
smaller; those of a GPU differ in the last bits, too.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hyperpq.backbones.base import first_line
from hyperpq.datasets.content_hash import content_hash
from hyperpq.datasets.decode import MIN_TRANSPOSED
from hyperpq.datasets.file_source import open_file
from hyperpq.datasets.plain_jpeg import PlainJpeg, plain_jpeg
from hyperpq.datasets.preprocessing import Preprocessing
from hyperpq.errors import HyperPQError, ImageError
from hyperpq.images.decoding import Decoding, Failure, ReadImage, read_image
from hyperpq.images.decoding_budget import DecodingBudget
from hyperpq.images.reading_ahead import RequestedImage
from hyperpq.images.sources import EncodedImage, Source
from hyperpq.utils.imports import need, need_torch

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# Decoded bytes of images that are on the device at once. Resizing takes about ten times as many.
# An image that alone has more is left to the threads, which decode it smaller.
_MOST_BYTES = 128 << 20
# Files that are read together, while those before them are decoded.
_FILES_AHEAD = 64
# Larger files are left to the threads.
_MOST_FILE = 64 << 20


class _File(NamedTuple):
    """A file that the device decodes."""

    data: bytes
    header: PlainJpeg
    hash: int

    @property
    def decoded_bytes(self) -> int:
        """Bytes of its pixels."""
        return 3 * self.header.width * self.header.height

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the upright image."""
        width, height, orientation = self.header
        return (height, width) if orientation >= MIN_TRANSPOSED else (width, height)


def need_nvimagecodec() -> ModuleType:
    """The module of nvImageCodec.

    Raises
    ------
    MissingDependencyError
        If it or PyTorch, which resizes, is not installed.
    """
    what = "workers of kind 'device'"
    need_torch(what)
    # It would print a line for each file that it refuses, which threads then decode.
    os.environ.setdefault("PYNVIMGCODEC_VERBOSITY", "0")
    return need("nvidia.nvimgcodec", "gpu_decode", what)


class NvImageCodec:
    """Decodes JPEG files on a device, by NVIDIA's library.

    Parameters
    ----------
    device : str
        ``cpu`` or ``cuda:N``.

    Raises
    ------
    MissingDependencyError
        If it is not installed.
    RuntimeError
        If it cannot use the device, as with an older driver.
    """

    def __init__(self, device: str) -> None:
        codec = need_nvimagecodec()
        import torch

        self._stream: torch.cuda.Stream | None = None
        self._params = codec.DecodeParams(
            apply_exif_orientation=False,
            color_spec=codec.ColorSpec.SRGB,
            sample_format=codec.SampleFormat.I_RGB,
        )
        if device == "cpu":
            only = [codec.Backend(codec.BackendKind.CPU_ONLY)]
            self._decoder = codec.Decoder(device_id=codec.NVIMGCODEC_DEVICE_CPU_ONLY, backends=only)
        else:
            self._stream = torch.cuda.Stream(device)
            self._decoder = codec.Decoder(device_id=torch.device(device).index)

    def decode(self, files: Sequence[bytes]) -> list[Tensor | None]:
        """Pixels (H, W, 3), uint8, of files, as they are stored; None where it fails."""
        import torch

        number = 0 if self._stream is None else self._stream.cuda_stream
        images = self._decoder.decode(list(files), params=self._params, cuda_stream=number)
        # Without a GPU, its images have no DLPack.
        convert = torch.from_dlpack if self._stream else lambda i: torch.from_numpy(np.asarray(i))
        return [None if image is None else convert(image) for image in images]

    def stream(self) -> contextlib.AbstractContextManager[object]:
        """Within it, work on the device is in the order of `decode`."""
        import torch

        return contextlib.nullcontext() if self._stream is None else torch.cuda.stream(self._stream)


class DeviceDecoding:
    """A `Decoder` that leaves plain JPEG files to a device.

    Parameters
    ----------
    device : str
        ``cpu`` or ``cuda:N``.
    count : int
        Threads that read files, and decode those that the device does not.
    decoding : Decoding
        What becomes of the images: views are not made here, unless later.
    budget : DecodingBudget
        Memory of the threads.

    Raises
    ------
    MissingDependencyError
        If nvImageCodec or PyTorch is not installed.
    HyperPQError
        If nvImageCodec cannot use the device.
    """

    def __init__(self, device: str, count: int, decoding: Decoding, budget: DecodingBudget) -> None:
        assert decoding.augmentation is None or decoding.views_later
        self._device, self._decoding, self._budget = device, decoding, budget
        try:
            self._codec = NvImageCodec(device)
        except RuntimeError as error:
            raise HyperPQError(
                f"nvImageCodec cannot be used on {device} ({first_line(error)}); update the driver "
                "of the GPU, install the nvImageCodec of its CUDA, or decode in processes: "
                "workers='processes'."
            ) from error
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="decode")
        # Batches one after the other, in their order.
        self._batches = ThreadPoolExecutor(1, thread_name_prefix="decode on device")
        self._closing = threading.Event()

    def submit(self, sources: Sequence[Source]) -> DeviceBatch:
        """See `Decoder`."""
        return DeviceBatch(self._batches.submit(self._decode, sources))

    def close(self) -> None:
        """See `Decoder`; a batch that has begun is dropped as soon as possible."""
        self._closing.set()
        self._threads.shutdown(cancel_futures=True)
        self._batches.shutdown(cancel_futures=True)

    def _open(self, source: Source) -> _File | None:
        """The content of a file for the device; None for one that is not."""
        # The memory of objects in storage is given back as soon as a thread has decoded them.
        if not isinstance(source, bytes | EncodedImage) or isinstance(source, RequestedImage):
            return None
        try:
            with open_file(source) if isinstance(source, bytes) else source.read() as file:
                data = file.read(_MOST_FILE + 1)
        except (OSError, ImageError):
            return None  # the thread that decodes it finds the reason
        header = plain_jpeg(data) if len(data) <= _MOST_FILE else None
        if header is None or header.width * header.height / 1e6 > self._decoding.max_megapixels:
            return None
        hashes = self._decoding.hashes and isinstance(source, bytes)
        found = _File(data, header, content_hash(BytesIO(data)) if hashes else 0)
        return found if found.decoded_bytes <= _MOST_BYTES else None

    def _decode(
        self, sources: Sequence[Source]
    ) -> tuple[NDArray[np.uint8], list[ReadImage | Failure]]:
        side = self._decoding.preprocessing.size
        pixels = np.empty((self._decoding.passes, len(sources), side, side, 3), np.uint8)
        outcomes: dict[int, ReadImage | Failure] = {}
        others: dict[int, Future[ReadImage | Failure]] = {}

        def leave(rows: Iterable[int]) -> None:
            for row in rows:
                others[row] = self._threads.submit(self._read, sources[row], pixels[:, row])

        for opened in self._opened(sources):
            files = {row: file for row, file in opened.items() if file is not None}
            # In their order, in which objects in storage are read.
            leave(row for row in opened if row not in files)
            for rows in _chunks(files):
                if self._closing.is_set():
                    raise CancelledError
                squares = self._squares([files[row] for row in rows])
                for row, square in zip(rows, squares, strict=True):
                    if square is not None:
                        pixels[:, row] = square
                        outcomes[row] = ReadImage(*files[row].size, files[row].hash)
                leave(row for row in rows if row not in outcomes)
        outcomes |= {row: one.result() for row, one in others.items()}
        return pixels, [outcomes[row] for row in range(len(sources))]

    def _opened(self, sources: Sequence[Source]) -> Iterator[dict[int, _File | None]]:
        """Files by their rows, some at a time; the next are read before they are asked for."""
        waiting: deque[dict[int, Future[_File | None]]] = deque()
        for start in range(0, len(sources), _FILES_AHEAD):
            rows = range(start, min(start + _FILES_AHEAD, len(sources)))
            waiting.append({row: self._threads.submit(self._open, sources[row]) for row in rows})
            if len(waiting) > 1:
                yield {row: one.result() for row, one in waiting.popleft().items()}
        while waiting:
            yield {row: one.result() for row, one in waiting.popleft().items()}

    def _read(self, source: Source, pixels: NDArray[np.uint8]) -> ReadImage | Failure:
        with self._budget.claim() as reserve:
            return read_image(source, pixels, self._decoding, reserve)

    def _squares(self, files: Sequence[_File]) -> list[NDArray[np.uint8] | None]:
        """The passes (P, S, S, 3) of each file; None of one that the device refuses."""
        import torch

        prep = self._decoding.preprocessing
        # Views are made of the whole image.
        preps = [prep, Preprocessing(prep.size)] if self._decoding.views_later else [prep]
        squares: list[NDArray[np.uint8] | None] = [None] * len(files)
        try:
            with self._codec.stream(), torch.inference_mode():
                decoded = self._codec.decode([file.data for file in files])
                for places, images in _alike(decoded, [file.header for file in files]):
                    made = torch.stack([resized(images, one) for one in preps], 1).cpu().numpy()
                    for place, square in zip(places, made, strict=True):
                        squares[place] = square
        except RuntimeError as error:  # also out of memory
            raise HyperPQError(
                f"decoding {len(files)} images on {self._device} failed ({first_line(error)}); "
                "decode in processes: workers='processes'."
            ) from error
        return squares


@dataclass(frozen=True)
class DeviceBatch:
    """A batch that is being decoded."""

    work: Future[tuple[NDArray[np.uint8], list[ReadImage | Failure]]]

    def result(self) -> tuple[NDArray[np.uint8], list[ReadImage | Failure]]:
        """See `DecodedBatch`."""
        return self.work.result()

    def release(self) -> None:
        """See `DecodedBatch`."""


def resized(images: Tensor, prep: Preprocessing) -> Tensor:
    """Squares (n, S, S, 3), uint8, of upright images (n, H, W, 3), as `to_pixels` has them."""
    import torch

    from hyperpq.datasets.device_resize import resize_boxes

    height, width = images.shape[1:3]
    box = torch.tensor([prep.box(width, height)], dtype=torch.float32, device=images.device)
    made = resize_boxes(images, box, prep.size, interpolation=prep.interpolation)
    return made.to(torch.uint8).permute(0, 2, 3, 1)


def upright(image: Tensor, orientation: int) -> Tensor:
    """An image (H, W, 3) turned as its EXIF orientation says."""
    if orientation >= MIN_TRANSPOSED:
        image = image.transpose(0, 1)
    # After the transposition: which of the axes, down and across, run backwards.
    backwards = {2: [1], 3: [0, 1], 4: [0], 6: [1], 7: [0, 1], 8: [0]}.get(orientation, [])
    return image.flip(backwards) if backwards else image


def _alike(
    images: Sequence[Tensor | None], headers: Sequence[PlainJpeg]
) -> Iterator[tuple[list[int], Tensor]]:
    """Places of images with the same size, and these images, upright, together."""
    import torch

    groups: dict[torch.Size, dict[int, Tensor]] = {}
    for place, (image, header) in enumerate(zip(images, headers, strict=True)):
        if image is not None:
            turned = upright(image, header.orientation)
            groups.setdefault(turned.shape, {})[place] = turned
    for group in groups.values():
        yield list(group), torch.stack(list(group.values()))


def _chunks(files: dict[int, _File]) -> Iterator[list[int]]:
    """Rows of files that are on the device together."""
    chunk: list[int] = []
    used = 0
    for row, file in files.items():
        if chunk and used + file.decoded_bytes > _MOST_BYTES:
            yield chunk
            chunk, used = [], 0
        chunk.append(row)
        used += file.decoded_bytes
    if chunk:
        yield chunk
