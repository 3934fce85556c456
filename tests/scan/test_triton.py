"""The Triton kernels without a GPU: run in Triton's interpreter, and compiled for one."""

from __future__ import annotations

import os
import re
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
    """Compiles a kernel, for an H100 by default; no GPU is needed for that."""
    from triton import compile as compile_kernel
    from triton import knobs
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.runtime.jit import JITFunction

    def compile_for(kernel, pointers, numbers, constants, capability=90, **options):
        if not isinstance(kernel, JITFunction):
            pytest.skip("TRITON_INTERPRET is set, so that there is nothing to compile")
        names = kernel.arg_names
        signature = {**pointers, **dict.fromkeys(numbers, "i32")}
        signature |= dict.fromkeys(constants, "constexpr")
        aligned = [*pointers, *(set(numbers) & {"padded", "run", "capacity"})]
        source = ASTSource(
            fn=kernel,
            signature={name: signature[name] for name in names},
            constexprs={(names.index(name),): value for name, value in constants.items()},
            attrs={(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
        )
        options = {"num_warps": 4, "enable_fp_fusion": False, **options}
        return compile_kernel(source, target=GPUTarget("cuda", capability, 32), options=options)

    with knobs.cache.scope():
        knobs.cache.dir = str(tmp_path)
        yield compile_for


@pytest.mark.parametrize("lanes, is_shared", [(1, False), (4, True)])
@pytest.mark.parametrize("capability", [80, 89, 90])
def test_the_survivors_kernel_compiles_for_a_gpu(compiled, capability, lanes, is_shared, tmp_path):
    """For an A100, an L4 and an H100: four of its programs fit on a multiprocessor."""
    from hyperpq.scan.cuda.kernels import TritonPasses, survivors_kernel

    pointers = dict.fromkeys(("limits", "rows", "counts"), "*i32")
    pointers |= {"codes": "*u8", "bits": "*u8", "words": "*u8" if lanes == 1 else "*i32"}
    constants = {"S": 8, "LANES": lanes, "HAS_BITS": True, "SHARED": is_shared, "BLOCK": 2048}
    numbers, passes = ["padded", "n", "run", "groups", "capacity"], TritonPasses()
    kernel = compiled(
        survivors_kernel, pointers, numbers, constants, capability, **passes.compiled_with
    )
    # A thread reads the codes of 16 rows at once.
    assert "ld.global.v4.b32" in kernel.asm["ptx"]
    used = resources(kernel, tmp_path / "cubin")
    assert used["STACK"] == used["LOCAL"] == 0  # no register is spilled
    # A multiprocessor has 65,536 registers, and 100 KB of shared memory, or more.
    assert 4 * used["REG"] * 32 * passes.warps <= 65536
    assert 4 * (kernel.metadata.shared + 1024) <= 100 << 10


def resources(kernel, path):
    """Registers of a thread, and bytes of its stack and local memory, of a compiled kernel."""
    import triton

    path.write_bytes(kernel.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    if not tool.exists():
        pytest.skip("this Triton comes without cuobjdump")
    done = subprocess.run([tool, "-res-usage", path], capture_output=True, text=True, check=True)
    found = re.findall(r"\b(REG|STACK|LOCAL):(\d+)", done.stdout + done.stderr)
    return {name: int(value) for name, value in found}


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
