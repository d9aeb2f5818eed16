"""The bar that shows how far a question for every row is; `tqdm` draws it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .elements import money

if TYPE_CHECKING:
    from .jobs import Progress

Told = Callable[["Progress"], object]


@contextmanager
def bar(progress: bool | Told) -> Iterator[Told | None]:
    """Give what is to be called with how far it is: a bar for True, None for False."""
    if not isinstance(progress, bool):
        yield progress
        return
    if not progress:
        yield None
        return
    from tqdm.auto import tqdm

    drawn = tqdm(total=None, unit=" rows", leave=False)

    def told(now: Progress) -> None:
        drawn.total = now.rows
        drawn.n = now.done
        drawn.set_postfix_str(_words(now), refresh=False)
        drawn.refresh()

    try:
        yield told
    finally:
        drawn.close()


def _words(now: Progress) -> str:
    parts: list[Any] = []
    if now.cost is not None and now.currency is not None:
        parts.append(money(now.cost, now.currency))
    if now.under_way:
        parts.append(f"{now.under_way:,} under way")
    if now.note:
        parts.append(now.note)
    return ", ".join(parts)
