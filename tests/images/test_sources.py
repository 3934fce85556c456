"""Images to search for: paths, contents of files, open files, arrays, images of Pillow."""

from __future__ import annotations

import errno
import io
import os
import shutil
import subprocess
import tempfile
import threading
import types
import zipfile

import numpy as np
import pytest
import torch
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
    assert [a.query for a in mixed] == [str(paths[0]), "", str(paths[2]), str(paths[3])]
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
    assert str(paths[3]) not in [result.path for result in by_image.results]
    assert by_array.results[0].path == str(paths[3])


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
        assert str(folder / "003.png") not in [result.path for result in answer.results]
    (answer,) = index.query(tmp_path / "copy.png", 3, exclude_self=True)
    assert answer.results[0].path == str(folder / "003.png")


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
        assert all(not result.path.endswith("003.png") for result in answer.results)


def test_contents_of_files_are_answered_like_the_files(opened, tmp_path):
    index, paths = opened
    want = [answer.results for answer in index.query(paths[:3], 5)]
    contents = [path.read_bytes() for path in paths[:3]]
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in paths[:3]:
            archive.write(path, f"inside/{path.name}")
    with (
        paths[0].open("rb") as file,
        zipfile.ZipFile(tmp_path / "a.zip") as archive,
        tempfile.SpooledTemporaryFile() as spooled,
        subprocess.Popen(["cat", paths[0]], stdout=subprocess.PIPE) as process,
    ):
        spooled.write(contents[1])  # and it is not at its beginning
        members = [archive.open(f"inside/{path.name}") for path in paths[:3]]
        kinds = {
            "bytes": (contents, ["", "", ""]),
            "bytearray": ([bytearray(contents[0])], [""]),
            "memoryview": ([memoryview(contents[0])], [""]),
            "BytesIO": ([io.BytesIO(contents[0]), io.BytesIO(contents[1])], ["", ""]),
            "file": ([file, file, file], [str(paths[0])] * 3),
            "SpooledTemporaryFile": ([paths[0], spooled], [str(paths[0]), ""]),
            "member": (members, [f"inside/{path.name}" for path in paths[:3]]),
            "pipe": ([process.stdout], [""]),
        }
        for kind, (images, names) in kinds.items():
            answers = index.query(images, 5)
            expected = [want[0]] * 3 if kind == "file" else want[: len(images)]
            assert [answer.results for answer in answers] == expected, kind
            assert [answer.query for answer in answers] == names, kind
        assert index.query(file, 5)[0].results == want[0]
        assert not file.closed
    assert index.query(contents[0], 5)[0].results == want[0]
    assert index.query(iter(paths[:2]), 5) == index.query(paths[:2], 5)
    np.testing.assert_array_equal(index.encode(contents).codes, index.encode(paths[:3]).codes)


def test_bytes_are_never_a_path(opened, monkeypatch):
    """An upload cannot name a file of the server, and who means a path is told."""
    index, paths = opened
    monkeypatch.chdir(paths[0].parent)
    for name in (bytes(paths[0]), paths[0].name.encode(), b"\xff.png"):
        for image in (name, io.BytesIO(name)):
            [answer] = index.query(image, 3)
            assert (answer.query, answer.results) == ("", [])
            assert answer.error.startswith("not an image")
        assert index.query(name)[0].error.endswith("give a path as text")
    by_bytes_of_a_path = next(entry for entry in os.scandir(b".") if entry.name == b"000.png")
    assert index.query(by_bytes_of_a_path, 3)[0].results == index.query(paths[0], 3)[0].results


class Stream(io.BytesIO):
    """A file that can be read once."""

    def seekable(self):
        return False


def test_the_same_stream_twice(opened):
    index, paths = opened
    stream = Stream(paths[2].read_bytes())
    want = index.query(paths[2], 3)[0].results
    assert [answer.results for answer in index.query([stream, stream], 3)] == [want] * 2


class Failing(io.RawIOBase):
    """A file that cannot be read."""

    def __init__(self, error):
        self.error = error

    def readall(self):
        raise self.error

    def readinto(self, buffer):
        raise self.error


def test_contents_that_cannot_be_read_have_an_answer(opened):
    index, paths = opened
    closed = paths[0].open("rb")
    closed.close()
    good = paths[0].read_bytes()
    cases = {
        "empty file": b"",
        "not an image": b"\0" * 100,
        "truncated": good[:300],
        "cannot be read (I/O operation on closed file)": closed,
        "cannot be read (failed)": Failing(OSError(errno.EIO, "Failed")),
        "cannot be read (RuntimeError)": Failing(RuntimeError()),
        "reading it gave str; expected bytes": types.SimpleNamespace(read=lambda: "text"),
    }
    answers = index.query([*cases.values(), good], 3)
    assert [answer.error for answer in answers] == [*cases, None]
    encoded = index.encode([*cases.values(), good])
    assert encoded.skipped == dict(enumerate(cases))
    assert (encoded.rows.tolist(), encoded.paths) == ([len(cases)], [""])
    assert len(encoded.codes) == 1


def test_tensors_and_columns_of_paths(opened):
    index, paths = opened
    array = np.asarray(Image.open(paths[1]).convert("RGB"))
    want = index.query(paths[1], 5)[0].results
    tensor = torch.from_numpy(array.copy())
    assert index.query(tensor, 5)[0].results == want
    assert [a.results for a in index.query([tensor, tensor], 5)] == [want] * 2
    assert [a.results for a in index.query(tensor[None], 5)] == [want]
    names = [str(path) for path in paths[:2]]
    for column in (np.array(names), np.array(names, object), np.array(paths[:2], object)):
        assert index.query(column, 5) == index.query(names, 5)


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
    assert good.results[0].path == str(paths[1])


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


class Upload:
    """A file of a web framework."""

    async def read(self):
        return b""


@pytest.mark.parametrize(
    "images, message",
    [
        (
            object(),
            r"images is of type object; expected a path, .* or a sequence of these",
        ),
        (7, r"images is of type int; .* give ids of images of the index as like="),
        ([3, 4], r"images\[0\] is of type int; .* as like="),
        ([None], r"images\[0\] is of type NoneType; expected a path, the bytes of"),
        (["a.png", 1.5], r"images\[1\] is of type float; .* feature vectors as vectors="),
        (np.zeros(48, np.float32), r"images has shape \(48,\) and dtype float32; .* as vectors="),
        ("a\0.png", "images is a path with a NUL"),
        (io.StringIO("text"), "images is a file that is open as text; expected one .* as bytes"),
        ([Upload()], r"images\[0\] is of type Upload, whose method read has to be awaited"),
        (
            np.zeros((3, 9, 9), np.uint8),
            r"images has shape \(3, 9, 9\) .*transpose\(1, 2, 0\)",
        ),
        (np.zeros((4, 4, 3)), r"images has shape \(4, 4, 3\) and dtype float64; expected an array"),
        (np.zeros((4, 4, 4), np.uint8), r"images has shape \(4, 4, 4\) and dtype uint8"),
        (np.zeros((0, 4, 3), np.uint8), r"images has shape \(0, 4, 3\)"),
        ([np.zeros(3, np.uint8)], r"images\[0\] has shape \(3,\)"),
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
