"""What a figure was measured on and with, as digests.

A recorded run counts as measured only if four digests are those of the present run:

- ``features``: the features of training images, queries and database, and of the views that the
  method learns from, bit for bit.
- ``protocol``: labels, training rows, and the k of mAP@k.
- ``recipe``: every setting of the method.
- ``code``: the source of whatever makes and compares codes. Comments, docstrings and layout do not
  count, so that a figure outlives an edit of the documentation.

The versions of torch and faiss, the processor and the commit are recorded beside them. They do not
decide: a figure must not depend on them by more than its spread over seeds.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import xxhash
from numpy.typing import NDArray

from benchmarks.featuresets import FeatureSet
from hyperpq.training.recipe import Recipe

ROOT = Path(__file__).parents[1]
# Whatever makes codes from features, and ranks them.
HYPERPQ_CODE = tuple(
    f"hyperpq/{name}"
    for name in ("geometry", "quantizers", "codec", "training", "scan", "evaluation.py")
)
BASELINE_CODE = ("benchmarks/baselines.py", "hyperpq/evaluation.py")
LEARNED_CODE = (
    *BASELINE_CODE,
    "benchmarks/learned_baselines.py",
    "benchmarks/learned_losses.py",
    "hyperpq/scan",
)
_SOURCES = {".py", ".cpp", ".h", ".inl"}
# The scan on GPUs, which benchmarks of quality do not use.
_LEFT_OUT = "hyperpq/scan/cuda/"
_LENGTH = 16
# The digest of what is not there.
ABSENT = "absent"


def recipe_fields(recipe: Recipe) -> dict[str, Any]:
    """The fields of a recipe that have an effect, for a digest."""
    fields = recipe.to_dict()
    if recipe.objective != "balanced":
        # It is younger than the published runs, and of no effect on them.
        del fields["balance"]
    if not recipe.views.transferred_views:
        del fields["transferred_views"]
    return fields


class Digests(NamedTuple):
    """The identity of a run; see the module."""

    features: str
    protocol: str
    recipe: str
    code: str

    def differences(self, run: Mapping[str, Any]) -> list[str]:
        """What of a recorded run is not as it is now; all four if it has no digests."""
        recorded = run.get("digests", {})
        return [name for name, value in self._asdict().items() if recorded.get(name) != value]


def digest_arrays(arrays: Iterable[NDArray[Any]]) -> str:
    """Digest of the shapes, dtypes and values of arrays."""
    state = xxhash.xxh3_128()
    for array in arrays:
        state.update(f"{array.dtype.str}{array.shape}".encode())
        # A slice at a time: memory-mapped views are larger than memory ought to hold.
        for row in range(0, len(array), 4096):
            state.update(array[row : row + 4096].tobytes())
    return state.hexdigest()[:_LENGTH]


def digest_settings(settings: Mapping[str, Any]) -> str:
    """Digest of JSON-able settings; the order of their names does not count."""
    text = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_LENGTH]


class DataDigests:
    """Digests of the features and the protocol of a data set, each computed once.

    Parameters
    ----------
    features : FeatureSet
        The data set.
    """

    def __init__(self, features: FeatureSet) -> None:
        self._features = features
        self._of_strength: dict[str | None, str] = {}
        protocol = features.protocol
        labels = [protocol.query.labels, protocol.database.labels, features.train_rows]
        words = {"name": protocol.name, "names": protocol.names, "top": protocol.top}
        counts = {"missing": protocol.missing, "viewed": features.n_viewed}
        self.protocol = digest_settings({**words, **counts, "labels": digest_arrays(labels)})

    def features(self, strength: str | None = None) -> str:
        """Digest of the features, with those of the views of a strength if one is given.

        Views that are not cached are not extracted for their digest: they are like no others.
        """
        if strength is not None and not self._features.has_views(strength):
            return ABSENT
        if strength not in self._of_strength:
            if strength is None:
                own = self._features
                found = digest_arrays([own.train, own.query, own.database])
            else:
                views = digest_arrays(self._features.views(strength))
                found = digest_settings({"images": self.features(), "views": views})
            self._of_strength[strength] = found
        return self._of_strength[strength]

    def of(
        self, settings: Mapping[str, Any], code: tuple[str, ...], strength: str | None = None
    ) -> Digests:
        """The identity of a run with these settings and this code.

        Parameters
        ----------
        settings : dict
            Every setting of the method, JSON-able.
        code : tuple of str
            Files and folders of sources, such as `HYPERPQ_CODE`.
        strength : str, optional
            Strength of the views that the method learns from.
        """
        recipe = digest_settings(settings)
        return Digests(self.features(strength), self.protocol, recipe, code_digest(code))


@functools.cache
def code_digest(paths: tuple[str, ...], root: Path = ROOT) -> str:
    """Digest of the sources in files and folders, which are relative to ``root``."""
    state = hashlib.sha256()
    for path in paths:
        whole = root / path
        files = [whole] if whole.is_file() else sorted(whole.rglob("*"))
        for file in files:
            name = file.relative_to(root).as_posix()
            if file.suffix in _SOURCES and not name.startswith(_LEFT_OUT):
                state.update(f"{name}\n".encode())
                text = file.read_text("utf-8")
                state.update((canonical(text) if file.suffix == ".py" else text).encode())
    return state.hexdigest()[:_LENGTH]


def canonical(source: str) -> str:
    """Python source without comments, docstrings and layout; the same for every Python version."""
    return _canonical(ast.parse(source))


def _canonical(node: object) -> str:
    if isinstance(node, list):
        return "[" + ",".join(map(_canonical, node)) + "]"
    if not isinstance(node, ast.AST):
        return repr(node)
    parts = []
    for name, value in ast.iter_fields(node):
        if name == "body" and isinstance(value, list) and _starts_with_docstring(node):
            value = value[1:]
        # Fields that only newer versions of Python have are empty where they are not used.
        if value not in (None, []) and name not in ("kind", "type_comment"):
            parts.append(f"{name}={_canonical(value)}")
    return f"{type(node).__name__}({','.join(parts)})"


def _starts_with_docstring(node: ast.AST) -> bool:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return isinstance(node, kinds) and ast.get_docstring(node, clean=False) is not None


@functools.cache
def current_commit(root: Path = ROOT) -> str | None:
    """The commit of the sources, and whether they differ from it; None outside a repository."""

    def git(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True)

    try:
        found = git("rev-parse", "--short=9", "HEAD")
        changed = git("diff", "--quiet", "HEAD", "--", "hyperpq", "benchmarks", "datasets")
    except OSError:
        return None
    if found.returncode:
        return None
    return found.stdout.strip() + (" with changes" if changed.returncode else "")
