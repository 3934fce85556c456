"""`hyperpq`: the group of commands, each of which is imported when it runs."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

import click

from hyperpq._version import __version__
from hyperpq.cli import interrupts, streams
from hyperpq.cli.text import escaped
from hyperpq.errors import HyperPQError, InvalidInputError
from hyperpq.utils.suggest import did_you_mean

COMMANDS = (
    "build",
    "update",
    "query",
    "serve",
    "map",
    "cluster",
    "duplicates",
    "ls",
    "add",
    "forget",
    "remove",
    "finetune",
    "train",
    "import",
    "export",
    "encode",
    "info",
    "verify",
    "compact",
    "push",
    "pull",
    "draw",
    "completion",
)
# Exit codes by the class of the error; that of all other errors is 1.
EXIT_CODES: dict[type[HyperPQError], int] = {InvalidInputError: 2}
# What a shell gives for a program that SIGPIPE ends, which Python ignores.
_END_OF_PIPE = 141
# Modules that cannot have the name of their command.
MODULES = {"import": "import_vectors"}
ALIASES = {"search": "query", "list": "ls", "rm": "forget"}
"""Other names of commands, which run them."""
# What someone may type in place of a command, for the message that there is no such command.
_SYNONYMS = {
    "create": "build",
    "index": "build",
    "init": "build",
    "new": "build",
    "find": "query",
    "dedupe": "duplicates",
    "dupes": "duplicates",
    "explore": "map",
    "browse": "map",
    "group": "cluster",
    "groups": "cluster",
    "delete": "remove",
    "load": "import",
    "tune": "finetune",
    "fine-tune": "finetune",
    "save": "export",
    "publish": "push",
    "upload": "push",
    "download": "pull",
    "fetch": "pull",
    "check": "verify",
    "status": "info",
    "stats": "info",
    "optimize": "compact",
    "vacuum": "compact",
    "demo": "draw",
}


class LazyGroup(click.Group):
    """A group that imports the module of a command only when that command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the commands, in the order of a typical use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name."""
        cmd_name = ALIASES.get(cmd_name, cmd_name)
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"hyperpq.cli.{MODULES.get(cmd_name, cmd_name)}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the arguments name; an unknown one is answered with the nearest."""
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            known = _SYNONYMS.get(name)
            hint = did_you_mean(known or name, [*COMMANDS, *ALIASES])
            raise click.UsageError(f"no such command {name!r}{hint}", ctx)
        return super().resolve_command(ctx, args)

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """Parse the arguments of the program; its help is printed here."""
        with _endings():
            return super().make_context(info_name, args, parent, **extra)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Without arguments, the help is what stderr says about wrong usage."""
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help(), err=True)
            ctx.exit(2)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; an error of hyperpq becomes one line and an exit code."""
        with _endings():
            _check_working_directory()
            return super().invoke(ctx)


@contextlib.contextmanager
def _endings() -> Iterator[None]:
    """Turn whatever may end a command into one line on stderr and an exit code."""
    try:
        yield
    except click.UsageError as error:
        # Some messages of click list choices in lines of their own.
        message = " ".join(_message(error).split())
        message += "" if message[-1:] in ".?!" else "."
        path = error.ctx.command_path if error.ctx else "hyperpq"
        _end(f"error: {message[:1].lower()}{message[1:]} See `{path} --help`.", 2)
    except HyperPQError as error:
        _end(f"error: {error}", exit_code(type(error)))
    except OSError as error:
        if streams.is_end_of_pipe(error):
            raise click.exceptions.Exit(_END_OF_PIPE) from None
        _end(f"error: {_refused(error)}.", 1)
    except MemoryError:
        _end("error: there is not enough memory.", 1)
    except KeyboardInterrupt as stop:
        _end(f"interrupted; {stop}." if str(stop) else "interrupted.", interrupts.exit_code())


def _message(error: click.UsageError) -> str:
    """The message of click; a mistyped option is answered with the nearest."""
    if not isinstance(error, click.NoSuchOption) or error.ctx is None:
        return error.format_message()
    # Names of files that begin with a dash look like options.
    file = next((word for word in sys.argv[1:] if word[:1] == "-" and os.path.lexists(word)), None)
    if file is not None:
        return f"no such option {error.option_name!r}; the file of that name is ./{file}"
    known = [name for p in error.ctx.command.get_params(error.ctx) for name in p.opts]
    return f"no such option {error.option_name!r}{did_you_mean(error.option_name, known)}"


def _check_working_directory() -> None:
    """Refuse a working directory that was deleted: the libraries cannot be loaded in it."""
    try:
        os.getcwd()
    except FileNotFoundError:
        _end("error: the working directory does not exist any more; change to another one.", 1)


def _refused(error: OSError) -> str:
    """What the system refused."""
    where = "a file" if error.filename is None else os.fsdecode(error.filename)
    return f"{where} cannot be used: {error.strerror or error}"


def _end(message: str, code: int) -> NoReturn:
    click.echo(f"hyperpq: {escaped(message.strip())}", err=True)
    raise click.exceptions.Exit(code)


def exit_code(kind: type[HyperPQError]) -> int:
    """Exit code of the program after an error of this class."""
    return next((code for base, code in EXIT_CODES.items() if issubclass(kind, base)), 1)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hyperpq")
def cli() -> None:
    """Find similar images with compact learned codes.

    \b
    hyperpq build ./imgs           build an index of the images in a folder
    hyperpq query img.jpg -n 20    find the 20 most similar images
    """


def run() -> int:
    """Run the program on the arguments of the process; returns its exit code."""
    streams.prepare()
    # Threads that spin while they wait slow down everything else on a busy core. The variable is
    # read when PyTorch and FAISS are loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    interrupts.handle_signals()
    try:
        code = cli(prog_name="hyperpq", standalone_mode=False)
        interrupts.release_signals()
    except (click.Abort, KeyboardInterrupt):
        # A signal came between parsing and running, or after a command has ended.
        interrupts.release_signals()
        click.echo("hyperpq: interrupted.", err=True)
        code = interrupts.exit_code()
    return code or 0


def main() -> NoReturn:
    """Entry point of the console script.

    The process ends without taking the interpreter apart, which takes 1.1 s once PyTorch is loaded
    and changes nothing: files are closed when they are written.
    """
    code = run()
    # What libraries have registered for the end, such as the removal of temporary files.
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
