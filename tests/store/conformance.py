"""What every store must do: a class of tests that the test class of each store inherits.

A test class of a store implements `StoreTests.create`, and overrides `reopen` and `check` where its
store lies on disk. The last test runs random changes on the store and on a dict at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from store_tools import assert_same_rows, contents, make_rows

from hyperpq.codes import row_bits
from hyperpq.errors import InvalidInputError
from hyperpq.store import Categories, Rows, Store, live_batches, segments
from hyperpq.store.columns import NUMBERS

LABELS = st.none() | st.sampled_from(["", "cats", "dogs", "é" * 9]) | st.text(max_size=5)
SCHEMAS = st.dictionaries(
    st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{3,63}_", fullmatch=True),
    st.sampled_from([*NUMBERS, "time", "category"]),
    max_size=4,
).flatmap(lambda kinds: st.sampled_from([kinds, kinds | {"path": "path"}]))


def drawn_column(draw, kind: str, n: int):
    if kind == "category":
        strings = draw(st.lists(LABELS, min_size=n, max_size=n))
        try:
            "".join(filter(None, strings)).encode()
        except UnicodeEncodeError:
            strings = [None] * n
        return Categories.from_strings(strings)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    if kind == "time":
        return np.frombuffer(rng.bytes(n * 8), "datetime64[ns]")
    return np.frombuffer(rng.bytes(n * np.dtype(kind).itemsize), kind)


@st.composite
def drawn_rows(
    draw, code_size: int, number: int, schema: dict[str, str], feature_size: int
) -> Rows:
    n = draw(st.integers(0, 20))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    columns = {name: kind for name, kind in schema.items() if name != "path"}
    return Rows(
        codes=rng.integers(0, 256, (n, code_size), np.uint8),
        ids=(rng.permutation(n) + 20 * number - 30) * 2**57,
        attributes={name: drawn_column(draw, kind, n) for name, kind in columns.items()},
        paths=draw(st.lists(st.binary(max_size=30), min_size=n, max_size=n))
        if "path" in schema
        else None,
        features=rng.integers(0, 256, (n, feature_size), np.uint8) if feature_size else None,
    )


def labelled_rows(n: int) -> Rows:
    kinds = [f"kind {i % 300}" if i % 7 else None for i in range(n)]
    return Rows(np.zeros((n, 4), np.uint8), np.arange(n), {"kind": kinds, "number": np.arange(n)})


def state(store: Store) -> tuple:
    return contents(store), store.next_id, store.ntotal, len(store.segments)


class StoreTests(ABC):
    """The tests; see the module."""

    @abstractmethod
    def create(self, folder: Path) -> Store:
        """A new store without rows, at ``folder`` if it needs a place."""

    def reopen(self, store: Store) -> Store:
        """The store as another process would see it now."""
        return store

    def check(self, store: Store) -> None:  # noqa: B027
        """Whatever can be checked beside the rows; nothing unless overridden."""

    @pytest.fixture
    def store(self, tmp_path) -> Store:
        return self.create(tmp_path / "store")

    def test_a_new_store_has_no_rows(self, store):
        assert (len(store.segments), store.ntotal, store.n_deleted) == (0, 0, 0)
        assert (store.next_id, store.schema, store.feature_size) == (0, None, None)
        assert list(store.find(np.arange(3))) == []
        assert not store.compact()

    def test_what_is_committed_is_read_back(self, tmp_path_factory):
        @settings(max_examples=40, suppress_health_check=list(HealthCheck))
        @given(
            data=st.data(),
            code_size=st.integers(1, 64),
            schema=SCHEMAS,
            feature_size=st.integers(0, 99),
        )
        def check(data, code_size, schema, feature_size):
            count = data.draw(st.integers(1, 3))
            batches = [
                data.draw(drawn_rows(code_size, number, schema, feature_size))
                for number in range(count)
            ]
            store = self.create(tmp_path_factory.mktemp("store") / "store")
            store.commit(append=batches, next_id=77)
            for view in (store, self.reopen(store)):
                assert len(view.segments) == len(batches)
                for segment, rows in zip(view.segments, batches, strict=True):
                    assert_same_rows(segment, rows)
                    assert segment.schema == rows.schema == schema
                    assert (segment.n_live, segment.deleted_rows.size) == (rows.n, 0)
                    assert segment.live_bits is None
                assert view.ntotal == sum(rows.n for rows in batches)
                assert (view.next_id, view.schema) == (77, schema)
                assert view.feature_size == feature_size
            self.check(store)
            # Some of the rows, in another order.
            for segment, rows in zip(self.reopen(store).segments, batches, strict=True):
                some = np.array(data.draw(st.permutations(range(rows.n))), np.int64)[: rows.n // 2]
                assert_same_rows(segment.take(some), rows.take(some))
                np.testing.assert_array_equal(segment.take(some).ids, np.sort(rows.ids[some]))
                assert segment.take(some, features=False).features is None

        check()

    @pytest.mark.parametrize("rows", [[], [5], [0], [29_999, 3, 3, 7, 0]])
    def test_values_of_some_rows(self, store, rows):
        given = labelled_rows(30_000)
        store.commit(append=[given])
        numbers = np.array(rows, np.int64)
        for segment in (given, *store.segments):
            column = segment.attribute_at("kind", numbers)
            assert column.strings() == [given.attribute("kind").strings()[row] for row in rows]
            assert segment.attribute_at("number", numbers).tolist() == rows

    def test_columns_and_paths_that_are_not_there(self, store):
        store.commit(append=[make_rows(5)])
        (segment,) = store.segments
        for name in ("width", "path"):
            with pytest.raises(InvalidInputError, match=f"'{name}' is no such column; expected fl"):
                segment.attribute(name)
        for row in (-1, 5):
            with pytest.raises(InvalidInputError, match=f"row is {row}; expected 0 to 4"):
                segment.path(row)
        store.commit(drop=[0], append=[make_rows(5, paths=False)])
        assert (store.segments[0].paths, store.segments[0].path_strings) == (None, None)
        with pytest.raises(InvalidInputError, match="no paths"):
            store.segments[0].path(0)

    def test_deleted_rows_are_not_found_and_add_up(self, store):
        store.commit(append=[make_rows(5), make_rows(7, first=5)])
        whole = contents(store)
        store.commit(delete={1: np.array([6, 0])})
        # By their positions in what is there now, with some that are deleted already.
        segment = self.reopen(store).segments[1]
        again = np.flatnonzero(segment.ids == 8).tolist()
        already = segment.deleted_rows[:1].tolist()
        store.commit(delete={1: np.array([*again, *again, *already], np.uint8), 0: []})
        expected = {id: row for id, row in whole.items() if id not in (5, 8, 11)}
        for view in (store, self.reopen(store)):
            assert contents(view) == expected
            assert (view.ntotal, view.ntotal + view.n_deleted) == (
                9,
                sum(segment.n for segment in view.segments),
            )
            asked = np.array([11, 4, 5, 6, 8, 99])
            found = dict.fromkeys(asked.tolist(), -1)
            for position, rows, segment in view.find(asked):
                assert view.segments[position] is segment
                for id, row in zip(asked.tolist(), rows.tolist(), strict=True):
                    if row >= 0:
                        assert segment.ids[row] == id
                        found[id] = position
            assert found == {11: -1, 4: 0, 5: -1, 6: 1, 8: -1, 99: -1}
            for segment in view.segments:
                deleted = np.zeros(segment.n, bool)
                deleted[segment.deleted_rows] = True
                assert segment.n_live == (~deleted).sum()
                at = np.arange(segment.n_live)[::-1]
                np.testing.assert_array_equal(
                    segments.live_at(segment, at), np.flatnonzero(~deleted)[at]
                )
                if deleted.any():
                    np.testing.assert_array_equal(segment.live_bits, row_bits(~deleted))
                else:
                    assert segment.live_bits is None
        self.check(store)

    def test_a_segment_without_a_row_left_goes(self, store):
        store.commit(append=[make_rows(5), make_rows(7, first=5)])
        store.commit(delete={0: np.arange(5)})
        assert [segment.ids.tolist() for segment in store.segments] == [[*range(5, 12)]]
        store.commit(drop=[0], next_id=3)
        assert (len(store.segments), store.ntotal, store.schema) == (0, 0, None)
        # Other columns and codes may come now.
        store.commit(append=[make_rows(2, code_size=9, paths=False)])
        assert self.reopen(store).ntotal == 2
        assert self.reopen(store).next_id == 3
        self.check(store)

    def test_rows_are_replaced_in_one_step(self, store):
        store.append(make_rows(10), next_id=10)
        new = make_rows(3, first=100)
        old = {position: rows[rows >= 0] for position, rows, _ in store.find(np.array([2, 7]))}
        store.append(new, old, 200)
        assert contents(store).keys() == {*range(10), 100, 101, 102} - {2, 7}
        assert store.next_id == 200
        store.append(new.take(np.empty(0, np.int64)), {0: np.array([0])})
        assert store.ntotal == 10

    def test_many_small_additions_stay_few_segments(self, store):
        for i in range(100):
            store.append(make_rows(1, first=i), next_id=i + 1)
        # 100 = 64 + 32 + 4
        assert [segment.n for segment in store.segments] == [64, 32, 4]
        assert [*contents(store)] == [*range(100)]
        assert store.next_id == 100
        self.check(store)

    def test_compaction_drops_what_is_deleted(self, store):
        store.commit(append=[make_rows(5), make_rows(7, first=5)])
        store.commit(delete={0: np.array([1]), 1: np.array([0, 6])})
        expected = contents(store)
        assert store.compact()
        assert not store.compact()
        assert [segment.n for segment in store.segments] == [9]
        assert contents(store) == contents(self.reopen(store)) == expected
        assert store.n_deleted == 0
        self.check(store)

    def test_all_rows_or_none_have_features(self, store):
        wanted = "features are missing; expected 6 bytes, as the index has"
        for own, other, message in (
            (6, 0, wanted),
            (0, 6, "features have 6 bytes a row; the index has none"),
            (6, 7, "features have 7 bytes a row; expected 6 bytes, as the index has"),
        ):
            store.commit(drop=range(len(store.segments)), append=[make_rows(5, feature_size=own)])
            before = state(store)
            wrong = make_rows(2, first=9, feature_size=other)
            for change in (
                lambda wrong=wrong: store.commit(append=[wrong]),
                lambda wrong=wrong: store.append(wrong),
            ):
                with pytest.raises(InvalidInputError, match=message):
                    change()
            assert state(store) == state(self.reopen(store)) == before
        self.check(store)

    def test_features_bound_what_is_joined_and_compacted(self, store, monkeypatch):
        monkeypatch.setattr(segments, "MAX_JOINED_FEATURES", 800)
        monkeypatch.setattr(segments, "MAX_COMPACTED_FEATURES", 1600)
        for i in range(30):
            store.append(make_rows(1, first=i, feature_size=100))
        assert [segment.n for segment in store.segments] == [8, 8, 8, 4, 2]
        before = contents(store)
        assert store.compact()
        assert [segment.n for segment in store.segments] == [16, 14]
        assert contents(store) == contents(self.reopen(store)) == before
        assert [rows.n for rows in live_batches(store.segments, 15)] == [15, 1, 14]
        monkeypatch.setattr(segments, "MAX_COMPACTED_FEATURES", 1000)
        assert [rows.n for rows in live_batches(store.segments, 15)] == [10, 6, 10, 4]
        plain = list(live_batches(store.segments, 15, features=False))
        assert [(rows.n, rows.features) for rows in plain] == [(15, None), (1, None), (14, None)]
        # More bytes than allowed in one row.
        store.commit(drop=[0, 1])
        for i in range(2):
            store.append(make_rows(2, first=2 * i, feature_size=2000))
        assert [segment.n for segment in store.segments] == [2, 2]
        assert [rows.n for rows in live_batches(store.segments)] == [1, 1, 1, 1]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"append": [make_rows(2, code_size=5)]}, "append has code_size 5 .* expected 4"),
            ({"append": [make_rows(2, first=70, paths=False)]}, "append has code_size 4 and col"),
            ({"delete": {9: [0]}}, "delete has segment 9; expected a position below 2"),
            ({"delete": {-1: [0]}}, "delete has segment -1"),
            ({"delete": {0: [5]}}, "delete has row 5 of segment 0; expected 0 to 4"),
            ({"delete": {0: [-1]}}, "delete has row -1"),
            ({"delete": {0: [0.5]}}, "delete has float64"),
            ({"delete": {0: [[0]]}}, r"delete has int64 \(1, 1\) for segment 0; expected integers"),
            ({"drop": [2]}, "drop has segment 2"),
            ({"next_id": -1}, "next_id is -1; expected 0 to"),
            ({"next_id": 2**63}, "next_id is 9223372036854775808"),
        ],
    )
    def test_bad_commits_change_nothing(self, store, arguments, message):
        store.commit(append=[make_rows(5), make_rows(7, first=5)], next_id=12)
        before = state(store)
        with pytest.raises(InvalidInputError, match=message):
            store.commit(**arguments)
        assert state(store) == state(self.reopen(store)) == before
        self.check(store)

    def test_an_error_in_the_middle_of_a_commit_changes_nothing(self, store):
        store.commit(append=[make_rows(5)], next_id=5)
        before = state(store)

        def rows():
            yield make_rows(3, first=20)
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            store.commit(append=rows(), delete={0: np.array([0])}, next_id=50)
        assert state(store) == state(self.reopen(store)) == before
        self.check(store)

    def test_appended_rows_take_the_kinds_that_are_there(self, store):
        store.append(make_rows(3))
        more = make_rows(3, first=10)
        wide = {"int32": np.array([7, 8, 9], np.int64), "float64": np.zeros(3, np.float32)}
        store.append(Rows(more.codes, more.ids, wide, more.path_strings))
        assert store.schema == {"int32": "int32", "float64": "float64", "path": "path"}
        assert [row[-1] for row in contents(store).values()][-3:] == [7, 8, 9]
        before = state(store)
        with pytest.raises(InvalidInputError, match="attributes are float64, int32; expected"):
            store.append(make_rows(3, first=20, paths=False))
        large = wide | {"int32": np.array([0, 1, 2**31])}
        with pytest.raises(InvalidInputError, match="attribute int32 has int64 values; expected"):
            store.append(Rows(more.codes, more.ids + 20, large, more.path_strings))
        assert state(store) == before

    @pytest.mark.parametrize("feature_size", [0, 5])
    def test_any_sequence_of_changes_is_that_of_a_dict(self, tmp_path_factory, feature_size):
        run_state_machine_as_test(
            lambda: StoreMachine(self, tmp_path_factory.mktemp("store") / "store", feature_size),
            settings=settings(
                max_examples=40,
                stateful_step_count=15,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )


class StoreMachine(RuleBasedStateMachine):
    """Random changes of a store, and of a dict of what each row was made from by its id."""

    def __init__(self, suite: StoreTests, folder: Path, feature_size: int) -> None:
        super().__init__()
        self.feature_size = feature_size
        self.suite = suite
        self.store = suite.create(folder)
        self.model: dict[int, int] = {}
        self.next_id = 0
        self.step = 0

    def _new_ids(self, data, without: set[int]) -> np.ndarray:
        """Some ids that are free once ``without`` are deleted, in no order."""
        taken = self.model.keys() - without
        fresh = data.draw(st.sets(st.integers(-60, 60), max_size=9)) - taken
        return np.array(data.draw(st.permutations(sorted(fresh))), np.int64)

    def _some_of_the_model(self, data) -> set[int]:
        return data.draw(st.sets(st.sampled_from(sorted(self.model) or [99]), max_size=5))

    def _rows(self, ids: np.ndarray) -> Rows:
        self.step += 1
        self.model |= dict.fromkeys(ids.tolist(), self.step)
        codes = np.full((len(ids), 2), self.step, np.uint8)
        kinds = [f"step {self.step}" if i % 2 else None for i in ids.tolist()]
        columns = {"step": np.full(len(ids), self.step), "kind": kinds}
        # Features differ from row to row, and with each step.
        features = np.add.outer(ids % 100 + self.step, np.arange(self.feature_size))
        kept = features.astype(np.uint8) if self.feature_size else None
        return Rows(codes, ids, columns, [b"%d" % i for i in ids], kept)

    def _deletion(self, ids: set[int]) -> dict[int, np.ndarray]:
        asked = np.array(sorted(ids), np.int64)
        self.model = {id: step for id, step in self.model.items() if id not in ids}
        return {position: rows[rows >= 0] for position, rows, _ in self.store.find(asked)}

    def _features(self, id: int, step: int) -> bytes:
        return bytes((id % 100 + step + i) % 256 for i in range(self.feature_size))

    @rule(data=st.data())
    def append(self, data):
        old = self._some_of_the_model(data)
        fresh = self._new_ids(data, old)
        deletion = self._deletion(old)
        self.next_id += len(fresh)
        self.store.append(self._rows(fresh), deletion, self.next_id)

    @rule(data=st.data(), count=st.integers(0, 3))
    def commit(self, data, count):
        old = self._some_of_the_model(data)
        deletion = self._deletion(old)
        segments = [self._rows(self._new_ids(data, set())) for _ in range(count)]
        self.store.commit(append=[rows for rows in segments if rows.n], delete=deletion)

    @precondition(lambda self: self.store.segments)
    @rule(data=st.data())
    def drop(self, data):
        position = data.draw(st.integers(0, len(self.store.segments) - 1))
        segment = self.store.segments[position]
        for id in np.delete(segment.ids, segment.deleted_rows).tolist():
            del self.model[id]
        self.store.commit(drop=[position])

    @precondition(lambda self: self.store.segments)
    @rule(data=st.data())
    def refuse(self, data):
        """A commit that deletes, and fails at its second segment."""
        position = data.draw(st.integers(0, len(self.store.segments) - 1))
        all_rows = np.arange(self.store.segments[position].n)
        kept = dict(self.model)
        rows = self._rows(np.array([1000], np.int64))
        self.model = kept
        wrong = Rows(np.zeros((1, 3), np.uint8), np.array([2000]))
        with pytest.raises(InvalidInputError):
            self.store.commit(append=[rows, wrong], delete={position: all_rows}, next_id=5000)

    @rule()
    def compact(self):
        self.store.compact()
        assert len(self.store.segments) <= 1
        assert self.store.n_deleted == 0
        assert not self.store.compact()

    @rule()
    def reopen(self):
        self.store = self.suite.reopen(self.store)

    @invariant()
    def rows_are_those_of_the_dict(self):
        assert self.store.ntotal == len(self.model)
        assert self.store.next_id == self.next_id
        assert contents(self.store) == {
            id: (
                (step, step),
                b"%d" % id,
                f"step {step}" if id % 2 else None,
                step,
                *([self._features(id, step)] if self.feature_size else []),
            )
            for id, step in self.model.items()
        }

    @invariant()
    def every_id_is_found_once(self):
        asked = np.array([*self.model, 70, 71], np.int64)
        times = dict.fromkeys(asked.tolist(), 0)
        for _, rows, segment in self.store.find(asked):
            for id, row in zip(asked.tolist(), rows.tolist(), strict=True):
                if row >= 0:
                    assert segment.ids[row] == id
                    times[id] += 1
        assert times == dict.fromkeys(self.model, 1) | {70: 0, 71: 0}

    def teardown(self):
        self.suite.check(self.store)
