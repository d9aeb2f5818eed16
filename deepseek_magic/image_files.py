"""What the bytes of a picture tell before anybody decodes them: kind, size, and what they carry.

kind_of(data)  the media type, or what else the bytes are, in words
head_of(data)  the `Head` of a PNG, JPEG, WebP or GIF; `ValueError` says why it has none
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from .words import later

SENT = ("image/png", "image/jpeg", "image/webp", "image/gif")
"""What the API reads (api-docs.deepseek.com/guides/vision)."""

_PDF = later("a PDF")
_SVG = later("an SVG drawing")
_BMP = later("a BMP picture")
_TIFF = later("a TIFF picture")
_AVIF = later("an AVIF picture")
_HEIC = later("a HEIC picture or a video")

DOCUMENTS = frozenset({_PDF, _SVG})
"""What is no picture yet, and can be saved as one."""

PICTURES = frozenset({_BMP, _TIFF, _AVIF, _HEIC})
"""What is one, of a kind that is not sent."""

_PNG = b"\x89PNG\r\n\x1a\n"
_STARTS = (
    (_PNG, "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"%PDF-", _PDF),
    (b"BM", _BMP),
    (b"II*\0", _TIFF),
    (b"MM\0*", _TIFF),
    (b"\x1f\x8b", later("a compressed file")),
    (b"PK\x03\x04", later("a ZIP archive")),
)
_BRANDS = {b"avif": _AVIF, b"avis": _AVIF}
_PNG_PERSONAL = {b"eXIf", b"tEXt", b"zTXt", b"iTXt", b"tIME"}
_JPEG_PERSONAL = {0xE1, 0xED, 0xFE}  # Exif and XMP, IPTC, comments
_GIF_WORDS = {0xFE, 0xFF}  # comments, and what programs add
_JPEG_NO_SIZE = {0xC4, 0xC8, 0xCC}
_CUT = later("it is cut off")


@dataclass(frozen=True, slots=True)
class Head:
    """What the bytes of a picture say of it.

    *is_plain* tells that it has nothing but its pixels, in grey or in red, green and
    blue: no transparency, no rotation to be made, no words on where and by whom it
    was taken, nothing after its end.
    """

    mime: str
    width: int
    height: int
    is_animated: bool = False
    is_plain: bool = True


def kind_of(data: bytes) -> str | None:
    """Tell what *data* are by their first bytes: a media type of `SENT`, else words, else None.

    The words are English, to be told by `t`; so are those of the errors of `head_of`.
    """
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    if data[4:8] == b"ftyp":
        return _BRANDS.get(data[8:12], _HEIC)
    for start, kind in _STARTS:
        if data.startswith(start):
            return kind
    begin = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if begin.startswith((b"<svg", b"<?xml", b"<!--", b"<!doctype svg")) and b"<svg" in data[:65536]:
        return _SVG
    return later("a web page") if begin.startswith((b"<!doctype html", b"<html")) else None


def head_of(data: bytes) -> Head:
    """Read the head of a picture of a kind in `SENT`; `ValueError` says why it cannot be."""
    readers = {
        "image/png": _png,
        "image/jpeg": _jpeg,
        "image/webp": _webp,
        "image/gif": _gif,
    }
    try:
        head = readers[kind_of(data) or ""](data)
    except (IndexError, KeyError):
        raise ValueError(_CUT) from None
    if not head.width or not head.height:
        raise ValueError(later("it is said to be of no size"))
    return head


def _number(data: bytes, start: int, length: int, *, little: bool = False) -> int:
    part = data[start : start + length]
    if len(part) < length:
        raise ValueError(_CUT)
    return int.from_bytes(part, "little" if little else "big")


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Give name and place of each chunk; one whose sum is wrong, or no end, is a fault."""
    at, name = len(_PNG), b""
    while name != b"IEND":
        length = _number(data, at, 4)
        name, end = data[at + 4 : at + 8], at + 8 + length
        if _number(data, end, 4) != zlib.crc32(memoryview(data)[at + 4 : end]):
            raise ValueError(later("its check sums do not fit"))
        yield name, at + 8
        at = end + 4


def _png(data: bytes) -> Head:
    chunks = dict(_png_chunks(data))
    at = chunks[b"IHDR"]
    see_through = data[at + 9] in (4, 6) or b"tRNS" in chunks
    is_more = chunks[b"IEND"] + 4 < len(data)
    return Head(
        "image/png",
        _number(data, at, 4),
        _number(data, at + 4, 4),
        is_animated=b"acTL" in chunks,
        is_plain=not (see_through or is_more or _PNG_PERSONAL & chunks.keys()),
    )


def _jpeg(data: bytes) -> Head:
    at, size, is_plain = 2, None, True
    while True:
        if data[at] != 0xFF:
            raise ValueError(later("it is no JPEG inside"))
        while data[at] == 0xFF:  # any number of them may stand before a mark
            at += 1
        mark, at = data[at], at + 1
        if mark in (0xDA, 0xD9):
            break
        if mark == 0x01 or 0xD0 <= mark <= 0xD8:  # alone
            continue
        if 0xC0 <= mark <= 0xCF and mark not in _JPEG_NO_SIZE:
            size = _number(data, at + 5, 2), _number(data, at + 3, 2)
            is_plain = is_plain and data[at + 7] != 4  # colours of print
        is_plain = is_plain and mark not in _JPEG_PERSONAL
        at += max(_number(data, at, 2), 2)
    if size is None:
        raise ValueError(later("it does not say of what size it is"))
    if (end := data.find(b"\xff\xd9", at)) < 0:
        raise ValueError(_CUT)
    return Head("image/jpeg", *size, is_plain=is_plain and end + 2 == len(data))


def _gif(data: bytes) -> Head:
    def past_colours(at: int, flags: int) -> int:
        return at + (3 << (flags & 7) + 1 if flags & 0x80 else 0)

    def past_blocks(at: int) -> int:
        while length := data[at]:
            at += length + 1
        return at + 1

    at, frames, is_plain = past_colours(13, data[10]), 0, True
    while (mark := data[at]) != 0x3B:
        if mark == 0x2C:
            frames += 1
            at = past_blocks(past_colours(at + 10, data[at + 9]) + 1)
        elif mark == 0x21:
            clear = data[at + 1] == 0xF9 and data[at + 3] & 1
            is_plain = is_plain and not clear and data[at + 1] not in _GIF_WORDS
            at = past_blocks(at + 2)
        else:
            raise ValueError(later("it is no GIF inside"))
    if not frames:
        raise ValueError(later("there is no picture in it"))
    size = _number(data, 6, 2, little=True), _number(data, 8, 2, little=True)
    return Head("image/gif", *size, frames > 1, is_plain and at + 1 == len(data))


def _webp(data: bytes) -> Head:
    end = _number(data, 4, 4, little=True) + 8
    if end > len(data):
        raise ValueError(_CUT)
    head = _webp_head(data)
    return head if end == len(data) else replace(head, is_plain=False)


def _webp_head(data: bytes) -> Head:
    form = data[12:16]
    if form == b"VP8X":
        flags = data[20]
        width, height = (_number(data, at, 3, little=True) + 1 for at in (24, 27))
        # Alpha, Exif and XMP; an animation.
        return Head("image/webp", width, height, bool(flags & 2), not flags & 0x1C)
    if form == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = (_number(data, at, 2, little=True) & 0x3FFF for at in (26, 28))
        return Head("image/webp", width, height)
    if form == b"VP8L" and data[20] == 0x2F:
        bits = _number(data, 21, 4, little=True)
        size = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        return Head("image/webp", *size, is_plain=not bits >> 28 & 1)
    raise ValueError(later("it is no WebP inside"))
