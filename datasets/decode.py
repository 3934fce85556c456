"""Robust decoding: any file, even a hostile one, becomes an RGB image or one short reason.

The format is detected from the first bytes, never from the name, and only the plugin of that format
is used: an unknown file cannot reach the rarely used decoders of Pillow (EPS starts Ghostscript).
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO

from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
    features,
)

from hyperpq.datasets.decode_errors import is_of_the_system, read_error, reason
from hyperpq.datasets.decode_memory import Reserve, bytes_of_webp, bytes_to_decode, webp_size
from hyperpq.datasets.file_source import open_file
from hyperpq.datasets.libtiff import silence_libtiff
from hyperpq.datasets.metadata_filter import without_metadata, without_tiff_metadata
from hyperpq.datasets.to_rgb import to_rgb
from hyperpq.errors import HyperPQError, ImageError, ImageUnavailableError

# Pillow warns about damaged metadata and about large images; our own limit and reasons replace
# both. This is set once, as `warnings.catch_warnings` changes global state and isn't thread-safe.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
silence_libtiff()

SNIFF_BYTES = 64
RAW_EXTENSIONS = frozenset(
    b".3fr .arw .cr2 .cr3 .crw .dng .erf .iiq .kdc .mrw .nef .nrw .orf .pef .raf .raw .rw2 .sr2 "
    b".srf .srw .x3f".split()
)
_PLUGINS: dict[str, type[ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WebP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
}
_HEIC_BRANDS = frozenset(b"heic heix heim heis hevc hevx hevm hevs mif1 msf1".split())
_BMP_HEADER_SIZES = frozenset((12, 16, 40, 52, 56, 64, 108, 124))
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION, _DNG_VERSION = 0x0112, 0xC612
_MAKE, _SUB_FILE_TYPE, _SUB_IFDS = 0x010F, 0x00FE, 0x014A
# LibRaw's flip (its documentation, `libraw_image_sizes_t`) as an EXIF orientation.
_FLIP_TO_ORIENTATION = {3: 3, 5: 8, 6: 6}

_FULL_SIZE = "hyperpq full size"
# Pixels of a decoded image above which it is reduced first.
_LARGE = 32_000_000
MIN_TRANSPOSED = 5
"""EXIF orientations from this one on swap width and height."""


def sniff(header: bytes) -> str | None:
    """Name the format of an image from its first bytes.

    Parameters
    ----------
    header : bytes
        The first bytes of the file; 32 are enough, `SNIFF_BYTES` are better.

    Returns
    -------
    str or None
        ``JPEG``, ``PNG``, ``WebP``, ``GIF``, ``BMP``, ``TIFF``, ``HEIC``, ``AVIF`` or ``RAW``; None
        for any other content. Camera files that begin like a plain TIFF are ``TIFF``.
    """
    if header.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if header.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if header[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    if header[:4] == b"RIFF" and header[8:12] == b"WEBP":
        return "WebP"
    if header[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "RAW" if header[8:11] == b"CR\x02" else "TIFF"
    # A text may also begin with "BM".
    if header[:2] == b"BM" and int.from_bytes(header[14:18], "little") in _BMP_HEADER_SIZES:
        return "BMP"
    if header[4:8] == b"ftyp":
        length = min(int.from_bytes(header[:4], "big"), len(header))
        brands = {header[8:12], *(header[i : i + 4] for i in range(16, length - 3, 4))}
        if b"crx " in brands:
            return "RAW"
        if brands & {b"avif", b"avis"}:
            return "AVIF"
        return "HEIC" if brands & _HEIC_BRANDS else None
    if header[:4] in (b"IIRO", b"IIRS", b"MMOR", b"IIU\0") or header[:8] == b"FUJIFILM":
        return "RAW"
    return None


def open_image(
    source: str | bytes | os.PathLike[str] | BinaryIO,
    *,
    max_megapixels: float = 200.0,
    shrink_to: int | None = None,
    reserve: Reserve | None = None,
) -> Image.Image:
    """Decode one image to RGB, upright, with transparent areas shown on white.

    Parameters
    ----------
    source : str, bytes, path or binary file
        A path, also one in a shard, or an open seekable file, which is read from its beginning and
        left open.
    max_megapixels : float
        An image whose header announces more is not decoded. TIFF, WebP and GIF also have the limit
        of Pillow, 179 megapixels.
    shrink_to : int, optional
        A JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, and any image of more than 32
        megapixels is reduced by a whole number before anything else is done with it, as long as
        its shorter side keeps this many pixels.
    reserve : callable, optional
        Called before pixels are decoded with the number of bytes that this takes; may wait until
        there is as much memory. Of several calls, the largest number counts.

    Returns
    -------
    PIL.Image.Image
        Mode RGB, with all pixels in memory and no file left open.

    Raises
    ------
    ImageError
        With a short reason without the path. No other error is raised for bad content.
    ImageUnavailableError
        If the file cannot be read now, which says nothing of its content.

    Notes
    -----
    The function is thread-safe, and Pillow releases the interpreter lock while it decodes. 16-bit
    grey is divided by 257. Colour profiles are not applied. Damaged metadata is no error and leaves
    the image as it is stored. Integers and floats without a declared range are scaled by the
    smallest of 1 (floats only), 255 and 65535 that bounds them all, or else between minimum and
    maximum.
    """
    limits = _Limits(max_megapixels, shrink_to, reserve)
    # Pillow and its plugins raise almost any exception on damaged bytes (OSError, SyntaxError,
    # ValueError, KeyError, struct.error, zlib.error, ...): this is the one boundary for them.
    try:
        if isinstance(source, str | bytes | os.PathLike):
            with open_file(source) as file:
                return _decode(file, os.fsencode(source), limits)
        name = getattr(source, "name", b"")
        name = os.fsencode(name) if isinstance(name, str | bytes) else b""
        return _decode(source, name, limits)
    except HyperPQError:
        raise
    except Exception as error:
        failed = error if is_of_the_system(error) else read_error(source)
        if failed is not None:
            raise ImageUnavailableError(reason(failed)) from error
        raise ImageError(reason(error)) from error


@dataclass(frozen=True)
class _Limits:
    """How large an image may be and becomes; see `open_image`."""

    max_megapixels: float
    shrink_to: int | None
    reserve: Reserve | None

    def check(self, size: tuple[int, int]) -> None:
        megapixels = size[0] * size[1] / 1e6
        if megapixels > self.max_megapixels:
            raise ImageError(
                f"{megapixels:.4g} megapixels, more than the limit of {self.max_megapixels:g} "
                "megapixels"
            )


def _decode(file: BinaryIO, name: bytes, limits: _Limits) -> Image.Image:
    """Decode an open file; ``name`` only distinguishes camera files from other TIFFs."""
    file.seek(0)
    header = file.read(SNIFF_BYTES)
    file.seek(0)
    if not header:
        raise ImageError("empty file")
    kind = sniff(header)
    if kind is None or kind == "TIFF":
        extension = os.path.splitext(name)[1].lower()
        # Some camera formats have no signature of their own; a .raw file may be anything.
        kind = "RAW" if extension in RAW_EXTENSIONS and (kind or extension != b".raw") else kind
    if kind is None:
        raise ImageError("not an image")
    if kind == "RAW":
        return _raw_preview(file, limits)
    if kind == "WebP" and int.from_bytes(header[4:8], "little") + 8 > file.seek(0, os.SEEK_END):
        raise ImageError("truncated")  # the decoder would only report a failure
    if kind != "TIFF":
        return _decode_pixels(without_metadata(file, kind), kind, limits)
    try:
        file.seek(0)
        return _decode_pixels(file, kind, limits)
    except HyperPQError:
        raise
    except Exception:  # of the pixels or of the metadata; see open_image
        bare = without_tiff_metadata(file)
        if bare is None:
            raise
        return _decode_pixels(bare, kind, limits)


def _decode_pixels(file: BinaryIO, kind: str, limits: _Limits) -> Image.Image:
    """Decode a file of a known format, at its beginning."""
    if kind == "WebP" and (size := webp_size(file.read(SNIFF_BYTES))):
        # Its decoder allocates memory when it is made.
        limits.check(size)
        if limits.reserve is not None:
            limits.reserve(bytes_of_webp(size))
    file.seek(0)
    image = _plugin(kind)(file)
    if isinstance(image, TiffImagePlugin.TiffImageFile) and _is_camera_file(image):
        return _raw_preview(file, limits)
    return _finish(image, kind, limits)


def upright_rgb(
    image: Image.Image,
    *,
    max_megapixels: float = 200.0,
    shrink_to: int | None = None,
    reserve: Reserve | None = None,
) -> Image.Image:
    """An image that Pillow has opened or made, as `open_image` gives those of files.

    The image stays as it is; if it comes from a file, its pixels are read. Parameters and errors
    are those of `open_image`.
    """
    try:
        out = _finish(image, None, _Limits(max_megapixels, shrink_to, reserve))
    except HyperPQError:
        raise
    except Exception as error:  # as in open_image
        raise ImageError(reason(error)) from error
    return out


def _finish(image: Image.Image, kind: str | None, limits: _Limits) -> Image.Image:
    """Read the pixels of an image, convert it to RGB and turn it; ``kind`` of a new file."""
    full_size = image.size
    limits.check(full_size)
    if limits.shrink_to is not None and kind == "JPEG":
        # A square: orientation makes no difference.
        image.draft(None, (limits.shrink_to, limits.shrink_to))
    factor = _reduction(image.size, limits.shrink_to)
    if limits.reserve is not None:
        limits.reserve(bytes_to_decode(image, kind, full_size, factor))
    image.load()
    orientation = exif_orientation(image)
    upright = to_rgb(image, factor)
    if orientation in _TRANSPOSE:
        upright = upright.transpose(_TRANSPOSE[orientation])
    if kind is None and upright is image:
        upright = image.copy()
    is_transposed = orientation is not None and orientation >= MIN_TRANSPOSED
    upright.info[_FULL_SIZE] = full_size[::-1] if is_transposed else full_size
    return upright


def _reduction(size: tuple[int, int], shrink_to: int | None) -> int:
    """By which number a decoded image is reduced."""
    if shrink_to is None or size[0] * size[1] <= _LARGE:
        return 1
    return max(1, min(size) // shrink_to)


def full_size(image: Image.Image) -> tuple[int, int]:
    """Width and height in the file of an image from `open_image`, also if it was decoded smaller.

    For a raw file of a camera it is the size of the preview.
    """
    return image.info.get(_FULL_SIZE, image.size)


def _plugin(kind: str) -> type[ImageFile.ImageFile]:
    """The class that decodes a format; optional packages are imported on first need."""
    if kind in _PLUGINS:
        return _PLUGINS[kind]
    if kind == "AVIF" and features.check("avif"):
        from PIL import AvifImagePlugin

        return AvifImagePlugin.AvifImageFile
    try:
        from pillow_heif import as_plugin
    except ImportError:
        raise ImageUnavailableError(f"{kind} needs: pip install 'hyperpq[heif]'") from None
    if kind == "HEIC":
        return as_plugin.HeifImageFile
    # Pillow reads AVIF since 11.3; before that, pillow-heif did.
    if not hasattr(as_plugin, "AvifImageFile"):
        raise ImageUnavailableError("AVIF needs: pip install 'pillow>=11.3'")
    return as_plugin.AvifImageFile


def _is_camera_file(image: TiffImagePlugin.TiffImageFile) -> bool:
    """Whether a TIFF is a raw file of a camera: DNG, or with a thumbnail as its first image."""
    tags = image.tag_v2
    return _DNG_VERSION in tags or (
        _MAKE in tags and _SUB_IFDS in tags and tags.get(_SUB_FILE_TYPE) == 1
    )


def _raw_preview(file: BinaryIO, limits: _Limits) -> Image.Image:
    """Decode the JPEG or bitmap preview in a raw file of a camera."""
    try:
        import rawpy
    except ImportError:
        raise ImageUnavailableError("RAW needs: pip install 'hyperpq[raw]'") from None
    file.seek(0)
    with rawpy.imread(file) as raw:
        orientation = _FLIP_TO_ORIENTATION.get(raw.sizes.flip, 1)
        try:
            preview = raw.extract_thumb()
        except (rawpy.LibRawNoThumbnailError, rawpy.LibRawUnsupportedThumbnailError):
            raise ImageError("RAW without a preview") from None
        if not isinstance(preview.data, bytes):
            image = Image.fromarray(preview.data).convert("RGB")
        else:
            jpeg = BytesIO(preview.data)
            stripped = without_metadata(jpeg, "JPEG")
            if exif_orientation(JpegImagePlugin.JpegImageFile(stripped)) is not None:
                orientation = 1  # the preview has an orientation of its own
            image = _decode(jpeg, b"", limits)
    return image.transpose(_TRANSPOSE[orientation]) if orientation in _TRANSPOSE else image


def exif_orientation(image: Image.Image) -> int | None:
    """The EXIF orientation, None if there is none or none that is known."""
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # as in open_image; damaged metadata must not exclude a good image
        return None
    # Of any type in a damaged file.
    return orientation if type(orientation) is int and 1 <= orientation <= 8 else None
