"""`hyperpq build`: build an index from folders of images, or bring it up to date."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hyperpq.cli import index_kind, options, output


@click.command("build")
@click.argument("folders", nargs=-1, type=options.PATH, metavar="DIR...")
@click.option(
    "--images",
    multiple=True,
    type=options.PATH,
    metavar="DIR",
    help="Folder of images, the same as an argument DIR.",
)
@options.new_index_option
@options.training_options
@click.option(
    "--backbone",
    metavar="NAME",
    help="Image encoder; `hyperpq info` lists the names. [default: lite0]",
)
@click.option(
    "--train-size",
    type=options.Whole(min=1),
    help="Largest number of images to train on. [default: 25000]",
)
@click.option(
    "--view-size",
    type=options.Whole(min=0),
    help="Largest number of training images that augmented views are made of. [default: 5000]",
)
@click.option(
    "--codec",
    type=options.FOLDER,
    metavar="INDEX",
    help="Use the codec of another index for a new one, at the length --bits, instead of training. "
    "It should have been trained on images of the same kind.",
)
@click.option(
    "--max-megapixels",
    type=float,
    help="Skip images with more megapixels. [default: 200]",
)
@click.option(
    "--features",
    type=click.Choice(["int8", "float16", "float32", "none"]),
    help="How the index keeps the features of its images, with which it can learn again when it "
    "has grown: 1,284 bytes an image as int8. [default: int8]",
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    help="What the network computes in on a GPU; the index records it. On a CPU a network computes "
    "in float32. [default: float32]",
)
@options.finetune_option
@options.relearn_option
@options.device_option
@options.workers_option
@options.exclude_option
@options.hidden_option
@click.option("--resume", is_flag=True, help="Continue an interrupted build.")
@click.option("--overwrite", is_flag=True, help="Replace an existing index.")
@click.option(
    "--allow-empty",
    is_flag=True,
    help="Accept that a folder DIR has no images any more, or is gone, and remove its images from "
    "the index. Otherwise that is an error, as a disk that is not mounted looks like that.",
)
@options.quiet_option
def command(
    folders: tuple[Path, ...],
    images: tuple[Path, ...],
    index_path: Path,
    relearn: bool | None,
    device: str,
    workers: int | str,
    resume: bool,
    overwrite: bool,
    allow_empty: bool,
    quiet: bool,
    **chosen: Any,
) -> None:
    """Build an index of images, or bring it up to date.

    The index contains the images in and below the folders DIR. If it exists already, the command
    adds new and changed images, removes images that no longer exist, and encodes no image twice.
    Images that cannot be read now, or are in a folder that cannot be read, stay in the index.
    """
    if not images and not folders:
        raise click.UsageError("no folder of images was given; expected at least one DIR.")
    is_anew = resume or overwrite
    if not is_anew:
        advice = "; name another --index for the images"
        index_kind.need_images(index_path, advice, may_be_new=True)
    roots = index_kind.image_roots(
        [*images, *folders], None if is_anew else index_path, quiet=quiet
    )
    from hyperpq.images.build import build_index, working_directory
    from hyperpq.images.build.options import check_codec_alone
    from hyperpq.training.finetune_settings import FinetuneSettings

    check_codec_alone(options.given(**chosen), options.shown)
    if chosen["finetune"] is options.WITHOUT_LIMIT:
        chosen["finetune"] = FinetuneSettings()
    try:
        with output.progress(quiet) as progress:
            index, report = build_index(
                roots,
                index_path,
                device=device,
                workers=workers,
                resume=resume,
                overwrite=overwrite,
                allow_empty=allow_empty,
                progress=progress,
                **options.relearning(relearn),
                **options.given(**chosen),
            )
    except KeyboardInterrupt:
        begun = working_directory(index_path).exists()
        how = " with --resume" if begun and not resume else " again"
        raise KeyboardInterrupt(f"run the same command{how} to continue") from None
    if quiet:
        return
    codes = index.index
    facts: output.Facts = [("images", f"{report.images:,}")]
    is_new = report.added == report.images and not report.removed
    facts += [
        *(
            output.unread(report, index_path)
            if is_new
            else output.changes(report, index, index_path)
        ),
        *([("fine-tuned", report.finetuned)] if report.finetuned else []),
        ("code", f"{codes.M * codes.nbits} bits, {codes.code_size} bytes per image"),
        ("seconds", output.seconds(report.seconds)),
        ("index", index_path),
        ("next", output.query_command(index, index_path)),
    ]
    output.emit_summary(facts)
