"""Without the packages of the extra `train`, everything works but what learns or needs a GPU."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

# Hides packages from imports and from metadata, as if they were not installed.
HIDING = """
import sys

HIDDEN = {"torch", "geoopt", "faiss", "scipy", "efficientnet_lite_pytorch", "faiss_cpu"}

class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HIDDEN:
            return None
        return self.finder.find_spec(name, path, target)
    def find_distributions(self, context):
        found = self.finder.find_distributions(context)
        return (one for one in found if one.metadata["Name"].replace("-", "_") not in HIDDEN)
    def invalidate_caches(self):
        pass

sys.meta_path = [Without(f) if hasattr(f, "find_distributions") else f for f in sys.meta_path]
"""

COMMANDS = """
import contextlib, io, json
from hyperpq.cli.main import run

outcomes = []
for command in json.loads(sys.argv[1]):
    sys.argv = ["hyperpq", *command]
    said = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8")
    with contextlib.redirect_stdout(said[0]), contextlib.redirect_stderr(said[1]):
        try:
            code = run()
        except SystemExit as end:
            code = end.code
    for stream in said:
        stream.flush()
    outcomes.append([code, *(stream.buffer.getvalue().decode() for stream in said)])
print(json.dumps(outcomes))
"""


def program(body, *args, cwd):
    """What a program prints that finds no package for learning."""
    done = subprocess.run(
        [sys.executable, "-c", HIDING + body, *map(str, args)],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def commands(given, cwd):
    """Exit code, output and messages of each command, one after another in one process."""
    words = [[str(word) for word in command] for command in given]
    return json.loads(program(COMMANDS, json.dumps(words), cwd=cwd))


def test_an_index_of_images_is_searched_and_changed(copy, photos):
    index = ("--index", copy / "hyperpq-index")
    (copy / "photos/new.png").write_bytes(photos[0].read_bytes())
    (copy / "other.png").write_bytes(photos[1].read_bytes())
    found = commands(
        [
            ("query", photos[0], *index, "-k", "2", "--format", "paths"),
            ("query", photos[0], *index, "--where", "folder != 'x'", "--device", "cpu"),
            ("ls", *index),
            ("encode", photos[0], "-o", copy / "codes.npy", *index),
            ("build", "photos", *index),
            ("add", copy / "other.png", *index),
            ("map", *index, "-o", copy / "map.html"),
            ("cluster", *index, "-n", "3"),
            ("info", *index, "--html", copy / "report.html"),
            ("forget", copy / "other.png", *index),
            ("remove", *index, "--where", "folder == 'photos'"),
            ("compact", *index),
            ("verify", *index),
            ("export", copy / "rows.npz", *index),
            ("info", *index),
        ],
        copy,
    )
    assert [code for code, _, _ in found] == [0] * len(found), found
    assert found[0][1].splitlines()[0].endswith(photos[0].name)
    assert "added    25\n" in found[4][1]
    assert np.load(copy / "codes.npy").shape == (1, 8)
    info = found[-1][1]
    assert "hyperpq[train]" in info and "curvatures" in info


def test_vectors_are_imported_and_searched(tmp_path):
    from hyperpq import HiHPQIndex

    x = np.random.default_rng(0).normal(size=(300, 16)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    for objective in ("semantic", "fidelity", "balanced"):
        made = HiHPQIndex(16, M=4, objective=objective, device="cpu")
        made.train(x, epochs=1)
        made.add(x)
        made.save(tmp_path / objective)
        wanted = [found.tolist() for found in made.search(x[:3], 4)]
        script = """
import numpy as np
from hyperpq import HiHPQIndex
index = HiHPQIndex.load(sys.argv[1])
x = np.load("x.npy")
D, I = index.search(x[:3], 4)
print(json.dumps([D.tolist(), I.tolist()]))
other = HiHPQIndex.load(sys.argv[1])
index.merge_from(other, 1000)
assert index.ntotal == 600 and index.device == "cpu"
"""
        found = program("import json" + script, objective, cwd=tmp_path)
        assert json.loads(found) == wanted
    again = commands([("import", "x.npy", "--index", "semantic", "--again")], tmp_path)
    assert again[0][0] == 0, again


INSTALL = "install it with `pip install 'hyperpq[train]'`."


def test_what_learns_says_what_to_install(copy, tmp_path):
    index = ("--index", copy / "hyperpq-index")
    np.save(copy / "x.npy", np.zeros((200, 4), np.float32))
    found = commands(
        [
            ("build", "photos", "--index", "new"),
            (
                "build",
                "photos",
                "--index",
                "new",
                "--codec",
                copy / "hyperpq-index",
                "--bits",
                "16",
            ),
            ("build", "photos", "--index", "new", "--backbone", "timm:resnet18"),
            ("update", "--relearn", *index),
            ("finetune", *index),
            ("train", "x.npy", "--index", "new"),
            ("import", "x.npy", "--index", "new"),
            ("query", "--device", "cuda", "x.npy", *index),
        ],
        copy,
    )
    for code, out, said in found:
        assert (code, out) == (1, ""), found
        assert said.startswith("hyperpq: error: "), said
        assert said.count("\n") == 1
        assert " need PyTorch, which is not installed; " in said or "on a GPU need torch" in said
    assert all(said.endswith(f"{INSTALL}\n") for _, _, said in found[:-1])
    assert found[-1][2].endswith("`pip install 'hyperpq[gpu]'`.\n")
    # Nothing was begun.
    assert not list(copy.glob("new*"))


def test_an_update_that_would_learn_goes_on_without(copy):
    """It says what is missing, and adds the images all the same."""
    script = """
import logging, types
logging.basicConfig(format="%(message)s")
from hyperpq import ImageIndex
from hyperpq.images import relearning
images = ImageIndex.open("hyperpq-index", device="cpu")
relearning.POLICY = relearning.RelearnPolicy((relearning.Limits(10**9, 0.0, 2.0),))
print(relearning.relearn_if_needed(images.index))
"""
    done = subprocess.run(
        [sys.executable, "-c", HIDING + script], capture_output=True, text=True, cwd=copy
    )
    assert done.stdout == "None\n", done.stderr
    assert "could not learn again and stays as it was" in done.stderr
    assert done.stderr.endswith(f"{INSTALL}\n")


@pytest.mark.parametrize(
    "name",
    [
        "hyperpq.HiHPQCodec",
        "hyperpq.PQCodec",
        "hyperpq.ProductQuantizer",
        "hyperpq.training.train_codec",
    ],
)
def test_public_names_that_need_pytorch_say_so(name, tmp_path):
    module, _, attribute = name.rpartition(".")
    script = f"""
from hyperpq.errors import MissingDependencyError
try:
    from {module} import {attribute}
except MissingDependencyError as error:
    print(error)
"""
    said = program(script, cwd=tmp_path)
    assert said == f"{attribute} needs torch (No module named 'torch'); {INSTALL}\n"
