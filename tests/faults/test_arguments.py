"""Every public call of an index with arguments of every kind: right answer or clear refusal."""

from __future__ import annotations

import re

import numpy as np
import pytest
from arguments import (
    FLOATS,
    FORMS,
    IDS,
    INTEGERS,
    NO_ARRAYS,
    NO_CHOICES,
    NO_CODES,
    NO_COLUMN,
    NO_COUNTS,
    NO_FEATURES,
    NO_FILTERS,
    NO_IDS,
    NO_IDS_ALONE,
    NO_INTEGERS,
    NO_NUMBERS,
    NO_PARAMETERS,
    NO_SETS,
    N,
    X,
    forms,
    without,
)
from fault_tools import (
    CODES,
    D,
    add,
    columns_of,
    contents,
    learned_codec,
    new_index,
    store_of,
)

from hyperpq import HiHPQIndex
from hyperpq.errors import InvalidInputError
from hyperpq.filters.selectors import (
    IDSelectorArray,
    IDSelectorBatch,
    IDSelectorBitmap,
    IDSelectorNot,
    IDSelectorRange,
    SearchParameters,
)
from hyperpq.store.columns import Categories


@pytest.fixture
def index(tmp_path):
    """A small index on disk."""
    made = new_index()
    add(made, range(40))
    made.remove_ids([3])
    made.save(tmp_path / "index")
    return made


def state(index):
    store = store_of(index)
    return (
        index.ntotal,
        index.next_id,
        store.snapshot_number,
        store.fingerprint(),
        len(contents(index)),
    )


WITH_X = {
    "search": lambda i, x: i.search(x, 7, threads=1),
    "search where": lambda i, x: i.search(x, 7, where="half > 3"),
    "range_search": lambda i, x: i.range_search(x, 200.0),
    "search_and_reconstruct": lambda i, x: i.search_and_reconstruct(x, 3),
    "encode": lambda i, x: i.encode(x),
    "embed": lambda i, x: i.embed(x),
    "add": lambda i, x: i.add(x, attributes=columns_of(range(50, 50 + N), 0)),
    "add with ids": lambda i, x: i.add(x, IDS + 100, attributes=columns_of(IDS, 0)),
    "add_with_ids": lambda i, x: i.add_with_ids(x, IDS + 100, attributes=columns_of(IDS, 0)),
    "update": lambda i, x: i.update(x, IDS),
}
WITH_IDS = {
    "add": lambda i, ids: i.add(X, ids, attributes=columns_of(IDS, 0)),
    "add_with_ids": lambda i, ids: i.add_with_ids(X, ids, attributes=columns_of(IDS, 0)),
    "update": lambda i, ids: i.update(X, ids),
    "remove_ids": lambda i, ids: i.remove_ids(ids),
    "remove_ids where": lambda i, ids: i.remove_ids(ids, where="half > 3"),
    "reconstruct_batch": lambda i, ids: i.reconstruct_batch(ids),
    "attributes_of": lambda i, ids: i.attributes_of(ids),
    "IDSelectorArray": lambda i, ids: i.search(
        X, 9, params=SearchParameters(IDSelectorArray(ids)), threads=1
    ),
    "IDSelectorBatch": lambda i, ids: i.select(
        SearchParameters(IDSelectorNot(IDSelectorBatch(ids)))
    ),
}
# Those that also take ids which FAISS knows nothing of, and those that take None.
TAKE_NEGATIVE = ("IDSelectorArray", "IDSelectorBatch", "remove_ids where")
TAKE_NONE = ("add", "remove_ids where")
# Those that take a single vector as one query.
TAKE_ONE_VECTOR = (
    *("search", "search where", "range_search", "search_and_reconstruct"),
    *("encode", "embed"),
)


def outcome(index, call, argument):
    """What a call answers, or what the index holds after it, as plain arrays."""
    answer = call(index, argument)
    rows = [(segment.ids, segment.tiled.rows()) for segment in store_of(index).segments]
    return _plain((answer, rows))


def _plain(value):
    if isinstance(value, (tuple, list)):
        return [_plain(part) for part in value]
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return (value.dtype.str, value.tolist()) if isinstance(value, np.ndarray) else value


def copy_of(index, call):
    """The index itself for a call that only reads."""
    return index.clone() if re.match("add|update|remove", call) else index


@pytest.mark.parametrize("dtype", ["bool", *FLOATS, *INTEGERS])
@pytest.mark.parametrize("call", WITH_X)
def test_features_of_every_form(index, tally, call, dtype):
    values = X.astype(dtype)
    want = outcome(copy_of(index, call), WITH_X[call], values.astype(np.float32))
    for name, form in forms(values):
        found = outcome(copy_of(index, call), WITH_X[call], form)
        assert str(found) == str(want), name
        tally["right answers"] += 1


@pytest.fixture
def not_refused(index, tally):
    """Call with each argument: those that weren't refused by an error that begins with a name.

    Each call must leave the index as it was.
    """
    before = state(index)

    def check(call, arguments, names: str) -> dict[str, str]:
        wrong = {}
        for name, make in arguments.items():
            try:
                answer = call(make())
            except InvalidInputError as error:
                if not re.match(rf"({names})\b", str(error)):
                    wrong[name] = f"message: {error}"
            except Exception as error:
                wrong[name] = repr(error)
            else:
                wrong[name] = f"answer: {answer}"
            tally["refusals"] += 1
        return wrong

    yield check
    assert state(index) == before


@pytest.mark.parametrize("call", WITH_X)
def test_no_features(index, not_refused, call):
    arguments = dict(NO_FEATURES)
    if call in ("encode", "embed"):
        # torch.inference_mode, which these two are under, lets numpy read such tensors.
        del arguments["with gradient"]
    if call in TAKE_ONE_VECTOR:
        del arguments["one vector"]
    assert not_refused(lambda x: WITH_X[call](index, x), arguments, "x") == {}


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("call", WITH_IDS)
def test_ids_of_every_form(index, tally, call, dtype):
    ids = IDS + 60 if call.startswith("add") else IDS
    want = outcome(copy_of(index, call), WITH_IDS[call], ids.astype(np.int64))
    for name, form in forms(ids.astype(dtype)):
        found = outcome(copy_of(index, call), WITH_IDS[call], form)
        assert str(found) == str(want), name
        tally["right answers"] += 1


@pytest.mark.parametrize("call", WITH_IDS)
def test_no_ids(index, not_refused, call):
    arguments = dict(NO_IDS)
    if call in TAKE_NEGATIVE:
        del arguments["negative"]
    if call in TAKE_NONE:
        del arguments["None"]
    assert not_refused(lambda ids: WITH_IDS[call](index, ids), arguments, "ids|neither ids") == {}


LEARNED = new_index(learned_codec())


def new(*args, **options):
    return HiHPQIndex(*args, device="cpu", **options)


def columns(ids, **more):
    return columns_of(ids, 0) | more


SEARCHES = {
    "search": lambda i, **more: i.search(**{"x": X, "k": 3} | more),
    "range_search": lambda i, **more: i.range_search(**{"x": X, "radius": 9} | more),
    "search_and_reconstruct": lambda i, **more: i.search_and_reconstruct(**{"x": X, "k": 3} | more),
}
# The argument's name, what it can't be, and the call.
CALLS = {
    "reconstruct": ("id", NO_IDS_ALONE, lambda i, v: i.reconstruct(v)),
    "reconstruct_n i0": ("i0", NO_IDS_ALONE, lambda i, v: i.reconstruct_n(v, 2)),
    "reconstruct_n ni": ("ni", NO_INTEGERS, lambda i, v: i.reconstruct_n(9, v)),
    "merge_from add_id": ("add_id", NO_INTEGERS, lambda i, v: i.merge_from(new_index(), v)),
    "merge_from other": ("other", NO_ARRAYS, lambda i, v: i.merge_from(v)),
    "select where": ("where", NO_FILTERS, lambda i, v: i.select(where=v)),
    "select params": ("params", NO_PARAMETERS, lambda i, v: i.select(v)),
    "remove_ids where": ("where", NO_FILTERS, lambda i, v: i.remove_ids(where=v)),
    "SearchParameters where": ("where", NO_FILTERS, lambda _, v: SearchParameters(where=v)),
    "SearchParameters sel": ("sel", NO_SETS, lambda _, v: SearchParameters(v)),
    "IDSelectorRange": ("imin", NO_INTEGERS, lambda _, v: IDSelectorRange(v, 5)),
    "IDSelectorBitmap": ("bits", without(NO_IDS, "booleans"), lambda _, v: IDSelectorBitmap(v)),
    "decode": ("codes", NO_CODES, lambda i, v: i.decode(v)),
    "add attributes": ("attributes", NO_SETS, lambda i, v: i.add(X, attributes=v)),
    "update attributes": ("attributes", NO_SETS, lambda i, v: i.update(X, IDS, attributes=v)),
    "add a column": (
        "attribute half",
        NO_COLUMN,
        lambda i, v: i.add(X, attributes=columns(IDS, half=v)),
    ),
    "update a column": (
        "attribute half",
        NO_COLUMN,
        lambda i, v: i.update(X, IDS, attributes={"half": v}),
    ),
    "HiHPQIndex d": ("d", NO_COUNTS, lambda _, v: new(v)),
    "HiHPQIndex M": ("M", NO_COUNTS | {"large": lambda: 1025}, lambda _, v: new(8, v)),
    "HiHPQIndex nbits": ("nbits", NO_COUNTS | {"7": lambda: 7}, lambda _, v: new(8, 2, v)),
    "HiHPQIndex metric": ("metric", NO_CHOICES, lambda _, v: new(8, 2, metric=v)),
    "HiHPQIndex device": ("device", NO_CHOICES, lambda _, v: HiHPQIndex(8, 2, device=v)),
    "load durability": (
        "durability",
        NO_CHOICES,
        lambda i, v: HiHPQIndex.load(i.path, device="cpu", durability=v),
    ),
    "train": ("x|the number of rows of x", NO_FEATURES, lambda _, v: new(D, 2).train(v)),
    "train views": ("views", without(NO_ARRAYS, "None"), lambda _, v: new(D, 2).train(X, v)),
    "train view_rows": (
        "view_rows",
        without(NO_IDS, "None"),
        lambda _, v: new(D, 2).train(X, X[None], view_rows=v),
    ),
    "train seed": ("seed", NO_IDS_ALONE, lambda _, v: new(D, 2).train(X, seed=v)),
    "train recipe": ("recipe", NO_CHOICES, lambda _, v: new(D, 2).train(X, recipe=v)),
    "to_faiss": ("how", NO_CHOICES, lambda i, v: i.to_faiss(v)),
    "with_bits": ("bits", NO_COUNTS | {"large": lambda: 8200}, lambda _, v: LEARNED.with_bits(v)),
    "with_bits nbits": ("bits|nbits", NO_COUNTS, lambda _, v: LEARNED.with_bits(16, nbits=v)),
    "with_bits score": (
        "metric|M is 2 and D is 4; the metric",
        NO_CHOICES,
        lambda _, v: LEARNED.with_bits(16, metric=v),
    ),
}


@pytest.mark.parametrize("call", SEARCHES)
def test_no_way_to_search(index, not_refused, call):
    search = SEARCHES[call]
    arguments = {
        "threads": without(NO_COUNTS, "None"),
        "where": NO_FILTERS,
        "params": NO_PARAMETERS,
    }
    if call == "range_search":
        arguments["radius"] = NO_NUMBERS
    else:
        # More answers than a memory holds.
        arguments["k"] = NO_COUNTS | {"large": lambda: 2**40, "larger": lambda: 2**62}
    for name, wrong in arguments.items():
        assert not_refused(lambda v: search(index, **{name: v}), wrong, name) == {}, name  # noqa: B023


@pytest.mark.parametrize("call", CALLS)
def test_no_arguments(index, not_refused, call):
    name, arguments, function = CALLS[call]
    assert not_refused(lambda v: function(index, v), arguments, name) == {}


@pytest.mark.parametrize("number", [np.int8, np.uint64, np.int64, int])
def test_numbers_of_every_kind(index, number):
    want = index.search(X, 7, threads=1)
    for found in (index.search(X, number(7), threads=number(3)), index.search(X, 7, threads=2**62)):
        assert str(_plain(found)) == str(_plain(want))
    assert str(_plain(index.range_search(X, number(90)))) == str(
        _plain(index.range_search(X, 90.0))
    )
    np.testing.assert_array_equal(index.reconstruct(number(9)), index.reconstruct(9))
    np.testing.assert_array_equal(
        index.reconstruct_n(number(9), number(4)), index.reconstruct_batch([9, 10, 11, 12])
    )
    assert LEARNED.with_bits(number(16), nbits=number(8)).M == 2


COLUMNS = {"half": IDS / 2, "version": IDS.astype(np.int64), "when": (IDS * 10**9).view("M8[ns]")}


@pytest.mark.parametrize("name", COLUMNS)
def test_columns_of_every_form(index, name):
    values = COLUMNS[name]
    want = index.clone()
    want.add(X, attributes=columns(IDS, **{name: values}))
    for form, given in forms(values):
        if name == "when" and form in ("list", "tuple"):
            continue  # numpy gives times of nanoseconds as integers
        found = index.clone()
        found.add(X, attributes=columns(IDS, **{name: given}))
        assert str(_plain(found.attributes_of(want.ids))) == str(
            _plain(want.attributes_of(want.ids))
        ), form


@pytest.mark.parametrize("name", ["plain", "Fortran", "strided", "backwards", "read-only"])
def test_codes_of_every_form(index, name):
    np.testing.assert_array_equal(index.decode(FORMS[name](CODES[:9])), index.decode(CODES[:9]))


@pytest.mark.parametrize("change", ["add", "update"])
def test_arguments_that_change_later(index, change):
    """What a caller does with its arrays doesn't reach an index in memory."""
    made = index.clone()
    given = {"x": X.copy(), "ids": np.sort(IDS), "half": np.sort(IDS) / 2}
    given["kind"] = Categories.from_strings(columns(given["ids"])["kind"])
    given["ids"] += 100 * (change == "add")
    more = {"half": given["half"], "kind": given["kind"]}
    getattr(made, change)(given["x"], given["ids"], attributes=columns(given["ids"], **more))
    before = str(_plain((made.attributes_of(made.ids), made.reconstruct_n())))
    for array in (given["x"], given["ids"], given["half"], given["kind"].codes):
        array[:] = 0
    assert str(_plain((made.attributes_of(made.ids), made.reconstruct_n()))) == before
    # Nor what it does with answers.
    made.attributes_of(made.ids)["half"][:] = 0
    made.reconstruct_n()[:] = 0
    made.search(X, 3)[1][:] = 0
    assert str(_plain((made.attributes_of(made.ids), made.reconstruct_n()))) == before
