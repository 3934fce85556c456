"""`Build`: the stages of a build, each of which goes on where it was."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hyperpq.images import skipped as skipped_files
from hyperpq.images.build.state import (
    clear,
    discard,
    plan_bytes,
    read_chunk,
    read_plan,
    write_chunk,
)
from hyperpq.images.build.options import METADATA_KEY, BuildOptions, BuildReport, M_of_bits
from hyperpq.datasets import augment
from hyperpq.datasets.folder import ImageFile
from hyperpq.errors import DatasetError, InvalidInputError
from hyperpq.images.extract import Features, Reader, extract_features
from hyperpq.images.image_index import GROUP, ImageIndex
from hyperpq.index.hihpq_index import HiHPQIndex
from hyperpq.images.listing import PathLike, list_images
from hyperpq.progress import Phase, Progress
from hyperpq.store import atomic_write, replace_directory
from hyperpq.training.presets import get_recipe

if TYPE_CHECKING:
    from hyperpq.backbones.base import Backbone

# Training images whose features are kept at once: a kill loses at most this many.
CHUNK = 256
AUGMENTATIONS = {"paper": augment.PAPER, "mild": augment.MILD}
TRACE_FILE = "training.jsonl"
FINISHED = "finished"
SETTINGS = "settings.json"


def list_for_build(
    roots: Sequence[PathLike], target: Path, options: BuildOptions, progress: Progress
) -> tuple[list[ImageFile], dict[bytes, str]]:
    """Images below the roots, without those of the index itself."""
    own = os.fsencode(target)

    def leave_out(path: bytes) -> bool:
        return path.startswith((own + b"/", own + b".building/"))

    with progress.phase("list", None, "files") as phase:
        files, skipped = list_images(
            roots,
            include_hidden=options.include_hidden,
            exclude=options.exclude,
            leave_out=leave_out,
        )
        phase.advance(len(files))
    return files, skipped


def no_image(roots: Sequence[PathLike]) -> DatasetError:
    """The error of a listing without an image."""
    names = ", ".join(os.fsdecode(root) for root in roots)
    return DatasetError(
        f"no image found in {names}; expected JPEG, PNG, WebP, GIF, ... in these folders "
        "or below (is the disk there? do the patterns of --exclude and .hyperpqignore fit?)."
    )


class Build:
    """A build in its working directory."""

    def __init__(
        self,
        work: Path,
        target: Path,
        roots: Sequence[PathLike],
        options: BuildOptions,
        device: str,
        workers: int,
        progress: Progress,
    ) -> None:
        self.work, self.target, self.roots, self.options = work, target, roots, options
        self.device, self.workers, self.progress = device, workers, progress
        self.recipe = get_recipe(options.recipe, options.bits, objective=options.objective)
        if options.epochs is not None:
            self.recipe = self.recipe.replace(epochs=options.epochs)

    def run(self, backbone: Backbone | None) -> tuple[ImageIndex, BuildReport]:
        """All stages."""
        from hyperpq.backbones import load_backbone

        # A network that can't be loaded is the likeliest error: before any work.
        network = backbone or load_backbone(self.options.backbone, device=self.device)
        M = M_of_bits(self.options.bits)
        index = HiHPQIndex(network.d, M, metric=self.options.metric or "l1", device=self.device)
        taken = self._taken_codec(network)
        files, skipped = self._plan()
        if taken is None:
            sample = self._sample(files, network)
        else:
            # Nothing to train on is needed.
            sample = extract_features([], network, Reader())
        index = self._train(index if taken is None else taken, sample, network)
        images = ImageIndex(index, network)
        skipped |= self._encode(images, files, sample)
        store = index.store
        assert store is not None
        # A kill may have left a file that a later group's commit would have removed.
        store.remove_leftovers()
        store.write_report(skipped_files.NAME, skipped_files.to_csv(skipped))
        trace = self.work / TRACE_FILE
        if trace.exists():
            store.write_report(TRACE_FILE, trace.read_bytes())
        # After the move a kill must not look like a build without an index.
        atomic_write(self.work / FINISHED, b"")
        replace_directory(store.path, self.target)
        discard(self.work)
        done = ImageIndex.open(self.target, device=self.device, backbone=network)
        report = BuildReport(len(done), len(done), 0, skipped)
        report.seconds = dict(getattr(self.progress, "seconds", {}))
        return done, report

    def _taken_codec(self, network: Backbone) -> HiHPQIndex | None:
        """An empty index with the codec of another, at this build's length."""
        if self.options.codec is None:
            return None
        other = HiHPQIndex.load(self.options.codec, device=self.device)
        images = other.metadata.get(METADATA_KEY)
        known = images.get("backbone") if isinstance(images, dict) else None
        if isinstance(known, dict):
            network.check_matches(known)
        if other.d != network.d:
            raise InvalidInputError(
                f"codec is that of {self.options.codec}, for features of width {other.d}; "
                f"{self.options.backbone} gives {network.d}."
            )
        return other.with_bits(self.options.bits, metric=self.options.metric)

    def _plan(self) -> tuple[list[ImageFile], dict[bytes, str]]:
        """The frozen list of images, made once."""
        facts = {
            "roots": [os.path.abspath(os.fsencode(root)).hex() for root in self.roots],
            "options": self.options.to_stored(),
        }
        plan, settings = self.work / "plan.bin", self.work / SETTINGS
        if settings.exists() and plan.exists():
            if json.loads(settings.read_text()) != facts:
                raise InvalidInputError(
                    f"{self.work} is an interrupted build with other folders or options; "
                    "repeat those, or start anew with --overwrite."
                )
            return read_plan(plan)
        # Without settings, whatever else is here belongs to a build that was given up.
        clear(self.work)
        files, skipped = list_for_build(self.roots, self.target, self.options, self.progress)
        if not files:
            raise no_image(self.roots)
        atomic_write(plan, plan_bytes(files, skipped))
        atomic_write(settings, json.dumps(facts, indent=1).encode())
        return files, skipped

    def _sample(self, files: Sequence[ImageFile], network: Backbone) -> Features:
        """Features of the training images and of views of the first ones; rows of the plan."""
        recipe, options = self.recipe, self.options
        n_views = recipe.views.n_views if recipe.objective == "semantic" else 0
        size = min(options.train_size, len(files))
        viewed = min(options.view_size, size) if n_views else 0
        if n_views and not recipe.graph.graph_neighbours:
            # Without a graph there is nothing that images without views could show.
            size = viewed = max(viewed, 1)
        rng = np.random.default_rng(options.seed)
        chosen = rng.permutation(len(files))[:size]
        augmented = Reader(
            workers=self.workers,
            max_megapixels=options.max_megapixels,
            augmentation=AUGMENTATIONS[recipe.views.augmentation],
            n_views=n_views,
            seed=options.seed,
        )
        plain = Reader(workers=self.workers, max_megapixels=options.max_megapixels)
        with self.progress.phase("features", size) as phase:
            chunks = self._chunks("views", files, chosen[:viewed], network, augmented, phase)
            others = self._chunks("plain", files, chosen[viewed:], network, plain, phase)
        both = chunks + others
        views = [c.views for c in chunks] or [np.empty((0, 0, network.d), np.float32)]
        sample = Features(
            np.concatenate([c.rows for c in both]),
            np.concatenate([c.plain for c in both]),
            np.concatenate(views, axis=1),
            np.concatenate([c.sizes for c in both]),
            [pair for c in both for pair in c.skipped],
        )
        if not len(sample.rows):
            row, reason = sample.skipped[0]
            raise DatasetError(
                f"none of {size} images can be read, e.g. {os.fsdecode(files[row].path)}: "
                f"{reason}; there is nothing to train on."
            )
        return sample

    def _chunks(
        self,
        name: str,
        files: Sequence[ImageFile],
        chosen: NDArray[np.int64],
        network: Backbone,
        reader: Reader,
        phase: Phase,
    ) -> list[Features]:
        """Features of the chosen rows of the plan, piece by piece, each kept in a file."""
        folder = self.work / name
        folder.mkdir(exist_ok=True)
        chosen, chunks = np.sort(chosen), []
        for number, start in enumerate(range(0, len(chosen), CHUNK)):
            rows = chosen[start : start + CHUNK]
            place = folder / f"{number:05d}"
            chunk = read_chunk(place)
            if chunk is None:
                paths = [files[row].path for row in rows]
                chunk = extract_features(paths, network, reader, phase)
                write_chunk(place, chunk)
            else:
                phase.advance(len(rows))
            chunk.rows = rows[chunk.rows]
            chunk.skipped = [(int(rows[i]), reason) for i, reason in chunk.skipped]
            chunks.append(chunk)
        return chunks

    def _train(self, index: HiHPQIndex, sample: Features, network: Backbone) -> HiHPQIndex:
        """The trained, empty index inside the working directory."""
        place = self.work / "index"
        if (place / "manifest.json").exists():
            return HiHPQIndex.load(place, device=self.device)
        if not index.is_trained:
            viewed = sample.views.shape[1]
            index.train(
                sample.plain,
                sample.views if viewed else None,
                view_rows=np.arange(viewed) if viewed else None,
                recipe=self.recipe,
                seed=self.options.seed,
                progress=self.progress,
                trace_path=self.work / TRACE_FILE,
                checkpoint=self.work / "checkpoint.safetensors",
                resume=True,
            )
        # Where the codec came from is a path of this machine; its metric may be its own.
        kept = replace(self.options, codec=None, metric=index.metric)
        index.metadata = {
            METADATA_KEY: {
                "backbone": network.identity(),
                "max_megapixels": self.options.max_megapixels,
                "options": kept.to_stored(),
            }
        }
        shutil.rmtree(place, ignore_errors=True)
        index.save(place)
        return index

    def _encode(
        self, images: ImageIndex, files: Sequence[ImageFile], sample: Features
    ) -> dict[bytes, str]:
        """Codes of every image of the plan, one commit a group; returns what was skipped."""
        at = {int(row): i for i, row in enumerate(sample.rows)}
        reasons = dict(sample.skipped)
        reader = Reader(workers=self.workers, max_megapixels=self.options.max_megapixels)
        folder = self.work / "skipped"
        folder.mkdir(exist_ok=True)
        store = images.index.store
        assert store is not None
        skipped: dict[bytes, str] = {}
        with self.progress.phase("encode", len(files)) as phase:
            for number, start in enumerate(range(0, len(files), GROUP)):
                group = range(start, min(start + GROUP, len(files)))
                note = folder / f"{number:05d}.csv"
                # One commit a group after the first generation: the generation counts the groups.
                if store.generation > number + 1:
                    phase.advance(len(group))
                    skipped |= skipped_files.from_csv(note.read_bytes())
                    continue
                todo = [row for row in group if row not in at and row not in reasons]
                fresh = extract_features(
                    [files[row].path for row in todo], images.backbone, reader, phase
                )
                phase.advance(len(group) - len(todo))
                found = {todo[i]: (fresh, j) for j, i in enumerate(fresh.rows)}
                found |= {row: (sample, at[row]) for row in group if row in at}
                failed = {todo[i]: reason for i, reason in fresh.skipped}
                failed |= {row: reasons[row] for row in group if row in reasons}
                here = {files[row].path: reason for row, reason in failed.items()}
                atomic_write(note, skipped_files.to_csv(here))
                skipped |= here
                rows = sorted(found)
                places = [found[row] for row in rows]
                plain = np.array([part.plain[i] for part, i in places], np.float32)
                sizes = np.array([part.sizes[i] for part, i in places], np.int32)
                coded = images.code_rows(
                    [files[row] for row in rows],
                    plain.reshape(len(rows), images.index.d),
                    sizes.reshape(len(rows), 2),
                )
                # A group without an image that can be read is a generation of its own too.
                images.index.append(coded)
        return skipped
