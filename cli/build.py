"""`hyperpq build`: build an index from folders of images, or bring it up to date."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hyperpq.cli import index_kind, learning_options, options, output, ray_cluster


@click.command("build")
@click.argument("folders", nargs=-1, type=options.SOURCE, metavar="DIR...")
@click.option(
    "--images",
    multiple=True,
    type=options.SOURCE,
    metavar="DIR",
    help="Folder or tar file of images, the same as an argument DIR; {0000..0099} in it stands for "
    "each of these numbers. Or the URL of a folder in object storage, such as s3://bucket/folder.",
)
@click.option(
    "--images-from",
    type=options.TEXT,
    metavar="FILE",
    help="File with the path or URL of one image, or the path of a tar file of images, per line, "
    "or - for stdin, in place of folders. The index is a new one, and records no folder, so that "
    "hyperpq update does not apply to it.",
)
@click.option(
    "-0",
    "--null",
    is_flag=True,
    help="Paths of --images-from end with a NUL, as `find -print0` writes them.",
)
@options.new_index_option
@learning_options.training_options(with_network=True)
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
    "--n-views",
    type=options.Whole(min=1),
    help="Augmented views of each of these images, each a pass of the network. [default: 2; 4 with "
    "--recipe paper]",
)
@click.option(
    "--views",
    type=click.Choice(["auto", "files", "device"]),
    help="Where views are made: by the workers from the files, or on the device of the network "
    "from squares of its size. auto chooses device on a GPU, and the index records which. "
    "[default: auto]",
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
    "--cells",
    type=options.CELLS,
    metavar="auto|N",
    help="Group the codes of a new index by N cells, of which hyperpq query --nprobe searches "
    "some: for millions of images. auto makes one for each thousand images. [default: none]",
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "int8", "bfloat16", "float16"]),
    help="What the network computes in; the index records it. int8 is about twice as fast on CPUs, "
    "for embedded networks; bfloat16 and float16 are for GPUs. auto chooses int8 for lite0 on a "
    "CPU where a short trial finds it faster, else float32. [default: auto]",
)
@learning_options.finetune_option
@learning_options.relearn_option
@options.device_option
@options.workers_option
@ray_cluster.ray_option
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
    folders: tuple[Path | str, ...],
    images: tuple[Path | str, ...],
    images_from: str | None,
    null: bool,
    index_path: Path,
    relearn: bool | None,
    device: str,
    workers: int | str,
    address: str | None,
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
    given = [*images, *folders]
    if given and images_from is not None:
        raise options.both_given("--images-from", "DIR")
    if null and images_from is None:
        raise click.UsageError("--null is for the paths of --images-from; leave it out.")
    if not given and images_from is None:
        raise click.UsageError("no folder of images was given; expected at least one DIR.")
    is_anew = resume or overwrite
    if not is_anew:
        advice = "; name another --index for the images"
        index_kind.need_images(index_path, advice, may_be_new=True)
    from hyperpq.images.build import PathList, build_index, working_directory
    from hyperpq.images.build.options import check_codec_alone
    from hyperpq.training.finetune_settings import FinetuneSettings

    roots: list[Path | str] | PathList
    if images_from is None:
        roots = index_kind.image_roots(given, None if is_anew else index_path, quiet=quiet)
    else:
        roots = PathList(None if images_from == "-" else images_from, null)
    check_codec_alone(options.given(**chosen), options.shown)
    if chosen["finetune"] is learning_options.WITHOUT_LIMIT:
        chosen["finetune"] = FinetuneSettings()
    try:
        with (
            output.progress(quiet) as progress,
            ray_cluster.workers_at(address, workers, device) as found,
        ):
            index, report = build_index(
                roots,
                index_path,
                device=device,
                workers=found,
                resume=resume,
                overwrite=overwrite,
                allow_empty=allow_empty,
                progress=progress,
                **learning_options.relearning(relearn),
                **options.given(**chosen),
            )
    except KeyboardInterrupt:
        begun = working_directory(index_path).exists()
        how = " with --resume" if begun and not resume else " again"
        raise KeyboardInterrupt(f"run the same command{how} to continue") from None
    if quiet:
        return
    codes, network = index.index, index.backbone_identity
    facts: output.Facts = [("images", f"{report.images:,}")]
    is_new = report.added == report.images and not report.removed
    facts += [
        *(
            output.unread(report, index_path)
            if is_new
            else output.changes(report, index, index_path)
        ),
        *([("fine-tuned", report.finetuned)] if report.finetuned else []),
        ("network", f"{network['name']} in {network['dtype']}"),
        ("code", f"{codes.M * codes.nbits} bits, {codes.code_size} bytes per image"),
        ("seconds", output.seconds(report.seconds)),
        ("index", index_path),
        ("next", output.query_command(index, index_path)),
    ]
    output.emit_summary(facts)
