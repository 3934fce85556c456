"""Degradations of images, and the benchmark that reads degraded images as files."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from benchmarks import degradations, featuresets, robustness
from benchmarks.degradations import DEGRADATIONS
from benchmarks.runlog import RunLog


@pytest.fixture(scope="module")
def image(drawn):
    return Image.open(next(drawn.rglob("owl*.png"), next(drawn.rglob("*.png")))).convert("RGB")


def pixels(image):
    return np.asarray(image, np.float64)


def edges(image):
    return np.abs(np.diff(pixels(image), axis=1)).mean()


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_each_changes_the_image_always_in_the_same_way(image, name):
    change = DEGRADATIONS[name]
    one = change(image)
    assert one.mode == "RGB"
    assert one.size == image.size or name.startswith("middle")
    assert one.tobytes() == change(image).tobytes()
    assert one.size != image.size or one.tobytes() != image.tobytes()


def test_they_do_what_their_names_say(image):
    def error(changed):
        return np.abs(pixels(changed) - pixels(image)).mean()

    by_quality = [error(degradations.jpeg(image, q)) for q in (10, 30, 50, 95)]
    assert by_quality == sorted(by_quality, reverse=True)
    assert edges(degradations.blur(image, 0.03)) < edges(degradations.blur(image, 0.01))
    assert edges(degradations.blur(image, 0.01)) < edges(image)
    flat = Image.new("RGB", (64, 64), (128, 128, 128))
    assert pixels(degradations.noise(flat, 20)).std() == pytest.approx(20, rel=0.05)
    assert edges(degradations.shrink(image, 0.25)) < edges(image)
    grey = pixels(degradations.grey(image))
    assert (grey == grey[..., :1]).all()
    assert np.array_equal(
        pixels(degradations.rotate(image, 90))[1:-1, 1:-1],
        np.rot90(pixels(image))[1:-1, 1:-1],
    )
    middle = degradations.crop(image, 0.5)
    side = image.width // 2
    start = (image.width - side) // 2
    assert np.array_equal(pixels(middle), pixels(image)[start : start + side, start : start + side])


def test_a_run_from_images_to_the_page(drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(featuresets, "FOLDER_QUERIES", 12)
    few = {name: DEGRADATIONS[name] for name in ("grey", "middle 50 %")}
    monkeypatch.setattr(robustness, "DEGRADATIONS", few)
    monkeypatch.setattr(robustness, "COMPARED", ("itq_adc",))
    features, out = tmp_path / "cache", tmp_path / "out"
    rng = np.random.default_rng(0)
    other = features / "other-lite0"
    labels = rng.integers(0, 3, 100)
    split = featuresets.Split([b"%d" % i for i in range(100)], labels)
    protocol = featuresets.Protocol(
        "Other", ["a", "b", "c"], split, split.take(np.arange(9)), split, 9
    )
    featuresets.save_protocol(other, protocol)
    x = rng.standard_normal((100, 1280)).astype(np.float32)
    for name, rows in {"database": x, "query": x[:9], "views-mild": x[None]}.items():
        np.save(other / f"{name}.npy", rows)

    def bench():
        folders = ["--features", str(features), "--out", str(out), "--other", "folder:other"]
        robustness.main(["--dataset", f"folder:{drawn}", *folders, "--bits", "16"])
        return (out / "robustness.md").read_text("utf-8")

    page = bench()
    folder = features / f"{drawn.name}-lite0"
    assert np.load(folder / "query-grey.npy").shape == (12, 1280)
    log = RunLog(folder / robustness.RUNS, robustness.FIELDS)
    runs = {robustness.title_of(run): run for run in log.runs.values()}
    own = runs["16 bits, trained on its own images"]["map"]
    assert list(own) == ["hyperpq default", "itq_adc", "exact normalized", "exact raw"]
    assert all(list(kinds) == ["original", "grey", "middle 50 %"] for kinds in own.values())
    assert own["exact raw"]["original"] > own["exact raw"]["middle 50 %"]
    other = runs["16 bits, trained on Other"]["map"]
    assert list(other) == ["hyperpq default", "hyperpq default, codebooks fitted", *list(own)[1:]]
    assert list(other["itq_adc"]) == ["original"]
    for kinds in own.values():
        for value in kinds.values():
            assert f"{value:.3f}".removeprefix("0") in page
    # Features are cached, so the images are not read again.
    monkeypatch.setattr(featuresets, "extract_features", None)
    assert bench() == page
