"""What a power cut may leave: a recorder of system calls, and a file system that forgets.

`Recorder` notes every call of Python's that changes something below a folder. `FileSystem` replays
the record and says, for the moment after any call, which states of the folder a power cut at that
moment may leave. The file system that is assumed keeps less than POSIX systems in use do:

- ``fsync`` of a file makes its content and its length durable, but not its name.
- ``fsync`` of a folder makes the names in it durable: what was made, linked, renamed and removed.
- Of the changes of names that are not durable yet, any may have happened, in any folder, whatever
  their order was. A rename alone is whole: it removes the old name and sets the new one, or does
  neither. It becomes durable by an ``fsync`` of the folder of its new name.
- A file that was changed since its last ``fsync`` may have the content of then or its present one;
  its present length with zeros for all that was written since, for the second half of it, or for
  one of the writes; or half of its present length.
- Without ``fsync`` nothing ever becomes durable.
"""

from __future__ import annotations

import builtins
import io
import itertools
import os
import random
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Event = tuple[Any, ...]
"""A name and what it is about: inode numbers, names, offsets and bytes; see `FileSystem.apply`."""
State = dict[str, bytes | None]
"""Path to content; None for a folder."""
PIECES = 6
"""Ways, besides none and all, in which one file is written in part."""


class Killed(BaseException):
    """The end of a process that is killed, as far as the code that was running can tell."""


class Recorder:
    """Every change below a folder that this process makes while `recording` is active.

    Attributes
    ----------
    events : list of Event
        What happened, in order.
    calls : list of str
        The same for comparison with a trace of the system: names of calls with their paths.
    """

    def __init__(self, root: Path, note: Callable[[Event], None] | None = None) -> None:
        self.root = os.path.realpath(root)
        self.events: list[Event] = []
        self.calls: list[str] = []
        self._note = note
        self._known = {os.stat(path).st_ino for path in [self.root, *self._below()]}
        self._streams: dict[str, bytes] = {}
        self._last: int | None = None

    def _below(self) -> Iterator[str]:
        for folder, folders, names in os.walk(self.root):
            yield from (os.path.join(folder, name) for name in [*folders, *names])

    def mark(self, text: str) -> None:
        """Note that something has begun or is done."""
        self._add("mark", text)

    def _add(self, *event: Any) -> None:
        self.events.append(event)
        if self._note:
            self._note(event)

    def _place(self, path: Any, folder: int | None = None) -> tuple[int, str, str] | None:
        """Inode of the folder of a path, the name in it, and the path below the root."""
        path = os.fsdecode(path)
        if folder is not None and not os.path.isabs(path):
            path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)
        above, name = os.path.split(os.path.abspath(path))
        above = os.path.realpath(above)
        if not (above + "/").startswith(self.root + "/"):
            return None
        full = os.path.join(above, name)
        return os.stat(above).st_ino, name, full.removeprefix(self.root).lstrip("/")

    def _inode(self, handle: int) -> tuple[int, str] | None:
        if not isinstance(handle, int):
            handle = handle.fileno()
        inode = os.fstat(handle).st_ino
        if inode not in self._known:
            return None
        path = os.readlink(f"/proc/self/fd/{handle}").removesuffix(" (deleted)")
        return inode, path.removeprefix(self.root).lstrip("/")

    @contextmanager
    def recording(self, kill_at: int | None = None) -> Iterator[Recorder]:
        """Record what the block does; only one thread may write meanwhile.

        Parameters
        ----------
        kill_at : int, optional
            Number of the event from which on every call that would change something raises
            `Killed` instead, so that nothing is tidied up, either.
        """
        self._last = None if kill_at is None else len(self.events) + kill_at
        real = {name: getattr(os, name) for name in _CALLS}
        real_open = builtins.open
        for name in _CALLS:
            setattr(os, name, self._call(getattr(self, f"_{name}"), real[name]))
        builtins.open = io.open = self._call(self._stream, real_open)
        try:
            yield self
        finally:
            self._look_at_streams()
            for name, call in real.items():
                setattr(os, name, call)
            builtins.open = io.open = real_open

    def _call(self, note: Callable[..., Any], real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self._look_at_streams()
            if self._last is not None and len(self.events) >= self._last:
                reads = real is _REAL_OPEN and not arguments[1] & (os.O_CREAT | os.O_TRUNC)
                if not reads:
                    raise Killed
            return note(real, *arguments, **options)

        return call

    def _open(
        self, real: Any, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None
    ) -> int:
        is_made = bool(flags & os.O_CREAT)
        place = self._place(path, dir_fd) if is_made else None
        there = place is not None and os.path.lexists(os.path.join(self.root, place[2]))
        handle: int = real(path, flags, mode, dir_fd=dir_fd)
        if place and not there:
            self._made("create", os.fstat(handle).st_ino, place)
        if flags & os.O_TRUNC and (found := self._inode(handle)):
            self._add("truncate", found[0], 0)
        return handle

    def _made(self, what: str, inode: int, place: tuple[int, str, str]) -> None:
        self._known.add(inode)
        self._add(what, inode, place[0], place[1])
        self.calls.append(f"{what} {place[2]}")

    def _mkdir(self, real: Any, path: Any, *arguments: Any, dir_fd: int | None = None) -> None:
        place = self._place(path, dir_fd)
        real(path, *arguments, dir_fd=dir_fd)
        if place:
            self._made("mkdir", os.stat(os.path.join(self.root, place[2])).st_ino, place)

    def _pwrite(self, real: Any, handle: int, data: Any, offset: int) -> int:
        written: int = real(handle, data, offset)
        self._written(handle, data, offset, written)
        return written

    def _write(self, real: Any, handle: int, data: Any) -> int:
        found = self._inode(handle)
        if found is None:
            return int(real(handle, data))
        written: int = real(handle, data)
        self._written(handle, data, os.lseek(handle, 0, os.SEEK_CUR) - written, written)
        return written

    def _written(self, handle: int, data: Any, offset: int, written: int) -> None:
        if found := self._inode(handle):
            self._add("write", found[0], offset, bytes(memoryview(data).cast("B")[:written]))
            self.calls.append(f"write {found[1]} {offset} {written}")

    def _ftruncate(self, real: Any, handle: int, size: int) -> None:
        real(handle, size)
        if found := self._inode(handle):
            self._add("truncate", found[0], size)
            self.calls.append(f"truncate {found[1]} {size}")

    def _fsync(self, real: Any, handle: int) -> None:
        real(handle)
        if found := self._inode(handle):
            self._add("fsync", *found)
            self.calls.append(f"fsync {found[1]}")

    def _rename(
        self,
        real: Any,
        source: Any,
        target: Any,
        *,
        src_dir_fd: int | None = None,
        dst_dir_fd: int | None = None,
    ) -> None:
        old, new = self._place(source, src_dir_fd), self._place(target, dst_dir_fd)
        assert (old is None) == (new is None), "a rename into or out of the recorded folder"
        inode = os.lstat(os.path.join(self.root, old[2])).st_ino if old else 0
        real(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
        if old and new:
            self._add("rename", inode, *old[:2], *new[:2])
            self.calls.append(f"rename {old[2]} {new[2]}")

    _replace = _rename

    def _link(self, real: Any, source: Any, target: Any, **options: Any) -> None:
        new = self._place(target)
        real(source, target, **options)
        if new:
            inode = os.lstat(os.path.join(self.root, new[2])).st_ino
            self._add("link", inode, *new[:2])
            self.calls.append(f"link {new[2]}")

    def _unlink(self, real: Any, path: Any, *, dir_fd: int | None = None) -> None:
        self._removed("unlink", real, path, dir_fd)

    _remove = _unlink

    def _rmdir(self, real: Any, path: Any, *, dir_fd: int | None = None) -> None:
        self._removed("rmdir", real, path, dir_fd)

    def _removed(self, what: str, real: Any, path: Any, folder: int | None) -> None:
        place = self._place(path, folder)
        full = os.path.join(self.root, place[2]) if place else ""
        inode = os.lstat(full).st_ino if place and os.path.lexists(full) else 0
        real(path, dir_fd=folder)
        if place:
            self._add("remove", inode, *place[:2])
            self.calls.append(f"{what} {place[2]}")

    def _stream(self, real: Any, path: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
        """A file object writes without calls of `os`; its content is compared before each call."""
        writes = set(mode) & set("wax+") and not isinstance(path, int)
        place = self._place(path) if writes else None
        there = place is not None and os.path.lexists(os.path.join(self.root, place[2]))
        file = real(path, mode, *rest, **options)
        if place:
            if not there:
                self._made("create", os.fstat(file.fileno()).st_ino, place)
            self._streams[os.path.join(self.root, place[2])] = b"" if "w" in mode else b"?"
        return file

    def _look_at_streams(self) -> None:
        for path, before in list(self._streams.items()):
            try:
                handle = _REAL_OPEN(path, os.O_RDONLY)
            except FileNotFoundError:
                del self._streams[path]
                continue
            try:
                status = os.fstat(handle)
                now = os.pread(handle, status.st_size, 0)
            finally:
                os.close(handle)
            if now != before:
                self._streams[path] = now
                self._add("truncate", status.st_ino, 0)
                self._add("write", status.st_ino, 0, now)


_CALLS = (
    "open",
    "mkdir",
    "pwrite",
    "write",
    "ftruncate",
    "fsync",
    "rename",
    "replace",
    "link",
    "unlink",
    "remove",
    "rmdir",
)
_REAL_OPEN = os.open


@dataclass
class _File:
    """A file: what is durable of it, and what was done to it since."""

    durable: bytes = b""
    present: bytearray = field(default_factory=bytearray)
    writes: list[tuple[int, int]] = field(default_factory=list)
    is_dirty: bool = False

    def contents(self) -> list[bytes]:
        """What a power cut may leave, the present content first and the durable one next."""
        if not self.is_dirty:
            return [bytes(self.present)]
        size = len(self.present)
        written = sum(length for _, length in self.writes)
        found = [bytes(self.present), self.durable, self._without(self.writes)]
        found.append(self._without(self._second_half(written)))
        found.append(bytes(self.present[: size // 2]))
        found += [self._without([lost]) for lost in self.writes[:PIECES]]
        return list(dict.fromkeys(found))

    def _without(self, lost: list[tuple[int, int]]) -> bytes:
        data = bytearray(self.present)
        for offset, length in lost:
            end = min(offset + length, len(data))
            if offset < end:
                data[offset:end] = bytes(end - offset)
        return bytes(data)

    def _second_half(self, written: int) -> list[tuple[int, int]]:
        left, out = written // 2, []
        for offset, length in reversed(self.writes):
            take = min(left, length)
            out.append((offset + length - take, take))
            left -= take
        return out


@dataclass(frozen=True)
class _Change:
    """A change of names: entries that it removes, and the one that it sets."""

    folder: int
    removed: tuple[tuple[int, str, int], ...] = ()
    entry: tuple[int, str, int] | None = None


class FileSystem:
    """A folder whose power may fail.

    Parameters
    ----------
    root : Path
        The folder as it is before the first event; all of it is durable.
    """

    def __init__(self, root: Path) -> None:
        self._serial = itertools.count()
        self._files: dict[int, _File] = {}
        self._folders: set[int] = set()
        self._durable: dict[tuple[int, str], int] = {}
        self._pending: list[_Change] = []
        # Of the system's inode numbers, which may be given again, to those of this object.
        self._numbers: dict[int, int] = {}
        self._root = self._read(Path(root))

    def _read(self, path: Path) -> int:
        number = next(self._serial)
        self._numbers[path.stat().st_ino] = number
        if stat.S_ISDIR(path.stat().st_mode):
            self._folders.add(number)
            for entry in path.iterdir():
                self._durable[number, entry.name] = self._read(entry)
        else:
            data = path.read_bytes()
            self._files[number] = _File(data, bytearray(data))
        return number

    def apply(self, event: Event) -> None:
        """Let an event of a `Recorder` happen."""
        what, *facts = event
        if what == "mark":
            return
        if what in ("create", "mkdir"):
            inode, folder, name = facts
            number = self._numbers[inode] = next(self._serial)
            if what == "create":
                self._files[number] = _File()
            else:
                self._folders.add(number)
            above = self._numbers[folder]
            self._pending.append(_Change(above, entry=(above, name, number)))
            return
        number = self._numbers.get(facts[0], -1)
        if what == "write":
            file, (offset, data) = self._files[number], facts[1:]
            file.present.extend(bytes(max(0, offset - len(file.present))))
            file.present[offset : offset + len(data)] = data
            file.writes.append((offset, len(data)))
            file.is_dirty = True
        elif what == "truncate":
            file, size = self._files[number], facts[1]
            file.present.extend(bytes(max(0, size - len(file.present))))
            del file.present[size:]
            file.is_dirty = True
        elif what == "fsync":
            self._sync(number)
        elif what == "rename":
            source, old, target, new = facts[1:]
            below, above = self._numbers[source], self._numbers[target]
            self._pending.append(_Change(above, ((below, old, number),), (above, new, number)))
        elif what == "link":
            above, name = self._numbers[facts[1]], facts[2]
            self._pending.append(_Change(above, entry=(above, name, number)))
        elif what == "remove":
            above, name = self._numbers[facts[1]], facts[2]
            self._pending.append(_Change(above, ((above, name, number),)))
        else:
            raise ValueError(what)

    def _sync(self, number: int) -> None:
        if number in self._files:
            file = self._files[number]
            file.durable, file.writes, file.is_dirty = bytes(file.present), [], False
            return
        for change in self._pending:
            if change.folder == number:
                _change(self._durable, change)
        self._pending = [change for change in self._pending if change.folder != number]

    @property
    def pending(self) -> int:
        """How many changes of names are not durable."""
        return len(self._pending)

    def present(self) -> State:
        """The folder as processes see it."""
        return self._state(range(len(self._pending)), {})

    def states(self, limit: int, rng: random.Random) -> tuple[list[State], bool, int]:
        """What a power cut now may leave.

        Parameters
        ----------
        limit : int
            How many choices to look at.
        rng : random.Random
            Chooses among more.

        Returns
        -------
        states : list of State
            Different ones.
        all : bool
            Whether these are all that there are.
        tried : int
            How many choices of what was lost were looked at.
        """
        reachable = self._reachable_dirty()
        contents = {number: self._files[number].contents() for number in reachable}
        count = 2 ** len(self._pending)
        for some in contents.values():
            count *= len(some)
        if count <= limit:
            chosen: Iterator[tuple[tuple[int, ...], dict[int, bytes]]] = (
                (kept, dict(zip(contents, data, strict=True)))
                for kept in _subsets(len(self._pending))
                for data in itertools.product(*contents.values())
            )
        else:
            chosen = self._sampled(contents, limit, rng)
        found: dict[tuple[Any, ...], State] = {}
        tried = 0
        for kept, data in chosen:
            tried += 1
            state = self._state(kept, data)
            found.setdefault(tuple(sorted(state.items())), state)
        return list(found.values()), count <= limit, tried

    def _reachable_dirty(self) -> list[int]:
        """Changed files that have a name, or had or will have one after some of the changes."""
        named = set(self._durable.values())
        named |= {change.entry[2] for change in self._pending if change.entry}
        return [
            number for number in self._files if self._files[number].is_dirty and number in named
        ]

    def _sampled(
        self, contents: dict[int, list[bytes]], limit: int, rng: random.Random
    ) -> Iterator[tuple[tuple[int, ...], dict[int, bytes]]]:
        everything = tuple(range(len(self._pending)))
        present, durable = (
            {number: some[min(i, len(some) - 1)] for number, some in contents.items()}
            for i in (0, 1)
        )
        yield everything, present
        yield everything, durable
        yield (), present
        one = [(i,) for i in everything]
        one += [everything[:i] + everything[i + 1 :] for i in everything]
        one += [everything[:i] for i in everything]
        for kept in rng.sample(one, min(len(one), limit // 2)):
            yield kept, present
        for _ in range(limit // 2):
            share = rng.random()
            kept = tuple(i for i in everything if rng.random() < share)
            yield kept, {number: rng.choice(some) for number, some in contents.items()}

    def _state(self, kept: Any, data: dict[int, bytes]) -> State:
        entries = dict(self._durable)
        for i in kept:
            _change(entries, self._pending[i])
        below: dict[int, list[tuple[str, int]]] = {}
        for (folder, name), number in entries.items():
            below.setdefault(folder, []).append((name, number))
        out: State = {}
        todo = [("", self._root)]
        while todo:
            path, folder = todo.pop()
            for name, number in below.get(folder, ()):
                if number in self._folders:
                    out[path + name] = None
                    todo.append((f"{path}{name}/", number))
                else:
                    found = data.get(number)
                    out[path + name] = (
                        bytes(self._files[number].present) if found is None else found
                    )
        return out


def _change(entries: dict[tuple[int, str], int], change: _Change) -> None:
    for folder, name, number in change.removed:
        if entries.get((folder, name)) == number:
            del entries[folder, name]
    if change.entry:
        folder, name, number = change.entry
        entries[folder, name] = number


def _subsets(n: int) -> Iterator[tuple[int, ...]]:
    for size in range(n + 1):
        yield from itertools.combinations(range(n), size)


def materialise(state: State, root: Path) -> None:
    """Make a folder that holds a state."""
    root.mkdir()
    for path in sorted(path for path, data in state.items() if data is None):
        (root / path).mkdir()
    for path, data in state.items():
        if data is not None:
            (root / path).write_bytes(data)
