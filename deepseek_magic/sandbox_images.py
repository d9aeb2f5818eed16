"""What the simulated account makes of pictures: it looks at their size, and at nothing else."""

from __future__ import annotations

import base64
import binascii
import math
import re
import struct
from collections.abc import Iterator, Mapping
from typing import Any

MOST_TOKENS = 1024
MOST_IMAGES = 600
MOST_BYTES = 32 * 2**20
MOST_URL = 8192
MOST_SIDE, MOST_SIDE_OF_MANY, MANY = 8192, 4096, 15
_SQUARE = 42
_LEAST_PIXELS = 544 * 544
_DATA = re.compile(r"data:[\w/+.-]*;base64,")
_SIZED_JPEG_MARKS = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def images_of(content: object) -> list[str]:
    """Give the addresses of the pictures in the content of a message."""
    parts = content if isinstance(content, list) else []
    kinds = (part for part in parts if isinstance(part, dict) and part.get("type") == "image_url")
    return [part["image_url"]["url"] for part in kinds]


def tokens_of(url: str) -> int:
    """Count the tokens of a picture; one on the web is not fetched, and counts in full."""
    size = None if not _DATA.match(url) else _size(_decoded(url) or b"")
    return MOST_TOKENS if size is None else tokens(*size)


def tokens(width: int, height: int) -> int:
    """Count the squares over a picture, with a mark for each row and two around all."""
    grown = max(1.0, math.sqrt(_LEAST_PIXELS / (width * height)))
    width, height = math.ceil(width * grown), math.ceil(height * grown)
    for percent in range(100, 0, -1):
        across, down = (
            math.ceil(side * percent / 100 / _SQUARE) for side in _shrunk(width, height)
        )
        if down * (across + 1) + 2 <= MOST_TOKENS:
            return down * (across + 1) + 2
    return MOST_TOKENS


def _shrunk(width: int, height: int) -> tuple[float, float]:
    """Bring a picture to about the area that is read of it."""
    share = min(1.0, math.sqrt(MOST_TOKENS * _SQUARE**2 / (width * height)))
    return width * share, height * share


def faults(body: Mapping[str, Any]) -> Iterator[str]:
    """Say what is wrong with the pictures of a request whose form is right."""
    urls = [url for message in body["messages"] for url in images_of(message.get("content"))]
    if len(urls) > MOST_IMAGES:
        yield f"Too many images: {len(urls)}, at most {MOST_IMAGES} are supported"
    side = MOST_SIDE if len(urls) < MANY else MOST_SIDE_OF_MANY
    for number, url in enumerate(urls):
        yield from (f"images[{number}]: {wrong}" for wrong in _wrong(url, side))


def _wrong(url: str, side: int) -> Iterator[str]:
    if not _DATA.match(url):
        if not re.match(r"https?://[^/\s]+", url):
            yield "invalid image url"
        elif len(url) > MOST_URL:
            yield f"image url is longer than {MOST_URL} characters"
        return
    data = _decoded(url)
    if data is None:
        yield "invalid base64 data"
    elif len(data) > MOST_BYTES:
        yield "image is larger than 32 MiB"
    elif (size := _size(data)) is None:
        yield "unsupported image format, expected JPEG, PNG, GIF or WebP"
    elif max(size) > side:
        yield f"image is larger than {side} pixels per side"


def _decoded(url: str) -> bytes | None:
    try:
        return base64.b64decode(url.partition(",")[2], validate=True)
    except binascii.Error:
        return None


def _size(data: bytes) -> tuple[int, int] | None:
    """Read width and height out of a file's head; None where it is none that is read."""
    try:
        width, height = _head(data)
    except (struct.error, ValueError, IndexError):
        return None
    return (width, height) if width and height else None


def _head(data: bytes) -> tuple[int, int]:
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        width, height = struct.unpack(">II", data[16:24])
    elif data[:6] in (b"GIF87a", b"GIF89a"):
        width, height = struct.unpack("<HH", data[6:10])
    elif data.startswith(b"\xff\xd8"):
        width, height = _jpeg_head(data)
    elif data[:4] == b"RIFF" and data[8:16] == b"WEBPVP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
    elif data[:4] == b"RIFF" and data[8:16] == b"WEBPVP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack("<HH", data[26:30]))
    elif data[:4] == b"RIFF" and data[8:16] == b"WEBPVP8L":
        (bits,) = struct.unpack("<I", data[21:25])
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        raise ValueError
    return width, height


def _jpeg_head(data: bytes) -> tuple[int, int]:
    at = 2
    while data[at] == 0xFF:
        mark, length = struct.unpack(">BH", data[at + 1 : at + 4])
        if mark in _SIZED_JPEG_MARKS:
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return width, height
        at += 2 + length
    raise ValueError
