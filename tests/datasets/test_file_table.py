"""Tables of paths and files: order, repeated files, and what they take in memory."""

import os
import tracemalloc
from collections import namedtuple

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hyperpq.datasets.file_table import FileTable
from hyperpq.datasets.folder import scan_roots
from hyperpq.datasets.listing import ImageFile
from hyperpq.datasets.path_table import PathTable, SortedNames

Status = namedtuple("Status", "st_size st_mtime_ns st_ino st_dev")

names = st.text("ab.\xe9!", min_size=1, max_size=3).map(str.encode)
folders = st.lists(names, max_size=2).map(lambda parts: b"/" + b"/".join(parts))


@given(
    st.lists(
        st.tuples(folders, names, st.integers(0, 1)), max_size=40, unique_by=lambda entry: entry[:2]
    )
)
def test_paths_are_in_order(entries):
    table = PathTable()
    for folder, name, tag in entries:
        table.append(folder, name, tag)
    wanted = [os.path.join(folder, name) for folder, name, _ in entries]
    assert [table.path(row) for row in range(len(table))] == wanted
    assert [table.tag(row) for row in range(len(table))] == [tag for *_, tag in entries]
    found = [path for start, stop in table.in_order().tolist() for path in table.paths(start, stop)]
    assert found == sorted(wanted)
    dropped = np.arange(0, len(entries), 3)
    parts = table.in_order(dropped).tolist()
    found = [path for start, stop in parts for path in table.paths(start, stop)]
    assert found == sorted(path for row, path in enumerate(wanted) if row % 3)


@given(
    st.lists(
        st.tuples(
            folders, names, st.sampled_from([b"/", b"/a"]), st.integers(0, 5), st.integers(1, 2)
        ),
        max_size=40,
        unique_by=lambda entry: entry[:2],
    )
)
def test_each_file_is_there_once_by_its_first_name(entries):
    table, first, repeated = FileTable(), {}, set()
    for row, (folder, name, root, inode, device) in enumerate(entries):
        # Times of some file systems are beyond 64 bits of nanoseconds.
        time = row * 10**18 - 2**64 if row % 5 == 0 else row
        table.append(root, folder, name, Status(2**40 + row, time, inode, device))
        file = ImageFile(os.path.join(folder, name), 2**40 + row, time)
        if first.setdefault((inode, device), file) is not file:
            repeated.add(root)
    assert table.finish() == repeated
    wanted = sorted(first.values(), key=lambda file: file.path)
    assert [*table] == [table[at] for at in range(len(table))] == table[:] == wanted
    assert table[1:-1] == wanted[1:-1]
    assert len(table) == len(wanted)


def test_names_of_a_large_folder_are_sorted(tmp_path, monkeypatch):
    monkeypatch.setattr("hyperpq.datasets.path_table._AT_ONCE", 7)
    monkeypatch.setattr("hyperpq.datasets.path_table._BLOCK", 3)
    wanted = [b"%d" % (n * 7919 % 1000) for n in range(50)]
    for name in wanted:
        (tmp_path / os.fsdecode(name)).touch()
    found = SortedNames(os.fsencode(tmp_path), b"0")
    assert [*found] == sorted(wanted)
    assert found.has_sought
    assert not SortedNames(os.fsencode(tmp_path), b"1000").has_sought


def test_what_a_listed_image_takes(tmp_path, monkeypatch):
    """Its name, 24 bytes and 8 to find repeated ones; an object of a list took 390 bytes."""
    monkeypatch.setattr("hyperpq.datasets.path_table._AT_ONCE", 256)
    folder = tmp_path / ("a-name-that-is-stored-once" * 5)
    folder.mkdir()
    peaks = []
    for numbers in (range(2_000), range(2_000, 6_000)):
        for number in numbers:
            os.mknod(folder / f"{number:020}.jpg")
        tracemalloc.start()
        listing = scan_roots([tmp_path])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(listing.files) == numbers.stop
    assert peaks[1] - peaks[0] < 4_000 * 100
