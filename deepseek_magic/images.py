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
from .words import later, t

FILE_BYTES = 64 * 2**20
"""A larger file is not read."""

MOST_PIXELS = 80_000_000
"""A picture of more is not decoded: it fills the memory, and may have been made for that."""

TAKEN = later(
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
    return InvalidOption(t("{why}.", why=why), t("Nothing was sent."), then)


# -- what it is -------------------------------------------------------------------


def _pictures(value: object) -> Iterator[Image | ImageLink]:
    if isinstance(value, Image | ImageLink):
        yield value
    elif isinstance(value, str):
        yield _of_text(value)
    elif isinstance(value, os.PathLike):
        yield _of_path(value)
    elif isinstance(value, bytes | bytearray | memoryview):
        yield _of_bytes(bytes(value), t("The picture"))
    elif isinstance(value, BytesIO):
        yield _of_bytes(value.getvalue(), t("The picture"))
    elif figures := _figures(value):
        yield from map(_of_figure, figures)
    else:
        yield _of_object(value)


def _of_object(value: object) -> Image | ImageLink:
    """Make a picture of what is neither a file nor a Matplotlib figure."""
    if (pillow := sys.modules.get("PIL.Image")) and isinstance(value, pillow.Image):
        return _drawn(value, t("The PIL image"))
    if _is_of(value, "plotly") and hasattr(value, "to_image"):
        return _of_plotly(value)
    shown = sys.modules.get("IPython.core.display") or sys.modules.get("IPython.display")
    if shown and isinstance(value, getattr(shown, "Image", ())):
        return _of_shown(value)
    if (data := _own_png(value)) is not None:
        return _of_bytes(data, _picture_of(value))
    if value is not None and value is sys.modules.get("matplotlib.pyplot"):
        then = t("The newest figure of a cell is plt.gcf(), in that cell.")
        raise _refused(t("plt is a module, and no picture"), then=then)
    raise _of_no_picture(value)


def _of_no_picture(value: object) -> InvalidOption:
    if value is None:
        return _refused(t("A picture cannot be None; it is {taken}", taken=t(TAKEN)))
    why = t(
        "A picture cannot be a value of type {kind}; it is {taken}",
        kind=one_line(type(value).__name__, 40),
        taken=t(TAKEN),
    )
    is_array = _is_of(value, "numpy")
    return _refused(
        why, then=t("Pillow makes one of it: PIL.Image.fromarray(…)") if is_array else ""
    )


def _picture_of(value: object) -> str:
    return t("The picture of {kind}", kind=type(value).__name__)


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
            raise _unreadable(_picture_of(value), error) from error
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
        return _of_bytes(value.data, t("The IPython image"))
    if value.url:
        return _of_text(value.url)
    raise _refused(t("The IPython image holds no picture"))


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
        shown = one_line(url, 60)
        raise _refused(t("“{url}” is no address that DeepSeek can fetch", url=shown))
    if has_password:
        raise _refused(t("The address of the picture has a name or a password before its @"))
    return ImageLink(url)


# -- figures ----------------------------------------------------------------------


def _of_figure(figure: Any) -> Image:
    """Draw a Matplotlib figure as its cell shows it, smaller where it would be too large."""
    if len(figure.get_children()) < 2:  # the ground is the first
        raise _refused(
            t("The Matplotlib figure is empty"),
            then=t(
                "Each cell begins new ones: keep it where it is drawn, fig = plt.gcf(), and send "
                "fig."
            ),
        )
    try:
        data = _saved(figure)
    except Exception as error:
        why = _why(error)
        raise _refused(t("The Matplotlib figure cannot be drawn ({why})", why=why)) from error
    return _of_bytes(data, t("The Matplotlib figure"))


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
        raise _refused(
            t("The Plotly figure cannot be drawn ({why})", why=_why(error)),
            then=t(
                "It takes Kaleido, and that takes Chrome: pip install -U kaleido, then "
                "plotly_get_chrome"
            ),
        ) from error
    return _of_bytes(data, t("The Plotly figure"))


# -- files and bytes --------------------------------------------------------------


def _of_path(given: str | os.PathLike[str] | os.PathLike[bytes]) -> Image:
    try:
        path = Path(os.fsdecode(given)).expanduser()
        data = _content(path)
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        shown = one_line(str(given), 60)
        why = one_line(reason, 60)
        raise _refused(t("“{shown}” cannot be read ({why})", shown=shown, why=why)) from error
    return _of_bytes(data, f"“{one_line(path.name, 60)}”")


def _content(path: Path) -> bytes:
    shown = f"“{one_line(str(path), 80)}”"
    try:
        state = path.stat()
    except FileNotFoundError:
        raise _refused(_missing(path, shown)) from None
    if stat.S_ISDIR(state.st_mode):
        raise _refused(t("{shown} is a folder, and no picture", shown=shown))
    if not stat.S_ISREG(state.st_mode):
        raise _refused(t("{shown} is no ordinary file", shown=shown))
    if state.st_size > FILE_BYTES:
        raise _refused(
            t(
                "{shown} has {size:,.0f} MB, and no more than {most:.0f} MB are read",
                shown=shown,
                size=state.st_size / 1e6,
                most=FILE_BYTES / 1e6,
            )
        )
    return path.read_bytes()


def _missing(path: Path, shown: str) -> str:
    """Name the file that is spelt like it, or where it was looked for."""
    near = None
    with suppress(OSError):
        files = (other for other in path.parent.iterdir() if other.suffix.lower() in _SUFFIXES)
        near = nearest(path.name, [file.name for file in files])
    if near:
        near = one_line(near, 60)
        return t("There is no file {shown} (did you mean {near}?)", shown=shown, near=near)
    here = one_line(str(Path.cwd()), 80)
    return t("There is no file {shown} (looked for in {here})", shown=shown, here=here)


def _of_bytes(data: bytes, what: str) -> Image:
    """Look at the bytes of a picture, and send them as they are if they can go so."""
    if not data:
        raise _refused(t("{what} is empty: it has 0 bytes", what=what))
    if (kind := image_files.kind_of(data)) not in image_files.SENT:
        raise _of_other_kind(what, kind)
    try:
        head = image_files.head_of(data)
    except ValueError as error:
        name = kind.removeprefix("image/").upper() if kind else ""
        fault = t(str(error))
        why = t("{what} begins as a {name} does, and {fault}", what=what, name=name, fault=fault)
        raise _refused(why) from None
    if head.is_animated:
        raise _animated(what)
    _bounded(what, head.width, head.height)
    image = Image(head.mime, data, head.width, head.height)
    if head.is_plain and _fits(image):
        return image
    return _drawn_anew(image, what)


def _of_other_kind(what: str, kind: str | None) -> InvalidOption:
    if kind is None:
        return _refused(
            t(
                "{what} is of a kind that is not known here; DeepSeek reads PNG, JPEG, WebP and "
                "GIF",
                what=what,
            )
        )
    then = ""
    if kind in image_files.DOCUMENTS:
        then = t("Save it as PNG where it was made, and send that.")
    elif kind in image_files.PICTURES:
        then = t("Pillow may open it: send PIL.Image.open(…) instead of the file.")
    why = t("{what} is {kind}; DeepSeek reads PNG, JPEG, WebP and GIF", what=what, kind=t(kind))
    return _refused(why, then=then)


def _animated(what: str) -> InvalidOption:
    return _refused(
        t("{what} has several frames, and a model sees one picture at a time", what=what),
        then=t("Send one of them, such as the first: PIL.Image.open(…).copy()"),
    )


def _bounded(what: str, width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise _refused(
            t(
                "{what} has {width:,} × {height:,} pixels, and more than {most} million are not "
                "opened",
                what=what,
                width=width,
                height=height,
                most=MOST_PIXELS // 1_000_000,
            ),
            then=t("Make it smaller first."),
        )


def _fits(image: Image) -> bool:
    return fits(image.width, image.height, len(image.data))


def _unreadable(what: str, error: Exception) -> InvalidOption:
    return _refused(t("{what} cannot be read ({why})", what=what, why=_why(error)))


def _why(error: Exception) -> str:
    return one_line(f"{type(error).__name__}: {error}", 120).rstrip(".")


# -- with Pillow ------------------------------------------------------------------


def _drawn_anew(image: Image, what: str) -> Image:
    """Let Pillow draw a picture that cannot go as it is; without it, it goes if it fits."""
    try:
        opened = image_drawing.opened(image.data)
    except ImportError:
        if _fits(image):
            return image
        raise _refused(
            t(
                "{what} is too large ({summary}): a side has at most {side:,} pixels, and all of "
                "it {most:.0f} MB",
                what=what,
                summary=image.summary,
                side=SIDE,
                most=BYTES / 1e6,
            ),
            then=t("Make it smaller, or let Pillow do it: pip install pillow"),
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
        size = f"{width} × {height}"
        raise _refused(t("{what} is empty: it has {size} pixels", what=what, size=size))
    _bounded(what, width, height)
    try:
        return Image(*image_drawing.drawn(picture))
    except Exception as error:
        raise _unreadable(what, error) from error
