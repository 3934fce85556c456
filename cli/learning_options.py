"""Options of commands in which something is learned: codecs and networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from hyperpq.cli.options import Whole

F = TypeVar("F", bound=Callable[..., Any])
WITHOUT_LIMIT = float("nan")
"""What `finetune_option` is without minutes."""


class _MinutesType(click.ParamType):
    """A number of minutes above 0."""

    name = "minutes"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        try:
            minutes = float(value)
        except ValueError:
            minutes = 0.0
        if not 0 < minutes < float("inf"):
            option = "the option" if param is None else param.opts[0]
            self.fail(
                f"{option} is {value!r}; expected minutes above 0, such as {option}=5.", param, ctx
            )
        return minutes


class _OptionalMinutesType(_MinutesType):
    """Minutes, or nothing."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        return WITHOUT_LIMIT if value is WITHOUT_LIMIT else super().convert(value, param, ctx)


MINUTES = _MinutesType()
finetune_option = click.option(
    "--finetune",
    is_flag=False,
    flag_value=WITHOUT_LIMIT,
    type=_OptionalMinutesType(),
    metavar="[MINUTES]",
    help="Fine-tune the network on the training images first, which takes minutes on a GPU; "
    "MINUTES limits the time. On a CPU the command says beforehand how long it will take.",
)
relearn_option = click.option(
    "--relearn/--no-relearn",
    default=None,
    help="Learn the codec again from the kept features, or never do so. By default an update does "
    "if the index has grown by much, or has images of another kind.",
)


def relearning(relearn: bool | None) -> dict[str, Any]:
    """The argument of the library for `relearn_option`; none if it is not used."""
    return {} if relearn is None else {"relearn": "now" if relearn else "never"}


def training_options(*, with_network: bool = False) -> Callable[[F], F]:
    """The options of commands that train a codec; `options.given` leaves out those not used.

    ``with_network`` says whether there is a network that can learn with it.
    """
    recipes, about = ["default", "paper"], "Settings of the training."
    if with_network:
        recipes.append("paper-finetuned")
        about += " paper-finetuned trains network and codec together, with --finetune."
    found = (
        click.option(
            "--epochs",
            type=Whole(min=0),
            help="Number of training epochs. [default: that of the recipe]",
        ),
        click.option("--seed", type=Whole(min=0), help="Seed of all random choices. [default: 0]"),
        click.option(
            "--metric",
            type=click.Choice(["l1", "geodesic", "chord", "cosine", "l2", "ip"]),
            help="How the distances of the subspaces are added up: l1, geodesic or chord. With "
            "--objective fidelity, whose exact neighbours are kept: those by cosine, l2 or ip "
            "(inner product). [default: l1, or cosine]",
        ),
        click.option(
            "--recipe",
            type=click.Choice(recipes),
            help=f"{about} [default: default]",
        ),
        click.option(
            "--objective",
            type=click.Choice(["semantic", "fidelity", "balanced"]),
            help="What codes preserve: which items belong together (semantic), the exact "
            "neighbours (fidelity), or half of the code for each (balanced). "
            "[default: semantic]",
        ),
        click.option(
            "--bits",
            type=int,
            help="Length of a code in bits, a multiple of 8 from 8 to 512. [default: 64]",
        ),
    )

    def add(command: F) -> F:
        for option in found:
            command = option(command)
        return command

    return add
