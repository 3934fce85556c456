"""Image files without the metadata that decoding does not need.

Pillow refuses an image with damaged or very large metadata even if all its pixels are sound. So
decoders see a file without comments, colour profiles, thumbnails and editing histories: these parts
are passed over without being read. What says how an image is oriented stays, if it is sound. Pixels
and what determines them (palettes, transparency, tables) are not touched.
"""

from __future__ import annotations

import bisect
import io
import zlib
from collections.abc import Iterator, Sequence
from typing import BinaryIO, Literal

# Metadata about the orientation that is kept: this much of it, once inflated and as it is stored.
# The first is the limit of Pillow, which refuses the image above it.
_MAX_INFLATED = 1 << 20
_MAX_STORED = 8 << 20
_MAX_KEPT = 8

Piece = tuple[int, int]
"""Start and end of a part of a file."""


def without_metadata(file: BinaryIO, kind: str) -> BinaryIO:
    """The file as decoders should see it.

    Parameters
    ----------
    file : binary file
        An image, open and seekable.
    kind : str
        Its format, as `sniff` names it.

    Returns
    -------
    binary file
        At its beginning; ``file`` itself if nothing is left out. From the first thing on that is
        not as the format demands, the file is left as it is, for the decoder to judge.
    """
    pieces = {"PNG": _png, "JPEG": _jpeg, "GIF": _gif}.get(kind)
    out = file
    if pieces is not None:
        size = file.seek(0, io.SEEK_END)
        kept = _joined(pieces(file, size))
        if kept != [(0, size)]:
            out = io.BufferedReader(_Pieces(file, kept))
    out.seek(0)
    return out


def without_tiff_metadata(file: BinaryIO) -> BinaryIO | None:
    """A TIFF whose first directory has only the tags that pixels and orientation depend on.

    Not used at first, since the decoder reads a compressed file itself if it is a file of the
    operating system, and would have it in memory otherwise.

    Returns
    -------
    binary file or None
        None if the directory cannot be read, or says that the file is of a camera.
    """
    file.seek(0)
    header = file.read(16)
    order: Literal["little", "big"] = "little" if header[:2] == b"II" else "big"
    big = header[2:4] in (b"+\0", b"\0+")
    width, entry_size = (8, 20) if big else (2, 12)
    start = int.from_bytes(header[8:16] if big else header[4:8], order)
    file.seek(start)
    count = int.from_bytes(file.read(width), order)
    data = file.read(min(count, _MAX_TAGS) * entry_size)
    if not 0 < count <= _MAX_TAGS or len(data) < count * entry_size:
        return None
    entries = [data[at : at + entry_size] for at in range(0, len(data), entry_size)]
    tags = [int.from_bytes(entry[:2], order) for entry in entries]
    if _DNG_VERSION in tags or {_MAKE, _SUB_IFDS} <= {*tags}:
        return None
    kept = [
        entry
        for tag, entry in zip(tags, entries, strict=True)
        if tag in _TIFF_PIXEL_TAGS
        or (tag == _ORIENTATION and int.from_bytes(entry[2:4], order) == _SHORT)
    ]
    # The directory becomes shorter, and is the last of the file.
    new = len(kept).to_bytes(width, order) + b"".join(kept) + bytes(8 if big else 4)
    end, size = start + len(new), file.seek(0, io.SEEK_END)
    out = io.BufferedReader(_Pieces(file, [(0, start), new, (end, max(size, end))]))
    out.seek(0)
    return out


_ORIENTATION, _MAKE, _SUB_IFDS, _DNG_VERSION = 274, 271, 330, 50706
_SHORT, _MAX_TAGS = 3, 65535
# TIFF 6.0, sections 1 to 22: layout, compression and colours, without resolution and texts.
_TIFF_PIXEL_TAGS = frozenset(
    (
        *(*range(254, 260), *range(262, 267), 273, *range(277, 282), 284, *range(290, 294), 301),
        *(*range(317, 326), 332, 334, 336, *range(338, 343), 347, *range(512, 516)),
        *(*range(517, 522), *range(529, 533)),
    )
)


class _Pieces(io.RawIOBase):
    """Parts of a file, and bytes, one after another, as a file."""

    def __init__(self, file: BinaryIO, pieces: Sequence[Piece | bytes]) -> None:
        self._file, self._pieces, self._position = file, pieces, 0
        self._starts = [0]
        for piece in pieces:
            length = len(piece) if isinstance(piece, bytes) else piece[1] - piece[0]
            self._starts.append(self._starts[-1] + length)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._starts[-1]}
        position = origin[whence] + offset
        if position < 0:
            raise ValueError(f"negative seek position {position}")
        self._position = position
        return position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        number = bisect.bisect_right(self._starts, self._position) - 1
        if number >= len(self._pieces) or not len(buffer):
            return 0
        piece, inside = self._pieces[number], self._position - self._starts[number]
        wanted = min(len(buffer), self._starts[number + 1] - self._position)
        if isinstance(piece, bytes):
            data = piece[inside : inside + wanted]
        else:
            self._file.seek(piece[0] + inside)
            data = self._file.read(wanted)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def _joined(pieces: Iterator[Piece]) -> list[Piece]:
    """Pieces, with those that touch each other as one."""
    out: list[Piece] = []
    for start, end in pieces:
        if out and out[-1][1] == start:
            out[-1] = (out[-1][0], end)
        elif start < end:
            out.append((start, end))
    return out


def _png(file: BinaryIO, size: int) -> Iterator[Piece]:
    """Pieces of a PNG: chunks that pixels depend on, and sound ones about the orientation."""
    at, texts = 8, 0
    yield 0, at
    while at + 8 <= size:
        file.seek(at)
        header = file.read(8)
        length, name = int.from_bytes(header[:4], "big"), header[4:]
        end = at + 12 + length
        if not (name.isascii() and name.isalpha()) or length > 0x7FFFFFFF:
            break
        # The case of the first letter says whether a decoder must know the chunk.
        if name[:1].isupper() or name == b"tRNS":
            yield at, min(end, size)
        elif texts < _MAX_KEPT and end <= size and _is_about_orientation(file, name, length):
            texts += 1
            yield at, end
        at = end
        if name == b"IEND":
            break
    yield at, max(at, size)


def _is_about_orientation(file: BinaryIO, name: bytes, length: int) -> bool:
    """Whether the chunk whose content begins here may state the orientation, and is sound."""
    beginnings = _PNG_ORIENTATION.get(name)
    if beginnings is None or length > _MAX_STORED:
        return False
    data = file.read(min(length, 32))
    if not data.startswith(beginnings):
        return False
    data += file.read(length - len(data))
    if zlib.crc32(name + data) != int.from_bytes(file.read(4), "big"):
        return False
    if name == b"zTXt":
        method, text = data[22:23], data[23:]
        return method == b"\0" and _inflates(text)
    if name == b"iTXt":
        # A flag, a method, and three texts: language, translated keyword, XMP.
        rest = data.partition(b"\0")[2]
        texts = rest[2:].split(b"\0", 2)
        return len(texts) == 3 and (rest[0] == 0 or (rest[1] == 0 and _inflates(texts[2])))
    return True


# Where Pillow looks for the orientation: EXIF, EXIF as a text of ImageMagick, and XMP.
_PNG_ORIENTATION = {
    b"eXIf": (b"II*\0", b"MM\0*"),
    b"tEXt": (b"Raw profile type exif\0",),
    b"zTXt": (b"Raw profile type exif\0",),
    b"iTXt": (b"XML:com.adobe.xmp\0",),
}


def _inflates(data: bytes) -> bool:
    """Whether compressed data are whole and small."""
    inflate = zlib.decompressobj()
    try:
        inflate.decompress(data, _MAX_INFLATED)
    except zlib.error:
        return False
    return inflate.eof and not inflate.unconsumed_tail


def _jpeg(file: BinaryIO, size: int) -> Iterator[Piece]:
    """Pieces of a JPEG: all but those segments before the pixels that hold other metadata."""
    at, kept = 2, 0
    yield 0, at
    while at + 4 <= size:
        file.seek(at)
        header = file.read(20)
        marker = header[1]
        # 0xFF may also be repeated before a marker; SOS, or what has no length, ends the segments.
        if header[0] != 0xFF or not 0xC0 <= marker <= 0xFE or 0xD0 <= marker <= 0xDA:
            break
        length = int.from_bytes(header[2:4], "big")
        end = at + 2 + length
        if length < 2 or end > size:
            break
        content = header[4 : 2 + length]
        if not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            yield at, end
        elif marker == 0xE1 and content.startswith((b"Exif\0\0", b"http://ns.adobe")):
            kept += length
            if kept <= _MAX_STORED:
                yield at, end
        # The lengths from which on the decoder trusts these two, which tell the colours.
        elif (marker == 0xE0 and content.startswith(b"JFIF\0") and length >= 16) or (
            marker == 0xEE and content.startswith(b"Adobe") and length >= 14
        ):
            yield at, end
        at = end
    yield at, size


def _gif(file: BinaryIO, size: int) -> Iterator[Piece]:
    """Pieces of a GIF: all but comments and the data of programs before the first image."""
    file.seek(0)
    header = file.read(13)
    at = 13 + (3 << (header[10] & 7) + 1 if len(header) == 13 and header[10] & 0x80 else 0)
    yield 0, min(at, size)
    while at + 2 <= size:
        file.seek(at)
        introducer, label = file.read(2)
        if introducer != 0x21:
            break
        end = at + 2
        while block := file.read(1):
            end += 1 + block[0]
            if not block[0]:
                break
            file.seek(end)
        if not block or end > size:
            break
        if label == 0xF9:  # times and transparency of the image that follows
            yield at, end
        at = end
    yield at, max(at, size)
