"""A power cut at any moment: what was reported as stored is there, and nothing else is shown.

`power_cut` says what is assumed of the file system.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import shutil
import subprocess
import sys
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from fault_tools import CODEC, CODEWORDS, D, add, contents, load, new_index, store_of, update
from index_operations import OPERATIONS, make_index, relearn
from power_cut import Event, FileSystem, Killed, Recorder, State, materialise

from hyperpq import HiHPQIndex
from hyperpq.codec.pq import PQCodec
from hyperpq.errors import HyperPQError, IndexNotFoundError
from hyperpq.store import lock, verify, verify_directory

MAX_CHOICES = 1 << 14


class Seen(NamedTuple):
    """What a reader sees of an index."""

    versions: dict[int, int]
    next_id: int
    metadata: dict
    codec: bytes


def see(path: Path) -> Seen | None:
    """All of an index, after checking every byte and every row of it; None if there is none."""
    try:
        index = load(path, verify=True)
    except IndexNotFoundError:
        return None
    found = Seen(contents(index), index.next_id, dict(index.metadata), codec_of(index))
    assert found.next_id > max(found.versions, default=-1)
    return found


def codec_of(index: HiHPQIndex) -> bytes:
    store = store_of(index)
    return b"".join(store.read_file(name) for name in store.file_names)


# The same codes, in other files of the same names.
OTHER_CODEC = PQCodec.from_codebooks(
    np.random.default_rng(11).normal(size=(CODEC.M, CODEWORDS, D // CODEC.M)), metric="ip"
)


def save_another(path: Path, *, overwrite: bool = True) -> None:
    """An index of two segments, one of them with deleted rows, and with another codec."""
    index = new_index(OTHER_CODEC)
    add(index, range(200, 209), 3)
    add(index, range(300, 340), 1)
    index.remove_ids([205, 310])
    index.metadata = {"other": True}
    index.save(path, overwrite=overwrite)


def save_inside(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path)
    try:
        save_another(Path("."))
    finally:
        os.chdir(here)


def on_index(operation: Callable[[HiHPQIndex], None]) -> Callable[[Path], None]:
    return lambda path: operation(load(path))


def set_metadata(index: HiHPQIndex) -> None:
    index.metadata = {"note": "new"}


def write_report(index: HiHPQIndex) -> None:
    index.collection.write_report("skipped.csv", b"path,reason\n")


CHANGES: dict[str, Callable[[Path], None]] = {
    **{name: on_index(operation) for name, operation in OPERATIONS.items()},
    "metadata": on_index(set_metadata),
    "report": on_index(write_report),
    "save with overwrite": save_another,
    "save with overwrite inside": save_inside,
    "save": lambda path: save_another(path.with_name("new"), overwrite=False),
}
"""What is done to an index at a path, as one change."""


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    """A folder with an index, not to be changed."""
    root = tmp_path_factory.mktemp("original")
    make_index(root / "index")
    return root


@pytest.fixture(autouse=True)
def checks_are_fast(monkeypatch):
    """HDF5 parses a file once for each content."""
    known: dict[tuple[bytes, str], str | None] = {}
    real = verify.structure_problem

    def structure_problem(file, columns):
        data = file.read_bytes() if isinstance(file, Path) else file.getvalue()
        key = data, repr(sorted(columns.items()))
        if key not in known:
            known[key] = real(file, columns)
        return known[key]

    monkeypatch.setattr(verify, "structure_problem", structure_problem)


def is_aside(path: object) -> bool:
    return str(path).endswith(".tmp")


class Cuts:
    """Cuts the power after every event of a record, and looks at what may be left.

    Attributes
    ----------
    counts : Counter
        ``events``, ``moments`` of a cut, ``orders`` of what had not been synced, and different
        ``states`` that were looked at.
    harm : list of str
        What was found.
    is_exhaustive : bool
        Whether all orders were tried.
    """

    def __init__(self, folder: Path, seed: int = 0, limit: int = MAX_CHOICES) -> None:
        self.counts: Counter[str] = Counter()
        self.harm: list[str] = []
        self.is_exhaustive = True
        self._folder, self._limit, self._rng = folder, limit, random.Random(seed)
        self._number = itertools.count()

    def cut(
        self,
        system: FileSystem,
        events: list[Event],
        look: Callable[[Path], object],
        allowed: Callable[[int], list],
        moments: Container[int] | None = None,
    ) -> Iterator[State]:
        """Look at each state that a cut may leave, and yield those that do no harm, each once.

        Parameters
        ----------
        system : FileSystem
            The folder as it was.
        events : list of Event
            The record.
        look : callable
            What is in a folder.
        allowed : callable
            What may be in it after so many events.
        moments : container of int, optional
            Numbers of events after which the power is cut; all by default.
        """
        seen: dict[object, object] = {}
        self.counts["events"] += len(events)
        for moment in range(len(events) + 1):
            if moment:
                system.apply(events[moment - 1])
            if moments is not None and moment not in moments:
                continue
            self.counts["moments"] += 1
            states, is_all, tried = system.states(self._limit, self._rng)
            self.is_exhaustive &= is_all
            self.counts["orders"] += tried
            for state in states:
                key = essential(state)
                is_new = key not in seen
                if is_new:
                    self.counts["states"] += 1
                    with self.materialised(state) as root:
                        seen[key] = attempted(look, root)
                if seen[key] not in allowed(moment):
                    self.harm.append(f"after event {moment} of {len(events)}: {seen[key]}")
                elif is_new:
                    yield state

    @contextmanager
    def materialised(self, state: State) -> Iterator[Path]:
        root = self._folder / f"state{next(self._number)}"
        materialise(state, root)
        try:
            yield root
        finally:
            shutil.rmtree(root)


def essential(state: State) -> object:
    """A state without the content of what is written aside: it is not read."""
    is_read = {path: data is None or not is_aside(path) for path, data in state.items()}
    return tuple(sorted((p, data if is_read[p] else b"") for p, data in state.items()))


def attempted(look: Callable[[Path], object], root: Path) -> object:
    def read(path, *arguments, **options):
        assert not is_aside(path), path
        return real(path, *arguments, **options)

    real = os.open
    os.open = read
    try:
        return look(root)
    except (HyperPQError, AssertionError) as error:
        return f"{type(error).__name__}: {error}".replace(str(root), "")
    finally:
        os.open = real


def place_of(name: str, root: Path) -> Path:
    return root / ("new" if name == "save" else "index")


def cut_change(name: str, original: Path, folder: Path, cuts: Cuts) -> Iterator[State]:
    """Cut the power at every moment of one of `CHANGES`; the states that may be left."""
    root = folder / "record"
    shutil.copytree(original, root)
    old, system, recorder = see(place_of(name, root)), FileSystem(root), Recorder(root)
    with recorder.recording():
        CHANGES[name](root / "index")
    new, done = see(place_of(name, root)), len(recorder.events)
    assert system.present() == files_of(original)
    yield from cuts.cut(
        system,
        recorder.events,
        lambda state: see(place_of(name, state)),
        lambda moment: [new] if moment == done else [old, new],
    )
    assert system.present() == files_of(root)


def files_of(root: Path) -> State:
    return {
        str(path.relative_to(root)): None if path.is_dir() else path.read_bytes()
        for path in root.rglob("*")
    }


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name == "relearn" else name
        for name in CHANGES
        if not name.startswith("save")
    ],
)
def test_what_was_stored_survives_a_power_cut(original, tmp_path, tally, name):
    """Every moment and every order of one change; the next change finds nothing in its way."""
    cuts = Cuts(tmp_path)
    cut_and_go_on(name, original, tmp_path, cuts, 0.05)
    assert cuts.harm == []
    assert cuts.is_exhaustive
    tally.update(cuts.counts)


@pytest.mark.parametrize("limit", [8, pytest.param(60, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "name", ["relearn", *(name for name in CHANGES if name.startswith("save"))]
)
def test_a_saved_index_survives_a_power_cut(original, tmp_path, tally, name, limit):
    """Every moment, and some of the orders: the removal of an index or a codec is many calls."""
    cuts = Cuts(tmp_path, limit=limit)
    cut_and_go_on(name, original, tmp_path, cuts, 0.1)
    assert cuts.harm == []
    tally.update(cuts.counts)


def cut_and_go_on(name: str, original: Path, folder: Path, cuts: Cuts, share: float) -> None:
    rng = random.Random(1)
    for state in cut_change(name, original, folder, cuts):
        if rng.random() < share:
            with cuts.materialised(state) as root:
                go_on(place_of(name, root))
            cuts.counts["continued"] += 1


def go_on(path: Path) -> None:
    """Change an index after a power cut: the change is stored, and all garbage is gone."""
    before = see(path)
    if before is None:
        save_another(path, overwrite=False)
    else:
        add(load(path), [999])
        assert see(path).versions == before.versions | {999: 0}
    assert verify_directory(path) == []


def is_folder(event: Event) -> bool:
    return not Path(event[2]).suffix


SYNCED = {
    "a file": lambda event: not is_folder(event),
    "a folder": is_folder,
    "the manifest": lambda event: event[2].endswith(".manifest.json.tmp"),
    "the folder of shards": lambda event: event[2].endswith("shards"),
    "the folder above": lambda event: event[2] in ("", "index"),
}


@pytest.mark.parametrize("what", SYNCED)
@pytest.mark.parametrize("name", ["commit", "relearn", "save with overwrite"])
def test_a_store_that_does_not_sync_is_found_out(original, tmp_path, name, what):
    """The same record without some of its fsyncs."""
    root = tmp_path / "record"
    shutil.copytree(original, root)
    old, system, recorder = see(root / "index"), FileSystem(root), Recorder(root)
    with recorder.recording():
        CHANGES[name](root / "index")
    new = see(root / "index")
    events = [event for event in recorder.events if event[0] != "fsync" or not SYNCED[what](event)]
    assert len(events) < len(recorder.events)
    cuts, done = Cuts(tmp_path, limit=8), len(events)
    for _ in cuts.cut(
        system,
        events,
        lambda state: see(state / "index"),
        lambda moment: [new] if moment == done else [old, new],
    ):
        if cuts.harm:
            break
    assert cuts.harm


def history(rng: random.Random, count: int) -> Iterator[tuple[str, Callable[[Path], None]]]:
    """Changes of an index, one after another, whatever it holds."""

    def new_ids(index):
        return range(index.next_id, index.next_id + rng.choice((1, 3, 20)))

    def some_ids(index):
        return rng.sample(index.ids.tolist(), min(index.ntotal, rng.choice((1, 2, 9))))

    changes = {
        "add": lambda index: add(index, new_ids(index)),
        "remove": lambda index: index.remove_ids(some_ids(index)),
        "update": lambda index: update(index, some_ids(index), rng.randrange(100)),
        "compact": lambda index: index.compact(),
        "metadata": set_metadata,
        "relearn": relearn,
    }
    for _ in range(count):
        name = rng.choice(list(changes))
        yield name, on_index(changes[name])


@pytest.mark.parametrize(("count", "limit"), [(8, 6), pytest.param(30, 12, marks=pytest.mark.slow)])
def test_a_history_of_changes_survives_a_power_cut(original, tmp_path, tally, count, limit):
    """What one change leaves without a sync is still without it in the next ones."""
    root = tmp_path / "record"
    shutil.copytree(original, root)
    system, recorder = FileSystem(root), Recorder(root)
    stored, ends = [see(root / "index")], [0]
    for name, change in history(random.Random(count), count):
        with recorder.recording():
            change(root / "index")
        recorder.mark(name)
        stored.append(see(root / "index"))
        ends.append(len(recorder.events))
    cuts = Cuts(tmp_path, limit=limit)

    def allowed(moment: int) -> list:
        last = bisect_right(ends, moment) - 1
        # The state of an end is stored once its change has returned.
        return stored[last : last + 1 + (moment not in ends)]

    for _ in cuts.cut(system, recorder.events, lambda state: see(state / "index"), allowed):
        pass
    assert cuts.harm == []
    tally.update(cuts.counts)


@pytest.mark.parametrize("stride", [19, pytest.param(5, marks=pytest.mark.slow)])
@pytest.mark.parametrize("second", ["add that joins segments", "save with overwrite inside"])
@pytest.mark.parametrize(
    "first", ["commit", "relearn", "save with overwrite", "save with overwrite inside"]
)
def test_a_power_cut_after_a_kill(original, tmp_path, tally, first, second, stride):
    """A killed change is not synced; the next one builds on what it sees of it."""
    cuts, killed, number = Cuts(tmp_path, limit=8), True, 0
    while killed:
        root = tmp_path / "record"
        shutil.copytree(original, root)
        old, system, recorder = see(root / "index"), FileSystem(root), Recorder(root)
        try:
            with recorder.recording(kill_at=number):
                CHANGES[first](root / "index")
            killed = False
        except Killed:
            lock._close_inherited()  # as the system does for a killed process
        middle, begun = see(root / "index"), len(recorder.events)
        # Nobody can work in a folder that a killed replacement has moved aside.
        change = CHANGES[second] if (root / "index").is_dir() else save_another
        with recorder.recording():
            change(root / "index")
        new, done = see(root / "index"), len(recorder.events)
        for _ in cuts.cut(
            system,
            recorder.events,
            lambda state: see(state / "index"),
            lambda moment: [new] if moment == done else [old, middle, new],  # noqa: B023
            range(begun, done + 1, 1 + stride),
        ):
            pass
        shutil.rmtree(root)
        number += stride
    assert cuts.harm == []
    tally.update(cuts.counts)


def run_and_print(root: str) -> None:
    """All changes, each of an index of its own, and the record of them; run under strace."""
    path = Path(root)
    recorder = Recorder(path)
    with recorder.recording():
        for number, change in enumerate([*CHANGES.values(), recover]):
            (path / f"{number}").mkdir()
            make_index(path / f"{number}/index")
            change(path / f"{number}/index")
    print(json.dumps(recorder.calls))


def recover(path: Path) -> None:
    """A replacement that was interrupted between its renames is undone."""
    os.rename(path, path.with_name("index.old-hyperpq"))
    add(load(path), [777])


TRACED = (
    "open,openat,openat2,creat,write,pwrite64,writev,pwritev,pwritev2,ftruncate,truncate,fallocate,"
    "rename,renameat,renameat2,link,linkat,symlink,symlinkat,unlink,unlinkat,mkdir,mkdirat,rmdir,"
    "fsync,fdatasync,sync_file_range,sendfile,copy_file_range,splice,mmap,mknod,mknodat,"
    "io_uring_setup"
)


def traced(root: Path, trace: Path, *command: str) -> tuple[list[str], str]:
    """What the system saw a Python process change below a folder, and its last line of output."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    options = ["-f", "-y", "-qq", "-s", "0", "-e", f"trace={TRACED}", "-o", str(trace)]
    done = subprocess.run(
        ["strace", *options, sys.executable, *command],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    )
    if "ptrace" in done.stderr.lower():
        pytest.skip("the system lets no process be traced")
    assert done.returncode == 0, done.stderr
    return traced_calls(trace.read_text(), str(root)), done.stdout.splitlines()[-1]


def test_no_system_call_escapes_the_recorder(tmp_path):
    """The record against what the system saw of the same process."""
    root = tmp_path / "root"
    root.mkdir()
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        f"import test_power_cut; test_power_cut.run_and_print({str(root)!r})"
    )
    found, answer = traced(root, tmp_path / "trace", "-c", code)
    assert len(found) > 500
    assert found == json.loads(answer)


@pytest.mark.slow
def test_no_system_call_of_a_build_escapes_the_recorder(tmp_path, images):
    command = cut_build(tmp_path, images, "new", moments=0, limit=1, resumed=0)
    found, answer = traced(tmp_path / "record", tmp_path / "trace", *command)
    assert len(found) > 300
    assert found == ["mkdir ", *json.loads(answer)["calls"]]


def traced_calls(text: str, root: str) -> list[str]:
    """The calls of a trace below a folder that change something, as a `Recorder` names them."""
    there: set[str] = set()
    found = []
    for line in whole_calls(text):
        match = re.match(r"\d+ +(\w+)\((.*)\) += +(-?\d+)", line)
        if match is None or root not in line or match[3].startswith("-"):
            continue
        call, arguments, result = match[1], match[2], match[3]
        paths = [below(path, root) for path in paths_of(arguments, root)]
        if call in ("open", "openat"):
            if "O_CREAT" in arguments and paths[0] not in there:
                there.add(paths[0])
                found.append(f"create {paths[0]}")
            assert "O_TRUNC" not in arguments, line
        elif call in ("mkdir", "mkdirat"):
            there.add(paths[0])
            found.append(f"mkdir {paths[0]}")
        elif call in ("write", "pwrite64"):
            offset = arguments.rpartition(", ")[2] if call == "pwrite64" else "0"
            found.append(f"write {paths[0]} {offset} {result}")
        elif call == "ftruncate":
            found.append(f"truncate {paths[0]} {arguments.rpartition(', ')[2]}")
        elif call == "fsync":
            found.append(f"fsync {paths[0]}")
        elif call in ("rename", "renameat", "renameat2"):
            there = {renamed(path, paths[0], paths[1]) for path in there}
            found.append(f"rename {paths[0]} {paths[1]}")
        elif call in ("link", "linkat"):
            there.add(paths[1])
            found.append(f"link {paths[1]}")
        elif call in ("unlink", "unlinkat", "rmdir"):
            there.discard(paths[0])
            found.append(f"{'rmdir' if 'REMOVEDIR' in line else call[:6]} {paths[0]}")
        else:
            # A map may be read, and nothing else writes.
            assert call == "mmap", line
            assert "PROT_WRITE" not in arguments or "MAP_PRIVATE" in arguments, line
    return found


def whole_calls(text: str) -> Iterator[str]:
    """Lines of a trace; a call during which another thread made one is on two of them."""
    begun: dict[str, str] = {}
    for line in text.splitlines():
        process = line.partition(" ")[0]
        if line.endswith(" <unfinished ...>"):
            begun[process] = line.removesuffix(" <unfinished ...>")
        elif match := re.match(r"\d+ +<\.\.\. \w+ resumed>(.*)", line):
            yield begun.pop(process) + match[1]
        else:
            yield line


def paths_of(arguments: str, root: str) -> list[str]:
    """Paths among the arguments of a call, relative ones joined with the folder before them."""
    out, folder = [], ""
    for handle, text in re.findall(r'(?:\d+|AT_FDCWD)<([^>]*)>|"([^"]*)"', arguments):
        if handle:
            folder = handle
            out.append(handle)
        elif text:
            if out and out[-1] == folder:
                out.pop()
            out.append(os.path.normpath(os.path.join(folder, text)))
    return [path for path in out if path.startswith(root)]


def below(path: str, root: str) -> str:
    return path.removesuffix(" (deleted)").removeprefix(root).lstrip("/")


def renamed(path: str, old: str, new: str) -> str:
    return new + path[len(old) :] if (path + "/").startswith(old + "/") else path


@pytest.fixture
def images(drawn, tmp_path) -> Path:
    """24 images and three bad files."""
    folder = tmp_path / "images"
    folder.mkdir()
    good = [path for path in sorted(drawn.rglob("*")) if path.suffix in (".png", ".jpg")][::3]
    for i, path in enumerate(good):
        shutil.copyfile(path, folder / f"{i:02}{path.suffix}")
    for i in (3, 9, 20):
        (folder / f"{i:02}-bad.jpg").write_bytes(b"no image")
    return folder


def cut_build(folder: Path, images: Path, kind: str, **numbers: int) -> list[str]:
    """Arguments of Python for a build that is cut."""
    script = Path(__file__).with_name("cut_builds.py")
    return [str(script), str(folder), str(images), kind, *map(str, numbers.values())]


SOME = {"moments": 40, "limit": 4, "resumed": 2}
MANY = {"moments": 1000, "limit": 8, "resumed": 60}


@pytest.mark.parametrize(
    ("kind", "numbers"),
    [
        ("new", SOME),
        ("update", SOME),
        *(
            pytest.param(kind, MANY, marks=pytest.mark.slow)
            for kind in ("new", "restart", "overwrite", "update")
        ),
    ],
)
def test_a_build_survives_a_power_cut(tmp_path, images, tally, kind, numbers):
    """No index or a whole one; a resumed build ends with the bytes of an undisturbed one."""
    command = cut_build(tmp_path, images, kind, **numbers)
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["harm"] == []
    tally.update(answer["counts"])
