"""What `ImageIndex.query` takes beside images, and what it returns: results, JSON and tables."""

from __future__ import annotations

import base64
import itertools
import json
import os
import pickle
import shutil

import numpy as np
import pandas
import pyarrow
import pytest
from image_tools import build, fill

from hyperpq.errors import InvalidInputError
from hyperpq.images import Answer, Answers, Result, nearest

ATTRIBUTES = ["folder", "height", "mtime", "size", "width"]


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """An index of 30 images, and their paths."""
    folder = tmp_path_factory.mktemp("api")
    index, _ = build([fill(folder / "p", 30)], folder / "index", bits=32)
    return index, sorted((folder / "p").iterdir())


def ids(answer):
    return [result.id for result in answer.results]


def test_results_have_text_paths_and_attributes(opened):
    index, paths = opened
    [answer] = index.query(paths[4], 3)
    first = answer.results[0]
    assert (answer.query, answer.query_bytes) == (str(paths[4]), bytes(paths[4]))
    assert (first.rank, first.path, first.path_bytes) == (1, str(paths[4]), bytes(paths[4]))
    status = paths[4].stat()
    assert dict(first.attributes) == {
        "folder": "p",
        "size": status.st_size,
        "mtime": np.datetime64(status.st_mtime_ns, "ns"),
        "width": 32,
        "height": 24,
    }
    types = {name: type(value) for name, value in first.attributes.items()}
    assert types == {"folder": str, "mtime": np.datetime64} | dict.fromkeys(
        ["size", "width", "height"], int
    )
    assert isinstance(first.distance, float)
    assert len({hash(result) for result in answer.results}) == 3
    assert pickle.loads(pickle.dumps(answer)) == answer


def test_names_that_are_no_unicode(tmp_path):
    """Text of the file system, from which the bytes come back; JSON has them in Base64."""
    folder = fill(tmp_path / "p", 6)
    name = os.path.join(bytes(folder), b"caf\xe9\n.png")
    shutil.copy(bytes(folder / "003.png"), name)
    (folder / "004.png").rename(folder / "é.png")
    index, _ = build([folder], tmp_path / "index", bits=16)
    assert index.paths() == [os.fsdecode(p) for p in sorted(map(bytes, folder.iterdir()))]
    [answer] = index.query(os.fsdecode(name), 7)
    assert answer.query_bytes == name
    shown = {result.path_bytes: result.to_dict() for result in answer.results}
    assert shown[name]["path"] == str(folder / "caf\N{REPLACEMENT CHARACTER}\n.png")
    assert base64.b64decode(shown[name]["path_bytes"]) == name
    assert shown[bytes(folder / "é.png")]["path"] == str(folder / "é.png")
    assert "path_bytes" not in shown[bytes(folder / "é.png")]
    text = answer.to_json()
    text.encode("utf-8")
    assert base64.b64decode(json.loads(text)["query_bytes"]) == name
    table = Answers([answer]).to_dict()
    arrow = pyarrow.table(table)
    assert arrow["path_bytes"].to_pylist() == [r.path_bytes for r in answer.results]
    assert arrow["query_bytes"].to_pylist() == [name] * 7
    assert table["path"] == [r.to_dict()["path"] for r in answer.results]
    # What a web framework does.
    json.dumps(answer.to_dict(), ensure_ascii=False, allow_nan=False).encode("utf-8")


def test_json(opened):
    index, paths = opened
    answers = index.query([paths[0], "gone.jpg"], 2)
    found = json.loads(answers.to_json())
    assert found == [answer.to_dict() for answer in answers]
    assert found == [json.loads(answer.to_json()) for answer in answers]
    assert found[1] == {"query": "gone.jpg", "error": "no such file", "results": []}
    assert list(found[0]) == ["query", "error", "results"]
    result = answers[0].results[0]
    assert found[0]["results"][0] == json.loads(result.to_json()) == result.to_dict()
    assert list(result.to_dict()) == ["rank", "distance", "similarity", "id", "path", "attributes"]
    assert found[0]["results"][0]["distance"] == result.distance
    time = found[0]["results"][0]["attributes"]["mtime"]
    assert time.endswith("Z")
    assert np.datetime64(time[:-1]) == result.attributes["mtime"]


def test_json_of_values_that_json_cannot_say():
    values = {"a": float("nan"), "b": np.datetime64("NaT", "ns"), "c": None, "d": True, "e": 1.5}
    result = Result(1, 0.5, None, 7, "a.png", values)
    assert result.to_dict()["attributes"] == {"a": None, "b": None, "c": None, "d": True, "e": 1.5}


def test_a_table_of_all_answers(opened):
    index, paths = opened
    answers = index.query([paths[0], "gone.jpg", paths[1]], 3)
    assert isinstance(answers, Answers)
    table = answers.to_dict()
    base = ["number", "query", "rank", "distance", "similarity", "id", "path"]
    assert list(table)[: len(base)] == base
    assert sorted(list(table)[len(base) :]) == ATTRIBUTES
    assert table["number"] == [0, 0, 0, 2, 2, 2]
    assert table["query"] == [str(paths[0])] * 3 + [str(paths[1])] * 3
    assert table["rank"] == [1, 2, 3] * 2
    flat = [result for answer in answers for result in answer.results]
    for name in base[3:]:
        assert table[name] == [getattr(result, name) for result in flat]
    for name in ATTRIBUTES:
        assert list(table[name]) == [result.attributes[name] for result in flat]
    arrow = pyarrow.table(table)
    assert arrow.schema.field("mtime").type == pyarrow.timestamp("ns")
    assert arrow.schema.field("path").type == pyarrow.string()
    assert arrow.schema.field("id").type == pyarrow.int64()
    assert arrow.num_rows == 6
    nothing = Answers([Answer("gone.jpg", error="no such file")]).to_dict()
    assert nothing == {name: [] for name in base}


def test_a_table_in_pandas(opened):
    index, paths = opened
    frame = pandas.DataFrame(index.query(paths[:3], 4).to_dict())
    assert len(frame) == 12
    assert frame.dtypes["mtime"] == "datetime64[ns]"
    assert frame.dtypes["distance"] == "float64"
    assert frame.groupby("query")["id"].count().tolist() == [4, 4, 4]
    assert frame[frame["width"] == 32]["path"].tolist() == frame["path"].tolist()
    again = index.query(frame["path"][frame["rank"] == 2], 1)
    assert [answer.query for answer in again] == frame["path"][frame["rank"] == 2].tolist()


def test_an_attribute_with_the_name_of_a_column_does_not_replace_it():
    answers = Answers([Answer("q.png", [Result(1, 0.5, None, 7, "a.png", {"rank": 9, "x": 1})])])
    assert (answers.to_dict()["rank"], answers.to_dict()["x"]) == ([1], [1])


def test_features_in_place_of_images(opened):
    index, paths = opened
    want = index.query(paths[:3], 4)
    from hyperpq.images.extract import ReadOptions, extract_features

    x = extract_features([bytes(path) for path in paths[:3]], index.backbone, ReadOptions()).plain
    found = index.query(vectors=x, k=4)
    assert [answer.results for answer in found] == [answer.results for answer in want]
    assert [answer.query for answer in found] == ["", "", ""]
    assert index.query(vectors=x[0], k=4) == found[:1]
    assert index.query(vectors=x[:0]) == []
    for wrong in (x[:, :5], "text", [[None] * 48], x * np.nan):
        with pytest.raises(InvalidInputError, match="vectors"):
            index.query(vectors=wrong)


def test_exactly_one_kind_of_query(opened):
    index, paths = opened
    for kinds in ({}, {"like": 0, "images": paths[0]}, {"like": 0, "vectors": np.zeros(48)}):
        names = " and ".join(sorted(kinds)) or "nothing"
        with pytest.raises(InvalidInputError, match=f"{names} given .*; expected one of images"):
            index.query(**kinds)


def test_images_of_the_index_in_place_of_files(opened):
    index, paths = opened
    [by_path] = index.query(paths[7], 5)
    own = by_path.results[0].id
    [by_id] = index.query(like=own, k=5)
    assert by_id.query == str(paths[7])
    assert ids(by_id)[0] == own
    for given in ([own, 5], np.array([own, 5]), (np.int32(own), 5)):
        several = index.query(like=given, k=5)
        assert [answer.results[0].id for answer in several] == [own, 5]
        assert several[0] == by_id
    [others] = index.query(like=own, k=4, exclude_self=True)
    assert own not in ids(others)
    assert len(others.results) == 4
    assert index.query(like=[]) == []
    good, unknown, negative = index.query(like=[3, 99, -1], k=1)
    assert good.results[0].id == 3
    assert (unknown.query, unknown.results) == ("", [])
    assert unknown.error == "the index has no image with the id 99"
    assert negative.error == "the index has no image with the id -1"
    for wrong in ("3", 1.0, [[1]], True, [None]):
        with pytest.raises(InvalidInputError, match=r"like is .*; expected the id of an image"):
            index.query(like=wrong)


def test_results_within_a_distance(opened):
    index, paths = opened
    [all_of_them] = index.query(paths[2], 30)
    limit = all_of_them.results[9].distance
    count = sum(result.distance <= limit for result in all_of_them.results)
    [near] = index.query(paths[2], 30, max_distance=limit)
    assert near.results == all_of_them.results[:count]
    assert index.query(paths[2], 5, max_distance=limit)[0].results == all_of_them.results[:5]
    [without] = index.query(paths[2], 30, max_distance=limit, exclude_self=True)
    assert ids(without) == ids(near)[1:]
    assert index.query(paths[2], max_distance=-1.0)[0].results == []
    for wrong in ("1", float("nan"), True):
        with pytest.raises(InvalidInputError, match="max_distance"):
            index.query(paths[2], max_distance=wrong)


def test_results_are_refined_where_features_are_kept(opened, tmp_path):
    index, paths = opened
    kept = index.index.features_of(index.index.ids)
    for refine in ("auto", 0, None, 5, 30):
        D, I, S = index.index.search_similar(kept[:4], 9, refine=refine)  # noqa: E741
        for row, answer in enumerate(index.query(vectors=kept[:4], k=9, refine=refine)):
            assert [r.distance for r in answer.results] == D[row].tolist()
            assert ids(answer) == I[row].tolist()
            assert [r.similarity for r in answer.results] == S[row].tolist()
    [default] = index.query(paths[3], 9)
    assert default == index.query(paths[3], 9, refine=200)[0]
    assert default != index.query(paths[3], 9, refine=0)[0]
    plain, _ = build([paths[0].parent], tmp_path / "index", bits=32, features="none")
    assert plain.query(paths[3], 9) == plain.query(paths[3], 9, refine=None)
    with pytest.raises(InvalidInputError, match="keeps no features"):
        plain.query(paths[3], refine=5)
    for wrong in ("all", -1, 0.5, True):
        with pytest.raises(InvalidInputError, match="refine is"):
            index.query(paths[3], refine=wrong)


def test_results_beyond_the_candidates_replace_those_that_are_left_out(opened):
    """However often the search is repeated with more results."""
    index, paths = opened
    everything = index.query(paths, 30, refine=4)
    for k in (1, 3, 12):
        answers = index.query(paths, k, refine=4, where="id >= 0", exclude_self=True)
        for path, answer, every in zip(paths, answers, everything, strict=True):
            left = [r.id for r in every.results if r.path != str(path)]
            assert ids(answer) == left[:k]


@pytest.mark.parametrize("most", [1 << 16, 7, 1])
def test_files_that_are_gone_are_left_out_and_replaced_by_others(tmp_path, monkeypatch, most):
    """However few paths are in memory at once."""
    monkeypatch.setattr(nearest, "_MAX_HITS", most)
    folder = fill(tmp_path / "p", 40)
    index, _ = build([folder], tmp_path / "index", bits=32)
    queries = [path.read_bytes() for path in sorted(folder.iterdir())[:3]]
    everything = index.query(queries, 40)
    for number in range(40):
        if number % 8:
            (folder / f"{number:03}.png").unlink()
    (folder / "001.png").symlink_to("away")
    for k in (1, 3, 5, 6, 40):
        for answer, every in zip(index.query(queries, k, existing=True), everything, strict=True):
            left = [r for r in every.results if os.path.exists(r.path)]
            assert len(left) == 5
            assert ids(answer) == [result.id for result in left[:k]]
            assert [r.rank for r in answer.results] == list(range(1, min(k, 5) + 1))
    near = index.query(
        queries[0], 40, existing=True, max_distance=everything[0].results[20].distance
    )
    assert ids(near[0]) == [r.id for r in everything[0].results[:21] if os.path.exists(r.path)]
    shutil.rmtree(folder)
    assert [answer.results for answer in index.query(queries, 3, existing=True)] == [[]] * 3
    assert index.query(queries, 3) == [Answer("", every.results[:3]) for every in everything]


def test_more_results_than_there_are_images(opened):
    index, paths = opened
    for options in ({}, {"exclude_self": True}, {"existing": True}, {"where": "width > 1"}):
        [answer] = index.query(paths[0], 10**12, **options)
        assert len(answer.results) == 30 - ("exclude_self" in options)
    [answer] = index.query(paths[0], 10, where="width > 1000", exclude_self=True, existing=True)
    assert answer.results == []


@pytest.mark.parametrize("wrong", [-1, 101, "5", float("nan"), True])
def test_a_similarity_is_from_0_to_100(opened, wrong):
    index, paths = opened
    with pytest.raises(InvalidInputError, match="min_similarity"):
        index.query(paths[0], min_similarity=wrong)


def test_similarities(opened):
    """A copy is 100 and first; similarities fall; results can be asked for by them."""
    index, paths = opened
    [answer] = index.query(paths[6].read_bytes(), 30)
    values = [result.similarity for result in answer.results]
    assert (answer.results[0].path, values[0]) == (str(paths[6]), 100.0)
    assert all(a >= b >= 0 for a, b in itertools.pairwise(values))
    assert max(values[1:]) < 100
    least = values[8]
    [similar] = index.query(paths[6], 30, min_similarity=least)
    assert similar.results == [r for r in answer.results if r.similarity >= least]
    by_kept_features = index.query(like=similar.results[0].id)[0].results
    assert [r.similarity for r in by_kept_features] == pytest.approx(values, abs=1)
    [both] = index.query(paths[6], 30, min_similarity=least, max_distance=-1)
    assert both.results == []
    assert json.loads(answer.to_json())["results"][0]["similarity"] == 100.0


def test_an_index_that_cannot_tell_similarities(tmp_path):
    folder = fill(tmp_path / "p", 4)
    index, _ = build([folder], tmp_path / "index", bits=16)
    [answer] = index.query(folder / "001.png", 4)
    assert [r.similarity for r in answer.results[1:]] == [None] * 3
    assert answer.to_dict()["results"][3]["similarity"] is None
    with pytest.raises(InvalidInputError, match="the index has 4 images, too few"):
        index.query(folder / "001.png", min_similarity=50)
