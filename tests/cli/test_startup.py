"""Commands that need no model do not import heavy packages."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"torch", "numpy", "faiss", "onnxruntime", "h5py", "PIL", "rich", "safetensors"}

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


def test_a_query_by_an_image_needs_no_pytorch_on_a_cpu(place, photos):
    index = str(place / "hyperpq-index")
    args = ["query", str(photos[0]), "--index", index, "--device", "cpu", "-k", "3"]
    command = [sys.executable, "-c", PROGRAM, *args]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert str(photos[0].name) in done.stdout
    loaded = {name.partition(".")[0] for name in done.stderr.rpartition("loaded:")[2].split()}
    assert "onnxruntime" in loaded
    assert loaded & {"torch", "geoopt", "faiss", "scipy"} == set()
