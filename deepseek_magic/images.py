"""What a notebook calls a picture, as the `Image` that is sent: figures, files, bytes.

A value is recognised by the libraries that are loaded, for it can be of no other.
Pillow does what else is to be done: it makes large pictures smaller, turns those
that a camera held askew, puts a white ground below transparent ones, and leaves out
all that a file says of where and by whom it was taken. Where it is not installed,
pictures go as they are, and those too large do not.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

from . import image_drawing, image_files
from .errors import InvalidOption, nearest, one_line
from .image_drawing import BYTES, SIDE, fits, shrinking
from .wire import Image, ImageLink

FILE_BYTES = 64 * 2**20
"""A larger file is not read."""

MOST_PIXELS = 80_000_000
"""A picture of more is not decoded: it fills the memory, and may have been made for that."""

TAKEN = (
    "a Matplotlib or Plotly figure, a PIL image, the bytes of a PNG, JPEG, WebP or GIF, or a path"
)
_EDGE = 64  # pixels that a tight box may add
_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".gif"}
_URL_CHARACTERS = 8192  # api-docs.deepseek.com/guides/vision


def read(value: object) -> tuple[Image | ImageLink, ...]:
    """Make what is sent of *value*: a picture or, in a list or tuple, several.

    What is none raises `InvalidOption`, in one line. An address on the web stays one:
    DeepSeek fetches it, this machine does not.
    """
    values = value if isinstance(value, list | tuple) else (value,)
    return tuple(found for one in values for found in _pictures(one))


def _refused(why: str, *, then: str = "") -> InvalidOption:
    return InvalidOption(f"{why}. Nothing was sent.{f' {then}' if then else ''}")


# -- what it is -------------------------------------------------------------------


def _pictures(value: object) -> Iterator[Image | ImageLink]:
    if isinstance(value, Image | ImageLink):
        yield value
    elif isinstance(value, str):
        yield _of_text(value)
    elif isinstance(value, os.PathLike):
        yield _of_path(value)
    elif isinstance(value, bytes | bytearray | memoryview):
        yield _of_bytes(bytes(value), "The picture")
    elif isinstance(value, BytesIO):
        yield _of_bytes(value.getvalue(), "The picture")
    elif figures := _figures(value):
        yield from map(_of_figure, figures)
    else:
        yield _of_object(value)


def _of_object(value: object) -> Image | ImageLink:
    """Make a picture of what is neither a file nor a Matplotlib figure."""
    if (pillow := sys.modules.get("PIL.Image")) and isinstance(value, pillow.Image):
        return _drawn(value, "The PIL image")
    if _is_of(value, "plotly") and hasattr(value, "to_image"):
        return _of_plotly(value)
    shown = sys.modules.get("IPython.core.display") or sys.modules.get("IPython.display")
    if shown and isinstance(value, getattr(shown, "Image", ())):
        return _of_shown(value)
    if (data := _own_png(value)) is not None:
        return _of_bytes(data, f"The picture of {type(value).__name__}")
    if value is not None and value is sys.modules.get("matplotlib.pyplot"):
        then = "The newest figure of a cell is plt.gcf(), in that cell."
        raise _refused("plt is a module, and no picture", then=then)
    kind = "None" if value is None else f"a value of type {one_line(type(value).__name__, 40)}"
    then = "Pillow makes one of it: PIL.Image.fromarray(…)" if _is_of(value, "numpy") else ""
    raise _refused(f"A picture cannot be {kind}; it is {TAKEN}", then=then)


def _is_of(value: object, library: str) -> bool:
    """Tell whether a class of *value* comes from *library*."""
    return any(kind.__module__.partition(".")[0] == library for kind in type(value).__mro__)


def _figures(value: object) -> list[Any]:
    """Find the Matplotlib figures that *value* is, belongs to, or holds as an array of axes."""
    module = sys.modules.get("matplotlib.figure")
    if module is None:
        return []
    is_array = _is_of(value, "numpy") and str(getattr(value, "dtype", "")) == "object"
    parts = getattr(value, "flat", ()) if is_array else (value,)
    found = [_figure(part, module.Figure) for part in parts]
    known = [figure for figure in found if figure is not None]
    return list(dict.fromkeys(known)) if len(known) == len(found) else []


def _figure(value: Any, kind: type) -> Any:
    """Give the figure of axes, of a grid of seaborn's, or of a part of a figure; else None."""
    with suppress(Exception):  # an object of anybody's may do anything when it is looked at
        for _ in range(4):
            if isinstance(value, kind):
                return value
            value = value.figure
    return None


def _own_png(value: object) -> bytes | None:
    """Give the picture that an object shows itself as in a notebook; None where it has none."""
    for name in ("_repr_png_", "_repr_jpeg_"):
        if (method := getattr(type(value), name, None)) is None:
            continue
        try:
            given = method(value)
        except Exception as error:
            raise _unreadable(f"The picture of {type(value).__name__}", error) from error
        data = given[0] if isinstance(given, tuple) else given
        if isinstance(data, bytes):
            return data
        if isinstance(data, str):
            from base64 import b64decode

            with suppress(ValueError):
                return b64decode(data)
    return None


def _of_shown(value: Any) -> Image | ImageLink:
    """Make a picture of IPython's `Image`, which holds bytes or an address."""
    if isinstance(value.data, bytes):
        return _of_bytes(value.data, "The IPython image")
    if value.url:
        return _of_text(value.url)
    raise _refused("The IPython image holds no picture")


def _of_text(text: str) -> Image | ImageLink:
    if re.match(r"https?://", text, re.IGNORECASE):
        return _link(text)
    return _of_path(text)


def _link(url: str) -> ImageLink:
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        host, has_password = parts.hostname, "@" in parts.netloc
    except ValueError:
        host, has_password = None, False
    if not host or len(url) > _URL_CHARACTERS or not url.isprintable() or " " in url:
        raise _refused(f"“{one_line(url, 60)}” is no address that DeepSeek can fetch")
    if has_password:
        raise _refused("The address of the picture has a name or a password before its @")
    return ImageLink(url)


# -- figures ----------------------------------------------------------------------


def _of_figure(figure: Any) -> Image:
    """Draw a Matplotlib figure as its cell shows it, smaller where it would be too large."""
    if len(figure.get_children()) < 2:  # the ground is the first
        raise _refused(
            "The Matplotlib figure is empty",
            then="Each cell begins new ones: keep it where it is drawn, fig = plt.gcf(), and send "
            "fig.",
        )
    try:
        data = _saved(figure)
    except Exception as error:
        raise _unreadable("The Matplotlib figure", error, "drawn") from error
    return _of_bytes(data, "The Matplotlib figure")


def _saved(figure: Any) -> bytes:
    """Save a figure as PNG, with what stands beyond its edges if that is not far away."""
    width, height = map(float, figure.get_size_inches())
    box: Any = None
    with suppress(Exception):
        tight = figure.get_tightbbox()
        if 0 < tight.width < 3 * width and 0 < tight.height < 3 * height:
            box, width, height = "tight", tight.width, tight.height
    width, height = (side * figure.dpi + _EDGE for side in (width, height))
    dpi = float(figure.dpi) * shrinking(width, height)
    file = BytesIO()
    figure.savefig(file, format="png", dpi=dpi, bbox_inches=box, metadata={"Software": None})
    return file.getvalue()


def _of_plotly(figure: Any) -> Image:
    try:
        data = bytes(figure.to_image(format="png"))
    except Exception as error:
        why = one_line(f"{type(error).__name__}: {error}", 120).rstrip(".")
        raise _refused(
            f"The Plotly figure cannot be drawn ({why})",
            then="It takes Kaleido, and that takes Chrome: pip install -U kaleido, then "
            "plotly_get_chrome",
        ) from error
    return _of_bytes(data, "The Plotly figure")


# -- files and bytes --------------------------------------------------------------


def _of_path(given: str | os.PathLike[str] | os.PathLike[bytes]) -> Image:
    try:
        path = Path(os.fsdecode(given)).expanduser()
        data = _content(path)
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        shown = one_line(os.fsdecode(given), 60)
        raise _refused(f"“{shown}” cannot be read ({one_line(reason, 60)})") from error
    return _of_bytes(data, f"“{one_line(path.name, 60)}”")


def _content(path: Path) -> bytes:
    shown = f"“{one_line(str(path), 80)}”"
    try:
        state = path.stat()
    except FileNotFoundError:
        raise _refused(f"There is no file {shown}{_meant(path)}") from None
    if stat.S_ISDIR(state.st_mode):
        raise _refused(f"{shown} is a folder, and no picture")
    if not stat.S_ISREG(state.st_mode):
        raise _refused(f"{shown} is no ordinary file")
    if state.st_size > FILE_BYTES:
        raise _refused(
            f"{shown} has {state.st_size / 1e6:,.0f} MB, and no more than "
            f"{FILE_BYTES / 1e6:.0f} MB are read"
        )
    return path.read_bytes()


def _meant(path: Path) -> str:
    """Name the file beside it that is spelt like it."""
    near = None
    with suppress(OSError):
        files = (other for other in path.parent.iterdir() if other.suffix.lower() in _SUFFIXES)
        near = nearest(path.name, [file.name for file in files])
    return f" (did you mean {one_line(near, 60)}?)" if near else f" (looked for in {_here()})"


def _here() -> str:
    return one_line(str(Path.cwd()), 80)


def _of_bytes(data: bytes, what: str) -> Image:
    """Look at the bytes of a picture, and send them as they are if they can go so."""
    if not data:
        raise _refused(f"{what} is empty: it has 0 bytes")
    if (kind := image_files.kind_of(data)) not in image_files.SENT:
        raise _of_other_kind(what, kind)
    try:
        head = image_files.head_of(data)
    except ValueError as error:
        name = kind.removeprefix("image/").upper() if kind else ""
        raise _refused(f"{what} begins as a {name} does, and {error}") from None
    if head.is_animated:
        raise _animated(what)
    _bounded(what, head.width, head.height)
    image = Image(head.mime, data, head.width, head.height)
    if head.is_plain and _fits(image):
        return image
    return _drawn_anew(image, what)


def _of_other_kind(what: str, kind: str | None) -> InvalidOption:
    read = "DeepSeek reads PNG, JPEG, WebP and GIF"
    if kind is None:
        return _refused(f"{what} is of a kind that is not known here; {read}")
    then = ""
    if kind in ("an SVG drawing", "a PDF"):
        then = "Save it as PNG where it was made, and send that."
    elif "picture" in kind:
        then = "Pillow may open it: send PIL.Image.open(…) instead of the file."
    return _refused(f"{what} is {kind}; {read}", then=then)


def _animated(what: str) -> InvalidOption:
    return _refused(
        f"{what} has several frames, and a model sees one picture at a time",
        then="Send one of them, such as the first: PIL.Image.open(…).copy()",
    )


def _bounded(what: str, width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise _refused(
            f"{what} has {width:,} × {height:,} pixels, and more than "
            f"{MOST_PIXELS // 1_000_000} million are not opened",
            then="Make it smaller first.",
        )


def _fits(image: Image) -> bool:
    return fits(image.width, image.height, len(image.data))


def _unreadable(what: str, error: Exception, done: str = "read") -> InvalidOption:
    why = one_line(f"{type(error).__name__}: {error}", 120).rstrip(".")
    return _refused(f"{what} cannot be {done} ({why})")


# -- with Pillow ------------------------------------------------------------------


def _drawn_anew(image: Image, what: str) -> Image:
    """Let Pillow draw a picture that cannot go as it is; without it, it goes if it fits."""
    try:
        opened = image_drawing.opened(image.data)
    except ImportError:
        if _fits(image):
            return image
        raise _refused(
            f"{what} is too large ({image.summary}): a side has at most {SIDE:,} pixels, and all "
            f"of it {BYTES / 1e6:.0f} MB",
            then="Make it smaller, or let Pillow do it: pip install pillow",
        ) from None
    except Exception as error:
        raise _unreadable(what, error) from error
    with opened:
        return _drawn(opened, what)


def _drawn(picture: Any, what: str) -> Image:
    """Make what is sent of a picture of Pillow's, which stays as it is."""
    if getattr(picture, "is_animated", False) and picture.format != "MPO":
        raise _animated(what)
    width, height = picture.size
    if not width or not height:
        raise _refused(f"{what} is empty: it has {width} × {height} pixels")
    _bounded(what, width, height)
    try:
        return Image(*image_drawing.drawn(picture))
    except Exception as error:
        raise _unreadable(what, error) from error
