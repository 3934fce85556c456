"""Where generated files are kept, with and without a home directory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hyperpq.utils import cache
from hyperpq.utils.cache import cache_folder


@pytest.fixture(autouse=True)
def bare(monkeypatch):
    for name in ("HYPERPQ_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)


def test_the_first_variable_that_is_set(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache/hyperpq"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_folder() == Path("/x/hyperpq")
    monkeypatch.setenv("HYPERPQ_CACHE", "/own")
    assert cache_folder() == Path("/own")


@pytest.mark.parametrize("value", [None, "", "home", "~"])
def test_a_home_that_is_no_absolute_path(monkeypatch, tmp_path, value):
    """The user database says where the home is; a relative path would depend on the folder."""
    for name in ("HOME", "XDG_CACHE_HOME") if value is not None else ():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(cache, "_recorded_home", lambda: str(tmp_path))
    assert cache_folder() == tmp_path / ".cache/hyperpq"
    monkeypatch.setattr(cache, "_recorded_home", lambda: "")
    assert cache_folder() is None


def test_a_home_that_does_not_exist_is_not_made(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "none"))
    assert cache_folder() is None
    assert not (tmp_path / "none").exists()


@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="takes the rights of root")
def test_a_user_that_the_database_does_not_have():
    """``docker run --user 12345``: `os.path.expanduser` gives ``~`` itself, a relative path."""
    code = (
        "import os; from hyperpq.utils.cache import cache_folder; os.setuid(54321);"
        "assert os.path.expanduser('~') == '~'; assert cache_folder() is None"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
