"""Names of files as people and JSON parsers read them, in any locale."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperpq.cli.output import _near
from hyperpq.cli.text import escaped, for_json, name, quoted, word

BASH = shutil.which("bash")
ODD = {
    "a plain name.jpg": "a plain name.jpg",
    "ünï/日本語　.jpg": "ünï/日本語　.jpg",
    "👩\u200d🚀.jpg": "👩\u200d🚀.jpg",
    "it's": "it's",
    "back\\slash": "back\\slash",
    "$'word'": "$'$\\'word\\''",
    "\x1b[31mred\x1b[0m": r"$'\x1b[31mred\x1b[0m'",
    "two\nlines\ttab\r": r"$'two\nlines\ttab\r'",
    "c1 \x85\x9b2J": r"$'c1 \u0085\u009b2J'",
    "gpj.\u202etxt": r"$'gpj.\u202etxt'",
    "isolate \u2066": r"$'isolate \u2066'",
    "line\u2028end": r"$'line\u2028end'",
    "tag \U000e0041": r"$'tag \U000e0041'",
    "it's \x07 \\": r"$'it\'s \x07 \\'",
}
# Any bytes but NUL, with more of those that matter here.
NAMES = st.one_of(
    st.binary(),
    st.text(st.sampled_from("a'\\$\n\t\x1b\x85\u202eé👩\u200d")).map(str.encode),
).map(lambda data: data.replace(b"\0", b""))


@pytest.mark.parametrize("text", ODD)
def test_names_for_people(text):
    assert quoted(text.encode()) == ODD[text]


def test_bytes_that_are_not_utf8():
    assert quoted(b"caf\xe9.jpg") == r"$'caf\xe9.jpg'"
    assert escaped("caf\udce9 \x1b[2J") == r"caf\xe9 \x1b[2J"
    # In the locale C, Python decodes a name in UTF-8 as ASCII; a surrogate may also be alone.
    assert escaped("caf\udcc3\udca9") == "café"
    assert escaped("half \ud800") == r"half \ud800"


@given(NAMES)
def test_what_people_read_is_one_line_without_control_characters(path):
    for text in (quoted(path), escaped(name(path))):
        assert len(text.splitlines()) <= 1
        assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in text)
        text.encode()


@pytest.mark.skipif(BASH is None, reason="needs bash")
def test_bash_reads_the_name_back():
    paths = [*map(str.encode, ODD), b"caf\xe9 1", b"\xff\xfe'\\\n", b"$(x) `y` *", b""]
    script = "printf '%s\\0' " + " ".join(map(word, paths))
    env = {**os.environ, "LC_ALL": "C.UTF-8"}
    done = subprocess.run([BASH, "-c", script.encode()], capture_output=True, env=env)
    assert done.stdout.split(b"\0")[:-1] == paths


def test_an_example_is_no_option_and_no_list(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file, shown in (("-x.jpg", "./-x.jpg"), ("@x", "./@x"), ("a/-x", "a/-x"), ("x", "x")):
        assert _near(os.fsencode(tmp_path / file)) == shown


@given(NAMES)
def test_json_is_strict_and_gives_the_bytes_back(path):
    text = json.dumps(for_json({"path": name(path), "rank": 1, "in": [{"path": name(path)}]}))
    text.encode("ascii")
    found = json.loads(text)
    for item in (found, found["in"][0]):
        text = item["path"].encode("utf-8")
        is_text = path.decode("utf-8", "ignore").encode() == path
        assert ("path_bytes" not in item) == is_text
        assert (text if is_text else base64.b64decode(item["path_bytes"])) == path


def test_the_second_field_follows_the_first():
    found = for_json({"query": "x\udcff", "id": 3, "none": None})
    assert list(found.items()) == [
        ("query", "x\ufffd"),
        ("query_bytes", "eP8="),
        ("id", 3),
        ("none", None),
    ]
    assert for_json({"path": "\ufffd"}) == {"path": "\ufffd"}


@pytest.fixture(scope="module")
def odd(place, photos, hyperpq, tmp_path_factory):
    """A folder with images of odd names and their index; the names by what they contain."""
    folder = tmp_path_factory.mktemp("odd")
    names = {"é": "caf\u00e9.jpg".encode(), "line": b"a\nb.jpg", "red": b"\x1b[31m\xff.jpg"}
    (folder / "imagés").mkdir()
    paths = {key: os.path.join(os.fsencode(folder / "imagés"), n) for key, n in names.items()}
    for path, photo in zip(paths.values(), photos, strict=False):
        shutil.copy(photo, path)
    done = hyperpq("build", folder / "imagés", "--epochs", "0", "--quiet", cwd=folder)
    assert done.returncode == 0, done.stderr.decode()
    return folder, paths


def test_names_with_nul_in_and_out(hyperpq, odd):
    """``find -print0 | hyperpq query -0 - --format paths | xargs -0``."""
    folder, paths = odd
    listed = b"".join(path + b"\0" for path in paths.values())
    options = ("-0", "-k", "1", "--format", "paths")
    done = hyperpq("query", "-", *options, cwd=folder, stdin=listed)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == listed
    (folder / "list").write_bytes(listed)
    done = hyperpq("encode", "-0", "@list", "-o", "codes.npy", cwd=folder)
    assert (done.returncode, done.stdout) == (0, listed)
    # The last NUL may be missing, and without -0 a NUL is no part of a name.
    done = hyperpq("query", "-", *options, cwd=folder, stdin=listed[:-1])
    assert done.stdout == listed
    done = hyperpq("query", "-", cwd=folder, stdin=listed)
    assert done.returncode == 2
    assert b"stdin has a NUL" in done.stderr


def test_a_table_has_one_line_for_each_result(hyperpq, odd):
    folder, paths = odd
    done = hyperpq("query", paths["line"], "-k", "3", cwd=folder)
    shown = {quoted(path) for path in paths.values()}
    first, *lines = done.stdout.decode().splitlines()
    assert first in shown
    assert {line.rpartition("  ")[2] for line in lines} == shown
    assert b"\x1b" not in done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="needs pseudo-terminals")
def test_a_terminal_gets_no_control_characters(odd):
    import pty

    folder, paths = odd
    shell, terminal = pty.openpty()
    args = [sys.executable, "-m", "hyperpq", "query", paths["red"], "-k", "3", "--format", "paths"]
    with subprocess.Popen(args, cwd=folder, stdout=terminal, stderr=terminal) as process:
        os.close(terminal)
        text = b""
        try:
            while part := os.read(shell, 1 << 16):
                text += part
        except OSError:  # the terminal is gone: Linux
            pass
        os.close(shell)
    assert process.returncode == 0
    assert {line.decode() for line in text.splitlines()} == set(map(quoted, paths.values()))


POSIX = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def test_the_locale_does_not_matter(hyperpq, odd):
    """With ASCII as the encoding of the system, names, messages and conditions are UTF-8."""
    folder, paths = odd
    where = ("--where", "folder == 'imagés'")
    options = ("-k", "1", "--format", "json", "--exclude-self", *where)
    args = ("query", paths["é"], "né.jpg", *options)
    done = hyperpq(*args, cwd=folder, env=POSIX)
    assert done.returncode == 1
    assert done.stderr.decode() == "hyperpq: né.jpg: no such file\n"
    (answer,) = json.loads(done.stdout)
    assert answer["query"] == paths["é"].decode()
    assert len(answer["results"]) == 1
    assert done.stdout == hyperpq(*args, cwd=folder, env={"LC_ALL": "C.UTF-8"}).stdout
    done = hyperpq("query", "x", "--where", b"folder == '\xff'", cwd=folder, env=POSIX)
    assert b"invalid value for '--where': the text is not UTF-8." in done.stderr


def test_a_working_directory_that_is_gone(place, photos, tmp_path):
    """The libraries of MKL end the process with a line of their own there."""
    script = 'mkdir gone && cd gone && rmdir ../gone && exec "$@"'
    args = [sys.executable, "-m", "hyperpq", "query", photos[0], "--index", place / "hyperpq-index"]
    done = subprocess.run([BASH, "-c", script, "bash", *args], cwd=tmp_path, capture_output=True)
    said = "hyperpq: error: the working directory does not exist any more; change to another one.\n"
    assert (done.returncode, done.stdout, done.stderr.decode()) == (1, b"", said)


def test_an_isolated_interpreter_that_takes_warnings_for_errors(place, photos):
    options = ["-I", "-W", "error", "-m", "hyperpq"]
    args = ["query", photos[0], "-k", "1", "--format", "paths"]
    done = subprocess.run([sys.executable, *options, *args], cwd=place, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == bytes(photos[0]) + b"\n"
