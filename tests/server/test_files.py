"""Images and thumbnails by ids: what is served, and what of the disk is not."""

from __future__ import annotations

import io
import os
import shutil
import tarfile

import pytest
from image_tools import build, fill
from PIL import Image
from server_tools import content

from hyperpq import ImageIndex
from hyperpq.server import ServedIndex, ServerSettings, create_app
from hyperpq.server import files as files_module
from hyperpq.server.files import IndexedFiles, NoImageError


@pytest.fixture
def get(asked):
    def one(index, address, **options):
        [answer] = asked(index, ("GET", address, {}), **options)
        return answer

    return one


def ids_by_name(place):
    index = ImageIndex.open(place / "index", device="cpu")
    rows = index.index.ids
    return dict(zip(map(os.path.basename, index.index.paths_of(rows)), rows.tolist(), strict=True))


def test_an_image_is_its_file(photos, get):
    ids = ids_by_name(photos)
    answer = get(photos / "index", f"/images/{ids[b'007.png']}")
    assert answer.status_code == 200
    assert answer.content == (photos / "p/007.png").read_bytes()
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["content-length"] == str(len(answer.content))
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in answer.headers["content-security-policy"]
    again = get(
        photos / "index",
        f"/images/{ids[b'007.png']}",
        headers={"if-none-match": answer.headers["etag"]},
    )
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    ("given", "status", "part"),
    [
        ("bytes=0-9", 206, slice(0, 10)),
        ("bytes=5-", 206, slice(5, None)),
        ("bytes=-7", 206, slice(-7, None)),
        ("bytes=-999999", 206, slice(0, None)),
        ("bytes=3-999999", 206, slice(3, None)),
        ("bytes=0-0", 206, slice(0, 1)),
        ("bytes=999999-", 416, None),
        ("bytes=-0", 416, None),
        ("bytes=9-3", 200, slice(0, None)),
        ("bytes=0-1,4-5", 200, slice(0, None)),
        ("lines=0-1", 200, slice(0, None)),
        ("bytes=-", 200, slice(0, None)),
        ("bytes=" + "9" * 40 + "-", 200, slice(0, None)),
    ],
)
@pytest.mark.parametrize("kind", ["images", "thumbnails"])
def test_parts_of_a_file(photos, get, kind, given, status, part):
    whole = get(photos / "index", f"/{kind}/7")
    answer = get(photos / "index", f"/{kind}/7", headers={"range": given})
    assert answer.status_code == status
    size = len(whole.content)
    if part is None:
        assert answer.headers["content-range"] == f"bytes */{size}"
        return
    first, stop, _ = part.indices(size)
    assert answer.content == whole.content[part]
    assert answer.headers["content-length"] == str(stop - first)
    if status == 206:
        assert answer.headers["content-range"] == f"bytes {first}-{stop - 1}/{size}"


def test_parts_of_the_version_that_is_known(photos, get):
    whole = get(photos / "index", "/images/7")
    for version, status in ((whole.headers["etag"], 206), ('"another"', 200)):
        headers = {"range": "bytes=2-5", "if-range": version}
        assert get(photos / "index", "/images/7", headers=headers).status_code == status


def test_heads_have_what_the_whole_has(server):
    with server.http() as http:
        for address in ("/images/7", "/thumbnails/7?size=32", "/index", "/"):
            whole, head = http.get(address), http.head(address)
            assert (head.status_code, head.content) == (200, b"")
            names = ("content-length", "content-type", "etag", "accept-ranges")
            assert [head.headers.get(n) for n in names] == [whole.headers.get(n) for n in names]
        part = http.head("/images/7", headers={"range": "bytes=0-3"})
        assert (part.status_code, int(part.headers["content-length"]) > 4) == (200, True)
        assert http.head("/images/99").status_code == 404


def test_the_type_is_that_of_the_content(tmp_path, get):
    for name, format in (
        ("a.png", "JPEG"),
        ("b.jpg", "WEBP"),
        ("c.html", "GIF"),
        ("d.tif", "TIFF"),
    ):
        (tmp_path / "p").mkdir(exist_ok=True)
        (tmp_path / "p" / name).write_bytes(content(1, format))
    fill(tmp_path / "p", 10)
    build([tmp_path / "p"], tmp_path / "index", bits=16)
    types = {
        name: get(tmp_path / "index", f"/images/{id}").headers["content-type"]
        for name, id in ids_by_name(tmp_path).items()
        if name[:1].isalpha()
    }
    assert types == {b"a.png": "image/jpeg", b"b.jpg": "image/webp", b"d.tif": "image/tiff"} | {
        name: "image/gif" for name in types if name == b"c.html"
    }


def test_a_thumbnail_is_small_and_kept(photos, get, monkeypatch):
    app = create_app(ServedIndex(photos / "index", device="cpu"))
    answer = get(photos / "index", "/thumbnails/3?size=16", app=app)
    assert answer.headers["content-type"] == "image/webp"
    assert Image.open(io.BytesIO(answer.content)).size == (16, 12)
    with monkeypatch.context() as patched:
        patched.setattr(files_module, "small_image", None)
        assert get(photos / "index", "/thumbnails/3?size=16", app=app).content == answer.content
        headers = {"if-none-match": answer.headers["etag"]}
        again = get(photos / "index", "/thumbnails/3?size=16", app=app, headers=headers)
        assert (again.status_code, again.content) == (304, b"")
    assert Image.open(io.BytesIO(get(photos / "index", "/thumbnails/3", app=app).content)).size == (
        32,
        24,
    )


def test_thumbnails_that_are_kept_have_a_limit(photos, networks, monkeypatch):
    files = IndexedFiles(ServedIndex(photos / "index", device="cpu"))
    monkeypatch.setattr(files_module, "_KEPT", 1000)
    for id in range(20):
        with files.open(id) as image:
            small = files.thumbnail(image, 32, 1.0)
    assert 0 < files._kept_bytes <= 1000
    assert files._kept_bytes == sum(map(len, files._kept.values()))
    assert small in files._kept.values()


@pytest.mark.parametrize("kind", ["images", "thumbnails"])
@pytest.mark.parametrize(
    ("id", "status"),
    [
        ("30", 404),
        (str(2**63 - 1), 404),
        (str(2**63), 422),
        ("-1", 422),
        ("1.5", 422),
        ("0x1", 422),
        ("1e0", 422),
        ("abc", 422),
        ("%00", 422),
        ("1%00", 422),
        ("9" * 5000, 422),
        ("%F0%9F%98%80", 422),
        ("..%2f..%2fetc%2fpasswd", 404),
        ("%2e%2e%2f%2e%2e%2fetc%2fpasswd", 404),
        ("%252e%252e%252fetc%252fpasswd", 422),
        ("..%5c..%5cetc%5cpasswd", 422),
        ("..%c0%af..%c0%afetc/passwd", 404),
        ("%2fetc%2fpasswd", 404),
        ("file:%2f%2f%2fetc%2fpasswd", 404),
        ("", 404),
    ],
)
def test_ids_that_are_none(photos, get, kind, id, status):
    answer = get(photos / "index", f"/{kind}/{id}")
    assert answer.status_code == status
    assert b"root:" not in answer.content
    assert answer.json()["detail"]


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/..%2fapp.py",
        "/static/%2e%2e/app.py",
        "/static/%2e%2e%2fapp.py",
        "/static/....//app.py",
        "/static//etc/passwd",
        "/static/..%5capp.py",
        "/static/%00",
        "/static/api.css%00.html",
        "/static/" + "a" * 5000,
        "/static/",
        "/static",
    ],
)
def test_static_files_are_those_of_the_package(photos, get, path):
    answer = get(photos / "index", path)
    assert answer.status_code in (404, 307), answer.text
    assert b"import" not in answer.content and b"root:" not in answer.content
    assert get(photos / "index", "/static/api.css").headers["content-type"].startswith("text/css")


@pytest.mark.parametrize("size", ["0", "-5", "15", "2049", "1e3", "", "256;", "9" * 400])
def test_sizes_of_thumbnails_have_limits(photos, get, size):
    assert get(photos / "index", f"/thumbnails/3?size={size}").status_code == 422


def test_what_took_the_place_of_a_file_is_not_served(copy, networks, get, tmp_path):
    """Of each kind that leads elsewhere or is no image; the others are still served."""
    index = ImageIndex.open(copy / "index", device="cpu")
    index.update()
    ids, p = ids_by_name(copy), copy / "p"
    secret = tmp_path / "secret.png"
    secret.write_bytes(content(500))
    before = (p / "000.png").stat()
    for name in ("000.png", "001.png", "002.png", "003.png", "004.png", "005.png"):
        (p / name).unlink()
    (p / "000.png").symlink_to(secret)
    os.utime(secret, ns=(before.st_atime_ns, before.st_mtime_ns))
    (p / "001.png").symlink_to(p / "010.png")
    os.mkfifo(p / "002.png")
    (p / "003.png").mkdir()
    (p / "004.png").write_text("<script>alert(1)</script>")
    for kind in ("images", "thumbnails"):
        for name in (b"000.png", b"001.png", b"002.png", b"003.png", b"004.png", b"005.png"):
            answer = get(copy / "index", f"/{kind}/{ids[name]}")
            assert answer.status_code == 404, name
            assert str(tmp_path) not in answer.text
        assert get(copy / "index", f"/{kind}/{ids[b'006.png']}").status_code == 200


def test_a_folder_that_became_a_link_shows_nothing_outside(tmp_path, networks, get):
    fill(tmp_path / "p/a", 12)
    build([tmp_path / "p"], tmp_path / "index", bits=16)
    assert get(tmp_path / "index", "/images/3").status_code == 200
    shutil.move(tmp_path / "p/a", tmp_path / "elsewhere")
    (tmp_path / "p/a").symlink_to(tmp_path / "elsewhere")
    assert get(tmp_path / "index", "/images/3").status_code == 404
    (tmp_path / "p/a").unlink()
    # A link that stays inside is one way to the same files.
    shutil.move(tmp_path / "elsewhere", tmp_path / "p/b")
    (tmp_path / "p/a").symlink_to(tmp_path / "p/b")
    assert get(tmp_path / "index", "/images/3").status_code == 200


def test_an_image_in_a_shard_is_served_from_it(copy, networks, get, tmp_path):
    names = sorted((copy / "p").iterdir())
    shard = copy / "p/s.tar"
    with tarfile.open(shard, "w") as tar:
        for folder in "ab":
            for name in names[:2]:
                tar.add(name, f"{folder}/{folder}{name.name}")
    build([shard], copy / "index", bits=16, overwrite=True)
    ids = ids_by_name(copy)
    for name in names[:2]:
        for folder in "ab":
            id = ids[os.fsencode(folder + name.name)]
            answer = get(copy / "index", f"/images/{id}")
            assert answer.content == name.read_bytes()
            assert answer.headers["content-length"] == str(len(answer.content))
    part = get(copy / "index", f"/images/{id}", headers={"range": "bytes=5-9"})
    assert (part.status_code, part.content) == (206, names[1].read_bytes()[5:10])
    assert get(copy / "index", f"/thumbnails/{id}").status_code == 200
    shard.rename(tmp_path / "elsewhere.tar")
    assert get(copy / "index", f"/images/{id}").status_code == 404
    shard.symlink_to(tmp_path / "elsewhere.tar")
    assert get(copy / "index", f"/images/{id}").status_code == 404
    shard.unlink()
    with tarfile.open(shard, "w") as tar:
        tar.add(names[3], "a/other.png")
    assert get(copy / "index", f"/images/{id}").status_code == 404


def test_links_that_were_indexed_are_served_when_asked(tmp_path, networks, get):
    fill(tmp_path / "real", 12)
    (tmp_path / "p").mkdir()
    for path in (tmp_path / "real").iterdir():
        (tmp_path / "p" / path.name).symlink_to(path)
    build([tmp_path / "p"], tmp_path / "index", bits=16)
    ids = ids_by_name(tmp_path)
    follow = ServerSettings(follow_links=True)
    one = f"/images/{ids[b'001.png']}"
    assert get(tmp_path / "index", one).status_code == 404
    answer = get(tmp_path / "index", one, settings=follow)
    assert answer.content == (tmp_path / "real/001.png").read_bytes()
    # Another file is not what was indexed.
    (tmp_path / "secret.png").write_bytes(content(500))
    (tmp_path / "p/001.png").unlink()
    (tmp_path / "p/001.png").symlink_to(tmp_path / "secret.png")
    assert get(tmp_path / "index", one, settings=follow).status_code == 404


def test_a_file_outside_all_recorded_folders_is_not_served(copy, networks, get, tmp_path):
    """An image can be added by a name that is the path of another file."""
    outside = tmp_path / "outside.png"
    outside.write_bytes(content(900))
    index = ImageIndex.open(copy / "index", device="cpu")
    added = index.add([content(900), content(901)], [str(outside), "uploads/1"])
    answers = [get(copy / "index", f"/images/{id}") for id in added.ids.tolist()]
    assert [answer.status_code for answer in answers] == [404, 404]
    assert "without a file" in answers[1].json()["detail"]


def test_what_is_exchanged_while_it_is_opened_is_not_served(copy, networks, tmp_path, monkeypatch):
    """The folder becomes a link after its path was looked at, and back."""
    files = IndexedFiles(ServedIndex(copy / "index", device="cpu"))
    (tmp_path / "other").mkdir()
    for path in (copy / "p").iterdir():
        (tmp_path / "other" / path.name).write_bytes(content(77))
    real_open = os.open

    def exchanged(path, flags, **options):
        os.rename(copy / "p", copy / "aside")
        os.symlink(tmp_path / "other", copy / "p")
        try:
            return real_open(path, flags, **options)
        finally:
            os.unlink(copy / "p")
            os.rename(copy / "aside", copy / "p")

    with files.open(4) as image:
        assert image.file.read() == (copy / "p/004.png").read_bytes()
    monkeypatch.setattr(os, "open", exchanged)
    with pytest.raises(NoImageError, match="not where it was"), files.open(4):
        pass
