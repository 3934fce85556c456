"""A build in int8, through processes: what is recorded, and what an index refuses later."""

from __future__ import annotations

import json
import shutil

import pytest

from hyperpq import ImageIndex
from hyperpq.backbones import load_backbone
from hyperpq.errors import BackboneError


@pytest.fixture(scope="module")
def built(hyperpq, drawn, tmp_path_factory):
    folder = tmp_path_factory.mktemp("int8")
    files = sorted(path for path in drawn.rglob("*") if path.suffix in (".png", ".jpg"))
    (folder / "photos").mkdir()
    for number, file in enumerate(files[::6]):
        shutil.copyfile(file, folder / "photos" / f"{number}{file.suffix}")
    command = ["build", "photos", "--epochs", "1", "--view-size", "4", "--bits", "16"]
    # What the trial would find does not matter.
    done = hyperpq(*command, cwd=folder, env={"HYPERPQ_PRECISION": "int8"})
    assert done.returncode == 0, done.stderr.decode()
    return folder, done.stdout.decode()


def test_a_build_says_and_records_what_it_chose(hyperpq, built):
    folder, text = built
    assert "lite0 in int8" in text
    info = json.loads(hyperpq("info", "--json", cwd=folder).stdout)["index"]
    assert (info["backbone"], info["precision"]) == ("lite0", "int8")


def test_queries_use_what_is_recorded(hyperpq, built):
    """Also where another choice is made for new indexes."""
    folder, _ = built
    photo = min((folder / "photos").iterdir())
    env = {"HYPERPQ_PRECISION": "float32"}
    done = hyperpq("query", f"photos/{photo.name}", "-k", "1", "--json", cwd=folder, env=env)
    (answer,) = json.loads(done.stdout)
    (hit,) = answer["results"]
    # The same file has the same integers, and so the same features.
    assert hit["path"].endswith(photo.name)
    assert hit["similarity"] == 100.0


def test_another_precision_is_refused(hyperpq, built):
    folder, _ = built
    done = hyperpq("build", "photos", "--precision", "float32", cwd=folder)
    assert done.returncode == 2
    (line,) = done.stderr.decode().splitlines()
    assert "precision is float32" in line
    assert "was built with int8" in line
    with pytest.raises(BackboneError, match="feature type float32; expected int8"):
        ImageIndex.open(folder / "hyperpq-index", backbone=load_backbone("lite0", device="cpu"))
    done = hyperpq("build", "photos", "--precision", "auto", cwd=folder)
    assert done.returncode == 0, done.stderr.decode()


def test_the_variable_is_checked(hyperpq, built, tmp_path):
    folder, _ = built
    env = {"HYPERPQ_PRECISION": "int4"}
    done = hyperpq("build", folder / "photos", "--index", tmp_path / "x", env=env)
    assert done.returncode == 2
    assert done.stderr.decode().endswith("HYPERPQ_PRECISION is 'int4'; expected float32 or int8.\n")
