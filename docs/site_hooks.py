"""Hooks of the documentation site (`mkdocs.yml`): pages from outside `docs/`, formulas, sources.

GitHub shows the same Markdown files as the site. Three things differ there, and these hooks
translate them:

- `README.md`, `CONTRIBUTING.md` and other files of the repository are pages of the site, too, and
  links between files become links between pages.
- GitHub's formulas (dollar sign and backtick, or a block of `math`) become MathML while the site is
  built. Browsers show it without JavaScript.
- `cli/` and `datasets/` lie at the top of the repository and install inside the package. The API
  reference reads a copy of the sources in which they do.
"""

from __future__ import annotations

import posixpath
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element

from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor
from markdown.preprocessors import Preprocessor
from math_core import LatexToMathML
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

if TYPE_CHECKING:
    from markdown import Markdown
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
# File of the repository -> page of the site.
OUTSIDE_PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "benchmarks/README.md": "results/benchmarks.md",
}
FENCE = re.compile(r"^(```|~~~).*?^\1[ \t]*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
_sources = ""


@event_priority(100)  # Before the plugin mkdocstrings, which reads its settings there.
def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the formulas to the Markdown, and tell the API reference where the sources are."""
    global _sources
    config.markdown_extensions.append(_Formulas())
    _sources = tempfile.mkdtemp(prefix="hyperpq-docs-")
    package = Path(_sources, "hyperpq")
    unwanted = shutil.ignore_patterns("__pycache__", "*.so", "native")
    shutil.copytree(ROOT / "hyperpq", package, ignore=unwanted)
    for folder in ("cli", "datasets"):
        shutil.copytree(ROOT / folder, package / folder, ignore=unwanted)
    handlers: dict[str, Any] = config.plugins["mkdocstrings"].config.handlers
    handlers["python"]["paths"] = [_sources]
    return config


def on_post_build(config: MkDocsConfig) -> None:
    """Remove the copy of the sources."""
    shutil.rmtree(_sources, ignore_errors=True)


def on_build_error(error: Exception) -> None:
    """Remove the copy of the sources."""
    shutil.rmtree(_sources, ignore_errors=True)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Make pages of files outside `docs/`."""
    for source, page in OUTSIDE_PAGES.items():
        text = rewrite_links((ROOT / source).read_text("utf-8"), source, page)
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links of a page in `docs/` that lead out of it."""
    uri = page.file.src_uri
    if uri in OUTSIDE_PAGES.values():
        return markdown
    if uri.startswith("results/"):
        # A figure and its deviation stay on one line in narrow columns.
        markdown = markdown.replace(" ± ", "\u00a0±\u00a0")
    return rewrite_links(markdown, f"docs/{uri}", uri)


def rewrite_links(text: str, source: str, page: str) -> str:
    """Links between files of the repository, as links between pages.

    Parameters
    ----------
    text : str
        Markdown of the file ``source``.
    source : str
        Path of the file below the root of the repository.
    page : str
        Path of the page below ``docs/``.

    Returns
    -------
    str
        The same text. A link to a file that is no page of the site, such as one to source code,
        is its text alone.
    """

    def replaced(match: re.Match[str]) -> str:
        image, label, target = match.groups()
        path, hash_sign, anchor = target.partition("#")
        if not path or re.match(r"[a-z]+:", target):
            return match.group()
        file = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if file in OUTSIDE_PAGES:
            other = OUTSIDE_PAGES[file]
        elif file.startswith("docs/") and not file.endswith(".py"):
            other = file.removeprefix("docs/")
        else:
            return str(label)
        other = posixpath.relpath(other, posixpath.dirname(page) or ".")
        return f"{image}[{label}]({other}{hash_sign}{anchor})"

    out, end = [], 0
    for fence in FENCE.finditer(text):
        out += [LINK.sub(replaced, text[end : fence.start()]), fence.group()]
        end = fence.end()
    return "".join([*out, LINK.sub(replaced, text[end:])])


class _Formulas(Extension):
    """Formulas as GitHub writes them, made into MathML."""

    def extendMarkdown(self, md: Markdown) -> None:
        # Before fenced code (25) and before code spans (190).
        md.preprocessors.register(_FormulaBlocks(md), "formula_blocks", 26)
        md.inlinePatterns.register(_FormulaSpans(r"\$`(.+?)`\$", md), "formulas", 195)


class _FormulaBlocks(Preprocessor):
    def run(self, lines: list[str]) -> list[str]:
        text = re.sub(r"^```math\n(.*?)^```$", self._stored, "\n".join(lines), flags=re.M | re.S)
        return text.split("\n")

    def _stored(self, match: re.Match[str]) -> str:
        mathml = _mathml(match.group(1).strip(), block=True)
        return self.md.htmlStash.store(f'<div class="formula">{mathml}</div>')


class _FormulaSpans(InlineProcessor):
    def handleMatch(self, m: re.Match[str], data: str) -> tuple[str | Element, int, int]:
        return self.md.htmlStash.store(_mathml(m.group(1), block=False)), m.start(), m.end()


def _mathml(latex: str, *, block: bool) -> str:
    converter = LatexToMathML(fancy_error=False)
    return converter.convert_with_local_state(latex, displaystyle=block)
