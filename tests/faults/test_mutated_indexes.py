"""Damaged and forged indexes: refused or harmless, never a crash, a hang or much memory."""

from __future__ import annotations

import random
import resource
import signal
from collections import Counter
from contextlib import suppress

import numpy as np
import pytest
from fault_tools import CODEC, QUERIES, X, add, in_child, learned_codec, load, new_index
from forgeries import BLIND, WITH_CHECKSUMS, Forger
from index_operations import relearn

from hyperpq.backbones.tuned import TunedWeights
from hyperpq.errors import HyperPQError
from hyperpq.filters.selectors import IDSelectorRange

# Beside what the process has already.
MEMORY = 512 << 20
SECONDS = 60


def make_index(path, kind: str) -> None:
    is_plain = kind != "learned"
    index = new_index(CODEC if is_plain else learned_codec(), "int8" if is_plain else "none")
    if kind == "tuned":
        # Version 5.
        rng = np.random.default_rng(0)
        changes = {
            "stem.weight": rng.normal(size=(8, 9)).astype(np.float16),
            "stem.bias": rng.normal(size=8).astype(np.float32),
        }
        index.collection.set_tuned(TunedWeights("lite0", "0" * 32, changes))
    index.save(path)
    add(index, range(70))
    add(index, range(100, 130))
    index.remove_ids([5, 6, 110])
    if kind == "plain":
        # Features, another codec, and so version 4 of the format; learned ones have version 3.
        relearn(index)
        load(path).remove_ids([7, 111])


def use(index) -> None:
    """Everything that reads an index, and changes of it; each may be refused."""
    calls = [
        lambda: index.search(QUERIES, 7, threads=1),
        lambda: index.search(QUERIES, 7, where="half >= 9 and kind != 'kind 1'", threads=1),
        lambda: index.search(QUERIES, 7, where="when < '2024-01-01' or version is None"),
        lambda: index.range_search(QUERIES, 3.0, threads=1),
        lambda: index.search_and_reconstruct(QUERIES, 200, threads=1),
        lambda: index.reconstruct_n(),
        lambda: index.attributes_of(index.ids),
        lambda: index.features_of(index.ids),
        lambda: index.remove_ids(IDSelectorRange(0, 3)),
        lambda: index.embed(X[:3]),
        lambda: add(index, [900]),
        lambda: index.compact(),
        lambda: index.clone(),
        lambda: index.view().rows.tuned,
        lambda: repr(index),
        lambda: index.reset(),
    ]
    for call in calls:
        with suppress(HyperPQError):
            call()


def limit_memory() -> None:
    with open("/proc/self/statm") as file:
        held = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, resource.RLIM_INFINITY))


@pytest.mark.parametrize("kind", ["plain", "learned", "tuned"])
@pytest.mark.parametrize(
    "count",
    [pytest.param(250, marks=pytest.mark.sample), pytest.param(1000, marks=pytest.mark.slow)],
)
def test_mutated_indexes(tmp_path, capsys, kind, count):
    root, report = tmp_path / "index", tmp_path / "report"
    make_index(root, kind)
    forger = Forger(root)
    rng = random.Random(len(kind))
    alterations = [*BLIND, *WITH_CHECKSUMS, *WITH_CHECKSUMS]

    def child():
        limit_memory()
        with open(report, "w", buffering=1) as file:
            for trial in range(count):
                alter = alterations[trial % len(alterations)]
                print(trial, alter.__name__, end=" ", file=file, flush=True)
                forger.restore()
                alter(forger, rng)
                # A hang ends the child, and the report says where.
                signal.alarm(SECONDS)
                try:
                    index = load(root, verify=True)
                except HyperPQError as error:
                    assert len(str(error)) < 2000
                    print("refused", file=file)
                else:
                    assert alter in WITH_CHECKSUMS
                    print("harmless", file=file)
                    use(index)
                # What only looks at lengths may read nonsense, but no more than that.
                forger.restore()
                alter(forger, rng)
                with suppress(HyperPQError):
                    use(load(root))

    status = in_child(child)
    assert status == 0, report.read_text().splitlines()[-1]
    verdicts = [line.split()[2] for line in report.read_text().splitlines()]
    assert len(verdicts) == count
    found = Counter(verdicts)
    assert min(found["refused"], found["harmless"]) > count / 50
    with capsys.disabled():
        print(
            f"\nindex: {count} mutated {kind} indexes, {found['refused']} refused, "
            f"{found['harmless']} forged ones are indexes that hold something else; no crash"
        )
