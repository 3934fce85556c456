"""Listing of folders: which files are listed or excluded, and that no listing hangs."""

from __future__ import annotations

import contextlib
import errno
import os
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hyperpq.datasets.folder import list_images, scan_roots
from hyperpq.datasets.listing import ImageFile, RootOptions
from hyperpq.errors import DatasetError, InvalidInputError


@pytest.fixture
def put(tmp_path):
    """Write an image (or other bytes) at a path below the test's folder."""

    def put(name, data=None):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if data is None:
            Image.new("RGB", (2, 2)).save(path, "PNG")
        else:
            path.write_bytes(data)
        return path

    return put


def names(root, *roots, **options):
    """Paths below the first root, as text."""
    found = list_images([root, *roots], **options)
    return [os.path.relpath(os.fsdecode(file.path), root) for file in found]


def test_what_is_listed(tmp_path, put):
    for name in ("b.jpg", "a/c.PNG", "a/d", "a/e.dat", "z.tar.webp", "photo.nef"):
        put(name)
    put("empty.jpg", b"")  # the decoder will name it
    put("words.txt", b"some words")
    put("hierarchy.json", b"{}")
    put("empty", b"")
    put("short.bin", b"\xff")
    found = list_images([tmp_path])
    expected = sorted(
        ["b.jpg", "a/c.PNG", "a/d", "a/e.dat", "z.tar.webp", "photo.nef", "empty.jpg"]
    )
    assert names(tmp_path) == expected
    status = (tmp_path / "b.jpg").stat()
    assert ImageFile(os.fsencode(tmp_path / "b.jpg"), status.st_size, status.st_mtime_ns) in found
    assert [file.path for file in found] == sorted(file.path for file in found)


def test_hidden_and_system_names(tmp_path, put):
    put("a.png")
    hidden = [".a.png", ".git/b.png", "@eaDir/c.png", "$RECYCLE.BIN/d.png", "lost+found/e.png"]
    hidden += ["System Volume Information/f.png", "x/__MACOSX/g.png", "x/Thumbs.db"]
    for name in hidden:
        put(name)
    assert names(tmp_path) == ["a.png"]
    assert names(tmp_path, include_hidden=True) == sorted(["a.png", *hidden])
    assert names(tmp_path / ".git") == ["b.png"]  # named by the user, so wanted


def test_single_files_and_overlapping_roots(tmp_path, put, monkeypatch):
    put("a/b/c.png")
    put("a/d.png")
    odd = put("notes.txt", b"words")
    assert names(tmp_path, tmp_path / "a", tmp_path / "a/b", tmp_path / "a/d.png") == [
        "a/b/c.png",
        "a/d.png",
    ]
    assert names(tmp_path, odd, odd) == ["a/b/c.png", "a/d.png", "notes.txt"]
    monkeypatch.chdir(tmp_path / "a")
    assert names(tmp_path / "a", ".", "../a/b", b"d.png") == ["b/c.png", "d.png"]
    assert list_images(["b"])[0].path == os.fsencode(tmp_path / "a/b/c.png")
    os.link(tmp_path / "a/d.png", tmp_path / "a/hard.png")
    assert names(tmp_path / "a") == ["b/c.png", "d.png"]


def test_links_are_followed_once_and_never_in_circles(tmp_path, put):
    root = tmp_path / "root"
    put("root/real/one.png")
    put("root/real/sub/two.png")
    put("outside/three.png")
    put("other.png")
    (root / "a_link_to_real").symlink_to(root / "real")
    (root / "a_link_to_one.png").symlink_to(root / "real/one.png")
    (root / "real/sub/up").symlink_to(root)
    (root / "real/sub/self").symlink_to(".")
    (root / "out").symlink_to(tmp_path / "outside")
    (root / "other_link.png").symlink_to(tmp_path / "other.png")
    (tmp_path / "outside/back").symlink_to(root)
    (tmp_path / "outside/again").symlink_to(tmp_path / "outside")
    assert names(root) == ["other_link.png", "out/three.png", "real/one.png", "real/sub/two.png"]
    linked_root = tmp_path / "linked_root"
    linked_root.symlink_to(root)
    assert names(linked_root)[2:] == ["real/one.png", "real/sub/two.png"]


def test_a_lattice_of_links_is_not_walked_exponentially(tmp_path, put):
    for level in range(30):
        folder = tmp_path / f"far/{level}"
        folder.mkdir(parents=True)
        for side in "xy":
            (folder / side).symlink_to(tmp_path / f"far/{level + 1}")
    put("far/30/deep.png")
    (tmp_path / "near").mkdir()
    (tmp_path / "near/start").symlink_to(tmp_path / "far/0")
    assert names(tmp_path / "near") == ["start/" + "x/" * 30 + "deep.png"]


def test_what_cannot_be_looked_at_is_reported(tmp_path, put, monkeypatch):
    put("a.png")
    (tmp_path / "broken.png").symlink_to(tmp_path / "nothing")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(tmp_path / ".hyperpqignore")
    (tmp_path / "null.png").symlink_to("/dev/null")
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.png")
    skipped = []
    found = names(tmp_path, on_skip=lambda path, reason: skipped.append((path, reason)))
    assert found == ["a.png"]
    assert sorted((os.path.basename(path), reason) for path, reason in skipped) == [
        (b"broken.png", "broken link"),
        (b"circle", "too many levels of symbolic links"),
        (b"null.png", "not a regular file"),
        (b"pipe.png", "not a regular file"),
        (b"socket.png", "not a regular file"),
    ]
    assert names(tmp_path) == ["a.png"]  # and without anybody to tell


def failing(monkeypatch, call, name, code):
    """Let a call of `os` fail with an error for a path of this name."""
    real = getattr(os, call)

    def replacement(path, *rest, **options):
        if isinstance(path, bytes) and os.path.basename(path) == name:
            raise OSError(code, os.strerror(code), path)
        return real(path, *rest, **options)

    monkeypatch.setattr(os, call, replacement)


UNREADABLE = [errno.EACCES, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ELOOP]


@pytest.mark.parametrize("code", [*UNREADABLE, errno.ENAMETOOLONG, errno.EMFILE])
def test_what_cannot_be_read_is_not_known(tmp_path, put, monkeypatch, code):
    """Images at or below such a path may still be there; root may read everything."""
    put("a.png")
    put("closed/b.png")
    put("plain")
    (tmp_path / "link").symlink_to(put("far", b"nothing"))
    failing(monkeypatch, "scandir", b"closed", code)
    failing(monkeypatch, "open", b"plain", code)
    failing(monkeypatch, "stat", b"link", code)
    listing = scan_roots([tmp_path])
    assert [os.path.basename(file.path) for file in listing.files] == [b"a.png"]
    expected = {os.fsencode(tmp_path / name) for name in ("closed", "plain", "link")}
    assert listing.unknown == listing.skipped.keys() == expected
    assert set(listing.skipped.values()) == {os.strerror(code).lower()}
    with pytest.raises(DatasetError, match=r"closed cannot be read \("):
        list_images([tmp_path / "closed"])


def test_what_is_gone_is_known(tmp_path, put, monkeypatch):
    """Files that are removed while they are listed."""
    put("a.png")
    put("closed/b.png")
    put("plain")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for code in (errno.ENOENT, errno.ENOTDIR):
        failing(monkeypatch, "scandir", b"closed", code)
        failing(monkeypatch, "open", b"plain", code)
        listing = scan_roots([tmp_path])
        # A broken link may lead to a disk that is not mounted.
        assert listing.unknown == {os.fsencode(tmp_path / "link")}
        assert len(listing.skipped) == 3


def test_an_entry_without_a_status_is_not_known(tmp_path, put, monkeypatch):
    put("a/b.png")
    put("c.png")
    failing(monkeypatch, "lstat", b"a", errno.EIO)
    listing = scan_roots([tmp_path])
    assert [os.path.basename(file.path) for file in listing.files] == [b"c.png"]
    assert listing.unknown == {os.fsencode(tmp_path / "a")}


def test_each_root_without_an_image_is_named(tmp_path, put):
    for name in ("a/1.png", "a/sub/2.png", "only-text/x.txt", "other/3.png"):
        put(name)
    put("only-text/x.txt", b"words")
    for name in ("none", "a/nothing", "links"):
        (tmp_path / name).mkdir()
    (tmp_path / "links/1.png").symlink_to(tmp_path / "a/1.png")
    (tmp_path / "alias").symlink_to("a")
    (tmp_path / "none/self").symlink_to(".")
    (tmp_path / "none/other").symlink_to(tmp_path / "a/nothing")

    def empty(*roots, **options):
        found = scan_roots([tmp_path / root for root in roots], **options).empty
        return [os.path.relpath(os.fsdecode(path), tmp_path) for path in found]

    assert empty("a", "only-text", "none", "other") == ["none", "only-text"]
    # What is listed under another root is there all the same.
    assert empty("a", "a/sub", "a/nothing", "a/1.png", "alias", "links") == ["a/nothing"]
    assert empty("a", "a/sub", exclude=["sub"]) == []
    assert empty("a", "other", exclude=["1.png", "sub"]) == ["a"]
    assert empty("a", "gone", "gone/x.png", allow_missing=True) == ["gone", "gone/x.png"]


def test_a_disk_that_is_unmounted_meanwhile_is_an_error(tmp_path, put, monkeypatch):
    """Else what was not listed any more would count as gone."""
    put("a/b/1.png")
    scandir, stat = os.scandir, os.stat

    def unmounted(path, **options):
        status = list(stat(path, **options))
        status[2] += 1  # the device
        return os.stat_result(status)

    def unmount(path):
        if path.endswith(b"/b"):
            monkeypatch.setattr(os, "stat", unmounted)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", unmount)
    with pytest.raises(DatasetError, match="a is another one than when its listing began"):
        list_images([tmp_path / "a"])


def test_a_disk_that_is_mounted_when_it_is_first_used(tmp_path, put, monkeypatch):
    """As by autofs and systemd: the folder of before was taken for a disk that is unmounted now."""
    put("a/1.png")
    scandir, stat = os.scandir, os.stat

    def before(path, **options):
        status = list(stat(path, **options))
        status[2] += 1  # the device
        return os.stat_result(status)

    def mount(path):
        monkeypatch.setattr(os, "stat", stat)
        return scandir(path)

    monkeypatch.setattr(os, "stat", before)
    monkeypatch.setattr(os, "scandir", mount)
    assert [os.path.basename(file.path) for file in list_images([tmp_path / "a"])] == [b"1.png"]


def test_files_of_other_kinds_are_counted(tmp_path, put):
    put("a.png")
    for name in ("1.txt", "2.TXT", "x/3.txt", "b.mp4", "readme", "d.averylongsuffix"):
        put(name, b"anything")
    put("é.ж", b"x")
    put(".hidden.txt", b"words")
    put("raw/4.txt", b"words")
    put(".hyperpqignore", b"raw\n")
    found = scan_roots([tmp_path])
    assert (found.other, found.skipped) == ({".txt": 3, ".mp4": 1, ".ж": 1, "": 2}, {})
    assert scan_roots([tmp_path], include_hidden=True).other[".txt"] == 4


def test_images_of_formats_that_are_not_read_are_named(tmp_path, put):
    """They were counted together with other files; nothing said which images are missing."""
    put("a.png")
    names = ["1.psd", "x/2.PSD", "3.jp2", "4.tga", "5.svg", "6.rwl"]
    for name in names:
        put(name, b"8BPS or anything else")
    found = scan_roots([tmp_path])
    reasons = {os.path.basename(path): reason for path, reason in found.skipped.items()}
    assert reasons == {
        os.path.basename(name).encode(): f"images of the format {name[-3:].upper()} are not read"
        for name in names
    }
    assert (found.other, found.unknown) == ({}, set())


def test_each_root_has_its_own_options(tmp_path, put):
    for root in ("a", "b"):
        for name in ("1.png", "raw/2.png", ".hidden/3.png"):
            put(f"{root}/{name}")
    calls = []
    roots = [os.fsencode(tmp_path / root) for root in "ab"]
    options = {roots[1]: RootOptions(include_hidden=True, exclude=("1.png",))}
    found = scan_roots(roots, exclude=["raw"], options=options, on_found=calls.append)
    names = [os.path.relpath(os.fsdecode(file.path), tmp_path) for file in found.files]
    assert names == ["a/1.png", "b/.hidden/3.png", "b/raw/2.png"]
    assert sum(calls) == 3


def test_folders_are_left_out_by_any_name(tmp_path, put):
    put("a.png")
    put("index/b.png")
    put("index/c.h5", b"data")
    (tmp_path / "link").symlink_to("index")
    listing = scan_roots([tmp_path], leave_out=[tmp_path / "index", tmp_path / "missing"])
    assert [os.path.basename(file.path) for file in listing.files] == [b"a.png"]
    assert not listing.other
    assert scan_roots([tmp_path / "link"], leave_out=[tmp_path / "index"]).empty


def test_folders_below_a_root_are_left_out_by_what_they_hold(tmp_path, put):
    put("a.png")
    put("x/index/b.png")
    put("x/index/mark", b"")
    (tmp_path / "x/link").symlink_to(tmp_path / "x/index")

    def is_marked(folder):
        return os.path.exists(os.path.join(folder, b"mark"))

    listing = scan_roots([tmp_path], is_left_out=is_marked)
    assert [os.path.basename(file.path) for file in listing.files] == [b"a.png"]
    assert not listing.other
    # A root is named by the user, so wanted.
    listing = scan_roots([tmp_path / "x/index"], is_left_out=is_marked)
    assert [os.path.basename(file.path) for file in listing.files] == [b"b.png"]


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_an_ignore_file_that_is_no_file_is_named_in_a_warning(tmp_path, put, caplog, kind):
    put("a.png")
    path = tmp_path / ".hyperpqignore"
    os.mkfifo(path) if kind == "pipe" else path.mkdir()
    assert names(tmp_path) == ["a.png"]
    assert [record.getMessage() for record in caplog.records] == [
        f"{path} is not a regular file, so it excludes nothing; expected a text file with one "
        "pattern per line."
    ]


def test_an_ignore_file_that_leads_nowhere_is_an_error(tmp_path, put):
    """As one that cannot be read is: what it excludes would be listed."""
    put("a.png")
    (tmp_path / ".hyperpqignore").symlink_to(tmp_path / "away/rules")
    with pytest.raises(DatasetError, match=r"\.hyperpqignore cannot be read \(No such file"):
        list_images([tmp_path])


def test_bad_roots(tmp_path):
    with pytest.raises(DatasetError, match="missing does not exist; give an existing folder"):
        list_images([tmp_path, tmp_path / "missing"])
    with pytest.raises(DatasetError, match="is neither a file nor a folder"):
        list_images(["/dev/null"])
    assert list_images([tmp_path]) == []
    assert list_images([]) == []


def test_exclude_patterns(tmp_path, put):
    for name in ("a.png", "b.png", "x/a.png", "x/y/c.gif", "raw/d.png", "x/raw/e.png"):
        put(name)
    assert names(tmp_path, exclude=["*.gif", "/a.png", "raw/"]) == ["b.png", "x/a.png"]
    assert names(tmp_path, exclude=["*", "!b.png"]) == ["b.png"]
    assert names(tmp_path, exclude=["x/**", "# comment", ""]) == ["a.png", "b.png", "raw/d.png"]
    assert names(tmp_path, exclude=["x/y"]) == [
        "a.png",
        "b.png",
        "raw/d.png",
        "x/a.png",
        "x/raw/e.png",
    ]
    # Relative to each root.
    found = list_images([tmp_path / "x", tmp_path / "raw"], exclude=["/raw", "/d.png"])
    assert [os.path.basename(file.path) for file in found] == [b"a.png", b"c.gif"]
    with pytest.raises(InvalidInputError, match="exclude"):
        list_images([tmp_path], exclude=["!"])


def test_ignore_files(tmp_path, put):
    for name in ("a.png", "b.png", "x/a.png", "x/b.png", "x/y/a.png", "z/a.png", "z/b.png"):
        put(name)
    put(".hyperpqignore", b"b.png\n/z/a.png\n")
    put("x/.hyperpqignore", b"!b.png\ny/\n/a.png\n")
    assert names(tmp_path) == ["a.png", "x/b.png"]
    assert names(tmp_path, exclude=["!/b.png", "x/"]) == ["a.png", "b.png"]  # the caller decides
    assert names(tmp_path / "z") == ["a.png", "b.png"]  # the file above isn't in this root


def test_a_pattern_that_matches_nothing_is_named(tmp_path, put, caplog):
    """git reads such a line without a word, and so the listing goes on."""
    put("a.png")
    put("b.png")
    put(".hyperpqignore", b"caf\xe9.png\n[a-\nb.png\n")
    assert names(tmp_path) == ["a.png"]
    (message,) = caplog.messages
    assert message == f"{tmp_path}/.hyperpqignore: the pattern '[a-' matches nothing."
    for pattern in ("!", "[a", "a\\", "[[:what:]]"):
        with pytest.raises(InvalidInputError, match=r"exclude has .*, which matches nothing"):
            list_images([tmp_path], exclude=["b.png", pattern])


def test_a_logged_name_can_be_written_as_utf_8(tmp_path, put, caplog):
    """A handler that writes UTF-8 would raise an error, as pytest-xdist does with its reports."""
    put("caf\udce9/a.png")
    put("caf\udce9/.hyperpqignore", b"[a-\n")
    names(tmp_path)
    (message,) = caplog.messages
    assert message.encode().startswith(os.fsencode(tmp_path) + rb"/caf\xe9/.hyperpqignore: ")


def test_an_unreadable_ignore_file_is_an_error(tmp_path, put, monkeypatch):
    """Without it, files would be listed that the user asked to exclude."""
    put("a.png")
    put(".hyperpqignore", b"a.png")
    for code in (errno.EACCES, errno.EIO, errno.ESTALE):
        failing(monkeypatch, "stat", b".hyperpqignore", code)
        with pytest.raises(DatasetError, match=r"\.hyperpqignore cannot be read"):
            list_images([tmp_path])
    failing(monkeypatch, "stat", b".hyperpqignore", errno.ENOENT)
    assert names(tmp_path) == ["a.png"]


def open_folders(root):
    """Folders below ``root`` that this process has open."""
    opened = set()
    for number in range(1024):
        with contextlib.suppress(OSError):
            status = os.fstat(number)
            opened.add((status.st_dev, status.st_ino))
    folders = [path for path in root.rglob("*") if path.is_dir()]
    return [path for path in folders if (path.stat().st_dev, path.stat().st_ino) in opened]


def test_an_ignore_file_that_is_no_file_is_passed_over(tmp_path, put, monkeypatch):
    """A folder of that name cost a descriptor, and a socket was an error."""
    put("a.png")
    for number in range(5):
        (tmp_path / f"{number}/.hyperpqignore").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(".hyperpqignore")
        assert names(tmp_path) == ["a.png"]
        assert open_folders(tmp_path) == []


def test_odd_names(tmp_path):
    folder = os.fsencode(tmp_path)
    odd = [b"caf\xe9.png", b"new\nline.png", "日本.png".encode(), b" .png", b"-rf.png", b"*.png"]
    for name in odd:
        Image.new("RGB", (2, 2)).save(os.fsdecode(os.path.join(folder, name)), "PNG")
    found = [os.path.basename(file.path) for file in list_images([tmp_path])]
    assert found == sorted(odd)
    found = [os.path.basename(file.path) for file in list_images([folder], exclude=["caf*"])]
    assert found == sorted(odd[1:])


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from(["a", "b", ".h", "c d"]), min_size=1, max_size=3),
        max_size=8,
    ),
    st.booleans(),
)
def test_agrees_with_os_walk(tmp_path_factory, branches, include_hidden):
    root = tmp_path_factory.mktemp("tree")
    for branch in branches:
        folder = root.joinpath(*branch)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "1.jpg").touch()
        (folder / ".2.jpg").touch()
    expected = [
        os.path.join(folder, name)
        for folder, _, files in os.walk(root)
        for name in files
        if include_hidden or "/." not in os.path.join(folder, name)[len(str(root)) :]
    ]
    found = list_images([root], include_hidden=include_hidden)
    assert [os.fsdecode(file.path) for file in found] == sorted(expected)
