"""Builds in processes that can be killed, driven from tests; see forked_builds.py."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def job_server():
    """A function that runs a job of forked_builds.py in a process of its own.

    It takes the folder of the index, the folder of images and the fields of a job, and returns the
    answer with its ``status``, which is -9 if the job was killed.
    """
    script = Path(__file__).with_name("forked_builds.py")
    with subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:

        def run(root, images, **facts):
            facts = {"root": str(root), "images": [str(images)], **facts}
            process.stdin.write(json.dumps(facts) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield run
        process.stdin.close()


def is_step(step, begins):
    """Whether a step is one that begins like that, or is exactly that with ``$`` at its end."""
    return step == begins[:-1] if begins.endswith("$") else step.startswith(begins)


def content(root, name="index"):
    """All files of an index with their bytes; checks that there is nothing beside the index.

    The manifest is without what depends on the place of the index: its folders, seen from there,
    and its own checksum.
    """
    assert [entry.name for entry in root.iterdir()] == [name]
    files = files_of(root / name)
    manifest = json.loads(files["manifest.json"])
    del manifest["checksum"]
    for folder in manifest["settings"]["metadata"]["pictures"]["roots"]:
        del folder["relative"]
    return {**files, "manifest.json": json.dumps(manifest).encode()}


def files_of(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (".lock", ".lock-holder")
    }
