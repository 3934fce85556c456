"""`Storage`: an index at a URL, as objects that are read, and `S3Storage`, where they are written.

fsspec opens the URL, so what can be read depends on its packages. Writing needs a condition on a
request, "only if the object is still as it was read", which S3 and what speaks its protocol have.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, cast

from hyperpq.errors import CorruptIndexError, InvalidInputError, StoreError
from hyperpq.store.manifest import MANIFEST_NAME, FileEntry, Manifest, canonical
from hyperpq.store.manifest_parser import MAX_MANIFEST_BYTES, parse_manifest
from hyperpq.utils.files import (
    checksum,
    checksums_of_file,
    remove_quietly,
    rename_over,
    temporary_path,
    torn_file,
)
from hyperpq.utils.imports import need
from hyperpq.utils.url_storage import open_storage, said

OBJECTS = "objects"
"""Folder of the files that a manifest names, each under its `object_name`."""
_PART_BYTES = 1 << 24
"""Bytes of a part of an upload; four parts of a file are in memory."""
_PARTS_AT_ONCE = 4
# What S3 answers if a condition does not hold, or another request of the same object is under way.
_REFUSED = frozenset(("PreconditionFailed", "ConditionalRequestConflict", "412", "409"))
_NO_ETAG = '"00000000000000000000000000000000"'
# How often the manifest is read until its ETag is the same before and after.
_READS = 10


class _FileSystem(Protocol):
    """What is used of a file system of fsspec."""

    def info(self, path: str) -> dict[str, Any]: ...

    def cat_file(self, path: str) -> bytes: ...

    def get_file(self, rpath: str, lpath: str) -> None: ...

    def ls(self, path: str, detail: bool) -> list[dict[str, Any]]: ...

    def rm_file(self, path: str) -> None: ...

    def invalidate_cache(self) -> None: ...


class _S3FileSystem(_FileSystem, Protocol):
    """What is used of s3fs beside that."""

    def put_file(self, lpath: str, rpath: str, *, chunksize: int, max_concurrency: int) -> None: ...

    def call_s3(self, method: str, **arguments: object) -> object: ...


@dataclass(frozen=True)
class StoredObject:
    """An object at a URL.

    Attributes
    ----------
    size : int
        Length in bytes.
    modified : datetime
        When it was written, by the clock of the storage.
    """

    size: int
    modified: datetime


@dataclass(frozen=True)
class Published:
    """The manifest at a URL.

    Attributes
    ----------
    manifest : Manifest
        What is published.
    data : bytes
        Its text.
    etag : str
        What the storage calls this content; empty where it has no such names, or changes them.
    """

    manifest: Manifest
    data: bytes
    etag: str


class ConditionError(Exception):
    """The object is not as it was read, so it was not replaced."""


def object_name(entry: FileEntry) -> str:
    """Name of a file at a URL: a hash of its length and checksums."""
    return checksum(canonical(entry.to_json()))


class Storage:
    """An index at a URL: ``manifest.json``, and files in ``objects``.

    Parameters
    ----------
    url : str
        Where the index is, such as ``s3://bucket/index``.

    Raises
    ------
    InvalidInputError
        If there is no such protocol, or the URL names no folder of its own.
    MissingDependencyError
        If a package is missing that the protocol needs.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        if "://" not in self.url:
            raise _no_folder(url)
        fs, self._root = open_storage(self.url, "indexes")
        if not self._root.strip("/"):
            raise _no_folder(url)
        self._fs: _FileSystem = fs

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _object(self, entry: FileEntry) -> str:
        return self._path(f"{OBJECTS}/{object_name(entry)}")

    def read(self) -> Published | None:
        """The manifest; None if there is none.

        Raises
        ------
        CorruptIndexError, FormatVersionError
            If it is no manifest of this version.
        StoreError
            If the storage refuses to read it.
        """
        path, name = self._path(MANIFEST_NAME), f"{self.url}/{MANIFEST_NAME}"
        with self._errors("read", MANIFEST_NAME):
            for _ in range(_READS):
                self._fs.invalidate_cache()
                try:
                    before = self._fs.info(path)
                    if not 0 <= (before["size"] or 0) <= MAX_MANIFEST_BYTES:
                        raise torn_file(name, f"the file has {before['size']} bytes")
                    data = self._fs.cat_file(path)
                    self._fs.invalidate_cache()
                    after = self._fs.info(path)
                except FileNotFoundError:
                    return None
                etag = str(before.get("ETag") or "")
                if etag == str(after.get("ETag") or ""):
                    break
            else:
                # Servers behind one address may each have their own. The text has a checksum.
                etag = ""
        return Published(parse_manifest(data, name), data, etag)

    def objects(self) -> dict[str, StoredObject]:
        """All files that are there, by their names.

        Raises
        ------
        StoreError
            If the storage refuses to list them.
        """
        with self._errors("list", OBJECTS):
            self._fs.invalidate_cache()
            try:
                found = self._fs.ls(self._path(OBJECTS), detail=True)
            except FileNotFoundError:
                return {}
        return {
            item["name"].rpartition("/")[2]: StoredObject(item["size"], item["LastModified"])
            for item in found
            if item["type"] == "file"
        }

    def download(self, entry: FileEntry, path: Path) -> None:
        """Copy a file here, synced, once its length and its checksums are right.

        Raises
        ------
        CorruptIndexError
            If the storage does not have it, or has another content.
        StoreError
            If the storage or the system refuses.
        """
        source, aside = self._object(entry), temporary_path(path)
        try:
            with self._errors("read", f"{OBJECTS}/{object_name(entry)}"):
                try:
                    size = self._fs.info(source)["size"]
                    if size != entry.size:
                        raise self._torn(entry, f"the object has {size} bytes")
                    self._fs.get_file(source, os.fspath(aside))
                except FileNotFoundError as error:
                    raise CorruptIndexError(
                        f"{self.url}/{OBJECTS}/{object_name(entry)}: this file of the index is "
                        "missing; push the index again."
                    ) from error
                with open(aside, "rb") as file:
                    os.fsync(file.fileno())
            if checksums_of_file(aside, entry.size) != entry.checksums:
                raise self._torn(entry, "the checksum is wrong")
            rename_over(aside, path)
        except BaseException:
            remove_quietly(aside)
            raise

    def _torn(self, entry: FileEntry, what: str) -> CorruptIndexError:
        return CorruptIndexError(
            f"{self.url}/{OBJECTS}/{object_name(entry)}: {what}; the object is torn or altered, so "
            "push the index again with overwrite."
        )

    @contextmanager
    def _errors(self, action: str, name: str) -> Iterator[None]:
        """Turn what a file system raises into a `StoreError` with the URL and its reason."""
        try:
            yield
        except (StoreError, ConditionError):
            raise
        # Every package of fsspec has exceptions of its own.
        except Exception as error:
            refused = StoreError(f"{self.url}/{name}: cannot {action}: {said(error)}.")
            refused.errno = getattr(error, "errno", None)
            raise refused from error


class S3Storage(Storage):
    """An index at a URL of S3, or of another storage that speaks its protocol.

    Parameters
    ----------
    url : str
        ``s3://BUCKET/PATH``.

    Raises
    ------
    InvalidInputError
        If the URL is another one.
    MissingDependencyError
        If s3fs is not installed.
    """

    def __init__(self, url: str) -> None:
        if not url.startswith("s3://"):
            raise InvalidInputError(
                f"an index cannot be published at {url!r}; expected s3://BUCKET/PATH, as other "
                "protocols have no conditional put, which keeps two writers from replacing each "
                "other's index."
            )
        need("s3fs", "remote", "indexes in S3")
        super().__init__(url)
        self._bucket, _, self._prefix = self._root.partition("/")
        if not self._prefix:
            raise _no_folder(url)

    def upload(self, path: Path, entry: FileEntry) -> None:
        """Write a file; it appears whole or not at all.

        Raises
        ------
        StoreError
            If the storage refuses.
        """
        name = f"{OBJECTS}/{object_name(entry)}"
        with self._errors("write", name):
            self._s3.put_file(
                os.fspath(path),
                self._path(name),
                chunksize=_PART_BYTES,
                max_concurrency=_PARTS_AT_ONCE,
            )

    def remove(self, name: str) -> None:
        """Remove a file by its name.

        Raises
        ------
        StoreError
            If the storage refuses.
        """
        with self._errors("remove", f"{OBJECTS}/{name}"):
            self._fs.rm_file(self._path(f"{OBJECTS}/{name}"))

    def check_conditions(self, path: Path, entry: FileEntry) -> None:
        """Raise unless the storage refuses a put whose condition does not hold.

        An object is put again, with its own content, under two conditions that are false.

        Parameters
        ----------
        path : Path
            A file that was uploaded.
        entry : FileEntry
            Its content.

        Raises
        ------
        StoreError
            If the storage does what it should refuse, or refuses to write at all.
        """
        data, name = path.read_bytes(), f"{OBJECTS}/{object_name(entry)}"
        for condition in ({"IfNoneMatch": "*"}, {"IfMatch": _NO_ETAG}):
            try:
                self._put(name, data, condition)
            except ConditionError:
                continue
            raise StoreError(
                f"{self.url}: the storage ignores the condition of a put ({next(iter(condition))}),"
                " so two writers could replace each other's index; expected S3, or a storage that "
                "has its conditional writes."
            )

    def publish(self, manifest: Manifest, former: Published | None) -> None:
        """Replace the manifest, if it still is the one that was read.

        Parameters
        ----------
        manifest : Manifest
            What is published.
        former : Published, optional
            What was read; None if there was nothing.

        Raises
        ------
        ConditionError
            If another writer has published meanwhile. Nothing was changed.
        StoreError
            If the storage refuses; it is then not known whether the manifest was replaced. Or if it
            has no ETag that stays; then nothing was changed.
        """
        if former is not None and not former.etag:
            raise StoreError(
                f"{self.url}/{MANIFEST_NAME}: the storage has no ETag for the manifest that stays "
                "the same, so another writer's index could be replaced; expected S3, or a storage "
                "that has its conditional writes."
            )
        condition = {"IfNoneMatch": "*"} if former is None else {"IfMatch": former.etag}
        data = manifest.to_bytes()
        try:
            self._put(MANIFEST_NAME, data, condition)
        except ConditionError:
            # A request whose answer was lost is sent again, and finds its own manifest.
            found = self.read()
            if found is None or found.data != data:
                raise

    def _put(self, name: str, data: bytes, condition: dict[str, str]) -> None:
        key = f"{self._prefix}/{name}"
        with self._errors("write", name):
            try:
                self._s3.call_s3("put_object", Bucket=self._bucket, Key=key, Body=data, **condition)
            except Exception as error:
                if _s3_code(error) in _REFUSED or (
                    "IfMatch" in condition and isinstance(error, FileNotFoundError)
                ):
                    raise ConditionError from error
                raise

    @property
    def _s3(self) -> _S3FileSystem:
        return cast("_S3FileSystem", self._fs)


def _no_folder(url: str) -> InvalidInputError:
    return InvalidInputError(
        f"the index is at {url!r}; expected a folder of a bucket, such as s3://bucket/index."
    )


def _s3_code(error: BaseException) -> str:
    """What S3 calls an error that s3fs has translated; empty for any other."""
    response = getattr(error.__cause__ or error, "response", None)
    return str(response["Error"].get("Code", "")) if response else ""
