"""Trees against scipy's Ward, and what holds for every tree and map."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from explore_tools import points
from scipy.cluster.hierarchy import fcluster, linkage

from hyperpq import HiHPQIndex
from hyperpq.errors import InvalidInputError, NotTrainedError
from hyperpq.explore import Exploration, Layout, Tree, micro
from hyperpq.explore.dendrogram import Dendrogram
from hyperpq.quantizers.ward import cut, weighted_ward

KINDS = ("product", "nibbles", "sphere", "flat", "fidelity", "balanced", "pq")


def check(tree, ids):
    """A tree has each row once at each level, in clusters that are parts of each other."""
    assert sorted(tree.ids.tolist()) == sorted(ids)
    assert (tree.root.start, tree.root.stop, tree.root.level) == (0, len(ids), 0)
    for number, cluster in enumerate(tree.clusters):
        assert cluster.number == number
        own = set(tree.ids_of(number).tolist())
        assert own.issuperset(cluster.representatives)
        assert len(set(cluster.representatives)) == len(cluster.representatives)
        assert len(cluster.representatives) == min(9, cluster.size)
        if cluster.children:
            parts = [tree.clusters[child] for child in cluster.children]
            assert len(parts) > 1
            assert [p.start for p in parts] == [cluster.start, *(p.stop for p in parts[:-1])]
            assert parts[-1].stop == cluster.stop
            assert all(p.parent == number and p.level > cluster.level for p in parts)
    for level, count in enumerate(tree.levels):
        found = tree.at_level(level)
        assert len(found) == count
        assert [c.start for c in found] == [0, *(c.stop for c in found[:-1])]
        assert found[-1].stop == len(ids)
    json.dumps([c.to_json() for c in tree.clusters])


def check_map(tree):
    """Cells do not overlap, each is in the boxes of its clusters, and areas follow sizes."""
    layout = Layout.of(tree)
    cells = layout.cells(tree).astype(np.float64)
    for cluster in tree.clusters:
        left, top, width, height = layout.boxes[cluster.number]
        own = cells[cluster.start : cluster.stop]
        assert (own[:, :2] >= [left - 1e-6, top - 1e-6]).all()
        assert (own[:, :2] + own[:, 2:] <= [left + width + 1e-6, top + height + 1e-6]).all()
        if cluster.children:
            boxes = layout.boxes[list(cluster.children)]
            areas = boxes[:, 2] * boxes[:, 3]
            sizes = np.array([tree.clusters[child].size for child in cluster.children])
            np.testing.assert_allclose(areas / areas.sum(), sizes / sizes.sum(), rtol=1e-9)
        else:
            places = Counter(map(tuple, own.round(6).tolist()))
            assert max(places.values()) == 1
            columns, lines = layout.grids[cluster.number]
            assert columns * (lines - 1) < cluster.size <= columns * lines
    json.dumps(layout.to_json())


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_codec_has_a_tree_and_a_map(kinds, kind):
    view = kinds[kind].view()
    tree = Tree.of(view)
    assert tree.levels == (1, 4, 16, 64)
    check(tree, view.ids.tolist())
    check_map(tree)


@pytest.mark.parametrize("kind", ["product", "pq"])
def test_few_rows_are_clustered_as_the_ward_of_scipy_does(kinds, kind):
    view = kinds[kind].view()
    tree = Tree.of(view, (3, 12, 40))
    vectors = view.decode(view.codes_of(view.ids)).astype(np.float64)
    linked = linkage(vectors, "ward")
    for level, count in enumerate(tree.levels):
        theirs = fcluster(linked, count, "maxclust")
        want = {frozenset(view.ids[theirs == label].tolist()) for label in set(theirs)}
        assert {frozenset(tree.ids_of(c.number).tolist()) for c in tree.at_level(level)} == want
    for cluster in tree.clusters:
        own = vectors[np.isin(view.ids, tree.ids_of(cluster.number))]
        gap = np.square(own - own.mean(0)).sum(1)
        assert cluster.spread == pytest.approx(np.sqrt(gap.mean()), abs=1e-5)
        first = vectors[view.ids == cluster.representatives[0]][0]
        assert np.square(first - own.mean(0)).sum() == pytest.approx(gap.min(), abs=1e-6)


def test_many_rows_are_clustered_by_a_sample(monkeypatch):
    """More codes than micro-clusters, and more rows than the sample and than a batch."""
    monkeypatch.setattr(micro, "_SAMPLE", 2000)
    x, group = points(6000, groups=8)
    index = HiHPQIndex(24, 8, metric="l2", device="cpu")
    index.train(x)
    index.add(x)
    view = index.view()
    tree = Tree.of(view, (8, 30), seed=3)
    assert tree.sample == 2000
    check(tree, range(6000))
    check_map(tree)
    for cluster in tree.at_level(1):
        assert len(set(group[tree.ids_of(cluster.number)])) == 1
    again = Tree.of(view, (8, 30), seed=3)
    np.testing.assert_array_equal(again.ids, tree.ids)
    assert again.clusters == tree.clusters


def test_labels_are_the_shares_of_attributes(kinds):
    view = kinds["product"].view()
    tree = Tree.of(view, (4, 16))
    for cluster in tree.clusters:
        values = Counter(view.attributes_of(tree.ids_of(cluster.number))["kind"])
        want = {value: count / cluster.size for value, count in values.items()}
        for label in cluster.labels:
            assert label.share == pytest.approx(want[label.value])
        likely = sorted(want.values(), reverse=True)[:3]
        assert [label.share for label in cluster.labels] == pytest.approx(
            [share for share in likely if share >= 0.1]
        )


@pytest.mark.parametrize("n", [1, 2, 3, 7, 16, 17])
def test_few_rows(kinds, n):
    source = kinds["product"]
    index = HiHPQIndex(24, 4, device="cpu")
    index.codec = source.codec
    index.add(points(n, seed=n)[0])
    tree = Tree.of(index.view())
    check(tree, range(n))
    check_map(tree)
    assert tree.levels == (1, *(level for level in (4,) if 4 * level <= n))


def test_equal_rows_stay_together(kinds):
    index = HiHPQIndex(24, 4, device="cpu")
    index.codec = kinds["product"].codec
    x, _ = points(5, groups=5)
    index.add(np.repeat(x, 40, 0))
    view = index.view()
    tree = Tree.of(view)
    check(tree, range(200))
    assert tree.levels == (1, 4)
    with pytest.raises(InvalidInputError, match="6 clusters are asked for; expected at most 5"):
        Tree.of(view, (2, 6))
    assert all(c.size % 40 == 0 for c in Tree.of(view, (5,)).at_level(1))


def test_deleted_rows_are_no_part_of_a_tree(kinds):
    index = HiHPQIndex(24, 4, device="cpu")
    index.codec = kinds["product"].codec
    index.add(points(90)[0])
    index.remove_ids(np.arange(0, 90, 3))
    check(Tree.of(index.view()), [i for i in range(90) if i % 3])


@pytest.mark.parametrize("levels", [(16, 4), (4, 4), (1,), (1001,), (2.5,)])
def test_impossible_levels_are_refused(kinds, levels):
    with pytest.raises(InvalidInputError):
        Tree.of(kinds["product"].view(), levels)


def test_an_index_without_rows_or_codec_is_refused(kinds):
    index = HiHPQIndex(24, 4, device="cpu")
    with pytest.raises(NotTrainedError):
        Tree.of(index.view())
    index.codec = kinds["product"].codec
    with pytest.raises(InvalidInputError, match="no rows"):
        Tree.of(index.view())
    index.add(points(9)[0])
    tree = Tree.of(index.view())
    for call in (tree.at_level, tree.ids_of, tree.ancestors):
        with pytest.raises(InvalidInputError):
            call(99)


def test_a_dendrogram_is_cut_as_its_merges_say():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(60, 3)).astype(np.float32)
    pairs, _ = weighted_ward(x, np.ones(60, np.int64))
    tree = Dendrogram.of(pairs, x[:, 0].astype(np.float64))
    assert sorted(tree.order.tolist()) == list(range(60))
    for clusters in (1, 2, 9, 59, 60):
        labels = cut(pairs, 60, clusters)
        want = {frozenset(np.flatnonzero(labels == c).tolist()) for c in range(clusters)}
        nodes = tree.cut(clusters)
        assert {frozenset(tree.order[tree.start[n] : tree.stop[n]].tolist()) for n in nodes} == want


def test_ancestors_lead_from_the_root(kinds):
    tree = Tree.of(kinds["product"].view())
    line = tree.ancestors(len(tree.clusters) - 1)
    assert line[0] is tree.root
    assert line[-1] is tree.clusters[-1]
    assert all(below.parent == above.number for above, below in pairwise(line))


def test_an_exploration_makes_each_part_once(kinds):
    exploration = Exploration(kinds["product"].view(), (5,))
    assert exploration.tree.levels == (1, 5)
    assert exploration.tree is exploration.tree
    assert exploration.layout is exploration.layout
    assert len(exploration.layout.boxes) == 6
    assert exploration.disks is exploration.disks
