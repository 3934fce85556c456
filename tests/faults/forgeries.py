"""Ways to damage and to forge the files of an index."""

from __future__ import annotations

import json
import os
import random
import struct
from copy import deepcopy
from pathlib import Path

from store_tools import canonical, forged

from hyperpq.utils.files import checksums

HOSTILE = (
    *(None, True, False, -1, 0, 1, 2, 3, 7, 8, 9, 255, 2**16, 2**31, 2**53, 2**62),
    *(2**63 - 1, 2**63, 2**64, -(2**63), 10**30, 1.5, -0.0, 1e-300, 1e308, float("nan")),
    *("", "x" * 5000, "../x", "/etc/passwd", "\ud800", "l1", "inner", "int64", "uint8", "F16"),
    *([], {}, [1] * 5, [2**40, 2**40], [[[[]]]], {"a": {}}),
)


def spots(value, found=None) -> list:
    """Every (container, key) of a JSON value."""
    found = [] if found is None else found
    if isinstance(value, (dict, list)):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            found.append((value, key))
            spots(value[key], found)
    return found


def edit(value, rng: random.Random) -> None:
    """Change one thing somewhere in a JSON value."""
    container, key = rng.choice(spots(value))
    how = rng.randrange(8)
    if how == 0:
        del container[key]
    elif how == 1 and isinstance(container, dict):
        container[rng.choice(["extra", "", "a/b", f"{key}x", "kind"])] = deepcopy(container[key])
    elif how == 1:
        container.append(deepcopy(container[key]))
    elif how == 2:
        other, name = rng.choice(spots(value))
        container[key] = deepcopy(other[name])
    elif how < 5 and type(container[key]) is int:
        container[key] += rng.choice([-64, -8, -1, 1, 8, 64, container[key], -2 * container[key]])
    else:
        container[key] = deepcopy(rng.choice(HOSTILE))


def edit_header(data: bytes, rng: random.Random) -> bytes:
    """Change the header of a safetensors file: its length, its JSON, or some bytes of it."""
    size = struct.unpack("<Q", data[:8])[0]
    header, tensors = data[8 : 8 + size], data[8 + size :]
    how = rng.randrange(5)
    if how == 0:
        wrong = rng.choice([0, 1, size - 1, size + 1, len(data), 2**31, 2**62, 2**64 - 1])
        return struct.pack("<Q", wrong) + data[8:]
    if how == 1:
        return data[:8] + edit_bytes(header, rng) + tensors
    content = json.loads(header)
    for _ in range(rng.choice((1, 1, 3))):
        if spots(content):
            edit(content, rng)
    text = json.dumps(content).encode()
    return struct.pack("<Q", len(text)) + text + tensors[: rng.choice((None, None, -4, 0))]


def edit_bytes(data: bytes, rng: random.Random) -> bytes:
    """Change some bytes, most of them where there is something."""
    out = bytearray(data)
    used = [i for i, byte in enumerate(data) if byte] or range(len(data))
    for _ in range(rng.choice((1, 2, 8))):
        width = rng.choice((1, 1, 4, 8))
        start = rng.choice(used)
        word = rng.choice((bytes(width), b"\xff" * width, rng.randbytes(width)))
        out[start : start + width] = word[: len(out) - start]
    return bytes(out)


def edit_json(data: bytes, rng: random.Random) -> bytes:
    """Change a JSON text."""
    content = json.loads(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        if spots(content):
            edit(content, rng)
    return json.dumps(content).encode()


class Forger:
    """An index directory that is altered again and again, from one original.

    Parameters
    ----------
    root : Path
        The index. It is put right before each alteration.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.original = {
            str(path.relative_to(root)): path.read_bytes()
            for path in sorted(root.rglob("*"))
            if path.is_file() and not path.name.startswith(".lock")
        }
        self.names = list(self.original)
        self.manifest = self.original["manifest.json"]

    def restore(self) -> None:
        for name, data in self.original.items():
            path = self.root / name
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            else:
                path.unlink(missing_ok=True)
            path.write_bytes(data)

    def _other(self, pattern: str, rng: random.Random) -> str:
        return rng.choice([name for name in self.names if pattern in name])

    # Without right checksums: none of these may be read as an index.

    def flip_bit(self, rng: random.Random) -> None:
        name = rng.choice(self.names)
        data = bytearray(self.original[name])
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        (self.root / name).write_bytes(data)

    def overwrite(self, rng: random.Random) -> None:
        name = rng.choice(self.names)
        data = self.original[name]
        while (altered := edit_bytes(data, rng)) == data:
            pass
        (self.root / name).write_bytes(altered)

    def truncate(self, rng: random.Random) -> None:
        name = rng.choice(self.names)
        os.truncate(self.root / name, rng.randrange(len(self.original[name])))

    def extend(self, rng: random.Random) -> None:
        with open(self.root / rng.choice(self.names), "ab") as file:
            file.write(bytes(rng.choice((1, 7, 4096))))

    def make_sparse(self, rng: random.Random) -> None:
        os.truncate(self.root / rng.choice(self.names), rng.choice((1 << 30, 1 << 40)))

    def swap(self, rng: random.Random) -> None:
        first, second = rng.sample(self.names, 2)
        (self.root / first).write_bytes(self.original[second])
        (self.root / second).write_bytes(self.original[first])

    def remove(self, rng: random.Random) -> None:
        (self.root / rng.choice(self.names)).unlink()

    def put_something_else(self, rng: random.Random) -> None:
        path = self.root / rng.choice(self.names)
        path.unlink()
        kind = rng.choice(("link", "folder", "pipe"))
        if kind == "link":
            path.symlink_to("/dev/zero")
        elif kind == "folder":
            path.mkdir()
        else:
            os.mkfifo(path)

    def edit_manifest(self, rng: random.Random) -> None:
        content = original = json.loads(self.manifest)
        while content == original:
            content = json.loads(edit_json(self.manifest, rng))
        (self.root / "manifest.json").write_bytes(canonical(content) + b"\n")

    # With right checksums, as a forger makes them.

    def forge_manifest(self, rng: random.Random) -> None:
        content = json.loads(edit_json(self.manifest, rng))
        if isinstance(content, dict):
            (self.root / "manifest.json").write_bytes(forged(content))

    def forge_codec(self, rng: random.Random) -> None:
        name = self._other("codec.json", rng)
        self._put(name, edit_json(self.original[name], rng))

    def forge_weights_header(self, rng: random.Random) -> None:
        name = self._other(".safetensors", rng)
        self._put(name, edit_header(self.original[name], rng))

    def forge_weights(self, rng: random.Random) -> None:
        name = self._other(".safetensors", rng)
        self._put(name, edit_bytes(self.original[name], rng))

    def forge_shard(self, rng: random.Random) -> None:
        name = self._other("shards/", rng)
        self._put(name, edit_bytes(self.original[name], rng))

    def forge_tombstones(self, rng: random.Random) -> None:
        name = self._other("dead/", rng)
        self._put(name, edit_bytes(self.original[name], rng))

    def forge_swap(self, rng: random.Random) -> None:
        """The content of one file under the name of another."""
        first, second = rng.sample([name for name in self.names if name != "manifest.json"], 2)
        self._put(first, self.original[second])

    def _put(self, name: str, data: bytes) -> None:
        (self.root / name).write_bytes(data)
        content = json.loads(self.manifest)
        files = content["files"].items()
        entries = [entry for own, entry in files if entry.get("file", own) == name]
        for shard in content["shards"]:
            entries += [shard] if shard["file"] == name else []
            entries += [shard["dead"]] if (shard["dead"] or {}).get("file") == name else []
        for entry in filter(None, entries):
            entry.update(bytes=len(data), xxh3_128=list(checksums(data)))
        (self.root / "manifest.json").write_bytes(forged(content))


BLIND = (
    Forger.flip_bit,
    Forger.overwrite,
    Forger.truncate,
    Forger.extend,
    Forger.make_sparse,
    Forger.swap,
    Forger.remove,
    Forger.put_something_else,
    Forger.edit_manifest,
)
WITH_CHECKSUMS = (
    Forger.forge_manifest,
    Forger.forge_codec,
    Forger.forge_weights_header,
    Forger.forge_weights,
    Forger.forge_shard,
    Forger.forge_tombstones,
    Forger.forge_swap,
)
