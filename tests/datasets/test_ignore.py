"""Ignore patterns mean what they mean to git, which is the oracle on generated trees."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hyperpq.datasets.folder import list_images
from hyperpq.datasets.ignore import IgnorePatterns

PNG = b"\x89PNG\r\n\x1a\n"
BOM = b"\xef\xbb\xbf"
CLASSES = [
    *("alnum", "alpha", "blank", "cntrl", "digit", "graph"),
    *("lower", "print", "punct", "space", "upper", "xdigit"),
]

NAMES = [
    *(b"a", b"b", b"ab", b"A", b"a b", b" a", b"a ", b"#a", b"!a", b"[a]", b"a\\b", b"a\nb"),
    *(b"a\n", b"a\r", b"\t", b"*", b"a-b", b"^", b"]", b"-", b"$", b"{a}", b"e.png"),
    *("é".encode(), b"\xe9", b"a\x85", "\u2028".encode(), BOM + b"a"),
]
WILD = [
    *(b"*", b"**", b"?", b"/", b"/", b"**/", b"/**/", b"/**", b"\\", b"\\ ", b"\\*", b"\\\\"),
    *(b"[a-b]", b"[!a]", b"[^a]", b"[a", b"[]a]", b"[]-a]", b"[b-a]", b"[\\]a]", b"[!\\a]"),
    *(b"[a/b]", b"[--a]", b"[a-]", b"[*?]", b"[[a]", b"[a&&b]", b"[A-Z]", b"[\xc3\xa9]", b"["),
    *(b"[[:alpha:]]", b"[![:space:]a]", b"[[:foo:]]", b"[[:a]", b"[[::]]", b"]", b"#", b"!"),
    *(b" ", b"  ", b"\t", b"\r", b"\x0b", b"\x0c", b"\x1c", b"\x85", b"\xff", b".", b"(", b"+"),
]
tokens = st.sampled_from(NAMES + WILD)
lines = st.builds(
    lambda before, middle, after: before + b"".join(middle) + after,
    st.sampled_from([b"", b"", b"/", b"!", b"!/", b"\\"]),
    st.lists(tokens, min_size=1, max_size=4),
    st.sampled_from([b"", b"", b"/", b" ", b"/**"]),
)
contents = st.builds(
    lambda mark, rows, end, last: mark + end.join(rows) + last,
    st.sampled_from([b"", b"", b"", BOM]),
    st.lists(lines, min_size=1, max_size=4),
    st.sampled_from([b"\n", b"\r\n"]),
    st.sampled_from([b"", b"\n", b"\0a\n"]),
)
branches = st.lists(
    st.lists(st.sampled_from(NAMES), min_size=1, max_size=3), min_size=1, max_size=10
)


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A folder in which git lists what is not ignored."""
    if not shutil.which("git"):
        pytest.skip("git is not installed")
    folder = tmp_path_factory.mktemp("git")
    subprocess.run(["git", "init", "-q", folder], check=True)
    return folder


def kept_by_git(folder, *options):
    command = ["git", "-c", "core.ignoreCase=false", "-C", folder, "ls-files", "-oz", *options]
    out = subprocess.run(command, capture_output=True, check=True).stdout
    return {path for path in out.split(b"\0") if path and not path.endswith(b"ignore")}


def kept_by_us(folder, exclude=()):
    root = os.fsencode(folder)
    found = list_images([root], include_hidden=True, exclude=exclude)
    return {file.path[len(root) + 1 :] for file in found if b"/.git/" not in file.path}


def put(folder, files):
    """Make a tree anew: paths, each with its content."""
    root = os.fsencode(folder)
    for entry in os.scandir(root):
        if entry.name != b".git":
            shutil.rmtree(os.fsdecode(entry.path)) if entry.is_dir() else os.unlink(entry)
    for path, data in files:
        path = os.path.join(root, path)
        # A name may be a file here and a folder there: the first one stays.
        with contextlib.suppress(FileExistsError, NotADirectoryError, IsADirectoryError):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                file.write(data)


def rules(text, below=b""):
    return [(os.path.join(below, name), text) for name in (b".gitignore", b".hyperpqignore")]


@settings(max_examples=250)
@given(branches, contents, contents, st.sampled_from([b"", *NAMES]))
@example([[b"a"], [b"b"]], BOM + b"a\nb", b"", b"")
@example([[b"a"], [b"b", b"a"]], b"a\r\n!b\r\n", b"", b"")
@example([[b"a", b"b"], [b"a", b"a"]], b"a/\n!a/b\n", b"", b"")
@example([[b"a", b"x", b"b"], [b"a", b"b"]], b"a/**/b", b"", b"")
@example([[b"ab", b"a"], [b"a", b"b"]], b"/a**", b"", b"")
@example([[b"a "], [b"a"]], b"a\\ ", b"", b"")
@example([[b"a"]], b"[b-a]", b"", b"")
def test_agrees_with_git(repository, branches, outer, inner, below):
    """Bytes of any kind in names and patterns, in two ignore files, one below the other."""
    files = [(b"/".join(branch), PNG) for branch in branches]
    put(repository, [*files, *rules(outer), *(rules(inner, below) if below else ())])
    expected = kept_by_git(repository, "--exclude-per-directory=.gitignore")
    assert kept_by_us(repository) == expected


@settings(max_examples=60)
@given(branches, st.lists(lines, min_size=1, max_size=3), contents)
def test_patterns_of_the_option_agree_with_git(repository, branches, patterns, outer):
    """They come before those of the files. Comments and spaces are treated as in the files."""
    patterns = [line for line in patterns if not line.startswith(b"#") and line.strip(b" ")]
    patterns = [line for line in patterns if not line.endswith(b" ") and b"\n" not in line]
    if IgnorePatterns.from_lines(patterns).invalid:
        return
    put(repository, [*((b"/".join(branch), PNG) for branch in branches), *rules(outer)])
    options = [b"--exclude=" + line for line in patterns]
    expected = kept_by_git(repository, *options, "--exclude-per-directory=.gitignore")
    assert kept_by_us(repository, [os.fsdecode(line) for line in patterns]) == expected


@pytest.mark.parametrize("negation", ["", "!"])
@pytest.mark.parametrize("name", CLASSES)
def test_classes_of_characters_agree_with_git(repository, name, negation):
    names = [bytes([byte]) for byte in range(1, 256) if byte not in b"./"]
    put(
        repository, [*((b"x" + n, PNG) for n in names), *rules(f"x[{negation}[:{name}:]]".encode())]
    )
    expected = kept_by_git(repository, "--exclude-per-directory=.gitignore")
    assert kept_by_us(repository) == expected
    assert 0 < len(expected) < len(names)


def test_a_byte_order_mark_does_not_hide_the_first_pattern():
    patterns = IgnorePatterns.from_bytes(BOM + b"drafts/\r\nraw\r\n")
    assert patterns.excludes(b"drafts", is_folder=True)
    assert patterns.excludes(b"a/raw", is_folder=False)
    assert patterns.invalid == ()


def test_an_unset_verdict_is_none():
    patterns = IgnorePatterns.from_bytes(b"*.psd\n!a.psd\n")
    verdicts = [patterns.excludes(p, is_folder=False) for p in (b"b.psd", b"x/a.psd", b"a.png")]
    assert verdicts == [True, False, None]


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        (b"*a" * 100 + b"b", b"a" * 255),
        (b"/x" + b"*a" * 100 + b"b", b"x" + b"a" * 254),
        (b"**/a*a*a*b/" * 30 + b"c", b"/".join([b"a" * 50] * 80)),
        (b"**/a/" * 60 + b"c", b"/".join([b"a"] * 2000)),
        (b"*" * 100_000 + b"b", b"a" * 255),
        (b"a" * 1_000_000, b"a" * 255),
        (b"[!b]*" * 2_000 + b"b", b"a" * 255),
    ],
)
def test_no_pattern_takes_exponential_time(pattern, path):
    """Each of these would not end in a translation that tries all places of all asterisks."""
    patterns = IgnorePatterns.from_lines([pattern])
    assert patterns.excludes(path, is_folder=False) is None
