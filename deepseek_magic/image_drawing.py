"""A picture drawn anew by Pillow: as it is to be seen, and nothing but its pixels.

drawn(picture)  its media type, its bytes and its size, within the bounds below
"""

from __future__ import annotations

import math
import warnings
from io import BytesIO
from typing import Any, NamedTuple

from .words import t

SIDE = 4096
"""Pixels of a longer side; the API takes no more in requests with 15 pictures and above.

With fewer it takes 8192 (api-docs.deepseek.com/guides/vision).
"""

PIXELS = 4_000_000
"""Pixels that a picture keeps when it is drawn anew.

The model sees at most 1,024 squares of 42 by 42 of any, which are 1.8 million.
"""

BYTES = 8 * 2**20
"""Bytes of one picture; the API takes 32 MiB, and 48 MiB for all of a request."""

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
_PHOTOS = {"JPEG", "MPO", "WEBP"}


class Drawn(NamedTuple):
    """What came of a picture."""

    mime: str
    data: bytes
    width: int
    height: int


def fits(width: int, height: int, size: int) -> bool:
    """Tell whether a picture with *size* bytes can go as it is."""
    return max(width, height) <= SIDE and size <= BYTES


def shrinking(width: float, height: float) -> float:
    """Tell by how much a picture is made smaller; 1 where it is small enough."""
    return min(1.0, SIDE / max(width, height), math.sqrt(PIXELS / (width * height)))


def opened(data: bytes) -> Any:
    """Open the bytes of a file with Pillow, which has to be there."""
    from PIL import Image as Pillow

    with _quietly():
        return Pillow.open(BytesIO(data), formats=FORMATS)


def drawn(picture: Any) -> Drawn:
    """Draw a picture of Pillow's, which stays as it is; what fails, fails in any way."""
    with _quietly():
        return _encoded(_upright(picture), is_photo=picture.format in _PHOTOS)


def _quietly() -> warnings.catch_warnings[None]:
    """Keep quiet on files that are not quite right."""
    return warnings.catch_warnings(action="ignore")


def _upright(picture: Any) -> Any:
    """Give a copy as it is to be seen: turned, opaque, not too large, and nothing but pixels."""
    from PIL import Image as Pillow
    from PIL import ImageOps

    turned = ImageOps.exif_transpose(picture)
    profile = turned.info.get("icc_profile")
    flat = _opaque(turned)
    share = shrinking(*flat.size)
    if share < 1:
        sides = [max(round(side * share), 1) for side in flat.size]
        flat = flat.resize(sides, Pillow.Resampling.LANCZOS)
    clean = flat.copy()
    clean.info = {"icc_profile": profile} if profile and turned.mode == flat.mode else {}
    return clean


def _opaque(picture: Any) -> Any:
    """Give a picture in grey or colours, on white where it lets see through it."""
    from PIL import Image as Pillow

    if picture.mode[0] in "IF":  # measured values: the least is black, the most white
        values = picture.convert("F")
        low, high = values.getextrema()
        steps = 255 / ((high - low) or 1)
        return values.point(lambda value: value * steps - low * steps).convert("L")
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        ground = Pillow.new("RGBA", picture.size, "white")
        ground.alpha_composite(picture.convert("RGBA"))
        return ground.convert("RGB")
    return picture.convert("L" if picture.mode in ("1", "L") else "RGB")


def _encoded(picture: Any, *, is_photo: bool) -> Drawn:
    """Write a picture as PNG, which loses nothing, or as JPEG where that is too large."""
    profile = picture.info.get("icc_profile")
    forms = [("PNG", {}), ("JPEG", {"quality": 92})]
    for form, settings in forms[1:] if is_photo else forms:
        file = BytesIO()
        picture.save(file, form, icc_profile=profile, **settings)
        data, (width, height) = file.getvalue(), picture.size
        if fits(width, height, len(data)):
            return Drawn(f"image/{form.lower()}", data, width, height)
    raise ValueError(t("it has {size:.0f} MB even as a JPEG", size=len(data) / 1e6))
