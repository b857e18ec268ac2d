"""Writes docs/cli.md from the commands themselves: `python -m aslconvert.cli.reference > docs/cli.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import typer

from aslconvert.cli.failure import EXIT_CODES
from aslconvert.cli.main import app

_OPENING = """\
# Commands

<!-- Written by `python -m aslconvert.cli.reference`; a test compares. -->

Every command takes `--help`; those with `--json` print exactly one JSON document on standard output, for an error
`{"error": {"code", "kind", "message", "hint"}}`. Progress and remarks go to standard error. [client.md](client.md) says
how the commands that talk to a service go together.
"""


def reference() -> str:
    """The page, as Markdown."""
    codes = " ".join(EXIT_CODES.split()).removeprefix("Exit codes: ").removesuffix(".").split("; ")
    rows = [code.partition(" ") for code in codes]
    parts = [_OPENING, "## Exit codes\n", "| code | meaning |\n|---|---|", *(f"| {a} | {b} |" for a, _, b in rows)]
    for name, command in _commands(typer.main.get_command(app), "aslconvert"):
        parts.append("\n".join(_page(name, command)))
    return "\n".join(parts) + "\n"


def _commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    # Whatever click typer brings: groups have commands, commands have parameters.
    inner = getattr(command, "commands", None)
    if inner is None:
        yield name, command
        return
    for word, one in inner.items():
        yield from _commands(one, f"{name} {word}")


def _page(name: str, command: Any) -> Iterator[str]:
    shown = [one for one in command.params if not getattr(one, "hidden", False) and "--help" not in one.opts]
    arguments = [one for one in shown if one.param_type_name == "argument"]
    words = " ".join((one.metavar or one.name.upper()) for one in arguments)
    yield f"\n## `{name}{' ' + words if words else ''}`\n"
    yield "\n\n".join(" ".join(part.split()) for part in command.help.split("\n\n")) + "\n"
    yield "| | | default |\n|---|---|---|"
    for one in shown:
        yield f"| {_title(one)} | {_cell(getattr(one, 'help', None) or '')} | {_cell(_default(one))} |"


def _title(one: Any) -> str:
    # Not from the types of values, which typer's versions name differently.
    placeholder = one.metavar or one.name.upper().replace("_", "-")
    if one.param_type_name == "argument":
        return f"`{placeholder}`"
    names = ", ".join(f"`{name}`" for name in (*one.opts, *one.secondary_opts))
    value = "" if one.is_flag else f" `{_cell(placeholder)}`"
    variable = f" (`{one.envvar}`)" if one.envvar else ""
    return f"{names}{value}{variable}"


def _default(one: Any) -> str:
    if one.required:
        return "required"
    if isinstance(one.show_default, str):
        return one.show_default
    if one.default is None or one.show_default is False or callable(one.default):
        return ""
    if isinstance(one.default, bool):
        return "yes" if one.default else "no"
    return f"`{one.default}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(reference())
