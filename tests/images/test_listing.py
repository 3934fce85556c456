"""Names of images: from arguments, from files with names, and roots."""

from __future__ import annotations

import io
import os

import pytest

from hyperpq.errors import InvalidInputError
from hyperpq.images.listing import as_roots, query_paths


def test_a_list_of_names_may_begin_with_a_byte_order_mark(tmp_path):
    """As editors of Windows write it; else the first image would not exist."""
    names = tmp_path / "names.txt"
    names.write_bytes(b"\xef\xbb\xbfa.png\r\n\r\nb c.png\r\n")
    assert query_paths([f"@{names}"], io.BytesIO()).paths == [b"a.png", b"b c.png"]
    assert query_paths(["-"], io.BytesIO(b"\xef\xbb\xbfa.png")).paths == [b"a.png"]
    # With NULs, every byte is part of a name.
    stdin = io.BytesIO(b"\xef\xbb\xbfa\r.png\0")
    assert query_paths(["-"], stdin, null=True).paths == [b"\xef\xbb\xbfa\r.png"]


def test_roots_are_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here = os.fsencode(tmp_path)
    assert as_roots("a") == as_roots(b"./a/") == [here + b"/a"]
    assert as_roots([tmp_path / "b", "a"]) == [here + b"/b", here + b"/a"]
    for roots in ("", [], ["a", ""]):
        with pytest.raises(InvalidInputError, match="roots has"):
            as_roots(roots)
