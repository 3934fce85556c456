"""Indexes of images and of vectors: a command for the other kind says what to do instead.

This is found out before the codec and the network are loaded.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from hyperpq.cli import output
from hyperpq.errors import IndexNotFoundError, InvalidInputError

NO_PATHS_TO_REMOVE = (
    ", which have no paths; remove vectors by a condition, as with `hyperpq remove --where "
    "'id in (3, 7)'`"
)
"""Advice for `need_images`."""


def is_of_images(index_path: Path) -> bool:
    """Whether an index is one of images.

    Raises
    ------
    IndexNotFoundError, CorruptIndexError, FormatVersionError
        If the index cannot be opened.
    """
    from hyperpq.images.metadata import ImageMetadata
    from hyperpq.store import IndexStore

    stored = IndexStore.open(index_path).settings.get("metadata")
    return ImageMetadata.from_index(stored if isinstance(stored, dict) else {}) is not None


def need_images(index_path: Path, advice: str, *, may_be_new: bool = False) -> None:
    """Raise `InvalidInputError`, with what to do instead, if the index is one of vectors.

    If there is no index, that is an error too, unless the command can make one (``may_be_new``).
    """
    try:
        wrong = not is_of_images(index_path)
    except IndexNotFoundError:
        if may_be_new:
            return
        raise
    if wrong:
        raise InvalidInputError(f"{index_path} is an index of vectors{advice}.")


def need_images_for(index_path: Path, names: Iterable[str | os.PathLike[str]]) -> None:
    """`need_images` for a command that takes images or, for an index of vectors, their files."""
    from hyperpq.io.vector_files import is_vector_file

    other = next((name for name in names if not is_vector_file(Path(name))), "-")
    need_images(
        index_path,
        f", and {os.fspath(other)} is no file of vectors; expected files such as vectors.npy, or "
        "an index of images (--index)",
    )


def need_vectors(index_path: Path, names: Iterable[Path | str]) -> None:
    """Raise `InvalidInputError` if files of vectors were given for an index of images."""
    try:
        wrong = is_of_images(index_path)
    except IndexNotFoundError:
        # The command makes one, or says that there is none.
        return
    if wrong:
        raise InvalidInputError(
            f"{index_path} is an index of images, and {next(iter(names))} is a file of vectors; "
            "expected an index of vectors (--index)."
        )


def image_roots(
    roots: Iterable[Path | str], index_path: Path | None = None, *, quiet: bool
) -> list[Path | str]:
    """The folders and images among paths that were given as such; what else is there is named.

    Parameters
    ----------
    roots : iterable of Path or str
        The paths; text is a URL, which the library examines.
    index_path : Path, optional
        The index that they are for. What it records was a folder or an image, and is not left out:
        the library says what has become of it.
    quiet : bool
        Whether nothing is said of the paths that are left out.

    Raises
    ------
    InvalidInputError
        If there are only files that are no images.
    """
    from hyperpq.io.vector_files import is_vector_file

    given = list(roots)
    files = [root for root in given if isinstance(root, Path) and root.is_file()]
    other = [root for root in files if not _may_be_image(root)]
    if other and index_path is not None:
        recorded = _recorded(index_path)
        other = [root for root in other if os.path.abspath(os.fsencode(root)) not in recorded]
    if other and len(other) == len(given):
        if is_vector_file(other[0]):
            raise InvalidInputError(
                f"{other[0]} is a file of vectors; `hyperpq import` makes and fills an index of "
                "vectors."
            )
        raise InvalidInputError(
            f"{other[0]} is not an image; expected folders of images, or images."
        )
    if not quiet:
        for root in other:
            output.warn(os.fsencode(root), "not an image")
    return [root for root in given if root not in other]


def _recorded(index_path: Path) -> set[bytes]:
    """Paths of the folders and images that an index of images records, if there is one."""
    from hyperpq.images.roots import present_roots
    from hyperpq.store import IndexStore

    try:
        store = IndexStore.open(index_path)
    except IndexNotFoundError:
        return set()
    return {root.path for root in present_roots(store.settings["metadata"], store.path)}


def _may_be_image(path: Path) -> bool:
    """Whether a file would be listed in a folder of images."""
    from hyperpq.datasets.image_files import may_be_image
    from hyperpq.datasets.tar_source import COMPRESSED, is_shard

    try:
        name = os.fsencode(path)
        return is_shard(name) or name.lower().endswith(COMPRESSED) or may_be_image(name)
    except OSError:
        # The command says why it cannot be read.
        return True
