"""What the command line forgives: names that are nearly right, short forms, folders below."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys

import click
import h5py
import numpy as np
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from hyperpq import HiHPQIndex
from hyperpq.cli.main import ALIASES, COMMANDS, cli

X = np.random.default_rng(5).normal(size=(40, 8)).astype(np.float32)
CATS = np.array(["cat", "dog"] * 20)


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    """A folder with an index of vectors in hyperpq-index and files; not to be changed."""
    here = tmp_path_factory.mktemp("forgiving")
    index = HiHPQIndex(8, 2, device="cpu")
    index.train(X, epochs=0)
    index.add(X, attributes={"kind": CATS, "year": np.arange(40)})
    index.save(here / "hyperpq-index")
    np.save(here / "x.npy", X)
    np.savez(here / "one.npz", x=X, name=np.array("of no use"))
    np.savez_compressed(here / "two.npz", a=X, b=X[:3])
    (here / "sub/folder").mkdir(parents=True)
    return here


@pytest.fixture
def run(vectors, monkeypatch):
    """Run a command in this process, in a folder of `vectors`."""

    def invoke(*args, code=0, cwd="."):
        monkeypatch.chdir(vectors / cwd)
        done = CliRunner().invoke(cli, list(map(str, args)), prog_name="hyperpq")
        assert done.exit_code == code, done.output
        return done

    return invoke


def error(done):
    (line,) = done.stderr.splitlines()
    assert line.startswith("hyperpq: error: ")
    return line.removeprefix("hyperpq: error: ").partition(" See `")[0]


@pytest.mark.parametrize(
    "typed, meant",
    [
        ("biuld", "build"),
        ("QUERY", "query"),
        ("serach", "search"),
        ("index", "build"),
        ("delete", "remove"),
        ("stats", "info"),
    ],
)
def test_the_nearest_command_is_named(run, typed, meant):
    assert error(run(typed, code=2)) == f"no such command {typed!r}; did you mean {meant!r}?"


def test_a_command_that_is_like_no_other(run):
    assert error(run("zzz", code=2)) == "no such command 'zzz'."


def test_the_nearest_option_is_named(run):
    said = error(run("query", "x.npy", "--treads", "3", code=2))
    assert said == "no such option '--treads'; did you mean '--threads'?"
    assert error(run("query", "x.npy", "--zzz", code=2)) == "no such option '--zzz'."


def test_aliases_are_their_commands(run):
    assert set(ALIASES.values()) <= set(COMMANDS)
    context = click.Context(cli)
    for alias, name in ALIASES.items():
        assert cli.get_command(context, alias) is cli.get_command(context, name)
    assert run("search", "x.npy").stdout == run("query", "x.npy").stdout


def test_n_is_k_and_ten_results_are_the_default(run):
    assert run("query", "x.npy", "-n", "3").stdout == run("query", "x.npy", "-k", "3").stdout
    found = json.loads(run("query", "x.npy", "--json").stdout)
    assert [len(answer["results"]) for answer in found] == [10] * 40


def test_json_is_a_format(run):
    text = run("query", "x.npy", "-n", "2", "--format", "json").stdout
    assert run("query", "x.npy", "-n", "2", "--json").stdout == text
    lines = run("query", "x.npy", "-n", "2", "--format", "ndjson").stdout.splitlines()
    assert json.loads(text) == [json.loads(line) for line in lines]
    said = error(run("query", "x.npy", "--json", "--format", "csv", code=2))
    assert said == "--json and --format csv exclude each other; choose one."


def test_no_query_is_an_empty_array(run, tmp_path):
    np.save(tmp_path / "none.npy", X[:0])
    assert json.loads(run("query", tmp_path / "none.npy", "--json").stdout) == []


def test_results_know_their_format_by_the_ending(run, tmp_path):
    run("query", "x.npy", "-n", "2", "-o", tmp_path / "out.json")
    text = run("query", "x.npy", "-n", "2", "--json").stdout
    assert (tmp_path / "out.json").read_text() == text
    said = error(run("query", "x.npy", "-o", tmp_path / "out.xml", code=2))
    assert said.endswith("choose a format with --format.")


@pytest.mark.parametrize(
    "args, said",
    [
        (
            ("x.npy", "a.jpg"),
            "x.npy is a file of vectors, and a.jpg is not; expected either images or files of "
            "vectors.",
        ),
        (("x.npy", "--exclude-self"), "--exclude-self is for images; files of vectors were given."),
        (
            ("x.npy", "--workers", "2", "-0"),
            "--null and --workers are for images; files of vectors were given.",
        ),
        (
            ("x.npy", "--format", "paths"),
            "the format paths is for images; hyperpq-index has vectors",
        ),
        (("a.jpg", "--format", "npz"), "the format npz is for files of vectors; images were given"),
        (("a.jpg", "--dataset", "a"), "--dataset is for files of vectors; images were given."),
        (
            ("a.jpg", "--refine", "0"),
            "0 is no image, and --refine takes no number; expected --refine or --no-refine alone.",
        ),
    ],
)
def test_what_does_not_go_together(run, args, said):
    assert error(run("query", *args, code=2)).startswith(said)


def test_the_index_of_a_folder_above(run, vectors, tmp_path):
    here = run("query", "x.npy").stdout
    assert run("query", "../../x.npy", cwd="sub/folder").stdout == here
    assert run("ls", cwd="sub").stdout == run("ls").stdout
    (vectors / "hyperpq-index").rename(vectors / "hyperpq-index.old-hyperpq")
    try:
        # As an interrupted replacement leaves it; readers go on with the former index.
        assert run("ls", cwd="sub").stdout == "".join(f"{i}\n" for i in range(40))
    finally:
        (vectors / "hyperpq-index.old-hyperpq").rename(vectors / "hyperpq-index")
    # A new index is made in the working directory, whatever is above.
    run("train", "../x.npy", "--epochs", "0", cwd="sub")
    assert (vectors / "sub/hyperpq-index").is_dir()
    assert run("ls", cwd="sub").stdout == ""
    for path in (vectors / "sub/hyperpq-index").rglob("*"):
        path.is_file() and path.unlink()


def test_an_index_that_is_named_is_not_looked_for(run, monkeypatch):
    said = error(run("ls", "--index", "hyperpq-index", cwd="sub/folder", code=1))
    assert "there is no index here" in said
    monkeypatch.setenv("HYPERPQ_INDEX", "none")
    assert "/none: there is no index here" in error(run("ls", cwd="sub/folder", code=1))
    monkeypatch.setenv("HYPERPQ_INDEX", "")
    assert "the path is empty" in error(run("ls", code=2))


def test_two_indexes_are_refused(run):
    said = error(run("query", "x.npy", "--index", "a", "--index", "b", code=2))
    assert said.startswith("--index is given 2 times; expected one index")


@pytest.mark.parametrize(
    "command, argument, kind",
    [
        ("query", "inputs", "file"),
        ("encode", "inputs", "file"),
        ("build", "folders", "file"),
        ("import", "inputs", "file"),
        ("export", "out", "file"),
        ("remove", "folders", "file"),
        ("ls", "folders", "file"),
        ("info", "index_path", "dir"),
        ("build", "index_path", "dir"),
        ("build", "codec", "dir"),
    ],
)
def test_shells_complete_paths(command, argument, kind):
    found = cli.get_command(click.Context(cli), command)
    (parameter,) = [p for p in found.params if p.name == argument]
    option = parameter.opts[-1] if isinstance(parameter, click.Option) else None
    typed = [command, *([option] if option else [])]
    items = ShellComplete(cli, {}, "hyperpq", "_X").get_completions(typed, "ab")
    assert [(item.type, item.value) for item in items] == [(kind, "ab")]


@pytest.mark.parametrize(
    "where, said",
    [
        ("kind == 'cta'", "no row has the kind 'cta'; did you mean 'cat'?"),
        ("'Dog' == kind", "no row has the kind 'Dog'; did you mean 'dog'?"),
        ("not (kind in ('dog', 'horse')) or year > 3", "no row has the kind 'horse'."),
        ("kind != 'cat' and kind == 'dog'", None),
        ("startswith(kind, 'zebra')", None),
    ],
)
def test_a_value_that_no_row_has_is_named(run, where, said):
    want = "" if said is None else f"hyperpq: {said}\n"
    for command in (("ls",), ("query", "x.npy")):
        stderr = run(*command, "--where", where).stderr
        assert stderr.startswith(want)
        assert (
            stderr.count("\n") <= 2 if want else not stderr or " fulfils the condition " in stderr
        )
    quiet = run("query", "x.npy", "--where", where, "-q")
    assert quiet.stderr == ""


@pytest.mark.parametrize(
    "where, said",
    [
        ("kind == cat", "text is written in quotes within the condition, as in \"kind == 'cat'\"."),
        ("kind == 'cat' and not 3 < eyar", "expected one of id, kind, year; did you mean year?"),
        ("breed == 'cat'", "expected one of id, kind, year."),
        ("year in (3, 4) or breed > year", "as in \"year == 'breed'\"."),
        ("knid == 'cat'", "expected one of id, kind, year; did you mean kind?"),
        ("Year > 3", "expected one of id, kind, year; did you mean year?"),
    ],
)
def test_a_column_that_is_not_there_is_an_error(run, where, said):
    assert error(run("ls", "--where", where, code=2)).endswith(said)


def test_ls_lists_rows(run):
    lines = run("ls", "--where", "kind == 'cat' and year < 5").stdout
    assert lines == "0\n2\n4\n"
    rows = run("ls", "--json", "--where", "year == 3").stdout
    assert [json.loads(row) for row in rows.splitlines()] == [{"id": 3, "kind": "dog", "year": 3}]


def test_ls_says_that_nothing_matches(run, hyperpq, place):
    done = run("list", "--where", "kind == 'cat' and year > 99")
    assert (done.stdout, done.stderr) == (
        "",
        "hyperpq: no vector fulfils the condition kind == 'cat' and year > 99\n",
    )
    assert run("ls", "-q", "--where", "year > 99").stderr == ""
    condition = "startswith(path, 'photos/')"
    done = hyperpq("ls", "--where", condition, "photos", cwd=place)
    assert (done.returncode, done.stdout) == (0, b"")
    assert done.stderr.decode() == (
        f"hyperpq: no image there fulfils the condition {condition}; paths of files are absolute, "
        "and 'photos/' is not.\n"
    )


def test_ls_names_the_folders_of_which_the_index_has_no_image(hyperpq, place):
    done = hyperpq("ls", "nowhere", "photos", "photos.txt", cwd=place)
    assert done.returncode == 1
    assert done.stdout == hyperpq("ls", cwd=place).stdout
    assert done.stderr.decode().splitlines() == [
        "hyperpq: no image of hyperpq-index is at or below nowhere.",
        "hyperpq: no image of hyperpq-index is at or below photos.txt.",
    ]


def test_ls_lists_images(hyperpq, place, photos):
    paths = [os.fspath(path) for path in photos]
    assert hyperpq("ls", cwd=place).stdout.decode().splitlines() == paths
    below = hyperpq("ls", "-0", photos[0].parent, cwd=place).stdout.decode()
    assert below == "".join(f"{p}\0" for p in paths if p.startswith(f"{photos[0].parent}/"))


def test_an_export_knows_its_format_by_the_ending(run, tmp_path):
    run("export", tmp_path / "out.CSV")
    with open(tmp_path / "out.CSV", newline="") as file:
        assert [int(row["id"]) for row in csv.DictReader(file)] == list(range(40))
    run("export", tmp_path / "out.h5")
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["ids"][:].tolist() == list(range(40))
    said = error(run("export", tmp_path / "out.txt", code=2))
    assert said.endswith(".faiss; choose a format with --format.")


def test_npz_files_are_read_as_numpy_wrote_them(run, tmp_path):
    want = run("query", "x.npy", "--json").stdout
    assert run("query", "one.npz", "--json").stdout == want
    assert run("query", "two.npz", "--dataset", "a", "--json").stdout == want
    said = error(run("query", "two.npz", code=2))
    assert said == (
        "two.npz has 2 arrays of two dimensions ('a', 'b'); choose one with dataset=NAME "
        "(--dataset NAME)."
    )
    assert error(run("query", "two.npz", "--dataset", "c", code=2)).endswith("it has 'a', 'b'.")


def test_the_end_of_the_output_is_the_end_of_the_program():
    """An interpreter with PyTorch takes a second to take itself apart, and that is left out."""
    program = (
        "import atexit, sys\n"
        "from hyperpq.cli import main\n"
        "class Slow:\n"
        "    def __del__(self): print('taken apart', flush=True)\n"
        "sys.slow = Slow()\n"
        "atexit.register(lambda: print('handlers run'))\n"
        "sys.argv = ['hyperpq', *sys.argv[1:]]\n"
        "main.main()\n"
    )
    for args, code in ((["--version"], 0), (["ls", "--index", "none"], 1), (["zzz"], 2)):
        done = subprocess.run(
            [sys.executable, "-c", program, *args], capture_output=True, text=True, check=False
        )
        assert done.returncode == code
        assert done.stdout.endswith("handlers run\n")
        assert "taken apart" not in done.stdout
