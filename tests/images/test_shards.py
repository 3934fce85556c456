"""Tar shards as folders of images: builds, updates, what is damaged in them, and what they lack."""

from __future__ import annotations

import io
import os
import tarfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_tools import Grid, build, fill, image, paths_of, update

from hyperpq import ImageIndex
from hyperpq.datasets.content_hash import content_hash
from hyperpq.datasets.file_source import file_exists, file_status, is_plain_file, open_file
from hyperpq.datasets.folder import scan_roots
from hyperpq.datasets.tar_source import MembersCache, read_members
from hyperpq.diagnostics import describe_index
from hyperpq.errors import DatasetError, InvalidInputError
from hyperpq.explore import Tree, link_groups
from hyperpq.images.build import PathList, update_index


def png(seed):
    file = io.BytesIO()
    image(seed).save(file, "PNG")
    return file.getvalue()


def write(path, members, **options):
    """A shard; members are pairs of a name and its content, or a `TarInfo`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:
        for name, content in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def samples(numbers):
    """Samples in the layout of WebDataset."""
    for number in numbers:
        yield f"{number:03}.png", png(number)
        yield f"{number:03}.cls", b"%d" % (number % 3)
        yield f"{number:03}.json", b"{}"


@pytest.fixture
def shards(tmp_path):
    return [
        write(tmp_path / f"shards/s-{shard}.tar", samples(range(6 * shard, 6 * shard + 6)))
        for shard in range(2)
    ]


def codes_of(index):
    view = index.index.view()
    return view.codes_of(view.ids)


def test_shards_make_the_index_that_their_files_make(tmp_path, shards):
    index, report = build(shards, tmp_path / "index")
    other, _ = build([fill(tmp_path / "photos", 12)], tmp_path / "other")
    np.testing.assert_array_equal(codes_of(index), codes_of(other))
    expected = [f"{shards[n // 6]}/{n:03}.png" for n in range(12)]
    assert paths_of(index) == expected
    assert report.other == {".cls": 12, ".json": 12}
    assert describe_index(tmp_path / "index")["folder 1"] == str(shards[0])
    found = index.query([f"{shards[1]}/008.png"], 1, exclude_self=False)[0].results[0]
    assert found.path == expected[8]
    assert found.attributes["folder"] == "s-1.tar"
    listed, _ = build(PathList(_list(tmp_path, [*shards, expected[3]])), tmp_path / "listed")
    assert paths_of(listed) == expected
    folder, _ = build([tmp_path / "shards"], tmp_path / "folder", exclude=["s-0.tar"])
    assert paths_of(folder) == expected[6:]


def _list(place, paths):
    path = place / "list.txt"
    path.write_text("".join(f"{line}\n" for line in paths))
    return path


def test_updates_read_what_is_new_in_a_shard(tmp_path, shards):
    build([tmp_path / "shards"], tmp_path / "index")
    # Written again: two images stay, one has changed, three are gone.
    write(
        shards[0], [("000.png", png(0)), ("001.png", png(1)), ("002.png", png(50)), ("9", png(9))]
    )
    network = Grid()
    index, report = update_index(None, tmp_path / "index", backbone=network, device="cpu")
    assert (report.added, report.removed, report.moved, network.seen) == (2, 4, 2, 2)
    assert len(index) == 6 + 4
    os.utime(shards[1], (0, 0))
    index, report = update_index(None, tmp_path / "index", backbone=network, device="cpu")
    assert (report.added, report.removed, report.moved, network.seen) == (0, 0, 6, 2)
    shards[1].rename(tmp_path / "shards/renamed.tar")
    index, report = update_index(None, tmp_path / "index", backbone=network, device="cpu")
    assert (report.added, report.removed, report.moved, network.seen) == (0, 0, 6, 2)
    assert paths_of(index)[0].startswith(f"{tmp_path}/shards/renamed.tar/")


def test_a_shard_that_is_gone_keeps_its_images_until_they_are_forgotten(tmp_path, shards):
    build(shards, tmp_path / "index")
    shards[0].unlink()
    index, report = update_index(None, tmp_path / "index", backbone=Grid(), device="cpu")
    assert len(index) == 12
    assert report.skipped[os.fsencode(shards[0])] == "does not exist; its images are kept"
    with pytest.raises(DatasetError, match=r"does not exist, and .* has 6 of its images"):
        update([shards[0]], tmp_path / "index")
    assert index.forget(missing=True).removed == 6
    assert not index.forget(missing=True).removed
    assert len(index) == 6


def test_one_image_that_is_gone_from_a_shard_is_forgotten(tmp_path, shards):
    index, _ = build(shards, tmp_path / "index")
    write(shards[1], samples(range(6, 11)))
    assert index.forget(missing=True).removed == 1
    assert len(index) == 11


def test_a_damaged_shard_keeps_what_is_known(tmp_path, shards):
    build(shards, tmp_path / "index")
    whole = shards[1].read_bytes()
    shards[1].write_bytes(whole[: len(whole) // 2])
    index, report = update_index(None, tmp_path / "index", backbone=Grid(), device="cpu")
    assert len(index) == 12
    assert "damaged after" in report.skipped[os.fsencode(shards[1])]
    shards[1].write_bytes(b"no tar" * 1000)
    index, report = update_index(None, tmp_path / "index", backbone=Grid(), device="cpu")
    assert len(index) == 12
    assert report.skipped[os.fsencode(shards[1])] == (
        "cannot be listed (no tar (invalid header)); its images are kept"
    )
    with pytest.raises(DatasetError, match=r"no image was found .*1 skipped, such as .*no tar"):
        build([shards[1]], tmp_path / "none")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_headers_without_end_cost_what_follows_them(tmp_path, kind):
    """tarfile calls itself for each of them."""
    shard = write(tmp_path / "s.tar", [("a.png", png(0))])
    header = tarfile.TarInfo("x")
    header.type = kind
    image = shard.read_bytes()[: 512 + -(-len(png(0)) // 512) * 512]
    shard.write_bytes(image + header.tobuf(tarfile.GNU_FORMAT) * 1200 + bytes(1024))
    found = scan_roots([shard])
    assert [file.path for file in found.files] == [os.fsencode(shard / "a.png")]
    assert found.skipped == {
        os.fsencode(shard): "damaged after 1 members (too many headers for one member)"
    }
    index, report = build([shard], tmp_path / "index")
    assert len(index) == 1 and os.fsencode(shard) in report.skipped


def test_names_that_lead_out_links_and_holes_are_no_images(tmp_path):
    link = tarfile.TarInfo("link.png")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    hard = tarfile.TarInfo("hard.png")
    hard.type, hard.linkname = tarfile.LNKTYPE, "a.png"
    members = [
        *(("./a.png", png(0)), ("../b.png", png(1)), ("/c/d.png", png(2)), ("x/../e.png", png(3))),
        *((link, b""), (hard, b""), ("twice.png", b"old"), ("twice.png", png(4))),
        *((".hidden.png", png(5)), ("__MACOSX/f.png", png(6)), ("\udcff\xe9.png", png(7))),
        *(("word", b"text"), ("image", png(8)), ("n" * 300 + ".png", png(9)), ("s.psd", b"8BPS")),
    ]
    shard = write(tmp_path / "s.tar", members)
    found = scan_roots([shard])
    below = len(os.fsencode(shard)) + 1
    assert {file.path[below:] for file in found.files} == {
        *(b"a.png", b"c/d.png", b"twice.png", b"image", b"n" * 300 + b".png"),
        b"\xff\xc3\xa9.png",
    }
    assert {path[below:]: why for path, why in found.skipped.items()} == {
        b"../b.png": "its name leads out of the shard",
        b"x/../e.png": "its name leads out of the shard",
        b"link.png": "not a regular file",
        b"hard.png": "not a regular file",
        b"s.psd": "images of the format PSD are not read",
    }
    with open_file(os.fsencode(shard) + b"/twice.png") as file:
        assert file.read() == png(4)
    with_hidden = scan_roots([shard], include_hidden=True, exclude=["*.psd", "c/"])
    assert len(with_hidden.files) == len(found.files) + 1
    assert not [path for path in with_hidden.skipped if path.endswith(b".psd")]


@pytest.mark.parametrize("options", [{"format": f} for f in (0, 1, 2)])
def test_a_member_is_a_file(tmp_path, options):
    content = bytes(range(256)) * 20
    shard = os.fsencode(write(tmp_path / "s.tar", [("a", b"x"), ("b/c", content)], **options))
    (tmp_path / "c").write_bytes(content)
    path = shard + b"/b/c"
    assert file_status(path).size == len(content)
    assert file_exists(path)
    assert not file_exists(shard + b"/b")
    assert not is_plain_file(path)
    assert content_hash(path) == content_hash(os.fsencode(tmp_path / "c"))
    with open_file(path) as file:
        file.seek(-3, os.SEEK_END)
        assert (file.read(), file.read()) == (content[-3:], b"")
        file.seek(7)
        assert file.read(5) == content[7:12]
    with pytest.raises(FileNotFoundError):
        open_file(shard + b"/gone")
    with pytest.raises(NotADirectoryError):
        open_file(os.fsencode(tmp_path / "c") + b"/gone")


@given(st.binary(max_size=3000), st.integers(0, 5000))
def test_any_bytes_have_members_in_them_or_none(noise, at):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name in "abc":
            info = tarfile.TarInfo(name)
            info.size = 700
            tar.addfile(info, io.BytesIO(bytes(700)))
    data = bytearray(file.getvalue()[:5632])
    data[at : at + len(noise)] = noise
    members = read_members(io.BytesIO(bytes(data)), len(data))
    for offset, size in members.places.values():
        assert 0 <= offset <= offset + size <= len(data)


def test_members_are_found_once_for_each_state(tmp_path, monkeypatch):
    cache, reads = MembersCache(), []

    def members(path, state):
        def read():
            reads.append((path, state))
            file = io.BytesIO()
            with tarfile.open(fileobj=file, mode="w") as tar:
                tar.addfile(tarfile.TarInfo("a"))
            return read_members(file, len(file.getvalue()))

        return cache.members(path, (state,), read)

    assert members(b"p", 1) is members(b"p", 1)
    members(b"p", 2)
    assert reads == [(b"p", 1), (b"p", 2)]
    monkeypatch.setattr("hyperpq.datasets.tar_source._MAX_MEMBERS", 2)
    for path in b"abc":
        members(bytes([path]), 1)
    members(b"b", 1)
    assert len(reads) == 5
    members(b"p", 2)
    assert len(reads) == 6


def test_a_compressed_tar_is_refused(tmp_path):
    with tarfile.open(tmp_path / "s.tar.gz", "w:gz") as tar:
        tar.add(fill(tmp_path / "p", 1), "p")
    with pytest.raises(DatasetError, match=r"s\.tar\.gz is compressed"):
        build([tmp_path / "s.tar.gz"], tmp_path / "index")


def test_images_of_shards_are_added_one_by_one(tmp_path, shards):
    index, _ = build([shards[0]], tmp_path / "index")
    added = index.add([f"{shards[1]}/007.png", f"{shards[1]}/gone.png"])
    assert (added.ids.tolist(), added.skipped) == ([6, -1], {1: "no such file"})
    assert ImageIndex.open(tmp_path / "index", backbone=Grid()).add(
        [f"{shards[1]}/007.png"]
    ).ids == [6]


def test_links_to_images_in_shards_are_refused(tmp_path, shards):
    index, _ = build(shards, tmp_path / "index")
    with pytest.raises(
        InvalidInputError, match="is in a tar shard or in object storage, to which no link"
    ):
        link_groups(Tree.of(index.index.view(), (2,)), index.index.view(), 1, tmp_path / "links")
    assert not (tmp_path / "links").exists()
