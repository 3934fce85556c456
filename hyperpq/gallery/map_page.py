"""`write_map`: a collection as one HTML file, in which one zooms from groups down to images."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from hyperpq._version import __version__
from hyperpq.gallery.markup import Markup, asset, document_head, fact_list, fill
from hyperpq.gallery.sections import Caption
from hyperpq.gallery.sprites import COLUMNS, SIDE, SpriteSheets
from hyperpq.images.metadata import MAX_MEGAPIXELS
from hyperpq.progress import ProgressLike, as_progress
from hyperpq.utils.output_files import check_writable, written_aside
from hyperpq.utils.shown_names import escaped
from hyperpq.utils.validation import as_count

if TYPE_CHECKING:
    from hyperpq.explore import Exploration, Tree

DEFAULT_THUMBNAILS = 5000
"""Images that a page holds, about 3 kB each."""
MAX_SHOWN = 100_000
"""Images of the collection that are on the map; of larger ones it shows a part of each group."""


def write_map(
    path: str | Path,
    exploration: Exploration,
    caption: Caption | None = None,
    *,
    thumbnails: int = DEFAULT_THUMBNAILS,
    max_megapixels: float = MAX_MEGAPIXELS,
    progress: ProgressLike = None,
) -> None:
    """Write a map of an index of images as a page for a browser, without a connection.

    Groups are rectangles in rectangles. Seen from afar, each shows the images that stand for it;
    zooming in leads to its parts and down to every image. The images that stand for groups have
    thumbnails first, and further ones as far as ``thumbnails`` reach; another image is read from
    its file when it is large on the screen or selected.

    Parameters
    ----------
    path : path-like
        The file to write: completely, or not at all.
    exploration : Exploration
        What is shown; its rows have paths.
    caption : Caption, optional
        Title of the page, and facts about the collection.
    thumbnails : int
        How many images the file holds as thumbnails of 96 pixels, about 3 kB each.
    max_megapixels : float
        Larger images are shown as unreadable.
    progress : Progress or bool, optional
        Where to report; True draws bars on stderr.

    Raises
    ------
    InvalidInputError
        If the path is a folder or its folder does not exist, or the rows have no paths.
    StoreError
        If the system refuses to write the file.

    Notes
    -----
    Of more than 100,000 images each group shows the same share, spread evenly over it. The sizes of
    groups are those of the whole collection.
    """
    path = Path(path)
    check_writable(path)
    thumbnails = as_count(thumbnails, "thumbnails", 0)
    shown = MapRows.of(exploration, thumbnails)
    with (
        as_progress(progress).phase("thumbnails", len(shown.with_thumbnail)) as phase,
        written_aside(path) as aside,
        open(aside, "x", encoding="utf-8") as file,
    ):
        sources = (shown.paths[position] for position in shown.with_thumbnail)
        sheets = SpriteSheets(sources, phase, max_megapixels)
        file.writelines(_page(exploration, shown, caption or Caption("Map"), sheets))


@dataclass(frozen=True, eq=False)
class MapRows:
    """Which rows are on the map.

    Attributes
    ----------
    rows : ndarray, shape (s,)
        Their places in ``tree.ids``, ascending.
    paths : list of bytes
        Their paths.
    with_thumbnail : list of int
        Which of them have a thumbnail, the most important first.
    """

    rows: NDArray[np.int64]
    paths: list[bytes]
    with_thumbnail: list[int]

    @classmethod
    def of(cls, exploration: Exploration, thumbnails: int, most: int = MAX_SHOWN) -> MapRows:
        """At most ``most`` rows, beside those that stand for groups."""
        tree = exploration.tree
        places = {id: place for place, id in enumerate(tree.ids.tolist())}
        standing = [places[id] for c in tree.clusters for id in c.representatives]
        standing = list(dict.fromkeys(standing))
        count = min(len(tree.ids), most)
        rows = np.union1d(np.arange(count) * len(tree.ids) // max(count, 1), standing)
        rows = rows.astype(np.int64)
        first = np.searchsorted(rows, standing).tolist()
        others = np.setdiff1d(np.arange(len(rows)), first)
        left = max(0, min(thumbnails - len(first), len(others)))
        spread = others[np.arange(left) * len(others) // max(left, 1)]
        with_thumbnail = [*first[:thumbnails], *spread.tolist()]
        return cls(rows, exploration.view.paths_of(tree.ids[rows]), with_thumbnail)


def _page(
    exploration: Exploration, shown: MapRows, caption: Caption, sheets: SpriteSheets
) -> Iterator[Markup]:
    """The parts of the page, one after the other."""
    style = asset("page.css") + "\n" + asset("map.css")
    script = asset("map.js")
    header = fill("comparison_header", title=caption.title, facts=fact_list(caption.facts))
    yield document_head(
        caption.title, header, content="map", style=style, script=script, images="data: file:"
    )
    yield fill("map")
    for sheet in sheets:
        yield fill("map_sheet", source=sheet.data_uri, width=sheet.width, height=sheet.height)
    places = dict(zip(shown.with_thumbnail, sheets.places, strict=True))
    data = map_data(exploration, shown, places)
    yield fill("map_foot", data=_inside_script(data), version=__version__, script=Markup(script))


def map_data(exploration: Exploration, shown: MapRows, places: Mapping[int, int]) -> dict[str, Any]:
    """What the script of a map reads, as JSON types.

    Parameters
    ----------
    exploration : Exploration
        What is shown.
    shown : MapRows
        The rows that are on the map.
    places : mapping of int to int
        Where the images of these rows are found by the page, by their number on the map: on its
        sheets, or by ids on a server.
    """
    return {
        "clusters": _clusters(exploration, shown),
        "frame": exploration.layout.to_json()["frame"],
        **_files(shown, places),
        "side": SIDE,
        "columns": COLUMNS,
    }


def _clusters(exploration: Exploration, shown: MapRows) -> list[dict[str, Any]]:
    tree, boxes = exploration.tree, exploration.layout.to_json()["boxes"]
    ends = np.array([(c.start, c.stop) for c in tree.clusters])
    starts, stops = np.searchsorted(shown.rows, ends.T).tolist()
    places = _places(tree, shown)
    return [
        {
            "parent": cluster.parent,
            "children": cluster.children,
            "size": cluster.size,
            "title": escaped(cluster.title),
            "labels": [[escaped(label.text), label.share] for label in cluster.labels],
            "typical": [places[id] for id in cluster.representatives],
            "box": boxes[cluster.number],
            "files": [starts[cluster.number], stops[cluster.number]],
        }
        for cluster in tree.clusters
    ]


def _places(tree: Tree, shown: MapRows) -> dict[int, int]:
    """Of each id that is on the map its place there."""
    return {id: place for place, id in enumerate(tree.ids[shown.rows].tolist())}


def _files(shown: MapRows, places: Mapping[int, int]) -> dict[str, Any]:
    """Folders, and of each row its folder, name, thumbnail, and its address if that differs."""
    folders: dict[bytes, int] = {}
    files: list[list[int | str]] = []
    for number, path in enumerate(shown.paths):
        folder, name = os.path.split(path)
        place = folders.setdefault(folder, len(folders))
        text, address = escaped(os.fsdecode(name)), quote(name)
        entry: list[int | str] = [place, text, places.get(number, -1)]
        files.append(entry if text == address else [*entry, address])
    named = [
        [escaped(os.fsdecode(folder)), f"file://{quote(folder)}" if os.path.isabs(folder) else ""]
        for folder in folders
    ]
    return {"folders": named, "files": files}


def _inside_script(data: dict[str, Any]) -> Markup:
    """JSON that cannot end the element that it stands in."""
    text = json.dumps(data, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)
