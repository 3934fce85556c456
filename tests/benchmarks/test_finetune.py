"""`benchmarks.finetune` on the CPU, with few images and a small network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from benchmarks import finetune as bench
from benchmarks.finetune_page import FIELDS, RUNS, FinetuneKey, finetune_texts
from benchmarks.gpu_page import write_gpu_page
from benchmarks.runlog import RunLog
from hyperpq.backbones.torch_modules import TorchBackbone
from hyperpq.datasets.preprocessing import Preprocessing

pytest.importorskip("faiss")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Ten classes of small images, the colour of each near that of its class."""
    root, rng = tmp_path_factory.mktemp("cifar"), np.random.default_rng(0)
    for part, n in (("train", 40), ("test", 8)):
        for label in range(10):
            folder = root / part / f"class{label}"
            folder.mkdir(parents=True)
            colour = np.array([25 * label, 255 - 25 * label, (70 * label) % 255])
            for i in range(n):
                noise = rng.normal(0, 60, (32, 32, 3))
                pixels = np.clip(colour + noise, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i:02}.png")
    return root


def module():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        convolutions = ((3, 8), (8, 16), (16, 24))
        return nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.ReLU())
                for a, b in convolutions
            )
        ).eval()


@pytest.fixture
def small_network(monkeypatch):
    def load(name, *, device):
        found = TorchBackbone(
            name,
            module(),
            preprocessing=Preprocessing(size=32),
            weights_hash="of the small network",
            device="cpu",
            mean=[0.5] * 3,
            std=[0.25] * 3,
        )
        found.open_network = module
        return found

    monkeypatch.setattr(bench, "load_backbone", load)


def run(data, tmp_path, *more):
    words = ["--data", str(data), "--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    quick = ["rounds=1", "epochs=1", "batch=64", "resolution=32", "width=16"]
    sets = [word for one in quick for word in ("--set", one)]
    bench.main([*words, "--device", "cpu", "--limit", "200", "--minutes", "0", *sets, *more])


def read(tmp_path):
    lines = (tmp_path / "work" / "runs.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.slow
def test_all_steps_and_a_run_that_goes_on(data, tmp_path, small_network, monkeypatch, capsys):
    run(data, tmp_path, "--bits", "16", "--steps", "all", "--set", "holdout_check=False")
    runs = read(tmp_path)
    steps = [(one["step"], one["variant"], one["bits"]) for one in runs]
    assert steps == [
        ("frozen", "", 0),
        ("round", "", 1),
        ("tuned", "", 0),
        ("codes", "learned", 16),
        ("codes", "fitted", 16),
        *(("paper", variant, 16) for variant in bench.PAPER_VARIANTS),
    ]
    for one in runs:
        assert one["limit"] == 200
        assert one["queries"] == 80
        assert 0.1 < one["figures"]["mAP@1000"] <= 1
    tuned = runs[2]
    assert tuned["finetune"]["kept"] == 1
    # The same weights after the last round and in the result.
    assert tuned["figures"] == runs[1]["figures"]
    assert len(list((tmp_path / "work").glob("lite0-II-0-200.*.safetensors"))) == 2
    # Nothing of a trial is published.
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(bench, "finetune", None)
    monkeypatch.setattr(bench, "finetune_codec", None)
    run(data, tmp_path, "--bits", "16", "--steps", "all", "--set", "holdout_check=False")
    assert read(tmp_path) == runs
    assert "mAP@1000" in capsys.readouterr().out


def test_steps_after_the_budget_are_left_to_the_next_call(data, tmp_path, small_network, capsys):
    run(data, tmp_path, "--steps", "frozen,codes", "--budget", "1e-9")
    assert "II, seed 0, frozen: left to the next call" in capsys.readouterr().out
    assert not (tmp_path / "work" / "runs.jsonl").exists()


def test_unknown_settings_are_refused(data, tmp_path):
    with pytest.raises(Exception, match="fine-tuning has no speed"):
        run(data, tmp_path, "--set", "speed=3")


def made_up(step, variant="", bits=0, value=0.5, **facts):
    key = FinetuneKey("cifar10-ii", "lite0", step, variant, bits, 0, 0)
    return {
        **key._asdict(),
        "figures": {"mAP@1000": value, "mAP@10": 0.8},
        "device": "a card",
        "machine": "2026-01-02, a processor, 16 cores",
        "commit": "abc",
        **facts,
    }


def test_the_page_shows_the_runs_beside_the_published_figures(tmp_path):
    log = RunLog(tmp_path / RUNS, FIELDS)
    assert finetune_texts(tmp_path) is None
    rounds = [{"round": 0, "score": 0.6}, {"round": 1, "score": 0.7}]
    log.update(
        [
            made_up("frozen", value=0.544),
            made_up("round", bits=1, value=0.634, score=0.7),
            made_up("tuned", value=0.634, finetune={"kept": 1, "rounds": rounds}, seconds=65.4),
            *(
                made_up("codes", "learned", bits, 0.6 + bits / 1000, seconds=40.2)
                for bits in (16, 32, 64)
            ),
            made_up("paper", "flat", 32, 0.51),
        ]
    )
    page = Path(write_gpu_page(tmp_path)).read_text()
    assert "exact search on CIFAR-10 II from .544 to .634 mAP@1000" in page
    assert "Codes of 16, 32 and 64 bits of its features have .616, .632 and .664." in page
    assert "| HiHPQ, published |  | .633 | .652 | .665 |  |" in page
    assert "| tuned, `default` learned again | .634 | .616 | .632 | .664 | 1 |" in page
    assert "| `paper-finetuned`, flat |  |  | .510 |  | 1 |" in page
    assert "| 1 | .634 | .700 |" in page
    assert "Kept: round 1. Fine-tuning took 65 s, and 40 s more go by until the codes" in page
    assert ": 106 s end to end, without the reading of the files." in page
    assert "a card, 2026-01-02, a processor, 16 cores, commit abc" in page
