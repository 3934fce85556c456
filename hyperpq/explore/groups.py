"""Groups of a level as text, and as folders of links to their images."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperpq.datasets.file_source import is_plain_file
from hyperpq.errors import InvalidInputError
from hyperpq.utils.files import os_errors
from hyperpq.utils.json_text import for_json, path_text
from hyperpq.utils.locations import is_absolute
from hyperpq.utils.shown_names import escaped, quoted

if TYPE_CHECKING:
    from hyperpq.explore.tree import Cluster, Tree
    from hyperpq.index.reader import IndexView

# Rows whose paths are read at once.
_BATCH = 10_000
# A name may have 255 bytes on most file systems; the number and the ending of a file stay.
_MAX_NAME_BYTES, _MAX_TITLE_BYTES = 240, 80


def table(tree: Tree, view: IndexView, level: int) -> Iterator[str]:
    """A line for each group, with the image that is most typical of it."""
    has_paths = "path" in view.rows.schema
    for number, cluster in enumerate(tree.at_level(level), 1):
        typical = cluster.representatives[0]
        shown = quoted(view.paths_of([typical])[0]) if has_paths else f"id {typical}"
        yield f"{number:>4}  {cluster.size:>9,}  {escaped(cluster.title):<32}  {shown}\n"


def as_csv(tree: Tree, view: IndexView, level: int) -> Iterator[str]:
    """A line for each row: number and title of its group, its id, and its path if it has one."""
    has_paths = "path" in view.rows.schema
    yield _csv_line(["group", "title", "id", *(["path"] if has_paths else [])])
    for number, cluster in enumerate(tree.at_level(level), 1):
        for id, path in _members(tree, view, cluster, has_paths):
            named = [] if path is None else [path_text(path)]
            yield _csv_line([number, cluster.title, id, *named])


def as_json(tree: Tree, view: IndexView, level: int) -> Iterator[str]:
    """One object for each group and line, with its rows in the order of the tree."""
    has_paths = "path" in view.rows.schema
    for number, cluster in enumerate(tree.at_level(level), 1):
        members: list[dict[str, Any]] = [
            {"id": id} if path is None else {"id": id, "path": path_text(path)}
            for id, path in _members(tree, view, cluster, has_paths)
        ]
        said = {
            "group": number,
            "title": cluster.title,
            "size": cluster.size,
            "spread": cluster.spread,
            "labels": [label.to_json() for label in cluster.labels],
            "typical": list(cluster.representatives),
            "members": members,
        }
        yield json.dumps(for_json(said)) + "\n"


WRITERS = {"table": table, "csv": as_csv, "json": as_json}
"""How groups are written, by the name of the format."""


def check_folder(folder: Path) -> None:
    """Check that a folder of links can be made, before the work whose result it takes.

    Raises
    ------
    InvalidInputError
        If there is something else than an empty folder, or no folder that it would be in.
    """
    if folder.is_dir() and not folder.is_symlink():
        if any(folder.iterdir()):
            raise InvalidInputError(
                f"{folder} is not empty; expected a folder that is empty or does not exist, as "
                "nothing is replaced."
            )
    elif os.path.lexists(folder):
        raise InvalidInputError(f"{folder} is not a folder; expected the name of a new one.")
    elif not folder.parent.is_dir():
        raise InvalidInputError(
            f"{folder} cannot be made, as there is no folder {folder.parent}; create it first."
        )


def link_groups(tree: Tree, view: IndexView, level: int, folder: Path) -> int:
    """Make a folder for each group of a level, with symbolic links to its images.

    The folders are named by number and title, and the links by number and name, those that are
    typical first. Images are neither moved nor changed, and links lead to their absolute paths.

    Parameters
    ----------
    tree : Tree
        The groups.
    view : IndexView
        The index that it was made of; its rows have paths.
    level : int
        Which groups, see `Tree.at_level`.
    folder : Path
        Where the folders go; it is empty or does not exist, and is complete or unchanged after
        that.

    Returns
    -------
    int
        Number of links.

    Raises
    ------
    InvalidInputError
        If the folder is not empty, or rows have no paths.
    StoreError
        If the system refuses.
    """
    check_folder(folder)
    groups = tree.at_level(level)
    count, target = 0, Path(os.path.abspath(folder))
    with os_errors("write", target):
        aside = Path(
            tempfile.mkdtemp(prefix=f".{target.name[:64]}.", suffix=".tmp", dir=target.parent)
        )
        try:
            # As a folder that is made by mkdir; the temporary one is for its owner alone.
            umask = os.umask(0)
            os.umask(umask)
            aside.chmod(0o777 & ~umask)
            width = len(str(len(groups)))
            for number, cluster in enumerate(groups, 1):
                name = f"{number:0{width}}-{_file_name(cluster.title)}"
                own = os.path.join(os.fsencode(aside), name.encode())
                os.mkdir(own)
                digits = len(str(cluster.size))
                members = _members(tree, view, cluster, True)
                for place, (_, path) in enumerate(members, 1):
                    assert path is not None
                    if is_absolute(path) and not is_plain_file(path):
                        raise InvalidInputError(
                            f"{quoted(path)} is in a tar shard or in object storage, to which no "
                            "link can lead; expected an index of images that are files; write the "
                            "groups as a list: --format csv."
                        )
                    os.symlink(path, os.path.join(own, _link_name(place, digits, path)))
                    count += 1
            # An empty folder in its place is replaced.
            os.rename(aside, target)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
    return count


def _members(
    tree: Tree, view: IndexView, cluster: Cluster, has_paths: bool
) -> Iterator[tuple[int, bytes | None]]:
    ids = tree.ids_of(cluster.number)
    for start in range(0, len(ids), _BATCH):
        some = ids[start : start + _BATCH]
        paths = view.paths_of(some) if has_paths else [None] * len(some)
        yield from zip(some.tolist(), paths, strict=True)


def _link_name(place: int, digits: int, path: bytes) -> bytes:
    """A number that no other link of the folder has, and the name of the file."""
    stem, ending = os.path.splitext(os.path.basename(path))
    room = _MAX_NAME_BYTES - len(ending) - digits - 1
    return f"{place:0{digits}}-".encode() + stem[: max(0, room)] + ending[:_MAX_NAME_BYTES]


def _file_name(title: str) -> str:
    """A title as a part of a file name."""
    text = escaped(title).replace("/", "_").encode("utf-8")[:_MAX_TITLE_BYTES]
    return text.decode("utf-8", "ignore")


def _csv_line(values: list[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()
