"""The scan of GPUs, in plain PyTorch on the CPU, beside `scan.reference`: the same bits."""

from __future__ import annotations

import contextlib
import gc
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scan_cases import KINDS, LARGEST, cases, make_tables, packed

from hyperpq.codes import TILE_ROWS, CodeSegment, TiledCodes, pack, row_bits
from hyperpq.errors import InvalidInputError, MissingDependencyError
from hyperpq.scan import prepare, reference
from hyperpq.scan.cuda import CudaScanner, DeviceMemory, copies, memory, memory_of, parts, search
from hyperpq.scan.cuda.bounds import Bounds, largest_sums
from hyperpq.scan.cuda.passes import TorchPasses, block_distances
from hyperpq.scan.cuda.piece import Piece


@pytest.fixture(autouse=True)
def empty_memory():
    memory_of("cpu").clear()
    yield
    memory_of("cpu").clear()


def assert_same(found, want):
    """Equal arrays, signs of zeros included."""
    for mine, theirs in zip(found, want, strict=True):
        assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape)
        np.testing.assert_array_equal(mine, theirs)
        if mine.dtype == np.float32:
            np.testing.assert_array_equal(np.signbit(mine), np.signbit(theirs))


def check(scanner, tables, segments, k):
    """A scanner answers as the reference does, also within a radius."""
    want = reference.search_segments(tables, segments, k, threads=1)
    assert_same(scanner.search_segments(tables, segments, k), want)
    distances = np.sort(want[0][np.isfinite(want[0])])
    for radius in (distances[len(distances) // 2] if len(distances) else 0.0, np.inf, -np.inf):
        within = reference.range_search_segments(tables, segments, float(radius))
        assert_same(scanner.range_search_segments(tables, segments, float(radius)), within)


@given(cases(), st.sampled_from([1, 3]), st.sampled_from([None, 0, 30_000]), st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_scan_in_torch_is_the_reference(case, n_devices, limit, is_large):
    tables, segments, k, has_masks = case
    rows = packed(segments, tables.shape[2], has_masks)
    scanner = CudaScanner(["cpu"] * n_devices, "torch", limit)
    with pytest.MonkeyPatch.context() as patch:
        if is_large:  # Few rows count as many, and there is little room for survivors.
            patch.setattr(search, "FEW_ROWS", 8)
            patch.setattr(search, "_CAPACITY", 16)
            patch.setattr(search, "_PAIRS", 64)
            patch.setattr(search, "_DENSE_PAIRS", 9000)
            patch.setattr(search, "_SAMPLE", 1)
        check(scanner, tables, rows, k)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("nq", [1, 5])
def test_bounds_never_rule_out_a_row(kind, nq):
    rng = np.random.default_rng(KINDS.index(kind))
    for M, K in ((1, 256), (8, 256), (300, 256), (3, 16), (40, 16)):
        tables = torch.from_numpy(make_tables(rng, kind, (nq, M, K)))
        codes = pack(rng.integers(0, K, (500, M)).astype(np.uint8), 8 if K == 256 else 4)
        tiled = prepare(codes)
        D = block_distances(tables, torch.from_numpy(np.ascontiguousarray(codes.T)))
        piece = Piece(torch.from_numpy(tiled.data), 500, codes.shape[1], None, 500)
        for rank in (0, 20, 499):
            theta = D.sort(1).values[:, rank]
            rows, counts = TorchPasses().survivors(piece, Bounds.of(tables, theta), 500)
            for q in range(nq):
                left = rows[q, : counts[q]]
                near = torch.nonzero(D[q] <= theta[q])[:, 0]
                assert np.isin(near, left).all()
                assert len(set(left.tolist())) == counts[q]


def test_bounds_rule_out_nearly_all_far_rows():
    rng = np.random.default_rng(0)
    tables = torch.from_numpy(rng.random((4, 8, 256)).astype(np.float32))
    codes = torch.from_numpy(rng.integers(0, 256, (8, 1 << 17)).astype(np.uint8))
    piece = Piece(torch.from_numpy(prepare(codes.T.numpy()).data), 1 << 17, 8, None, 1 << 17)
    theta = block_distances(tables, codes).sort(1).values[:, 99]
    for some in (slice(0, 4), slice(0, 1)):
        bounds = Bounds.of(tables[some], theta[some])
        _, counts = TorchPasses().survivors(piece, bounds, 1 << 12)
        assert (counts >= 100).all()
        assert (counts <= 200).all()


def test_sums_within_a_threshold_are_those_that_round_to_it():
    theta = np.array([0.0, 1.0, -1.0, 1e-45, 3e38, LARGEST, np.inf], np.float32)
    sums = largest_sums(torch.from_numpy(theta)).numpy()
    assert sums[-2:].tolist() == [np.inf, np.inf]
    for value, bound in zip(theta[:-2], sums[:-2], strict=True):
        assert np.float32(np.nextafter(bound, -np.inf)) <= value
        assert np.float32(np.nextafter(bound, np.inf)) > value


def test_equal_rows_are_ordered_by_id():
    """All rows are at the threshold: there is no room for them, and the bounds do not help."""
    rng = np.random.default_rng(0)
    n = 3 * search.FEW_ROWS
    codes = np.zeros((n, 4), np.uint8)
    ids = rng.permutation(n).astype(np.int64) * 2**40
    tables = rng.random((2, 4, 256)).astype(np.float32)
    segments = [CodeSegment(prepare(codes), ids)]
    D, I = CudaScanner(["cpu"], "torch").search_segments(tables, segments, 7)  # noqa: E741
    np.testing.assert_array_equal(I, np.tile(np.arange(7) * 2**40, (2, 1)))
    assert_same((D, I), reference.search_segments(tables, segments, 7, threads=1))


def test_row_numbers_of_a_large_piece(monkeypatch):
    """Parts end at whole tiles, however many rows a piece can have."""
    rng = np.random.default_rng(1)
    monkeypatch.setattr(parts, "MAX_ROWS", 2 * TILE_ROWS)
    codes = rng.integers(0, 256, (3 * TILE_ROWS + 77, 3)).astype(np.uint8)
    segment = CodeSegment(prepare(codes), None, row_bits(rng.random(len(codes)) < 0.3))
    shares = parts.divide([segment], 2)
    assert [[(part.first, part.n) for part in share] for share in shares] == [
        [(0, 2 * TILE_ROWS)],
        [(2 * TILE_ROWS, TILE_ROWS + 77)],
    ]
    assert [part.n for part in parts.divide([segment], 1)[0]] == [2 * TILE_ROWS, TILE_ROWS + 77]
    tables = rng.normal(size=(3, 3, 256)).astype(np.float32)
    check(CudaScanner(["cpu"], "torch"), tables, [segment], 50)


def segments_of(rng, *sizes):
    first, out = 0, []
    for n in sizes:
        codes = rng.integers(0, 256, (n, 2)).astype(np.uint8)
        out.append(CodeSegment(prepare(codes), np.arange(first, first + n, dtype=np.int64)))
        first += n
    return out


def test_codes_stay_on_the_device_within_its_bound():
    rng = np.random.default_rng(0)
    segments = segments_of(rng, 64, 640, 6400)
    tables = rng.normal(size=(2, 2, 256)).astype(np.float32)
    held = memory_of("cpu")
    scanner = CudaScanner(["cpu"], "torch", 2 * (64 + 640))
    check(scanner, tables, segments, 9)
    assert held.held_bytes == 2 * (64 + 640)
    # Codes that are not searched make room, the longest unused first.
    scanner.search_segments(tables, segments[1:2], 9)
    scanner.search_segments(tables, segments_of(rng, 64), 9)
    assert held.held_bytes == 2 * 640  # The last segment is gone, and has taken the first's place.
    scanner.search_segments(tables, segments[1:2], 9)
    del segments
    gc.collect()
    assert held.held_bytes == 0


def test_codes_are_copied_once(monkeypatch):
    rng = np.random.default_rng(0)
    segments = segments_of(rng, 500)
    segments = [segments[0]._replace(bits=row_bits(rng.random(500) < 0.5))]
    tables = rng.normal(size=(1, 2, 256)).astype(np.float32)
    uploads = []
    upload = DeviceMemory._upload
    monkeypatch.setattr(
        DeviceMemory, "_upload", lambda self, data: uploads.append(len(data)) or upload(self, data)
    )
    scanner = CudaScanner(["cpu"], "torch")
    for _ in range(3):
        check(scanner, tables, segments, 5)
    assert uploads == [1024, 64]  # the codes, and which rows are searched
    other = [segments[0]._replace(bits=row_bits(rng.random(500) < 0.1))]
    check(scanner, tables, other, 5)
    assert uploads == [1024, 64, 64]


def test_the_bound_is_measured_on_a_gpu(monkeypatch):
    """What is free, with what PyTorch keeps for itself, less a fifth."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 5000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 700)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 200)
    assert DeviceMemory("cuda:0")._free(None) == int(0.8 * 1500)
    assert DeviceMemory("cuda:0")._free(123) == 123
    assert DeviceMemory("cpu")._free(None) == memory.CPU_BYTES


def test_pieces_pass_through_two_buffers(monkeypatch):
    """The next piece is copied before the last one is released, and never into its buffer."""
    seen = []

    class Recorded(copies.HostCopies):
        def start(self, buffer, data):
            seen.append(("start", buffer))
            super().start(buffer, data)

        def finish(self, buffer):
            seen.append(("finish", buffer))
            return super().finish(buffer)

        def release(self, buffer):
            seen.append(("release", buffer))

    monkeypatch.setattr(memory, "copies_to", lambda device, size: Recorded(size))
    rng = np.random.default_rng(0)
    segments = segments_of(rng, 3 * TILE_ROWS)
    tables = rng.normal(size=(2, 2, 256)).astype(np.float32)
    scanner = CudaScanner(["cpu"], "torch", 0)
    want = reference.search_segments(tables, segments, 9, threads=1)
    assert_same(scanner.search_segments(tables, segments, 9), want)
    steps = "start 0, start 1, finish 0, release 0, start 0, finish 1, release 1, finish 0, "
    assert seen == [
        (name, int(buffer)) for name, buffer in (s.split() for s in steps.split(", ") if s)
    ] + [("release", 0)]
    assert memory_of("cpu").held_bytes == 0


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"devices": "cuda"}, "devices is 'cuda'; expected a sequence"),
        ({"devices": []}, r"devices is \[\]; expected a sequence"),
        ({"devices": ["gpu"]}, "device is 'gpu'; expected"),
        ({"devices": ["cpu"], "kernel": "c"}, "kernel is 'c'; expected"),
        ({"devices": ["cpu"], "memory": -1}, "memory is -1; expected"),
    ],
)
def test_wrong_settings(arguments, message):
    with pytest.raises(InvalidInputError, match=message):
        CudaScanner(**arguments)


def test_without_triton(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "triton", None)
    tables, segments = np.ones((1, 2, 256), np.float32), segments_of(np.random.default_rng(0), 9)
    with pytest.raises(MissingDependencyError, match=r"searches on a GPU need triton .*\[gpu\]"):
        CudaScanner(["cpu"]).search_segments(tables, segments, 1)


def test_arguments_are_checked_as_on_the_cpu():
    segments = segments_of(np.random.default_rng(0), 9)
    scanner = CudaScanner(["cpu"], "torch")
    for value in (np.nan, np.inf):
        with pytest.raises(InvalidInputError, match="tables hold NaN or infinity"):
            scanner.search_segments(np.full((1, 2, 256), value, np.float32), segments, 1)
    with pytest.raises(InvalidInputError, match="codes have 2 bytes a row; expected 3"):
        scanner.search_segments(np.zeros((1, 3, 256), np.float32), segments, 1)
    with pytest.raises(InvalidInputError, match="radius is NaN"):
        scanner.range_search_segments(np.zeros((1, 2, 256), np.float32), segments, np.nan)
    with pytest.raises(InvalidInputError, match="k is 0"):
        scanner.search_segments(np.zeros((1, 2, 256), np.float32), segments, 0)


def test_no_rows_and_no_queries():
    tables = np.zeros((2, 2, 256), np.float32)
    none = [CodeSegment(TiledCodes.from_rows(np.empty((0, 2), np.uint8)))]
    check(CudaScanner(["cpu", "cpu"], "torch"), tables, none, 3)
    check(CudaScanner(["cpu"], "torch"), tables, [], 3)
    check(CudaScanner(["cpu"], "torch"), tables[:0], segments_of(np.random.default_rng(0), 5), 3)


def test_a_scanner_is_its_settings():
    scanner = CudaScanner(["cpu"], "torch", 5)
    assert pickle.loads(pickle.dumps(scanner)) == scanner == CudaScanner(("cpu",), "torch", 5)


class Stream:
    """A stand-in of a CUDA stream: what is queued runs when an event is waited for."""

    def __init__(self, log):
        self.log = log

    def wait_stream(self, other):
        self.log.append("wait for the work before")

    def wait_event(self, event):
        self.log.append(f"{'copies' if self is event.log.copying else 'search'} wait {event.name}")


class Log(list):
    copying = None


def test_buffers_of_a_gpu_are_filled_and_used_in_turn(monkeypatch):
    """The order of copies, waits and records, with stand-ins of CUDA's streams and events."""
    log = Log()
    names = iter(["copied 0", "copied 1", "released 0", "released 1"])
    searching = Stream(log)

    class Event:
        def __init__(self):
            self.name, self.log = next(names), log

        def record(self, stream):
            log.append(f"{self.name} by {'copies' if stream is log.copying else 'search'}")

        def synchronize(self):
            log.append(f"host waits {self.name}")

    def new_stream(device):
        log.copying = Stream(log)
        return log.copying

    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda n, dtype, **where: empty(n, dtype=dtype))
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, stream: None)
    monkeypatch.setattr(torch.cuda, "Stream", new_stream)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: searching)
    buffers = copies.copies_to("cuda:0", 8)
    data = np.arange(24, dtype=np.uint8).reshape(3, 8)
    buffers.start(0, data[0])
    buffers.start(1, data[1])
    assert buffers.finish(0).tolist() == data[0].tolist()
    buffers.release(0)
    buffers.start(0, data[2][:5])
    assert buffers.finish(1).tolist() == data[1].tolist()
    assert buffers.finish(0).tolist() == data[2][:5].tolist()
    assert log == [
        "wait for the work before",
        *("host waits copied 0", "copies wait released 0", "copied 0 by copies"),
        *("host waits copied 1", "copies wait released 1", "copied 1 by copies"),
        *("search wait copied 0", "released 0 by search"),
        # The page-locked memory is free once its copy is done, the buffer once it was searched.
        *("host waits copied 0", "copies wait released 0", "copied 0 by copies"),
        *("search wait copied 1", "search wait copied 0"),
    ]
