"""Views that are made on the device of the network: by the same code on a CPU."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_network
from image_tools import fill
from PIL import Image

from hyperpq.datasets import augment
from hyperpq.datasets.augment import MILD
from hyperpq.datasets.device_views import DeviceViews
from hyperpq.errors import InvalidInputError
from hyperpq.images import ImageIndex, build_index
from hyperpq.images.build import stages
from hyperpq.images.decoding import ReadImage
from hyperpq.images.device_passes import view_passes
from hyperpq.images.extract import ReadOptions, extract_features

DEVICE = ReadOptions(augmentation=MILD, n_views=2, views_on_device=True)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    tiny_network.install(monkeypatch)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("images"), 20)


def paths_of(folder):
    return [bytes(path) for path in sorted(folder.iterdir())]


def test_views_have_the_distribution_of_those_of_the_workers():
    """Mean and spread of the values, over many views of one wide image."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (4, 9, 3), np.uint8)).resize((90, 40))
    n, side = 300, 32
    square = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))
    names = [b"/folder/%d.png" % i for i in range(n)]
    read = [ReadImage(*image.size, 0)] * n
    squares = np.repeat(square[None], n, 0)
    (got,) = view_passes(squares, names, read, DeviceViews(MILD, side, 0), 1, "cpu")
    rngs = (augment.view_rng(0, b"%d.png" % i, 0) for i in range(n))
    wanted = np.stack([augment.make_view(image, MILD, side, rng) for rng in rngs])
    assert got.shape == wanted.shape
    for axes in ((0, 1, 2), (0, 1, 3), (0, 2, 3)):
        assert np.abs(got.mean(axes) - wanted.mean(axes)).max() < 6
    assert got.std() == pytest.approx(wanted.std(), rel=0.06)
    each = got.mean((1, 2, 3)).std(), wanted.mean((1, 2, 3)).std()
    assert each[0] == pytest.approx(each[1], rel=0.25)


def test_an_image_itself_is_as_before_and_its_views_depend_on_its_name(folder, tmp_path):
    network = tiny_network.load()
    paths = paths_of(folder)
    all_of_them = extract_features(paths, network, DEVICE)
    plain = extract_features(paths, network, ReadOptions())
    np.testing.assert_array_equal(all_of_them.plain, plain.plain)
    assert all_of_them.views.shape == (2, len(paths), network.d)
    assert np.abs(all_of_them.views - plain.plain).max() > 0.01
    assert np.abs(all_of_them.views[0] - all_of_them.views[1]).max() > 0.01
    # In another batch and another folder.
    (tmp_path / "moved").mkdir()
    some = []
    for path in sorted(folder.iterdir())[3:6]:
        moved = tmp_path / "moved" / path.name
        moved.write_bytes(path.read_bytes())
        some.append(bytes(moved))
    again = extract_features(some, network, DEVICE)
    np.testing.assert_allclose(again.views, all_of_them.views[:, 3:6], rtol=1e-4, atol=1e-4)


def test_processes_and_images_that_cannot_be_read(folder, tmp_path):
    network = tiny_network.load()
    (tmp_path / "bad.png").write_bytes(b"no image")
    paths = [*paths_of(folder)[:3], bytes(tmp_path / "bad.png")]
    options = [
        ReadOptions(workers, augmentation=MILD, n_views=2, views_on_device=True)
        for workers in ("threads:1", "processes:1")
    ]
    one, other = (extract_features(paths, network, chosen) for chosen in options)
    np.testing.assert_array_equal(one.views, other.views)
    assert one.rows.tolist() == [0, 1, 2]
    none = extract_features(paths[3:], network, DEVICE)
    assert none.views.shape == (2, 0, network.d)


def build(folder, index, **options):
    return build_index([folder], index, backbone="lite0", device="cpu", epochs=1, **options)


def stored(index):
    return ImageIndex.open(index, device="cpu").index.metadata["pictures"]["options"]


def test_an_index_records_where_its_views_were_made(folder, tmp_path, monkeypatch):
    build(folder, tmp_path / "files")
    build(folder, tmp_path / "device", views="device")
    assert "views" not in stored(tmp_path / "files")
    assert stored(tmp_path / "device")["views"] == "device"
    # An update may repeat it, and an interrupted build goes on with it.
    build(folder, tmp_path / "device", views="device")
    build(folder, tmp_path / "device")
    with pytest.raises(InvalidInputError, match=r"views is device; .* was built with files"):
        build(folder, tmp_path / "files", views="device")

    def killed(*_, **__):
        raise KeyboardInterrupt

    made = []
    for views in ("files", "device"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(stages, "train_index", killed)
            build(folder, tmp_path / "killed", views=views, overwrite=views == "device")
        made.append(np.load(tmp_path / "killed.building/views/00000.views.npy"))
    assert made[0].shape == made[1].shape
    assert np.abs(made[0] - made[1]).max() > 0.01
    build(folder, tmp_path / "killed", resume=True)
    assert stored(tmp_path / "killed")["views"] == "device"


def test_a_gpu_makes_the_views_unless_told_otherwise(tmp_path):
    from hyperpq.images.build.pipeline import _choose_views
    from hyperpq.images.build.state import BuildState

    network, state = tiny_network.load(), BuildState(tmp_path / "none")
    assert _choose_views(network, state) == "files"
    network.device = "cuda:1"
    assert _choose_views(network, state) == "device"
