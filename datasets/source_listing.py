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
        if is_left_out(file.path, False):
            continue
        ending = os.path.splitext(file.path)[1].lower()
        try:
            is_image = ending in IMAGE_EXTENSIONS or bool(
                not ending and file.size and _begins_like_an_image(source, file.path)
            )
        except (OSError, ImageError) as error:
            found.skipped[file.path] = str(getattr(error, "strerror", None) or error).lower()
            found.unknown.add(file.path)
            continue
        if is_image:
            yield file
        elif kind := unread_format(file.path):
            found.skipped[file.path] = f"images of the format {kind} are not read"
        else:
            found.count_other(file.path)


def _begins_like_an_image(source: FileSource, path: bytes) -> bool:
    return sniff(source.start(path, SNIFF_BYTES)) is not None
