"""`hyperpq build`: an index from folders of images."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from hyperpq.cli import common


@click.command("build")
@click.argument("more", nargs=-1, type=common.PATH, metavar="[DIR]...")
@click.option(
    "--images",
    multiple=True,
    required=True,
    type=common.PATH,
    metavar="DIR",
    help="Folder of images; more may follow it.",
)
@common.index_option
@common.training_options
@click.option("--backbone", metavar="NAME", help="Image encoder, see `hyperpq info`. [lite0]")
@click.option("--train-size", type=click.IntRange(min=1), help="Images to train on. [25000]")
@click.option(
    "--view-size",
    type=click.IntRange(min=0),
    help="Those of them that augmented views are made of. [5000]",
)
@click.option(
    "--codec",
    type=common.PATH,
    metavar="INDEX",
    help="A new index takes the codec of this one, at the length of --bits; it should have learned "
    "from images of the same kind.",
)
@click.option("--max-megapixels", type=float, help="Skip larger images. [200]")
@common.device_option
@common.workers_option
@common.exclude_option
@common.hidden_option
@click.option("--resume", is_flag=True, help="Go on with an interrupted build.")
@click.option("--overwrite", is_flag=True, help="Replace the index that is there.")
@common.quiet_option
def command(
    more: tuple[Path, ...],
    images: tuple[Path, ...],
    index_path: Path,
    device: str,
    workers: int,
    resume: bool,
    overwrite: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Build an index of all images below DIR, or bring it up to date.

    Built again over the same folders, it adds what is new, forgets what is gone and encodes nothing
    twice.
    """
    from hyperpq.images.build import build_index, working_directory

    try:
        index, report = build_index(
            [*images, *more],
            index_path,
            device=device,
            workers=workers,
            resume=resume,
            overwrite=overwrite,
            progress=common.progress(quiet),
            **common.given(**options),
        )
    except KeyboardInterrupt:
        begun = working_directory(index_path).exists()
        how = " and --resume" if begun and not resume else ""
        raise KeyboardInterrupt(f"go on with the same command{how}") from None
    if quiet:
        return
    lines: list[tuple[str, object]] = [("images", f"{report.images:,}")]
    if report.added != report.images or report.forgotten:
        lines += [("added", f"{report.added:,}"), ("forgotten", f"{report.forgotten:,}")]
    bits = index.index.M * index.index.nbits
    place = (
        "" if index_path == Path("hyperpq-index") else f" --index {shlex.quote(str(index_path))}"
    )
    name = index.backbone_identity["name"]
    if name.startswith("torchscript:"):
        place += f" --backbone {shlex.quote(name)}"
    lines += [
        ("skipped", common.skipped_summary(report.skipped, index_path)),
        ("code", f"{bits} bits, {index.index.code_size} bytes an image"),
        ("seconds", common.seconds(report.seconds)),
        ("index", index_path),
        ("next", f"hyperpq query IMG -k 10{place}"),
    ]
    common.emit(common.facts(lines))
