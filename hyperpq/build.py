"""`build_index`: from folders of pictures to an index directory, in stages that survive a kill.

Everything is made in ``INDEX.building`` beside the index and takes its place when it is whole, so
an index that is there is always complete. The stages are: plan (the frozen list of pictures),
sample (features and views of the training pictures, in chunks), training (a checkpoint each epoch),
encoding (a shard for each group of the plan). Each goes on where it was, with the same pieces, and
so ends with the same bytes as an undisturbed build.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hyperpq import skipped as skipped_files
from hyperpq.datasets import augment
from hyperpq.datasets.folder import ImageFile
from hyperpq.errors import (
    BackboneError,
    DatasetError,
    InvalidInputError,
    MissingDependencyError,
    StoreError,
)
from hyperpq.features import Features, Reader, extract_features
from hyperpq.image_index import GROUP, ImageIndex, PathLike, as_paths, list_pictures
from hyperpq.index import HiHPQIndex
from hyperpq.progress import Progress, SilentProgress
from hyperpq.store import atomic_write, recover_directory, replace_directory
from hyperpq.store.durable import LOCK_NAME, os_errors, writer_lock
from hyperpq.training.recipe import get_recipe
from hyperpq.validation import as_count

if TYPE_CHECKING:
    from hyperpq.backbones.base import Backbone

# Training pictures whose features are kept at once: a kill loses at most this many.
CHUNK = 256
AUGMENTATIONS = {"paper": augment.PAPER, "mild": augment.MILD}
TRACE_FILE = "training.jsonl"
FINISHED = "finished"
SETTINGS = "settings.json"
# Options that an index keeps for life.
FIXED = frozenset(("bits", "recipe", "score", "seed", "train_size", "epochs"))


def M_of_bits(bits: int) -> int:
    """Subquantizers of 8 bits for a code length; an impossible one is an `InvalidInputError`."""
    if not isinstance(bits, int) or bits % 8 or not 8 <= bits <= 512:
        raise InvalidInputError(f"bits is {bits!r}; choose a multiple of 8 from 8 to 512.")
    return bits // 8


@dataclass(frozen=True)
class BuildOptions:
    """What decides the content of an index; a build is only resumed with the same.

    Attributes
    ----------
    bits : int
        Bits of a picture's code, a multiple of 8 from 8 to 512.
    backbone : str
        See `backbones.load_backbone`.
    seed : int
        Of sample, views and training.
    train_size : int
        Most pictures to train on, chosen at random.
    recipe : str
        Preset of the training.
    epochs : int, optional
        In place of the recipe's.
    score : str
        See `lorentz.score_of`.
    max_megapixels : float
        Larger pictures are skipped.
    include_hidden, exclude
        See `datasets.folder.list_images`.
    """

    bits: int = 64
    backbone: str = "lite0"
    seed: int = 0
    train_size: int = 5000
    recipe: str = "default"
    epochs: int | None = None
    score: str = "l1"
    max_megapixels: float = 200.0
    include_hidden: bool = False
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        M_of_bits(self.bits)
        as_count(self.seed, "seed", 0)
        as_count(self.train_size, "train_size")
        if self.epochs is not None:
            as_count(self.epochs, "epochs", 0)
        if not self.max_megapixels > 0:
            raise InvalidInputError(
                f"max_megapixels is {self.max_megapixels}; expected more than 0."
            )
        exclude = (self.exclude,) if isinstance(self.exclude, str) else tuple(self.exclude)
        object.__setattr__(self, "exclude", exclude)
        get_recipe(self.recipe, self.bits)


@dataclass
class BuildReport:
    """What a build did.

    Attributes
    ----------
    pictures : int
        In the index.
    added, forgotten : int
    skipped : dict of bytes to str
        Path and reason.
    seconds : dict of str to float
        Of each phase.
    """

    pictures: int
    added: int
    forgotten: int
    skipped: dict[bytes, str]
    seconds: dict[str, float] = field(default_factory=dict)


def build_index(
    roots: Sequence[PathLike],
    path: str | os.PathLike[str],
    *,
    device: str = "auto",
    workers: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    backbone: Backbone | str | None = None,
    **options: Any,
) -> tuple[ImageIndex, BuildReport]:
    """Build an index of all pictures below some folders, or bring one up to date.

    An index that is there is updated: new and changed pictures are added, those that are gone from
    the folders are forgotten, nothing is encoded twice.

    Parameters
    ----------
    roots : sequence of path-like
        Folders or pictures.
    path : path-like
        Directory of the index.
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:n``.
    workers : int
        Decoding threads; 0 takes one a core.
    resume : bool
        Go on with a build that was interrupted; if there is none, simply start.
    overwrite : bool
        Replace an index that is there, once the new one is whole.
    progress : Progress, optional
        Where to report.
    backbone : Backbone or str, optional
        A loaded network, or the name of one.
    **options
        Other fields of `BuildOptions`. An index that is there keeps those it was built with: to
        ask for others is an error.

    Returns
    -------
    index : ImageIndex
    report : BuildReport

    Raises
    ------
    DatasetError
        No picture there, or none that can be read.
    StoreError
        The place is taken, an interrupted build is in the way, or the disk refuses.
    """
    target = Path(os.path.abspath(path))
    work = working_directory(target)
    loaded = backbone if not isinstance(backbone, str) else None
    name = loaded.name if loaded else backbone
    named: dict[str, Any] = {} if name is None else {"backbone": name}
    wished = BuildOptions(**options, **named)
    recover_directory(target)
    shutil.rmtree(_trash(work), ignore_errors=True)
    if (work / FINISHED).exists() and not (work / "index").exists():
        _discard(work)
        overwrite = overwrite and not resume
    is_index = (target / "manifest.json").exists()
    if is_index and not overwrite and not work.exists():
        return update_index(
            roots,
            target,
            device=device,
            workers=workers,
            progress=progress,
            backbone=backbone,
            **options,
        )
    with os_errors("look into", target):
        if target.exists() and not is_index and (target.is_file() or any(target.iterdir())):
            what = "file" if target.is_file() else "folder with other files"
            raise StoreError(f"{target} is a {what}; choose another --index directory.")
    begun = work.exists()
    with os_errors("create", work):
        work.mkdir(parents=True, exist_ok=True)
    with writer_lock(work):
        if begun and not resume:
            if not overwrite:
                raise StoreError(
                    f"{work} is an interrupted build; "
                    "go on with --resume or start anew with --overwrite."
                )
            (work / SETTINGS).unlink(missing_ok=True)
        build = _Build(
            work, target, as_paths(roots), wished, device, workers, progress or SilentProgress()
        )
        try:
            return build.run(loaded)
        except (BackboneError, DatasetError, InvalidInputError, MissingDependencyError):
            # Nothing that a resumed build could use.
            if not begun:
                _discard(work)
            raise


def working_directory(path: str | os.PathLike[str]) -> Path:
    """Where the build of an index is under way; it is there while that is unfinished."""
    target = Path(os.path.abspath(path))
    return target.with_name(target.name + ".building")


def _clear(work: Path) -> None:
    """Empty a working directory but for its lock."""
    for entry in work.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name != LOCK_NAME:
            entry.unlink()


def _trash(work: Path) -> Path:
    return work.with_name(work.name + "-done")


def _discard(work: Path) -> None:
    """Remove a working directory at one stroke: half of one must not be taken for a build."""
    os.rename(work, _trash(work))
    shutil.rmtree(_trash(work), ignore_errors=True)


def update_index(
    roots: Sequence[PathLike],
    path: str | os.PathLike[str],
    *,
    forget: bool = True,
    device: str = "auto",
    workers: int = 0,
    progress: Progress | None = None,
    backbone: Backbone | str | None = None,
    **options: Any,
) -> tuple[ImageIndex, BuildReport]:
    """Bring an index that is there up to date with some folders.

    Parameters
    ----------
    forget : bool
        Whether pictures of the index that are gone from the folders are removed.
    roots, path, device, workers, progress, backbone, **options
        As in `build_index`.
    """
    target, roots = Path(os.path.abspath(path)), as_paths(roots)
    progress = progress or SilentProgress()
    images = ImageIndex.open(target, device=device, backbone=backbone)
    built = BuildOptions(**images.index.metadata["pictures"]["options"])
    for name in sorted(FIXED & options.keys()):
        old = getattr(built, name)
        if options[name] != old:
            raise InvalidInputError(
                f"{target} was built with {name.replace('_', '-')} "
                f"{'of the recipe' if old is None else old}, not {options[name]}; "
                "leave the option out, or build anew with --overwrite."
            )
    chosen = replace(built, **options)
    images.max_megapixels = chosen.max_megapixels
    files, skipped = _list(roots, target, chosen, progress)
    if not files:
        raise _no_picture(roots)
    update = images.update(
        files,
        forget_below=roots if forget else (),
        skipped=skipped,
        workers=workers,
        progress=progress,
    )
    report = BuildReport(len(images), update.added, update.forgotten, update.skipped)
    report.seconds = dict(getattr(progress, "seconds", {}))
    return images, report


def _list(
    roots: Sequence[PathLike], target: Path, options: BuildOptions, progress: Progress
) -> tuple[list[ImageFile], dict[bytes, str]]:
    """Pictures below the roots, without those of the index itself."""
    own = os.fsencode(target)

    def leave_out(path: bytes) -> bool:
        return path.startswith((own + b"/", own + b".building/"))

    with progress.phase("list", None, "files") as phase:
        files, skipped = list_pictures(
            roots,
            include_hidden=options.include_hidden,
            exclude=options.exclude,
            leave_out=leave_out,
        )
        phase.advance(len(files))
    return files, skipped


def _no_picture(roots: Sequence[PathLike]) -> DatasetError:
    names = ", ".join(os.fsdecode(root) for root in roots)
    return DatasetError(
        f"no picture found in {names}; expected JPEG, PNG, WebP, GIF, ... in these folders "
        "or below (is the disk there? do the patterns of --exclude and .hyperpqignore fit?)."
    )


class _Build:
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
        self.recipe = get_recipe(options.recipe, options.bits)
        if options.epochs is not None:
            self.recipe = self.recipe.with_(epochs=options.epochs)

    def run(self, backbone: Backbone | None) -> tuple[ImageIndex, BuildReport]:
        """All stages."""
        from hyperpq.backbones import load_backbone

        # A network that can't be loaded is the likeliest error: before any work.
        network = backbone or load_backbone(self.options.backbone, device=self.device)
        M = M_of_bits(self.options.bits)
        index = HiHPQIndex(network.d, M, score=self.options.score, device=self.device)
        files, skipped = self._plan()
        sample = self._sample(files, network)
        index = self._train(index, sample, network)
        images = ImageIndex(index, network)
        skipped |= self._encode(images, files, sample)
        store = index.store
        assert store is not None
        store.write_report(skipped_files.NAME, skipped_files.to_csv(skipped))
        trace = self.work / TRACE_FILE
        if trace.exists():
            store.write_report(TRACE_FILE, trace.read_bytes())
        # After the move a kill must not look like a build without an index.
        atomic_write(self.work / FINISHED, b"")
        replace_directory(store.path, self.target)
        _discard(self.work)
        done = ImageIndex.open(self.target, device=self.device, backbone=network)
        report = BuildReport(len(done), len(done), 0, skipped)
        report.seconds = dict(getattr(self.progress, "seconds", {}))
        return done, report

    def _plan(self) -> tuple[list[ImageFile], dict[bytes, str]]:
        """The frozen list of pictures, made once."""
        facts = {
            "roots": [os.path.abspath(os.fsencode(root)).hex() for root in self.roots],
            "options": asdict(self.options) | {"exclude": list(self.options.exclude)},
        }
        plan, settings = self.work / "plan.bin", self.work / SETTINGS
        if settings.exists() and plan.exists():
            if json.loads(settings.read_text()) != facts:
                raise InvalidInputError(
                    f"{self.work} is an interrupted build with other folders or options; "
                    "repeat those, or start anew with --overwrite."
                )
            return _read_plan(plan)
        # Without settings, whatever else is here belongs to a build that was given up.
        _clear(self.work)
        files, skipped = _list(self.roots, self.target, self.options, self.progress)
        if not files:
            raise _no_picture(self.roots)
        atomic_write(plan, _plan_bytes(files, skipped))
        atomic_write(settings, json.dumps(facts, indent=1).encode())
        return files, skipped

    def _sample(self, files: Sequence[ImageFile], network: Backbone) -> Features:
        """Features and views of the training pictures; rows count in the plan."""
        size = min(self.options.train_size, len(files))
        rng = np.random.default_rng(self.options.seed)
        chosen = np.sort(rng.choice(len(files), size, replace=False))
        reader = Reader(
            workers=self.workers,
            max_megapixels=self.options.max_megapixels,
            augmentation=AUGMENTATIONS[self.recipe.views],
            n_views=self.recipe.n_views,
            seed=self.options.seed,
        )
        folder = self.work / "sample"
        folder.mkdir(exist_ok=True)
        chunks = []
        with self.progress.phase("features", size) as phase:
            for number, start in enumerate(range(0, size, CHUNK)):
                rows = chosen[start : start + CHUNK]
                name = folder / f"{number:05d}"
                chunk = _read_chunk(name)
                if chunk is None:
                    paths = [files[row].path for row in rows]
                    chunk = extract_features(paths, network, reader, phase)
                    _write_chunk(name, chunk)
                else:
                    phase.advance(len(rows))
                chunk.rows = rows[chunk.rows]
                chunk.skipped = [(int(rows[i]), reason) for i, reason in chunk.skipped]
                chunks.append(chunk)
        sample = Features(
            np.concatenate([c.rows for c in chunks]),
            np.concatenate([c.plain for c in chunks]),
            np.concatenate([c.views for c in chunks], axis=1),
            [pair for c in chunks for pair in c.skipped],
        )
        if not len(sample.rows):
            row, reason = sample.skipped[0]
            raise DatasetError(
                f"none of {size} pictures can be read, e.g. {os.fsdecode(files[row].path)}: "
                f"{reason}; there is nothing to train on."
            )
        return sample

    def _train(self, index: HiHPQIndex, sample: Features, network: Backbone) -> HiHPQIndex:
        """The trained, empty index inside the working directory."""
        place = self.work / "index"
        if (place / "manifest.json").exists():
            return HiHPQIndex.load(place, device=self.device)
        index.metadata = {
            "pictures": {
                "backbone": network.identity(),
                "max_megapixels": self.options.max_megapixels,
                "options": asdict(self.options) | {"exclude": list(self.options.exclude)},
            }
        }
        index.train(
            sample.plain,
            sample.views,
            recipe=self.recipe,
            seed=self.options.seed,
            progress=self.progress,
            trace_path=self.work / TRACE_FILE,
            checkpoint=self.work / "checkpoint.safetensors",
            resume=True,
        )
        shutil.rmtree(place, ignore_errors=True)
        index.save(place)
        return index

    def _encode(
        self, images: ImageIndex, files: Sequence[ImageFile], sample: Features
    ) -> dict[bytes, str]:
        """Codes of every picture of the plan, one commit a group; returns what was skipped."""
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
                found = {todo[i]: fresh.plain[j] for j, i in enumerate(fresh.rows)}
                found |= {row: sample.plain[at[row]] for row in group if row in at}
                failed = {todo[i]: reason for i, reason in fresh.skipped}
                failed |= {row: reasons[row] for row in group if row in reasons}
                here = {files[row].path: reason for row, reason in failed.items()}
                atomic_write(note, skipped_files.to_csv(here))
                skipped |= here
                rows = sorted(found)
                features = np.array([found[row] for row in rows], np.float32)
                features = features.reshape(len(rows), images.index.d)
                coded = images.code_rows([files[row] for row in rows], features)
                # A group without a picture that can be read is a generation of its own too.
                images.index.append(*([coded] if rows else []))
        return skipped


def _plan_bytes(files: Sequence[ImageFile], skipped: dict[bytes, str]) -> bytes:
    """The plan: NUL-terminated records, as paths may hold any other byte."""
    records = [b"f %d %d %s" % (f.size, f.mtime_ns, f.path) for f in files]
    records += [b"s %s" % path for path in skipped]
    records += [b"r %s" % reason.encode() for reason in skipped.values()]
    return b"".join(record + b"\0" for record in records)


def _read_plan(path: Path) -> tuple[list[ImageFile], dict[bytes, str]]:
    files, left_out, reasons = [], [], []
    for record in path.read_bytes().split(b"\0")[:-1]:
        if record.startswith(b"f "):
            size, mtime, name = record[2:].split(b" ", 2)
            files.append(ImageFile(name, int(size), int(mtime)))
        elif record.startswith(b"s "):
            left_out.append(record[2:])
        else:
            reasons.append(record[2:].decode())
    return files, dict(zip(left_out, reasons, strict=True))


def _write_chunk(name: Path, chunk: Features) -> None:
    """Arrays first, the JSON that makes them count last."""
    for part in ("rows", "plain", "views"):
        data = io.BytesIO()
        np.save(data, getattr(chunk, part), allow_pickle=False)
        atomic_write(name.with_suffix(f".{part}.npy"), data.getvalue())
    atomic_write(name.with_suffix(".json"), json.dumps(chunk.skipped).encode())


def _read_chunk(name: Path) -> Features | None:
    note = name.with_suffix(".json")
    if not note.exists():
        return None
    rows, plain, views = (
        _load_array(name.with_suffix(f".{part}.npy")) for part in ("rows", "plain", "views")
    )
    return Features(rows, plain, views, [(row, why) for row, why in json.loads(note.read_text())])


def _load_array(path: Path) -> NDArray[Any]:
    array: NDArray[Any] = np.load(path, allow_pickle=False)
    return array
