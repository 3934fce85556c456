"""An index of images whose metadata or columns somebody else wrote: one sentence, no traceback."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_tools import Grid, build, fill, update
from store_tools import rewrite_manifest

from hyperpq import HiHPQIndex, ImageIndex
from hyperpq.diagnostics import describe_index
from hyperpq.errors import CorruptIndexError, HyperPQError, InvalidInputError
from hyperpq.images.build.options import BuildOptions
from hyperpq.images.metadata import ImageMetadata
from hyperpq.index.path_map import Root

numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.just(10**400)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=8) | st.sampled_from(["\ud800", "a\0"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=4,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folder of images and an index of them; not to be changed."""
    root = tmp_path_factory.mktemp("made")
    folder = fill(root / "images", 6)
    index, _ = build([folder], root / "index", bits=16)
    return folder, index


def use(folder, path):
    """Open, search, describe and update an index; every error is one sentence of hyperpq."""
    for act in (
        lambda: ImageIndex.open(path, backbone=Grid()).query([folder / "000.png"], 2),
        lambda: describe_index(path),
        lambda: update([folder], path),
        lambda: update([folder], path, bits=16, exclude=["x"]),
        lambda: build([folder], path.with_name("other"), codec=path, overwrite=True, bits=16),
    ):
        try:
            act()
        except HyperPQError as error:
            assert "\n" not in str(error)
            assert str(error).endswith(".")


def fields_of(metadata):
    """Every field of the metadata as a path of keys, with 0 for the first item of a list."""
    found = [()]
    for path in found:
        value = metadata
        for key in path:
            value = value[key]
        if isinstance(value, dict):
            found += [(*path, key) for key in value]
        elif isinstance(value, list) and value:
            found.append((*path, 0))
    return found[1:]


PREPROCESSING = Grid().identity()["preprocessing"]
FIELDS = [
    *("pictures", "pictures.backbone", "pictures.max_megapixels", "pictures.options"),
    *(f"pictures.backbone.{name}" for name in Grid().identity()),
    *(f"pictures.backbone.preprocessing.{name}" for name in PREPROCESSING),
    *("pictures.backbone.normalization.mean", "pictures.backbone.normalization.std"),
    *(f"pictures.options.{name}" for name in BuildOptions().to_stored()),
    *("pictures.roots", "pictures.roots.0"),
    *(f"pictures.roots.0.{name}" for name in Root(b"/a", b"/a", mount=b"/").to_stored()),
    *(
        "pictures.options.unknown",
        "pictures.options.metric",
        "pictures.backbone.preprocessing.size",
    ),
]


@settings(max_examples=120)
@given(st.sampled_from(FIELDS), values, st.booleans())
def test_a_forged_field_is_one_sentence(made, tmp_path_factory, field, value, remove):
    folder, index = made
    metadata = json.loads(json.dumps(index.index.metadata))
    *above, last = field.split(".")
    place = metadata
    for key in above:
        place = place[0 if key == "0" else key]
    if isinstance(place, list):
        place[:] = [] if remove else [value]
    elif remove:
        place.pop(last, None)
    else:
        place[last] = value
    path = tmp_path_factory.mktemp("forged") / "index"
    shutil.copytree(index.index.path, path)
    rewrite_manifest(path, lambda manifest: manifest["settings"].update(metadata=metadata))
    use(folder, path)
    shutil.rmtree(path.parent)


def test_the_fields_are_all_fields(made):
    known = {".".join(map(str, path)) for path in fields_of(made[1].index.metadata)}
    # What float32 networks do not record is forged, too.
    absent = ("unknown", "metric", "precision")
    assert set(FIELDS) ^ known == {f"pictures.options.{name}" for name in absent}


COLUMNS = {
    "size": np.arange(3),
    "mtime": np.arange(3).view("M8[ns]"),
    "folder": ["a", "b", "c"],
    "width": np.arange(3),
    "height": np.arange(3),
}
WRONG = {
    "size": [np.arange(3) / 2, ["a", "b", "c"], np.arange(3).view("M8[ns]"), None],
    "mtime": [np.arange(3), np.arange(3, dtype=np.int32), np.ones(3, np.float32), ["a"] * 3, None],
    "folder": [np.arange(3), None],
    "width": [["a", "b", "c"], None],
    "height": [np.ones(3) / 3, None],
}


@pytest.mark.parametrize(
    ("name", "number"), [(n, i) for n, all in WRONG.items() for i in range(len(all))]
)
def test_a_size_that_is_no_number_is_one_sentence(made, tmp_path, name, number):
    """Columns of other kinds, and columns that are missing."""
    folder, made_index = made
    attributes = COLUMNS | {name: WRONG[name][number]}
    attributes = {key: column for key, column in attributes.items() if column is not None}
    index = HiHPQIndex.from_codec(made_index.index.codec, device="cpu")
    paths = [bytes(folder / f"00{i}.png") for i in range(3)]
    x = np.ones((3, 48), np.float32)
    index.collection.add(index.encode(x), attributes=attributes, paths=paths)
    index.metadata = made_index.index.metadata
    index.save(tmp_path / "index")
    use(folder, tmp_path / "index")
    if name in ("size", "mtime"):
        with pytest.raises(HyperPQError):
            update([folder], tmp_path / "index")


def test_rows_without_paths_are_one_sentence(made, tmp_path):
    folder, made_index = made
    index = HiHPQIndex.from_codec(made_index.index.codec, device="cpu")
    index.add(np.ones((3, 48), np.float32), attributes=COLUMNS)
    index.metadata = made_index.index.metadata
    index.save(tmp_path / "index")
    use(folder, tmp_path / "index")
    with pytest.raises(CorruptIndexError, match="has no path"):
        update([folder], tmp_path / "index")


def test_options_of_a_later_version_are_named(made, tmp_path):
    folder, index = made
    path = tmp_path / "index"
    shutil.copytree(index.index.path, path)
    metadata = json.loads(json.dumps(index.index.metadata))
    metadata["pictures"]["options"]["shiny"] = True
    rewrite_manifest(path, lambda manifest: manifest["settings"].update(metadata=metadata))
    with pytest.raises(CorruptIndexError, match=r"'shiny'; expected only options of hyperpq build"):
        update([folder], path)
    # Only builds need the options.
    assert ImageIndex.open(path, backbone=Grid()).query([folder / "000.png"], 1)[0].error is None


@given(st.dictionaries(st.sampled_from([*BuildOptions().to_stored(), "x"]), values, max_size=3))
def test_stored_options_are_valid_or_refused(fields):
    try:
        options = BuildOptions.from_stored(fields)
    except InvalidInputError:
        return
    assert BuildOptions.from_stored(options.to_stored()) == options


@given(values)
def test_the_entry_is_valid_or_refused(value):
    try:
        metadata = ImageMetadata.from_index({"pictures": value})
    except CorruptIndexError:
        return
    assert metadata is not None
    assert ImageMetadata.from_index({}) is None
