"""An `ImageIndex` in several processes: fork, spawn, joblib and pickles, with ONNX Runtime.

Each case is a process of its own, so that one that hangs is ended.
"""

from __future__ import annotations

import importlib.util
import os
import pickle
import subprocess
import sys

import pytest
from image_tools import build, fill
from running import WAIT

from hyperpq import ImageIndex
from hyperpq.backbones import load_backbone
from hyperpq.errors import BackboneError

HEAD = f"""{WAIT}
import sys
from hyperpq import ImageIndex

def answers(index):
    return index.query(paths, 5, workers=2)

def add(index, name):
    with open(paths[0], "rb") as file:
        return int(index.add(file, name, workers=1).ids[0])

place, paths = sys.argv[1], sys.argv[2:]
if __name__ == "__main__":
    index = ImageIndex.open(place, device="cpu")
"""


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """An index that the embedded network has made, its cache, and some of its images."""
    folder = tmp_path_factory.mktemp("processes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYPERPQ_CACHE", str(folder / "cache"))
        network = load_backbone("lite0", device="cpu")
        build([fill(folder / "p", 40)], folder / "index", network, bits=32)
        yield folder / "index", sorted((folder / "p").iterdir())[:5]


def run(code, stored, tmp_path):
    index, paths = stored
    script = tmp_path / "script.py"
    script.write_text(HEAD + code)
    command = [sys.executable, str(script), str(index), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr[-3000:]


fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@fork
@pytest.mark.parametrize("end", ["os._exit(0 if same else 1)", "sys.exit(0 if same else 1)"])
@pytest.mark.parametrize("queries", [True, False])
def test_a_forked_child_after_the_parent_has_queried(stored, tmp_path, end, queries):
    """The child makes a session of its own; closing that of the parent hung or crashed."""
    code = f"""
want = answers(index)
for _ in range(3):
    child = os.fork()
    if not child:
        same = answers(index) == want if {queries} else True
        {end}
    assert wait(child) == 0
assert answers(index) == want
"""
    run(code, stored, tmp_path)


@fork
def test_forks_while_threads_of_the_parent_query(stored, tmp_path):
    """Decoding threads, and what they hold of the budget, are not in the child."""
    code = """
import threading
want = answers(index)
stop = threading.Event()
def work():
    while not stop.is_set():
        assert answers(index) == want
threads = [threading.Thread(target=work) for _ in range(2)]
for thread in threads:
    thread.start()
for _ in range(4):
    time.sleep(0.03)
    child = os.fork()
    if not child:
        os._exit(0 if answers(index) == want else 1)
    assert wait(child) == 0
stop.set()
for thread in threads:
    thread.join()
"""
    run(code, stored, tmp_path)


@fork
def test_a_child_of_a_forked_child(stored, tmp_path):
    code = """
want = answers(index)
child = os.fork()
if not child:
    assert answers(index) == want
    own = os.fork()
    if not own:
        os._exit(0 if answers(index) == want else 1)
    sys.exit(wait(own))
assert wait(child) == 0
"""
    run(code, stored, tmp_path)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_of_multiprocessing(stored, tmp_path, method):
    code = f"""
import multiprocessing
if __name__ == "__main__":
    if {method!r} not in multiprocessing.get_all_start_methods():
        raise SystemExit(0)
    want = answers(index)
    from concurrent.futures import ProcessPoolExecutor
    context = multiprocessing.get_context({method!r})
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        assert list(pool.map(answers, [index] * 3, timeout=200)) == [want] * 3
        ids = list(pool.map(add, [index] * 3, ["a", "b", "c"], timeout=200))
    assert index.refresh()
    assert set(ids) <= set(index.index.ids.tolist())
    assert {{"a", "b", "c"}} <= set(index.paths())
    assert index.remove(ids=ids) == 3
    assert answers(index) == want
"""
    run(code, stored, tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("joblib") is None, reason="needs joblib")
def test_workers_of_joblib(stored, tmp_path):
    code = """
import joblib
if __name__ == "__main__":
    want = answers(index)
    jobs = [joblib.delayed(index.query)(paths, 5, workers=1) for _ in range(3)]
    assert joblib.Parallel(2, timeout=200)(jobs) == [want] * 3
"""
    run(code, stored, tmp_path)


def test_an_index_can_be_pickled_after_a_query(stored):
    place, paths = stored
    index = ImageIndex.open(place, device="cpu")
    first = pickle.dumps(index)
    want = index.query(paths, 5)
    data = pickle.dumps(index)
    assert len(data) < 10_000
    assert abs(len(data) - len(first)) < 100
    assert pickle.loads(data).query(paths, 5) == want


def test_a_given_network_travels_with_the_index(stored):
    """By its name, as the network of another name or of a file that has moved."""
    place, paths = stored
    network = load_backbone("lite0", device="cpu", threads=1)
    index = ImageIndex.open(place, device="cpu", backbone=network)
    copy = pickle.loads(pickle.dumps(index))
    assert copy._backbone.identity() == network.identity()
    assert copy.query(paths, 5) == index.query(paths, 5)


def test_a_pickled_network_is_checked_where_it_is_read(monkeypatch):
    network = load_backbone("lite0", device="cpu")
    data = pickle.dumps(network)
    assert len(data) < 2_000
    assert pickle.loads(data).identity() == network.identity()
    data = data.replace(network.weights_hash.encode(), b"0" * 32)
    with pytest.raises(BackboneError, match="has the weights"):
        pickle.loads(data)


@fork
def test_a_file_that_changed_is_not_opened_again(tmp_path):
    onnx = pytest.importorskip("onnx")
    h = onnx.helper
    graph = h.make_graph(
        [h.make_node("GlobalAveragePool", ["x"], ["y"])],
        "mean",
        [h.make_tensor_value_info("x", 1, ["n", 3, 32, 32])],
        [h.make_tensor_value_info("y", 1, None)],
    )
    path = tmp_path / "m.onnx"
    onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 13)], ir_version=7), path)
    network = load_backbone(f"onnx:{path}", device="cpu")
    with path.open("ab") as file:
        file.write(b"\x12\x00")
    network._session._abandon()  # what a fork does
    import numpy as np

    with pytest.raises(BackboneError, match="has changed since"):
        network(np.zeros((1, 32, 32, 3), np.uint8))
