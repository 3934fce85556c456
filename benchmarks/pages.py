"""Tables and plots of the pages that benchmarks write."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperpq.errors import MissingDependencyError

MADE = "How this page is made"


def spread_of(values: NDArray[Any]) -> NDArray[np.float64]:
    """Standard deviation (n - 1) over the first axis; NaN for a single run."""
    if len(values) > 1:
        return np.asarray(values.std(0, ddof=1))
    return np.full(values.shape[1:], np.nan)


def format_number(value: float) -> str:
    """Three decimals without the leading zero, as in ``.553``."""
    return f"{value:.3f}".removeprefix("0")


def format_mean(mean: float, spread: float, bold: bool = False) -> str:
    """Mean and spread, as in ``.553 ± .002``; a spread that is NaN is left out."""
    text = format_number(mean)
    text = f"**{text}**" if bold else text
    return text if np.isnan(spread) else f"{text} ± {format_number(spread)}"


def markdown_table(lines: list[list[str]]) -> str:
    """A Markdown table; the first line is its header."""
    rule = ["---"] * len(lines[0])
    return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]])


def origin(script: str, section: str) -> str:
    """The sentence that names the script of a page, with a link to its section of the README."""
    link = f"[how to run it](../../benchmarks/README.md#{section})"
    return f"`python -m benchmarks.{script}` makes this page ({link})."


def listed(words: Sequence[str]) -> str:
    """Words as a part of a sentence, as in ``a, b and c``."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def write_page(
    page: Path, title: str, found: str, sections: Mapping[str, str], made: Iterable[str]
) -> Path:
    """Write a page of results.

    Parameters
    ----------
    page : Path
        The file.
    title, found : str
        The title, and what was found in two to four sentences.
    sections : dict
        Text by heading.
    made : iterable of str
        Paragraphs that say how the page is made; they are its end.

    Returns
    -------
    Path
        ``page``.
    """
    parts = [f"# {title}", found]
    parts += [f"## {heading}\n\n{text}" for heading, text in sections.items()]
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n\n".join([*parts, f"## {MADE}", *made]) + "\n", "utf-8")
    return page


def with_kept_sections(page: Path, sections: Mapping[str, str]) -> dict[str, str]:
    """Sections of data sets, sorted, with those of an existing page that are not given now."""
    earlier = page.read_text("utf-8") if page.exists() else ""
    found = re.findall(r"^## (.*)\n((?:(?!## ).*\n?)*)", earlier, re.MULTILINE)
    kept = {heading: text.strip() for heading, text in found if heading != MADE}
    return dict(sorted((kept | dict(sections)).items()))


def import_pyplot() -> Any:
    """Import `matplotlib.pyplot` with a backend that needs no screen.

    Raises
    ------
    MissingDependencyError
        If matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise MissingDependencyError(
            "matplotlib is missing; install it with `pip install 'hyperpq[dev]'`."
        ) from error
    matplotlib.use("agg")
    # The same figures give the same file.
    matplotlib.rcParams["svg.hashsalt"] = "hyperpq"
    import matplotlib.pyplot

    return matplotlib.pyplot
