"""What `hyperpq info` says: versions, devices, kernels, backbones and the index."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from pathlib import Path
from typing import Any

from hyperpq import scan
from hyperpq._version import __version__
from hyperpq.backbones import available_backbones
from hyperpq.errors import IndexNotFoundError
from hyperpq.images.build.options import METADATA_KEY
from hyperpq.utils.devices import resolve_device


def _version(*names: str) -> str:
    """First installed of some packages, with its version."""
    for name in names:
        try:
            return f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return f"missing: pip install 'hyperpq[{'cpu' if 'faiss-cpu' in names else 'test'}]'"


def describe(index_path: Path) -> dict[str, dict[str, Any]]:
    """Everything as sections of names and values, ready for JSON.

    Parameters
    ----------
    index_path : Path
        Index to describe; that there is none is said, not raised.

    Raises
    ------
    CorruptIndexError, FormatVersionError
        The index that is there can't be opened.
    """
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    sections: dict[str, dict[str, Any]] = {
        "hyperpq": {
            "version": __version__,
            "python": platform.python_version(),
            "torch": _version("torch"),
            "faiss": _version("faiss-cpu", "faiss-gpu", "faiss-gpu-cu12"),
            "onnxruntime": _version("onnxruntime", "onnxruntime-gpu"),
        },
        "machine": {
            "cores": os.cpu_count(),
            "device": resolve_device("auto"),
            "C++ compiler": compiler or "none: nothing is compiled, the numpy scan is used",
        },
        "scan kernels": dict(scan.levels()),
        "backbones": {
            name: what if installed else f"{what} (not installed)"
            for name, what, installed in available_backbones()
        },
    }
    try:
        sections["index"] = describe_index(index_path)
    except IndexNotFoundError:
        sections["index"] = {"path": f"{index_path} (there is none yet)"}
    return sections


def describe_index(path: Path) -> dict[str, Any]:
    """Codec, sizes and origin of an index."""
    from hyperpq.index.hihpq_index import HiHPQIndex

    index = HiHPQIndex.load(path, device="cpu")
    collection, codec = index.collection, index.codec
    assert codec is not None
    images = index.metadata.get(METADATA_KEY) or {}
    out: dict[str, Any] = {
        "path": str(path),
        "images" if images else "vectors": index.ntotal,
        "removed rows": f"{collection.n_deleted} (hyperpq compact drops them)"
        if collection.n_deleted
        else 0,
        "shards": collection.n_segments,
        "attributes": ", ".join(index.attribute_names) or "none",
        "snapshot": collection.snapshot,
        "bytes on disk": sum(f.stat().st_size for f in path.rglob("*") if f.is_file()),
        "code": f"{index.M} x {index.nbits} bits, {index.code_size} bytes",
        "feature width": index.d,
        "score": index.metric,
        "curvatures": " ".join(f"{-float(c):.3f}" for c in codec.quantizer.c.detach()) or "0",
        "recipe": codec.recipe.get("name", "?"),
    }
    if images:
        backbone = images["backbone"]
        out["backbone"] = backbone["name"]
        out["weights"] = backbone["weights_hash"]
        out["preprocessing"] = " ".join(f"{k}={v}" for k, v in backbone["preprocessing"].items())
    return out
