"""Commands that need no model do not import heavy packages."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"torch", "numpy", "faiss", "onnxruntime", "h5py", "PIL", "rich", "safetensors", "fastapi"}

PROGRAM = """
import sys
sys.argv = ["hyperpq", *sys.argv[1:]]
from hyperpq.cli.main import run
try:
    run()
finally:
    print("loaded:", *sys.modules, file=sys.stderr)
"""


@pytest.mark.parametrize(
    "args",
    [
        ("--help",),
        ("--version",),
        ("build", "--help"),
        ("query", "--help"),
        ("info", "--help"),
        ("import", "--help"),
        ("export", "--help"),
        ("serve", "--help"),
        ("completion", "bash"),
        ("query",),
        ("build", "--images", "x", "--recipe", "none"),
    ],
    ids=" ".join,
)
def test_nothing_heavy_is_loaded(args):
    done = subprocess.run([sys.executable, "-c", PROGRAM, *args], capture_output=True, text=True)
    loaded = {name.partition(".")[0] for name in done.stderr.rpartition("loaded:")[2].split()}
    assert "hyperpq" in loaded
    assert loaded & HEAVY == set()


@pytest.mark.parametrize(
    "args",
    [
        ("query", "gone.jpg", "--index", "I"),
        ("query", "P", "--index", "gone"),
        ("query", "gone.npy", "--index", "I"),
        ("encode", "gone.jpg", "-o", "codes.npy", "--index", "I"),
        ("build", "gone", "--index", "new"),
        ("build", "gone", "--index", "I"),
        ("add", "gone", "--index", "I"),
        ("import", "gone.npy", "--index", "I"),
        ("train", "gone.npy", "--index", "new"),
        ("ls", "--index", "I"),
    ],
    ids=lambda args: " ".join(args[:2]),
)
def test_a_wrong_path_is_refused_before_pytorch_is_loaded(args, place, photos, tmp_path):
    """Loading it takes seconds. Nor does a list of images need it."""
    words = {"I": str(place / "hyperpq-index"), "P": str(photos[0])}
    command = [sys.executable, "-c", PROGRAM, *(words.get(word, word) for word in args)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    said, _, modules = done.stderr.rpartition("loaded:")
    assert ("error: " in said or "no such file" in said) == (args[0] != "ls")
    loaded = {name.partition(".")[0] for name in modules.split()}
    assert loaded & {"torch", "geoopt", "faiss", "onnxruntime", "scipy"} == set()
    assert list(tmp_path.iterdir()) == []


def test_importing_the_package_loads_nothing_heavy():
    program = "import sys, hyperpq; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert {name.partition(".")[0] for name in done.stdout.split()} & HEAVY == set()


def test_every_command_has_help(hyperpq):
    from hyperpq.cli.main import COMMANDS

    overview = hyperpq("--help").stdout.decode()
    for name in COMMANDS:
        text = hyperpq(name, "-h").stdout.decode()
        assert text.startswith(f"Usage: hyperpq {name}")
        assert f"  {name} " in overview


def test_version(hyperpq):
    from hyperpq import __version__

    assert hyperpq("--version").stdout.decode() == f"hyperpq, version {__version__}\n"


def loaded_by(*args):
    """Top-level modules that a command has loaded at its end, and what it printed."""
    command = [sys.executable, "-c", PROGRAM, *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said, _, modules = done.stderr.rpartition("loaded:")
    assert "error: " not in said, said
    return {name.partition(".")[0] for name in modules.split()}, done.stdout


LEARNING = {"torch", "geoopt", "faiss", "scipy", "efficientnet_lite_pytorch"}


def test_a_query_by_an_image_needs_no_pytorch_on_a_cpu(place, photos):
    index = ("--index", place / "hyperpq-index")
    loaded, out = loaded_by("query", photos[0], *index, "--device", "cpu", "-k", "3")
    assert photos[0].name in out
    assert "onnxruntime" in loaded
    assert loaded & LEARNING == set()


@pytest.mark.parametrize(
    ("args", "network"),
    [
        ("info --index I", False),
        ("verify --index I", False),
        ("export rows.npz --index I", False),
        ("remove --where width<0 --index I", False),
        ("forget O --index I", False),
        ("compact --index I", False),
        ("encode P -o codes.npy --index I", True),
        ("build photos --no-relearn --index I", True),
        ("add P --no-relearn --index I", True),
    ],
)
def test_what_learns_nothing_loads_no_pytorch(args, network, copy, photos, monkeypatch):
    monkeypatch.chdir(copy)
    photo = next((copy / "photos").rglob("*.jpg"))
    words = {"I": copy / "hyperpq-index", "P": photo, "O": photos[0]}
    loaded, _ = loaded_by(*(words.get(word, word) for word in args.split()))
    assert loaded & LEARNING == set()
    assert ("onnxruntime" in loaded) == network
