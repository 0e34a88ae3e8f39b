"""Pages that are made of the library itself: flags of commands, columns of tables.

A page has a comment ``<!-- flags -->`` or ``<!-- columns -->`` where they go.
"""

import importlib
import re
from typing import TYPE_CHECKING

from absl import flags

from ioca_jax.__main__ import JOBS
from ioca_jax.cli.command import Command
from ioca_jax.report.tables import TABLES

if TYPE_CHECKING:
    from sphinx.application import Sphinx


def setup(app: "Sphinx") -> None:
    """Fills pages in as they are read."""
    app.connect("source-read", _fill_in)


def _fill_in(app: "Sphinx", name: str, source: list[str]) -> None:
    del name
    for marker, make in {"flags": describe_commands, "columns": list_columns}.items():
        if f"<!-- {marker} -->" in source[0]:
            source[0] = source[0].replace(f"<!-- {marker} -->", make())
            app.env.note_reread()  # the page depends on more than its own text


def describe_commands() -> str:
    """A section of Markdown for each command: what it does, and its flags."""
    known: dict[str, tuple] = {}
    sections = []
    for job in JOBS:
        module = importlib.import_module(f"ioca_jax.cli.{job}")
        text = [f"## `ioca {job}`", _prose(module.__doc__)]
        if module.COMMAND.configs:
            text += _flags(module.COMMAND, known)
        sections.append("\n\n".join(text))
    return "\n\n".join(sections)


def _prose(docstring: str) -> str:
    """A module's docstring as Markdown: what is a command there is one here."""
    paragraphs = []
    for paragraph in docstring.strip().split("\n\n"):
        if paragraph.lstrip().startswith("ioca "):
            lines = "\n".join(line.strip() for line in paragraph.splitlines())
            lines = re.sub(r" *\\\n", " ", lines)
            paragraphs.append(f"```console\n$ {lines}\n```")
        else:
            paragraphs.append(_escaped(paragraph))
    return "\n\n".join(paragraphs)


def _flags(command: Command, known: dict[str, tuple]) -> list[str]:
    """The flags in groups; those that a command above has alike are named only."""
    text, alike = [], []
    for group, found in command.grouped_flags().items():
        new = [flag for flag in found if known.get(flag.name) != _about(flag)]
        alike += [f"`--{flag.name}`" for flag in found if flag not in new]
        if new:
            text += [f"**{group}**", *map(_flag, new)]
        known.update({flag.name: _about(flag) for flag in new})
    return text + [f"As above: {', '.join(alike)}."] * bool(alike)


def _about(flag: flags.Flag) -> tuple:
    return flag.help, flag.default


def _flag(flag: flags.Flag) -> str:
    default = str(flag.default_as_str or "").strip("'")
    shown = f" (default `{default}`)" if default else ""
    return f"`--{'[no]' * flag.boolean}{flag.name}`{shown}\n: {_escaped(flag.help)}"


def list_columns() -> str:
    """A section of Markdown for each table: what it shows, and its columns."""
    sections = []
    for table in TABLES:
        rows = (f"| `{name}` | {_escaped(t)} |" for name, t in table.columns.items())
        head = f"## `{table.name}.csv`\n\n{_escaped(table.title)}.\n\n"
        sections.append("\n".join([f"{head}| column | meaning |", "|---|---|", *rows]))
    return "\n\n".join(sections)


def _escaped(text: str) -> str:
    """Text as Markdown shows it, flags as code."""
    parts = re.split(r"(--\w+(?:=[\w./:,-]*\w)?)", text)
    parts[::2] = [re.sub(r"([\\`*_<>\[\]|{}$])", r"\\\1", part) for part in parts[::2]]
    parts[1::2] = [f"`{flag}`" for flag in parts[1::2]]
    return "".join(parts)
