"""On a CPU an index that is read from files is searched and changed without PyTorch."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
from index_tools import make_x

from hyperpq import HiHPQIndex
from hyperpq.codec.serialization import to_files
from hyperpq.index.index_codec import IndexCodec

SCRIPT = """
import sys
import numpy as np
from hyperpq import HiHPQIndex, ImageIndex
x = np.load("x.npy")
index = HiHPQIndex.load("index", device="cpu")
D, I = index.search(x, 5)
E, J, S = index.search_similar(x, 5, refine=20)
codes = index.encode(x)
vectors = index.reconstruct_batch(index.ids[:3])
index.add(x[:2])
index.update(x[2:3], [0])
index.remove_ids([1])
index.compact()
index.save("copy")
names = (index.metric, index.objective, index.M, index.nbits, index.is_trained)
np.savez("found.npz", D=D, I=I, E=E, J=J, S=S, codes=codes, vectors=vectors, names=str(names))
assert "torch" not in sys.modules, "torch"
"""


@pytest.mark.parametrize("name", ["l1", "nibbles", "fidelity", "l2", "ip"])
def test_answers_are_those_with_pytorch(trained, name, tmp_path):
    index = HiHPQIndex.from_codec(trained[name].codec, device="cpu", features="int8")
    x, queries = make_x(120), make_x(6, seed=1)
    index.add(x)
    index.save(tmp_path / "index")
    np.save(tmp_path / "x.npy", queries)
    want = [*index.search(queries, 5), *index.search_similar(queries, 5, refine=20)]
    want += [index.encode(queries), index.reconstruct_batch(index.ids[:3])]
    names = (index.metric, index.objective, index.M, index.nbits, index.is_trained)
    subprocess.run([sys.executable, "-c", SCRIPT], cwd=tmp_path, check=True)
    found = np.load(tmp_path / "found.npz")
    assert str(found["names"]) == str(names)
    for key, array in zip(["D", "I", "E", "J", "S", "codes", "vectors"], want, strict=True):
        np.testing.assert_array_equal(found[key], array)
    copied = HiHPQIndex.load(tmp_path / "copy", device="cpu")
    assert copied.ntotal == 121
    assert to_files(copied.codec) == to_files(index.codec)


def test_the_codec_of_files_is_made_once(trained, tmp_path):
    trained["l1"].save(tmp_path / "index")
    index = HiHPQIndex.load(tmp_path / "index", device="cpu")
    held = index.collection.held
    assert index.codec is index.codec is held.module
    assert held.coder is held.coder
    assert held.on("cpu") is held
    files = to_files(index.codec)
    for other in (copy.copy(index), copy.deepcopy(index), pickle.loads(pickle.dumps(index))):
        assert to_files(other.codec) == files
        np.testing.assert_array_equal(other.encode(make_x(5)), index.encode(make_x(5)))
    assert copy.copy(index).codec is index.codec
    assert copy.deepcopy(index).codec is not index.codec


def test_a_held_codec_says_what_the_codec_says(trained):
    for name in ("l1", "nibbles", "fidelity", "l2", "ip"):
        module = trained[name].codec
        given, read = IndexCodec.of(module), IndexCodec(files=to_files(module))
        for held in (given, read):
            for what in ("d", "M", "nbits", "metric", "code_size", "is_trained", "config"):
                assert getattr(held, what) == getattr(module, what)
            assert held.has_corrections == module.has_corrections
            assert held.coder.approximates_features == module.approximates_features
            assert held.n_sample == getattr(module, "n_sample", None)
            assert held.coder.feature_space().metric == module.feature_space().metric
            x = make_x(7)
            for what in ("encode", "embed", "tables"):
                found, want = getattr(held.coder, what)(x), getattr(module, what)(x)
                np.testing.assert_array_equal(found, want)
            np.testing.assert_array_equal(held.encode(x), module.encode(x))
            codes = module.encode(x)
            for what in ("decode", "code_tables", "corrections"):
                found, want = getattr(held.coder, what)(codes), getattr(module, what)(codes)
                np.testing.assert_array_equal(found, want)
            np.testing.assert_array_equal(held.decode(codes), module.decode(codes))
    assert IndexCodec.of(None) is None


def test_curvatures_and_recipe_are_read_from_files(trained):
    for index in trained.values():
        module = index.codec
        read = IndexCodec(files=to_files(module))
        wanted = module.quantizer.curvatures.numpy()
        np.testing.assert_allclose(read.curvatures, wanted, rtol=1e-6)
        np.testing.assert_array_equal(IndexCodec.of(module).curvatures, wanted)
        assert IndexCodec.of(module).recipe == module.recipe
        assert read.difference(IndexCodec(files=to_files(module))) is None
        assert read._module is None  # the same files are the same codec
        assert read.recipe == read.module.recipe
    l1, nibbles = (IndexCodec(files=to_files(trained[name].codec)) for name in ("l1", "nibbles"))
    assert "is" in l1.difference(nibbles)
    assert IndexCodec.of(trained["l1"].codec).difference(l1) is None
