"""Builds in forked processes that kill themselves at a chosen step; run by test_build_kill.py.

One process imports everything once and forks for each job that it reads, a JSON object a line; it
answers with a JSON object a line. A step is a change of a name in the file system (a rename, a
link, a removal, a new or a removed folder), seen through Python's audit hooks: whatever comes
between two steps only writes into files that have no final name yet.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys

import numpy as np
from build_jobs import is_step

from hyperpq.backbones.base import Backbone
from hyperpq.datasets.preprocessing import Preprocessing
from hyperpq.errors import HyperPQError
from hyperpq.images import build, image_index, updater
from hyperpq.images.build import stages

# These are imported before the forks, as each child would import them again.
for name in (
    "torch._dynamo",
    "faiss",
    "geoopt",
    "h5py",
    "safetensors.torch",
    "PIL.Image",
):
    importlib.import_module(name)
for name in (
    *("backbones", "codec", "codec.serialization", "store.hdf5_layout", "datasets.augment"),
    *("training.train", "training.feature_views", "training.finalize", "training.reconstruction"),
    *("geometry.lorentz", "images.build.pipeline", "images.build.update"),
):
    importlib.import_module(f"hyperpq.{name}")

SIDE = 16
# A few dozen images then have several batches and segments.
stages.SAMPLE_BATCH_SIZE = 8
stages.SEGMENT_SIZE = updater.SEGMENT_SIZE = 8


class Grid(Backbone):
    """Mean colour of each of 4 x 4 cells."""

    def __init__(self):
        prep = Preprocessing(SIDE, "squash", 1.0, "bicubic")
        super().__init__("lite0", 48, prep, "0" * 32, "cpu", mean=None, std=None)

    def _features(self, pixels):
        cells = pixels.reshape(len(pixels), 4, SIDE // 4, 4, SIDE // 4, 3)
        return cells.mean((2, 4), dtype=np.float64).reshape(len(pixels), 48).astype(np.float32)


def count_steps(root, kill, log):
    """Call ``log`` with each step below ``root``; die before the one that ``kill`` names."""
    seen = [0]

    def hook(event, args):
        if event not in ("os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir"):
            return
        path = os.fsdecode(args[1] if event in ("os.rename", "os.link") else args[0])
        if os.path.isabs(path) and not path.startswith(root):
            return
        step = f"{event[3:]} {path.removeprefix(root)}"
        if kill is not None and (isinstance(kill, int) or is_step(step, kill[0])):
            if seen[0] == (kill if isinstance(kill, int) else kill[1]):
                os.kill(os.getpid(), signal.SIGKILL)
            seen[0] += 1
        log(step)

    sys.addaudithook(hook)


def job(root, images, name="index", kill=None, inside=False, answer=None, **options):
    """Build an index, or answer queries; ``inside`` makes the index the current directory."""
    steps, error = [], None
    if inside:
        os.chdir(os.path.join(root, name))
    count_steps(root, kill, steps.append)
    try:
        if answer:
            index = image_index.ImageIndex.open(os.path.join(root, name), backbone=Grid())
            found = index.query(answer, 3)
            steps = [[os.fsdecode(r.path) for r in a.results] for a in found]
        else:
            path = os.path.join(root, name)
            build.build_index(images, path, device="cpu", backbone=Grid(), **options)
    except HyperPQError as raised:
        error = f"{type(raised).__name__}: {raised}"
    return {"steps": steps, "error": error}


def main():
    for line in sys.stdin:
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.close(reader)
            with open(writer, "w") as file:
                json.dump(job(**json.loads(line)), file)
            os._exit(0)
        os.close(writer)
        with open(reader) as file:
            text = file.read()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps({"status": status, **(json.loads(text) if text else {})}), flush=True)


if __name__ == "__main__":
    main()
