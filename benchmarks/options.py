"""Command-line options that several benchmarks share, and parsers of their values."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

# The published pages.
RESULTS = Path("docs/results")


def add_dataset_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--dataset``, ``--data``, ``--queries``, ``--backbone`` and `add_cache_options`."""
    parser.add_argument(
        "--dataset",
        required=True,
        help="cifar10-ii, cifar10-i, flickr25k, nuswide, drawn or folder:PATH (class folders)",
    )
    parser.add_argument(
        "--data", type=Path, help="folder of the images; not needed once features are cached"
    )
    parser.add_argument(
        "--queries",
        type=count,
        metavar="N",
        help="number of queries (default: 1,000 of a folder, 2,000 of CIFAR-10, or as published)",
    )
    add_cache_options(parser)
    # See `results_folder`.
    parser.set_defaults(out=None)
    parser.add_argument("--backbone", default="lite0", help="network (default lite0)")


def add_cache_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--features`` and ``--out``."""
    parser.add_argument(
        "--features", type=Path, required=True, help="cache folder of features and runs"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=RESULTS,
        help="folder of the page and its plots (default docs/results; for folder:PATH "
        "CACHE/results)",
    )


def results_folder(args: argparse.Namespace) -> Path:
    """``--out``, or where the page belongs: figures of images of one's own beside the features."""
    if args.out is not None:
        return Path(args.out)
    own = args.dataset.startswith("folder:")
    return Path(args.features) / "results" if own else RESULTS


def add_published_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--published``."""
    parser.add_argument(
        "--published",
        action="store_true",
        help="take up published runs of the same features, protocol, recipe and code instead of "
        "measuring them",
    )


def add_seed_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--seeds`` and ``--jobs``."""
    parser.add_argument(
        "--seeds", type=count, default=3, help="number of seeds, counted from 0 (default 3)"
    )
    parser.add_argument(
        "--jobs", type=count, default=1, help="number of processes side by side (default 1)"
    )


def count(text: str) -> int:
    """Parse a whole number that is 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text}; expected a whole number, 1 or more")
    return int(text)


def some_of(choices: Sequence[str]) -> Callable[[str], list[str]]:
    """Parser of ``all``, ``none`` or some of the choices, separated by commas."""

    def parse(text: str) -> list[str]:
        found = {"all": list(choices), "none": []}.get(text, text.split(","))
        if unknown := [name for name in found if name not in choices]:
            raise argparse.ArgumentTypeError(
                f"there is no {', '.join(unknown)}; "
                f"expected all, none or some of {', '.join(choices)}"
            )
        return found

    return parse


def code_lengths(choices: Sequence[int]) -> Callable[[str], list[int]]:
    """Parser of code lengths in bits, separated by commas; the result is sorted."""

    def parse(text: str) -> list[int]:
        words = text.split(",")
        if unknown := [word for word in words if word not in map(str, choices)]:
            raise argparse.ArgumentTypeError(
                f"there are no codes of {', '.join(unknown)} bits; "
                f"expected some of {', '.join(map(str, choices))}"
            )
        return sorted({int(word) for word in words})

    return parse
