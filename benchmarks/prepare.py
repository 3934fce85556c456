"""Unpack a data set from its official archive into the folders that the benchmarks read.

    python -m benchmarks.prepare cifar10 cifar-10-binary.tar.gz CIFAR10
    python -m benchmarks.prepare scenes15 scene_categories.zip SCENES
    python -m benchmarks.prepare grocery GroceryStoreDataset-master.zip GROCERY

The archives are not downloaded; `benchmarks/README.md` says where they are. CIFAR-10 is read from
its binary version, which is plain bytes: the Python version is pickled, and opening a pickle may
run any code. Its checksum is compared with the published one. The images are written as PNG, which
loses nothing. Archives of image files are unpacked as they are, without names that lead out of the
folder.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np
from PIL import Image

from hyperpq.errors import DatasetError, HyperPQError

# https://www.cs.toronto.edu/~kriz/cifar.html, "CIFAR-10 binary version"
CIFAR10_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
_CIFAR10 = "cifar-10-batches-bin"
_TRAIN = [f"data_batch_{i}.bin" for i in range(1, 6)]
_SIDE = 32
# A label and the pixels, channel by channel.
_RECORD = 1 + 3 * _SIDE * _SIDE
_IMAGES = {".jpg", ".jpeg", ".png"}
_SPLITS = {"train", "val", "test"}


def prepare_cifar10(archive: Path, out: Path, md5: str | None = CIFAR10_MD5) -> int:
    """Write the images of CIFAR-10 as ``out/{train,test}/CLASS/NUMBER.png``.

    Parameters
    ----------
    archive : Path
        ``cifar-10-binary.tar.gz``.
    out : Path
        A folder that does not exist yet.
    md5 : str, optional
        Expected checksum of the archive; None to take any.

    Returns
    -------
    int
        Number of images.

    Raises
    ------
    DatasetError
        If the archive is not the expected one.
    """
    if md5 is not None and (found := _md5(archive)) != md5:
        raise DatasetError(
            f"{archive} has the MD5 {found}; expected {md5}, that of cifar-10-binary.tar.gz on "
            "https://www.cs.toronto.edu/~kriz/cifar.html; download it again."
        )
    count = 0
    with tarfile.open(archive, "r:gz") as members:
        names = _member(members, archive, "batches.meta.txt").read().decode().split()
        for part, files in (("train", _TRAIN), ("test", ["test_batch.bin"])):
            for name in names:
                (out / part / name).mkdir(parents=True)
            number = 0
            for file in files:
                data = np.frombuffer(_member(members, archive, file).read(), np.uint8)
                if not len(data) or len(data) % _RECORD:
                    raise DatasetError(
                        f"{file} in {archive} has {len(data)} bytes; expected a multiple of "
                        f"{_RECORD}."
                    )
                for record in data.reshape(-1, _RECORD):
                    pixels = record[1:].reshape(3, _SIDE, _SIDE).transpose(1, 2, 0)
                    file_name = out / part / names[record[0]] / f"{number:05d}.png"
                    Image.fromarray(np.ascontiguousarray(pixels)).save(file_name)
                    number += 1
            count += number
    return count


def _md5(file: Path) -> str:
    # A checksum of transfer, as its publisher gives it, not of trust.
    state = hashlib.md5(usedforsecurity=False)
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            state.update(block)
    return state.hexdigest()


def _member(members: tarfile.TarFile, archive: Path, name: str) -> IO[bytes]:
    """Open a file of CIFAR-10."""
    try:
        found = members.extractfile(f"{_CIFAR10}/{name}")
    except KeyError:
        found = None
    if found is None:
        raise DatasetError(
            f"{archive} has no {_CIFAR10}/{name}; expected cifar-10-binary.tar.gz, the binary "
            "version of CIFAR-10."
        )
    return found


def unpack_images(archive: Path, out: Path) -> int:
    """Unpack the images of a ZIP file as ``out/CLASS/.../NAME``.

    Folders that all images lie in are left out. The Grocery Store data set splits its images into
    ``train``, ``val`` and ``test``; these folders are left out, too, and begin the names of the
    files instead, and so are its drawings of products.

    Parameters
    ----------
    archive : Path
        A ZIP file with a folder for each class.
    out : Path
        A folder that does not exist yet.

    Returns
    -------
    int
        Number of images.

    Raises
    ------
    DatasetError
        If it has no images in class folders, or a name that leads out of the folder.
    """
    with zipfile.ZipFile(archive) as members:
        images = {
            PurePosixPath(name).parts: name
            for name in members.namelist()
            if PurePosixPath(name).suffix.lower() in _IMAGES and "__MACOSX" not in name
        }
        if any(".." in parts or parts[0] == "/" for parts in images):
            raise DatasetError(f"{archive} has a name that leads out of its folder.")
        split = {parts: parts.index("dataset") for parts in images if "dataset" in parts[:-3]}
        is_split = {parts: at for parts, at in split.items() if parts[at + 1] in _SPLITS}
        if is_split:
            targets = {
                (*parts[at + 2 : -1], f"{parts[at + 1]}-{parts[-1]}"): images[parts]
                for parts, at in is_split.items()
            }
        else:
            shared = _shared_folders(list(images))
            targets = {parts[shared:]: name for parts, name in images.items()}
        if not targets or any(len(parts) < 2 for parts in targets):
            raise DatasetError(f"{archive} has no images in class folders.")
        for parts, name in targets.items():
            target = out.joinpath(*parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            with members.open(name) as source, target.open("wb") as file:
                shutil.copyfileobj(source, file)
    return len(targets)


def _shared_folders(paths: Sequence[tuple[str, ...]]) -> int:
    """Number of leading folders that all paths have in common."""
    count = 0
    for depth in range(min((len(parts) - 1 for parts in paths), default=0)):
        if len({parts[depth] for parts in paths}) > 1:
            break
        count += 1
    return count


PREPARE: dict[str, Callable[[Path, Path], int]] = {
    "cifar10": prepare_cifar10,
    "scenes15": unpack_images,
    "grocery": unpack_images,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", choices=PREPARE)
    parser.add_argument("archive", type=Path, help="the archive that was downloaded")
    parser.add_argument("out", type=Path, help="folder of the images; it must not exist")
    args = parser.parse_args(argv)
    unfinished = args.out.with_name(f"{args.out.name}.part")
    for folder in (args.out, unfinished):
        if folder.exists():
            raise SystemExit(f"{folder} exists; expected a folder that does not exist yet.")
    try:
        count = PREPARE[args.dataset](args.archive, unfinished)
        unfinished.rename(args.out)
    except (HyperPQError, OSError, tarfile.TarError, zipfile.BadZipFile) as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise SystemExit(str(error)) from None
    print(f"{count:,} images in {args.out}")


if __name__ == "__main__":
    main()
