"""Fine-tuning of a small network on drawn textures, on the CPU."""

import contextlib
import dataclasses
import logging
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from hyperpq.backbones.torch_modules import TorchBackbone, hash_parameters
from hyperpq.datasets.device_views import DeviceViews
from hyperpq.datasets.preprocessing import Preprocessing
from hyperpq.errors import CorruptIndexError, InvalidInputError, TrainingError
from hyperpq.progress import SilentProgress
from hyperpq.training import (
    ArrayImages,
    FinetuneSettings,
    Recipe,
    estimate_seconds,
    finetune,
    finetuning,
)
from hyperpq.training.finetune_check import FinetuneCheck
from hyperpq.training.finetune_codec import finetune_codec
from hyperpq.training.finetune_features import (
    network_features,
    plain_squares,
    recalibrate,
    rooted,
)
from hyperpq.training.finetune_objective import CosineObjective
from hyperpq.training.finetune_round import (
    TIMED_STEPS,
    PairSampler,
    RoundPlan,
    RoundTrainer,
    view_side,
)
from hyperpq.training.finetune_state import FinetuneState, RoundRecord
from hyperpq.training.graph import build_graph
from hyperpq.training.losses import positive_targets
from hyperpq.training.presets import paper_finetuned

SIZE = 32
QUICK = FinetuneSettings(
    rounds=2, epochs=1, batch=48, resolution=SIZE, width=16, neighbours=8, warmup_steps=1
)


class Tiny(nn.Module):
    """Four convolutions with batch normalization; the output is a map."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU6())
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.ReLU6())
                for a, b in ((8, 16), (16, 32), (32, 48))
            )
        )

    def forward(self, x):
        return self.blocks(self.stem(x))


def tiny_module():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Tiny().eval()


@pytest.fixture(scope="module")
def backbone():
    found = TorchBackbone(
        "tiny",
        tiny_module(),
        preprocessing=Preprocessing(size=SIZE),
        weights_hash=hash_parameters(tiny_module().state_dict()),
        device="cpu",
        mean=[0.5] * 3,
        std=[0.25] * 3,
    )
    found.open_network = tiny_module
    return found


def textures(n, seed=0, classes=6):
    """Squares of waves, whose direction and frequency are those of a class, and its labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    out = np.empty((n, SIZE, SIZE, 3), np.uint8)
    for i, label in enumerate(labels):
        angle = np.pi * label / classes + rng.normal(0, 0.06)
        wave = np.sin(
            2 * np.pi * (4 + label % 2 * 4) * (x * np.cos(angle) + y * np.sin(angle))
            + rng.uniform(0, 6)
        )
        colour, ground = rng.uniform(20, 100, (2, 3))
        noise = rng.normal(0, 30, (SIZE, SIZE, 1))
        out[i] = np.clip(90 + wave[..., None] * colour + ground + noise, 0, 255)
    return out, labels


@pytest.fixture(scope="module")
def drawn():
    return textures(192)


class Watched:
    """Images that remember what was asked of them."""

    def __init__(self, array):
        self._images, self.asked = ArrayImages(array), []

    def __len__(self):
        return len(self._images)

    def pixels(self, rows):
        self.asked.append(rows)
        return self._images.pixels(rows)


class Told:
    """Progress that remembers what it was told beside the number of images."""

    def __init__(self):
        self.seconds, self.facts = {}, []

    @contextmanager
    def phase(self, name, total, unit="images"):
        yield SimpleNamespace(advance=lambda n=1, **facts: self.facts.append((name, facts)))


@pytest.fixture(scope="module")
def whole(backbone, drawn, tmp_path_factory):
    """An undisturbed run, with its checkpoint and what was told of its steps."""
    path, told = tmp_path_factory.mktemp("run") / "checkpoint", Told()
    result = finetune(ArrayImages(drawn[0]), backbone, QUICK, checkpoint=path, progress=told)
    return result, path, [facts for name, facts in told.facts if name == "fine-tune"]


def weights_after(backbone, images, **changes):
    settings = dataclasses.replace(QUICK, holdout_check=False, **changes)
    return finetune(images, backbone, settings).weights


def test_rounds_and_their_records(whole, backbone, drawn):
    result, path, facts_of_steps = whole
    assert [one.round for one in result.rounds] == [0, 1, 2]
    # 173 images are learned from, 48 in a step, each with its partner.
    assert [one.steps for one in result.rounds] == [0, 3, 3]
    assert [one.images for one in result.rounds] == [0, 288, 288]
    assert all(0 <= one.score <= 1 for one in result.rounds)
    assert path.exists()
    facts = result.to_dict()
    assert facts["settings"]["learning_rate"] == 2e-4
    assert facts["kept"] == result.kept
    assert backbone.tuned is None
    assert [facts["round"] for facts in facts_of_steps] == ["1 of 2"] * 3 + ["2 of 2"] * 3
    assert facts_of_steps[-1]["loss"] > 0


def test_the_same_seed_gives_the_same_weights(backbone, drawn):
    images = ArrayImages(drawn[0])
    first = weights_after(backbone, images)
    assert weights_after(backbone, images) == first
    assert weights_after(backbone, images, seed=1) != first
    assert first.backbone == "tiny"
    assert "stem.0.weight" in first.changes
    # The statistics of batch normalization stay unless asked for.
    assert "stem.1.running_mean" not in first.changes


def test_a_resumed_run_gives_the_same_weights(whole, backbone, drawn, tmp_path, monkeypatch):
    result, _, _ = whole
    path, save = tmp_path / "checkpoint", finetuning.save_state

    def kill(*args):
        save(*args)
        raise KeyboardInterrupt

    images = ArrayImages(drawn[0])
    with monkeypatch.context() as patch:
        patch.setattr(finetuning, "save_state", kill)
        with pytest.raises(KeyboardInterrupt):
            finetune(images, backbone, QUICK, checkpoint=path)
    again = finetune(images, backbone, QUICK, checkpoint=path, resume=True)
    assert again.weights == result.weights
    assert again.kept == result.kept
    timeless = [
        [dataclasses.replace(one, seconds=0) for one in run.rounds] for run in (again, result)
    ]
    assert timeless[0] == timeless[1]
    # After the last round there is nothing left to do.
    watched = Watched(drawn[0])
    done = finetune(watched, backbone, QUICK, checkpoint=path, resume=True)
    assert done.rounds == again.rounds
    assert done.weights == result.weights


def test_checkpoints_of_others_are_refused(whole, backbone, drawn, tmp_path):
    _, path, _ = whole
    images = ArrayImages(drawn[0])
    other = dataclasses.replace(QUICK, learning_rate=1e-3)
    with pytest.raises(TrainingError, match="belongs to a fine-tuning with other images"):
        finetune(images, backbone, other, checkpoint=path, resume=True)
    with pytest.raises(TrainingError, match="belongs to a fine-tuning with other images"):
        finetune(ArrayImages(drawn[0][:190]), backbone, QUICK, checkpoint=path, resume=True)
    broken = tmp_path / "broken"
    broken.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(CorruptIndexError, match="is not a checkpoint of fine-tuning"):
        finetune(images, backbone, QUICK, checkpoint=broken, resume=True)


def test_held_out_images_are_never_learned_from(backbone, drawn):
    images = Watched(drawn[0])
    finetune(images, backbone, dataclasses.replace(QUICK, rounds=1, batch_norm="train"))
    held_out = finetuning.hold_out(192, 0)
    steps = [rows for rows in images.asked if len(rows) == 2 * 48]
    assert len(steps) >= 3
    assert not np.isin(np.concatenate(steps), held_out).any()
    assert max(map(len, images.asked)) == 96


def test_too_few_images_leave_the_network_as_it_is(backbone, drawn, caplog):
    with caplog.at_level(logging.WARNING):
        result = finetune(ArrayImages(drawn[0][:100]), backbone, QUICK)
    assert (result.weights, result.kept, result.rounds) == (None, 0, ())
    assert "100 images are too few to fine-tune a network on, which takes 160" in caplog.text


def state(*scores, kept=0):
    records = tuple(RoundRecord(i, score=score) for i, score in enumerate(scores))
    return FinetuneState(records, None, None, kept, 0.0)


def test_which_round_is_kept(whole, backbone, drawn):
    tuned = weights_after(backbone, ArrayImages(drawn[0]), rounds=1)

    def kept(before, score):
        number = len(before.records)
        return before.after(RoundRecord(number, score=score), tuned, 1.0).kept_round

    # The first must gain a fiftieth of what is lacking; later ones must be better than it.
    assert kept(state(0.5), 0.509) == 0
    assert kept(state(0.5), 0.511) == 1
    assert kept(state(0.5, 0.6, kept=1), 0.601) == 2
    assert kept(state(0.5, 0.6, kept=1), 0.6) == 1
    assert kept(state(0.5, 0.4), 0.53) == 2
    assert kept(state(None), None) == 1
    after = state(0.5).after(RoundRecord(1, score=0.4), tuned, 1.0)
    assert (after.last, after.kept) == (tuned, None)


def test_a_network_that_no_round_improves_stays_as_it_is(backbone, drawn, caplog, monkeypatch):
    scores = iter([0.5, 0.505])
    monkeypatch.setattr(FinetuneCheck, "score", lambda self, network, phase: next(scores))
    with caplog.at_level(logging.WARNING):
        result = finetune(ArrayImages(drawn[0]), backbone, dataclasses.replace(QUICK, rounds=1))
    assert (result.weights, result.kept) == (None, 0)
    assert [one.score for one in result.rounds] == [0.5, 0.505]
    assert "fine-tuning is left out, as no round clearly improved" in caplog.text


@pytest.mark.slow
def test_fine_tuning_helps_images_of_the_same_kind(backbone):
    """Neighbours among new images share their class more often."""
    x, _ = textures(360)
    # Random weights have no statistics that would be worth keeping.
    settings = dataclasses.replace(
        QUICK, epochs=10, learning_rate=3e-3, batch=108, batch_norm="recalibrate"
    )
    result = finetune(ArrayImages(x), backbone, settings)
    assert result.kept > 0
    new, labels = textures(240, seed=5)
    found = []
    for tuned in (None, result.weights):
        network = backbone.trainable()
        network.load_changes(tuned)
        features = network_features(
            network, ArrayImages(new), np.arange(240), _Quiet(), plain_squares(SIZE)
        )
        z = rooted(features, features)
        similarity = z @ z.T - 2 * np.eye(240)
        nearest = np.argsort(-similarity, axis=1)[:, :20]
        found.append((labels[nearest] == labels[:, None]).mean())
    before, after = found
    assert after > before + 0.1


class _Quiet:
    def advance(self, n=1, **facts):
        pass


def test_the_last_blocks_alone_can_learn(backbone, drawn):
    tuned = weights_after(backbone, ArrayImages(drawn[0]), rounds=1, blocks=1)
    assert {name.rsplit(".", 2)[0] for name in tuned.changes} == {"blocks.2"}
    with pytest.raises(InvalidInputError, match="blocks is 9; expected at most 3"):
        weights_after(backbone, ArrayImages(drawn[0]), blocks=9)


@pytest.mark.parametrize("mode", ["train", "frozen", "recalibrate"])
def test_modes_of_batch_normalization(backbone, drawn, mode):
    tuned = weights_after(backbone, ArrayImages(drawn[0]), rounds=1, batch_norm=mode)
    statistics = [name for name in tuned.changes if "running" in name]
    assert bool(statistics) == (mode != "frozen")
    assert "stem.1.weight" in tuned.changes
    if mode == "recalibrate":
        network = backbone.trainable()
        network.load_changes(tuned)
        before = network.module.stem[1].running_mean.clone()
        held_out = finetuning.hold_out(192, 0)
        assert len(held_out) == 19
        recalibrate(network, ArrayImages(drawn[0]), np.arange(192))
        assert (network.module.stem[1].running_mean - before).abs().max() < 1e-3
        assert network.module.stem[1].momentum == 0.1
        assert not network.module.training


def test_an_average_of_the_weights_follows_them(backbone, drawn):
    images = ArrayImages(drawn[0])

    def size(ema):
        tuned = weights_after(backbone, images, rounds=1, ema=ema, batch_norm="frozen")
        return np.abs(tuned.changes["blocks.0.0.weight"].astype(np.float32)).mean()

    # Of three steps, the average has the ever smaller part.
    assert 0 < size(0.9) < 0.5 * size(0.0)


def sampler(drawn, **changes):
    settings = dataclasses.replace(QUICK, **changes)
    rng = np.random.default_rng(0)
    z = rng.normal(size=(2, 192, 8)).astype(np.float32)
    z /= np.linalg.norm(z, axis=2, keepdims=True)
    graph, anchor = (build_graph(one, 8, 4) for one in z)
    rows = np.arange(192)
    return PairSampler(ArrayImages(drawn[0]), rows, graph, anchor, settings, pinned=False), (
        graph,
        anchor,
    )


def test_targets_mix_both_graphs_and_the_partner(drawn):
    found = next(sampler(drawn, anchor=0.25)[0].batches(0))
    pairs, (graph, anchor) = found, sampler(drawn)[1]
    mixed = 0.75 * graph.affinities(pairs.sources) + 0.25 * anchor.affinities(pairs.sources)
    partner = positive_targets(96)
    shared = 0.8 * mixed
    wanted = shared + partner * (1 - shared.sum(1, keepdim=True))
    assert torch.allclose(pairs.targets, wanted, atol=1e-6)
    assert torch.allclose(pairs.targets.sum(1), torch.ones(96), atol=1e-5)
    assert (pairs.pixels.numpy() == drawn[0][pairs.rows]).all()
    assert (pairs.rows == pairs.sources.numpy()).all()


def test_without_a_graph_the_partner_is_the_image_itself(drawn):
    pairs = next(
        PairSampler(ArrayImages(drawn[0]), np.arange(192), None, None, QUICK, pinned=False).batches(
            0
        )
    )
    assert torch.equal(pairs.sources[:48], pairs.sources[48:])
    assert torch.equal(pairs.targets, positive_targets(96))


def test_a_time_limit_decides_the_steps(backbone, drawn):
    network = backbone.trainable()
    images, rows = ArrayImages(drawn[0]), np.arange(192)
    trainer = RoundTrainer(network, images, rows, QUICK)
    x = network_features(network, images, rows, _Quiet())
    pairs = PairSampler(images, rows, None, None, QUICK, pinned=False)
    objective = CosineObjective(x, QUICK, network.device)
    done = trainer.run(RoundPlan(1, 1, 0.0), pairs, objective, SilentProgress())
    assert done.steps == TIMED_STEPS
    result = finetune(images, backbone, dataclasses.replace(QUICK, minutes=1e-6, epochs=50))
    assert [one.steps for one in result.rounds] == [0, TIMED_STEPS, TIMED_STEPS]


def test_a_loss_that_is_not_finite_ends_the_training(backbone, drawn):
    with pytest.raises(TrainingError, match=r"diverged: .* lower learning_rate"):
        weights_after(backbone, ArrayImages(drawn[0]), learning_rate=1e30, batch_norm="frozen")


def test_the_loss_of_a_step_has_finite_gradients_at_zero_features():
    x = np.abs(np.random.default_rng(0).normal(size=(40, 12))).astype(np.float32)
    x[:, 3] = 0
    objective = CosineObjective(x, dataclasses.replace(QUICK, width=5), torch.device("cpu"))
    features = torch.from_numpy(x).requires_grad_()
    loss = objective.loss(features, torch.arange(40), positive_targets(40))
    loss.backward()
    assert torch.isfinite(features.grad).all()
    assert objective.weight.shape == (12, 5)
    # The start is PCA: orthonormal directions.
    assert torch.allclose(objective.weight.T @ objective.weight, torch.eye(5), atol=1e-5)


def test_an_estimate_leaves_the_backbone_as_it_is(backbone, drawn):
    before = backbone(drawn[0][:4])
    assert estimate_seconds(ArrayImages(drawn[0]), backbone, QUICK) > 0
    limit = dataclasses.replace(QUICK, minutes=2.0)
    assert estimate_seconds(ArrayImages(drawn[0]), backbone, limit) == 120
    assert (backbone(drawn[0][:4]) == before).all()


def test_views_have_the_side_that_the_network_takes(backbone):
    network = backbone.trainable()
    assert view_side(network, dataclasses.replace(QUICK, resolution=64)) == 64
    network.size = 224
    assert view_side(network, FinetuneSettings()) == 160
    network.works_at = lambda size: size == 224
    assert view_side(network, FinetuneSettings()) == 224


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 8, 8, 3), np.float32), np.zeros((4, 8, 9, 3), np.uint8), np.zeros((4, 8), "u1")],
)
def test_images_must_be_squares(array):
    with pytest.raises(InvalidInputError, match=r"expected .*S, S, 3"):
        ArrayImages(array)


@pytest.mark.parametrize(
    "bad",
    [
        {"rounds": 0},
        {"learning_rate": 0},
        {"ema": 1.0},
        {"anchor": 1.5},
        {"batch_norm": "none"},
        {"augmentation": "strong"},
        {"graph_steps": 3},
        {"resolution": 16},
        {"blocks": 0},
        {"minutes": -1},
    ],
)
def test_settings_are_checked(bad):
    with pytest.raises(InvalidInputError, match=next(iter(bad))):
        FinetuneSettings(**bad)


PUBLISHED = paper_finetuned(16).replace(epochs=2, batch=48, levels=(8, 4), warmup_epochs=1)


@pytest.mark.parametrize(
    "changes",
    [{}, {"geometry": "euclidean"}, {"prototype_weight": 0.0, "neighbour_weight": 0.0}],
    ids=["published", "flat", "no hierarchy"],
)
def test_the_published_losses_train_network_and_codec(backbone, drawn, changes):
    recipe = PUBLISHED.replace(**changes)
    settings = dataclasses.replace(QUICK, learning_rate=1e-3)
    images = ArrayImages(drawn[0])
    tuned, codec = finetune_codec(images, backbone, recipe, settings, M=2, nbits=4)
    assert tuned.base_hash == backbone.base_hash
    assert {"stem.0.weight", "blocks.2.0.weight"} <= set(tuned.changes)
    network = backbone.trainable()
    network.load_changes(tuned)
    x = network_features(network, images, np.arange(192), _Quiet(), plain_squares(SIZE))
    codes = codec.encode(x)
    assert codes.shape == (192, 1)
    assert len(np.unique(codes)) > 8
    assert codec.config.geometry == recipe.representation.geometry
    curvature = codec.quantizer.log_c.detach().abs().max()
    assert (curvature > 0) == (recipe.representation.geometry == "lorentz")


def test_the_default_recipe_can_train_end_to_end_too(backbone, drawn):
    recipe = Recipe().replace(epochs=1, batch=96, width=16, subspaces=4, graph_neighbours=8)
    tuned, codec = finetune_codec(ArrayImages(drawn[0]), backbone, recipe, QUICK, M=2, nbits=4)
    assert np.isfinite(tuned.changes["stem.0.weight"]).all()
    assert codec.M == 2
    with pytest.raises(InvalidInputError, match="expected 'semantic'"):
        finetune_codec(ArrayImages(drawn[0]), backbone, Recipe().replace(objective="fidelity"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_fine_tuning_on_a_gpu(backbone, drawn):
    result = finetune(ArrayImages(drawn[0]), backbone, QUICK, device="cuda:0")
    here = finetune(ArrayImages(drawn[0]), backbone, QUICK)
    assert result.rounds[1].loss == pytest.approx(here.rounds[1].loss, rel=0.05)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_step_on_a_gpu_does_not_wait_for_it(backbone, drawn, waiting_refused):
    network = backbone.trainable("cuda:0")
    images, rows = ArrayImages(drawn[0]), np.arange(192)
    trainer = RoundTrainer(network, images, rows, QUICK)
    objective = CosineObjective(
        network_features(network, images, rows, _Quiet()), QUICK, network.device
    )
    optimizers = trainer._optimizers(objective)
    views = DeviceViews(QUICK.views, SIZE, 0)
    sampler = PairSampler(images, rows, None, None, QUICK, pinned=True)
    for pairs, _ in zip(sampler.batches(0), range(3), strict=False):
        assert pairs.pixels.is_pinned()
        assert pairs.targets.is_pinned()
        # The first steps make the state of the optimisers.
        with waiting_refused() if pairs.step else contextlib.nullcontext():
            loss = trainer._step(pairs, views, objective, optimizers, 1.0)
    assert np.isfinite(float(loss))


class Colours(nn.Module):
    """Gives the mean colour of an image, and noise that no search should depend on."""

    def __init__(self, noise):
        super().__init__()
        self.size, self.device, self.noise = SIZE, torch.device("cpu"), noise
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, x):
        colour = x.mean((2, 3)) / 255
        more = self.noise * torch.rand(len(x), 12, generator=self.generator)
        return torch.cat([colour, more], 1)


def test_the_check_prefers_what_does_not_depend_on_the_view():
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (300, 1, 1, 3))
    x = np.clip(colours + rng.normal(0, 20, (300, SIZE, SIZE, 3)), 0, 255).astype(np.uint8)
    images, held_out = ArrayImages(x), finetuning.hold_out(300, 0)
    check = FinetuneCheck(images, held_out, SIZE, seed=0)
    scores = [check.score(Colours(noise), _Quiet()) for noise in (0.0, 0.3, 1.0, 1e6)]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > 0.4
    # Of 299 others, 15 are found.
    assert scores[-1] == pytest.approx(15 / 299, abs=0.04)
    assert check.views == 2 * (30 + 300)


def test_the_check_of_a_large_set_searches_some_of_it():
    class Many:
        def __len__(self):
            return 50_000

    held_out = finetuning.hold_out(50_000, 0)
    check = FinetuneCheck(Many(), held_out, SIZE, seed=0)
    rows = check._rows
    assert len(held_out) == 256
    assert 2000 <= len(rows) <= 2500
    assert len(np.unique(rows)) == len(rows)
    assert rows.max() > 49_000


def test_statistics_are_computed_anew_without_dropout(drawn):
    def module():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            layers = (nn.Conv2d(3, 6, 3, 2), nn.Dropout(0.5), nn.BatchNorm2d(6))
            return nn.Sequential(*layers).eval()

    found = TorchBackbone(
        "dropout",
        module(),
        preprocessing=Preprocessing(size=SIZE),
        weights_hash="of a module with dropout",
        device="cpu",
        mean=[0.5] * 3,
        std=[0.25] * 3,
    )
    found.open_network = module
    network = found.trainable()
    images, rows = ArrayImages(drawn[0]), np.arange(192)
    recalibrate(network, images, rows)
    x = torch.from_numpy(drawn[0]).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        wanted = network.module[0]((x / 255 - 0.5) / 0.25).mean((0, 2, 3))
    assert torch.allclose(network.module[2].running_mean, wanted, atol=1e-4)


def test_another_view_of_an_image_is_no_negative():
    x = np.random.default_rng(0).random((40, 12), np.float32)
    objective = CosineObjective(x, dataclasses.replace(QUICK, width=5), torch.device("cpu"))
    rows = [0, 1, 2, 3, 4, 0]
    targets = positive_targets(6)  # rows 0 and 3, 1 and 4, 2 and 5

    def gradient(sources):
        features = torch.from_numpy(x[rows]).requires_grad_()
        loss = objective.loss(features, torch.tensor(sources), targets)
        loss.backward()
        return float(loss.detach()), features.grad

    loss, slope = gradient(rows)
    as_negative, _ = gradient([0, 1, 2, 3, 4, 5])
    assert loss < as_negative - 0.3
    assert torch.isfinite(slope).all()
    # As a partner it still counts.
    loss, slope = gradient([0, 1, 2, 0, 1, 2])
    assert np.isfinite(loss)
    assert torch.isfinite(slope).all()
