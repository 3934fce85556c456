"""Plain codebooks: against FAISS's `IndexPQ`, loops in float64, and as files."""

from __future__ import annotations

import json

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hyperpq import HiHPQIndex, scan
from hyperpq.codec.config import PQConfig
from hyperpq.codec.learned import LearnedCodec
from hyperpq.codec.pq import PQCodec
from hyperpq.codec.serialization import SETTINGS_FILE, WEIGHTS_FILE, from_files, to_files
from hyperpq.codes import unpack
from hyperpq.errors import (
    CorruptIndexError,
    FormatVersionError,
    InvalidInputError,
    NotTrainedError,
)

METRICS = {"l2": faiss.METRIC_L2, "ip": faiss.METRIC_INNER_PRODUCT}
SHAPES = [(4, 8), (8, 8), (4, 4), (3, 4)]


def drawn(M, nbits, metric="l2", D=3, seed=0, spread=1.0, shift=0.0):
    words = np.random.default_rng(seed).normal(size=(M, 2**nbits, D)) * spread + shift
    return PQCodec.from_codebooks(words, metric=metric)


def faiss_pq(codec):
    q = codec.quantizer
    index = faiss.IndexPQ(codec.d, q.M, q.nbits, METRICS[q.metric])
    faiss.copy_array_to_vector(q.codebooks.numpy().ravel(), index.pq.centroids)
    index.is_trained = True
    return index


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("M", "nbits"), SHAPES)
def test_codes_and_top_k_are_those_of_faiss(M, nbits, metric):
    rng = np.random.default_rng(1)
    codec = drawn(M, nbits, metric)
    x = rng.normal(size=(3000, codec.d)).astype(np.float32)
    index = faiss_pq(codec)
    codes = codec.encode(x)
    assert codes.shape == (3000, index.code_size)
    # Drawn vectors have no ties; at most a rounding of float32 decides otherwise.
    assert (codes == index.sa_encode(x)).all(1).mean() > 0.999
    faiss.copy_array_to_vector(codes.ravel(), index.codes)
    index.ntotal = len(codes)
    # Once more than is compared: where it is clearly worse, the same rows must have been found.
    want, want_ids = index.search(x[:50], 21)
    want = -want if metric == "ip" else want
    scores, found = scan.search(codec.tables(x[:50]), codes, 20)
    np.testing.assert_allclose(scores, want[:, :20], rtol=1e-5, atol=1e-5)
    clear = want[:, 20] - want[:, 19] > 2e-5
    assert clear.mean() > (0.1 if M == 3 else 0.8)
    np.testing.assert_array_equal(np.sort(found[clear]), np.sort(want_ids[clear, :20]))
    np.testing.assert_array_equal(codec.decode(codes), index.sa_decode(codes))


@given(
    M=st.integers(1, 5),
    D=st.integers(1, 4),
    nbits=st.sampled_from([4, 8]),
    metric=st.sampled_from(list(METRICS)),
    n=st.integers(0, 20),
    shift=st.sampled_from([0.0, 1000.0]),
    seed=st.integers(0, 2**32),
)
def test_codes_and_tables_are_the_loops(M, D, nbits, metric, n, shift, seed):
    """Far from the origin too, where float32 has no digits left for distances by products."""
    codec = drawn(M, nbits, metric, D, seed, shift=shift)
    x = (np.random.default_rng(seed + 1).normal(size=(n, M * D)) + shift).astype(np.float32)
    words = codec.quantizer.codebooks.double().numpy()
    parts = x.astype(np.float64).reshape(n, M, 1, D)
    far = np.square(parts - words).sum(-1)
    # Right to float32, where a large norm cancels in float64.
    slack = 1e-12 * (1 + shift) ** 2 * D
    np.testing.assert_allclose(
        codec.tables(x),
        far if metric == "l2" else -(parts * words).sum(-1),
        rtol=1e-6,
        atol=max(slack, 1e-6 if metric == "ip" else 0),
    )
    codes = unpack(codec.encode(x), M, nbits)
    chosen = np.take_along_axis(far, codes[..., None].astype(np.int64), 2)[..., 0]
    np.testing.assert_allclose(chosen, far.min(-1), rtol=1e-12, atol=slack)


def test_equal_codewords_and_blocks_of_rows():
    codec = PQCodec.from_codebooks(np.zeros((2, 16, 3)))
    assert not codec.encode(np.ones((9000, 6))).any()
    codec = drawn(16, 8)
    x = np.random.default_rng(0).normal(size=(9000, 48)).astype(np.float32)
    both = np.concatenate([codec.encode(x[:4321]), codec.encode(x[4321:])])
    np.testing.assert_array_equal(codec.encode(x), both)


def test_face_of_a_codec():
    codec = drawn(4, 4, "ip").to("cpu").eval()
    x = np.random.default_rng(0).normal(size=(5, 12)).astype(np.float32)
    assert (codec.d, codec.M, codec.code_size, codec.is_trained) == (12, 4, 2, True)
    q = codec.quantizer
    assert (q.M, q.nbits, q.metric, q.K, len(q.curvatures)) == (4, 4, "ip", 16, 0)
    np.testing.assert_array_equal(codec.embed(x), x)
    assert not isinstance(codec, LearnedCodec)
    assert not hasattr(codec, "with_bits")
    index = HiHPQIndex.from_codec(codec, device="cpu")
    with pytest.raises(InvalidInputError, match="plain codebooks, whose codes have 16 bits"):
        index.with_bits(32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: PQConfig(10, 4), "d is 10 and M is 4"),
        (lambda: PQConfig(12, 4, 6), "nbits is 6"),
        (lambda: PQConfig(12, 4, metric="l1"), "metric is 'l1'; expected 'l2' or 'ip'"),
        (lambda: PQCodec.from_codebooks(np.zeros((4, 64, 2))), r"shape \(4, 64, 2\)"),
        (lambda: PQCodec.from_codebooks(np.zeros((0, 16, 2))), r"shape \(0, 16, 2\)"),
        (lambda: PQCodec.from_codebooks(np.full((1, 16, 2), np.inf)), "codebooks has NaN, inf"),
        (lambda: drawn(4, 8).encode(np.zeros((2, 11))), "width 11; expected 12"),
        (lambda: drawn(4, 8).tables(np.full((2, 12), np.nan)), "NaN"),
        (lambda: drawn(4, 8).decode(np.zeros((2, 3), np.uint8)), "codes have dtype uint8"),
        (lambda: drawn(4, 8).decode(np.zeros((2, 4), np.int64)), "codes have dtype int64"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InvalidInputError, match=message):
        call()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("M", "nbits"), SHAPES)
def test_files_round_trip_bit_for_bit(M, nbits, metric):
    codec = drawn(M, nbits, metric)
    files = to_files(codec)
    again = from_files(files)
    assert isinstance(again, PQCodec)
    assert to_files(again) == files
    x = np.random.default_rng(0).normal(size=(9, codec.d))
    np.testing.assert_array_equal(again.tables(x), codec.tables(x))
    assert json.loads(files[SETTINGS_FILE])["kind"] == "pq"


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "zip"},
        {"kind": None},
        {"d": 10**12},
        {"d": 24},
        {"d": 6},
        {"d": 13},
        {"d": 12.0},
        {"M": 0},
        {"M": 5},
        {"M": True},
        {"M": 6},
        {"nbits": 4},
        {"nbits": 10**9},
        {"nbits": 7},
        {"score": "l1"},
        {"score": None},
        {"format": "zip"},
        {"rotation": 12},
        {"rotation": 0.0},
        {"rotation": -4},
        {"rotation": 10**12},
    ],
)
def test_edited_settings_are_refused(changes):
    files = to_files(drawn(4, 8))
    settings = json.loads(files[SETTINGS_FILE]) | changes
    with pytest.raises(CorruptIndexError):
        from_files({**files, SETTINGS_FILE: json.dumps(settings).encode()})


def test_sizes_are_refused_before_memory_is_asked_for(monkeypatch):
    files = to_files(drawn(4, 8))
    settings = json.loads(files[SETTINGS_FILE]) | {"d": 4 * 10**6}
    monkeypatch.setattr(torch, "zeros", lambda *_, **__: pytest.fail("asked for memory"))
    with pytest.raises(CorruptIndexError, match=r"more than the \d+ bytes of codec\.safetensors"):
        from_files({**files, SETTINGS_FILE: json.dumps(settings).encode()})


def test_other_version_and_missing_keys_are_refused():
    files = to_files(drawn(4, 8))
    settings = json.loads(files[SETTINGS_FILE])
    with pytest.raises(FormatVersionError, match="has version 99"):
        from_files({**files, SETTINGS_FILE: json.dumps(settings | {"version": 99}).encode()})
    for name in settings:
        fewer = {key: value for key, value in settings.items() if key != name}
        # Without its kind it would be a learned codec, whose files have a version of their own.
        with pytest.raises(FormatVersionError if name == "kind" else CorruptIndexError):
            from_files({**files, SETTINGS_FILE: json.dumps(fewer).encode()})


def test_damaged_codebooks_are_refused():
    from safetensors.torch import load, save

    files = to_files(drawn(4, 8))
    words = load(files[WEIGHTS_FILE])["quantizer.codebooks"]
    more = torch.cat([words, words])
    for damaged in (words * float("nan"), words.double(), words.transpose(1, 2), more):
        state = {"quantizer.codebooks": damaged.contiguous()}
        with pytest.raises(CorruptIndexError, match=r"quantizer\.codebooks"):
            from_files({**files, WEIGHTS_FILE: save(state)})
    fewer, other = save({"quantizer.codebooks": words[:-1].contiguous()}), save({"other": words})
    for damage in (b"", files[WEIGHTS_FILE][:-5], files[WEIGHTS_FILE] + b"x", fewer, other):
        with pytest.raises(CorruptIndexError):
            from_files({**files, WEIGHTS_FILE: damage})
    for missing in files:
        with pytest.raises(CorruptIndexError):
            from_files({k: v for k, v in files.items() if k != missing})


def test_a_new_codec_is_not_trained():
    """It said that it was, and all distances were ties."""
    codec = PQCodec(PQConfig(12, 4))
    assert not codec.is_trained
    x = np.zeros((2, 12))
    calls = [
        lambda: codec.encode(x),
        lambda: codec.tables(x),
        lambda: codec.embed(x),
        lambda: codec.decode(np.zeros((2, 4), np.uint8)),
        lambda: to_files(codec),
        lambda: HiHPQIndex.from_codec(codec, device="cpu"),
    ]
    for call in calls:
        with pytest.raises(NotTrainedError, match=r"HiHPQIndex\.train\(x\) or PQCodec\.fit\(x\)"):
            call()


def rotated(metric="l2", seed=0, d=12, width=8, M=4, nbits=8):
    rng = np.random.default_rng(seed)
    words = rng.normal(size=(M, 2**nbits, width // M))
    rotation = np.linalg.qr(rng.normal(size=(d, width)))[0].T
    return PQCodec.from_codebooks(words, metric=metric, rotation=rotation)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("width", [12, 8])
def test_a_rotation_in_float64_and_in_files(metric, width):
    codec = rotated(metric, width=width)
    x = np.random.default_rng(5).normal(size=(40, 12)).astype(np.float32)
    R, words = codec.rotation.double().numpy(), codec.quantizer.codebooks.double().numpy()
    parts = (x.astype(np.float64) @ R.T).reshape(40, 4, 1, -1)
    far = np.square(parts - words).sum(-1)
    want = far if metric == "l2" else -(parts * words).sum(-1)
    np.testing.assert_allclose(codec.tables(x), want, rtol=1e-5, atol=1e-5)
    codes = codec.encode(x)
    np.testing.assert_array_equal(codes, far.argmin(-1))
    # In the space of the features, as in FAISS.
    decoded = np.take_along_axis(words[None], codes[:, :, None, None].astype(int), 2)
    np.testing.assert_allclose(codec.decode(codes), decoded.reshape(40, -1) @ R, atol=1e-5)
    np.testing.assert_allclose(codec.embed(x), x @ R.T @ R, atol=1e-5)
    files = to_files(codec)
    again = from_files(files)
    assert to_files(again) == files
    np.testing.assert_array_equal(again.tables(x), codec.tables(x))
    assert json.loads(files[SETTINGS_FILE])["rotation"] == width
    # Files of codebooks without a rotation do not mention it.
    assert b"rotation" not in b"".join(to_files(drawn(4, 8)).values())


def test_damaged_rotations_are_refused():
    from safetensors.torch import load, save

    files = to_files(rotated())
    state = load(files[WEIGHTS_FILE])
    for damaged in (state["rotation"] * 2, state["rotation"].T.contiguous()):
        with pytest.raises(CorruptIndexError, match="rotation"):
            from_files({**files, WEIGHTS_FILE: save({**state, "rotation": damaged})})
    del state["rotation"]
    with pytest.raises(CorruptIndexError, match=r"codec\.safetensors"):
        from_files({**files, WEIGHTS_FILE: save(state)})


@pytest.mark.parametrize(
    ("rotation", "message"),
    [
        (np.eye(8), r"shape \(8, 8\); expected 12 rows"),
        (np.eye(12)[:, :8], r"shape \(12, 8\); expected 12 rows"),
        (np.zeros((12, 12)), "products differ by up to 1 from"),
        (np.full((12, 12), np.nan), "rotation has NaN"),
        (np.eye(12)[0], r"shape \(12,\)"),
    ],
)
def test_bad_rotations(rotation, message):
    with pytest.raises(InvalidInputError, match=message):
        PQCodec.from_codebooks(np.zeros((4, 16, 3)), rotation=rotation)
