"""A small collection with copies of each sort, and its index."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("cv2", reason="needs the extra duplicates")
pytest.importorskip("imagehash", reason="needs the extra duplicates")

SIDE = 192


def drawn_image(number: int):
    from hyperpq.datasets.drawn import draw_image, species

    names = species()
    return draw_image(names[5 * number % len(names)], number, size=SIDE)


@pytest.fixture(scope="session")
def originals():
    return [drawn_image(number) for number in range(8)]


@pytest.fixture(scope="session")
def textured():
    """An image with many key points: smooth noise of several scales."""
    from PIL import Image

    rng = np.random.default_rng(0)
    total = np.zeros((SIDE, SIDE))
    for cells in (6, 12, 24, 48):
        noise = rng.uniform(0, 255, (cells, cells)).astype(np.float32)
        large = Image.fromarray(noise).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        total += np.asarray(large) / 4
    grey = np.clip(total, 0, 255).astype(np.uint8)
    return Image.fromarray(np.stack([grey, grey[::-1] // 2 + 64, 255 - grey], axis=2))


@pytest.fixture(scope="session")
def collection(tmp_path_factory, originals, textured) -> Path:
    """photos/ with originals, copies/ with copies of some, and an index of both; not to be changed.

    copies/0.jpg is compressed, 1.png cropped, 2.jpg mirrored; 3.jpg has the bytes of photos/3.png
    in spite of its name. photos/shot-a.png and shot-b.png are two shots of one scene.
    """
    from hyperpq.datasets.augment import view_rng
    from hyperpq.duplicates.copies import make_other_shot
    from hyperpq.images import build_index

    folder = tmp_path_factory.mktemp("duplicates") / "made"
    folder.mkdir()
    for name in ("photos", "copies"):
        (folder / name).mkdir()
    for number, image in enumerate(originals):
        image.save(folder / "photos" / f"{number}.png")
    originals[0].resize((150, 150)).save(folder / "copies" / "0.jpg", quality=60)
    originals[1].crop((12, 8, SIDE - 10, SIDE - 14)).save(folder / "copies" / "1.png")
    originals[2].transpose(0).resize((160, 160)).save(folder / "copies" / "2.jpg", quality=80)
    shutil.copyfile(folder / "photos" / "3.png", folder / "copies" / "3.jpg")
    textured.save(folder / "photos" / "shot-a.png")
    make_other_shot(textured, view_rng(0, b"shot", 4)).save(folder / "photos" / "shot-b.png")
    for path in folder.rglob("*.*"):
        os.utime(path, (1.7e9, 1.7e9))
    roots = [folder / "photos", folder / "copies"]
    build_index(roots, folder / "hyperpq-index", device="cpu", epochs=0)
    # Moved: images of an index whose recorded folders are gone are those beside it, so that copies
    # of the folder have images of their own.
    return folder.rename(folder.with_name("collection"))


@pytest.fixture
def copy(collection, tmp_path) -> Path:
    """A copy of the collection to change."""
    shutil.copytree(collection, tmp_path / "set", copy_function=shutil.copy2)
    return tmp_path / "set"


@pytest.fixture(scope="session")
def work(collection, tmp_path_factory) -> Path:
    """What was found out about the collection; to be used by one test after the other."""
    return tmp_path_factory.mktemp("work") / "work"


@pytest.fixture(scope="session")
def found(collection, work):
    """What is found in the collection."""
    from hyperpq.duplicates import Settings, find
    from hyperpq.images import ImageIndex

    images = ImageIndex.open(collection / "hyperpq-index", device="cpu", read_only=True)
    return find(images, Settings(sample=4, threads=1), work=work)
