"""An `ImageIndex` that serves: changed while it is open, and shared by threads."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from image_tools import Grid, build, fill, image

from hyperpq import ImageIndex
from hyperpq.errors import InvalidInputError, StoreError
from hyperpq.images import additions


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """An index of 20 images, that tests copy."""
    folder = tmp_path_factory.mktemp("origin")
    index, _ = build([fill(folder / "p", 20)], folder / "index", bits=32)
    return index, folder / "p"


@pytest.fixture
def opened(origin, tmp_path):
    """A copy of the index, and the folder of its images."""
    index, folder = origin
    index.index.clone().save(tmp_path / "index")
    return ImageIndex.open(tmp_path / "index", backbone=Grid(), device="cpu"), folder


def content(seed):
    buffer = io.BytesIO()
    image(seed).save(buffer, "PNG")
    return buffer.getvalue()


def names(index):
    return {os.path.basename(path) for path in index.paths()}


# Adding


def test_images_without_files_are_added_by_their_names(opened):
    index, folder = opened
    array = np.asarray(image(101).convert("RGB"))
    given = [content(100), array, image(102), io.BytesIO(content(103)), folder / "003.png"]
    added = index.add(given, ["a/b", "bytes", "pil", "file", None])
    assert added.ids.tolist() == [20, 21, 22, 23, 3]
    assert added.skipped == {}
    assert len(index) == 24
    for source, id, name in zip(given[:3], (20, 21, 22), ("a/b", "bytes", "pil"), strict=True):
        [answer] = index.query(source, 1)
        assert (answer.results[0].id, answer.results[0].path) == (id, name)
    found = index.query(like=[20, 21, 23], k=1)
    shown = [dict(answer.results[0].attributes) for answer in found]
    assert [one["folder"] for one in shown] == ["a", "", ""]
    assert [one["size"] for one in shown] == [len(content(100)), 0, len(content(103))]
    assert {(one["width"], one["height"]) for one in shown} == {(32, 24)}
    again = ImageIndex.open(index.index.path, backbone=Grid(), device="cpu")
    assert again.query(content(100), 3) == index.query(content(100), 3)
    # They are no files, and so none that are gone.
    assert index.query(content(100), 1, existing=True)[0].results[0].id == 20
    assert index.forget(missing=True).removed == 0
    assert index.update(folder).removed == 0
    assert index.remove(ids=[21, 99]) == 1
    assert "bytes" not in index.paths()
    assert index.remove(where="path == 'pil'") == 1
    assert index.add([]).ids.tolist() == []


@pytest.mark.parametrize("few", [64, 1])
def test_an_image_with_a_known_name_takes_its_place(opened, tmp_path, monkeypatch, few):
    """However the names are looked up; names with quotes and bytes that are no Unicode, too."""
    monkeypatch.setattr(additions, "_FEW", few)
    index, _ = opened
    odd = os.fsdecode(b"caf\xe9 'x' \"y\" \\ \n")
    (path := tmp_path / "new.png").write_bytes(content(50))
    first = index.add([content(60), content(61), path], [odd, "b", None])
    assert first.ids.tolist() == [20, 21, 22]
    second = index.add([path, content(62), content(61)], [None, odd, "c"])
    assert second.ids.tolist() == [22, 23, 24]
    assert len(index) == 24
    assert index.query(content(62), 1)[0].results[0].path == odd
    seen = index.backbone.seen
    assert index.add(path).ids.tolist() == [22]
    assert index.backbone.seen == seen
    path.write_bytes(content(51))
    os.utime(path, (5, 5))
    assert index.add([path, content(63)], [None, "d"]).ids.tolist() == [25, 26]
    assert len(index) == 25
    [answer] = index.query(content(51), 1)
    assert (answer.results[0].id, answer.results[0].path) == (25, str(path))
    assert answer.results[0].attributes["mtime"] == np.datetime64(5, "s")


def test_images_that_cannot_be_read_are_named_by_their_positions(opened, tmp_path):
    index, folder = opened
    given = [b"text", content(70), tmp_path / "gone.png", folder / "001.png", b"\0" * 9]
    added = index.add(given, ["x", "y", None, None, "z"])
    assert added.ids.tolist() == [-1, 20, -1, 1, -1]
    assert list(added.skipped) == [0, 2, 4]
    assert added.skipped[2] == "no such file"
    assert len(index) == 21
    # What is there stays if its new content cannot be read.
    assert index.add(b"text", "y").ids.tolist() == [-1]
    assert index.query(content(70), 1)[0].results[0].path == "y"


def test_more_images_than_a_commit_holds(opened, monkeypatch):
    index, _ = opened
    monkeypatch.setattr(additions, "SEGMENT_SIZE", 3)
    before = index.index.collection.snapshot
    added = index.add([content(i) for i in range(80, 88)], [f"n{i}" for i in range(8)])
    assert added.ids.tolist() == list(range(20, 28))
    assert index.index.collection.snapshot == before + 3


def test_images_of_an_iterator_are_asked_for_in_parts(opened, monkeypatch, tmp_path):
    """Its items are images or batches of them, and what it holds is not kept."""
    index, folder = opened
    monkeypatch.setattr(additions, "SEGMENT_SIZE", 3)
    before, asked = index.index.collection.snapshot, []

    def images():
        yield content(80)
        yield [content(81), folder / "003.png", b"text"]
        for i in range(82, 100):
            asked.append((i, len(index)))
            yield [content(i)]
        yield []

    added = index.add(images(), (f"n{i}" if i != 2 else None for i in range(22)))
    assert added.ids.tolist() == [20, 21, 3, -1, *range(22, 40)]
    assert list(added.skipped) == [3]
    assert index.index.collection.snapshot == before + 8
    # A few transactions are read ahead of the one that is written.
    assert all(i - 82 <= n - 20 + 18 for i, n in asked)
    assert asked[-1][1] > 20
    again = index.add(iter([folder / "003.png", content(80)]), iter([None, "n0"]))
    assert again.ids.tolist() == [3, 40]
    assert len(index) == 40
    (path := tmp_path / "one.png").write_bytes(content(50))
    with open(path, "rb") as file:
        assert index.add(file, "open").ids.tolist() == [41]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["a", "b", "c", "d"], "names has 4 names; expected 5, one for each image"),
        ([*"abcdef"], "names has 'f' behind the names of all 5 images; expected one name for each"),
        ([*"abcdd"], r"images\[3\] and images\[4\] have the name 'd'"),
        (None, r"images\[0\] is not given by a path and has no name"),
    ],
)
def test_names_that_do_not_fit_an_iterator(opened, monkeypatch, given, message):
    index, _ = opened
    monkeypatch.setattr(additions, "SEGMENT_SIZE", 3)
    with pytest.raises(InvalidInputError, match=message):
        index.add((content(i) for i in range(80, 85)), given)


@pytest.mark.parametrize(
    ("images", "given", "message"),
    [
        ([b""], None, r"images\[0\] is not given by a path and has no name; expected a text"),
        ([b"", "p.png"], ["a"], "names has 1 names; expected 2, one for each image"),
        ([b"", b""], ["a", "a"], r"images\[0\] and images\[1\] have the name 'a'"),
        (["p.png", "./p.png"], None, r"images\[0\] and images\[1\] have the name '.*/p.png'"),
        ([b""], [""], r"names\[0\] is ''; expected a text that is not empty"),
        ([b""], [3], r"names\[0\] is 3; expected a text"),
        ([b""], ["::/a"], r"names\[0\] is '::/a'; expected no colon before a /"),
        ([3], ["a"], r"images\[0\] is of type int"),
    ],
)
def test_names_that_cannot_be_given(opened, images, given, message):
    index, _ = opened
    with pytest.raises(InvalidInputError, match=message):
        index.add(images, given)
    assert len(index) == 20


def test_nothing_is_removed_without_being_named(opened):
    with pytest.raises(InvalidInputError, match="neither below, ids nor where is given"):
        opened[0].remove()


def test_an_index_that_was_opened_to_be_read_refuses_changes(opened):
    index, _ = opened
    reader = ImageIndex.open(index.index.path, backbone=Grid(), device="cpu", read_only=True)
    for change in (
        lambda: reader.add(content(1), "a"),
        lambda: reader.update(),
        lambda: reader.remove("/"),
        lambda: reader.forget(missing=True),
    ):
        with pytest.raises(StoreError, match="opened read-only"):
            change()
    assert reader.query(content(1), 1)[0].results[0].id == 1


def test_a_codec_that_was_learned_from_half_of_the_images_is_warned_of_once(opened, caplog):
    """And learning again from the kept features needs no image."""
    index, _ = opened
    for start in range(600, 635, 7):
        seeds = range(start, start + 7)
        index.add([content(i) for i in seeds], [f"n{i}" for i in seeds])
    assert len(index) == 55
    said = [r.getMessage() for r in caplog.records if "retrain()" in r.getMessage()]
    assert said == [
        "the index learned from 20 images and has 41 now, so its results are worse than they could "
        "be; call retrain()."
    ]
    reader = ImageIndex.open(index.index.path, backbone=Grid(), device="cpu")
    seen = index.backbone.seen
    index.retrain(epochs=0, progress=False)
    assert index.backbone.seen == seen
    assert index.index.training.n == 55
    assert [r.path for r in index.query(content(620), 1)[0].results] == ["n620"]
    assert reader.index.training.n == 20
    assert reader.refresh()
    assert reader.query(content(620), 5) == index.query(content(620), 5)


# Changes that others make


def test_a_reader_follows_when_it_refreshes(opened):
    index, _ = opened
    reader = ImageIndex.open(index.index.path, backbone=Grid(), device="cpu")
    index.add(content(200), "new")
    assert index.refresh() is False
    assert len(reader) == 20
    assert reader.refresh() is True
    assert reader.refresh() is False
    assert reader.query(content(200), 1)[0].results[0].path == "new"


def test_update_follows_the_recorded_folders(tmp_path):
    folder = fill(tmp_path / "p", 6)
    index, _ = build([folder], tmp_path / "index", bits=16)
    image(6).save(folder / "006.png")
    (folder / "000.png").unlink()
    report = index.update()
    assert (report.added, report.removed, report.images) == (1, 1, 6)
    assert names(index) == {f"00{i}.png" for i in range(1, 7)}
    other = fill(tmp_path / "q", 2, start=10)
    assert index.update(other).added == 2
    assert len(index) == 8


# Threads


def test_threads_query_while_others_change_the_index(opened, tmp_path):
    """Every answer is that of one snapshot: ids, paths and attributes belong together."""
    index, folder = opened
    queries = [content(i) for i in range(3)]
    done = threading.Event()
    failures = []

    def ask():
        while not done.is_set():
            for answer in index.query(queries, 25, threads=1, workers=1):
                found = [result.path for result in answer.results]
                if answer.error or not 20 <= len(found) == len(set(found)) <= 25:
                    failures.append(answer)
                for result in answer.results:
                    folder_name = os.path.basename(os.path.dirname(result.path))
                    failures.extend([result] * (result.attributes["folder"] != folder_name))

    def follow():
        reader = ImageIndex.open(index.index.path, backbone=Grid(), device="cpu")
        while not done.is_set():
            reader.refresh()
            [answer] = reader.query(queries[0], 30, workers=1)
            if not 20 <= len(answer.results) <= 25:
                failures.append(answer)

    threads = [threading.Thread(target=ask) for _ in range(2)] + [threading.Thread(target=follow)]
    for thread in threads:
        thread.start()
    try:
        for number in range(6):
            added = index.add([content(300 + i) for i in range(5)], [f"new-{i}" for i in range(5)])
            assert (added.ids >= 20).all()
            index.refresh()
            if number % 2:
                assert index.remove(ids=added.ids) == 5
                index.update(folder)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert failures == []


def test_threads_that_change_an_index_take_turns(opened):
    index, _ = opened
    with ThreadPoolExecutor(4) as pool:
        added = list(
            pool.map(lambda i: index.add([content(400 + i)], [f"t{i}"], workers=1), range(12))
        )
    ids = [int(one.ids[0]) for one in added]
    assert sorted(ids) == list(range(20, 32))
    assert len(index) == 32
    for i, id in enumerate(ids):
        result = index.query(content(400 + i), 1)[0].results[0]
        assert (result.id, result.path) == (id, f"t{i}")


def test_threads_load_the_network_once(opened, monkeypatch):
    index, _ = opened
    loaded = []

    def load(name, **_):
        loaded.append(name)
        threading.Event().wait(0.05)  # other threads come here, too, if they may
        return Grid()

    monkeypatch.setattr("hyperpq.backbones.load_backbone", load)
    shared = ImageIndex.open(index.index.path, device="cpu")
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: shared.query(content(1), 3), range(4)))
    assert loaded == ["lite0"]
    assert all(answer == answers[0] for answer in answers)


# Processes

SCRIPT = """
import os, sys, threading
sys.path.insert(0, sys.argv[1])
import numpy as np
from image_tools import Grid, image
from hyperpq import ImageIndex

def pixels(seed):
    return np.asarray(image(seed))

def serve(index, seed):
    \"\"\"What a worker does: answer, add, follow.\"\"\"
    found = index.query(pixels(1), 20)[0]
    [id] = index.add(pixels(seed), f"worker-{seed}", workers=1).ids
    index.refresh()
    [own] = index.query(pixels(seed), 1)[0].results
    assert (own.id, own.path) == (id, f"worker-{seed}"), own
    return found.to_json()

def forked(index):
    stop, failures = threading.Event(), []
    def ask():
        while not stop.is_set():
            if not index.query(pixels(1), 20, workers=1)[0].to_json():
                failures.append(1)
    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    children = []
    for seed in range(500, 503):
        child = os.fork()
        if not child:
            os._exit(0 if serve(index, seed) else 1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 3
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures

if __name__ == "__main__":
    index = ImageIndex.open(sys.argv[2], backbone=Grid(), device="cpu")
    index.query(pixels(1), 20)
    forked(index)
    assert index.refresh()
    assert {f"worker-{seed}" for seed in range(500, 503)} <= set(index.paths())
    assert len(index) == 23
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_workers_answer_and_change_the_index(opened, tmp_path):
    """While threads of the parent query; `test_processes` has the other ways to start workers."""
    index, _ = opened
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, script, Path(__file__).parent, index.index.path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stderr) == (0, "")
