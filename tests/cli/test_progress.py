"""Progress is a bar on a terminal and rare plain lines in a log."""

import io

import pytest
from rich.console import Console

from aslconvert.cli import progress as module
from aslconvert.cli.progress import RichProgress
from aslconvert.converter.progress import Progress, SilentProgress


def run(listener: Progress) -> None:
    listener.stage("fit [1/2]")
    for step in range(100):
        listener.update(step, 100, "steps", loss=0.5)
    listener.stage("heal")
    listener.note("batch size [8]")
    listener.update(1, 0, "s")


def test_a_log_gets_stages_and_notes_but_not_every_update() -> None:
    text = io.StringIO()
    with RichProgress(console=Console(file=text)) as listener:
        run(listener)
    assert text.getvalue().splitlines() == ["fit [1/2]", "heal", "batch size [8]"]


def test_a_log_gets_an_update_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOG_SECONDS", 0.0)
    text = io.StringIO()
    with RichProgress(console=Console(file=text)) as listener:
        run(listener)
    assert "fit [1/2]: 99/100 steps  loss 0.5" in text.getvalue().splitlines()


def test_a_terminal_gets_a_bar() -> None:
    text = io.StringIO()
    with RichProgress(console=Console(file=text, force_terminal=True, width=120)) as listener:
        run(listener)
    assert "99/100 steps" in text.getvalue()
    assert "batch size [8]" in text.getvalue()


def test_silence_takes_everything() -> None:
    run(SilentProgress())
