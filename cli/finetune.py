"""`hyperpq finetune`: fine-tune the network of an index on its own images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hyperpq.cli import index_kind, learning_options, options, output


@click.command("finetune")
@click.argument("index", type=options.FOLDER, required=False)
@options.changed_index_option
@click.option(
    "--minutes",
    type=learning_options.MINUTES,
    help="Limit of the time in which the network learns. [default: none, as many epochs as "
    "--epochs and --rounds say]",
)
@click.option(
    "--rounds", type=options.Whole(min=1), help="Rounds of features, graph and epochs. [default: 3]"
)
@click.option(
    "--epochs",
    type=options.Whole(min=1),
    help="Passes over the training images in a round. [default: 12]",
)
@click.option(
    "--train-size",
    type=options.Whole(min=1),
    help="Largest number of images to learn from. [default: as the index was built, 25000]",
)
@click.option(
    "--resolution",
    type=options.Whole(min=32),
    help="Side of the images that the network learns from, in pixels. [default: 5/7 of its own]",
)
@click.option(
    "--batch",
    type=options.Whole(min=1),
    help="Pairs of images in a step. [default: 256 on a GPU, 32 on a CPU]",
)
@click.option(
    "--blocks",
    type=options.Whole(min=1),
    help="Change only the last so many blocks of the network. [default: all]",
)
@click.option(
    "--holdout-check/--no-holdout-check",
    default=None,
    help="Keep the round that is best for images that are held out, or the network as it was if "
    "none is better; or keep the last round. [default: --holdout-check]",
)
@click.option("--seed", type=options.Whole(min=0), help="Seed of all random choices. [default: 0]")
@options.backbone_option
@options.device_option
@options.workers_option
@click.option("--resume", is_flag=True, help="Continue an interrupted fine-tuning.")
@click.option("--restart", is_flag=True, help="Start again where one was interrupted.")
@options.quiet_option
def command(
    index: Path | None,
    index_path: Path,
    train_size: int | None,
    holdout_check: bool | None,
    backbone: str | None,
    device: str,
    workers: int | str,
    resume: bool,
    restart: bool,
    quiet: bool,
    **chosen: Any,
) -> None:
    """Fine-tune the network of INDEX on its own images.

    No label is needed: images that are near each other, directly or by way of others, become more
    alike. All images are encoded again, the codec is learned again, and the index gets all of it
    in the last step, with the tuned network. Ids stay. Until then it answers as before. This takes
    minutes on a GPU. On a CPU it takes hours or days for many images, and the command says how
    long before it begins. After an interruption, --resume continues.
    """
    if index is not None:
        if options.is_given("index_path"):
            raise options.both_given("--index", "INDEX")
        index_path = index
    if resume and restart:
        raise options.both_given("--resume", "--restart")
    index_kind.need_images(index_path, ", which has no network to fine-tune")
    from hyperpq.images.finetuning import finetune_index, finetuning_directory
    from hyperpq.training.finetune_settings import FinetuneSettings

    if holdout_check is not None:
        chosen["holdout_check"] = holdout_check
    try:
        with output.progress(quiet) as progress:
            images, report = finetune_index(
                index_path,
                FinetuneSettings(**{k: v for k, v in chosen.items() if v is not None}),
                backbone=backbone,
                device=device,
                train_size=train_size,
                workers=workers,
                resume=resume,
                restart=restart,
                progress=progress,
            )
    except KeyboardInterrupt:
        begun = finetuning_directory(index_path).exists()
        how = " with --resume" if begun and not resume else " again"
        raise KeyboardInterrupt(f"run the same command{how} to continue") from None
    if not quiet:
        output.emit_summary(
            [
                ("images", f"{report.images:,}"),
                ("fine-tuned", report.outcome),
                ("seconds", output.seconds(report.seconds)),
                ("index", index_path),
                ("next", output.query_command(images, index_path)),
            ]
        )
