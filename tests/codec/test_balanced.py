"""The codec with a semantic and a fidelity part: tables, codes, other lengths and its factor."""

from __future__ import annotations

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch

from hyperpq import scan
from hyperpq.codec.additive import AdditiveCodec
from hyperpq.codec.balanced import BalancedCodec
from hyperpq.codec.config import AdditiveConfig, BalancedConfig, CodecConfig
from hyperpq.codec.hihpq import HiHPQCodec
from hyperpq.codec.serialization import (
    SETTINGS_FILE,
    WEIGHTS_FILE,
    difference,
    from_files,
    stored_settings,
    to_files,
)
from hyperpq.codes import unpack
from hyperpq.errors import (
    CorruptIndexError,
    FormatVersionError,
    InvalidInputError,
    NotTrainedError,
)
from hyperpq.training.recipe import Recipe
from hyperpq.training.train import train_codec
from hyperpq.utils.validation import as_features


def clustered(n: int, seed: int, d: int = 24) -> np.ndarray:
    centers = np.random.default_rng(0).normal(size=(20, d)) * 3
    rng = np.random.default_rng(seed)
    return np.abs(centers[rng.integers(0, 20, n)] + rng.normal(size=(n, d))).astype(np.float32)


X = clustered(600, 1)
RECIPE = Recipe().replace(
    objective="balanced", width=24, subspaces=4, epochs=1, holdout_check=False, distil_epochs=1
)


@pytest.fixture(scope="module")
def codec():
    return train_codec(X, M=5, recipe=RECIPE)


def test_parts_share_the_codes(codec):
    assert isinstance(codec, BalancedCodec)
    assert (codec.semantic.M, codec.fidelity.M, codec.M, codec.code_size) == (3, 2, 5, 5)
    assert (codec.metric, codec.semantic.metric, codec.fidelity.metric) == (
        *("balanced", "l1", "cosine"),
    )
    assert codec.recipe["objective"] == codec.fidelity.recipe["objective"] == "balanced"
    assert codec.is_learned
    assert codec.d == codec.semantic.d == codec.fidelity.d == 24
    assert str(codec.device) == "cpu"
    assert not codec.training


def test_codes_are_those_of_both_parts_side_by_side(codec):
    codes = codec.encode(X)
    np.testing.assert_array_equal(codes[:, :3], codec.semantic.encode(X))
    np.testing.assert_array_equal(codes[:, 3:], codec.fidelity.encode(X))


def test_codes_of_half_a_byte_are_packed_together():
    codec = train_codec(X[:300], M=5, nbits=4, recipe=RECIPE.replace(epochs=0))
    assert (codec.M, codec.nbits, codec.code_size) == (5, 4, 3)
    codes = unpack(codec.encode(X), 5, 4)
    np.testing.assert_array_equal(codes[:, :3], unpack(codec.semantic.encode(X), 3, 4))
    np.testing.assert_array_equal(codes[:, 3:], unpack(codec.fidelity.encode(X), 2, 4))
    again = codec.encode(X)
    np.testing.assert_array_equal(
        codec.decode(again)[:, -25:],
        codec.fidelity.decode(np.ascontiguousarray(codec.fidelity.encode(X))),
    )


def test_tables_are_float64_sums_of_the_parts(codec):
    queries, codes = clustered(40, 9), unpack(codec.encode(X), 5, 8)
    semantic, fidelity = codec.semantic.tables(queries), codec.fidelity.tables(queries)
    factor = float(codec.factor)
    tables = codec.tables(queries)
    np.testing.assert_array_equal(tables[:, :3], semantic)
    np.testing.assert_allclose(tables[:, 3:], factor * fidelity.astype(float), rtol=3e-7, atol=1e-7)
    columns = np.arange(5)
    for q in range(len(queries)):
        parts = [*semantic[q].astype(float), *(factor * fidelity[q].astype(float))]
        want = sum(part[codes[:, m]] for m, part in enumerate(parts))
        found = tables[q].astype(float)[columns, codes].sum(1)
        np.testing.assert_allclose(found, want, rtol=1e-6, atol=1e-6)


def test_search_is_brute_force_over_the_sum(codec):
    queries, codes = clustered(30, 8), codec.encode(X)
    D, ids = scan.search(codec.tables(queries), codes, 50)
    tables, unpacked = codec.tables(queries), unpack(codes, 5, 8)
    for q in range(len(queries)):
        sums = np.zeros(len(X), np.float32)
        for m in range(5):
            sums += tables[q, m, unpacked[:, m]]
        order = np.lexsort((np.arange(len(X)), sums))[:50]
        np.testing.assert_array_equal(ids[q], order)
        np.testing.assert_allclose(D[q], sums[order], rtol=1e-6)


def test_without_balance_it_ranks_as_its_semantic_codes(codec):
    plain = BalancedCodec(codec.semantic, codec.fidelity, 0)
    plain.eval()
    assert float(plain.factor) == 0
    queries = clustered(30, 7)
    own = scan.search(plain.tables(queries), plain.encode(X), 100)
    semantic = scan.search(codec.semantic.tables(queries), codec.semantic.encode(X), 100)
    for found, want in zip(own, semantic, strict=True):
        np.testing.assert_array_equal(found, want)
    assert not np.array_equal(
        scan.search(codec.tables(queries), codec.encode(X), 100)[1], semantic[1]
    )


def test_embedding_and_decoded_vectors_are_those_of_the_parts(codec):
    for name in ("embed", "decode"):
        semantic = getattr(codec.semantic, name)
        fidelity = getattr(codec.fidelity, name)
        if name == "embed":
            want = np.concatenate([semantic(X), fidelity(X)], 1)
            found = codec.embed(X)
        else:
            want = np.concatenate(
                [semantic(codec.semantic.encode(X)), fidelity(codec.fidelity.encode(X))], 1
            )
            found = codec.decode(codec.encode(X))
        np.testing.assert_array_equal(found, want)
    # What codes are decoded to is the sum of codewords, but for the squared length at the end.
    words = codec.quantizer.codebooks.detach().numpy()
    unpacked = unpack(codec.encode(X), 5, 8)
    sums = sum(words[m, unpacked[:, m]] for m in range(5))
    clipped = codec.semantic.quantizer.clip(codec.semantic.quantizer.codebooks.transpose(0, 1))
    assert torch.equal(clipped.transpose(0, 1), codec.semantic.quantizer.codebooks)
    np.testing.assert_allclose(sums[:, :-1], codec.decode(codec.encode(X))[:, :-1], atol=1e-6)


def deviation(codec, rows, queries, others) -> float:
    """Deviation of distances in the mean of queries, by float64 and with no helper of the codec."""
    tables = codec.quantizer.tables(codec.quantizer.points(rows[queries])).numpy()
    codes = codec.quantizer.codes(codec.quantizer.points(rows[others])).numpy()
    each = [np.std([sum(t[m, c[m]] for m in range(codec.M)) for c in codes]) for t in tables]
    return float(np.mean(each))


def test_factor_is_balance_times_the_ratio_of_deviations(codec):
    """An independent computation, from the features that were trained on."""
    order = np.random.default_rng(0).permutation(len(X))
    queries, others = order[0::2], order[1::2]
    queries = queries[:: -(-len(queries) // 256)]
    found = []
    for part in (codec.semantic, codec.fidelity):
        x = torch.from_numpy(as_features(X, 24))
        found.append(deviation(part, part.vectors(x).double(), queries, others))
    want = 0.25 * found[0] / found[1]
    # The sample has the vectors as float16.
    assert float(codec.factor) == pytest.approx(want, rel=2e-3)
    again = BalancedCodec(codec.semantic, codec.fidelity, 0.5)
    assert float(again.factor) == pytest.approx(2 * float(codec.factor), rel=1e-6)


def test_both_parts_have_their_share_of_the_deviation(codec):
    """The fidelity part deviates by a quarter of the semantic one, on new features as well."""
    queries, codes = clustered(100, 5), unpack(codec.encode(clustered(500, 6)), 5, 8)
    tables = codec.tables(queries)
    shares = [tables[:, m, codes[:, m]] for m in range(5)]
    deviations = [np.std(sum(part), axis=1).mean() for part in (shares[:3], shares[3:])]
    assert 0.2 < deviations[1] / deviations[0] < 0.3


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_rows_have_the_balance_as_factor(n):
    codec = train_codec(X[:n], M=2, recipe=RECIPE.replace(balance=0.5))
    assert float(codec.factor) == 0.5
    assert codec.encode(X[:9]).shape == (9, 2)
    assert not codec.is_learned


def test_equal_rows_have_the_balance_as_factor(caplog):
    codec = train_codec(np.repeat(X[:1], 30, 0), M=4, recipe=RECIPE.replace(epochs=0))
    assert float(codec.factor) == 0.25
    assert "The features are all equal" in caplog.text


def test_tables_of_codes_are_those_of_the_parts(codec):
    codes = codec.encode(X[:50])
    found = codec.code_tables(codes)
    np.testing.assert_array_equal(
        found[:, :3], codec.semantic.code_tables(np.ascontiguousarray(codes[:, :3]))
    )
    fidelity = codec.fidelity.code_tables(np.ascontiguousarray(codes[:, 3:]))
    np.testing.assert_allclose(found[:, 3:], float(codec.factor) * fidelity, rtol=1e-6, atol=1e-6)


def test_other_lengths_split_the_codes_again(codec):
    other = codec.with_bits(16, nbits=4)
    assert (other.semantic.M, other.fidelity.M, other.metric) == (2, 2, "balanced")
    assert other.config.balance == codec.config.balance
    assert other.factor != codec.factor
    parts = [part.with_bits(8, nbits=4) for part in (codec.semantic, codec.fidelity)]
    want = BalancedCodec(*parts, 0.25)
    assert torch.equal(other.factor, want.factor)
    np.testing.assert_array_equal(other.encode(X), want.encode(X))
    np.testing.assert_array_equal(other.tables(X[:9]), want.tables(X[:9]))
    with pytest.raises(InvalidInputError, match="M is 1 with the objective 'balanced'"):
        codec.with_bits(8)


def test_other_lengths_of_other_features_and_metrics(codec):
    other = codec.with_bits(12, nbits=4, x=X[:200], metric="chord")
    assert (other.semantic.M, other.fidelity.M) == (2, 1)
    assert (other.semantic.metric, other.metric, other.n_sample) == ("chord", "balanced", 200)
    assert codec.n_sample == len(X)
    assert codec.with_bits(8, nbits=4, x=X[:99], metric="balanced").semantic.metric == "l1"
    with pytest.raises(InvalidInputError, match="metric is 'cosine'; expected 'balanced', 'l1'"):
        codec.with_bits(32, metric="cosine")


def test_copies_are_apart(codec):
    other = copy.deepcopy(codec)
    with torch.no_grad():
        other.factor += 1
        other.semantic.bias += 1
    assert not np.array_equal(other.tables(X[:3]), codec.tables(X[:3]))
    assert other.quantizer.codebooks.shape == codec.quantizer.codebooks.shape == (5, 256, 49)


def test_parts_must_fit_each_other():
    semantic, fidelity = CodecConfig(6, 3), AdditiveConfig(6, 2)
    assert (BalancedConfig(semantic, fidelity).M, BalancedConfig(semantic, fidelity, 1).d) == (5, 6)
    for changes in ({"d": 7}, {"nbits": 4}, {"M": 4}, {"M": 1}):
        with pytest.raises(InvalidInputError, match="expected the same d and nbits"):
            BalancedConfig(semantic, dataclasses.replace(fidelity, **changes))
    for balance in (-0.1, 1.5, float("nan"), "x"):
        with pytest.raises(InvalidInputError, match="balance is"):
            BalancedConfig(semantic, fidelity, balance)


def test_untrained_parts_have_no_factor():
    parts = (HiHPQCodec(CodecConfig(6, 1)), AdditiveCodec(AdditiveConfig(6, 1)))
    with pytest.raises(NotTrainedError):
        BalancedCodec(*parts)
    codec = BalancedCodec(*parts, factor=0.5)
    with pytest.raises(NotTrainedError):
        codec.encode(X[:1, :6])


def test_one_code_is_too_few():
    with pytest.raises(InvalidInputError, match=r"at least 2 codes, .* 16 bits or more"):
        train_codec(X, M=1, recipe=RECIPE)


def test_files_round_trip_bit_for_bit(codec):
    files = to_files(codec)
    assert to_files(codec) == files
    again = from_files(files)
    assert isinstance(again, BalancedCodec)
    assert to_files(again) == files
    assert difference(codec, again) is None
    assert again.recipe["objective"] == again.semantic.recipe["objective"] == "balanced"
    assert not again.training
    for name in ("encode", "tables", "embed"):
        np.testing.assert_array_equal(getattr(again, name)(X[:50]), getattr(codec, name)(X[:50]))
    x = X[:150]
    assert to_files(again.with_bits(8, nbits=4, x=x)) == to_files(codec.with_bits(8, nbits=4, x=x))


def test_stored_names(codec):
    stored = json.loads(to_files(codec)[SETTINGS_FILE])
    assert set(stored) == {
        *("format", "version", "kind", "d", "M", "nbits", "score", "balance", "recipe"),
        *("semantic", "fidelity"),
    }
    assert (stored["kind"], stored["version"], stored["score"]) == ("balanced", 3, "balanced")
    assert stored["balance"] == 0.25
    assert "balance" not in stored["recipe"]
    for name in ("semantic", "fidelity"):
        part = stored_settings(getattr(codec, name))
        del part["recipe"]
        assert stored[name] == json.loads(json.dumps(part))
    other = BalancedCodec(codec.semantic, codec.fidelity, 0.5, factor=2)
    assert from_files(to_files(other)).config.balance == 0.5
    assert float(from_files(to_files(other)).factor) == 2


def test_recipes_store_a_balance_of_their_own():
    codec = train_codec(X[:20], M=2, nbits=4, recipe=RECIPE.replace(balance=0.5))
    files = to_files(codec)
    assert json.loads(files[SETTINGS_FILE])["recipe"]["balance"] == 0.5
    assert from_files(files).recipe["balance"] == 0.5


def edited(files, part=None, **changes):
    settings = json.loads(files[SETTINGS_FILE])
    (settings[part] if part else settings).update(changes)
    return {**files, SETTINGS_FILE: json.dumps(settings).encode()}


@pytest.mark.parametrize(
    "changes",
    [
        *({"M": 4}, {"M": 5.0}, {"d": 25}, {"nbits": 4}, {"score": "l1"}, {"format": "zip"}),
        *({"balance": 2}, {"balance": "x"}, {"balance": None}, {"balance": True}, {"recipe": 3}),
        *({"semantic": None}, {"fidelity": {}}, {"semantic": []}, {"kind": "zip"}, {"kind": []}),
        *({"part": "semantic"} | edit for edit in ({"M": 4}, {"d": 10**12}, {"nbits": 4})),
        *({"part": "semantic"} | edit for edit in ({"score": "inner"}, {"head": 1}, {"beta": -1})),
        *({"part": "semantic"} | edit for edit in ({"D": 9}, {"learned": 0}, {"geometry": 3})),
        *({"part": "fidelity"} | edit for edit in ({"M": 1}, {"D": 10**9}, {"score": "l1"})),
        *({"part": "fidelity"} | edit for edit in ({"hidden": 3}, {"d": 23}, {"learned": {}})),
    ],
    ids=str,
)
def test_edited_settings_are_refused(codec, changes):
    with pytest.raises(CorruptIndexError, match=r"codec\.(json|safetensors)"):
        from_files(edited(to_files(codec), **changes))


def test_another_version_is_named(codec):
    with pytest.raises(FormatVersionError, match="has version 4; this hyperpq reads version 3"):
        from_files(edited(to_files(codec), version=4))
    with pytest.raises(FormatVersionError, match="geometry 'torus'"):
        from_files(edited(to_files(codec), "semantic", geometry="torus"))


def test_missing_settings_are_refused(codec):
    files = to_files(codec)
    settings = json.loads(files[SETTINGS_FILE])
    for missing in settings:
        if missing != "kind":
            rest = {name: value for name, value in settings.items() if name != missing}
            with pytest.raises(CorruptIndexError, match=f"'{missing}' is missing"):
                from_files({**files, SETTINGS_FILE: json.dumps(rest).encode()})


def test_damaged_weights_are_refused(codec):
    from safetensors.torch import load, save

    files = to_files(codec)
    weights = files[WEIGHTS_FILE]
    for damage in (b"", b"junk" * 10, weights[:-5], weights + b"x"):
        with pytest.raises(CorruptIndexError):
            from_files({**files, WEIGHTS_FILE: damage})
    state = load(weights)
    for name in state:
        rest = {key: value for key, value in state.items() if key != name}
        with pytest.raises(CorruptIndexError, match="expected"):
            from_files({**files, WEIGHTS_FILE: save(rest)})
    for name, value, message in (
        ("factor", torch.tensor(-0.5), "factor in .* is negative"),
        ("factor", torch.tensor(float("nan")), "factor in .* has NaN"),
        ("factor", torch.ones(1), r"factor in .* is float32 \(1,\)"),
        ("semantic.weight", state["semantic.weight"] * float("inf"), "semantic.weight in .* NaN"),
        (
            "fidelity.weight",
            state["fidelity.weight"].double(),
            "fidelity.weight in .*float64",
        ),
        ("semantic.quantizer.log_c", torch.full((3,), 50.0), "semantic.quantizer.log_c .* curvat"),
        ("fidelity.quantizer.stress", torch.tensor(-1.0), "fidelity.quantizer.stress .* negative"),
        ("extra", torch.zeros(1), "holds .*'extra'"),
        ("semantic.extra", torch.zeros(1), "holds .*'semantic.extra'"),
        ("fidelity.order", torch.arange(3), "holds .*'fidelity.order'"),
        ("semantic.order", torch.zeros(24, dtype=torch.int64), "semantic.order .* not an order"),
    ):
        with pytest.raises(CorruptIndexError, match=message):
            from_files({**files, WEIGHTS_FILE: save({**state, name: value.contiguous()})})


def test_differences_of_parts_are_named(codec):
    other = BalancedCodec(codec.semantic, codec.fidelity, 0.5, factor=2)
    assert difference(codec, other) == "balance is 0.25 here and 0.5 there"
    other = BalancedCodec(codec.semantic, codec.fidelity, factor=2)
    assert difference(codec, other) == "the codecs were learned apart"
    assert difference(codec, codec.semantic) == "M is 5 here and 3 there"
    chord = codec.with_bits(20, nbits=4, metric="chord", x=X[:99])
    other = codec.with_bits(20, nbits=4, x=X[:99])
    assert difference(other, chord) == "semantic metric is 'l1' here and 'chord' there"
