"""`hyperpq duplicates`: find near-duplicates, and link or move copies if that is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hyperpq.cli import conditions, index_kind, looks, options, output
from hyperpq.cli.text import quoted

if TYPE_CHECKING:
    from hyperpq.duplicates import Duplicates, Report

_ENDINGS = {".json": "json", ".csv": "csv", ".txt": "table"}


@dataclass(frozen=True)
class _Act:
    """What is done with copies."""

    link: bool
    move_to: Path | None
    undo: Path | None
    dry_run: bool

    def __post_init__(self) -> None:
        asked = [
            name
            for name, value in (
                ("--link", self.link),
                ("--move-to", self.move_to),
                ("--undo", self.undo),
            )
            if value
        ]
        if len(asked) > 1:
            raise options.both_given(asked[0], asked[1])
        if self.dry_run and not asked:
            raise click.UsageError(
                "--dry-run is given without --link, --move-to or --undo; without these, files are "
                "only listed anyway."
            )


@click.command("duplicates")
@options.index_option
@click.option(
    "--level",
    type=click.Choice(["same", "similar", "all"]),
    default="all",
    show_default=True,
    help="Which groups are listed: of the same image, of similar shots, or both.",
)
@click.option(
    "--keep",
    type=click.Choice(["largest", "oldest", "path"]),
    default="largest",
    show_default=True,
    help="Which image of a group is kept: that with most pixels, and of several the oldest; the "
    "oldest; or the first by path.",
)
@click.option(
    "--reference",
    type=options.FOLDER,
    multiple=True,
    metavar="DIR",
    help="A folder whose images are kept in any case. The option can be repeated.",
)
@click.option(
    "--ignore-within-folder",
    is_flag=True,
    help="Two images in one folder never belong together.",
)
@click.option(
    "--where",
    type=options.TEXT,
    metavar="CONDITION",
    help='Look only at what fulfils a condition, such as "width >= 512"; see '
    "docs/how-to/filters.md.",
)
@click.option(
    "--format",
    "style",
    type=click.Choice(["table", "json", "csv"]),
    help="Format of the groups. [default: by the ending of OUT; table without --out]",
)
@options.json_option
@click.option(
    "-o",
    "--out",
    type=options.PATH,
    metavar="OUT",
    help="File to write the groups to, such as groups.csv.",
)
@click.option(
    "--html",
    type=options.PATH,
    metavar="OUT",
    help="Write a page on which images are compared side by side, such as groups.html.",
)
@click.option("--open", "open_page", is_flag=True, help="Open the page of --html in a browser.")
@click.option(
    "--link",
    is_flag=True,
    help="Replace copies whose bytes are those of the image that is kept by hard links to it.",
)
@click.option(
    "--move-to",
    type=options.FOLDER,
    metavar="DIR",
    help="Move copies to a folder on the same file system.",
)
@click.option(
    "--undo",
    type=options.PATH,
    metavar="LIST",
    help="Take back what --link or --move-to did, by the list that it wrote; nothing is searched.",
)
@click.option(
    "--dry-run", is_flag=True, help="Say what --link, --move-to or --undo would do, and do nothing."
)
@click.option(
    "--candidates",
    type=options.Whole(1, 1000),
    default=10,
    show_default=True,
    help="Number of neighbours of each image that it is compared with.",
)
@click.option(
    "--sample",
    type=options.Whole(min=2),
    default=100,
    show_default=True,
    help="Number of images of which copies are made to learn the thresholds.",
)
@click.option(
    "--seed", type=options.Whole(min=0), default=0, show_default=True, help="Seed of these copies."
)
@click.option(
    "--work",
    type=options.PATH,
    metavar="FILE",
    show_default="INDEX.duplicates",
    help="File that keeps what was found out; lists for --undo are written beside it.",
)
@options.threads_option
@options.device_option
@options.workers_option
@options.quiet_option
def command(
    index_path: Path,
    level: str,
    keep: str,
    reference: tuple[Path, ...],
    ignore_within_folder: bool,
    where: str | None,
    style: str | None,
    as_json: bool,
    out: Path | None,
    html: Path | None,
    open_page: bool,
    link: bool,
    move_to: Path | None,
    undo: Path | None,
    dry_run: bool,
    candidates: int,
    sample: int,
    seed: int,
    work: Path | None,
    threads: int | None,
    device: str,
    workers: int | str,
    quiet: bool,
) -> None:
    """Find the same image in several files, and similar shots.

    The same image is one that was compressed again, resized, cropped, watermarked, framed,
    recoloured, turned a little or mirrored. A similar shot is another photo of the same scene, as
    in a burst; it is listed, and nothing is proposed for it. The thresholds are learned on copies
    that the command makes of a sample of the images.

    Groups are only listed, unless --link or --move-to is given; no file is ever deleted. What was
    found out is kept in a file beside the index (INDEX.duplicates), so that the next run is quick
    and an interrupted one goes on.
    """
    act = _Act(link, move_to, undo, dry_run)
    if undo is not None:
        _undo(undo, dry_run, quiet)
        return
    if open_page and html is None:
        raise click.UsageError("--open is given without --html; name the page with --html.")
    style = output.format_of_file(options.format_of(style, as_json), out, _ENDINGS)
    conditions.check_quoted(where, ())
    index_kind.need_images(index_path, "; near-duplicates are found among images")
    from hyperpq.duplicates import Settings, default_work_file, find, write_comparison
    from hyperpq.duplicates.listing import WRITERS, facts
    from hyperpq.images import ImageIndex
    from hyperpq.utils.output_files import check_writable

    for file in (out, html):
        if file is not None:
            check_writable(file)
    settings = Settings(
        keep,  # type: ignore[arg-type]
        reference,
        ignore_within_folder,
        where,
        candidates,
        sample,
        seed,
        threads,
        workers,
    )
    with output.progress(quiet) as progress:
        images = ImageIndex.open(index_path, device=device, read_only=True)
        work = work or default_work_file(index_path)
        found = find(images, settings, work=work, progress=progress).of_level(level)
    if not quiet:
        output.warn_of_values(index_path, where)
    # A page is enough, unless groups are asked for as text, too.
    if html is None or style != "table" or out is not None:
        output.emit_to(out, WRITERS[style](found))
    if html is not None:
        write_comparison(html, found, max_megapixels=images.max_megapixels)
        if open_page:
            looks.open_in_browser(html)
    if not quiet and (style == "table" or out is not None):
        output.emit_summary([*facts(found)], out)
    _do(act, found, work.parent, quiet)


def _do(act: _Act, found: Duplicates, lists: Path, quiet: bool) -> None:
    """Link or move copies, if that was asked for; the folder of lists for --undo is given."""
    from hyperpq.duplicates import link, move

    if act.link:
        _tell("linked", link(found.groups, lists, dry_run=act.dry_run), act.dry_run, quiet)
    if act.move_to is not None:
        report = move(found.groups, act.move_to, lists, dry_run=act.dry_run)
        _tell("moved", report, act.dry_run, quiet)


def _undo(file: Path, dry_run: bool, quiet: bool) -> None:
    from hyperpq.duplicates import undo

    _tell("taken back", undo(file, dry_run=dry_run), dry_run, quiet)


def _tell(verb: str, report: Report, dry_run: bool, quiet: bool) -> None:
    """Say what was done, on stderr, as stdout may hold JSON."""
    if dry_run:
        verb = f"would be {verb}"
        for step in report.steps:
            output.note(f"{verb}: {quoted(step.path)} (to {quoted(step.target)})")
    for path, reason in report.kept.items():
        output.warn(path, f"left as it is: {reason}")
    if quiet:
        return
    output.note(f"{len(report.steps):,} files {verb}.")
    if report.undo is not None:
        output.note(f"to take this back: hyperpq duplicates --undo {quoted(bytes(report.undo))}")
