"""Images in a storage of objects that is in memory."""

from __future__ import annotations

from image_tools import image

URL = "memory://photos/set"


def put(storage, path, tmp_path, seed):
    image(seed).save(tmp_path / "one.png")
    data = (tmp_path / "one.png").read_bytes()
    storage.pipe_file(path, data)
    return data


def names(n=12):
    return sorted(f"{URL}/{i % 3}/{i:03}.png" for i in range(n))
