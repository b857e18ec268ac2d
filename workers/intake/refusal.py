"""What is raised for a file that is not taken: a stable code, the entry, the reason and what to do."""

from __future__ import annotations

from functools import partial
from typing import Any

from aslconvert.workers.intake.codes import CODES

SHOWN = 80
"""Characters that are quoted of a text from the file."""


class Refused(Exception):
    """The file is not taken. ``entry`` is where in it, such as ``models/model.json: graph_module.graph.nodes[3]``."""

    kind = "user"

    def __init__(self, code: str, message: str, *, entry: str = "", hint: str = "") -> None:
        super().__init__(code, message, entry)
        self.code = code
        self.message = message
        self.entry = entry
        self.hint = hint or CODES[code].hint

    def __reduce__(self) -> tuple[Any, ...]:
        """It crosses from the process that reads the file to the one that asked."""
        return partial(Refused, entry=self.entry, hint=self.hint), (self.code, self.message)

    def __str__(self) -> str:
        place = f"{self.entry}: " if self.entry else ""
        return f"[{self.code}] {place}{self.message} {self.hint}".rstrip()


def shown(text: object) -> str:
    """``text`` quoted for a message: in ASCII, short, and without control or direction characters."""
    if isinstance(text, (bool, int, float)) or text is None:
        # A long integer is slow to print, and from a limit on it raises.
        return str(text) if not isinstance(text, int) or abs(text) < 1 << 80 else "a huge integer"
    if not isinstance(text, (str, bytes)):
        return f"a {type(text).__name__}"
    return ascii(text[:SHOWN]) + ("..." if len(text) > SHOWN else "")
