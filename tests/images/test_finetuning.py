"""Fine-tuning in a build and of an index that exists: what is stored, and what goes on by it."""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest
import tiny_network
from image_tools import fill, image, tree
from tiny_network import SETTINGS, load

from hyperpq import HiHPQIndex
from hyperpq.backbones.tuned import TunedWeights
from hyperpq.errors import (
    BackboneError,
    CorruptIndexError,
    DatasetError,
    FormatVersionError,
    InvalidInputError,
    SnapshotChangedError,
    StoreError,
)
from hyperpq.images import ImageIndex, build_index, finetuned_rows, updater
from hyperpq.images import finetuning as finetuning_module
from hyperpq.images.additions import Additions
from hyperpq.images.build import finetune_stage, stages
from hyperpq.images.finetuning import finetune_index
from hyperpq.images.updater import Updater
from hyperpq.index.serialize import deserialize_index, serialize_index
from hyperpq.store import IndexStore, manifest_parser, verify_directory
from hyperpq.store.manifest import NETWORK_FILE
from hyperpq.training import finetuning as training_module

COUNT = 20


class Killed(BaseException):
    """What a kill is here: no `except Exception` sees it."""


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    tiny_network.install(monkeypatch)


def build(folder, index, **options):
    options = {"device": "cpu", **({} if "codec" in options else {"epochs": 1}), **options}
    return build_index([folder], index, backbone="lite0", **options)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Images ``p``, the index ``plain`` without fine-tuning, and ``tuned`` with it."""
    folder = tmp_path_factory.mktemp("kept")
    fill(folder / "p", COUNT)
    with pytest.MonkeyPatch.context() as patch:
        tiny_network.install(patch)
        build(folder / "p", folder / "plain")
        build(folder / "p", folder / "tuned", finetune=SETTINGS)
    return folder


@pytest.fixture
def place(kept, tmp_path):
    """A copy of the indexes to change, of the same images."""
    for name in ("plain", "tuned"):
        shutil.copytree(kept / name, tmp_path / name)
    return tmp_path


def opened(path, **options):
    return ImageIndex.open(path, device="cpu", **options)


def tuned_of(path):
    return HiHPQIndex.load(path, device="cpu").view().rows.tuned


def features_by(network, paths):
    from hyperpq.images.extract import ReadOptions, extract_features

    return extract_features([bytes(path) for path in paths], network, ReadOptions()).plain


def test_a_build_stores_the_tuned_network_and_answers_by_it(kept):
    index = opened(kept / "tuned", verify=True)
    assert verify_directory(kept / "tuned") == []
    manifest = json.loads((kept / "tuned/manifest.json").read_text())
    assert (manifest["version"], NETWORK_FILE in manifest["files"]) == (5, True)
    assert not (kept / "tuned.building").exists()
    tuned = tuned_of(kept / "tuned")
    assert index.backbone.tuned == tuned
    assert index.backbone_identity["weights_hash"] == tuned.weights_hash
    # The kept features are those of the tuned network, and queries are encoded by it.
    paths = sorted((kept / "p").iterdir())
    by_tuned = features_by(load(tuned=tuned), paths)
    stored = index.index.features_of(index.index.ids)
    np.testing.assert_allclose(stored, by_tuned, atol=np.abs(by_tuned).max() / 120)
    assert np.abs(features_by(load(), paths) - by_tuned).max() > 0.01
    for path, answer in zip(paths, index.query(paths, 1), strict=True):
        assert answer.results[0].path == str(path)
    record = index.index.metadata["pictures"]["finetuned"]
    assert (record["kept"], record["images"]) == (2, COUNT)
    assert record["settings"] == SETTINGS.to_dict()


def test_cells_are_made_of_the_new_codes(place):
    images = opened(place / "plain")
    images.index.make_cells(3)
    before = images.index.collection.held.cells.centroids
    _, report = finetune_index(place / "plain", SETTINGS, device="cpu")
    assert report.kept
    assert verify_directory(place / "plain") == []
    images = opened(place / "plain")
    held, rows = images.index.collection.held, images.index.view().rows
    assert images.index.nlist == 3
    assert not np.array_equal(held.cells.centroids, before)
    # Each code is in the nearest cell, and what was measured is of these rows.
    for segment in rows.segments:
        v = held.decode(segment.codes_at(np.arange(segment.n))).astype(np.float64)
        near = ((v[:, None] - held.cells.centroids.astype(np.float64)) ** 2).sum(2).argmin(1)
        np.testing.assert_array_equal(segment.cells.numbers, near)
    assert rows.recall_curve.holds_for(rows)


def test_an_index_without_fine_tuning_is_written_as_before(kept):
    manifest = json.loads((kept / "plain/manifest.json").read_text())
    assert manifest["version"] == 4
    assert not {"finetuned"} & manifest["settings"]["metadata"]["pictures"].keys()
    assert "finetune" not in manifest["settings"]["metadata"]["pictures"]["options"]
    assert tuned_of(kept / "plain") is None


def test_an_earlier_version_refuses_a_tuned_index(kept, monkeypatch):
    monkeypatch.setattr(manifest_parser, "VERSIONS", (3, 4))
    with pytest.raises(FormatVersionError, match=r"format version 5; .* install a later hyperpq"):
        opened(kept / "tuned")
    assert len(opened(kept / "plain")) == COUNT


def test_an_altered_network_is_named_and_not_used(place):
    file = place / "tuned" / NETWORK_FILE
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    (problem,) = verify_directory(place / "tuned")
    assert (problem.file, problem.what) == (NETWORK_FILE, "the checksum is wrong.")
    with pytest.raises(CorruptIndexError, match=rf"{NETWORK_FILE}: .*checksum is wrong"):
        opened(place / "tuned").query(image(0), 1)
    file.unlink()
    with pytest.raises(CorruptIndexError, match=NETWORK_FILE):
        opened(place / "tuned")


def test_a_network_of_another_format_is_refused(place):
    store = IndexStore.open(place / "tuned")
    files = {name: store.read_file(name) for name in store.file_names}
    rows = list(
        HiHPQIndex.load(place / "tuned", device="cpu").collection.view().batches(features=1)
    )
    files[NETWORK_FILE] = b"no safetensors"
    store.commit(append=rows, drop=range(len(store.segments)), files=files)
    with pytest.raises(CorruptIndexError, match=rf"{NETWORK_FILE} is not a file of tuned weights"):
        opened(place / "tuned").query(image(0), 1)


def test_the_network_of_another_index_is_refused(kept):
    with pytest.raises(BackboneError, match="weights"):
        opened(kept / "tuned", backbone=load())
    given = opened(kept / "tuned", backbone=load(tuned=tuned_of(kept / "tuned")))
    named = opened(kept / "tuned", backbone="lite0")
    assert given.backbone_identity == named.backbone.identity()


def test_every_copy_has_the_network(place):
    index = HiHPQIndex.load(place / "tuned", device="cpu")
    tuned = tuned_of(place / "tuned")
    index.save(place / "copy")
    index.with_bits(32, rows=True).save(place / "shorter")
    index.clone().save(place / "clone")
    deserialize_index(serialize_index(index), device="cpu").save(place / "bytes")
    pickle.loads(pickle.dumps(index.clone())).save(place / "pickled")
    for name in ("copy", "shorter", "clone", "bytes", "pickled"):
        assert tuned_of(place / name) == tuned, name
        assert opened(place / name).query(sorted_images(place / name)[0], 1)[0].results
    assert pickle.loads(pickle.dumps(opened(place / "tuned"))).backbone.tuned == tuned


def sorted_images(index):
    return opened(index).paths()


def test_changes_keep_the_network(place):
    index = HiHPQIndex.load(place / "tuned", device="cpu")
    tuned = tuned_of(place / "tuned")
    index.remove_ids([0, 1])
    index.compact()
    index.metadata = {**index.metadata, "note": 1}
    assert tuned_of(place / "tuned") == tuned
    index.retrain(epochs=1)
    assert tuned_of(place / "tuned") == tuned
    assert verify_directory(place / "tuned") == []


def test_additions_and_updates_are_encoded_by_it(place, tmp_path):
    images = opened(place / "tuned")
    added = images.add(image(77), "given").ids
    fill(tmp_path / "more", 2, start=50)
    build(tmp_path / "more", place / "tuned")
    images.refresh()
    tuned = load(tuned=tuned_of(place / "tuned"))
    more = sorted((tmp_path / "more").iterdir())
    ids = [r.results[0].id for r in images.query(more, 1)]
    wanted = features_by(tuned, more)
    np.testing.assert_allclose(
        images.index.features_of(ids), wanted, atol=np.abs(wanted).max() / 120
    )
    assert images.query(image(77), 1)[0].results[0].id == added[0]


def test_indexes_of_other_networks_do_not_merge(place, tmp_path):
    fill(tmp_path / "q", 3, start=60)
    tuned, plain = (HiHPQIndex.load(place / name, device="cpu") for name in ("tuned", "plain"))
    for one, other in ((tuned, plain), (plain, tuned)):
        with pytest.raises(InvalidInputError, match="network with other fine-tuned weights"):
            one.merge_from(other, add_id=1000)
    build(tmp_path / "q", tmp_path / "same", codec=place / "tuned")
    tuned.merge_from(HiHPQIndex.load(tmp_path / "same", device="cpu"), add_id=1000)
    assert tuned.ntotal == COUNT + 3


def test_a_build_by_the_codec_of_an_index_takes_its_network(place, tmp_path):
    fill(tmp_path / "q", 3, start=60)
    other, _ = build(tmp_path / "q", tmp_path / "other", codec=place / "tuned", bits=32)
    assert other.backbone.tuned == tuned_of(tmp_path / "other") == tuned_of(place / "tuned")
    assert other.index.metadata["pictures"]["finetuned"]["kept"] == 2
    with pytest.raises(InvalidInputError, match="finetune would have no effect"):
        build(tmp_path / "q", tmp_path / "no", codec=place / "tuned", finetune=1)


def test_wrong_input_has_one_sentence(kept, tmp_path):
    few = fill(tmp_path / "few", 3)
    new = tmp_path / "new"
    for value, message in ((0, "finetune is 0 minutes"), (-1, "more than 0"), ("x", "finetune")):
        with pytest.raises(InvalidInputError, match=message):
            build(few, new, finetune=value)
    with pytest.raises(InvalidInputError, match=r"3 images to fine-tune .* expected 16 or more"):
        build(few, new, finetune=SETTINGS)
    with pytest.raises(InvalidInputError, match=r"20 images .* expected 160 or more"):
        build(kept / "p", new, finetune=replace(SETTINGS, holdout_check=True))
    frozen = load()
    frozen.open_network = None
    with pytest.raises(BackboneError, match="cannot be fine-tuned"):
        build_index([few], new, backbone=frozen, device="cpu", finetune=SETTINGS)
    assert not new.exists()
    assert not (tmp_path / "new.building").exists()


def test_an_update_may_repeat_the_settings_and_no_others(place, kept):
    build(kept / "p", place / "tuned", finetune=SETTINGS)
    for index, why in (("plain", "without fine-tuning"), ("tuned", "other settings")):
        with pytest.raises(InvalidInputError, match=why):
            build(kept / "p", place / index, finetune=1)


def test_a_network_that_does_not_get_better_stays(kept, tmp_path, monkeypatch):
    real = training_module.finetune

    def worse(*args, **options):
        return replace(real(*args, **options), weights=None, kept=0)

    monkeypatch.setattr(training_module, "finetune", worse)
    _, report = build(kept / "p", tmp_path / "index", finetune=SETTINGS)
    assert "no round was better" in report.finetuned
    assert tuned_of(tmp_path / "index") is None
    before = tree(tmp_path / "index")
    _, done = finetune_index(tmp_path / "index", SETTINGS, device="cpu")
    assert (done.kept, tree(tmp_path / "index")) == (0, before)
    assert not (tmp_path / "index.finetuning").exists()


def kill_in_round(monkeypatch, number):
    """Kill fine-tuning once a round is done and before its checkpoint is written."""
    real = training_module.save_state

    def save(path, fingerprint, state):
        if len(state.records) - 1 == number:
            raise Killed
        real(path, fingerprint, state)

    monkeypatch.setattr(training_module, "save_state", save)


def kill_at(monkeypatch, module, name):
    def killed(*_, **__):
        raise Killed

    monkeypatch.setattr(module, name, killed)


KILLS = {
    "the second round": lambda patch: kill_in_round(patch, 2),
    "the end of fine-tuning": lambda patch: kill_at(patch, finetune_stage, "_tuned"),
    "the sample": lambda patch: kill_at(patch, stages, "sample_features"),
    "the training": lambda patch: kill_at(patch, stages, "train_index"),
    "the encoding": lambda patch: kill_at(patch, stages, "_commit"),
}


@pytest.mark.parametrize("moment", KILLS)
def test_a_killed_build_goes_on_and_ends_with_the_same_bytes(kept, tmp_path, moment):
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        KILLS[moment](patch)
        build(kept / "p", tmp_path / "tuned", finetune=SETTINGS)
    with pytest.raises(StoreError, match="interrupted build"):
        build(kept / "p", tmp_path / "tuned", finetune=SETTINGS)
    with pytest.raises(InvalidInputError, match="other folders or options"):
        build(kept / "p", tmp_path / "tuned", finetune=replace(SETTINGS, seed=1), resume=True)
    with pytest.MonkeyPatch.context() as patch:
        if moment != "the second round":
            kill_at(patch, training_module, "finetune")  # it is not done again
        build(kept / "p", tmp_path / "tuned", finetune=SETTINGS, resume=True)
    made, wanted = tree(tmp_path / "tuned"), tree(kept / "tuned")
    assert made.keys() == wanted.keys()
    assert [n for n in made if made[n] != wanted[n] and n not in ("manifest.json",)] == []


def test_finetuning_an_index_changes_all_of_it_but_ids_and_paths(place, kept):
    reader = opened(place / "plain", read_only=True)
    before = reader.index.attributes_of(reader.index.ids)
    reader.query(image(0), 1)
    index = opened(place / "plain")
    index.index.remove_ids([3])
    index.add(kept / "p/003.png")  # so that ids are not positions
    ids, paths = index.index.ids, index.paths()
    report = index.finetune(SETTINGS)
    assert (report.kept, report.images) == (2, COUNT)
    assert verify_directory(place / "plain") == []
    assert not (place / "plain.finetuning").exists()
    assert (index.index.ids == ids).all()
    assert index.paths() == paths
    tuned = tuned_of(place / "plain")
    assert index.backbone.tuned == tuned
    for path, answer in zip(paths, index.query(paths, 1), strict=True):
        assert answer.results[0].path == path
    # What was open before shows the former snapshot by its own network, and then the new one.
    assert reader.backbone.tuned is None
    assert reader.refresh()
    assert reader.backbone.tuned == tuned
    after = reader.index.attributes_of(np.delete(ids, np.searchsorted(ids, ids.max())))
    for name, values in before.items():
        np.testing.assert_array_equal(np.delete(values, 3), after[name])
    # The codec is new, too, and the index can be learned again, updated, and fine-tuned again.
    assert index.index.training.n == COUNT
    index.retrain(epochs=1)
    build(kept / "p", place / "plain")
    again = opened(place / "plain").finetune(replace(SETTINGS, rounds=1))
    assert again.kept == 1
    assert tuned_of(place / "plain").base_hash == tuned.base_hash


def test_an_index_without_features_is_finetuned(kept, tmp_path):
    index, _ = build(kept / "p", tmp_path / "index", features="none", bits=32)
    index.finetune(SETTINGS)
    assert (index.index.has_features, index.index.M) == (False, 4)
    paths = index.paths()
    assert [a.results[0].path for a in index.query(paths, 1)] == paths


@pytest.mark.parametrize("objective", ["fidelity", "balanced"])
def test_the_objective_of_the_index_stays(kept, tmp_path, objective):
    index, _ = build(kept / "p", tmp_path / "index", objective=objective)
    metric = index.index.metric
    index.finetune(SETTINGS)
    assert (index.index.objective, index.index.metric) == (objective, metric)


MOMENTS = {
    **KILLS,
    "the catching up": lambda patch: kill_at(patch, finetuned_rows, "extract_features"),
    "the commit": lambda patch: kill_at(patch, finetuning_module.FinetunedRows, "metadata"),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_finetuning_goes_on(place, kept, tmp_path, moment, monkeypatch):
    fill(tmp_path / "late", 2, start=90)
    index = opened(place / "plain")
    codes = index.index.ids, index.index.view().rows.codes_of(index.index.ids)
    late = {"done": False}
    real = finetuning_module.FinetunedRows.catch_up

    def catch_up(self, images):
        if not late["done"]:
            late["done"] = True
            opened(place / "plain").add([*sorted((tmp_path / "late").iterdir())])
        real(self, images)

    monkeypatch.setattr(finetuning_module.FinetunedRows, "catch_up", catch_up)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        MOMENTS[moment](patch)
        index.finetune(SETTINGS)
    with pytest.raises(StoreError, match="interrupted fine-tuning"):
        opened(place / "plain").finetune(SETTINGS)
    # It answers as before.
    same = opened(place / "plain").index.view().rows
    np.testing.assert_array_equal(same.codes_of(codes[0]), codes[1])
    with pytest.raises(InvalidInputError, match=r"with other settings, .* --restart"):
        opened(place / "plain").finetune(replace(SETTINGS, seed=1), resume=True)
    report = opened(place / "plain").finetune(SETTINGS, resume=True)
    assert (report.kept, report.images) == (2, COUNT + 2)
    assert verify_directory(place / "plain") == []
    done = opened(place / "plain")
    assert [a.results[0].path for a in done.query(done.paths(), 1)] == done.paths()
    assert tuned_of(place / "plain") == tuned_of(kept / "tuned")
    assert not (place / "plain.finetuning").exists()


@pytest.mark.parametrize("resume", [True, False])
def test_a_finetuning_that_was_killed_after_its_commit(place, kept, resume):
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, finetuning_module.BuildState, "discard")
        opened(place / "plain").finetune(SETTINGS)
    before = tree(place / "plain")
    report = opened(place / "plain").finetune(SETTINGS, resume=resume)
    assert report.kept == 2
    # To resume there is nothing left to do; otherwise the tuned network is tuned further.
    assert (tree(place / "plain") == before) is resume
    assert (tuned_of(place / "plain") == tuned_of(kept / "tuned")) is resume
    assert not (place / "plain.finetuning").exists()


def test_an_interrupted_finetuning_can_be_started_again(place):
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        kill_in_round(patch, 2)
        opened(place / "plain").finetune(SETTINGS)
    report = opened(place / "plain").finetune(replace(SETTINGS, rounds=1), restart=True)
    assert len(report.record["rounds"]) == 2


def test_images_that_are_removed_or_replaced_meanwhile(place, kept, tmp_path, monkeypatch):
    shutil.copytree(kept / "p", tmp_path / "q")
    build(tmp_path / "q", tmp_path / "index")
    index = opened(tmp_path / "index")
    real = finetuning_module.FinetunedRows.catch_up

    def catch_up(self, images):
        other = opened(tmp_path / "index")
        image(500, size=(40, 40)).save(tmp_path / "q/004.png")
        (tmp_path / "q/005.png").unlink()
        other.update([tmp_path / "q"])
        real(self, images)

    monkeypatch.setattr(finetuning_module.FinetunedRows, "catch_up", catch_up)
    index.finetune(SETTINGS)
    assert len(index) == COUNT - 1
    found = index.query(tmp_path / "q/004.png", 1)[0].results[0]
    assert (found.path, found.similarity) == (str(tmp_path / "q/004.png"), 100.0)
    assert found.attributes["width"] == 40


def test_features_of_the_former_network_are_not_added(place, tmp_path, monkeypatch):
    slow = opened(place / "plain")
    assert slow.backbone.tuned is None
    fill(tmp_path / "more", 2, start=50)
    image(77).save(tmp_path / "one.png")
    changes = {
        Additions: lambda: slow.add(tmp_path / "one.png"),
        Updater: lambda: slow.update(tmp_path / "more"),
    }
    for number, (kind, change) in enumerate(changes.items(), 1):
        real = kind._add_batch if kind is Additions else updater._Difference.newest

        def and_finetune(*args, real=real, number=number):
            opened(place / "plain").finetune(replace(SETTINGS, rounds=number))
            return real(*args)

        where = kind if kind is Additions else updater._Difference
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(where, real.__name__, and_finetune)
            with pytest.raises(SnapshotChangedError, match="fine-tuned while images were encoded"):
                change()
        # It shows the new network now, and does the same by that.
        change()
        assert slow.backbone.tuned == tuned_of(place / "plain")
    assert len(slow) == COUNT + 3


def test_a_codec_that_was_learned_meanwhile_is_not_stored(place, monkeypatch):
    from hyperpq.index import trainable

    slow = HiHPQIndex.load(place / "plain", device="cpu")
    record_of = trainable.record_of

    def and_finetune(*args):
        monkeypatch.setattr(trainable, "record_of", record_of)
        opened(place / "plain").finetune(SETTINGS)
        return record_of(*args)

    monkeypatch.setattr(trainable, "record_of", and_finetune)
    with pytest.raises(SnapshotChangedError, match="fine-tuned while its codec was learned"):
        slow.retrain(epochs=1)


def test_images_without_files_are_named_before_any_work(place, kept):
    index = opened(place / "plain")
    index.add(image(77), "given")
    with pytest.raises(DatasetError, match=r"1 of 21 images .* no file now, such as given"):
        index.finetune(SETTINGS)
    index.remove(where="path == 'given'")
    assert not (place / "plain.finetuning").exists()
    with pytest.raises(InvalidInputError, match="in memory"):
        ImageIndex(index.index.clone()).finetune(SETTINGS)


def test_an_image_that_cannot_be_read_is_named_at_the_end(kept, tmp_path):
    shutil.copytree(kept / "p", tmp_path / "q")
    build(tmp_path / "q", tmp_path / "index")
    (tmp_path / "q/004.png").write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"004.png cannot be read \(.*\), and the index has it"):
        opened(tmp_path / "index").finetune(SETTINGS)
    index = opened(tmp_path / "index")
    index.forget(tmp_path / "q/004.png")
    assert index.finetune(SETTINGS, resume=True).images == COUNT - 1


def test_metadata_of_a_stranger(place):
    index = HiHPQIndex.load(place / "tuned", device="cpu")
    stored = index.metadata
    for record in (3, {}, {"kept": "x", "images": 1, "rounds": []}):
        pictures = {**stored["pictures"], "finetuned": record}
        index.metadata = {**stored, "pictures": pictures}
        with pytest.raises(CorruptIndexError, match="'pictures' of the metadata"):
            opened(place / "tuned")


def test_changes_that_are_no_part_of_the_network_are_refused(place):
    index = HiHPQIndex.load(place / "tuned", device="cpu").clone()
    other = TunedWeights("lite0", "1" * 32, {"none": np.ones(3, np.float32)})
    index.collection.set_tuned(other)
    index.save(place / "other")
    with pytest.raises(BackboneError, match="'none', which the network does not have"):
        opened(place / "other").query(image(0), 1)


def test_an_index_in_int8_has_a_tuned_network_in_float32(kept, tmp_path):
    """Which all of its images are encoded by again, and queries after it."""
    build(kept / "p", tmp_path / "index", precision="int8")
    assert opened(tmp_path / "index").backbone_identity["dtype"] == "int8"
    images, _ = finetune_index(tmp_path / "index", SETTINGS, device="cpu")
    assert images.backbone_identity["dtype"] == images.backbone.precision == "float32"
    assert images.backbone.tuned == tuned_of(tmp_path / "index") is not None
    again = opened(tmp_path / "index")
    assert again.query(kept / "p" / "000.png", 1)[0].results[0].similarity == 100
    assert "precision" not in again.index.metadata["pictures"]["options"]
    updated, report = build_index([kept / "p"], tmp_path / "index", device="cpu")
    assert report.added == report.removed == 0
    assert updated.backbone_identity == images.backbone_identity
