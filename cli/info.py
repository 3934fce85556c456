"""`hyperpq info`: what is installed, what the machine has, and what an index contains."""

from __future__ import annotations

import json
from pathlib import Path

import click

from hyperpq.cli import options, output
from hyperpq.cli.text import for_json


@click.command("info")
@options.index_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(index_path: Path, as_json: bool) -> None:
    """Show versions, devices, kernels, backbones and the index."""
    from hyperpq.diagnostics import describe

    sections = describe(index_path)
    if as_json:
        output.emit(json.dumps(for_json(sections), indent=1) + "\n")
        return
    for title, content in sections.items():
        lines = output.table((f"  {key}", _shown(value)) for key, value in content.items())
        output.emit(f"{title}\n{lines}")


def _shown(value: object) -> object:
    return f"{value:,}" if isinstance(value, int) else value
