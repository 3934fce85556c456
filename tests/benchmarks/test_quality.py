"""The quality benchmark on drawn images and on random features."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from benchmarks import confirm, featuresets, provenance, quality, quality_recipes
from benchmarks.baselines import BASELINES, Vectors, lengths, power_normalize, unit
from benchmarks.options import results_folder
from benchmarks.quality_rows import DEPTHS, MEASURES, TITLES, summarize
from benchmarks.runlog import Key, RunLog
from benchmarks.training_sizes import check_training, min_training
from hyperpq.backbones import load_backbone
from hyperpq.codec.config import CodecConfig
from hyperpq.codec.feature_codec import FeatureCodec
from hyperpq.codec.hihpq import HiHPQCodec
from hyperpq.datasets.protocols import Split
from hyperpq.errors import DatasetError, InvalidInputError
from hyperpq.images.extract import ReadOptions, extract_features
from hyperpq.training import train as trainer
from hyperpq.training.features import normalized_features
from hyperpq.training.initialize import fit_normalization
from hyperpq.training.recipe import Recipe

D = 64


@pytest.fixture
def short(monkeypatch):
    """Train for two epochs; the list holds the arguments of each training."""
    count = []

    def train(x, views, **options):
        options["recipe"] = options["recipe"].replace(epochs=2, holdout_check=False)
        count.append((options["recipe"].name, options["M"], options["seed"]))
        return trainer.train_codec(x, views, **options)

    monkeypatch.setattr(quality_recipes, "train_codec", train)
    return count


def bench(cache, *options):
    folders = ["--features", str(cache), "--out", str(cache.parent / "out")]
    quality.main(["--dataset", "folder:groups", *folders, *options])
    return (cache.parent / "out/quality.md").read_text("utf-8")


def runs(cache):
    return RunLog(cache / "groups-lite0/runs.jsonl").runs


SMALL = ("--bits", "8,16", "--seeds", "2", "--baselines", "pq,itq", "--recipes", "default,paper")


def test_a_benchmark_measures_everything_once_and_resumes(cache, short):
    page = bench(cache, *SMALL)
    # `default` learns once a seed, `paper` once a length and seed.
    assert sorted(short) == sorted(
        [("default", 1, s) for s in (0, 1)] + [("paper", m, s) for m in (1, 2) for s in (0, 1)]
    )
    found = runs(cache)
    # `default` is searched twice, with refinement and without.
    assert len(found) == 2 + 3 * 2 * 2 + 2 * 2 * 2 * 2
    kept = FeatureCodec("int8", D).size
    for key, one in found.items():
        is_refined = key[1] == "default, refined"
        assert one["bytes"] == (key[2] // 8 + kept * is_refined if key[2] else 4 * D)
        if is_refined:  # kept features find more of their own neighbours
            assert one["recall10"] > found[Key("hyperpq", "default", *key[2:])]["recall10"]
    exact = found[Key("exact", "raw", 0, 0)]
    assert exact["recall10"] == exact["recall100"] == 1
    assert found[Key("exact", "normalized", 0, 0)]["recall10"] < 1

    # The process was killed while it wrote the last line.
    file = cache / "groups-lite0/runs.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:-1]) + lines[-1][:40])
    last = list(found)[-1]
    short.clear()
    assert bench(cache, *SMALL).count("|") == page.count("|")
    assert not short
    assert list(runs(cache)) == list(found)
    assert {k: run for k, run in runs(cache).items() if k != last} == {
        k: run for k, run in found.items() if k != last
    }
    assert runs(cache)[last]["map"] == found[last]["map"]
    assert file.read_text().startswith("".join(lines[:-1]))


def test_further_images_train_the_recipe_and_the_baselines(cache, short, monkeypatch):
    seen = []
    monkeypatch.setitem(quality.BASELINES, "pq", spy(quality.BASELINES["pq"], seen))
    options = ("--bits", "8", "--seeds", "1", "--baselines", "pq", "--recipes", "default")
    page = bench(cache, *options, "--more", "20")
    assert seen == [290, 290]
    assert "20 more images of the database train our recipe and all baselines" in page
    assert "--more 20" in page
    # Its runs are kept apart from those of the set itself.
    assert len(RunLog(cache / "groups-lite0+20/runs.jsonl").runs) == 6
    assert not (cache / "groups-lite0/runs.jsonl").exists()
    features = featuresets.open_set("folder:groups", None, cache, more=20)
    assert features.train.shape == (290, D)
    assert len(set(features.train_rows)) == 290
    assert (features.train_rows[: features.n_viewed] == np.arange(30, 300)).all()
    with pytest.raises(SystemExit, match=r"more is 31; expected 1 to 30"):
        bench(cache, *options, "--more", "31")


def spy(baseline, seen):
    def call(vectors, *rest):
        seen.append(len(vectors.train))
        return baseline(vectors, *rest)

    return call


def test_fresh_measures_only_the_requested_runs_again(cache, short):
    bench(cache, "--bits", "8", "--seeds", "1", "--baselines", "pq", "--recipes", "default")
    before = runs(cache)
    bench(
        cache,
        "--bits",
        "8",
        "--seeds",
        "1",
        "--baselines",
        "none",
        "--recipes",
        "default",
        "--fresh",
    )
    assert short == [("default", 1, 0)] * 2
    after = runs(cache)
    assert set(after) == set(before)
    pq, ours = Key("pq", "raw", 8, 0), Key("hyperpq", "default", 8, 0)
    assert after[pq] == before[pq]
    assert after[ours]["command"] != before[ours]["command"]
    assert after[ours]["map"] == before[ours]["map"]


def test_one_training_confirms_a_recipe_without_and_with_refinement(cache, short, monkeypatch):
    options = ("--bits", "8,16", "--seeds", "1", "--baselines", "none", "--recipes", "default")
    bench(cache, *options)
    monkeypatch.setattr(provenance, "code_digest", lambda paths: "later code")
    out = cache.parent / "out"
    told = ["--features", str(cache), "--out", str(out)]
    confirm.main(["--dataset", "folder:groups", *told])
    assert short == [("default", 1, 0)] * 2
    published = RunLog(out / "runs/groups-lite0-runs.jsonl").runs.values()
    assert {run["digests"]["code"] for run in published} == {"later code"}
    by = {tuple(run["confirmed"][name] for name in ("bits", "seed")) for run in published}
    assert by == {(0, 0), (8, 0)} and len(published) == 2 + 2 * 2


def test_other_lengths_are_as_good_as_with_a_training_of_their_own(cache, short):
    bench(cache, "--bits", "8,16", "--seeds", "1", "--baselines", "none", "--recipes", "default")
    features = featuresets.open_set("folder:groups", None, cache)
    recipe = Recipe().replace(epochs=2, holdout_check=False)
    codec = trainer.train_codec(features.train, features.views("mild"), M=2, recipe=recipe, seed=0)
    D2 = codec.tables(features.query)
    codes = codec.encode(features.database)
    sums = sum(D2[:, m, codes[:, m]] for m in range(2))
    found = np.argsort(sums, axis=1, kind="stable")[:, :50]
    same = features.protocol.database.labels[found] == features.protocol.query.labels[:, None]
    precision = np.cumsum(same, 1) / np.arange(1, 51)
    want = np.mean((precision * same).sum(1) / np.maximum(same.sum(1), 1))
    assert runs(cache)[Key("hyperpq", "default", 16, 0)]["map"] == pytest.approx(want, abs=1e-3)


def test_lengths_that_a_method_cannot_make_are_not_requested():
    args = argparse.Namespace(seeds=1, recipes=["default", "balanced"], bits=[8, 16])
    args.baselines = ["pq", "prq", "mecoq"]
    keys = quality.requested_runs(args)
    found = {(key.variant if key.method == "hyperpq" else key.method, key.bits) for key in keys}
    short = {("default", 8), ("default, refined", 8), ("pq", 8), ("exact", 0)}
    ours = {(f"{name}{end}", 16) for name in ("default", "balanced") for end in ("", ", refined")}
    assert found == short | ours | {("pq", 16), ("mecoq", 16)}
    # Baselines that learn get normalized features only.
    assert {key.variant for key in keys if key.method == "mecoq"} == {"normalized"}
    assert {key.variant for key in keys if key.method == "pq"} == {"raw", "normalized"}


def test_power_normalization_is_that_of_the_codec():
    x = np.random.default_rng(1).standard_normal((50, 12)).astype(np.float32)
    codec = HiHPQCodec(CodecConfig(12))
    fit_normalization(codec, x[:30])
    want = normalized_features(codec, x)
    np.testing.assert_allclose(power_normalize(x, x[:30]), want, atol=1e-6)


def run(method, variant, seed, value, bits=16):
    facts = dict.fromkeys(MEASURES, value)
    costs = {"train_seconds": 1.0, "encode_seconds": 2.0, "bytes": 2}
    return {"method": method, "variant": variant, "bits": bits, "seed": seed} | facts | costs


def test_the_better_input_of_a_baseline_counts():
    rows = summarize(
        [
            run("pq", "raw", 0, 0.5),
            run("pq", "raw", 1, 0.6),
            run("pq", "normalized", 0, 0.58),
            run("pq", "normalized", 1, 0.50),
            run("hyperpq", "default", 0, 0.7),
            run("hyperpq", "paper", 0, 0.4),
        ],
        top=1000,
    )
    assert [(r.name, r.variant, r.seeds) for r in rows] == [
        ("hyperpq default", "default", 1),
        ("pq", "raw", 2),
        ("hyperpq paper", "paper", 1),
    ]
    assert rows[1].mean["map"] == pytest.approx(0.55)
    assert rows[1].spread["map"] == pytest.approx(np.sqrt(0.005))
    assert np.isnan(rows[0].spread["map"])


def test_the_page_shows_what_was_measured(cache, short):
    page = bench(
        cache, "--bits", "8,16", "--seeds", "2", "--baselines", "pq", "--recipes", "default"
    )
    rows = summarize(runs(cache).values(), top=50)
    section = page.partition("### groups-lite0, 16 bits\n\n")[2].partition("\n\n")[0]
    titles = "mAP@50 | precision@10 | mAP@10 | mAP@100 | mAP@1000 | recall@10 | recall@100"
    assert f"| {titles} | training, s |" in section
    lines = {line.split("|")[1].strip(): line for line in section.splitlines()[2:]}
    own = [row for row in rows if row.bits == 16]
    assert list(lines)[-3] == "hyperpq default, refined"
    assert set(list(lines)[-2:]) == {"exact normalized", "exact raw"}
    assert len(lines) == len(own) + 2
    alone = [row for row in own if not row.is_refined]
    best = max(alone, key=lambda row: row.mean["map"])
    for row in own:
        mean, spread = (f"{v:.3f}".removeprefix("0") for v in (row.mean["map"], row.spread["map"]))
        cell = lines[row.label].split("|")[2].strip()
        # Codes alone have a best one, and refined ones.
        is_bold = row is best or row.is_refined
        assert cell == (f"**{mean}** ± {spread}" if is_bold else f"{mean} ± {spread}")
    # Before it the depths side by side, without spreads.
    short = page.partition("| 16 bits | ")[2].partition("\n\n")[0].splitlines()
    assert short[0] == " | ".join(TITLES[measure] for measure in DEPTHS) + " | seeds |"
    shown = [*alone, *(row for row in own if row.is_refined)]
    for line, row in zip(short[2:-2], shown, strict=True):
        cells = [cell.strip(" *") for cell in line.split("|")[1:-1]]
        want = [f"{row.mean[measure]:.3f}".removeprefix("0") for measure in DEPTHS]
        assert cells == [row.label, *want, str(row.seeds)]
    assert "has 300 images, and 270 of them train without their labels. 20 other images" in page
    own, made = page.partition("## How this page is made")[::2]
    assert own.startswith(
        "# Quality of codes\n\nIn long lists, by mAP@100 and mAP@1000, codes of the default recipe"
    )
    (command,) = set(re.findall(r"`(python -m benchmarks.quality --.*)`", made))
    assert (
        "--data DIR --features CACHE --bits 8,16 --seeds 2 --baselines pq --recipes default"
        in command
    )
    assert str(cache) not in page
    plot = cache.parent / "out" / re.findall(r"\]\((quality-.*svg)\)", page)[0]
    assert ElementTree.parse(plot).getroot().tag.endswith("svg")


def test_features_are_the_products_own_and_extracted_once(drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(featuresets, "FOLDER_QUERIES", 12)
    dataset = f"folder:{drawn}"
    made = featuresets.open_set(dataset, None, tmp_path)
    protocol = featuresets.folder_protocol(drawn, 12)
    assert made.folder.name == f"{drawn.name}-lite0"
    assert made.query.shape == (12, 1280) and made.train.shape == (60, 1280)
    network = load_backbone("lite0")
    np.testing.assert_array_equal(
        made.query, extract_features(protocol.query.paths, network, ReadOptions()).plain
    )
    everything = np.arange(60)[None].repeat(12, 0)
    np.testing.assert_array_equal(
        made.protocol.relevant(slice(None), everything),
        protocol.relevant(slice(None), everything),
    )
    views = made.views("mild")
    assert views.shape == (4, 60, 1280)
    options = ReadOptions(augmentation=featuresets.AUGMENTATIONS["mild"], n_views=4)
    want = extract_features(protocol.train.paths[:3], network, options).views
    np.testing.assert_allclose(views[:, :3], want, atol=1e-4)

    monkeypatch.setattr(featuresets, "extract_features", None)
    again = featuresets.open_set(f"folder:elsewhere/{drawn.name}", None, tmp_path)
    np.testing.assert_array_equal(again.database, made.database)
    np.testing.assert_array_equal(again.views("mild"), views)


def test_features_of_other_images_are_not_mixed(drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(featuresets, "FOLDER_QUERIES", 12)
    folder = tmp_path / f"{drawn.name}-lite0"
    protocol = featuresets.folder_protocol(drawn, 12, seed=1)
    featuresets.save_protocol(folder, protocol)
    with pytest.raises(DatasetError, match="of other images"):
        featuresets.open_set(f"folder:{drawn}", None, tmp_path)


def test_an_unreadable_image_is_named(drawn, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff nothing more")
    split = Split([bytes(broken)], np.zeros(1, np.int64))
    with pytest.raises(DatasetError, match=r"broken\.jpg: .*1 of 1"):
        featuresets.extract(split, tmp_path / "query.npy", "lite0")
    assert not (tmp_path / "query.npy").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--dataset", "cifar10-ii", "--data", "{tmp}"], "train/CLASS"),
        (["--dataset", "flickr25k", "--data", "{tmp}"], "mirflickr"),
        (["--dataset", "nuswide"], "--data"),
        (["--dataset", "folder:{tmp}/none"], "none does not exist"),
        (["--dataset", "mnist"], "cifar10-ii"),
    ],
)
def test_missing_data_costs_one_line(options, words, tmp_path):
    options = [option.format(tmp=tmp_path) for option in options]
    with pytest.raises(SystemExit) as stop:
        quality.main([*options, "--features", str(tmp_path / "cache")])
    assert words in stop.value.code and "\n" not in stop.value.code


@pytest.mark.parametrize(
    ("option", "words"),
    [("--bits=12", "no codes of 12"), ("--baselines=pq,zip", "no zip"), ("--seeds=0", "1 or more")],
)
def test_wrong_options_are_refused(option, words, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        quality.main(["--dataset", "drawn", "--features", str(tmp_path), option])
    assert stop.value.code == 2
    assert words in capsys.readouterr().err


def test_a_line_is_written_as_soon_as_it_is_measured(cache, short, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setitem(quality.BASELINES, "itq", fail)
    with pytest.raises(KeyboardInterrupt):
        bench(cache, *SMALL, "--recipes", "default")
    lines = (cache / "groups-lite0/runs.jsonl").read_text().splitlines()
    methods = [json.loads(line)["method"] for line in lines]
    assert methods == ["exact"] * 2 + ["hyperpq"] * 4 + ["pq"] * 4


def test_baselines_that_need_more_images_are_left_out(cache, short, capsys):
    features = featuresets.open_set("folder:groups", None, cache)
    rows = features.train_rows[:80]
    saved = dict(np.load(features.source / "protocol.npz"))
    np.savez(features.source / "protocol.npz", **{**saved, "train_rows": rows})
    views = np.load(features.source / "views-mild.npy")
    np.save(features.source / "views-mild.npy", views[:, :80])
    options = ("--bits", "16", "--seeds", "1", "--recipes", "default")
    page = bench(cache, *options, "--baselines", "pq,itq,tangent_pq")
    said = capsys.readouterr().out
    assert "left out, as only 80 images train: pq at 16 bits (needs 256)\n" in said
    assert {key[0] for key in runs(cache)} == {"exact", "hyperpq", "itq", "tangent_pq"}
    assert "| itq (" in page and "| pq (" not in page


@pytest.mark.parametrize("name", BASELINES)
def test_the_least_number_of_images_of_a_baseline_is_enough(name):
    bits = 16 if 16 in lengths(name) else 32
    n = min_training(name, bits)
    x = unit(np.random.default_rng(0).standard_normal((n + 20, 128)).astype(np.float32))
    found = BASELINES[name](Vectors(x[:n], x[n:], x[:n]), bits, 5, 0)
    assert found.ids.shape == (20, 5)
    with pytest.raises(InvalidInputError, match=f"{name} at {bits} bits expected at least {n}"):
        check_training(name, bits, n - 1)


def test_figures_of_images_of_ones_own_are_no_part_of_the_published_page(
    cache, short, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    options = ["--bits", "8", "--seeds", "1", "--baselines", "none", "--recipes", "none"]
    quality.main(["--dataset", "folder:groups", "--features", str(cache), *options])
    assert "## Groups" in (cache / "results/quality.md").read_text("utf-8")
    assert not (tmp_path / "docs").exists()
    parsed = argparse.Namespace(out=None, dataset="cifar10-ii", features=cache)
    assert results_folder(parsed) == Path("docs/results")
    parsed.out = tmp_path
    assert results_folder(parsed) == tmp_path
