"""An index of every format that a release has written is kept in tests/data and stays readable."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from hyperpq import HiHPQIndex
from hyperpq.backbones.tuned import TunedWeights
from hyperpq.codec.feature_codec import FeatureCodec
from hyperpq.codec.pq import PQCodec
from hyperpq.codec.serialization import to_files
from hyperpq.codes import unpack
from hyperpq.index.cells import Cells, regrouped
from hyperpq.index.directory import codec_of, index_files
from hyperpq.store import IndexStore, Rows, live_batches, verify_directory
from hyperpq.store.manifest import NETWORK_FILE, VERSIONS

DATA = Path(__file__).parents[1] / "data"
FORMATS = sorted(DATA.glob("format-*"))
IDS = [3, 1, 40, 7, 2**62, 11, 5]
ATTRIBUTES = {
    "small": np.array([5, -4, 3, -2, 1, 0, 9], np.int32),
    "large": np.array(IDS, np.int64) * 2 - 1,
    "half": np.array([0.5, np.nan, -1, 2, 3, 4, 5], np.float32),
    "double": np.linspace(0, 1, 7),
    "when": np.array(["2024-01-01", "NaT", "1999-12-31T23:59:59.5", *["2030-06-01"] * 4], "M8[ns]"),
    "kind": ["cat", None, "dog", "cat", "é", "", "dog"],
}
REMOVED = [7, 11]


def vectors() -> tuple[np.ndarray, np.ndarray]:
    """Codewords (2, 256, 2) and vectors (7, 4) of small whole numbers, the same everywhere."""
    grid = np.stack(np.meshgrid(np.arange(16), np.arange(16)), -1).reshape(256, 2)
    words = np.stack([grid, grid[::-1] * 2]).astype(np.float32)
    codes = np.array([[i * 31 % 256, i * 57 % 256] for i in range(7)])
    return words, np.concatenate([words[0][codes[:, 0]], words[1][codes[:, 1]]], axis=1)


def make_format(version: int, path: Path) -> None:
    """Write the index that is kept for a format: ``make_format(4, DATA / "format-4")``.

    In version 4 it keeps features, and its codec was replaced once. In version 5 it has tuned
    weights of its network, too, and in version 6 cells.
    """
    words, x = vectors()
    codec = PQCodec.from_codebooks(words)
    first = codec if version == 3 else PQCodec.from_codebooks(words[:, ::-1])
    kept = "none" if version == 3 else "int8"
    index = HiHPQIndex.from_codec(first, device="cpu", features=kept)
    index.metadata = {"made": "for tests/test_format.py"}
    index.save(path)
    some = {name: values[:5] for name, values in ATTRIBUTES.items()}
    index.add(x[:5], IDS[:5], attributes=some)
    if version > 3:
        replace_codec(path, codec, {NETWORK_FILE: network().to_bytes()} if version > 4 else {})
        if version > 5:
            make_cells(path, x[[0, 2, 4]])
        index = HiHPQIndex.load(path, device="cpu")
    index.add(x[5:], IDS[5:], attributes={n: values[5:] for n, values in ATTRIBUTES.items()})
    index.remove_ids(REMOVED)


def network() -> TunedWeights:
    """Tuned weights of a network that does not exist."""
    changes = {
        "stem.weight": np.linspace(-1, 1, 12).astype(np.float16).reshape(3, 4),
        "stem.bias": np.array([0.25, -0.5, 3], np.float32),
    }
    return TunedWeights("none", "0123456789abcdef" * 2, changes)


def replace_codec(path: Path, codec: PQCodec, others: dict[str, bytes]) -> None:
    store = IndexStore.open(path)
    kept = FeatureCodec("int8", codec.d)
    recoded = [
        Rows(codec.encode(kept.decode(r.features)), r.ids, r.attributes, r.path_strings, r.features)
        for r in live_batches(store.segments)
    ]
    files = to_files(codec) | others
    store.commit(append=recoded, drop=range(len(store.segments)), files=files)


def make_cells(path: Path, centroids: np.ndarray) -> None:
    store = IndexStore.open(path)
    codec = codec_of(store).with_cells(Cells(centroids))
    store.commit(
        append=regrouped(store.segments, codec),
        drop=range(len(store.segments)),
        files=index_files(codec, network()),
    )


def test_every_format_is_kept():
    assert [path.name for path in FORMATS] == [f"format-{version}" for version in VERSIONS]


@pytest.mark.parametrize("path", FORMATS, ids=lambda path: path.name)
def test_what_was_written_is_read(path, tmp_path):
    shutil.copytree(path, tmp_path / "index")
    index = HiHPQIndex.load(tmp_path / "index", device="cpu", verify=True)
    assert verify_directory(index.path) == []
    kept = [i for i, id in enumerate(IDS) if id not in REMOVED]
    ids = np.array(IDS)[kept]
    assert index.ids.tolist() == sorted(ids.tolist())
    assert index.metadata == {"made": "for tests/test_format.py"}
    x = vectors()[1]
    np.testing.assert_array_equal(index.reconstruct_batch(ids), x[kept])
    if index.has_features:
        # As the page of the format says: a scale, and signed bytes.
        (batch,) = live_batches(IndexStore.open(path).segments[:1])
        scale = batch.features[:, :4].copy().view("<f4")
        values = scale * batch.features[:, 4:].view(np.int8)
        wanted = x[[IDS.index(id) for id in batch.ids]]
        assert (np.abs(values - wanted) <= scale / 2).all()
        np.testing.assert_array_equal(index.features_of(batch.ids), values)
    tuned = index.view().rows.tuned
    assert tuned == (network() if path.name in ("format-5", "format-6") else None)
    if tuned is not None:
        assert tuned.changes.keys() == network().changes.keys()
        for name, change in tuned.changes.items():
            np.testing.assert_array_equal(change, network().changes[name], strict=True)
    found = index.attributes_of(ids)
    for name, values in ATTRIBUTES.items():
        want = [values[i] for i in kept] if name == "kind" else values[kept]
        np.testing.assert_array_equal(found[name], want)
    D, I = index.search(x[kept], 1, where="kind is not None")  # noqa: E741
    named = [i for i in kept if ATTRIBUTES["kind"][i] is not None]
    far = ((x[kept][:, None] - x[named]) ** 2).sum(-1)
    np.testing.assert_array_equal(D[:, 0], far.min(1))
    assert (I[D[:, 0] == 0, 0] == ids[far.min(1) == 0]).all()
    assert index.nlist == (3 if path.name == "format-6" else 0)
    if index.nlist:
        # As the page of the format says: codes and ids by cell, and where each row is.
        for shard in IndexStore.open(path).segments:
            with h5py.File(path / shard.entry.file) as file:
                starts, places, by_cell = (file[n][:] for n in ("cell_starts", "places", "ids"))
                assert by_cell[places].tolist() == sorted(by_cell.tolist())
                cells = np.repeat(np.arange(3), np.diff(starts))
                at = np.array([x[IDS.index(id)] for id in by_cell.tolist()])
                far = ((at[:, None] - x[[0, 2, 4]]) ** 2).sum(-1)
                np.testing.assert_array_equal(cells, far.argmin(1))
    # It can be written to.
    index.add(x[:1], [99], attributes={n: values[:1] for n, values in ATTRIBUTES.items()})
    index.compact()
    again = HiHPQIndex.load(tmp_path / "index", device="cpu", verify=True)
    assert (again.ntotal, again.view().rows.tuned) == (6, tuned)
    assert unpack(index.encode(x), 2, 8).shape == (7, 2)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_format_is_still_the_kept_one(tmp_path, version):
    """Who changes what is written must give it a new version."""

    def described(folder: Path) -> tuple[list[str], object]:
        names = [str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()]
        manifest = json.loads((folder / "manifest.json").read_text())
        return sorted(name for name in names if name != ".lock"), without_bytes(manifest)

    make_format(version, tmp_path / "index")
    assert described(tmp_path / "index") == described(DATA / f"format-{version}")


def without_bytes(value: object) -> object:
    """What a manifest says without lengths, offsets and checksums, which depend on h5py."""
    if isinstance(value, dict):
        left_out = ("bytes", "xxh3_128", "checksum", "offset")
        return {key: without_bytes(v) for key, v in value.items() if key not in left_out}
    return [without_bytes(v) for v in value] if isinstance(value, list) else value
