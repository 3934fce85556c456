"""`train_vectors`: a new, empty index whose codec is trained on the vectors of a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

import numpy as np
from numpy.typing import NDArray

from hyperpq.errors import InvalidInputError
from hyperpq.images.build.options import subquantizers
from hyperpq.index.hihpq_index import HiHPQIndex
from hyperpq.index.learning import LEARNING
from hyperpq.io.vector_files import load_views, open_vectors
from hyperpq.progress import ProgressLike
from hyperpq.store import find_place
from hyperpq.utils.imports import need_torch

if TYPE_CHECKING:
    from typing_extensions import Unpack

PathLike: TypeAlias = str | os.PathLike[str]


class TrainingChoices(TypedDict, total=False):
    """What the caller chooses for a new index: its code length, its metric and its training.

    ``bits`` is a multiple of 8, 64 by default. For ``metric`` see `HiHPQIndex`, for the other
    options `HiHPQIndex.train`.
    """

    bits: int
    metric: str
    recipe: str
    objective: str
    epochs: int
    seed: int


def train_vectors(
    path: PathLike,
    index_path: PathLike,
    *,
    dataset: str | None = None,
    views: PathLike | None = None,
    checkpoint: PathLike | None = None,
    device: str = "auto",
    progress: ProgressLike = None,
    **training: Unpack[TrainingChoices],
) -> tuple[HiHPQIndex, int]:
    """Train a codec on all vectors of a file and write an empty index.

    Parameters
    ----------
    path : path-like
        File of vectors, see `open_vectors`.
    index_path : path-like
        Directory of the new index.
    dataset : str, optional
        See `open_vectors`.
    views : path-like, optional
        .npy file with vectors of augmented views of the same items, of shape (V, n, d).
    checkpoint : path-like, optional
        File that is written after each epoch; if it exists, the training continues from it.
    device : str
        See `HiHPQIndex`.
    progress : Progress or bool, optional
        Where to report progress.
    **training
        See `TrainingChoices`.

    Returns
    -------
    index : HiHPQIndex
        The index on disk.
    n : int
        Number of vectors that it was trained on.

    Raises
    ------
    InvalidInputError
        If a file or an option is not valid.
    TrainingError
        If the training diverges or collapses.
    StoreError
        If the directory is in use, or the system refuses to write.
    """
    # Before the training, as the index could not be saved after it.
    find_place(index_path).check_free()
    need_torch(LEARNING)
    x = open_vectors(path, dataset=dataset).read()
    if not len(x):
        raise InvalidInputError(f"{path} has no vectors; expected vectors to train on.")
    loaded = None if views is None else load_views(Path(views))
    index = new_index(
        x,
        index_path,
        views=loaded,
        checkpoint=checkpoint,
        device=device,
        progress=progress,
        **training,
    )
    return index, len(x)


def new_index(
    x: NDArray[np.float32],
    index_path: PathLike,
    *,
    views: NDArray[Any] | None = None,
    checkpoint: PathLike | None = None,
    device: str = "auto",
    progress: ProgressLike = None,
    **training: Unpack[TrainingChoices],
) -> HiHPQIndex:
    """Train a codec on vectors (n, d) in memory and write an empty index; see `train_vectors`."""
    M, metric = subquantizers(training.pop("bits", 64)), training.pop("metric", "l1")
    index = HiHPQIndex(
        x.shape[1], M, metric=metric, objective=training.get("objective"), device=device
    )
    index.train(
        x,
        views=views,
        progress=progress,
        checkpoint=checkpoint,
        resume=checkpoint is not None,
        **training,
    )
    index.save(index_path)
    return index
