"""A network on several devices, which here are the CPU twice, each in a process of its own."""

from __future__ import annotations

import errno
import gc
import os
import pickle
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from running import WAIT, record_started, run_before_serving, wait_for_the_end

from hyperpq.backbones import load_backbone, spread
from hyperpq.backbones.device_processes import DeviceProcesses, NetworkSettings
from hyperpq.backbones.efficientnet_lite import lite_hash
from hyperpq.backbones.onnx_writer import GraphWriter
from hyperpq.backbones.tuned import TunedWeights
from hyperpq.errors import BackboneError, InvalidInputError
from hyperpq.utils import devices, worker_process
from hyperpq.utils.worker_process import processes_possible

SIDE = 16
several = pytest.mark.skipif(not processes_possible(), reason="no processes here")


def images(n, side=SIDE):
    return np.random.default_rng(n).integers(1, 256, (n, side, side, 3), np.uint8)


def write_network(path, scale=1.0):
    """A network of three means, divided by their own mean, which a black image does not have."""
    graph = GraphWriter()
    means = graph.node("ReduceMean", graph.cast_to_float("pixels"), axes=[1, 2], keepdims=0)
    scaled = graph.node("Mul", means, graph.constant(np.full(3, scale)))
    whole = graph.node("ReduceMean", means, axes=[1], keepdims=1)
    path.write_bytes(graph.to_bytes("pixels", SIDE, graph.node("Div", scaled, whole), 3))
    return f"onnx:{path}"


@pytest.fixture(scope="module")
def name(tmp_path_factory):
    return write_network(tmp_path_factory.mktemp("network") / "means.onnx")


@pytest.fixture(scope="module")
def both(name):
    return load_backbone(name, device="cpu,cpu", threads=1)


@pytest.fixture(scope="module")
def one(name):
    return load_backbone(name, device="cpu", threads=1)


@pytest.fixture
def started(monkeypatch):
    """The processes that were started."""
    return record_started(monkeypatch)


@several
def test_it_is_the_network_of_one_device(both, one):
    assert both.identity() == one.identity()
    assert (both.name, both.base_hash, both.tuned) == (one.name, one.base_hash, None)
    assert (both.devices, both.device) == (("cpu", "cpu"), "cpu")
    assert (both.batch_size, both.batches_in_flight) == (one.batch_size, 3)
    with pytest.raises(BackboneError, match="cannot be fine-tuned"):
        both.trainable()


@several
@pytest.mark.parametrize("n", [0, 1, 33, 64, 333])
def test_features_are_those_of_one_device_in_order(both, one, n):
    x = images(n)
    np.testing.assert_array_equal(both(x), one(x))
    # More batches than all devices take at a time.
    np.testing.assert_array_equal(both.begin(x).features(), one(x))


@several
def test_devices_take_turns(name, monkeypatch):
    three, taken = load_backbone(name, device="cpu,cpu,cpu", threads=1), []
    send = worker_process.WorkerProcess.send

    def record(process, message):
        taken.append(process)
        send(process, message)

    monkeypatch.setattr(worker_process.WorkerProcess, "send", record)
    three(images(6 * 32))
    assert taken[:3] == taken[3:]
    assert len(set(taken)) == 3


@several
def test_pixels_may_change_at_once(both, one):
    x = images(64)
    want = one(x)
    begun = both.begin(x)
    x[:] = 1
    np.testing.assert_array_equal(begun.features(), want)


@several
def test_features_that_nobody_takes(both, one):
    """Their memory is used again."""
    for _ in range(20):
        both.begin(images(64))
    end = both._processes._blocks._end
    for _ in range(20):
        both.begin(images(64))
    assert both._processes._blocks._end == end
    np.testing.assert_array_equal(both(images(70)), one(images(70)))


@several
def test_an_interrupt_while_a_batch_is_sent(both, one, monkeypatch):
    send = worker_process.WorkerProcess.send

    def interrupted(process, message):
        send(process, message)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(worker_process.WorkerProcess, "send", interrupted)
        for _ in range(5):
            with pytest.raises(KeyboardInterrupt):
                both(images(3))
    np.testing.assert_array_equal(both(images(150)), one(images(150)))


@several
def test_threads_share_the_devices(both, one):
    with ThreadPoolExecutor(5) as pool:
        found = list(pool.map(lambda n: both(images(n)), range(100, 130)))
    for n, features in zip(range(100, 130), found, strict=True):
        np.testing.assert_array_equal(features, one(images(n)))


@several
def test_an_error_of_a_process_is_that_of_the_call(both, one):
    x = images(96)
    x[40] = 0
    with pytest.raises(BackboneError, match="not finite for 1 of 32 images"):
        both(x)
    np.testing.assert_array_equal(both(x[:40]), one(x[:40]))


@several
def test_an_error_does_not_keep_the_processes(name, started):
    both = load_backbone(name, device="cpu,cpu", threads=1)
    with pytest.raises(BackboneError, match="not finite"):
        both(images(1) * 0)
    del both
    assert [process.returncode for process in started] == [0, 0]


@several
def test_features_are_there_when_the_backbone_is_dropped(name, one, started):
    begun = load_backbone(name, device="cpu,cpu").begin(images(50))
    np.testing.assert_array_equal(begun.features(), one(images(50)))
    del begun
    assert [process.returncode for process in started] == [0, 0]


@several
@pytest.mark.parametrize("when", ["with a batch", "between batches"])
def test_a_process_that_is_killed_is_named(name, started, when):
    both = load_backbone(name, device="cpu,cpu", threads=1)
    x = images(64)
    both(x)
    begun = None
    if when == "with a batch":
        started[1].send_signal(signal.SIGSTOP)
        begun = both.begin(x)
    started[1].kill()
    message = r"device 'cpu' has ended \(signal 9\)"
    if begun is not None:
        with pytest.raises(BackboneError, match=message):
            begun.features()
    for _ in range(3):
        with pytest.raises(BackboneError, match=message):
            both(x)
    del both, begun
    assert [process.returncode for process in started] == [0, -9]


@several
def test_a_network_that_cannot_be_loaded(tmp_path, started):
    with pytest.raises(BackboneError) as one:
        load_backbone(f"onnx:{tmp_path}/none.onnx", device="cpu")
    with pytest.raises(BackboneError) as both:
        load_backbone(f"onnx:{tmp_path}/none.onnx", device="cpu,cpu")
    assert str(both.value) == str(one.value)
    # The others were not tried.
    assert [process.returncode for process in started] == [0]


@several
def test_a_device_that_cannot_load_it(name, started):
    with pytest.raises(InvalidInputError, match="device is 'tpu'"):
        DeviceProcesses(NetworkSettings(name, 1, "float32", None), ["cpu", "tpu", "cpu"])
    assert len(started) == 3
    assert None not in {process.returncode for process in started}


@several
def test_a_process_that_does_not_start(name, started, monkeypatch):
    monkeypatch.setattr(worker_process, "_PROGRAM", "raise SystemExit(3)")
    with pytest.raises(BackboneError, match=r"device 'cpu' has ended \(exit code 3\)"):
        load_backbone(name, device="cpu,cpu")
    assert [process.returncode for process in started] == [3]


@several
@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="needs /proc")
@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_where_the_system_starts_no_more_processes(name, monkeypatch):
    popen, started = subprocess.Popen, []

    def refuse_second(*args, **options):
        if started:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        started.append(popen(*args, **options))
        return started[-1]

    monkeypatch.setattr(worker_process.subprocess, "Popen", refuse_second)
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(BackboneError, match=r"on cpu,cpu.*\(Resource.*give one device"):
        load_backbone(name, device="cpu,cpu")
    assert [process.returncode for process in started] == [0]
    gc.collect()
    assert set(os.listdir("/proc/self/fd")) <= before


BROKEN = """
import hyperpq.backbones.device_worker as w

def fail(server, *rest):
    raise ZeroDivisionError("a mistake")

w._Server.{method} = fail
"""


@several
@pytest.mark.parametrize("method", ["_begin", "_answer"])
def test_a_process_ends_where_it_has_a_mistake(name, monkeypatch, method, capfd):
    """In each of its threads; otherwise this process would wait for it."""
    run_before_serving(monkeypatch, BROKEN.format(method=method))
    both = load_backbone(name, device="cpu,cpu")
    with pytest.raises(BackboneError, match=r"has ended \(exit code 1\)"):
        both(images(40))
    assert "ZeroDivisionError: a mistake" in capfd.readouterr().err


def test_where_processes_are_impossible(name, monkeypatch):
    monkeypatch.setattr(spread, "processes_possible", lambda: False)
    with pytest.raises(InvalidInputError, match=r"device is 'cpu,cpu'.*give one device"):
        load_backbone(name, device="cpu,cpu")


@several
def test_an_embedded_network_on_several_devices():
    """Tuned, as a pickle, and as the module that fine-tuning changes."""
    from hyperpq.backbones import efficientnet_lite as lite

    state = lite._state("lite0", lite._weights_path("lite0"))
    key = next(key for key in state if key.endswith("bias"))
    change = {key: np.full(state[key].shape, 0.5, np.float32)}
    tuned = TunedWeights("lite0", lite_hash("lite0"), change)
    both = load_backbone("lite0", device="cpu,cpu", threads=1, tuned=tuned)
    one = load_backbone("lite0", device="cpu", threads=1, tuned=tuned)
    x = images(40, 224)
    np.testing.assert_array_equal(both(x), one(x))
    assert both.identity() == one.identity()
    assert both.tuned == tuned
    assert both.base_hash == one.base_hash
    for process in both._processes._processes if os.path.isdir("/proc/self/fd") else ():
        # Of the memory that they share, they keep that of batches alone.
        folder = Path(f"/proc/{process._process._process.pid}/fd")
        links = [link for link in folder.iterdir() if "memfd:hyperpq" in os.readlink(link)]
        assert len({link.stat().st_ino for link in links}) == 1
    module, want = both.trainable().state_dict(), one.trainable().state_dict()
    assert module.keys() == want.keys()
    assert all((module[key] == want[key]).all() for key in want)
    again = pickle.loads(pickle.dumps(both))
    del both
    assert again.devices == ("cpu", "cpu")
    np.testing.assert_array_equal(again(x[:3]), one(x[:3]))
    one.check_matches(again.identity())


SCRIPT = f"""{WAIT}
import sys
import numpy as np
from hyperpq.backbones import load_backbone
from hyperpq.errors import BackboneError

def workers():
    return [process._process._process.pid for process in both._processes._processes]

name = sys.argv[1]
both = load_backbone(name, device="cpu,cpu", threads=1)
x = np.random.default_rng(0).integers(1, 256, (150, 16, 16, 3), np.uint8)
want = both(x)
"""


def run(code, name):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT + code, name], capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr[-3000:]


@several
def test_a_forked_child_has_processes_of_its_own(name):
    run(
        """
begun = both.begin(x)
child = os.fork()
if not child:
    try:
        begun.features()
    except BackboneError as error:
        assert "forked" in str(error), error
    else:
        raise SystemExit("features of the parent")
    before = workers()
    assert (both(x) == want).all()
    assert not set(before) & set(workers())
    sys.exit()
assert wait(child) == 0
assert (begun.features() == want).all()
assert (both(x) == want).all()
""",
        name,
    )


@several
def test_a_forked_child_finds_a_network_that_has_changed(tmp_path):
    name = write_network(tmp_path / "means.onnx")
    write_network(tmp_path / "other.onnx", scale=2.0)
    run(
        """
os.replace(name[5:].replace("means", "other"), name[5:])
child = os.fork()
if not child:
    for _ in range(2):
        try:
            both(x)
        except BackboneError as error:
            assert "has changed since it was loaded" in str(error), error
        else:
            raise SystemExit("another network")
    sys.exit()
assert wait(child) == 0
assert (both(x) == want).all()
""",
        name,
    )


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs /proc")
@pytest.mark.parametrize("end", ["killed", "done"])
def test_processes_end_with_their_owner(name, end):
    code = "both.begin(x)\nprint(*workers(), flush=True)\nsys.stdin.readline()"
    owner = subprocess.Popen(
        [sys.executable, "-c", SCRIPT + code, name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    pids = [int(pid) for pid in owner.stdout.readline().split()]
    assert len(pids) == 2
    # Ctrl-C is for the owner alone.
    assert all(os.getsid(pid) == pid for pid in pids)
    if end == "killed":
        owner.kill()
    assert owner.communicate()[1] == b""
    wait_for_the_end(*pids)


def test_what_a_list_of_devices_may_be(monkeypatch):
    assert devices.resolve_devices("cpu,auto") == ("cpu", devices.resolve_device("auto"))
    assert devices.first_device("cpu,cpu") == "cpu"
    assert devices.first_device("auto") == "auto"
    with pytest.raises(InvalidInputError, match="device is 'tpu'"):
        devices.resolve_devices("cpu,tpu")

    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert devices.resolve_devices("cuda:all") == ("cuda:0", "cuda:1", "cuda:2")
    assert devices.first_device("cuda:2,cuda:1") == "cuda:2"
