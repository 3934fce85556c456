"""Builds whose record is cut at some moments; run by test_power_cut.py, which reads the answer.

The process of its own keeps the small batches of forked_builds.py from other tests.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path

from forked_builds import Grid
from power_cut import FileSystem, Killed, Recorder, State, materialise

from hyperpq.errors import HyperPQError, IndexNotFoundError
from hyperpq.images.build import build_index
from hyperpq.images.image_index import ImageIndex
from hyperpq.store import lock, verify_directory

OPTIONS = {"seed": 3, "bits": 32, "train_size": 40, "epochs": 2, "recipe": "paper"}


def build(images: Path, index: Path, **options) -> None:
    build_index([images], index, device="cpu", backbone=Grid(), **OPTIONS, **options)


def content(index: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(index)): path.read_bytes()
        for path in sorted(index.rglob("*"))
        if path.is_file() and path.name not in (".lock", ".lock-holder")
    }


def see(index: Path, known: dict) -> object:
    """A number for what an index holds, None if there is none; the text of an error."""
    try:
        opened = ImageIndex.open(index, backbone=Grid(), verify=True)
    except IndexNotFoundError:
        return None
    except HyperPQError as error:
        return f"{type(error).__name__}: {error}"
    return known.setdefault(opened.index.collection._store.fingerprint(), len(known))


def main(folder: Path, images: Path, kind: str, moments: int, limit: int, resumed: int) -> dict:
    root, rng, known, counts = folder / "record", random.Random(5), {}, Counter()
    root.mkdir()
    index = root / "index"
    if kind == "overwrite":
        build(images, index)
        shutil.copyfile(sorted(images.iterdir())[0], images / "zz-new.png")
    elif kind == "update":
        build(images, index)
        for path in sorted(images.iterdir())[:5]:
            path.unlink()
        for i, path in enumerate(sorted(images.iterdir())[:12]):
            shutil.copyfile(path, images / f"zz-{i}{path.suffix}")
    elif kind == "restart":
        with suppress(Killed), Recorder(root).recording(kill_at=250):
            build(images, index)
        lock._close_inherited()
    before, system, recorder = see(index, known), FileSystem(root), Recorder(root)
    with recorder.recording():
        build(images, index, overwrite=kind in ("overwrite", "restart"))
    after, want = see(index, known), content(index)
    harm, seen, states = [], {}, []
    events = recorder.events
    chosen = {len(events), *rng.sample(range(len(events)), min(moments, len(events)))}
    for moment in range(len(events) + 1):
        if moment:
            system.apply(events[moment - 1])
        if moment not in chosen:
            continue
        counts["moments"] += 1
        some, _, tried = system.states(limit, rng)
        counts["orders"] += tried
        for state in some:
            key = tuple(sorted((path, data) for path, data in state.items()))
            key = hash(key)
            if key not in seen:
                counts["states"] += 1
                states.append(state)
                seen[key] = looked_at(state, folder / "state", known)
            # An update is several commits, each of which may be the last one.
            whole = isinstance(seen[key], int)
            allowed = seen[key] in (before, after) if kind != "update" else whole
            if not allowed or (moment == len(events) and seen[key] != after):
                harm.append(f"after event {moment} of {len(events)}: {seen[key]}")
    counts["events"] = len(events)
    for state in rng.sample(states, min(resumed, len(states))):
        counts["resumed"] += 1
        harm += go_on(state, folder / "resumed", images, kind, want)
    return {"counts": counts, "harm": harm, "calls": recorder.calls}


def looked_at(state: State, root: Path, known: dict) -> object:
    materialise(state, root)
    try:
        return see(root / "index", known)
    finally:
        shutil.rmtree(root)


def go_on(state: State, root: Path, images: Path, kind: str, want: dict[str, bytes]) -> list[str]:
    """What differs once the build is repeated with ``--resume`` from a state."""
    materialise(state, root)
    index = root / "index"
    try:
        build(images, index, resume=kind != "update", overwrite=kind == "overwrite")
        # An update that finds nothing to do removes nothing, either.
        problems = [p for p in verify_directory(index) if kind != "update" or p.kind == "damage"]
        if problems:
            return [f"after a resumed build: {problems}"]
        left = sorted(path.name for path in root.iterdir())
        if left != ["index"]:
            return [f"after a resumed build: {left}"]
        if kind != "update" and content(index) != want:
            return ["a resumed build has other bytes"]
        return []
    except Exception as error:
        return [f"a resumed build: {type(error).__name__}: {error}"]
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    place, images, what, *numbers = sys.argv[1:]
    print(json.dumps(main(Path(place), Path(images), what, *map(int, numbers))))
