"""Which of the files of a source, such as a shard, are images."""

from __future__ import annotations

import os
from collections.abc import Iterator

from hyperpq.datasets.decode import SNIFF_BYTES, sniff
from hyperpq.datasets.file_source import FileSource
from hyperpq.datasets.ignore import IgnoreRules
from hyperpq.datasets.image_files import IMAGE_EXTENSIONS, is_hidden, unread_format
from hyperpq.datasets.listing import ImageFile, Listing
from hyperpq.errors import ImageError


def images_in(
    source: FileSource,
    root: bytes,
    found: Listing,
    rules: IgnoreRules | None = None,
    *,
    include_hidden: bool,
) -> Iterator[ImageFile]:
    """The files of a source that are images by the endings of their names.

    A name without an ending is that of an image if the file begins like one. Files with other
    endings are not opened: a shard has several of them for each image, and to open a file at a URL
    takes a request.

    Parameters
    ----------
    source : FileSource
        The source.
    root : bytes
        What is listed of it.
    found : Listing
        Gets what is skipped, and the numbers of other files.
    rules : IgnoreRules, optional
        What is left out, with the folders that it is in.
    include_hidden : bool
        Whether to list files whose names, or folders below the root, are hidden.
    """
    start = len(os.path.join(root, b""))
    folders: dict[bytes, bool] = {}

    def is_left_out(path: bytes, is_folder: bool) -> bool:
        """Whether a file is left out, or a folder above it."""
        above = os.path.dirname(path)
        if len(above) >= start:
            if above not in folders:
                folders[above] = is_left_out(above, True)
            if folders[above]:
                return True
        return (not include_hidden and is_hidden(os.path.basename(path))) or (
            rules is not None and rules.ignore(path, is_folder)
        )

    for file in source.entries(root, found):
        if not is_left_out(file.path, False) and is_image(source, file, found):
            yield file


def is_image(source: FileSource, file: ImageFile, found: Listing) -> bool:
    """Whether a file of a source is an image, as `images_in` says; what else it is, is noted."""
    path = file.path
    ending = os.path.splitext(path)[1].lower()
    try:
        if ending in IMAGE_EXTENSIONS or (
            not ending and file.size and sniff(source.start(path, SNIFF_BYTES)) is not None
        ):
            if file.size <= source.max_bytes:
                return True
            found.skipped[path] = f"larger than {source.max_bytes >> 20:,} MiB"
        elif kind := unread_format(path):
            found.skipped[path] = f"images of the format {kind} are not read"
        else:
            found.count_other(path)
    except (OSError, ImageError) as error:
        found.skipped[path] = str(getattr(error, "strerror", None) or error).lower()
        found.unknown.add(path)
    return False
