"""What `hyperpq info` reports: versions, devices, kernels, backbones and an index."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from hyperpq._version import __version__
from hyperpq.datasets.tar_source import is_shard_name
from hyperpq.errors import IndexNotFoundError
from hyperpq.utils.locations import is_remote

if TYPE_CHECKING:
    from hyperpq.index.hihpq_index import HiHPQIndex
    from hyperpq.index.path_map import Root

# Rows whose paths are in memory at once.
_BATCH = 1 << 16

Section: TypeAlias = dict[str, str | int | float | None]
"""Values by their names, as JSON types."""


def describe(index_path: str | os.PathLike[str]) -> dict[str, Section]:
    """Describe this installation, this machine and an index.

    Parameters
    ----------
    index_path : path-like
        Directory of the index. If there is none, the section ``index`` says so.

    Returns
    -------
    dict of str to dict
        Sections ``hyperpq``, ``machine``, ``scan kernels``, ``backbones`` and ``index``.

    Raises
    ------
    CorruptIndexError, FormatVersionError
        If there is an index and it cannot be opened.
    """
    path = Path(index_path)
    sections = describe_environment()
    try:
        sections["index"] = describe_index(path)
    except IndexNotFoundError:
        found = "no index here" if path.exists() else "no index yet"
        sections["index"] = {"path": f"{path} ({found})"}
    return sections


def describe_environment() -> dict[str, Section]:
    """Versions, devices, kernels and backbones, in sections."""
    from hyperpq import scan
    from hyperpq.backbones import available_backbones
    from hyperpq.utils.devices import resolve_device, usable_cores

    device, kernels = resolve_device("auto"), scan.levels()
    if device != "cpu":
        kernels[device] = f"of indexes on the GPU: {_version('triton', extra='gpu')}"
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    return {
        "hyperpq": {
            "version": __version__,
            "python": platform.python_version(),
            "torch": _version("torch", extra="train"),
            "faiss": _version("faiss-cpu", "faiss-gpu", "faiss-gpu-cu12", extra="train"),
            "onnxruntime": _version("onnxruntime", "onnxruntime-gpu"),
        },
        "machine": {
            "cores": usable_cores(),
            "device": device,
            "C++ compiler": compiler or "none; the kernels cannot be compiled here",
        },
        "scan kernels": dict(kernels),
        "backbones": {
            name: description if installed else f"{description} (not installed)"
            for name, description, installed in available_backbones()
        },
    }


def describe_index(index_path: str | os.PathLike[str]) -> Section:
    """Sizes, codec and origin of an index.

    Raises
    ------
    IndexNotFoundError, CorruptIndexError, FormatVersionError
        If the index cannot be opened.
    """
    from hyperpq.images.metadata import ImageMetadata, describe_finetuning
    from hyperpq.images.relearning import describe_training
    from hyperpq.images.roots import recorded_roots
    from hyperpq.index.hihpq_index import HiHPQIndex

    path = Path(index_path)
    index = HiHPQIndex.load(path, device="cpu")
    collection = index.collection
    codec = collection.held
    assert codec is not None  # a loaded index is trained
    images = ImageMetadata.from_index(index.metadata)
    deleted = collection.n_deleted
    curvatures = [f"{float(c):.3f}" for c in codec.curvatures]
    noun = "vectors" if images is None else "images"
    out: Section = {
        "path": str(path),
        noun: index.ntotal,
        "deleted rows": f"{deleted:,} (`hyperpq compact` drops them)" if deleted else 0,
        "segments": collection.n_segments,
        "attributes": ", ".join(index.attribute_names) or "none",
        "snapshot": collection.snapshot,
        "bytes on disk": sum(f.stat().st_size for f in path.rglob("*") if f.is_file()),
        "code": f"{index.M} x {index.nbits} bits, {index.code_size} bytes",
        "feature width": index.d,
        "kept features": _kept(index),
        **_cells(index),
        "objective": index.objective,
        **describe_training(index.view(), noun),
        "metric": index.metric,
        "curvatures": " ".join(curvatures) or "none",
        "recipe": str(codec.recipe.get("name", "unknown")),
    }
    if images is not None:
        roots = recorded_roots(index)
        single = _single_images(roots, index)
        for number, root in enumerate(roots, 1):
            kind = "image" if root.path in single else "folder"
            kind = "shard" if is_shard_name(root.path) and kind == "image" else kind
            out[f"{kind} {number}"] = _described(root, kind)
        preprocessing = images.backbone.get("preprocessing", {})
        out["backbone"] = images.backbone["name"]
        out["precision"] = images.backbone.get("dtype")
        out["weights"] = images.backbone.get("weights_hash")
        tuned = index.view().rows.tuned
        if tuned is not None:
            how = "" if images.finetuned is None else f"{describe_finetuning(images.finetuned)}; "
            out["fine-tuned"] = f"{how}{tuned.nbytes:,} bytes"
        out["preprocessing"] = " ".join(f"{key}={value}" for key, value in preprocessing.items())
    return out


def _kept(index: HiHPQIndex) -> str:
    """How the features of the rows are kept, and their size."""
    codec = index.view().rows.feature_codec
    if codec is None:
        return "none"
    return f"{codec.kind}, {codec.size:,} bytes each, {index.stats().feature_bytes:,} bytes in all"


def _cells(index: HiHPQIndex) -> Section:
    """The cells of an index, how even they are, and the recall of searches of some of them."""
    from hyperpq.index.cell_stats import CellStats

    if not index.nlist:
        return {"cells": "none"}
    rows = index.view().rows
    stats = CellStats.of(rows.segments, index.nlist)
    even = stats.n / index.nlist
    out: Section = {
        "cells": f"{index.nlist:,} with {even:,.1f} rows in the mean, imbalance "
        f"{stats.imbalance:.2f}"
    }
    if stats.is_outgrown:
        out["cells"] = f"{out['cells']}; outgrown, make new ones with hyperpq compact --cells auto"
    curve = rows.recall_curve
    if curve is None or not curve.holds_for(rows):
        out["recall"] = "not measured of these rows; hyperpq compact does it"
        return out
    counts = ((recall, curve.nprobe_of(recall)) for recall in (0.9, 0.95, 0.99))
    shown = ", ".join(f"{recall} with {count or 'all'}" for recall, count in counts)
    out["recall"] = f"{shown} cells, measured with {curve.n:,} rows"
    return out


def _single_images(roots: Iterable[Root], index: HiHPQIndex) -> set[bytes]:
    """Paths of the single images that an index records, which may be gone."""
    from hyperpq.images.changes import ancestors

    other = {root.path for root in roots if not os.path.isdir(root.path)}
    if not other:
        return other
    images = {path for path in other if os.path.isfile(path)}
    folders: set[bytes] = set()
    for rows in index.collection.view().batches(_BATCH):
        images |= other.intersection(rows.paths or ())
        folders.update(map(os.path.dirname, rows.paths or ()))
    # A folder may have become a file, or have moved away.
    return images - {above for folder in folders for above in ancestors(folder)}


def _described(root: Root, kind: str) -> str:
    """A folder that an index records, with how it is listed."""
    if is_remote(root.path):
        notes = [""]
    elif os.path.lexists(root.path):
        is_file = os.path.isfile(root.path) and not is_shard_name(root.path)
        notes = ["a file now" if kind == "folder" and is_file else ""]
    else:
        notes = ["not there"]
    notes += [f"without {pattern}" for pattern in root.exclude]
    notes += ["with hidden files" if root.include_hidden else ""]
    shown = ", ".join(filter(None, notes))
    # Names that are not valid Unicode are escaped where they are printed.
    return os.fsdecode(root.path) + (f" ({shown})" if shown else "")


def _version(*names: str, extra: str = "") -> str:
    """The first of some packages that is installed, with its version."""
    for name in names:
        try:
            return f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    package = f"hyperpq[{extra}]" if extra else names[0]
    return f"not installed; install it with: pip install '{package}'"
