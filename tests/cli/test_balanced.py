"""``--objective balanced`` in one process, and the index that it leaves."""

from __future__ import annotations

from hyperpq import HiHPQIndex
from hyperpq.codec.balanced import BalancedCodec
from hyperpq.diagnostics import describe_index


def test_a_build_of_images(hyperpq, photos, tmp_path):
    options = [
        "--objective",
        "balanced",
        "--bits",
        "16",
        "--epochs",
        "0",
        "--view-size",
        "1",
        "--index",
        tmp_path / "i",
    ]
    done = hyperpq("build", photos[0].parents[1], *options)
    assert done.returncode == 0, done.stderr.decode()
    index = HiHPQIndex.load(tmp_path / "i", device="cpu")
    assert isinstance(index.codec, BalancedCodec)
    assert (index.objective, index.M, index.ntotal) == ("balanced", 2, len(photos))
    facts = describe_index(tmp_path / "i")
    assert (facts["objective"], facts["metric"]) == ("balanced", "balanced")


def test_one_byte_is_too_few(hyperpq, photos, tmp_path):
    options = ["--objective", "balanced", "--bits", "8", "--index", tmp_path / "i"]
    done = hyperpq("build", photos[0].parents[1], *options)
    assert done.returncode in (1, 2)
    lines = done.stderr.decode().splitlines()
    assert any("at least 2 codes" in line and "16 bits or more" in line for line in lines)
    assert "Traceback" not in done.stderr.decode()
    assert not (tmp_path / "i").exists()
