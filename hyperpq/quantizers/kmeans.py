"""k-means by FAISS, for any number of points."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperpq.errors import MissingDependencyError, TrainingError
from hyperpq.utils.devices import usable_cores

# With larger values squared distances overflow float32, and FAISS then ends the process.
MAX_VALUE = 1e16


def import_faiss() -> Any:
    """Import faiss, or raise an error with the two commands that install it.

    It gets no more threads than there are usable cores.

    Raises
    ------
    MissingDependencyError
        Neither faiss-cpu nor faiss-gpu is installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise MissingDependencyError(
            "faiss is missing; install it with `pip install 'hyperpq[train]'` "
            "or, on a machine with an NVIDIA GPU, `pip install 'hyperpq[gpu]'`."
        ) from error
    # The number is one of each thread that calls faiss, and does not follow a container's quota.
    if faiss.omp_get_max_threads() > usable_cores():
        faiss.omp_set_num_threads(usable_cores())
    return faiss


def on_device(index: Any, device: str) -> Any:
    """An index of faiss on a CUDA device, if faiss can use it, and otherwise as it is."""
    faiss = import_faiss()
    if not (device.startswith("cuda") and hasattr(faiss, "StandardGpuResources")):
        return index
    number = int(device.partition(":")[2] or 0)
    if "torch" in sys.modules:
        import torch

        # PyTorch keeps memory that it has no use for now; faiss takes 1.5 GB of what is left.
        torch.cuda.empty_cache()
    return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), number, index)


def kmeans(
    x: NDArray[np.float32], k: int, *, seed: int, iterations: int = 25, device: str = "cpu"
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Lloyd's k-means with every point used.

    Parameters
    ----------
    x : ndarray, shape (n, d), float32
        Points, n >= 1.
    k : int
        Number of centroids. With n <= k each point is a centroid and they repeat in turn.
    seed : int
        Same seed, same result.
    iterations : int
        Lloyd steps.
    device : str
        Where points are compared with centroids, if it is a CUDA device and faiss can use it. Other
        devices round differently, so the result of a seed is that of a kind of device.

    Returns
    -------
    centroids : ndarray, shape (k, d), float32
    labels : ndarray, shape (n,), int64
        Nearest centroid.

    Raises
    ------
    TrainingError
        Values are not finite, or 1e16 or more.
    """
    n, d = x.shape
    if not max(x.max(), -x.min()) < MAX_VALUE:
        raise TrainingError(
            f"training diverged: the values to cluster reach from {x.min():g} to {x.max():g}; "
            "lower the learning rate or raise the temperature."
        )
    if n <= k:
        order = np.arange(k) % n
        return x[order].copy(), np.arange(n, dtype=np.int64)
    faiss = import_faiss()
    run = faiss.Clustering(d, k)
    run.niter, run.seed = iterations, seed % (2**31)
    run.min_points_per_centroid, run.max_points_per_centroid = 1, -(-n // k) + 1
    index = on_device(faiss.IndexFlatL2(d), device)
    x = np.ascontiguousarray(x, np.float32)
    run.train(x, index)
    centroids = faiss.vector_to_array(run.centroids).reshape(k, d)
    _, labels = index.search(x, 1)
    return centroids, labels[:, 0]
