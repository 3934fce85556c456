"""What the scan on a GPU is compared with: `IndexIVFPQ` of faiss, and `ivf_pq` of cuVS."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Peer = Callable[[NDArray[np.float32], int], NDArray[np.int64]]
"""Searches for k results of queries (nq, d); returns their ids (nq, k)."""


def available_peers(device: str) -> dict[str, Callable[..., Peer]]:
    """Functions that make the indexes which can be made on a device, by name.

    Each has the parameters ``sample`` (s, d), which trains, an iterable of all vectors in batches,
    each a tensor (n, d) on the device, ``size``, the bytes of a code, and ``lists``.
    """
    import faiss

    if device == "cpu":
        return {"IndexIVFPQ": faiss_peer}
    out: dict[str, Callable[..., Peer]] = {}
    if hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus():
        out["GpuIndexIVFPQ"] = faiss_peer
        out["GpuIndexIVFPQ, float16 tables"] = faiss_float16_peer
    if importlib.util.find_spec("cuvs") is not None:
        out["cuVS ivf_pq"] = cuvs_peer
    return out


def faiss_float16_peer(
    sample: torch.Tensor, batches: Iterable[torch.Tensor], size: int, lists: int
) -> Peer:
    """`faiss_peer` with tables of float16."""
    return faiss_peer(sample, batches, size, lists, is_float16=True)


def faiss_peer(
    sample: torch.Tensor,
    batches: Iterable[torch.Tensor],
    size: int,
    lists: int,
    is_float16: bool = False,
) -> Peer:
    """`IndexIVFPQ` of faiss, on the GPU of the sample or on the CPU, with nprobe = nlist."""
    import faiss

    d = sample.shape[1]
    index: Any = faiss.IndexIVFPQ(faiss.IndexFlatL2(d), d, lists, size, 8)
    resources = None
    if sample.device.type == "cuda":
        options = faiss.GpuClonerOptions()
        options.useFloat16 = is_float16  # of the look-up tables
        options.usePrecomputed = True
        resources = faiss.StandardGpuResources()
        index = faiss.index_cpu_to_gpu(resources, sample.device.index or 0, index, options)
    index.train(sample.cpu().numpy())
    for batch in batches:
        index.add(batch.cpu().numpy())
    index.nprobe = lists

    # The resources have to live as long as the index.
    def search(queries: NDArray[np.float32], k: int, kept: Any = resources) -> NDArray[np.int64]:
        return np.asarray(index.search(queries, k)[1])

    return search


def cuvs_peer(sample: torch.Tensor, batches: Iterable[torch.Tensor], size: int, lists: int) -> Peer:
    """`ivf_pq` of cuVS with n_probes = n_lists."""
    from cuvs.neighbors import ivf_pq

    settings = ivf_pq.IndexParams(
        n_lists=lists, pq_bits=8, pq_dim=size, add_data_on_build=False, kmeans_trainset_fraction=1.0
    )
    index, n = ivf_pq.build(settings, sample), 0
    for batch in batches:
        ids = torch.arange(n, n + len(batch), dtype=torch.int64, device=batch.device)
        index = ivf_pq.extend(index, batch, ids)
        n += len(batch)
    how = ivf_pq.SearchParams(n_probes=lists)

    def search(queries: NDArray[np.float32], k: int) -> NDArray[np.int64]:
        asked = torch.from_numpy(queries).to(sample.device)
        ids: Any = ivf_pq.search(how, index, asked, k)[1]
        return torch.as_tensor(ids, device=sample.device).cpu().numpy().astype(np.int64)

    return search
