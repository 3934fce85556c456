"""The compiled scan without Python around it: other compilers, sanitizers, another processor."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SANITIZED = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover")
WAYS = {
    "g++, sanitized": (["g++", *SANITIZED], []),
    "clang++": (["clang++", "-O3"], []),
    "arm64": (["aarch64-linux-gnu-g++", "-O3", "-static"], ["qemu-aarch64"]),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_level_agrees_with_a_plain_loop(way, tmp_path):
    compile_with, run_with = WAYS[way]
    for program in [compile_with[0], *run_with]:
        if shutil.which(program) is None:
            pytest.skip(f"{program} isn't installed")
    source, program = ROOT / "tests/native/levels.cpp", tmp_path / "levels"
    options = ["-std=c++17", "-pthread", "-I", ROOT / "hyperpq/scan/native", source, "-o", program]
    done = subprocess.run([*compile_with, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    done = subprocess.run([*run_with, program], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "portable agrees"
    assert all(line.endswith(" agrees") for line in lines)
    if way == "arm64":
        assert lines[0] == "neon agrees"
