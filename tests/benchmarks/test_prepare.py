"""Data sets from their official archives, which the tests make themselves."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from benchmarks import prepare
from hyperpq.datasets.protocols import cifar10_protocol, class_folders

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@pytest.fixture
def cifar(tmp_path):
    """An archive as that of CIFAR-10, with two images a class in each of its six files."""
    rng = np.random.default_rng(0)
    batches = {}
    for name in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
        records = rng.integers(0, 256, (20, 3073), np.uint8)
        records[:, 0] = np.arange(20) % 10
        batches[name] = records
    file = tmp_path / "cifar-10-binary.tar.gz"
    members = {"batches.meta.txt": ("\n".join(NAMES) + "\n\n").encode()}
    members |= {name: records.tobytes() for name, records in batches.items()}
    write_tar(file, members)
    return file, batches


def write_tar(file, members):
    with tarfile.open(file, "w:gz") as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def test_cifar10_becomes_the_folders_that_the_protocol_reads(cifar, tmp_path, monkeypatch, capsys):
    archive, batches = cifar
    digest = hashlib.md5(archive.read_bytes()).hexdigest()
    checked = prepare.prepare_cifar10
    monkeypatch.setitem(prepare.PREPARE, "cifar10", lambda a, out: checked(a, out, md5=digest))
    out = tmp_path / "CIFAR10"
    prepare.main(["cifar10", str(archive), str(out)])
    assert "120 images" in capsys.readouterr().out
    protocol = cifar10_protocol(out, "I")
    assert protocol.names == NAMES
    assert np.bincount(protocol.database.labels).tolist() == [10] * 10
    assert np.bincount(protocol.query.labels).tolist() == [2] * 10
    # Pixels are those of the archive: red, green and blue, row by row.
    for number in (3, 17):
        record = batches["data_batch_2.bin"][number]
        pixels = np.asarray(
            Image.open(out / f"train/{NAMES[record[0]]}/{20 + number:05d}.png"), np.uint8
        )
        np.testing.assert_array_equal(pixels.transpose(2, 0, 1).ravel(), record[1:])
    with pytest.raises(SystemExit, match="CIFAR10 exists"):
        prepare.main(["cifar10", str(archive), str(out)])


def test_another_archive_is_refused_and_nothing_is_left(cifar, tmp_path, monkeypatch):
    archive, _ = cifar
    out = tmp_path / "CIFAR10"
    with pytest.raises(
        SystemExit, match=r"has the MD5 .*; expected c32a1d4ab5d03f1284b67883e8d875"
    ):
        prepare.main(["cifar10", str(archive), str(out)])
    checked = prepare.prepare_cifar10
    monkeypatch.setitem(prepare.PREPARE, "cifar10", lambda a, out: checked(a, out, md5=None))
    names = "\n".join(NAMES).encode()
    write_tar(archive, {"batches.meta.txt": names, "data_batch_1.bin": b"12345"})
    with pytest.raises(SystemExit, match=r"data_batch_1\.bin .* has 5 bytes"):
        prepare.main(["cifar10", str(archive), str(out)])
    write_tar(archive, {"data_batch_1": b"a pickle"})
    with pytest.raises(SystemExit, match="binary version"):
        prepare.main(["cifar10", str(archive), str(out)])
    assert [path.name for path in tmp_path.iterdir()] == [archive.name]


def write_zip(file, names):
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, name.encode())


def test_folders_of_classes_are_unpacked(tmp_path):
    scenes = ["15-Scene/kitchen/1.jpg", "15-Scene/coast/1.jpg", "15-Scene/readme.txt"]
    write_zip(tmp_path / "a.zip", [*scenes, "__MACOSX/15-Scene/coast/._1.jpg"])
    prepare.main(["scenes15", str(tmp_path / "a.zip"), str(tmp_path / "a")])
    files, _, names = class_folders(tmp_path / "a")
    assert names == ["coast", "kitchen"] and len(files) == 2
    # Images of one product lie in one folder, whatever split they come from.
    top = "GroceryStoreDataset-master/dataset"
    names = [f"{top}/{part}/Fruit/Apple/1.jpg" for part in ("train", "test")]
    names += [f"{top}/val/Fruit/Pear/1.jpg", f"{top}/iconic-images-and-descriptions/Fruit/P/I.jpg"]
    write_zip(tmp_path / "b.zip", [*names, "GroceryStoreDataset-master/sample_images/x.png"])
    prepare.main(["grocery", str(tmp_path / "b.zip"), str(tmp_path / "b")])
    files, _, names = class_folders(tmp_path / "b")
    assert names == ["Fruit/Apple", "Fruit/Pear"]
    assert [file.path.rpartition(b"/")[2] for file in files] == [
        b"test-1.jpg",
        b"train-1.jpg",
        b"val-1.jpg",
    ]


@pytest.mark.parametrize("names", [["a.jpg"], ["../a/b.jpg", "x/b.jpg"], ["/a/b.jpg"], []])
def test_other_archives_are_refused(tmp_path, names):
    write_zip(tmp_path / "a.zip", names)
    with pytest.raises(SystemExit, match=r"class folders|leads out"):
        prepare.main(["scenes15", str(tmp_path / "a.zip"), str(tmp_path / "out/a")])
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]
