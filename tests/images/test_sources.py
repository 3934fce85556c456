"""Images to search for that are not paths: arrays and images of Pillow."""

from __future__ import annotations

import io
import os
import shutil
import threading

import numpy as np
import pytest
from image_tools import build, fill
from PIL import Image

from hyperpq.errors import InvalidInputError


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """An index of 30 images, and their paths."""
    folder = tmp_path_factory.mktemp("sources")
    index, _ = build([fill(folder / "p", 30)], folder / "index", bits=32)
    return index, sorted((folder / "p").iterdir())


def test_arrays_and_images_are_answered_like_their_files(opened):
    index, paths = opened
    images = [Image.open(path) for path in paths[:4]]
    arrays = [np.asarray(image.convert("RGB")) for image in images]
    want = [answer.results for answer in index.query(paths[:4], 5)]
    assert [answer.results for answer in index.query(arrays, 5)] == want
    assert [answer.results for answer in index.query(np.stack(arrays), 5)] == want
    assert [answer.results for answer in index.query(images, 5)] == want
    mixed = index.query([paths[0], arrays[1], images[2], str(paths[3])], 5)
    assert [answer.results for answer in mixed] == want
    assert [a.query for a in mixed] == [bytes(paths[0]), b"", bytes(paths[2]), bytes(paths[3])]
    for single in (arrays[0], images[0], paths[0]):
        assert [answer.results for answer in index.query(single, 5)] == want[:1]
    np.testing.assert_array_equal(index.encode(arrays).codes, index.encode(paths[:4]).codes)


def test_an_image_of_a_file_excludes_itself(opened):
    index, paths = opened
    image = Image.open(paths[3])
    by_path, by_image, by_array = index.query(
        [paths[3], image, np.asarray(image)], 4, exclude_self=True
    )
    assert by_image == by_path
    assert bytes(paths[3]) not in [result.path for result in by_image.results]
    assert by_array.results[0].path == bytes(paths[3])


def test_an_image_excludes_itself_by_every_path(tmp_path):
    """Through a link to its folder, to itself, and as a hard link; a copy is another file."""
    folder = fill(tmp_path / "b", 8)
    index, _ = build([folder], tmp_path / "index")
    (tmp_path / "al").symlink_to("b")
    (tmp_path / "alone.png").symlink_to("al/003.png")
    os.link(folder / "003.png", tmp_path / "hard.png")
    shutil.copy(folder / "003.png", tmp_path / "copy.png")
    names = ("al/003.png", "alone.png", "hard.png", "b/../al/003.png", "b/003.png")
    for answer in index.query([tmp_path / name for name in names], 3, exclude_self=True):
        assert len(answer.results) == 3
        assert bytes(folder / "003.png") not in [result.path for result in answer.results]
    (answer,) = index.query(tmp_path / "copy.png", 3, exclude_self=True)
    assert answer.results[0].path == bytes(folder / "003.png")


def test_an_image_that_is_indexed_by_several_paths_leaves_k_results(tmp_path):
    folder = fill(tmp_path / "b", 8)
    index, _ = build([folder], tmp_path / "index")
    for i in range(6):
        (tmp_path / f"link{i}").symlink_to("b")
        index, report = build([tmp_path / f"link{i}"], tmp_path / "index")
        assert report.added == 8
    for k in (1, 3, 49, 60):
        (answer,) = index.query(folder / "003.png", k, exclude_self=True)
        assert len(answer.results) == min(k, 7 * 7)
        assert [result.rank for result in answer.results] == list(range(1, min(k, 49) + 1))
        assert all(not result.path.endswith(b"003.png") for result in answer.results)


def test_arrays_of_other_layouts(opened):
    index, paths = opened
    array = np.asarray(Image.open(paths[5]).convert("RGB"))
    want = index.query(array, 5)
    assert index.query(np.asfortranarray(array), 5) == want
    assert index.query(np.repeat(array, 2, axis=0)[::2], 5) == want
    grey = np.asarray(Image.open(paths[5]).convert("L"))
    assert index.query(grey, 5) == index.query(np.stack([grey] * 3, -1), 5)


def test_images_stay_as_they_are(opened):
    index, paths = opened
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.open(paths[0]).convert("RGB").transpose(Image.Transpose.ROTATE_90).save(
        buffer, "PNG", exif=exif
    )
    turned = Image.open(buffer)  # shown upright as the first image is
    assert index.query(turned, 3)[0].results == index.query(paths[0], 3)[0].results
    assert turned.size == (24, 32)
    plain = Image.open(paths[0])
    plain.load()
    before = dict(plain.info)
    index.query(plain, 3)
    assert plain.info == before


def test_an_image_that_is_damaged_has_an_answer(opened):
    index, paths = opened
    torn = Image.open(io.BytesIO(paths[0].read_bytes()[:300]))
    bad, good = index.query([torn, paths[1]], 3)
    assert bad.error == "truncated"
    assert good.results[0].path == bytes(paths[1])


def test_the_same_image_many_times_in_threads(opened):
    """Pillow reads its pixels at the first use, which threads must not do at once."""
    index, paths = opened
    image = Image.open(paths[2])
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.extend(index.query([image] * 20, 3)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    want = index.query(paths[2], 3)[0].results
    assert [answer.results for answer in answers] == [want] * 80


@pytest.mark.parametrize(
    "images, message",
    [
        (None, r"images is of type NoneType; expected a path, an array .* or a sequence of these"),
        (7, "images is of type int"),
        ([None], r"images\[0\] is of type NoneType; expected a path, an array"),
        (["a.png", 1.5], r"images\[1\] is of type float"),
        (np.zeros((4, 4, 3)), r"images has shape \(4, 4, 3\) and dtype float64; expected an array"),
        (np.zeros((4, 4, 4), np.uint8), r"images has shape \(4, 4, 4\) and dtype uint8"),
        (np.zeros((0, 4, 3), np.uint8), r"images has shape \(0, 4, 3\)"),
        ([np.zeros(3, np.uint8)], r"images\[0\] has shape \(3,\)"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\r", r"images is bytes that are no path; .*PIL\.Image\.open"),
    ],
)
def test_what_is_no_image_is_named(opened, images, message):
    index, _ = opened
    for method in (index.query, index.encode):
        with pytest.raises(InvalidInputError, match=message):
            method(images)


def test_no_images(opened):
    index, _ = opened
    assert index.query([]) == []
    assert index.encode([]).codes.shape[0] == 0
