"""The passes over codes as Triton kernels.

A program of `survivors_kernel` adds the byte tables of one group of queries over a run of rows. It
reads codes column by column, 16 bytes a thread, and looks each byte up in a column of the tables.
The look-ups are what takes the time. They come in two ways, which `TritonPasses` chooses between:

- A column of words, of four queries, is put into shared memory and gathered from there
  (`tl.gather`). It has 256 words in 32 banks, so that the 32 look-ups of a warp take as many cycles
  as the fullest bank has different words.
- A column of bytes, of one query, lies in two cache lines, and is gathered by loads through the L1
  cache. Rewriting it to shared memory for each run of rows would gain little.

Sums of bytes are integers, so their order does not matter. Few rows are left, and these are put
into a buffer by one atomic addition for each block of rows and query. Their order there varies, and
has no effect: `distances_kernel` gives them their distances, and results are sorted by these and by
ids. The kernel adds float64 numbers one after another in the order of the subspaces, without a
product that could be contracted to a fused multiply-add.

TRITON_INTERPRET=1 runs the kernels on CPU tensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import triton
import triton.language as tl

from hyperpq.codes import TILE_ROWS
from hyperpq.scan.cuda.passes import LARGEST

if TYPE_CHECKING:
    from torch import Tensor

    from hyperpq.scan.cuda.bounds import Bounds
    from hyperpq.scan.cuda.piece import Piece

# Programs of a launch at least, if there are so many blocks: some for each of 132 multiprocessors.
_PROGRAMS = 8192
# Blocks of a program at most.
_RUN = 64
# Registers of a thread at most, so that four programs of four warps share a multiprocessor. The
# compiler would take up to 186 for the rows that are put into a buffer, so that two or three
# programs would fit. With this many nothing is spilled to memory.
_REGISTERS = 128
_TILE = tl.constexpr(TILE_ROWS)
_LARGEST = tl.constexpr(LARGEST)
_EVEN = tl.constexpr(0x00FF00FF)


@triton.jit
def _put(found, r, query, rows, counts, capacity):
    """Append the rows that were found for a query to its buffer, and count them."""
    flags = found.to(tl.int32)
    n = tl.sum(flags, 0)
    if n > 0:
        at = tl.atomic_add(counts + query, n, sem="relaxed") + tl.cumsum(flags, 0) - 1
        start = rows + query.to(tl.int64) * capacity
        tl.store(start + at, r, mask=found & (at < capacity))


# A kernel is compiled once, and not again for numbers that are 1 or multiples of 16.
@triton.jit(do_not_specialize=["n", "groups"])
def survivors_kernel(
    codes,
    bits,
    words,
    limits,
    rows,
    counts,
    n,
    padded,
    run,
    groups,
    capacity,
    S: tl.constexpr,
    LANES: tl.constexpr,
    HAS_BITS: tl.constexpr,
    SHARED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Find the rows of a run whose sums of bytes are within the limits of a group of queries."""
    # The groups take turns, so that the codes which one has read are in the cache for the others.
    group = tl.program_id(0) % groups
    begin = tl.program_id(0) // groups * run
    table = words + group * (S * 256)
    entry = tl.arange(0, 256)
    lane = tl.arange(0, BLOCK)
    for first in range(begin, tl.minimum(begin + run, n), BLOCK):
        r = first + lane
        there = r < padded
        tile = first // _TILE
        stride = tl.multiple_of(tl.minimum(padded - tile * _TILE, _TILE), 64)
        column = codes + tile.to(tl.int64) * (_TILE * S) + (first - tile * _TILE)
        low = tl.zeros((BLOCK,), tl.int32)
        high = tl.zeros((BLOCK,), tl.int32)
        code = tl.load(column + lane, mask=there, other=0)
        # Loads are under way while others are used: those of all columns, or, as none passes a
        # barrier, of the next one.
        for s in tl.range(0, S, loop_unroll_factor=1 if SHARED else 8):
            following = tl.load(column + (s + 1) * stride + lane, mask=there & (s + 1 < S), other=0)
            if SHARED:
                word = tl.gather(tl.load(table + s * 256 + entry), code.to(tl.int32), 0)
            else:
                word = tl.load(table + s * 256 + code.to(tl.int32))
            if LANES == 1:
                low += word.to(tl.int32)
            else:
                low += word & _EVEN
                high += (word >> 8) & _EVEN
            code = following
        active = r < n
        if HAS_BITS:
            byte = tl.load(bits + (r >> 3), mask=there, other=0).to(tl.int32)
            active = active & (((byte >> (r & 7)) & 1) != 0)
        if LANES == 1:
            _put(active & (low <= tl.load(limits + group)), r, group, rows, counts, capacity)
        else:
            query = group * 4
            a = active & ((low & 0xFFFF) <= tl.load(limits + query))
            b = active & ((high & 0xFFFF) <= tl.load(limits + query + 1))
            c = active & (((low >> 16) & 0xFFFF) <= tl.load(limits + query + 2))
            d = active & (((high >> 16) & 0xFFFF) <= tl.load(limits + query + 3))
            if tl.max((a | b | c | d).to(tl.int32), 0) > 0:
                _put(a, r, query, rows, counts, capacity)
                _put(b, r, query + 1, rows, counts, capacity)
                _put(c, r, query + 2, rows, counts, capacity)
                _put(d, r, query + 3, rows, counts, capacity)


@triton.jit(do_not_specialize=["width", "rows_stride"])
def distances_kernel(
    codes,
    tables,
    rows,
    out,
    padded,
    width,
    rows_stride,
    M: tl.constexpr,
    K: tl.constexpr,
    S: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Exact distances of some rows of each query."""
    # Only the first axis of a grid can have more than 65,535 programs.
    query = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < width
    row = tl.load(rows + query * rows_stride + i, mask=inside, other=-1)
    there = row >= 0
    row = tl.maximum(row, 0)
    tile = row // _TILE
    stride = tl.minimum(padded - tile * _TILE, _TILE)
    start = codes + tile.to(tl.int64) * (_TILE * S) + (row - tile * _TILE)
    table = tables + query * (M * K)
    total = tl.full((BLOCK,), -0.0, tl.float64)  # what leaves the first entry as it is
    for m in range(M):
        if K == 256:
            code = tl.load(start + m * stride, mask=there, other=0).to(tl.int32)
        else:
            byte = tl.load(start + m // 2 * stride, mask=there, other=0).to(tl.int32)
            code = (byte >> (m % 2 * 4)) & 15
        total += tl.load(table + m * K + code).to(tl.float64)
    total = tl.minimum(tl.maximum(total, -_LARGEST), _LARGEST)
    near = tl.where(there, total.to(tl.float32), float("inf"))
    tl.store(out + query * width + i, near, mask=inside)


@dataclass(frozen=True)
class TritonPasses:
    """The passes as Triton kernels, on a GPU or in Triton's interpreter.

    Attributes
    ----------
    gather_one, gather_four : {"cache", "shared"}
        Where tables of one query and of four are looked up: through the L1 cache or in shared
        memory.
    block : int
        Rows that a program adds up at once, a power of two up to `TILE_ROWS`.
    warps : int
        Warps of a program.

    Notes
    -----
    Results do not depend on these.
    """

    gather_one: str = "cache"
    gather_four: str = "shared"
    block: int = 2048
    warps: int = 4

    @property
    def compiled_with(self) -> dict[str, int | bool]:
        """Options of Triton for `survivors_kernel`."""
        return {"num_warps": self.warps, "maxnreg": _REGISTERS, "enable_fp_fusion": False}

    def survivors(self, piece: Piece, bounds: Bounds, capacity: int) -> tuple[Tensor, Tensor]:
        """See `Passes.survivors`."""
        groups, S = bounds.words.shape[:2]
        n_queries = groups * bounds.lanes
        rows = bounds.limits.new_full((n_queries, capacity), -1)
        counts = bounds.limits.new_zeros(n_queries)
        blocks = triton.cdiv(piece.n, self.block)
        run = min(max(1, blocks * groups // _PROGRAMS), _RUN)
        gather = self.gather_one if bounds.lanes == 1 else self.gather_four
        survivors_kernel[(groups * triton.cdiv(blocks, run),)](
            piece.codes,
            piece.codes if piece.bits is None else piece.bits,
            bounds.words,
            bounds.limits,
            rows,
            counts,
            piece.n,
            piece.padded,
            run * self.block,
            groups,
            capacity,
            S=S,
            LANES=bounds.lanes,
            HAS_BITS=piece.bits is not None,
            SHARED=gather == "shared",
            BLOCK=self.block,
            **self.compiled_with,
        )
        return rows[: bounds.nq], counts[: bounds.nq]

    def distances(self, piece: Piece, tables: Tensor, rows: Tensor) -> Tensor:
        """See `Passes.distances`."""
        (nq, M, K), width, block = tables.shape, rows.shape[1], 256
        out = tables.new_empty((nq, width))
        if not out.numel():
            return out
        distances_kernel[(triton.cdiv(width, block), nq)](
            piece.codes,
            tables,
            rows,
            out,
            piece.padded,
            width,
            rows.stride(0),
            M=M,
            K=K,
            S=piece.code_size,
            BLOCK=block,
            num_warps=4,
            enable_fp_fusion=False,
        )
        return out
