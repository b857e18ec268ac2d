"""Lists in pages: a capped number of items, and an opaque cursor to the next."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Depends, Query
from pydantic import BaseModel

from aslconvert.service.errors import ServiceError

MOST = 100
_VERSION = "p1:"

Item = TypeVar("Item")


class Listed(BaseModel, Generic[Item]):
    """A page; ``next`` is the ``cursor`` of the one after it, or null at the end."""

    items: list[Item]
    next: str | None = None


@dataclass(frozen=True)
class Paging:
    """What is asked for: at most ``limit`` items after the one whose place is ``after``."""

    limit: int
    cursor: str | None

    @property
    def after(self) -> str | None:
        """The place that the last page ended at. Raises ServiceError ``bad_cursor`` (422)."""
        if self.cursor is None:
            return None
        try:
            text = base64.urlsafe_b64decode(self.cursor + "=" * (-len(self.cursor) % 4)).decode("ascii")
        except (binascii.Error, UnicodeError, ValueError):
            text = ""
        if not text.startswith(_VERSION) or not text.isprintable():
            raise ServiceError("bad_cursor", "The cursor is not one that a page gave.")
        return text.removeprefix(_VERSION)

    def page(self, found: Sequence[Any], place: Callable[[Any], str]) -> tuple[Sequence[Any], str | None]:
        """The items to show of up to ``limit`` + 1 that were found, and the cursor to the next page."""
        shown = found[: self.limit]
        return shown, cursor_of(place(shown[-1])) if len(found) > self.limit else None


def cursor_of(place: str) -> str:
    """The opaque form of a place in a list, such as the last item's id."""
    return base64.urlsafe_b64encode(f"{_VERSION}{place}".encode()).decode().rstrip("=")


async def _asked(
    limit: Annotated[int, Query(ge=1, description=f"Items in a page; more than {MOST} is {MOST}.")] = 50,
    cursor: Annotated[
        str | None, Query(max_length=500, pattern=r"^[A-Za-z0-9_-]+$", description="`next` of the page before.")
    ] = None,
) -> Paging:
    return Paging(min(limit, MOST), cursor)


Paged = Annotated[Paging, Depends(_asked)]
"""A handler's parameter."""
