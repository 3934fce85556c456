"""Groups as text and as folders of links, from rows with paths of any bytes."""

from __future__ import annotations

import csv
import io
import json
import os

import numpy as np
import pytest
from explore_tools import points

from hyperpq import HiHPQIndex
from hyperpq.errors import InvalidInputError, StoreError
from hyperpq.explore import Tree, link_groups
from hyperpq.explore.groups import WRITERS

NAMES = [b"plain.jpg", b"caf\xe9.png", b"two\nlines.jpg", b"l" * 255, b"-rf", b'"quoted",.jpg']


@pytest.fixture(scope="module")
def shown(kinds):
    index = HiHPQIndex(24, 4, device="cpu")
    index.codec = kinds["product"].codec
    x, group = points(60)
    paths = [b"/images/" + b"%d/" % g + NAMES[i % 6] for i, g in enumerate(group)]
    folders = [f"../k{g}" for g in group]
    index.collection.add(index.encode(x), paths=paths, attributes={"folder": folders})
    view = index.view()
    return view, Tree.of(view, (3, 8))


def test_links_lead_to_the_images_of_each_group(shown, tmp_path):
    view, tree = shown
    folder = tmp_path / "groups"
    assert link_groups(tree, view, 2, folder) == 60
    made = sorted(os.listdir(os.fsencode(folder)))
    assert os.listdir(tmp_path) == ["groups"]
    assert [name[:2] for name in made] == [b"%d-" % n for n in range(1, 9)]
    # The title of a group is no way out of the folder.
    assert all(name[2:].startswith(b"..") and b"/" not in name for name in made)
    for name, cluster in zip(made, tree.at_level(2), strict=True):
        own = os.path.join(os.fsencode(folder), name)
        targets = [os.readlink(os.path.join(own, link)) for link in sorted(os.listdir(own))]
        assert targets == view.paths_of(tree.ids_of(cluster.number))
    assert folder.stat().st_mode == (folder / os.fsdecode(made[0])).stat().st_mode


def test_nothing_is_replaced(shown, tmp_path, monkeypatch):
    view, tree = shown
    (tmp_path / "empty").mkdir()
    assert link_groups(tree, view, 1, tmp_path / "empty") == 60
    before = sorted(os.listdir(tmp_path / "empty"))
    (tmp_path / "file").write_bytes(b"")
    os.symlink("empty", tmp_path / "link")
    for name in ("empty", "file", "link", "none/below"):
        with pytest.raises(InvalidInputError):
            link_groups(tree, view, 1, tmp_path / name)

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "symlink", refuse)
    with pytest.raises(StoreError, match="No space left"):
        link_groups(tree, view, 1, tmp_path / "new")
    assert sorted(os.listdir(tmp_path)) == ["empty", "file", "link"]
    assert sorted(os.listdir(tmp_path / "empty")) == before


def test_text_has_every_row_once(shown):
    view, tree = shown
    rows = list(csv.DictReader(io.StringIO("".join(WRITERS["csv"](tree, view, 2)))))
    lines = [json.loads(line) for line in WRITERS["json"](tree, view, 2)]
    for number, (cluster, line) in enumerate(zip(tree.at_level(2), lines, strict=True), 1):
        ids = tree.ids_of(cluster.number).tolist()
        own = [row for row in rows if int(row["group"]) == number]
        assert [int(row["id"]) for row in own] == ids
        paths = [row["path"].encode("utf-8", "surrogateescape") for row in own]
        assert paths == view.paths_of(ids)
        assert [member["id"] for member in line["members"]] == ids
        assert line["size"] == len(ids)
    table = list(WRITERS["table"](tree, view, 2))
    assert len(table) == 8
    assert all(line.count("\n") == 1 for line in table)


def test_vectors_have_ids_alone(kinds):
    view = kinds["pq"].view()
    tree = Tree.of(view, (4,))
    text = "".join(WRITERS["csv"](tree, view, 1))
    assert text.startswith("group,title,id\n1,")
    assert {int(line.rsplit(",", 1)[1]) for line in text.splitlines()[1:]} == set(view.ids.tolist())
    assert all("path" not in line for line in WRITERS["json"](tree, view, 1))
    assert sum(int(line.split()[1]) for line in WRITERS["table"](tree, view, 1)) == 600
    assert np.array_equal(np.sort(tree.ids), view.ids)
