"""The distance in float64, written from docs/method.md and docs/reference/format.md alone.

Nothing of hyperpq takes part in `Reader`: it reads the files of an index's codec with json and
safetensors, and does what the documents say with numpy. So it fails where they leave something out.
"""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from safetensors.numpy import load

from hyperpq import HiHPQIndex, PQCodec
from hyperpq.codec.serialization import SETTINGS_FILE, WEIGHTS_FILE, to_files
from hyperpq.training.recipe import Recipe

SIZE, WIDTH = 420, 24


class Reader:
    """A codec's files, and what the documents say about them."""

    def __init__(self, settings: bytes, weights: bytes):
        self.settings = json.loads(settings)
        stored = load(weights)
        # The order of coordinates is the only tensor of integers.
        self.t = {k: v if k == "order" else v.astype(np.float64) for k, v in stored.items()}
        self.metric, self.M = self.settings["score"], self.settings["M"]
        self.plain = self.settings.get("kind") == "pq"

    # Section 1: from a feature to vectors.

    def normalized(self, x):
        kind = self.settings["conditioning"]
        if kind == "none":
            return x
        g = np.sign(x) * np.sqrt(np.abs(x)) - self.t["mean"] if kind == "root" else x
        return g / np.maximum(np.linalg.norm(g, axis=1, keepdims=True), 1e-12)

    def vectors(self, x):
        if self.plain:
            return x @ self.t["rotation"].T if "rotation" in self.t else x
        f, t = self.normalized(x), self.t
        v = f @ (t["scale"] * t["weight"]) + t["bias"]
        if self.settings.get("hidden"):
            inner = f @ t["up"] + t["up_bias"]
            phi = np.vectorize(lambda a: (1 + math.erf(a / math.sqrt(2))) / 2)
            v += inner * phi(inner) @ t["down"]
        return v if self.metric == "inner" else self.smoothed(v)

    # Codes of any length: cutting and smoothing.

    def coordinates(self):
        """The learned coordinate of each column of the head, -1 where a subspace is filled up."""
        F, D = self.settings["learned"]["F"], self.settings["D"]
        sizes = [F // self.M + (m < F % self.M) for m in range(self.M)]
        order = self.t.get("order", np.arange(F))
        out = np.full((self.M, D), -1)
        for m, size in enumerate(sizes):
            out[m, :size] = order[sum(sizes[:m]) : sum(sizes[:m]) + size]
        return out.ravel()

    def smoothed(self, v):
        z, bits = self.t["centroids"], self.M * self.settings["nbits"]
        k = min(self.settings["average_neighbours"], len(z) // 80)
        w = self.settings["average_weight"]
        if bits > 64:
            w = 1 - (1 - w) ** (bits / 64)
        if not k or not w:
            return v
        learned = self.coordinates()
        own = np.where(learned >= 0, z[:, np.maximum(learned, 0)], 0)
        cosine = v @ (own / np.linalg.norm(own, axis=1, keepdims=True)).T
        nearest = np.argsort(-cosine, axis=1)[:, :k]
        return (1 - w) * v + w * own[nearest].mean(1)

    # Sections 2 and 3: points and distances.

    def clipped(self, v, c):
        r = np.full_like(c, self.settings["max_norm"])
        if self.settings.get("geometry") == "sphere":
            r = np.minimum(r, np.pi / (2 * np.sqrt(c)))
        length = np.linalg.norm(v, axis=-1)
        return v * np.minimum(1, r / np.maximum(length, 1e-300))[..., None]

    def point(self, v, c):
        """Space and time part of the point of a tangent vector."""
        v, space = self.clipped(v, c), self.settings.get("geometry", "lorentz")
        if space == "euclidean":
            return v, np.zeros(v.shape[:-1])
        angle = np.maximum(np.sqrt(c) * np.linalg.norm(v, axis=-1), 1e-9)
        bent = np.sinh(angle) if space == "lorentz" else np.sin(angle)
        x = (bent / angle)[..., None] * v
        square = np.square(x).sum(-1)
        return x, np.sqrt(
            1 / c + square if space == "lorentz" else np.maximum(1 / c - square, 1e-8)
        )

    def term(self, v, w, c):
        """Term of each codeword w (M, K, D) in the distance of tangent vectors v (n, M, D)."""
        (x, x0), (y, y0) = self.point(v, c), self.point(w, c[:, None])
        s, t = x[:, :, None] - y, x[:, :, None] + y
        sign = {"lorentz": -1, "euclidean": 0, "sphere": 1}[
            self.settings.get("geometry", "lorentz")
        ]
        q2 = np.square(s).sum(-1)
        if sign:
            rise = (s * t).sum(-1) / (x0[:, :, None] + y0)
            q2 = np.maximum(q2 + sign * np.square(rise), 0)
        if self.metric == "chord":
            return q2
        half = np.sqrt(c)[:, None] * np.sqrt(q2) / 2
        d = np.sqrt(q2)
        if sign:
            bent = np.arcsinh(half) if sign < 0 else np.arcsin(np.minimum(half, 1))
            d = 2 / np.sqrt(c)[:, None] * bent
        return d if self.metric == "l1" else d * d

    # Section 5: tables, embeddings and sums.

    def cut(self, x):
        return self.vectors(x).reshape(len(x), self.M, -1)

    def embedded(self, x):
        if self.plain:
            v = self.vectors(x)
            return v @ self.t["rotation"] if "rotation" in self.t else v
        if self.metric == "inner":
            return self.vectors(x)
        return self.clipped(self.cut(x), np.exp(self.t["quantizer.log_c"])).reshape(len(x), -1)

    def tables(self, x):
        words = self.t["quantizer.codebooks"]
        if self.plain:
            v = self.cut(x)[:, :, None]
            return np.square(v - words).sum(-1) if self.metric == "l2" else -(v * words).sum(-1)
        if self.metric == "inner":
            v = self.vectors(x)
            q, s = v[:, None, None, :-1], v[:, -1]
            share = s / self.M
            return share[:, None, None] - 2 * (q * words[..., :-1]).sum(-1) + 0.9 * words[..., -1]
        return self.term(self.cut(x), words, np.exp(self.t["quantizer.log_c"]))

    def unpacked(self, codes):
        if self.settings["nbits"] == 8:
            return codes
        halves = np.stack([codes & 15, codes >> 4], 2).reshape(len(codes), -1)
        if self.M % 2:
            assert not halves[:, self.M].any()
        return halves[:, : self.M]

    def distances(self, x, codes):
        tables, rows = self.tables(x), self.unpacked(codes)
        return sum(tables[:, m, rows[:, m]] for m in range(self.M))


def drawn(n=SIZE, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(12, WIDTH))
    rows = centres[rng.integers(12, size=n)] + 0.6 * rng.normal(size=(n, WIDTH))
    return np.abs(rows).astype(np.float32)


SHORT = Recipe().replace(width=32, subspaces=4, epochs=1, holdout_check=False, distil_epochs=1)
# Each has something of its own that a document must say.
CODECS = {
    "as by default": (4, 8, "l1", {}),
    "subspaces of 7 and of 6 coordinates": (5, 8, "geodesic", {}),
    "an odd number of codes of 4 bits": (7, 4, "chord", {}),
    "a branch": (4, 4, "l1", {"hidden": 6, "dropout": 0.2}),
    "smoothed twice": (16, 8, "l1", {"smoothing_neighbours": 2}),
    "more coordinates than directions": (12, 8, "geodesic", {"width": 64}),
    "unit vectors": (4, 8, "l1", {"normalization": "unit", "curvature": 3.0}),
    "features as they are": (4, 8, "l1", {"normalization": "none", "max_norm": 0.5}),
    "a scale": (4, 8, "chord", {"head": "orthogonal", "width": 16, "subspaces": 0, "lr": 0.01}),
    "a sphere": (6, 8, "l1", {"geometry": "sphere", "curvature": 2.0, "radius": 1.2}),
    "flat space": (4, 8, "geodesic", {"geometry": "euclidean"}),
    "fidelity": (3, 8, "l1", {"objective": "fidelity"}),
    "fidelity in 4 bits": (5, 4, "l1", {"objective": "fidelity"}),
}


def learned(name):
    M, nbits, metric, changes = CODECS[name]
    index = HiHPQIndex(WIDTH, M, nbits, metric=metric, device="cpu")
    index.train(drawn(), recipe=SHORT, seed=1, **changes)
    return index


def plain(metric, rotation, nbits):
    codec = PQCodec.fit(drawn(), 3, nbits, metric=metric, rotation=rotation)
    return HiHPQIndex.from_codec(codec, device="cpu")


MAKERS = {name: (lambda name=name: learned(name)) for name in CODECS} | {
    "plain codebooks": lambda: plain("l2", 0, 8),
    "plain codebooks, inner product": lambda: plain("ip", 0, 4),
    "a rotation": lambda: plain("l2", 24, 4),
    "a rotation to fewer coordinates": lambda: plain("ip", 12, 8),
}


@pytest.mark.parametrize("name", MAKERS)
def test_distances_can_be_rewritten_from_the_documents(name):
    index = MAKERS[name]()
    files = to_files(index.codec)
    reader = Reader(files[SETTINGS_FILE], files[WEIGHTS_FILE])
    x, queries = drawn(), np.concatenate([drawn(30, 5), np.zeros((1, WIDTH), np.float32)])
    wide = queries.astype(np.float64)
    np.testing.assert_allclose(index.embed(queries), reader.embedded(wide), rtol=1e-5, atol=1e-5)
    tables = reader.tables(wide)
    np.testing.assert_allclose(index.codec.tables(queries), tables, rtol=1e-5, atol=1e-5)
    index.add(x)
    D, I = index.search(queries, SIZE)  # noqa: E741
    exact = reader.distances(wide, index.encode(x))
    np.testing.assert_allclose(D, np.take_along_axis(exact, I, 1), rtol=1e-5, atol=1e-5)
    assert (np.diff(D, axis=1) >= 0).all()
    assert (np.sort(I, 1) == np.arange(SIZE)).all()


def test_each_codec_has_what_its_name_says():
    """Else the test above could pass with something left out."""
    made = {name: learned(name) for name in CODECS}
    t = {name: index.codec.state_dict() for name, index in made.items()}
    assert {index.codec.config.D for index in made.values()} >= {5, 6, 7, 8}
    assert not t["subspaces of 7 and of 6 coordinates"]["weight"][:, 20].any()
    assert t["a branch"]["down"].any()
    assert "order" in t["more coordinates than directions"]
    assert "order" not in t["as by default"]
    assert float(t["a scale"]["scale"]) != 1
    assert made["smoothed twice"].codec.smoothing.neighbours == 2
    assert made["smoothed twice"].codec.smoothing.weight > 0.25
    for name in ("features as they are", "a sphere"):
        longest = np.linalg.norm(
            made[name].embed(drawn()).reshape(SIZE * made[name].M, -1), axis=1
        ).max()
        assert longest == pytest.approx(made[name].codec.config.max_norm, rel=1e-3) or (
            name == "a sphere"
        )


def test_what_distances_of_fidelity_are():
    """Estimates of 2 - 2 cos, too small in the mean, below zero for some near rows."""
    index = HiHPQIndex(WIDTH, 8, metric="l1", device="cpu")
    x = drawn()
    index.train(x, objective="fidelity", epochs=2)
    index.add(x)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosine = unit @ unit.T
    D, I = index.search(x, SIZE)  # noqa: E741
    exact = np.take_along_axis(2 - 2 * cosine, I, 1)
    assert np.corrcoef(D.ravel(), exact.ravel())[0, 1] > 0.98
    assert D.mean() < exact.mean()
    assert D[:, 0].min() < 0
    # Lengths have no part in it.
    np.testing.assert_array_equal(index.encode(4 * x), index.encode(x))
    np.testing.assert_array_equal(index.search(4 * x, 5)[1], index.search(x, 5)[1])
