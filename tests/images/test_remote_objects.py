"""Objects at URLs: which count as images, what they take in memory, and their names."""

from __future__ import annotations

import os
import signal
import threading
import tracemalloc
from concurrent.futures import CancelledError, ThreadPoolExecutor
from datetime import datetime, timezone

import pytest
from image_tools import build, image, paths_of
from remote_tools import URL, names

from hyperpq.datasets import remote_source
from hyperpq.datasets.file_source import open_file
from hyperpq.datasets.folder import scan_roots
from hyperpq.datasets.listing import Listing
from hyperpq.datasets.remote_source import RemoteSource
from hyperpq.images import reading_ahead
from hyperpq.images.build import PathList
from hyperpq.images.reading_ahead import ReadingAhead


def test_what_an_object_is_does_not_depend_on_how_it_is_named(stored, tmp_path, monkeypatch):
    png = stored.cat_file("/photos/set/0/000.png")
    large, most = png + bytes(2000), len(png) + 100
    objects = {"s.tar": large, "large.png": large, "image": png, "words": b"text", "a.psd": b"8"}
    for name, data in objects.items():
        stored.pipe_file(f"/photos/new/{name}", data)
    monkeypatch.setattr(RemoteSource, "max_bytes", most)
    urls = [f"memory://photos/new/{name}" for name in objects]
    (tmp_path / "list").write_text("\n".join(urls))
    listed = Listing()
    listed.files = [*PathList(tmp_path / "list").images(listed, lambda n: None)]
    for found in (scan_roots(["memory://photos/new"]), scan_roots(urls), listed):
        assert [file.path for file in found.files] == [b"memory://photos/new/image"]
        assert {path.decode(): why for path, why in found.skipped.items()} == {
            urls[1]: "larger than 0 MiB",
            urls[4]: "images of the format PSD are not read",
        }
        assert found.other == {".tar": 1, "": 1}
    asked, real = [], type(stored).cat_file

    def read(self, path, start=None, end=None, **options):
        asked.append(end)
        return real(self, path, start, end, **options)

    monkeypatch.setattr(type(stored), "cat_file", read)
    with pytest.raises(OSError, match="larger than 0 MiB"):
        open_file(urls[1])
    assert asked == [most + 1]


class Decoder:
    """Keeps what it gets."""

    def __init__(self):
        self.sources = []

    def submit(self, sources):
        self.sources.extend(sources)

    def close(self):
        pass


def test_large_objects_are_not_together_in_memory(memory, monkeypatch):
    sizes = [10, 20, 30, 300, 300, 300, 2000, 300, 300, 5, 300, 300]
    monkeypatch.setattr(reading_ahead, "_MAX_BYTES", 1000)
    monkeypatch.setattr(reading_ahead, "_FIRST", 100)
    small, large, lock = threading.Barrier(3), threading.Barrier(3), threading.Lock()
    held, started = {}, []
    for number, size in enumerate(sizes):
        memory.pipe_file(f"/photos/{number}", bytes(size))
    start, read = RemoteSource.start, RemoteSource.read

    def slow_start(self, path, size):
        # Small objects are read side by side, and so are as many large ones as the budget allows.
        if path.rpartition(b"/")[2] in b"012":
            small.wait(60)
        return start(self, path, size)

    def slow_read(self, path):
        with lock:
            started.append(int(path.rpartition(b"/")[2]))
            held[started[-1]] = sizes[started[-1]]
            assert sum(held.values()) <= 1000 + 2000
            is_early = len(started) <= 3
        if is_early:
            large.wait(60)
        return read(self, path)

    monkeypatch.setattr(RemoteSource, "start", slow_start)
    monkeypatch.setattr(RemoteSource, "read", slow_read)
    decoder = Decoder()
    ahead = ReadingAhead(decoder)
    ahead.submit([b"memory://photos/%d" % number for number in range(len(sizes))])
    for number, asked in enumerate(decoder.sources):
        assert asked.read().getvalue() == bytes(sizes[number])
        with lock:
            held.pop(number, None)
        asked.drop()
    ahead.close()
    assert not small.broken and not large.broken


def test_what_waits_for_the_budget_ends_with_the_reading():
    budget = reading_ahead._ByteBudget(100)
    first, second = budget.enter(), budget.enter()
    budget.take(first, 60)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(budget.take, second, 50)
        budget.close()
        with pytest.raises(CancelledError):
            waiting.result(60)


def test_a_listing_keeps_little_of_what_the_storage_says(stored, monkeypatch):
    def ls(self, path, **options):
        return [
            {
                "name": f"/photos/set/{number:030}.png",
                "type": "file",
                "size": 10**6 + number,
                "LastModified": datetime.fromtimestamp(10**9 + number, timezone.utc),
                "ETag": f"{number:0128}",
            }
            for number in range(2000)
        ]

    monkeypatch.setattr(type(stored), "ls", ls)
    tracemalloc.start()
    entries = RemoteSource().entries(URL.encode(), Listing())
    assert next(entries).size == 10**6
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert used < 2000 * 400


def test_keys_with_empty_parts_and_colons(bucket, tmp_path):
    import boto3

    client = boto3.client("s3")
    image(1).save(tmp_path / "one.png")
    data = (tmp_path / "one.png").read_bytes()
    for key in ("p/ok.png", "p//double.png", "p/a::b.png", "p/empty.png", "p/folder/", "p/"):
        body = b"" if key.endswith("/") or "empty" in key else data
        client.put_object(Bucket=bucket, Key=key, Body=body)
    root = f"s3://{bucket}/p"
    found = scan_roots([root])
    assert [file.path.decode() for file in found.files] == [
        f"{root}/{name}.png" for name in ("a::b", "empty", "ok")
    ]
    why = "names with an empty part (//) or a NUL are not listed"
    assert found.skipped == {f"{root}/".encode(): why}
    assert found.unknown == {f"{root}/".encode()}
    assert [open_file(file.path).read() for file in found.files] == [data, b"", data]
    # It can be named.
    (single,) = scan_roots([f"{root}//double.png"]).files
    assert single.path == f"{root}//double.png".encode()
    assert open_file(single.path).read() == data
    lines = [f"{root}/a::b.png", f"{root}//double.png", "s3://", "s3://a::b/c.png", f"{root}/none"]
    (tmp_path / "list").write_text("\n".join(lines))
    report = Listing()
    listed = [*PathList(tmp_path / "list").images(report, lambda n: None)]
    assert [file.path.decode() for file in listed] == lines[:2]
    assert [path.decode() for path in report.skipped] == lines[2:]
    images, _ = build(PathList(tmp_path / "list"), tmp_path / "index", bits=16)
    assert paths_of(images) == sorted(lines[:2])


def test_the_protocol_may_be_in_capitals(stored, tmp_path):
    index, _ = build([URL.replace("memory", "Memory")], tmp_path / "index", bits=16)
    assert paths_of(index) == names()
    name = names()[0].replace("memory", "MEMORY")
    with open_file(name) as file:
        assert file.read()
    assert not index.add([name]).skipped


def test_the_states_of_added_objects_are_asked_for_side_by_side(stored, tmp_path, monkeypatch):
    """Each answer waits until three are asked for."""
    index, _ = build([f"{URL}/0"], tmp_path / "index", bits=16)
    real, together = type(stored).info, threading.Barrier(3)

    def info(self, path, **options):
        together.wait(30)
        return real(self, path, **options)

    monkeypatch.setattr(type(stored), "info", info)
    assert not index.add([f"{URL}/1/{number:03}.png" for number in (1, 4, 7)]).skipped
    assert not together.broken


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
def test_a_forked_child_connects_although_a_thread_of_the_parent_did(memory):
    held, done = threading.Event(), threading.Event()

    def hold():
        with remote_source._CONNECTING:
            held.set()
            done.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(60)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.alarm(30)
            remote_source.check_remote(b"memory://photos/a")
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    done.set()
    thread.join(60)
