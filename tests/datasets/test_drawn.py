"""The drawn set: its files, its reproducibility, and the hierarchy in its pixels."""

from __future__ import annotations

import json
import os
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from hyperpq.datasets.canvas import Canvas, arc
from hyperpq.datasets.drawn import draw_dataset, draw_image, species
from hyperpq.datasets.folder import list_images
from hyperpq.datasets.protocols import class_folders
from hyperpq.errors import DatasetError, InvalidInputError


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn") / "new" / "folder"
    return folder, draw_dataset(folder, 80, size=48, seed=3)


def test_the_tree(drawn):
    folder, description = drawn
    assert len(species()) == len(set(species())) == 36
    tree = description["tree"]
    assert len(tree) >= 3
    for families in tree.values():
        assert 3 <= len(families) <= 4
        for members in families.values():
            assert 2 <= len(members) <= 3
            assert set(members.values()) <= {2, 3}
    assert json.loads((folder / "hierarchy.json").read_text()) == description
    files, labels, names = class_folders(folder)
    assert len(files) == 80
    assert names == sorted(species())
    counts = {name: int(n) for name, n in zip(names, np.bincount(labels), strict=True)}
    for name, count in counts.items():
        kingdom, family, member = name.split("/")
        assert tree[kingdom][family][member] == count
    _, labels, names = class_folders(folder, depth=2)
    assert len(names) == 12
    assert np.bincount(labels).sum() == 80


def test_files_are_images_of_the_announced_kind(drawn):
    folder, _ = drawn
    kinds = Counter()
    for file in list_images([folder]):
        with Image.open(os.fsdecode(file.path)) as image:
            assert (image.mode, image.size) == ("RGB", (48, 48))
            extension = {"JPEG": b".jpg", "PNG": b".png"}[image.format]
            assert file.path.endswith(extension)
            kinds[image.format] += 1
    assert kinds["JPEG"] >= kinds["PNG"] > 20


def test_a_seed_repeats_and_another_differs(drawn, tmp_path):
    folder, description = drawn
    assert draw_dataset(tmp_path, 80, size=48, seed=3) == description
    for file in list_images([folder]):
        name = os.path.relpath(os.fsdecode(file.path), folder)
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    path = "creatures/birds/owl"
    first = np.asarray(draw_image(path, 0, size=48, seed=3), int)
    for number, seed in ((1, 3), (0, 4)):
        other = np.asarray(draw_image(path, number, size=48, seed=seed), int)
        assert np.abs(first - other).mean() > 3
    # A PNG on the disk is the image itself.
    with Image.open(folder / path / "owl-001.png") as image:
        np.testing.assert_array_equal(np.asarray(image), draw_image(path, 1, size=48, seed=3))


def test_the_hierarchy_shows_in_the_pixels():
    """Colour histograms are nearest within a species, then within a family."""
    names = [name for name in species() for _ in range(6)]
    features = []
    for position, name in enumerate(names):
        pixels = np.asarray(draw_image(name, position % 6, size=32)) // 64
        bins = pixels.reshape(-1, 3) @ [16, 4, 1]
        features.append(np.sqrt(np.bincount(bins, minlength=64) / 1024))
    distance = 1 - np.array(features) @ np.array(features).T
    own = np.array(names)[:, None] == np.array(names)
    family = np.array([name.rsplit("/", 1)[0] for name in names])
    kin = (family[:, None] == family) & ~own
    other = family[:, None] != family
    np.fill_diagonal(own, False)
    assert distance[own].mean() < distance[kin].mean() < distance[other].mean()
    np.fill_diagonal(distance, np.inf)
    nearest = np.array(names)[distance.argmin(1)]
    assert (nearest == names).mean() > 0.6


def test_bad_arguments(tmp_path):
    for n, size in ((0, 96), (5, 8), (5, 5000)):
        with pytest.raises(InvalidInputError, match="at least one image of 16 to 1024"):
            draw_dataset(tmp_path, n, size=size)
    (tmp_path / "file").touch()
    with pytest.raises(DatasetError, match="file cannot be written"):
        draw_dataset(tmp_path / "file", 1)
    few = draw_dataset(tmp_path / "few", 2, size=16)
    assert len(list_images([tmp_path / "few"])) == 2
    assert sum(n for f in few["tree"].values() for s in f.values() for n in s.values()) == 2


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_set_is_completed_and_no_file_is_replaced(drawn, tmp_path):
    draw_dataset(tmp_path, 40, size=48, seed=3)
    some = tmp_path / "creatures/birds/owl"
    (some / "owl-000.jpg").write_bytes(b"changed")
    (some / "mine.txt").write_bytes(b"mine")
    next(tmp_path.rglob("*-001.png")).unlink()
    draw_dataset(tmp_path, 80, size=48, seed=3)
    want = {**contents(drawn[0]), "owl-000.jpg": b"changed", "mine.txt": b"mine"}
    assert contents(tmp_path) == want


@pytest.mark.parametrize(
    "options, said",
    [
        ({}, "has other files, such as hierarchy.json; expected a new or empty folder"),
        ({"n": 3}, "has 4 drawn images of size 16 with seed 0; expected a new or empty folder, or"),
        ({"n": 5, "seed": 1}, "has 4 drawn images of size 16 with seed 0; expected"),
        ({"n": 5, "size": 17}, "has 4 drawn images of size 16 with seed 0; expected"),
    ],
)
def test_other_files_are_left_alone(tmp_path, options, said):
    if options:
        draw_dataset(tmp_path, 4, size=16)
    else:
        (tmp_path / "hierarchy.json").write_text('{"my": 1}')
    before = contents(tmp_path)
    with pytest.raises(InvalidInputError, match=said):
        draw_dataset(tmp_path, **{"n": 8, "size": 16, **options})
    assert contents(tmp_path) == before


def test_an_interrupted_drawing_is_completed(tmp_path, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("hyperpq.datasets.drawn.draw_image", interrupted)
        draw_dataset(tmp_path / "set", 3, size=16)
    draw_dataset(tmp_path / "set", 3, size=16)
    draw_dataset(tmp_path / "whole", 3, size=16)
    assert contents(tmp_path / "set") == contents(tmp_path / "whole")


def test_canvas_coordinates():
    canvas = Canvas(100, np.random.default_rng(0))
    red, green = (255, 0, 0), (0, 255, 0)
    canvas.polygon([(0, 0), (1, 0), (1, 1), (0, 1)], red)  # the upper right quarter
    assert canvas.image.getpixel((75, 25)) == red
    assert canvas.image.getpixel((25, 25)) == canvas.image.getpixel((75, 75)) == (0, 0, 0)
    canvas.place(-0.5, -0.5, 0.2, np.pi / 2)
    canvas.line([(0, 0), (2, 0)], 0.3, green)  # turned, it goes up from (25, 75)
    assert canvas.image.getpixel((25, 60)) == green
    assert canvas.image.getpixel((40, 75)) == (0, 0, 0)
    points = arc(1, 2, 3, 4, 0, 0.25)
    np.testing.assert_allclose(points[[0, -1]], [(4, 2), (1, 6)], atol=1e-12)
    colours = [canvas.colour(hue, 1, 1, vary=0) for hue in (0, 1 / 3, 2 / 3, 1 / 6)]
    assert colours == [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)]
    assert canvas.colour(0.3, 0, 0.5, vary=0) == (128, 128, 128)
