"""docs/cli.md says what the commands say."""

import re
from pathlib import Path

from aslconvert.cli.main import app
from aslconvert.cli.reference import reference

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cli.md"


def test_the_page_is_what_the_commands_say() -> None:
    assert PAGE.read_text() == reference(), "run: python -m aslconvert.cli.reference > docs/cli.md"


def test_every_command_is_on_it() -> None:
    told = set(re.findall(r"^## `aslconvert (\S+)", PAGE.read_text(), flags=re.MULTILINE))
    groups = {group.name for group in app.registered_groups}
    assert {command.name for command in app.registered_commands} | groups == {word.strip("`") for word in told}
