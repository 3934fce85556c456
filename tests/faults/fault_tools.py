"""What the tests of faults share: forked children, refused calls, an index that shows harm."""

from __future__ import annotations

import gc
import os
import signal
import traceback
from pathlib import Path

import numpy as np
import torch

from hyperpq import HiHPQIndex
from hyperpq.codec.config import CodecConfig
from hyperpq.codec.feature_codec import FeatureCodec
from hyperpq.codec.hihpq import HiHPQCodec
from hyperpq.codec.pq import PQCodec
from hyperpq.codec.serialization import to_files
from hyperpq.store import IndexStore, Store, verify_directory
from hyperpq.store.lock import HOLDER_NAME

D, CODEWORDS, VECTORS = 8, 256, 997
_RNG = np.random.default_rng(11)
CODEC = PQCodec.from_codebooks(_RNG.normal(size=(4, CODEWORDS, D // 4)))
KEPT = FeatureCodec("int8", D)
# Features that are kept as they are.
X = KEPT.decode(KEPT.encode(_RNG.normal(size=(VECTORS, D))))
QUERIES = _RNG.normal(size=(5, D)).astype(np.float32)
CODES = CODEC.encode(X)
RELEARNED = PQCodec.from_codebooks(_RNG.normal(size=(4, CODEWORDS, D // 4)))
"""Another codec of the same sizes, with which every row has other codes."""
RELEARNED_CODES = RELEARNED.encode(X)
FEATURES = KEPT.encode(X)
KINDS = 3


def fork() -> int:
    """Fork a child that leaves the parent's garbage alone.

    To collect a network of an earlier test there would wait for threads that only the parent has.
    """
    gc.freeze()
    pid = os.fork()
    if pid:
        gc.unfreeze()
    return pid


def start_child(work) -> int:
    """Run ``work`` in a forked process; its id. A raised error is status 1."""
    pid = fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            os.write(2, f"child:\n{traceback.format_exc()}".encode())
        finally:
            os._exit(status)
    return pid


def in_child(work) -> int:
    """Run ``work`` in a forked process; its wait status."""
    return os.waitpid(start_child(work), 0)[1]


CALLS = (
    "open",
    "mkdir",
    "ftruncate",
    "pwrite",
    "fsync",
    "link",
    "replace",
    "rename",
    "unlink",
    "rmdir",
)


def intercept(monkeypatch, act, calls=CALLS) -> None:
    """Let ``act(name, arguments)`` run before each of these system calls that writes."""
    for name in calls:
        real = getattr(os, name)

        def call(*arguments, _name=name, _real=real, **options):
            reads = _name == "open" and not arguments[1] & (os.O_CREAT | os.O_RDWR | os.O_WRONLY)
            if not reads:
                act(_name, arguments)
            return _real(*arguments, **options)

        monkeypatch.setattr(os, name, call)


def kill_before_call(monkeypatch, number: int, work) -> int:
    """Run ``work`` in a child that is killed before its ``number``-th writing system call."""

    def child():
        left = [number]

        def act(*_):
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1

        intercept(monkeypatch, act)
        work()

    return in_child(child)


def failing(number: int, code: int, *, stays: bool):
    """An ``act`` for `intercept` that fails the ``number``-th call, or all from there on."""
    count = [0]

    def act(name, arguments):
        count[0] += 1
        if count[0] - 1 == number or (stays and count[0] > number):
            act.failed.append(name)
            act.holder |= str(arguments[0]).endswith(HOLDER_NAME)
            raise OSError(code, os.strerror(code))

    act.failed, act.holder = [], False
    return act


def damage(root: Path) -> list[str]:
    return [problem.file for problem in verify_directory(root) if problem.kind == "damage"]


def learned_codec() -> HiHPQCodec:
    """A `HiHPQCodec` with random weights, all parts of it in use."""
    codec = HiHPQCodec(CodecConfig(D, 2, D=4, hidden=3))
    with torch.no_grad():
        for parameter in codec.parameters():
            parameter.copy_(torch.from_numpy(_RNG.normal(size=parameter.shape) / 3))
        codec.quantizer.log_c.zero_()
        codec.keep_sample(codec.tangent(torch.from_numpy(X[:50])))
    codec.is_trained = True
    return codec.eval()


def vector_numbers(ids, versions):
    """Which of `X` a row is coded from: it follows from its id and how often that was updated."""
    return (np.asarray(ids, np.int64) * 7 + np.asarray(versions, np.int64) * 101) % VECTORS


def columns_of(ids, version: int) -> dict:
    ids = np.asarray(ids, np.int64)
    return {
        "version": np.full(len(ids), version),
        "half": ids / 2,
        "kind": [f"kind {i % KINDS}" for i in ids.tolist()],
        "when": (ids * 10**9).view("M8[ns]"),
    }


def new_index(codec=CODEC, features="none") -> HiHPQIndex:
    return HiHPQIndex.from_codec(codec, device="cpu", features=features)


def load(root: Path, *, verify: bool = False) -> HiHPQIndex:
    return HiHPQIndex.load(root, device="cpu", verify=verify)


def store_of(index: HiHPQIndex) -> Store:
    """The store beneath an index, which the index itself doesn't show."""
    return index.collection._store


def is_relearned(store: Store) -> bool:
    """Whether a store has the files of `RELEARNED`."""
    if not isinstance(store, IndexStore):
        return False
    return {name: store.read_file(name) for name in store.file_names} == to_files(RELEARNED)


def contents(index: HiHPQIndex) -> dict[int, int]:
    """Version of each live row by its id, after checking the whole row against both."""
    found: dict[int, int] = {}
    codes = RELEARNED_CODES if is_relearned(store_of(index)) else CODES
    for segment in store_of(index).segments:
        live = np.delete(np.arange(segment.n), segment.deleted_rows)
        ids, versions = segment.ids[live], segment.attribute("version")[live]
        numbers = vector_numbers(ids, versions)
        np.testing.assert_array_equal(segment.tiled.rows()[live], codes[numbers])
        if segment.features is not None:
            np.testing.assert_array_equal(segment.features[live], FEATURES[numbers])
        expected = columns_of(ids, 0)
        np.testing.assert_array_equal(segment.attribute("half")[live], expected["half"])
        np.testing.assert_array_equal(segment.attribute("when")[live], expected["when"])
        assert segment.attribute("kind")[live].strings() == expected["kind"]
        one = dict(zip(ids.tolist(), versions.tolist(), strict=True))
        assert not found.keys() & one.keys()
        found |= one
    assert len(found) == index.ntotal
    return found


def add(index: HiHPQIndex, ids, version: int = 0) -> None:
    index.add(X[vector_numbers(ids, version)], ids, attributes=columns_of(ids, version))


def update(index: HiHPQIndex, ids, version: int) -> None:
    index.update(X[vector_numbers(ids, version)], ids, attributes=columns_of(ids, version))
