"""Speed of the scan on a GPU, beside faiss-gpu and cuVS.

    python -m benchmarks.gpu_scan --cache FILE

How many codes does a search on a GPU scan in a second? Two kinds of data are searched by one query
and by 64. *random* are random codes of up to a billion rows. *clustered* are vectors around 1,000
centres, which are made on the device; hyperpq has the codes of a product quantizer, and
`GpuIndexIVFPQ` of faiss-gpu and `ivf_pq` of cuVS, where they are installed, have as many bytes a
vector and search all of their lists. Recall of the exact neighbours is measured for each. The
methods take turns in one run. Each case is kept in FILE as soon as it is measured, and is not
measured again unless ``--fresh`` is given. The page ``gpu.md`` is written from the published runs.

``--device cpu --limit 3000`` runs everything but the GPU itself, in plain PyTorch and with faiss's
`IndexIVFPQ`, to try the command.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.gpu_page import EVERY_BYTE, FIELDS, OURS, PASS, SCAN_RUNS, Case, write_gpu_page
from benchmarks.gpu_peers import Peer, available_peers
from benchmarks.machine import describe_machine
from benchmarks.options import RESULTS, count
from benchmarks.provenance import current_commit
from benchmarks.runlog import Run, RunLog
from hyperpq.codes import CodeSegment, TiledCodes, tiled_size
from hyperpq.errors import HyperPQError
from hyperpq.scan.cuda import CudaScanner, memory_of
from hyperpq.scan.cuda.bounds import Bounds
from hyperpq.scan.cuda.parts import divide
from hyperpq.scan.cuda.passes import Passes, TorchPasses
from hyperpq.utils.devices import resolve_device

# Dimensions of a subquantizer, and vectors that are made at a time.
WIDTH, AT_ONCE = 8, 200_000
BATCHES = (1, 64)
# Lists of the peers, and vectors that train them and our quantizer.
LISTS, TRAINED_ON = 1024, 100_000
# Largest number of rows that the peers are filled with.
MOST_VECTORS = 100_000_000


@dataclass
class Held:
    """A collection as every method holds it.

    Attributes
    ----------
    segment : CodeSegment
        The codes of hyperpq.
    tables : ndarray, shape (64, M, 256), float32
        Distance tables of the queries.
    queries : ndarray, shape (64, d), float32, or None
        Queries, of vectors.
    truth : ndarray, shape (64, 10), int64, or None
        Their exact neighbours.
    peers : dict
        Other indexes by name.
    """

    segment: CodeSegment
    tables: NDArray[np.float32]
    queries: NDArray[np.float32] | None = None
    truth: NDArray[np.int64] | None = None
    peers: dict[str, Peer] = field(default_factory=dict)


@dataclass(frozen=True)
class Chosen(CudaScanner):
    """A scanner with other kernels than the usual ones, which a measurement compares."""

    passes: Passes = field(default_factory=TorchPasses)

    def _passes(self) -> Passes:
        return self.passes


def random_codes(n: int, size: int) -> Held:
    """Random codes and random tables."""
    rng = np.random.default_rng(0)
    codes = TiledCodes(np.frombuffer(rng.bytes(tiled_size(n, size)), np.uint8), n, size)
    return Held(CodeSegment(codes), rng.random((max(BATCHES), size, 256), np.float32))


@dataclass(frozen=True)
class Vectors:
    """Vectors around 1,000 centres, made in batches on a device, always the same ones."""

    n: int
    size: int
    device: str

    def batches(self) -> Iterator[torch.Tensor]:
        """All of them, in tensors (n, d) float32."""
        for start in range(0, self.n, AT_ONCE):
            yield self.draw(min(AT_ONCE, self.n - start), 2 + start)

    def draw(self, n: int, seed: int) -> torch.Tensor:
        """Some of the same kind."""
        d = WIDTH * self.size
        centres = np.random.default_rng(0).normal(size=(1000, d)).astype(np.float32)
        made = torch.Generator(self.device).manual_seed(seed)
        which = torch.randint(1000, (n,), generator=made, device=self.device)
        noise = torch.randn((n, d), generator=made, device=self.device)
        return torch.from_numpy(centres).to(self.device)[which] + 0.5 * noise


def clustered_codes(n: int, size: int, device: str, with_peers: bool) -> Held:
    """Codes of vectors, exact neighbours of queries among these, and the peers that hold them."""
    import faiss

    vectors = Vectors(n, size, device)
    sample = vectors.draw(min(TRAINED_ON, max(n, 1000)), 1)
    quantizer = faiss.ProductQuantizer(WIDTH * size, size, 8)
    quantizer.train(sample.cpu().numpy())
    words = torch.from_numpy(
        faiss.vector_to_array(quantizer.centroids).reshape(size, 256, WIDTH).copy()
    ).to(device)
    queries = vectors.draw(max(BATCHES), 0)
    rows, best, at, first = [], None, None, 0
    for x in vectors.batches():
        parts = x.view(-1, size, WIDTH).transpose(0, 1)
        nearest = ((words**2).sum(2)[:, None] - 2 * parts @ words.transpose(1, 2)).argmin(2)
        rows.append(nearest.T.to(torch.uint8).cpu().numpy())
        far = torch.cdist(queries, x, compute_mode="donot_use_mm_for_euclid_dist")
        D, I = far.topk(min(10, len(x)), largest=False)  # noqa: E741
        best = D if best is None else torch.cat([best, D], 1)
        at = I + first if at is None else torch.cat([at, I + first], 1)
        order = best.argsort(1)[:, :10]
        best, at = best.gather(1, order), at.gather(1, order)
        first += len(x)
    assert at is not None
    gap = queries.view(-1, size, 1, WIDTH) - words
    tables = (gap**2).sum(3).float().cpu().numpy()
    codes = TiledCodes.from_rows(np.concatenate(rows))
    held = Held(CodeSegment(codes), tables, queries.cpu().numpy(), at.cpu().numpy())
    if with_peers:
        lists = min(LISTS, max(1, n // 40))
        for name, make in available_peers(device).items():
            held.peers[name] = make(sample, vectors.batches(), size, lists)
    return held


def searches(case: Case, held: Held, device: str) -> dict[str, Callable[[], Any]]:
    """A function for each method that searches once, and returns ids if there is a truth."""
    tables, segments = held.tables[: case.batch], [held.segment]
    out: dict[str, Callable[[], Any]] = {}

    def search_by(scanner: CudaScanner) -> Callable[[], Any]:
        return lambda: scanner.search_segments(tables, segments, case.k)[1]

    if device == "cpu":
        passes: Passes = TorchPasses()
        out[OURS] = search_by(CudaScanner([device], "torch"))
    else:
        from hyperpq.scan.cuda.kernels import TritonPasses

        passes = TritonPasses()
        out[OURS] = search_by(CudaScanner([device]))
        for way, warps in itertools.product(("cache", "shared"), (4, 8)):
            other = TritonPasses(gather_one=way, gather_four=way, warps=warps)
            out[f"{OURS}, {way}, {warps} warps"] = search_by(Chosen([device], passes=other))
    found = out[OURS]()
    theta = _largest(tables, held, found)
    (part,) = divide(segments, 1)[0]
    piece = next(memory_of(device).pieces([part], None))[1]
    on_device = torch.from_numpy(tables.copy()).to(device)
    bounds = Bounds.of(on_device, torch.from_numpy(theta).to(device))

    def pass_alone() -> None:
        passes.survivors(piece, bounds, 4096)
        _wait(device)

    def every_byte() -> None:
        piece.codes.view(torch.int64).sum()
        _wait(device)

    out[PASS], out[EVERY_BYTE] = pass_alone, every_byte
    if held.queries is not None:
        queries = held.queries[: case.batch]
        for name, peer in held.peers.items():
            out[name] = functools.partial(peer, queries, case.k)
    return out


def _largest(
    tables: NDArray[np.float32], held: Held, found: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Distance (nq,) of the last result of each query."""
    rows = held.segment.codes.take(found[:, -1])
    each = np.take_along_axis(tables.astype(np.float64), rows[:, :, None].astype(np.int64), 2)
    return each.sum((1, 2)).astype(np.float32)


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)


def measure(case: Case, held: Held, device: str, rounds: int) -> dict[str, dict[str, Any]]:
    """Measure every method of a case in turn; all of hyperpq's have to answer alike."""
    methods = searches(case, held, device)
    answers: dict[str, Any] = {}
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for turn in range(rounds + 1):
        for name, search in methods.items():
            start = time.perf_counter()
            found = search()
            if turn:  # the first turn compiles and warms up
                seconds[name].append(time.perf_counter() - start)
            answers[name] = found
    out = {}
    for name, times in seconds.items():
        if name.startswith(OURS) and name != PASS:
            np.testing.assert_array_equal(answers[name], answers[OURS])
        low, middle, high = statistics.quantiles(times, n=4) if len(times) > 1 else times * 3
        codes = case.n if name == EVERY_BYTE else case.n * case.batch
        out[name] = {
            "median": codes / middle,
            "spread": (high - low) / 2 / middle,
            "seconds": middle,
            "recall": _recall(answers[name], held.truth, case.batch),
        }
    return out


def _recall(found: Any, truth: NDArray[np.int64] | None, batch: int) -> float | None:
    """Share of the exact neighbours among the results; None where there are none."""
    if truth is None or found is None:
        return None
    return float(np.mean([np.isin(truth[q], found[q]).mean() for q in range(batch)]))


def cases(device_name: str, sizes: Sequence[int], limit: int | None) -> list[Case]:
    """What is measured, the smallest first."""
    out = []
    for n in (10**6, 10**7, 10**8, 10**9):
        rows = n if limit is None else min(n, limit)
        for size in sizes:
            for data in ("random", "clustered") if n <= MOST_VECTORS else ("random",):
                out += [Case(device_name, data, rows, size, batch) for batch in BATCHES]
    return list(dict.fromkeys(out))


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True, help="file of measured cases")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu (default cuda)")
    parser.add_argument(
        "--limit", type=count, metavar="ROWS", help="take so many rows of each collection at most"
    )
    parser.add_argument(
        "--sizes", type=_sizes, default=(8,), help="bytes of a code, such as 8,16 (default 8)"
    )
    parser.add_argument(
        "--rounds", type=count, default=7, help="number of turns of each method (default 7)"
    )
    parser.add_argument("--no-peers", action="store_true", help="leave faiss and cuVS out")
    parser.add_argument("--fresh", action="store_true", help="measure again what is in the cache")
    parser.add_argument(
        "--out", type=Path, default=RESULTS, help="folder of the page (default docs/results)"
    )
    args = parser.parse_args(argv)
    try:
        measure_all(args)
    except HyperPQError as error:
        raise SystemExit(str(error)) from None


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(count(part) for part in text.split(","))


def measure_all(args: argparse.Namespace) -> None:
    """Measure the cases that the cache does not have, publish them all and write the page."""
    device = resolve_device(args.device)
    name = "CPU" if device == "cpu" else torch.cuda.get_device_name(device)
    if device != "cpu":
        torch.cuda.set_device(device)  # where Triton launches the pass that is measured alone
    log = RunLog(args.cache, FIELDS)
    asked = cases(name, args.sizes, args.limit)
    if args.fresh:
        log.remove(set(asked))
    origin = {"machine": describe_machine(), "commit": current_commit()}
    held: tuple[tuple[str, int, int], Held] | None = None
    for case in asked:
        if tuple(case) in log:
            continue
        key = (case.data, case.n, case.size)
        if held is None or held[0] != key:
            held = None  # free the memory of one collection before the next is made
            memory_of(device).clear()
            held = key, _held(case, device, not args.no_peers)
        rates = measure(case, held[1], device, args.rounds)
        run: Run = {**case._asdict(), "rates": rates, **origin}
        log.append(run)
        shown = "  ".join(f"{method} {one['median'] / 1e9:.3g}" for method, one in rates.items())
        print(f"{case.data}, {case.n:,} x {case.size}, batch {case.batch}: {shown}", flush=True)
    RunLog(args.out / SCAN_RUNS, FIELDS).update(log.runs[tuple(case)] for case in asked)
    print(write_gpu_page(args.out))


def _held(case: Case, device: str, with_peers: bool) -> Held:
    if case.data == "random":
        return random_codes(case.n, case.size)
    return clustered_codes(case.n, case.size, device, with_peers)


if __name__ == "__main__":
    main()
