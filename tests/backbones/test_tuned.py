"""Tuned weights: their file, and networks that have them."""

import pickle
import sys
import types

import numpy as np
import pytest
import torch
from torch import nn

from hyperpq.backbones import TunedWeights, load_backbone
from hyperpq.backbones import efficientnet_lite as lite
from hyperpq.backbones.trainable import CombinedModule
from hyperpq.errors import BackboneError, InvalidInputError


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYPERPQ_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def weights(**changes):
    found = {"conv.weight": np.full((2, 3, 1, 1), 0.5, np.float16), "bias": np.ones(2, np.float32)}
    return TunedWeights("net", "abc", {**found, **changes})


def shake(module, names, seed=0):
    """Change some tensors of a module a little."""
    generator = torch.Generator().manual_seed(seed)
    state = dict(module.state_dict())
    for name in names:
        noise = torch.randn(state[name].shape, generator=generator)
        state[name].add_(0.05 * state[name].abs().mean() * noise)


def test_bytes_are_read_back_the_same():
    tuned = weights()
    data = tuned.to_bytes()
    assert data == weights().to_bytes()
    again = TunedWeights.from_bytes(data)
    assert again == tuned
    assert hash(again) == hash(tuned)
    assert again.hash == tuned.hash
    assert {k: v.dtype for k, v in again.changes.items()} == {
        "bias": np.float32,
        "conv.weight": np.float16,
    }
    assert again.nbytes == 2 * 6 + 4 * 2
    assert pickle.loads(pickle.dumps(tuned)) == tuned
    with pytest.raises(ValueError, match="read-only"):
        again.changes["bias"][0] = 2


def test_the_hash_depends_on_everything():
    others = [
        TunedWeights("other", "abc", weights().changes),
        TunedWeights("net", "abd", weights().changes),
        weights(bias=np.array([1, 2], np.float32)),
        weights(bias=np.ones(2, np.float16)),
        weights(more=np.ones(1, np.float32)),
    ]
    assert len({one.hash for one in [weights(), *others]}) == 6
    assert len({one.weights_hash for one in [weights(), *others]}) == 6
    assert weights() != others[0]
    assert weights() != "something else"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_must_be_finite(bad):
    with pytest.raises(BackboneError, match=r"'net': bias has values that are not finite"):
        weights(bias=np.array([1, bad], np.float32))
    with pytest.raises(BackboneError, match="bias is int64; expected float16 or float32"):
        weights(bias=np.array([1, 2]))


def test_damaged_files_are_named():
    from safetensors.numpy import save

    data = weights().to_bytes()
    for broken in (b"", data[:7], data[:40], b"\xff" * 100, data[:-3], save({"a": np.ones(2)})):
        with pytest.raises(BackboneError, match=r"net\.st is not a file of tuned weights"):
            TunedWeights.from_bytes(broken, "net.st")
    flipped = bytearray(data)
    flipped[-1] ^= 1
    with pytest.raises(BackboneError, match=r"net\.st is damaged"):
        TunedWeights.from_bytes(bytes(flipped), "net.st")
    later = data.replace(b'\\"format\\": 1', b'\\"format\\": 9')
    assert later != data
    with pytest.raises(BackboneError, match="has format 9; expected 1"):
        TunedWeights.from_bytes(later)


def test_changes_between_states():
    before = {
        "w": torch.ones(2, 2),
        "same": torch.ones(3, 3),
        "b": torch.zeros(2),
        "big": torch.zeros(1, 1),
        "count": torch.tensor(3),
    }
    after = {
        "w": torch.ones(2, 2) + 1e-3,
        "same": torch.ones(3, 3),
        "b": torch.full((2,), 1e-7),
        "big": torch.full((1, 1), 1e6),
        "count": torch.tensor(9),
    }
    tuned = TunedWeights.between("net", "abc", before, after)
    assert {k: str(v.dtype) for k, v in tuned.changes.items()} == {
        "w": "float16",
        "b": "float32",
        "big": "float32",
    }
    # The error of float16 is that of the change, not of the weight.
    tuned_state = tuned.apply(before)
    assert (tuned_state["w"] - after["w"]).abs().max() < 1e-6
    assert torch.equal(tuned_state["b"], after["b"])
    assert tuned_state["count"] == 3
    exact = TunedWeights.between("net", "abc", before, after, half=False)
    assert all(v.dtype == np.float32 for v in exact.changes.values())
    with pytest.raises(BackboneError, match="not finite"):
        TunedWeights.between("net", "abc", before, {**after, "w": torch.full((2, 2), torch.nan)})


def test_changes_must_fit_the_network():
    state = {"conv.weight": torch.zeros(2, 3, 1, 1), "bias": torch.zeros(3)}
    with pytest.raises(BackboneError, match=r"bias has shape \(2,\); expected \(3,\)"):
        weights().apply(state)
    with pytest.raises(BackboneError, match="change 'bias', which the network does not have"):
        weights().apply({"conv.weight": state["conv.weight"]})
    with pytest.raises(BackboneError, match="belong to backbone 'net' with weights abc"):
        load_backbone("lite0", device="cpu", tuned=weights())


@pytest.fixture(scope="module")
def tuned_lite0():
    network = load_backbone("lite0", device="cpu").trainable()
    names = ("_blocks.15._project_conv.weight", "_bn1.running_var", "_bn1.weight")
    shake(network.module, names)
    return network, network.changes()


def pixels(n=3, size=224, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def test_a_tuned_embedded_network_runs_in_onnx_runtime(tuned_lite0):
    network, tuned = tuned_lite0
    assert set(tuned.changes) == {
        "_blocks.15._project_conv.weight",
        "_bn1.running_var",
        "_bn1.weight",
    }
    plain = load_backbone("lite0", device="cpu")
    backbone = load_backbone("lite0", device="cpu", tuned=tuned)
    assert backbone.tuned == tuned
    assert backbone.identity()["weights_hash"] == tuned.weights_hash != plain.weights_hash
    assert backbone.base_hash == plain.weights_hash
    x = pixels()
    network.load_changes(tuned)
    with torch.no_grad():
        wanted = network(torch.from_numpy(x).permute(0, 3, 1, 2).float()).numpy()
    features = backbone(x)
    assert np.abs(features - wanted).max() < 1e-4
    assert np.abs(features - plain(x)).max() > 0.01
    with pytest.raises(BackboneError, match="weights"):
        backbone.check_matches(plain.identity())
    again = pickle.loads(pickle.dumps(backbone))
    assert (again(x) == features).all()
    # The cached file of the other weights is not taken for it.
    assert (load_backbone("lite0", device="cpu")(x) == plain(x)).all()


def test_a_tuned_network_goes_on_from_its_weights(tuned_lite0):
    _, tuned = tuned_lite0
    network = load_backbone("lite0", device="cpu", tuned=tuned).trainable()
    found = network.changes().changes
    assert found.keys() == tuned.changes.keys()
    # A sum in float32 is rounded, and so is the difference.
    assert all(np.allclose(found[k], tuned.changes[k], rtol=1e-3, atol=1e-6) for k in found)
    network.load_changes(None)
    assert not network.changes().changes


def test_float16_changes_give_the_features_of_float32(tuned_lite0):
    network, tuned = tuned_lite0
    shake(network.module, ["_conv_head.weight"], seed=1)
    exact, half = network.changes(half=False), network.changes()
    assert half.nbytes < 0.52 * exact.nbytes
    x = torch.from_numpy(pixels()).permute(0, 3, 1, 2).float()
    found = []
    for one in (exact, half):
        network.load_changes(one)
        with torch.no_grad():
            found.append(network(x))
    cosine = nn.functional.cosine_similarity(*found)
    assert (1 - cosine).abs().max() < 1e-6
    network.load_changes(tuned)


def test_the_module_normalizes_and_pools_as_the_backbone_does():
    backbone = load_backbone("lite0", device="cpu")
    network = backbone.trainable()
    x = pixels(2)
    with torch.no_grad():
        got = network(torch.from_numpy(x).permute(0, 3, 1, 2).float())
    assert np.abs(got.numpy() - backbone(x)).max() < 1e-4
    assert network.works_at(96)


@pytest.mark.slow
def test_all_embedded_networks_side_by_side():
    backbone = load_backbone("lite-all", device="cpu")
    network = backbone.trainable()
    assert isinstance(network.module, CombinedModule)
    shake(network.module, ["lite1._conv_head.weight"])
    tuned = network.changes()
    assert list(tuned.changes) == ["lite1._conv_head.weight"]
    again = load_backbone("lite-all", device="cpu", tuned=tuned)
    x = pixels(2, 260)
    before, after = backbone(x), again(x)
    changed = np.abs(before - after).max(0).reshape(3, 1280).max(1) > 1e-3
    assert changed.tolist() == [False, True, False]
    assert again.weights_hash == tuned.weights_hash
    with torch.no_grad():
        got = network(torch.from_numpy(x).permute(0, 3, 1, 2).float()).numpy()
    # The module resizes for the smaller networks without rounding to whole values.
    cosine = (got * after).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(after, axis=1)
    assert cosine.min() > 0.99
    chosen = [name for name, _ in network.choose(1)]
    assert {name.partition(".")[0] for name in chosen} == {"lite0", "lite1", "lite2"}
    assert "lite2._conv_stem.weight" not in chosen


def test_the_last_blocks_can_be_chosen():
    network = load_backbone("lite0", device="cpu").trainable()
    every = [name for name, _ in network.choose()]
    assert "_conv_stem.weight" in every
    last = [name for name, _ in network.choose(2)]
    assert all(
        name.startswith(("_blocks.14.", "_blocks.15.", "_conv_head", "_bn1", "_fc"))
        for name in last
    )
    assert {"_blocks.14._expand_conv.weight", "_conv_head.weight"} <= set(last)
    assert network.module._conv_stem.weight.requires_grad is False
    network.train_chosen(batch_statistics=True)
    modes = [norm.training for norm in network.batch_norms()]
    assert modes == [True] * 7
    assert not network.module._bn0.training
    network.train_chosen(batch_statistics=False)
    assert not any(norm.training for norm in network.batch_norms())
    network.eval()
    with pytest.raises(InvalidInputError, match="blocks is 17; expected at most 16"):
        network.choose(17)


class Tower(nn.Module):
    """An image side as OpenCLIP has it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2)
        self.blocks = nn.ModuleList([nn.Conv2d(4, 4, 1) for _ in range(3)])

    def forward(self, x):
        x = self.conv(x)
        for block in self.blocks:
            x = x + block(x)
        return x.mean((2, 3))


class Clip(nn.Module):
    def __init__(self):
        super().__init__()
        self.text = nn.Linear(4, 4)
        self.visual = Tower()

    def encode_image(self, x):
        return self.visual(x)


def seeded(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make()


@pytest.fixture
def fakes(monkeypatch):
    clip = types.ModuleType("open_clip")
    clip.list_pretrained = lambda: [("ViT-T", "tag")]
    clip.create_model = lambda name, pretrained: seeded(Clip)
    clip.get_model_preprocess_cfg = lambda model: {
        "size": 16,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
    }
    monkeypatch.setitem(sys.modules, "open_clip", clip)
    timm = types.ModuleType("timm")
    timm.list_models = lambda filter="", pretrained=False: ["vit.aug"]
    timm.create_model = lambda name, pretrained, num_classes: seeded(Tower)
    timm.data = types.SimpleNamespace(
        resolve_model_data_config=lambda model: {
            "input_size": (3, 16, 16),
            "mean": (0.5, 0.4, 0.5),
            "std": (0.5, 0.5, 0.5),
            "interpolation": "bicubic",
            "crop_pct": 0.9,
            "crop_mode": "center",
        }
    )
    monkeypatch.setitem(sys.modules, "timm", timm)


@pytest.mark.parametrize(
    ("name", "prefix"), [("open_clip:ViT-T/tag", "visual."), ("timm:vit.aug", "")]
)
def test_networks_of_other_libraries(fakes, name, prefix):
    backbone = load_backbone(name, device="cpu")
    network = backbone.trainable()
    chosen = [key for key, _ in network.choose()]
    assert all(key.startswith(prefix) for key in chosen)
    assert len(chosen) == 8
    assert [key for key, _ in network.choose(1)] == [
        f"{prefix}blocks.2.weight",
        f"{prefix}blocks.2.bias",
    ]
    x = pixels(2, 16)
    with torch.no_grad():
        got = network(torch.from_numpy(x).permute(0, 3, 1, 2).float())
    assert np.abs(got.numpy() - backbone(x)).max() < 1e-5
    shake(network.module, [f"{prefix}blocks.1.weight"])
    tuned = TunedWeights.from_bytes(network.changes().to_bytes())
    again = load_backbone(name, device="cpu", tuned=tuned)
    assert np.abs(again(x) - backbone(x)).max() > 1e-4
    assert again.weights_hash == tuned.weights_hash
    network.load_changes(tuned)
    state = network.module.state_dict()
    for key, value in again.trainable().module.state_dict().items():
        assert torch.equal(value, state[key])


@pytest.mark.parametrize("kind", ["onnx", "torchscript"])
def test_finished_programs_cannot_be_tuned(kind, tmp_path):
    file = tmp_path / "net"
    if kind == "onnx":
        name = "lite0"
        file.write_bytes(lite.build_onnx(lite._blocks(name, lite._weights_path(name)), 224))
    else:
        torch.jit.save(torch.jit.script(nn.AvgPool2d(56)), str(file))
    name = f"{kind}:{file}"
    with pytest.raises(BackboneError, match="cannot be fine-tuned, as its file holds a finished"):
        load_backbone(name, device="cpu").trainable()
    with pytest.raises(BackboneError, match="cannot take tuned weights"):
        load_backbone(name, device="cpu", tuned=weights())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_tuned_network_on_a_gpu_is_that_of_the_cpu(tuned_lite0):
    _, tuned = tuned_lite0
    x = pixels()
    there = load_backbone("lite0", device="cuda", tuned=tuned)(x)
    assert np.abs(there - load_backbone("lite0", device="cpu", tuned=tuned)(x)).max() < 1e-3
