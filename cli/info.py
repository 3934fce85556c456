"""`hyperpq info`: what is installed, what the machine has, and what an index contains."""

from __future__ import annotations

import json
from pathlib import Path

import click

from hyperpq.cli import looks, options, output
from hyperpq.cli.text import for_json


@click.command("info")
@options.index_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--html",
    type=options.PATH,
    metavar="OUT",
    help="Write a page about the index instead, such as report.html, with charts of its codewords, "
    "curvatures, distances, groups and training.",
)
@click.option("--open", "open_page", is_flag=True, help="Open the page of --html in a browser.")
def command(index_path: Path, as_json: bool, html: Path | None, open_page: bool) -> None:
    """Show versions, devices, kernels, backbones and the index."""
    if html is not None:
        if as_json:
            raise options.both_given("--json", "--html")
        _write_report(index_path, html)
        if open_page:
            looks.open_in_browser(html)
        return
    if open_page:
        raise click.UsageError("--open is given without --html; name the page with --html.")
    from hyperpq.diagnostics import describe

    sections = describe(index_path)
    if as_json:
        output.emit(json.dumps(for_json(sections), indent=1) + "\n")
        return
    for title, content in sections.items():
        lines = output.table((f"  {key}", _shown(value)) for key, value in content.items())
        output.emit(f"{title}\n{lines}")


def _write_report(index_path: Path, out: Path) -> None:
    from hyperpq.diagnostics import describe_index
    from hyperpq.explore import CodeDistances, Exploration, TrainingTrace
    from hyperpq.gallery import write_report
    from hyperpq.index import HiHPQIndex
    from hyperpq.utils.output_files import check_writable

    check_writable(out)
    view = HiHPQIndex.load(index_path, device="cpu", read_only=True).view()
    write_report(
        out,
        Exploration(view),
        describe_index(index_path),
        distances=CodeDistances.of(view),
        trace=TrainingTrace.read(index_path),
    )


def _shown(value: object) -> object:
    return f"{value:,}" if isinstance(value, int) else value
