"""Index directories: rows with a codec and its settings, written and opened as a whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperpq.errors import CorruptIndexError
from hyperpq.store import IndexStore, replace_directory
from hyperpq.utils.validation import as_choice

if TYPE_CHECKING:
    from hyperpq.codec.base import Codec
    from hyperpq.index.view import RowView
    from hyperpq.store import Durability

DURABILITIES: tuple[Durability, ...] = ("full", "fast")


def write_directory(
    path: Path,
    rows: RowView,
    *,
    settings: dict[str, Any],
    files: Mapping[str, bytes],
    overwrite: bool,
) -> IndexStore:
    """Write an index directory completely or not at all.

    Parameters
    ----------
    path : Path
        A place that does not exist or is an empty folder.
    rows : RowView
        The rows.
    settings : dict
        JSON values for the manifest, see `codec_settings`.
    files : mapping of str to bytes
        The files of the codec.
    overwrite : bool
        Whether to replace an index that is at ``path``, once the new one is complete.

    Returns
    -------
    IndexStore
        The opened directory.

    Raises
    ------
    StoreError
        If the place is taken or the system refuses.
    """
    target = Path(os.path.abspath(path))
    work = target
    if overwrite and target.is_dir() and any(target.iterdir()):
        IndexStore.open(target)
        # Beside what a link points to, so that a rename can put it there.
        place = Path(os.path.realpath(target))
        work = place.with_name(place.name + ".saving-hyperpq")
        shutil.rmtree(work, ignore_errors=True)
    store = IndexStore.create(work, settings=settings, files=files)
    try:
        if rows.n_segments:
            store.commit(append=rows.batches(), next_id=rows.next_id)
        if work != target:
            replace_directory(work, target)
    except BaseException:
        # Without its rows it would look like an empty index.
        shutil.rmtree(work, ignore_errors=True)
        raise
    return IndexStore.open(target)


def open_directory(
    path: str | os.PathLike[str], *, verify: bool, durability: Durability
) -> tuple[Codec, IndexStore]:
    """Open an index directory, see `HiHPQIndex.load`.

    Returns
    -------
    codec : Codec
        On the CPU.
    store : IndexStore
        The rows, and settings that agree with the codec.
    """
    as_choice(durability, "durability", DURABILITIES)
    store = IndexStore.open(path, verify=verify)
    store.durability = durability
    # After the opening, so that a missing index is reported without loading torch.
    from hyperpq.codec.serialization import from_files

    codec = from_files({name: store.read_file(name) for name in store.file_names})
    settings, own = store.settings, codec_settings(codec)
    if any(settings.get(name) != value for name, value in own.items()):
        raise CorruptIndexError(
            f"{store.path}: manifest.json and codec.json disagree; expected {own}."
        )
    if not isinstance(settings.get("metadata", {}), dict):
        raise CorruptIndexError(
            f"{store.path}: metadata in manifest.json is not an object; expected one."
        )
    if any(segment.code_size != codec.code_size for segment in store.segments):
        raise CorruptIndexError(
            f"{store.path}: a shard has codes of another size than {codec.code_size} bytes; "
            "expected that size."
        )
    return codec, store


def codec_settings(codec: Codec) -> dict[str, Any]:
    """Settings of a codec that a manifest repeats; its name of the metric is ``score``."""
    return {"d": codec.d, "M": codec.M, "nbits": codec.nbits, "score": codec.metric}
