"""`hyperpq`: the group of commands, each loaded when it is asked for."""

from __future__ import annotations

import errno
import importlib
import os
import sys
from typing import Any

import click

from hyperpq._version import __version__
from hyperpq.cli.interrupts import hold_back_while_loading
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
# What the program exits with where it isn't 1, by the class of the error.
EXIT_CODES: dict[type[HyperPQError], int] = {InvalidInputError: 2}
# Modules that can't have the name of their command.
MODULES = {"import": "import_vectors"}


class LazyGroup(click.Group):
    """Imports the module of a command only when that command is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names, in the order in which a newcomer needs them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"hyperpq.cli.{MODULES.get(cmd_name, cmd_name)}")
        command: click.Command = module.command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run; an error of hyperpq becomes one line and its exit code."""
        try:
            return super().invoke(ctx)
        except HyperPQError as error:
            _say(f"error: {error}")
            ctx.exit(exit_code(type(error)))
        except OSError as error:
            # The reader of a pipe that has seen enough is no error; click ends quietly then.
            if error.errno == errno.EPIPE:
                raise
            _say(f"error: {error.filename or 'the system'}: {error.strerror or error}")
            ctx.exit(1)
        except KeyboardInterrupt as stop:
            _say(f"interrupted; {stop}" if str(stop) else "interrupted")
            ctx.exit(130)


def exit_code(kind: type[HyperPQError]) -> int:
    """What the program exits with after an error of this class."""
    return next((code for base, code in EXIT_CODES.items() if issubclass(kind, base)), 1)


def _say(message: str) -> None:
    click.echo("hyperpq: " + " ".join(message.split()), err=True)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hyperpq")
def cli() -> None:
    """Find similar images by compact learned codes.

    \b
    hyperpq build --images ./imgs      make an index of a folder of images
    hyperpq query img.jpg -k 50        find the 50 most similar ones
    """


def main() -> None:
    """Entry point of the console script."""
    # File names may hold any bytes; they must not break an error message.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="surrogateescape")
    # Threads that wait by spinning slow a machine down many times where a core is busy; read when
    # PyTorch and faiss load.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    hold_back_while_loading()
    cli(prog_name="hyperpq")


if __name__ == "__main__":
    main()
