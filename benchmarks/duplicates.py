"""Near-duplicates: altered copies that are found, and other shots that are not taken for copies.

    python -m benchmarks.duplicates WORK FOLDER... [--photos N] [--copies-of N] [--frames FOLDER]

Ten altered copies are made of each photo (or of some of them), at random strengths, and each is
looked for among the originals: by hyperpq, by the hashes of imagededup, and by the cosine of the
features of the network (imagededup's CNN needs torchvision, and loads weights from elsewhere; where
that is installed it is measured, too). A copy is
*found* if its original is within the threshold of a method, and *wrong* if any other photo is. The
threshold of hyperpq is the one that `hyperpq duplicates` learns; those of all others are chosen on
the copies themselves, so that no larger share of the copies is wrong than with hyperpq, which
favours them. Shots, which are made of each photo or are frames of a video in FOLDER (a folder for
each video), should not be within the threshold: of a frame and the first one at least ``--apart``
frames later.

Photos that are alike already (PHash at most 2 bits apart, or 97 % agreement) are left out at first,
all but one. WORK keeps what was measured, so that an interrupted run goes on, and in rows.jsonl the
table.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.imagededup_methods import CNN, Describe, imagededup_methods
from benchmarks.machine import describe_machine
from benchmarks.pages import markdown_table
from hyperpq.backbones.base import Backbone
from hyperpq.datasets.augment import view_rng
from hyperpq.datasets.decode import open_image
from hyperpq.duplicates import KINDS, Calibration, Settings, calibrate, make_copy
from hyperpq.duplicates.candidates import HASH_RADIUS
from hyperpq.duplicates.compare import compare
from hyperpq.duplicates.copies import make_other_shot
from hyperpq.duplicates.evidence import Evidence
from hyperpq.duplicates.hashes import bits_apart, mirrored_hash, perceptual_hash
from hyperpq.images import ImageIndex, build_index
from hyperpq.images.extract import ReadOptions, extract_features

OURS, COSINE = "hyperpq", "cosine of features"
# Shots by a hand, and by a camera that stood still.
SHOTS = ("shot", "fixed")
# Seed of the copies; the calibration makes others.
SEED = 1000
_BLOCK = 10
_CANDIDATES = 10
# Photos that are alike already.
_ALIKE_BITS, _ALIKE_AGREEMENT = 2, 0.97

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Described:
    """An image as the methods see it."""

    by_method: dict[str, NDArray[Any]]
    hash: NDArray[np.uint8]
    mirrored: NDArray[np.uint8]
    evidence: Evidence

    @classmethod
    def of(cls, image: Image.Image, methods: dict[str, Describe]) -> Described:
        """Describe an image."""
        return cls(
            {name: describe(image) for name, describe in methods.items()},
            perceptual_hash(image),
            mirrored_hash(image),
            Evidence.of(image),
        )


class Photos:
    """The originals, described, with their index."""

    def __init__(self, paths: Sequence[bytes], work: Path, methods: dict[str, Describe]) -> None:
        self.paths, self.methods = list(paths), methods
        self.pool = ThreadPoolExecutor(max(1, int(os.environ.get("OMP_NUM_THREADS", "2"))))
        index = work / "index"
        if not index.exists():
            build_index([os.fsdecode(path) for path in paths], index, device="cpu", resume=True)
        self.index = ImageIndex.open(index, device="cpu", read_only=True)
        self.backbone: Backbone = self.index.backbone
        ids = self.index.index.view().ids
        place = {path: row for row, path in enumerate(self.paths)}
        self.row_of = {
            int(id): place[path]
            for id, path in zip(ids, self.index.index.view().paths_of(ids), strict=True)
        }
        self.described = self.describe(map(open_image, self.paths))
        self.features = self.encode([open_image(path) for path in self.paths])

    def describe(self, images: Iterator[Image.Image]) -> list[Described]:
        """Images as the methods see them."""
        return list(self.pool.map(lambda image: Described.of(image, self.methods), images))

    def encode(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Features (n, d)."""
        return extract_features(list(images), self.backbone, ReadOptions(1)).plain

    def candidates(self, features: NDArray[np.float32]) -> list[list[int]]:
        """Rows of the photos that are near by codes."""
        _, ids = self.index.index.search(features, _CANDIDATES + 1, refine="auto")
        return [[self.row_of[id] for id in row if id >= 0] for row in ids.tolist()]

    def distances(
        self, one: Described, features: NDArray[np.float32], near: Sequence[int]
    ) -> dict[str, Floats]:
        """Distances (n,) of an image to all photos by method; infinite is not compared."""
        out: dict[str, Floats] = {COSINE: 1.0 - _cosines(self.features, features)}
        for name in self.methods:
            stored = np.stack([other.by_method[name] for other in self.described])
            own = one.by_method[name]
            if name == CNN:
                cosine = stored @ own / np.linalg.norm(stored, axis=1) / np.linalg.norm(own)
                out[name] = 1.0 - cosine
            else:
                out[name] = bits_apart(stored, own[None]).astype(np.float64)
        hashes = np.stack([other.hash for other in self.described])
        apart = np.minimum(bits_apart(hashes, one.hash[None]), bits_apart(hashes, one.mirrored))
        ours = np.full(len(self.paths), np.inf)
        for row in {*near, *np.flatnonzero(apart <= HASH_RADIUS).tolist()}:
            found = compare(self.described[row].evidence, one.evidence)
            if found.overlap >= 0.5:
                ours[row] = 1.0 - found.agreement
        out[OURS] = ours
        return out


def _cosines(x: NDArray[np.float32], y: NDArray[np.float32]) -> Floats:
    """Cosines (n,) of features (n, d) with one feature (d,)."""
    wide, one = x.astype(np.float64), y.astype(np.float64)
    return np.asarray(wide @ one / np.linalg.norm(wide, axis=1) / np.linalg.norm(one))


def measure(photos: Photos, work: Path, n: int) -> Iterator[dict[str, Any]]:
    """Records of n photos, chosen by chance: distances of copies and shots to it and to others."""
    file = work / "photos.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    records = {record["photo"]: record for record in map(json.loads, lines)}
    names = [os.fsdecode(path) for path in photos.paths]
    key = [hashlib.blake2b(b"order/" + os.path.basename(path)).digest() for path in photos.paths]
    order = sorted(range(len(names)), key=key.__getitem__)[:n]
    for start in range(0, len(order), _BLOCK):
        block = order[start : start + _BLOCK]
        rows = [row for row in block if names[row] not in records]
        made = [image for row in rows for image in _made(photos.paths[row])]
        if made:
            features = photos.encode(made)
            described = photos.describe(iter(made))
            near = photos.candidates(features)
            each = len(KINDS) + len(SHOTS)
            with open(file, "a") as out:
                for place, row in enumerate(rows):
                    kinds: dict[str, Any] = {}
                    for number, kind in enumerate((*KINDS, *SHOTS), place * each):
                        found = photos.distances(described[number], features[number], near[number])
                        kinds[kind] = {name: _own_and_other(d, row) for name, d in found.items()}
                    records[names[row]] = {"photo": names[row], "kinds": kinds}
                    out.write(json.dumps(records[names[row]]) + "\n")
            print(f"{start + len(block):,} of {len(order):,} photos", flush=True)
        yield from (records[names[row]] for row in block)


def _made(path: bytes) -> list[Image.Image]:
    image, key = open_image(path), os.path.basename(path)
    copies = [make_copy(k, image, view_rng(SEED, key, n)) for n, k in enumerate(KINDS)]
    shots = [
        make_other_shot(image, view_rng(SEED, key, n), fixed=kind == "fixed")
        for n, kind in enumerate(SHOTS, len(KINDS))
    ]
    return [*copies, *shots]


def _own_and_other(distances: Floats, row: int) -> list[float]:
    """Distance to the own photo and to the nearest other (9 stands for infinity), and which."""
    others = distances.copy()
    others[row] = np.inf
    nearest = int(others.argmin())
    values = np.minimum([distances[row], others[nearest]], 999.0)
    return [round(float(values[0]), 5), round(float(values[1]), 5), nearest]


def chosen(folders: Sequence[Path], n: int) -> list[bytes]:
    """Photos of the folders, in an order by chance, as many of each."""
    out = []
    for number, folder in enumerate(folders):
        files = [os.fsencode(p) for p in sorted(folder.rglob("*")) if p.suffix in (".jpg", ".png")]
        key = sorted(files, key=lambda path: hashlib.blake2b(os.path.basename(path)).digest())
        out += key[: n // len(folders) + (number < n % len(folders))]
    return out


def distinct(paths: Sequence[bytes], work: Path) -> list[bytes]:
    """The photos without those that are like an earlier one; found once."""
    file = work / "alike.json"
    if not file.exists():
        described = [Described.of(open_image(path), {}) for path in paths]
        hashes = np.stack([one.hash for one in described])
        alike = []
        for row in range(1, len(paths)):
            apart = bits_apart(hashes[:row], hashes[row][None])
            close = np.flatnonzero(apart <= 2 * HASH_RADIUS)
            if apart.min() <= _ALIKE_BITS or any(
                compare(described[other].evidence, described[row].evidence).agreement
                >= _ALIKE_AGREEMENT
                for other in close
            ):
                alike.append(row)
        file.write_text(json.dumps(alike))
    left_out = set(json.loads(file.read_text()))
    return [path for row, path in enumerate(paths) if row not in left_out]


def frame_distances(photos: Photos, folder: Path, apart: int) -> dict[str, list[float]]:
    """Distances between frames of videos by method."""
    out: dict[str, list[float]] = {}
    for video in sorted(p for p in folder.iterdir() if p.is_dir()):
        images = [open_image(path) for path in sorted(video.iterdir())]
        described, features = photos.describe(iter(images)), photos.encode(images)
        for a in range(len(images) - apart):
            b = a + apart
            found = compare(described[a].evidence, described[b].evidence)
            agreement = found.agreement if found.overlap >= 0.5 else 0.0
            out.setdefault(OURS, []).append(1.0 - agreement)
            out.setdefault(COSINE, []).append(
                1.0 - float(_cosines(features[a : a + 1], features[b])[0])
            )
            for name in photos.methods:
                if name == CNN:
                    continue
                one, other = (described[i].by_method[name] for i in (a, b))
                out.setdefault(name, []).append(float(bits_apart(one, other)))
    return out


@dataclass(frozen=True)
class Row:
    """A method in the table."""

    name: str
    threshold: float
    wrong: float
    recall: dict[str, float]
    shots: dict[str, float]
    frames: float


def rows(
    records: Sequence[dict[str, Any]], frames: dict[str, list[float]], calibration: Calibration
) -> list[Row]:
    """The methods at the share of wrong copies that hyperpq has, or less."""

    def values(name: str, kind: str, place: int) -> Floats:
        return np.array([record["kinds"][kind][name][place] for record in records])

    names = [OURS, *(n for n in records[0]["kinds"]["shot"] if n != OURS)]
    out: list[Row] = []
    for name in names:
        others = np.concatenate([values(name, kind, 1) for kind in KINDS])
        if name == OURS:
            limit = 1.0 - calibration.same_agreement
        else:
            # The largest threshold with no larger share of wrong copies.
            tried = np.unique(np.concatenate([values(name, kind, 0) for kind in KINDS]))
            share = np.searchsorted(np.sort(others), tried, side="right") / len(others)
            good = tried[share <= out[0].wrong]
            limit = float(good.max()) if len(good) else -1.0
        limit += 1e-9
        out.append(
            Row(
                name,
                limit,
                float((others <= limit).mean()),
                {kind: float((values(name, kind, 0) <= limit).mean()) for kind in KINDS},
                {kind: float((values(name, kind, 0) <= limit).mean()) for kind in SHOTS},
                float((np.array(frames.get(name, [np.nan])) <= limit).mean())
                if frames.get(name)
                else float("nan"),
            )
        )
    return out


def table(found: Sequence[Row]) -> str:
    """The methods as a table."""
    head = ["method", "threshold", "wrong", "found", *KINDS, *SHOTS, "frames"]
    lines = [
        [
            row.name,
            f"{row.threshold:.3g}",
            f"{100 * row.wrong:.2f} %",
            f"{100 * np.mean(list(row.recall.values())):.1f} %",
            *(f"{100 * row.recall[kind]:.1f}" for kind in KINDS),
            *(f"{100 * row.shots[kind]:.1f}" for kind in SHOTS),
            f"{100 * row.frames:.1f} %",
        ]
        for row in found
    ]
    return markdown_table([head, *lines])


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("work", type=Path, help="folder for what was measured")
    parser.add_argument("folders", type=Path, nargs="+", help="folders of photos")
    parser.add_argument("--photos", type=int, default=2000, help="number of photos")
    parser.add_argument("--copies-of", type=int, help="photos that copies are made of [all]")
    parser.add_argument("--sample", type=int, default=100, help="images that thresholds come from")
    parser.add_argument("--frames", type=Path, help="folder with a folder of frames for each video")
    parser.add_argument("--apart", type=int, default=4, help="frames between two that are compared")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    paths = distinct(chosen(options.folders, options.photos), options.work)
    photos = Photos(paths, options.work, imagededup_methods())
    settings = Settings(k=_CANDIDATES, sample=options.sample, threads=1)
    calibration = calibrate(photos.index, settings, work=options.work / "calibration")
    records = list(measure(photos, options.work, options.copies_of or len(paths)))
    frames = frame_distances(photos, options.frames, options.apart) if options.frames else {}
    copies = len(records) * len(KINDS)
    print(f"{len(paths):,} photos, copies of {len(records):,} ({copies:,}), {describe_machine()}")
    if frames:
        print(f"{len(frames[OURS]):,} pairs of frames")
    print(
        f"stated by the command: near images {calibration.near_same}, made shots "
        f"{calibration.shots_same}, recall "
        + ", ".join(f"{kind} {100 * share:.0f} %" for kind, share in calibration.recall.items())
    )
    found = rows(records, frames, calibration)
    lines = [json.dumps(asdict(row)) + "\n" for row in found]
    (options.work / "rows.jsonl").write_text("".join(lines))
    print(table(found))
    wrong = [
        (
            record["kinds"][kind][OURS][1],
            kind,
            record["photo"],
            paths[record["kinds"][kind][OURS][2]],
        )
        for record in records
        for kind in KINDS
        if record["kinds"][kind][OURS][1] <= 1.0 - calibration.same_agreement
    ]
    for distance, kind, name, other in sorted(wrong)[:20]:
        print(f"wrong: {kind} of {name} agrees {1 - distance:.2f} with {os.fsdecode(other)}")


if __name__ == "__main__":
    main()
