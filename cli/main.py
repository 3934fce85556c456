"""`hyperpq`: the group of commands, each of which is imported when it runs."""

from __future__ import annotations

import errno
import importlib
import os
import sys
from typing import Any

import click

from hyperpq._version import __version__
from hyperpq.cli.interrupts import delay_interrupts_while_loading
from hyperpq.errors import HyperPQError, InvalidInputError

COMMANDS = (
    "build",
    "query",
    "add",
    "train",
    "import",
    "export",
    "encode",
    "info",
    "verify",
    "compact",
    "draw",
    "completion",
)
# Exit codes by the class of the error; that of all other errors is 1.
EXIT_CODES: dict[type[HyperPQError], int] = {InvalidInputError: 2}
# Modules that cannot have the name of their command.
MODULES = {"import": "import_vectors"}


class LazyGroup(click.Group):
    """A group that imports the module of a command only when that command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the commands, in the order of a typical use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"hyperpq.cli.{MODULES.get(cmd_name, cmd_name)}")
        command: click.Command = module.command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; an error of hyperpq becomes one line and an exit code."""
        try:
            return super().invoke(ctx)
        except HyperPQError as error:
            _say(f"error: {error}")
            ctx.exit(exit_code(type(error)))
        except OSError as error:
            # The reader of a pipe may stop early: that is no error, and click exits silently.
            if error.errno == errno.EPIPE:
                raise
            where = error.filename or "a file"
            _say(f"error: {where} cannot be used: {error.strerror or error}.")
            ctx.exit(1)
        except KeyboardInterrupt as stop:
            _say(f"interrupted; {stop}." if str(stop) else "interrupted.")
            ctx.exit(130)


def exit_code(kind: type[HyperPQError]) -> int:
    """Exit code of the program after an error of this class."""
    return next((code for base, code in EXIT_CODES.items() if issubclass(kind, base)), 1)


def _say(message: str) -> None:
    click.echo("hyperpq: " + " ".join(message.split()), err=True)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hyperpq")
def cli() -> None:
    """Find similar images with compact learned codes.

    \b
    hyperpq build --images ./imgs      build an index of the images in a folder
    hyperpq query img.jpg -k 50        find the 50 most similar images
    """


def main() -> None:
    """Entry point of the console script."""
    # File names may contain any bytes, which an error message must be able to print.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="surrogateescape")
    # Threads that spin while they wait slow down everything else on a busy core. The variable is
    # read when PyTorch and FAISS are loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    delay_interrupts_while_loading()
    cli(prog_name="hyperpq")


if __name__ == "__main__":
    main()
