"""`hyperpq completion`: shell completion of commands and options."""

from __future__ import annotations

import click


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash   eval "$(hyperpq completion bash)"            in ~/.bashrc
    zsh    eval "$(hyperpq completion zsh)"             in ~/.zshrc
    fish   hyperpq completion fish > ~/.config/fish/completions/hyperpq.fish
    """
    from click.shell_completion import get_completion_class

    from hyperpq.cli.main import cli

    complete = get_completion_class(shell)
    if complete is None:
        raise click.UsageError(f"the installed click has no completion for {shell}.")
    click.echo(complete(cli, {}, "hyperpq", "_HYPERPQ_COMPLETE").source())
