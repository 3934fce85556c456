"""The Triton kernels without a GPU: run in Triton's interpreter, and compiled for one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="needs Triton, which is for Linux on x86-64")


@pytest.mark.slow
def test_the_kernels_in_the_interpreter():
    file = Path(__file__).with_name("interpreted_triton.py")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", str(file)]
    done = subprocess.run(
        command,
        env=os.environ | {"TRITON_INTERPRET": "1"},
        cwd=file.parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout


@pytest.fixture
def compiled(tmp_path, monkeypatch):
    """Compiles a kernel for an H100; no GPU is needed for that."""
    from triton import compile as compile_kernel
    from triton import knobs
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.runtime.jit import JITFunction

    def compile_for_sm90(kernel, pointers, numbers, constants):
        if not isinstance(kernel, JITFunction):
            pytest.skip("TRITON_INTERPRET is set, so that there is nothing to compile")
        names = kernel.arg_names
        signature = {**pointers, **dict.fromkeys(numbers, "i32")}
        signature |= dict.fromkeys(constants, "constexpr")
        aligned = [*pointers, *(set(numbers) & {"padded", "run"})]
        source = ASTSource(
            fn=kernel,
            signature={name: signature[name] for name in names},
            constexprs={(names.index(name),): value for name, value in constants.items()},
            attrs={(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
        )
        options = {"num_warps": 4, "enable_fp_fusion": False}
        return compile_kernel(source, target=GPUTarget("cuda", 90, 32), options=options)

    with knobs.cache.scope():
        knobs.cache.dir = str(tmp_path)
        yield compile_for_sm90


@pytest.mark.parametrize("lanes, is_shared", [(1, False), (4, True)])
def test_the_survivors_kernel_compiles_for_an_h100(compiled, lanes, is_shared):
    from hyperpq.scan.cuda.kernels import survivors_kernel

    pointers = dict.fromkeys(("limits", "rows", "counts"), "*i32")
    pointers |= {"codes": "*u8", "bits": "*u8", "words": "*u8" if lanes == 1 else "*i32"}
    constants = {"S": 8, "LANES": lanes, "HAS_BITS": True, "SHARED": is_shared, "BLOCK": 2048}
    kernel = compiled(
        survivors_kernel, pointers, ["padded", "n", "run", "groups", "capacity"], constants
    )
    # A thread reads the codes of 16 rows at once.
    assert "ld.global.v4.b32" in kernel.asm["ptx"]
    assert kernel.asm["cubin"]


def test_distances_are_added_one_after_another(compiled):
    from hyperpq.scan.cuda.kernels import distances_kernel

    pointers = {"codes": "*u8", "tables": "*fp32", "rows": "*i32", "out": "*fp32"}
    constants = {"M": 8, "K": 256, "S": 8, "BLOCK": 256}
    ptx = compiled(distances_kernel, pointers, ["padded", "width", "rows_stride"], constants).asm[
        "ptx"
    ]
    assert "add.f64" in ptx or "add.rn.f64" in ptx
    assert "cvt.rn.f32.f64" in ptx
    assert "fma" not in ptx
    assert ".ftz" not in ptx


@pytest.mark.parametrize("nq", [1, 64])
def test_grids_of_the_largest_searches(monkeypatch, nq):
    """The second axis of a grid has at most 65,535 programs, and none has more than 2^31 - 1."""
    import torch

    from hyperpq.scan.cuda import kernels
    from hyperpq.scan.cuda.bounds import Bounds
    from hyperpq.scan.cuda.piece import MAX_ROWS, Piece

    grids = []

    class Launcher:
        def __getitem__(self, grid):
            grids.append(grid)
            return lambda *arguments, **constants: None

    monkeypatch.setattr(kernels, "distances_kernel", Launcher())
    monkeypatch.setattr(kernels, "survivors_kernel", Launcher())
    on_meta = {"device": "meta"}
    piece = Piece(torch.empty(8, dtype=torch.uint8, **on_meta), MAX_ROWS, 8, None, MAX_ROWS)
    tables = torch.empty((nq, 8, 256), **on_meta)
    rows = torch.empty(1 << 27, dtype=torch.int32, **on_meta).expand(nq, -1)
    groups, lanes = (1, 1) if nq == 1 else (16, 4)
    words = torch.empty((groups, 8, 256), dtype=torch.int32, **on_meta)
    limits = torch.empty(groups * lanes, dtype=torch.int32, **on_meta)
    for block in (256, 2048):
        passes = kernels.TritonPasses(block=block)
        passes.distances(piece, tables, rows)
        passes.survivors(piece, Bounds(words, limits, lanes, nq), 4096)
    assert len(grids) == 4
    for first, *others in grids:
        assert 0 < first < 2**31
        assert all(other <= 65535 for other in others)
