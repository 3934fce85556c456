"""The precision of the network as a setting of an index, and how a build decodes."""

from __future__ import annotations

import pytest
from image_tools import Grid, build, fill, tree

from hyperpq import ImageIndex
from hyperpq.errors import BackboneError, InvalidInputError
from hyperpq.images.build import BuildOptions, build_index, pipeline
from hyperpq.images.build.state import BuildState
from hyperpq.utils.worker_process import processes_possible


class Half(Grid):
    precision = "bfloat16"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("p") / "p", 30)


def test_an_index_records_the_precision(folder, tmp_path):
    images, _ = build([folder], tmp_path / "index", Half(), bits=16)
    assert images.backbone_identity["dtype"] == "bfloat16"
    assert ImageIndex.open(tmp_path / "index", backbone=Half()).backbone.precision == "bfloat16"
    with pytest.raises(BackboneError, match="feature type float32; expected bfloat16"):
        ImageIndex.open(tmp_path / "index", backbone=Grid())


def test_the_recorded_precision_is_loaded(folder, tmp_path, monkeypatch):
    build([folder], tmp_path / "index", Half(), bits=16)
    asked = []

    def load(name, **options):
        asked.append(options["precision"])
        return Half()

    monkeypatch.setattr("hyperpq.backbones.load_backbone", load)
    assert len(ImageIndex.open(tmp_path / "index").query(folder / "000.png", 3)) == 1
    ImageIndex.open(tmp_path / "index", backbone="lite0")
    assert asked == ["bfloat16", "bfloat16"]


def test_a_build_asks_for_the_precision(folder, tmp_path, monkeypatch):
    asked = []

    def load(name, **options):
        asked.append(options["precision"])
        return Half()

    monkeypatch.setattr("hyperpq.images.build.pipeline.load_backbone", load)
    build([folder], tmp_path / "index", "lite0", bits=16, precision="bfloat16")
    assert asked == ["bfloat16"]
    with pytest.raises(InvalidInputError, match="precision"):
        build([folder], tmp_path / "index", "lite0", precision="float32")


def test_float32_is_stored_as_before():
    assert "precision" not in BuildOptions(precision="float32").to_stored()
    stored = BuildOptions(precision="float16").to_stored()
    assert BuildOptions.from_stored(stored).precision == "float16"
    with pytest.raises(InvalidInputError, match="precision"):
        BuildOptions(precision="int4")
    # Indexes of earlier versions record nothing.
    assert BuildOptions.from_stored({}).precision == "float32"


def test_what_auto_chose_is_recorded_and_stays(folder, tmp_path, monkeypatch):
    """Also when a build is continued, or an index updated, where the choice would be another."""
    from hyperpq.images.build import stages

    class Asked(Grid):
        def __init__(self, precision):
            super().__init__()
            self.precision = asked["auto"] if precision == "auto" else precision

    asked = {"auto": "int8"}
    for module in ("hyperpq.images.build.pipeline", "hyperpq.backbones"):
        monkeypatch.setattr(
            f"{module}.load_backbone", lambda name, *, precision, **options: Asked(precision)
        )
    with monkeypatch.context() as broken, pytest.raises(RuntimeError, match="stopped"):
        broken.setattr(stages, "train_index", raiser("stopped"))
        build([folder], tmp_path / "index", "lite0", bits=16)
    asked["auto"] = "float32"
    images, _ = build([folder], tmp_path / "index", "lite0", bits=16, resume=True)
    assert images.backbone_identity["dtype"] == "int8"
    for asked_for in ({}, {"precision": "auto"}, {"precision": "int8"}):
        updated, _ = build_index([folder], tmp_path / "index", device="cpu", **asked_for)
        assert updated.backbone_identity["dtype"] == "int8"
    with pytest.raises(InvalidInputError, match=r"precision is float32; .* was built with int8"):
        build_index([folder], tmp_path / "index", device="cpu", precision="float32")
    # The features of a codec of another index have to be of one kind.
    other, _ = build([folder], tmp_path / "other", "lite0", bits=16, codec=tmp_path / "index")
    assert other.backbone_identity["dtype"] == "int8"
    with pytest.raises(BackboneError, match="feature type float32; expected int8"):
        build([folder], tmp_path / "a", "lite0", codec=tmp_path / "index", precision="float32")
    # A network that will be fine-tuned.
    options = BuildOptions(finetune=1.0)
    state = BuildState(tmp_path / "none")
    with pytest.raises(InvalidInputError, match="precision is 'int8' and finetune is given"):
        BuildOptions(finetune=1.0, precision="int8")
    asked["auto"] = "int8"
    assert pipeline._load_network(options, "cpu", state).precision == "float32"


def raiser(text):
    def fail(*args, **kwargs):
        raise RuntimeError(text)

    return fail


@pytest.mark.skipif(not processes_possible(), reason="no decoding processes here")
def test_a_build_with_processes_has_the_same_bytes(folder, tmp_path):
    _, report = build([folder], tmp_path / "a" / "index", bits=16)
    _, again = build([folder], tmp_path / "b" / "index", bits=16, workers="processes:2")
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert report.images == again.images == 30
