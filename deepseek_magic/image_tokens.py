"""How many tokens a picture takes: estimated by its size, and bounded.

The API makes every picture larger or smaller before it is read, and then counts
the squares of a grid over it, with a mark at the end of each row and one on
either side. For V4.1 that has been published as code
(github.com/deepseek-ai/deepseek-recipe); its guide tells of a smaller bound for
the model before (api-docs.deepseek.com/guides/vision), and both say that what is
billed may differ a little. So the earlier rule gives the low figure here, the later
one the likely figure and the bound.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from .tokens import Count

if TYPE_CHECKING:
    from .wire import Image, ImageLink

MOST = 1024
"""Tokens of any picture, however large (deepseek-recipe, the image tokens of V4.1)."""

_ROOM = 16
"""Room beyond it: "may vary slightly" (api-docs.deepseek.com/quick_start/token_usage)."""

_SQUARE = 42  # pixels: patches of 14, three by three
_LEAST = 544**2  # pixels; a smaller picture is made larger
_EARLIER_MOST, _EARLIER_LEAST = 384, 384**2
_NEARER = 0.98


def most(images: Iterable[Image | ImageLink]) -> int:
    """Give what pictures take at most."""
    return sum(MOST + _ROOM for _ in images)


def count(images: Iterable[Image | ImageLink]) -> Count:
    """Estimate what pictures take; of one on the web only the bound is known."""
    return sum((_of_size(image.size) for image in images), Count(0, 0, 0, exact=True))


def _of_size(size: tuple[int, int] | None) -> Count:
    if size is None:
        return Count(_squares((1, 1), _EARLIER_MOST, _EARLIER_LEAST), MOST, MOST, exact=False)
    low = _squares(size, _EARLIER_MOST, _EARLIER_LEAST)
    likely = _squares(size, MOST, _LEAST)
    return Count(min(low, likely), likely, MOST, exact=False)


def _squares(size: tuple[int, int], most: int, least: int) -> int:
    """Count the squares over a picture of *size* that is brought to *least* pixels or more."""
    width, height = (max(side, 1) for side in size)
    scale = max(1.0, math.sqrt(least / (width * height)))
    while True:
        across, down = (math.ceil(side * scale / _SQUARE) for side in (width, height))
        tokens = down * (across + 1) + 2
        if tokens <= most:
            return tokens
        scale *= min(math.sqrt(most / tokens), _NEARER)
