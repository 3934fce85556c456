"""The layers of EfficientNet-Lite are those of its PyTorch package, and its file stays the same."""

import numpy as np
import pytest
import torch
import xxhash

from hyperpq.backbones import TunedWeights
from hyperpq.backbones import efficientnet_lite as lite
from hyperpq.backbones.lite_network import build_onnx, fold_network
from hyperpq.errors import BackboneError

# xxh3_128 of the files that were written from PyTorch modules at first.
GRAPHS = {
    "lite0": "c20ebccc66874689e7b4a59438cc372c",
    "lite1": "d2fe1e7ef17974e54b811da14e628568",
    "lite2": "41e801d0d8f1115e0d30fc1b43c5dcac",
}


@pytest.fixture(scope="module", params=list(GRAPHS))
def network(request):
    name = request.param
    return name, lite._blocks(name, lite._weights_path(name))


def test_the_file_is_that_of_earlier_versions(network):
    """So features stay the same to the last bit, and the cache is still good."""
    name, blocks = network
    graph = build_onnx(blocks, lite.LITE_MODELS[name].shape.size)
    assert xxhash.xxh3_128(graph).hexdigest() == GRAPHS[name]


def test_the_layers_are_those_of_the_package(network):
    name, blocks = network
    expected = lite._network(name, lite._weights_path(name))
    inner = expected._blocks
    assert len(blocks) == len(inner) + 2
    seen = [layer for block in blocks for layer in block.layers]
    convolutions = [m for m in expected.modules() if isinstance(m, torch.nn.Conv2d)]
    # In the order of the forward pass; the package makes the head after the blocks, too.
    for layer, module in zip(seen, convolutions, strict=True):
        assert layer.weight.shape == tuple(module.weight.shape)
        assert (layer.stride, layer.stride) == tuple(module.stride)
        assert layer.groups == module.groups
        left, right, top, bottom = getattr(module.static_padding, "padding", (0, 0, 0, 0))
        assert layer.padding == (top, left, bottom, right)
    for block, module in zip(blocks[1:-1], inner, strict=True):
        args = module._block_args
        same = args.stride in (1, [1]) and args.input_filters == args.output_filters
        assert block.residual == (module.id_skip and same)
        assert [layer.relu6 for layer in block.layers] == [True] * (len(block.layers) - 1) + [False]
    assert [blocks[n].layers[0].relu6 for n in (0, -1)] == [True, True]
    assert not blocks[0].residual and not blocks[-1].residual


def test_weights_of_another_network_are_named(network):
    name, _ = network
    other = "lite1" if name != "lite1" else "lite2"
    with pytest.raises(BackboneError, match=f"does not hold the weights of backbone '{other}'"):
        lite._blocks(other, lite._weights_path(name))


def test_absent_tensors_and_other_types_are_named():
    shape, state = (
        lite.LITE_MODELS["lite0"].shape,
        lite._state("lite0", lite._weights_path("lite0")),
    )
    with pytest.raises(ValueError, match=r"it has no _bn1\.running_var"):
        fold_network(shape, {k: v for k, v in state.items() if k != "_bn1.running_var"})
    with pytest.raises(ValueError, match=r"_bn1\.bias has shape \(1280,\) and type int64"):
        fold_network(shape, {**state, "_bn1.bias": np.zeros(1280, int)})
    with pytest.raises(ValueError, match=r"_bn0\.weight has shape \(5,\) .* expected \(32,\)"):
        fold_network(shape, {**state, "_bn0.weight": np.zeros(5, np.float32)})


def test_tuned_arrays_are_the_tuned_tensors():
    state = lite._state("lite0", lite._weights_path("lite0"))
    rng = np.random.default_rng(0)
    changes = {
        name: rng.standard_normal(state[name].shape).astype(dtype)
        for name, dtype in (("_conv_stem.weight", np.float16), ("_bn1.running_var", np.float32))
    }
    tuned = TunedWeights("lite0", lite.lite_hash("lite0"), changes)
    found = tuned.apply_to_arrays(state)
    expected = tuned.apply({name: torch.tensor(value) for name, value in state.items()})
    assert list(found) == list(expected)
    assert all(np.array_equal(found[name], value.numpy()) for name, value in expected.items())
    assert not np.array_equal(found["_bn1.running_var"], state["_bn1.running_var"])
    for bad, said in (
        ({"none": np.ones(1, np.float32)}, "change 'none', which the network does not have"),
        ({"_bn0.num_batches_tracked": np.ones((), np.float32)}, "num_batches_tracked', which"),
        ({"_bn0.bias": np.ones(2, np.float32)}, r"_bn0\.bias has shape \(2,\); expected \(32,\)"),
    ):
        with pytest.raises(BackboneError, match=said):
            TunedWeights("lite0", "abc", bad).apply_to_arrays(state)
