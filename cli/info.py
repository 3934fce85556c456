"""`hyperpq info`: what is installed, what this machine has, what an index holds."""

from __future__ import annotations

import json
from pathlib import Path

import click

from hyperpq.cli import common


@click.command("info")
@common.index_option
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def command(index_path: Path, as_json: bool) -> None:
    """Show versions, devices, kernels, backbones and, if there is one, the index."""
    from hyperpq.cli.report import describe

    sections = describe(index_path)
    if as_json:
        common.emit(json.dumps(sections, indent=1) + "\n")
        return
    for title, content in sections.items():
        common.emit(f"{title}\n")
        common.emit(common.facts((f"  {key}", value) for key, value in content.items()))
