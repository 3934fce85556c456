"""Groups as text: a table for people, JSON, and CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

from hyperpq.duplicates.finding import Duplicates
from hyperpq.duplicates.groups import member_dict
from hyperpq.utils.json_text import for_json, path_text
from hyperpq.utils.shown_names import quoted

FORMATS = ("table", "json", "csv")


def table(found: Duplicates) -> Iterator[str]:
    """Each group with what is proposed for its images."""
    for number, group in enumerate(found.groups, 1):
        yield f"group {number}: {group.level}, {len(group.members)} images\n"
        for m in group.members:
            size = f"{m.facts.width} x {m.facts.height}"
            yield (
                f"  {group.role(m):<9}  {size:>13}  {amount(m.facts.size):>8}  {m.date[:19]}  "
                f"{m.relation:<20}  {quoted(m.path)}\n"
            )


def as_json(found: Duplicates) -> Iterator[str]:
    """One object: groups, calibration and what was skipped."""
    yield json.dumps(to_dict(found), indent=1) + "\n"


def to_dict(found: Duplicates) -> dict[str, Any]:
    """What was found as JSON values."""
    skipped = [
        for_json({"path": path_text(path), "reason": reason})
        for path, reason in sorted(found.skipped.items())
    ]
    return {
        "images": found.images,
        "compared": found.compared,
        "groups": [group.to_dict() for group in found.groups],
        "calibration": found.calibration.to_dict(),
        "skipped": skipped,
    }


def as_csv(found: Duplicates) -> Iterator[str]:
    """A row for each image of each group."""
    writer, text = None, io.StringIO()
    for number, group in enumerate(found.groups, 1):
        for m in group.members:
            values = member_dict(m)
            values["path"] = path_text(m.path)
            values.pop("path_bytes", None)
            row = {"group": number, "level": group.level, "role": group.role(m), **values}
            if writer is None:
                writer = csv.DictWriter(text, list(row), lineterminator="\n")
                writer.writeheader()
            writer.writerow(row)
    if writer is None:
        text.write("group,level,role,path\n")
    yield text.getvalue()


WRITERS = {"table": table, "json": as_json, "csv": as_csv}


def facts(found: Duplicates) -> list[tuple[str, str]]:
    """What was found and how sure it is, as names and values."""
    c = found.calibration
    copies = sum(len(group.proposed) for group in found.groups)
    same = sum(group.level == "same image" for group in found.groups)
    size = sum(m.facts.size for group in found.groups for m in group.proposed)
    out = [
        ("images", f"{found.images:,}, of which {found.compared:,} pairs were compared"),
        ("same image", f"{same:,} groups with {copies:,} copies that can go ({amount(size)})"),
        ("similar shots", f"{len(found.groups) - same:,} groups"),
    ]
    if c.recall:
        by_kind = ", ".join(f"{kind} {100 * share:.0f} %" for kind, share in c.recall.items())
        out += [
            ("copies found", f"{by_kind} (of copies made of {c.sample:,} images)"),
            ("wrongly same", f"{c.near_same} near images, {c.shots_same} made shots"),
            ("wrongly similar", f"{c.near_similar} near images"),
        ]
    if found.skipped:
        path, reason = next(iter(sorted(found.skipped.items())))
        out.append(("skipped", f"{len(found.skipped):,} (e.g. {quoted(path)}: {reason})"))
    return out


def amount(size: int) -> str:
    """A number of bytes in words."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if value >= 100 or unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
