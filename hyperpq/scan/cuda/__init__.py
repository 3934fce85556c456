"""Exact search of codes on GPUs: `CudaScanner`.

A search of codes that lie on the device takes these steps, for each piece of up to 2^30 rows:

1. The exact distances of an evenly spaced sample of rows give a first threshold for each query
   (`search.sample_size`).
2. The float32 tables become bytes, rounded down, whose sums are lower bounds of the distances
   (`bounds`). Four queries share a word.
3. One pass over all codes adds the bytes and keeps the rows that may be within the threshold, a few
   thousand for each query (`kernels.survivors_kernel`).
4. These get their exact distances: float32 entries added in order in float64, rounded once
   (`kernels.distances_kernel`). The k nearest, and those as near as the last of them, go to the
   host, which orders them by distance and id (`hits`).

If more rows are left than there is room for, the pass is repeated with the threshold of those that
were found. Where that does not help, as with many equal rows, and for many results or few rows, the
distances of all rows are computed in plain PyTorch. So the answer is exact in every case.
"""

from hyperpq.scan.cuda.memory import DeviceMemory
from hyperpq.scan.cuda.scanner import CudaScanner, memory_of

__all__ = ["CudaScanner", "DeviceMemory", "memory_of"]
