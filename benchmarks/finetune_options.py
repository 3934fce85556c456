"""The command line of `benchmarks.finetune`."""

from __future__ import annotations

import argparse
import ast
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.options import RESULTS, code_lengths, count, some_of
from hyperpq.training import FinetuneSettings

BITS = (16, 32, 64)
STEPS = ("frozen", "tuned", "codes", "paper")
# Minutes of fine-tuning in each protocol.
MINUTES = {"II": 2.5, "I": 5.0}


@dataclass(frozen=True)
class Options:
    """What is measured, and where.

    Attributes
    ----------
    data, work : Path
        Folder of CIFAR-10, and of what has been measured.
    backbone, device : str
        The network, and where it runs.
    bits : list of int
        Code lengths.
    limit : int or None
        Training images, to try the command.
    settings : FinetuneSettings
        Of fine-tuning, without the seed.
    minutes : float or None
        Time limit in place of that of the protocol; 0 for the epochs of the settings.
    """

    data: Path
    work: Path
    backbone: str
    device: str
    bits: list[int]
    limit: int | None
    settings: FinetuneSettings
    minutes: float | None

    def of(self, which: str, seed: int) -> FinetuneSettings:
        """The settings for a protocol and a seed."""
        minutes = MINUTES[which] if self.minutes is None else self.minutes
        return replace(self.settings, minutes=minutes, seed=seed)


def assignment(text: str) -> tuple[str, Any]:
    """A field of `FinetuneSettings` and its value, of FIELD=VALUE."""
    name, equal, value = text.partition("=")
    if not equal:
        raise SystemExit(f"--set {text}: expected FIELD=VALUE")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def parser(description: str) -> argparse.ArgumentParser:
    """Of the command line."""
    found = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument("--data", type=Path, required=True, help="folder of CIFAR-10")
    found.add_argument("--work", type=Path, required=True, help="folder of runs and weights")
    found.add_argument("--out", type=Path, default=RESULTS, help="folder of the page")
    found.add_argument("--which", type=some_of(("II", "I")), default=["II"], help="protocols")
    found.add_argument("--bits", type=code_lengths(BITS), default=list(BITS), help="code lengths")
    found.add_argument(
        "--steps", type=some_of(STEPS), default=["frozen", "tuned", "codes"], help="what to measure"
    )
    found.add_argument("--seeds", type=count, default=1, help="number of seeds (default 1)")
    found.add_argument("--first-seed", type=int, default=0, help="the first seed (default 0)")
    found.add_argument("--backbone", default="lite0", help="network (default lite0)")
    found.add_argument("--device", default="auto", help="cuda, cuda:N or cpu")
    found.add_argument(
        "--minutes", type=float, help="of fine-tuning (default 2.5 for II, 5 for I; 0: by epochs)"
    )
    found.add_argument("--budget", type=float, help="seconds after which no step begins")
    found.add_argument("--limit", type=count, help="training images, to try the command")
    found.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="a field of FinetuneSettings, such as learning_rate=6e-4; may be repeated",
    )
    return found
