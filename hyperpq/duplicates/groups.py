"""`group`: images that belong together, and which one of each group is kept.

A group has one image, the *representative*, that is compared with each of the others. So a chain of
images, of which each is near the next, is not one group: what is not like the representative begins
a group of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from hyperpq.duplicates.calibration import Level
from hyperpq.duplicates.compare import Comparison
from hyperpq.duplicates.work_file import ImageFacts
from hyperpq.utils.json_text import for_json, path_text

Keep = Literal["largest", "oldest", "path"]
"""Which image of a group is kept: that with most pixels (of several the oldest), the oldest, or the
first path."""
KEEP: tuple[Keep, ...] = ("largest", "oldest", "path")
# Share of an image from which on it is said that something was drawn over it.
_WORTH_SAYING = 0.005
Edges = Mapping[tuple[int, int], Comparison]
"""Comparisons by pairs of rows, the lower one first."""


@dataclass(frozen=True)
class Member:
    """An image of a group.

    Attributes
    ----------
    id : int
        Its id in the index.
    path : bytes
        Its path.
    facts : ImageFacts
        What was read of it.
    reference : bool
        Whether it lies in a reference folder.
    comparison : Comparison or None
        How it compares with the first image of the group; None for that one.
    identical : bool
        Whether its file has the same content as that of the first.
    """

    id: int
    path: bytes
    facts: ImageFacts
    reference: bool = False
    comparison: Comparison | None = None
    identical: bool = False

    @property
    def date(self) -> str:
        """When it was taken, or else when its file was last changed, in local time."""
        changed = datetime.fromtimestamp(self.facts.mtime_ns / 1e9)
        return self.facts.taken or changed.strftime("%Y-%m-%d %H:%M:%S")

    @property
    def relation(self) -> str:
        """What it is to the first image of the group, in words; empty for that one."""
        if self.comparison is None:
            return ""
        if self.identical:
            return "identical file"
        words = f"{100 * self.comparison.agreement:.0f} % agree"
        if self.comparison.covered >= _WORTH_SAYING:
            words += f", {100 * self.comparison.covered:.0f} % drawn over"
        return f"{words}, mirrored" if self.comparison.mirrored else words


@dataclass(frozen=True)
class Group:
    """Images that belong together.

    Attributes
    ----------
    level : {"same image", "similar shot"}
        In what sense.
    members : sequence of Member
        The one that is kept, and the others.
    """

    level: Level
    members: Sequence[Member]

    @property
    def kept(self) -> Member:
        """The image that the rule keeps."""
        return self.members[0]

    @property
    def proposed(self) -> list[Member]:
        """The images that can go: copies outside the reference folders."""
        if self.level != "same image":
            return []
        return [member for member in self.members[1:] if not member.reference]

    def role(self, member: Member) -> str:
        """What is proposed for an image: keep, copy, reference or shot."""
        if member is self.kept:
            return "keep"
        if member.reference:
            return "reference"
        return "copy" if self.level == "same image" else "shot"

    def to_dict(self) -> dict[str, Any]:
        """The group as JSON values."""
        return {
            "level": self.level,
            "members": [{"role": self.role(m), **member_dict(m)} for m in self.members],
        }


def member_dict(member: Member) -> dict[str, Any]:
    """An image as JSON values; see `utils.json_text.for_json` for paths that are not UTF-8."""
    facts, found = member.facts, member.comparison
    out: dict[str, Any] = for_json(
        {
            "path": path_text(member.path),
            "id": member.id,
            "width": facts.width,
            "height": facts.height,
            "bytes": facts.size,
            "date": member.date,
            "sharpness": facts.sharpness,
            "identical": member.identical if found else None,
            "agreement": round(found.agreement, 4) if found else None,
            "overlap": round(found.overlap, 4) if found else None,
            "inliers": found.inliers if found else None,
            "mirrored": found.mirrored if found else None,
            "covered": round(found.covered, 4) if found else None,
        }
    )
    return out


def preference(member: Member, keep: Keep) -> tuple[object, ...]:
    """What the members of a group are ordered by: the first one is kept."""
    facts = member.facts
    pixels = facts.width * facts.height
    rules: dict[Keep, tuple[object, ...]] = {
        "largest": (-pixels, member.date, -facts.size),
        "oldest": (member.date, -pixels, -facts.size),
        "path": (),
    }
    return (not member.reference, *rules[keep], member.path)


def group(
    rows: Sequence[int],
    edges: Edges,
    complete: Callable[[int, Sequence[int]], Mapping[int, Comparison]] | None = None,
) -> list[list[int]]:
    """Divide images into groups around representatives.

    Parameters
    ----------
    rows : sequence of int
        The images, the most preferred first.
    edges : mapping
        Pairs that belong together.
    complete : callable, optional
        From a representative and rows to those of the rows that belong to it, too. It is asked for
        images that are connected with the representative through others only.

    Returns
    -------
    list of lists of int
        Groups of at least two images: the representative and the others in their order.
    """
    near: dict[int, set[int]] = {row: set() for row in rows}
    for a, b in edges:
        near[a].add(b)
        near[b].add(a)
    order = {row: place for place, row in enumerate(rows)}
    left, groups = set(rows), []
    for row in rows:
        if row not in left:
            continue
        left.discard(row)
        own = near[row] & left
        if complete is not None and own:
            further = sorted(_reached(row, near, left) - own - {row}, key=order.__getitem__)
            own |= set(complete(row, further)) if further else set()
        if own:
            groups.append([row, *sorted(own, key=order.__getitem__)])
            left -= own
    return groups


def _reached(row: int, near: Mapping[int, set[int]], left: set[int]) -> set[int]:
    """What is connected with an image through images that are left."""
    reached, waiting = {row}, [row]
    while waiting:
        new = (near[waiting.pop()] & left) - reached
        reached |= new
        waiting += new
    return reached


def is_below(path: bytes, folders: Iterable[bytes]) -> bool:
    """Whether a path lies in one of some absolute folders."""
    return any(path.startswith(os.path.join(folder, b"")) for folder in folders)
