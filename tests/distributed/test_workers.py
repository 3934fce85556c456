"""Builds by workers of Ray: the same bytes as without, whatever ends meanwhile."""

from __future__ import annotations

import os
import sys
import tarfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from hyperpq.backbones import load_backbone
from hyperpq.datasets.drawn import draw_dataset
from hyperpq.distributed import RayWorkers, workers
from hyperpq.distributed.cluster import Cluster, Share, divide_machines
from hyperpq.distributed.pool import MAX_TRIES, Pool
from hyperpq.errors import BackboneError, ClusterError, InvalidInputError
from hyperpq.images.build import PathList, build_index
from hyperpq.images.extract import ReadOptions, extract_features

ray = pytest.importorskip("ray")
# Processes of the cluster cannot import this module.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    draw_dataset(folder, 300, size=48)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    return folder


@pytest.fixture(scope="module")
def plain(images, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("plain") / "index"
    build_index(images, path, epochs=1, train_size=200, view_size=32, n_views=1)
    return path


def content(index: Path) -> dict[str, bytes]:
    return {
        os.fspath(file.relative_to(index)): file.read_bytes()
        for file in index.rglob("*")
        if file.is_file()
    }


class Told:
    """A phase that does something once a number of images is encoded."""

    def __init__(self, phase, after, what):
        self.phase, self.after, self.what = phase, after, what

    def advance(self, n):
        self.phase.advance(n)
        self.after -= n
        if self.after <= 0 and self.what:
            self.what()
            self.what = None


class Disturbed(RayWorkers):
    """Workers to which something happens while all images are encoded."""

    after, what = 100, None

    def stream_groups(self, groups, backbone, options, phase=None):
        if options.n_views == 0 and options.hashes:
            phase = Told(phase, self.after, self.what)
            self.what = None
        yield from super().stream_groups(groups, backbone, options, phase)


@contextmanager
def disturbed(what):
    with Disturbed("auto", count=2, device="cpu") as found:
        found.what = lambda: what(found)
        yield found


def build(images, path, workers):
    return build_index(
        images, path, epochs=1, train_size=200, view_size=32, n_views=1, workers=workers
    )


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(workers, "PART_SIZE", 32)


def test_the_index_has_the_same_bytes(cluster, images, plain, tmp_path, small_parts):
    with RayWorkers("auto", count=2, device="cpu") as found:
        _, report = build(images, tmp_path / "index", found)
    assert content(tmp_path / "index") == content(plain)
    assert [Path(os.fsdecode(path)).name for path in report.skipped] == ["broken.jpg"]


def test_a_list_of_images_and_of_tar_shards(cluster, images, tmp_path, small_parts):
    files = sorted(images.rglob("*.jpg"))
    with tarfile.open(tmp_path / "shard.tar", "w") as shard:
        for file in files[:80]:
            shard.add(file, f"{file.parent.name}/{file.name}")
    listed = [tmp_path / "shard.tar", *files[80:]]
    (tmp_path / "list").write_bytes(b"\n".join(os.fsencode(path) for path in listed))
    with RayWorkers("auto", count=2, device="cpu") as found:
        built = [
            build(PathList(tmp_path / "list"), tmp_path / name, workers)
            for name, workers in (("plain", 2), ("ray", found))
        ]
    assert content(tmp_path / "ray") == content(tmp_path / "plain")
    assert [len(index) for index, _ in built] == [len(files) - 1] * 2  # but for the broken one


def test_a_machine_that_is_lost_and_another_that_joins(
    cluster, images, plain, tmp_path, small_parts
):
    def lose(found):
        [node] = cluster.worker_nodes
        cluster.remove_node(node, allow_graceful=False)

    with disturbed(lose) as found:
        build(images, tmp_path / "index", found)
        assert content(tmp_path / "index") == content(plain)
        assert len(found._pool._running) == 1
        cluster.add_node(num_cpus=1)
        ray.wait([*found._pool._starting], timeout=120)
        files = [os.fsencode(file) for file in sorted(images.rglob("*.jpg"))]
        features = extract_features(files, load_backbone(device="cpu"), ReadOptions(found))
        assert len(features.rows) == len(files) - 1
        assert len(found._pool._running) == 2


def test_updates(cluster, images, tmp_path, small_parts):
    path = tmp_path / "index"
    folder = tmp_path / "images"
    draw_dataset(folder, 72, size=48)
    build_index(folder, path, epochs=1, view_size=32, n_views=1)
    draw_dataset(folder / "more", 72, size=64)
    with RayWorkers("auto", count=1, device="cpu") as found:
        index, report = build_index(folder, path, workers=found)
    assert (report.added, len(index)) == (72, 144)
    name = next((folder / "more").rglob("*.jpg"))
    [answer] = index.query(name, k=1)
    assert answer.results[0].path == os.fsencode(name) or answer.results[0].similarity == 100


def test_what_workers_refuse(cluster, images):
    with pytest.raises(InvalidInputError, match="count is 0"):
        RayWorkers("auto", count=0)
    with pytest.raises(InvalidInputError, match="address is 'ray://head:10001'"):
        RayWorkers("ray://head:10001")
    with pytest.raises(InvalidInputError, match="device is 'cuda:1'"):
        RayWorkers("auto", device="cuda:1")
    with pytest.raises(ClusterError, match="99 workers were asked for"):
        RayWorkers("auto", count=99, device="cpu")
    with pytest.raises(ClusterError, match="a GPU for each of them"):
        RayWorkers("auto", device="cuda")
    network = load_backbone(device="cpu")
    network.reload = None
    with (
        RayWorkers("auto", count=1, device="cpu") as found,
        pytest.raises(BackboneError, match="is an object of this process"),
    ):
        extract_features([b"a.png"], network, ReadOptions(found))


@pytest.mark.parametrize(
    ("machines", "count", "on_gpus", "expected"),
    [
        ([(1, 0), (1, 0)], None, False, (1, 1)),
        ([(1, 0), (1, 0)], 1, False, (1, 1)),
        ([(1, 0), (1, 0)], 2, False, (2, 1)),
        ([(16, 0), (7, 0)], None, False, (11, 2)),
        ([(16, 0), (7, 0)], 2, False, (2, 8)),
        ([(16, 0), (7, 0)], 3, False, (3, 7)),
        ([(8, 0), (32, 4)], None, True, (4, 8)),
        ([(2, 4), (32, 2)], None, True, (4, 1)),
        ([(8, 0), (32, 4)], 1, True, (1, 32)),
    ],
)
def test_cores_are_divided(machines, count, on_gpus, expected):
    machines = [Share(*machine) for machine in machines]
    number, share = divide_machines(machines, count, on_gpus)
    assert (number, share) == (expected[0], Share(expected[1], int(on_gpus)))


class Odd:
    """What calls of the tests of a pool do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def half(self, number: int) -> float:
        if number % 2:
            raise InvalidInputError(f"number is {number}; expected an even one.")
        return number / 2

    def end(self, number: int) -> int:
        (self.folder / f"{number}-{os.getpid()}").touch()
        if number == 3:
            os._exit(1)
        return number

    def once(self, number: int) -> int:
        mark = self.folder / f"once-{number}"
        if not mark.exists():
            mark.touch()
            os._exit(1)
        return number


def test_calls_are_in_order_and_tell_their_errors(cluster, tmp_path):
    pool = Pool(Cluster("auto"), Odd, (tmp_path,), 2, Share(1))
    given = [(f"{n}", (n,)) for n in range(0, 40, 2)]
    assert [*pool.in_order("half", given)] == [(f"{n}", n / 2) for n in range(0, 40, 2)]
    with pytest.raises(InvalidInputError, match="number is 7; expected an even one"):
        [*pool.in_order("half", [("", (6,)), ("", (7,))])]
    # Every process ends once, and all calls are done.
    assert [n for n, _ in pool.in_order("once", [(n, (n,)) for n in range(4)])] == [0, 1, 2, 3]
    with pytest.raises(ClusterError, match=f"has ended {MAX_TRIES} workers"):
        [*pool.in_order("end", [(n, (n,)) for n in range(6)])]
    assert len([*tmp_path.glob("3-*")]) == MAX_TRIES
    pool.close()


def test_no_more_calls_are_begun_than_are_taken(cluster, tmp_path):
    begun = []

    def calls():
        for n in range(0, 1000, 2):
            begun.append(n)
            yield n, (n,)

    pool = Pool(Cluster("auto"), Odd, (tmp_path,), 2, Share(1))
    results = pool.in_order("half", calls())
    for taken in range(1, 50):
        next(results)
        assert taken <= len(begun) <= taken + 8
    pool.close()


def test_images_that_only_this_machine_finds(cluster, tmp_path, monkeypatch):
    """The worker's machine has another file system: simulated by a name that it cannot read."""
    draw_dataset(tmp_path / "a", 72, size=48)
    image = next((tmp_path / "a").rglob("*.jpg"))

    missing = os.fsencode(tmp_path / "elsewhere.jpg")

    class Elsewhere(workers._Encoder):
        def encode(self, sources, options):
            return super().encode([missing], options)

    monkeypatch.setattr(workers, "_Encoder", Elsewhere)
    with (
        RayWorkers("auto", count=1, device="cpu") as found,
        pytest.raises(ClusterError, match=r"a worker cannot read .* under the same paths"),
    ):
        extract_features([os.fsencode(image)], load_backbone(device="cpu"), ReadOptions(found))
