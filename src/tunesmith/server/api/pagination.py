"""Lists as OpenAI's SDK pages through them: `data`, `has_more`, and the last id as the next `after`."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from tunesmith.server.errors import RequestError

_T = TypeVar("_T")


def page_body(items: Sequence[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """One page as the wire has it."""
    return {
        "object": "list",
        "data": list(items),
        "first_id": items[0]["id"] if items else None,
        "last_id": items[-1]["id"] if items else None,
        "has_more": has_more,
    }


def cut_page(
    items: Sequence[_T], *, after: str | None, limit: int, id_of: Callable[[_T], str]
) -> tuple[Sequence[_T], bool]:
    """The page of a whole list that follows the item `after`, and whether more follow it.

    Raises RequestError when there is no such item.
    """
    start = 0
    if after is not None:
        place = next((index for index, item in enumerate(items) if id_of(item) == after), None)
        if place is None:
            raise RequestError(f"after: no such id: {after}", code="invalid_cursor", param="after")
        start = place + 1
    return items[start : start + limit], len(items) > start + limit
