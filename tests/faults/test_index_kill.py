"""An index whose process is killed at any moment: what was reported as stored is there."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from fault_tools import (
    X,
    add,
    columns_of,
    contents,
    kill_before_call,
    load,
    new_index,
    start_child,
    store_of,
    update,
    vector_numbers,
)
from index_operations import OPERATIONS, make_index, relearn

MAX_ROWS = 1500


def next_change(rng: random.Random, held: dict[int, int], next_id: int) -> dict:
    """What to do next to an index that holds ``held``, id -> version."""
    op = rng.choice(("add", "add_with_ids", "remove_ids", "update", "compact", "relearn"))
    count = rng.choice((1, 2, 5, 20, 300))
    if len(held) > MAX_ROWS:
        op, count = "remove_ids", MAX_ROWS - 200
    if op == "add":
        return {"op": op, "ids": list(range(next_id, next_id + count)), "version": 0}
    if op == "add_with_ids":
        ids = set(rng.sample(range(10**6), count)) - held.keys()
        return {"op": op, "ids": list(ids), "version": rng.randrange(100)}
    known = rng.sample(sorted(held), min(count, len(held)))
    return {"op": op, "ids": known, "version": rng.randrange(100)}


def changed(held: dict[int, int], change: dict) -> dict[int, int]:
    """What an index holds after a change."""
    op, ids = change["op"], change["ids"]
    if op == "remove_ids":
        return {id: version for id, version in held.items() if id not in set(ids)}
    if op in ("compact", "relearn"):
        return held
    return held | dict.fromkeys(ids, change["version"])


def perform(index, change: dict) -> None:
    op, ids, version = change["op"], change["ids"], change["version"]
    if op == "add":
        index.add(X[vector_numbers(ids, version)], attributes=columns_of(ids, version))
    elif op == "add_with_ids":
        add(index, ids, version)
    elif op == "remove_ids":
        index.remove_ids(ids)
    elif op == "update":
        update(index, ids, version)
    elif op == "relearn":
        relearn(index)
    else:
        index.compact()


def change_for_ever(root: Path, report: Path, seed: int) -> None:
    rng = random.Random(seed)
    index = load(root)
    held = contents(index)
    handle = os.open(report, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    while True:
        change = next_change(rng, held, index.next_id)
        line = json.dumps(change)
        os.write(handle, f"begin {line}\n".encode())
        perform(index, change)
        os.write(handle, f"done {line}\n".encode())
        if change["op"] == "relearn":
            index = load(root)
        held = changed(held, change)


@pytest.mark.slow
def test_kill_at_random_moments(tmp_path, capsys):
    root, report = tmp_path / "index", tmp_path / "report"
    index = new_index()
    add(index, range(50))
    index.save(root)
    expected = contents(index)
    kills, stored, interrupted, survived = 200, Counter(), Counter(), 0
    rng = random.Random(1)
    for seed in range(kills):
        report.unlink(missing_ok=True)
        pid = start_child(lambda: change_for_ever(root, report, seed))  # noqa: B023
        while not report.exists():
            assert os.waitpid(pid, os.WNOHANG) == (0, 0)
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.05))
        os.kill(pid, signal.SIGKILL)
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL
        # The kernel may have cut the last line short: what it tells had not begun, or not ended.
        lines = [line.split(" ", 1) for line in report.read_text().splitlines(True) if "\n" in line]
        changes = [(word, json.loads(line)) for word, line in lines]
        for word, change in changes:
            if word == "done":
                expected = changed(expected, change)
                stored[change["op"]] += 1
        opened = load(root, verify=True)
        found = contents(opened)
        if changes and changes[-1][0] == "begin":
            change = changes[-1][1]
            interrupted[change["op"]] += 1
            if found != expected:
                expected, survived = changed(expected, change), survived + 1
        assert found == expected
        assert opened.next_id > max(found, default=-1)
    assert sum(stored.values()) > 0
    assert sum(interrupted.values()) > kills / 2
    with capsys.disabled():
        print(
            f"\nindex: {kills} random kills, in the middle of {dict(sorted(interrupted.items()))}, "
            f"{survived} of these stored all the same; of {sum(stored.values())} reported changes "
            "none lost or torn"
        )


@pytest.mark.parametrize(
    "stride",
    [pytest.param(3, marks=pytest.mark.sample), pytest.param(1, marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("name", OPERATIONS)
def test_kill_between_each_two_system_calls(tmp_path, monkeypatch, capsys, name, stride):
    operation, root = OPERATIONS[name], tmp_path / "index"
    original = make_index(tmp_path / "original").path
    outcomes, number, status = [], 0, signal.SIGKILL
    index = load(shutil.copytree(original, tmp_path / "undisturbed"))
    old, before = contents(index), store_of(index).snapshot_number
    operation(index)
    new = contents(index)
    while status == signal.SIGKILL:
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(original, root)
        index = load(root)
        status = kill_before_call(monkeypatch, number, lambda: operation(index))  # noqa: B023
        opened = load(root, verify=True)
        outcomes.append(store_of(opened).snapshot_number)
        assert contents(opened) == {before: old, before + 1: new}[outcomes[-1]]
        if outcomes[-1] == before:
            operation(opened)
            assert contents(load(root, verify=True)) == new
        else:
            add(opened, [999])
            assert contents(load(root, verify=True)) == new | {999: 0}
        number += stride
    assert status == 0
    # There is one moment of commit: before it all is old, after it all is new.
    assert outcomes == sorted(outcomes)
    assert (outcomes[0], outcomes[-1]) == (before, before + 1)
    with capsys.disabled():
        print(f"\nindex: {name}: killed before {len(outcomes) - 1} of its system calls")
