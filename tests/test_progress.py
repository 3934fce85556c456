"""The parameter ``progress`` of the library: True draws bars, False and None draw nothing."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

from hyperpq import HiHPQIndex, PQCodec
from hyperpq.errors import InvalidInputError
from hyperpq.progress import RichProgress, SilentProgress, as_progress

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).normal(size=(300, 8)).astype("float32")


def test_what_may_be_given():
    mine = RichProgress()
    assert as_progress(mine) is mine
    assert type(as_progress(True)) is RichProgress
    for silent in (False, None):
        assert type(as_progress(silent)) is SilentProgress
    for wrong in ("yes", 1, print):
        with pytest.raises(InvalidInputError, match=r"progress is of type .*; expected True"):
            as_progress(wrong)


def test_bars_of_training_adding_and_searching(x, capfd):
    index = HiHPQIndex(8, M=2, device="cpu")
    index.train(x, epochs=1, progress=True)
    assert "train" in capfd.readouterr().err
    index.add(x, progress=True)
    assert "300/300" in capfd.readouterr().err
    shown = index.search(x[:5], 3, progress=True)
    assert "5/5" in capfd.readouterr().err
    quiet = index.search(x[:5], 3, progress=False)
    assert capfd.readouterr().err == ""
    assert all((a == b).all() for a, b in zip(shown, quiet, strict=True))
    PQCodec.fit(x, 2, progress=True)
    assert "codebooks" in capfd.readouterr().err


def test_every_parameter_of_that_name_takes_true():
    """Public functions give it to `as_progress`, and their annotation says so."""
    wrong = []
    for folder in ("hyperpq", "cli", "datasets"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                    arguments = node.args
                    defaults = dict(
                        zip(reversed(arguments.args), reversed(arguments.defaults), strict=False)
                    ) | dict(zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True))
                    wrong += [
                        f"{path.name}: {node.name}"
                        for argument, default in defaults.items()
                        if argument.arg == "progress"
                        and isinstance(default, ast.Constant)
                        and default.value is None
                        and ast.unparse(argument.annotation) != "ProgressLike"
                    ]
    assert wrong == []
