"""Write the parts of the documentation that come from the code.

These are `reference/cli.md` and the tables of the recipes in `method.md`. Run it after a change of
the command line or of a recipe; tests/docs fail until then.
"""

from __future__ import annotations

import html
import inspect
import re
from pathlib import Path

import click

from hyperpq.cli.main import cli
from hyperpq.training.presets import PAPER_SETTINGS, PRESETS, get_recipe
from hyperpq.training.recipe import GROUP_OF

DOCS = Path(__file__).parent
BITS = (16, 32, 64)
# click keeps the lines of a paragraph that begins so.
_VERBATIM = "\b\n"


def cli_page() -> str:
    """The whole of `reference/cli.md`."""
    context = click.Context(cli, info_name="hyperpq", **cli.context_settings)
    commands = [(name, cli.get_command(context, name)) for name in cli.list_commands(context)]
    parts = [
        "# Command line\n\n"
        "Results go to stdout; progress, warnings and errors go to stderr. "
        "[Errors and exit codes](errors.md)\nlists the exit codes.\n",
        "\n".join(f"- [`hyperpq {name}`](#hyperpq-{name})" for name, _ in commands) + "\n",
        _section("hyperpq", cli, context),
    ]
    for name, command in commands:
        assert command is not None
        child = click.Context(command, info_name=name, parent=context)
        parts.append(_section(f"hyperpq {name}", command, child))
    parts.append("---\n\n`docs/generate.py` makes this page from the help of the program.\n")
    return "\n".join(parts)


def _section(title: str, command: click.Command, context: click.Context) -> str:
    usage = " ".join([title, *command.collect_usage_pieces(context)])
    records = [
        record
        for parameter in command.get_params(context)
        if isinstance(parameter, click.Option)
        and (record := parameter.get_help_record(context)) is not None
    ]
    rows = "".join(f"| {_code(names)} | {_escaped(_cell(text))} |\n" for names, text in records)
    table = f"\n| option | meaning |\n| --- | --- |\n{rows}" if rows else ""
    return f"## {title}\n\n```text\n{usage}\n```\n\n{_prose(command.help or '')}{table}"


def _prose(text: str) -> str:
    r"""Help as Markdown: a paragraph after \b keeps its lines, as click prints it."""
    out = []
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        if paragraph.startswith(_VERBATIM):
            out.append(f"```text\n{paragraph.removeprefix(_VERBATIM)}\n```\n")
        else:
            out.append(" ".join(paragraph.split()) + "\n")
    return "\n".join(out)


def _code(text: str) -> str:
    """Code in a cell: a bar there needs HTML, since Markdown's code spans show its backslash."""
    text = " ".join(text.split())
    if "|" not in text:
        return f"`{text}`"
    return f"<code>{html.escape(text).replace('|', '&#124;')}</code>"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _escaped(text: str) -> str:
    """Text in which a bracket begins no link."""
    return re.sub(r"([\[\]])", r"\\\1", text)


def preset_table() -> str:
    """Every field of the presets by its group, with three values where the code length decides."""
    columns = [[get_recipe(name, bits).to_dict() for bits in BITS] for name in PRESETS]
    lines = ["| group | field | " + " | ".join(f"`{name}`" for name in PRESETS) + " |"]
    lines.append("| --- | --- |" + " --- |" * len(PRESETS))
    former = ""
    for field, group in GROUP_OF.items():
        if field != "name":
            values = [[_value(recipe[field]) for recipe in column] for column in columns]
            cells = [v[0] if len(set(v)) == 1 else " / ".join(v) for v in values]
            shown = f"`{group}`" if group != former else ""
            lines.append(f"| {shown} | `{field}` | " + " | ".join(cells) + " |")
            former = group
    return "\n".join(lines) + "\n"


def settings_table() -> str:
    """The published settings of each data set."""
    lines = [
        "| data set | bits | `max_norm` | `beta` | `temperature` | `levels` | `warmup_epochs` "
        "| `width` |",
        "| --- |" + " --- |" * 7,
    ]
    for dataset, settings in PAPER_SETTINGS.items():
        for bits, values in settings.items():
            cells = " | ".join(_value(value) for value in values)
            lines.append(f"| `{dataset}` | {bits} | {cells} |")
    return "\n".join(lines) + "\n"


def _value(value: object) -> str:
    if value is None:
        return "by size"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def with_tables(page: str) -> str:
    """A page with the tables between its marks written anew."""
    for name, table in (("presets", preset_table()), ("settings", settings_table())):
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        page = re.sub(
            f"{re.escape(begin)}.*?{re.escape(end)}",
            lambda _, text=f"{begin}\n{table}\n{end}": text,
            page,
            flags=re.DOTALL,
        )
    return page


def pages() -> dict[Path, str]:
    """File -> its text."""
    method = DOCS / "method.md"
    return {
        DOCS / "reference/cli.md": cli_page(),
        method: with_tables(method.read_text("utf-8")),
    }


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, "utf-8")
