"""Pictures: what a notebook calls one, what is sent of it, what it costs, what is kept."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import zlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from struct import pack
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from IPython.display import Image as Shown
from matplotlib.figure import Figure
from PIL import ExifTags
from PIL import Image as Pillow

from deepseek_magic import image_drawing, image_files, image_tokens, images, options, preflight
from deepseek_magic.dry_run import without_account
from deepseek_magic.errors import BadRequest, InvalidOption, KeyInText, OverLimit
from deepseek_magic.home import ledger_path
from deepseek_magic.ledger import Ledger
from deepseek_magic.records import as_sent, name_of
from deepseek_magic.row_cells import image_of
from deepseek_magic.sandbox import Sandbox
from deepseek_magic.sandbox_images import tokens
from deepseek_magic.session import Session
from deepseek_magic.tables import answers_shown
from deepseek_magic.wire import Image, ImageLink, Message, Request, question
from deepseek_magic.words import VARIABLE

mpl.use("agg")

RED, WHITE = (255, 0, 0), (255, 255, 255)
BASE64 = "iVBORw0KGgo"  # how every PNG begins
LIKE_A_KEY = "sk-0123456789abcdef0123456789abcdef"


def figure(**settings: Any) -> Figure:
    """Give a figure with a line in it."""
    made = Figure(**settings)
    made.subplots().plot([1, 3, 2], color="red", linewidth=6)
    return made


def photo(size: tuple[int, int] = (60, 40), colour: Any = RED, mode: str = "RGB") -> Pillow.Image:
    return Pillow.new(mode, size, colour)


def saved(picture: Pillow.Image, form: str = "PNG", **settings: Any) -> bytes:
    file = BytesIO()
    picture.save(file, form, **settings)
    return file.getvalue()


def one(value: object) -> Image:
    """Read a value that is one picture."""
    (found,) = images.read(value)
    assert isinstance(found, Image)
    return found


def opened(image: Image) -> Pillow.Image:
    """Decode what would be sent."""
    made = Pillow.open(BytesIO(image.data))
    made.load()
    assert (made.size, f"image/{made.format}".lower()) == ((image.width, image.height), image.mime)
    return made


def near(colour: Any, other: tuple[int, int, int]) -> bool:
    return all(abs(a - b) < 12 for a, b in zip(colour[:3], other, strict=True))


def sent(api: Sandbox, number: int = -1) -> list[Pillow.Image]:
    """Decode the pictures that have arrived with the last message of a request."""
    body = api.requests[number].body
    assert body is not None
    urls = [p["image_url"]["url"] for p in body["messages"][-1]["content"][1:]]
    heads = [url.partition(";base64,") for url in urls]
    return [Pillow.open(BytesIO(base64.b64decode(data))) for _, _, data in heads]


def refusal(value: object) -> str:
    with pytest.raises(InvalidOption) as caught:
        images.read(value)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 400
    assert "Nothing was sent." in text
    return text


# -- what is a picture ----------------------------------------------------------------------


class Seaborn:
    """Stands in for a grid of plots, which knows its figure."""

    def __init__(self, made: Figure) -> None:
        self.figure = made


class Showing:
    """An object that shows itself as PNG in a notebook."""

    def _repr_png_(self) -> bytes:
        return saved(photo())


VALUES: dict[str, Callable[[Path], object]] = {
    "figure": lambda _: figure(),
    "axes": lambda _: figure().axes[0],
    "grid": lambda _: Seaborn(figure()),
    "array of axes": lambda _: Figure().subplots(2, 2),
    "PIL image": lambda _: photo(),
    "PIL image of a file": lambda _: Pillow.open(BytesIO(saved(photo()))),
    "IPython image": lambda _: Shown(data=saved(photo())),
    "object": lambda _: Showing(),
    "png": lambda _: saved(photo()),
    "bytearray": lambda _: bytearray(saved(photo())),
    "memoryview": lambda _: memoryview(saved(photo())),
    "buffer": lambda _: BytesIO(saved(photo())),
    "jpeg": lambda _: saved(photo(), "JPEG"),
    "webp": lambda _: saved(photo(), "WEBP"),
    "lossless webp": lambda _: saved(photo(), "WEBP", lossless=True),
    "gif": lambda _: saved(photo().convert("P"), "GIF"),
    "path": lambda folder: folder / "a.png",
    "text": lambda folder: str(folder / "a.png"),
}


@pytest.mark.parametrize("name", VALUES)
def test_what_a_notebook_calls_a_picture_is_one(name: str, tmp_path: Path) -> None:
    """Figures, images, bytes and files become the bytes of a picture, of the size they say."""
    (tmp_path / "a.png").write_bytes(saved(photo()))

    image = one(VALUES[name](tmp_path))

    assert opened(image).size >= (60, 40)
    assert image.mime in image_files.SENT


def test_what_can_go_as_it_is_does() -> None:
    """A file that is no more than its pixels is not written anew."""
    for form in ("PNG", "JPEG", "WEBP", "GIF"):
        data = saved(photo().convert("P" if form == "GIF" else "RGB"), form)

        assert one(data).data == data


def test_a_list_is_several_pictures_and_what_was_read_stays() -> None:
    """Several values give several pictures in their order; an `Image` is one already."""
    read = images.read([photo(), saved(photo((8, 9)))])

    assert [image.size for image in read] == [(60, 40), (8, 9)]
    assert images.read(list(read)) == read
    assert images.read([]) == ()


def test_a_plotly_figure_is_drawn_by_plotly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A figure of Plotly's is asked for its PNG; where that fails, the line says what to install.

    Plotly is not among what the tests install: the class stands in for its figure.
    """

    class Drawn:
        __module__ = "plotly.graph_objs._figure"

        def to_image(self, format: str) -> bytes:  # noqa: A002  # as Plotly calls it
            return saved(photo(), format.upper())

    class Undrawn(Drawn):
        __module__ = "plotly.graph_objs._figure"

        def to_image(self, format: str) -> bytes:  # noqa: A002
            raise ValueError(f"Export as {format} takes Kaleido,\nwhich is not there.")

    assert one(Drawn()).size == (60, 40)
    assert "pip install -U kaleido" in refusal(Undrawn())


def test_an_address_stays_one_and_is_not_fetched(refused: Path) -> None:
    """A picture on the web goes as its address, which this machine does not visit."""
    assert images.read("https://example.com/a.png?b=c") == (
        ImageLink("https://example.com/a.png?b=c"),
    )
    assert images.read(Shown(url="http://example.com/a.png")) == (
        ImageLink("http://example.com/a.png"),
    )
    assert refused.read_text() == ""


# -- what is sent of it ---------------------------------------------------------------------


def test_transparent_ground_becomes_white() -> None:
    """What lets see through it is put on white: figures, PIL images, files, palettes."""
    clear = figure()
    clear.patch.set_alpha(0)
    half = photo(mode="RGBA", colour=(255, 0, 0, 0))
    palette = photo().convert("P")
    palette.info["transparency"] = palette.getpixel((0, 0))

    gif = saved(palette, "GIF", transparency=palette.getpixel((0, 0)))
    for value in (clear, half, saved(half), saved(half, "WEBP", lossless=True), palette, gif):
        drawn = opened(one(value))

        assert drawn.mode == "RGB"
        assert near(drawn.getpixel((0, 0)), WHITE)


def test_a_figure_keeps_its_ground_and_itself() -> None:
    """A dark figure stays dark, and sending one does not change it."""
    dark = figure(facecolor="black", dpi=80)

    image = one(dark)

    assert near(opened(image).getpixel((0, 0)), (0, 0, 0))
    assert (dark.dpi, dark.get_facecolor()) == (80, (0, 0, 0, 1))
    assert image == one(dark), "the same figure is the same picture"


def test_a_picture_is_turned_and_says_nothing_of_its_maker() -> None:
    """A photo is turned as the camera was held; place, comments and date are left out."""
    taken = photo((80, 40))
    taken.paste((0, 0, 255), (0, 0, 40, 40))  # blue on the left
    exif = Pillow.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be turned by a quarter: the left comes up
    exif[ExifTags.Base.Artist] = "Somebody"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"

    for form in ("JPEG", "PNG", "WEBP"):
        data = saved(taken, form, exif=exif)
        image = one(data)
        drawn = opened(image)

        assert b"Somebody" in data
        assert b"Somebody" not in image.data
        assert not drawn.getexif()
        assert drawn.size == (40, 80)
        assert near(drawn.getpixel((20, 10)), (0, 0, 255)), "blue is at the top"


def test_a_file_that_is_not_quite_right_goes_without_a_warning() -> None:
    """What a camera wrote wrong into its notes is no matter: warnings are errors here."""
    data = saved(photo(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0")

    assert opened(one(data)).size == (60, 40)


def test_a_photo_of_two_pictures_goes_as_its_first() -> None:
    """A file of a telephone with a second picture in it is no animation."""
    data = saved(photo(), "MPO", save_all=True, append_images=[photo(colour=WHITE)])

    assert near(opened(one(data)).getpixel((0, 0)), RED)


def test_what_else_a_file_holds_is_left_out() -> None:
    """Words in a file, and what is hung behind its end, are not sent."""
    files = [
        saved(photo(), "JPEG", comment=b"secret"),
        saved_with_words(),
        saved(photo().convert("P"), "GIF", comment=b"secret"),
        *(saved(photo(), form) + b"secret" for form in ("PNG", "JPEG", "WEBP")),
        saved(photo().convert("P"), "GIF") + b"secret",
    ]
    for data in files:
        assert b"secret" in data
        assert b"secret" not in one(data).data


def saved_with_words() -> bytes:
    from PIL.PngImagePlugin import PngInfo

    words = PngInfo()
    words.add_text("Comment", "secret")
    return saved(photo(), pnginfo=words)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "CMYK", "YCbCr", "HSV", "I", "F", "I;16"])
def test_every_mode_of_pil_is_drawn(mode: str) -> None:
    """Pictures in grey, in print colours or of measured values become PNG that is read."""
    picture = Pillow.new(mode, (5, 4))

    assert opened(one(picture)).mode in ("L", "RGB")


def test_a_file_in_colours_of_print_is_drawn_anew() -> None:
    """A JPEG for printers goes in red, green and blue."""
    assert opened(one(saved(photo(mode="CMYK", colour=(0, 255, 255, 0)), "JPEG"))).mode == "RGB"


def test_measured_values_are_seen() -> None:
    """The least of measured values is black and the most is white."""
    picture = Pillow.new("I;16", (2, 1))
    picture.putpixel((0, 0), 700)
    picture.putpixel((1, 0), 900)

    drawn = opened(one(picture))

    assert [drawn.getpixel((x, 0)) for x in (0, 1)] == [0, 255]


@pytest.mark.parametrize(
    "large",
    [
        pytest.param(lambda: photo((5000, 100)), id="long"),
        pytest.param(lambda: saved(photo((5000, 100))), id="long file"),
        pytest.param(lambda: photo((3000, 2000)), id="wide"),
        pytest.param(lambda: figure(figsize=(30, 20), dpi=300), id="figure"),
    ],
)
def test_large_pictures_are_made_smaller(large: Callable[[], Any]) -> None:
    """No picture that is drawn anew has a side or an area over the bounds, nor is it distorted."""
    image = one(large())

    assert max(image.width, image.height) <= image_drawing.SIDE
    assert image.width * image.height <= image_drawing.PIXELS * 1.01
    assert len(image.data) <= image_drawing.BYTES
    opened(image)


def test_noise_that_png_cannot_hold_becomes_jpeg() -> None:
    """A picture whose PNG is over the bound goes as JPEG."""
    noise = Pillow.frombytes("RGB", (2000, 2000), os.urandom(12_000_000))

    image = one(noise)

    assert image.mime == "image/jpeg"
    assert len(image.data) <= image_drawing.BYTES


def test_an_artist_far_outside_does_not_blow_a_figure_up() -> None:
    """A figure with a text a mile away is drawn as large as it is."""
    stray = figure()
    stray.text(400, 400, "far away")

    image = one(stray)

    assert max(image.width, image.height) <= 2 * 640


# -- what is none ---------------------------------------------------------------------------


def png_of(width: int, height: int) -> bytes:
    """Give a PNG that claims to be of a size, and has hardly any bytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return pack(">I", len(data)) + name + data + pack(">I", zlib.crc32(name + data))

    head = pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(bytes(9)))
        + chunk(b"IEND", b"")
    )


def moving(form: str) -> bytes:
    frames = [photo(colour=colour) for colour in (RED, WHITE)]
    return saved(frames[0], form, save_all=True, append_images=frames[1:])


class Hostile:
    """An object that fails in its own way when it is looked at."""

    def __getattr__(self, name: str) -> object:
        raise RuntimeError(name)


class Failing:
    """An object that cannot draw itself."""

    def _repr_png_(self) -> bytes:
        raise ZeroDivisionError


WRONG_BYTES: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "0 bytes"),
    "text": (lambda: b"hello", "of a kind that is not known"),
    "svg": (lambda: b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG"),
    "pdf": (lambda: b"%PDF-1.7\n", "a PDF"),
    "bmp": (lambda: saved(photo(), "BMP"), "PIL.Image.open"),
    "tiff": (lambda: saved(photo(), "TIFF"), "a TIFF picture"),
    "page": (lambda: b"<!DOCTYPE html><html>", "a web page"),
    "moving gif": (lambda: moving("GIF"), "several frames"),
    "moving webp": (lambda: moving("WEBP"), "several frames"),
    "moving png": (lambda: moving("PNG"), "several frames"),
    "half a png": (lambda: saved(photo())[:60], "cut off"),
    "half a jpeg": (lambda: saved(photo(), "JPEG")[:-40], "cut off"),
    "half a gif": (lambda: saved(photo().convert("P"), "GIF")[:-8], "cut off"),
    "half a webp": (lambda: saved(photo(), "WEBP")[:-8], "cut off"),
    "start of a png": (lambda: b"\x89PNG\r\n\x1a\n", "cut off"),
    "start of a jpeg": (lambda: b"\xff\xd8\xff\xe0", "cut off"),
    "damaged png": (lambda: saved(photo()).replace(b"IDAT", b"IDAS"), "check sums"),
    "no size": (lambda: png_of(0, 10), "no size"),
    "bomb": (lambda: png_of(50_000, 50_000), "50,000 × 50,000"),
    "hollow": (lambda: png_of(5_000, 5_000), "cannot be read"),
}


@pytest.mark.parametrize("name", WRONG_BYTES)
def test_bytes_that_are_no_picture_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    """Bad bytes, as they are or in a file, are refused with the reason before anything is sent."""
    make, words = WRONG_BYTES[name]
    path = tmp_path / "chart.png"
    path.write_bytes(make())

    assert words in refusal(make())
    assert words in refusal(path)
    assert "chart.png" in refusal(path)


WRONG_VALUES: dict[str, tuple[Callable[[], object], str]] = {
    "None": (lambda: None, "cannot be None"),
    "number": (lambda: 3.5, "type float"),
    "dict": (lambda: {"a": 1}, "type dict"),
    "module": (lambda: mpl, "type module"),
    "plt": (lambda: plt, "plt.gcf()"),
    "array": (lambda: np.zeros((3, 4)), "PIL.Image.fromarray"),
    "mixed array": (lambda: np.array([figure(), 3], dtype=object), "type ndarray"),
    "hostile object": (Hostile, "type Hostile"),
    "object that fails": (Failing, "ZeroDivisionError"),
    "empty figure": (Figure, "is empty"),
    "empty image": (lambda: Pillow.new("RGB", (0, 5)), "0 × 5"),
    "empty IPython image": (lambda: Shown(url=""), "no picture"),
    "no host": (lambda: "https://", "no address"),
    "password": (lambda: "https://user:word@example.com/a.png", "password"),
    "long address": (lambda: "https://example.com/" + "a" * 9000, "no address"),
    "blank in address": (lambda: "https://exam ple.com/a.png", "no address"),
    "no path": (lambda: "a\0b.png", "cannot be read"),
    "long path": (lambda: "x" * 5000, "cannot be read"),
    "one of two": (lambda: [photo(), "a"], "no file"),
    "list in a list": (lambda: [[photo()]], "type list"),
}


@pytest.mark.parametrize("name", WRONG_VALUES)
def test_what_is_no_picture_is_refused_in_one_line(name: str) -> None:
    """Values of other kinds, empty ones and wrong addresses are refused with the reason."""
    make, words = WRONG_VALUES[name]

    assert words in refusal(make())


class OfNoPath(os.PathLike[str]):
    """Says that it is a path, and gives none."""

    def __fspath__(self) -> Any:
        return 5


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    """A missing file, a folder, a pipe, a huge file: one line each, and none is waited for."""
    (tmp_path / "chart.png").write_bytes(saved(photo()))
    os.mkfifo(tmp_path / "pipe.png")
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(images.FILE_BYTES + 1)

    assert "did you mean chart.png?" in refusal(tmp_path / "chrat.png")
    assert "is a folder" in refusal(tmp_path)
    assert "cannot be read" in refusal(OfNoPath())
    assert "no ordinary file" in refusal(tmp_path / "pipe.png")
    assert "no more than 67 MB" in refusal(tmp_path / "huge.png")


def test_a_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path may begin with ~."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.png").write_bytes(saved(photo()))

    assert one("~/a.png").size == (60, 40)


def test_without_pillow_what_fits_goes_as_it_is_and_what_is_too_large_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without Pillow a transparent file goes untouched; a large one is refused with the way out."""
    clear, large = saved(photo(mode="RGBA", colour=(1, 2, 3, 4))), saved(photo((5000, 10)))
    monkeypatch.setitem(sys.modules, "PIL", None)

    assert one(clear).data == clear
    assert "pip install pillow" in refusal(large)


# -- on the wire ----------------------------------------------------------------------------


def test_pictures_arrive_as_they_were_drawn(session: Session, api: Sandbox) -> None:
    """Text and pictures go as the parts of one message, and decode to what was shown."""
    drawn = figure()

    answer = session.ask("What is it?", images=[drawn, saved(photo())], think="off")

    body = api.requests[-1].body
    assert body is not None
    assert body["messages"][-1]["content"][0] == {"type": "text", "text": "What is it?"}
    plot, red = sent(api)
    assert plot.tobytes() == opened(one(drawn)).tobytes()
    assert red.convert("RGB").getpixel((0, 0)) == RED
    assert answer.finish_reason == "stop"


def test_a_question_without_pictures_is_what_it_was() -> None:
    """Without pictures the body has plain text, and the name of a question is that of before."""
    request = question("Why?", system="Be brief.")

    assert [m["content"] for m in request.body()["messages"]] == ["Be brief.", "Why?"]
    assert as_sent(request) == json.dumps(request.body(), ensure_ascii=False)
    assert name_of(question("Why?", think="off")) == "wQz69wqpCL7yuymWCF6S"


def test_the_model_that_reads_none_is_named_with_the_way_out(
    session: Session, api: Sandbox
) -> None:
    """Pro is refused before anything is sent; a name that is not known is sent to the API."""
    for ask in (session.ask, session.preview):
        with pytest.raises(InvalidOption) as caught:
            ask("What is it?", model="pro", images=photo())
        assert "deepseek-v4-pro reads no pictures" in str(caught.value)
        assert "-m flash" in str(caught.value)
    assert len(api.requests) == 0

    with pytest.raises(BadRequest):
        session.ask("What is it?", model="some-other", images=photo())
    assert len(api.requests) == 1


def test_the_sandbox_refuses_pictures_as_the_guide_says(session: Session, api: Sandbox) -> None:
    """Pictures to Pro, in a system message or of no known kind are 400 at the simulated account."""
    picture = one(photo())
    broken = replace(picture, data=b"GIF, or not")
    asked = Message("user", "What is it?", (picture,))

    for messages, words in (
        ((Message("system", "See.", (picture,)), Message("user", "What?")), "user messages only"),
        ((replace(asked, images=(broken,)),), "unsupported image format"),
        ((replace(asked, images=(picture,) * 601),), "Too many images"),
        ((replace(asked, images=(ImageLink("ftp://example.com/a"),)),), "invalid image url"),
    ):
        with pytest.raises(BadRequest, match=words):
            _raw(session, Request(messages))
    with pytest.raises(BadRequest, match="does not support image"):
        _raw(session, Request((asked,), model="deepseek-v4-pro"))
    assert api.billed == 0


def _raw(session: Session, request: Request) -> None:
    """Send a request past the checks."""
    with closing(session.client.stream(request, idle=10)) as pieces:
        for _ in pieces:
            pass


def test_too_many_bytes_for_one_request_are_refused() -> None:
    """Pictures that together pass what a request may hold, or are too many, are refused."""
    heavy = Image("image/png", bytes(8_000_000), 10, 10)

    for number, words in ((5, "40 MB together"), (601, "601 pictures")):
        request = question("Which?", images=(heavy if number == 5 else one(photo()),) * number)
        assert words in str(preflight.refusal(request))


def test_an_address_with_a_key_in_it_is_refused(session: Session, api: Sandbox) -> None:
    """Something like a key in the address of a picture is not sent."""
    with pytest.raises(KeyInText):
        session.ask("What is it?", images=f"https://example.com/a.png?key={LIKE_A_KEY}")
    assert len(api.requests) == 0


def test_rows_take_no_picture_yet(session: Session, api: Sandbox) -> None:
    """A picture with a question for every row is refused in one line, and nothing is asked."""
    for ask in (session.map, session.forecast):
        with pytest.raises(InvalidOption, match="no picture per row yet"):
            ask(["a", "b"], "Is {{text}} on it?", images=[photo()])
    assert len(api.requests) == 0


# -- what it costs --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 4000), (4096, 1), (640, 480), (800, 800), (1300, 1300), (4000, 1000)]
)
def test_the_estimate_holds_what_the_sandbox_bills(
    session: Session, api: Sandbox, size: tuple[int, int]
) -> None:
    """What a question with pictures is billed lies within its range, and never above its worst."""
    value = [photo(size), photo((30, 20))]
    session.balance()
    guess = session.estimate("What is on them?", images=value, think="off", max_tokens=50)

    answer = session.ask("What is on them?", images=value, think="off", max_tokens=50)

    assert answer.usage is not None
    assert answer.usage.prompt_tokens is not None
    assert guess.tokens_in.low <= answer.usage.prompt_tokens <= guess.tokens_in.high
    assert guess.worst is not None
    assert answer.cost is not None
    assert answer.cost <= guess.worst
    assert not guess.tokens_in.exact
    assert "each of 2 pictures takes up to 1,024 tokens" in guess.reason


def test_no_picture_takes_more_than_the_bound() -> None:
    """Whatever its size, a picture is estimated, and billed by the sandbox, within the bound."""
    for width in (1, 41, 42, 43, 100, 544, 600, 1343, 1345, 4096, 80_000):
        for height in (1, 42, 300, 543, 1344, 4096):
            count = image_tokens.count([Image("image/png", b"", width, height)])

            assert 1 <= count.low <= count.likely <= count.high == image_tokens.MOST
            assert tokens(width, height) <= image_tokens.MOST
            assert abs(tokens(width, height) - count.likely) <= count.likely // 8
    link = image_tokens.count([ImageLink("https://example.com/a.png")])
    assert (link.high, image_tokens.most([ImageLink("x")]) >= 1024) == (1024, True)


def test_a_budget_holds_with_pictures(session: Session, api: Sandbox) -> None:
    """A budget that the pictures alone may pass refuses the question before it is sent."""
    session.balance()

    with pytest.raises(OverLimit):
        session.ask("Which?", images=[photo()] * 20, budget="0.001")
    assert len(api.requests) == 0

    answer = session.ask("Which?", images=[photo()] * 20, budget="0.1", think="off")
    assert answer.cost is not None
    assert answer.cost <= api.billed <= 0.1


def test_an_address_is_escaped_where_it_is_shown(session: Session) -> None:
    """What an address holds is text on the page, and nothing more."""
    request = preflight.request_of("What?", images="https://example.com/<img/src=x>.png")

    shown = without_account(
        request, {"CNY": session.estimate(request, currency="CNY")}, session.now()
    )

    assert "<img" not in shown.html
    assert "&lt;img/src=x&gt;" in shown.html


def test_a_dry_run_shows_each_picture(session: Session) -> None:
    """Before it is sent, kind, size and bytes of each picture are told, and its most tokens."""
    request = preflight.request_of("What is it?", images=[photo(), "https://example.com/a.png"])
    guess = session.estimate(request, currency="CNY")

    shown = without_account(request, {"CNY": guess}, session.now())

    for text in (shown.text, shown.html):
        assert f"60×40 PNG, {len(one(photo()).data)} bytes; at https://example.com/a.png" in text
        assert "2 pictures" in text
        assert "up to 1,024 tokens" in text
        assert BASE64 not in text


# -- what is kept ---------------------------------------------------------------------------


def test_the_ledger_names_a_picture_and_does_not_hold_it(
    open_session: Callable[..., Session], api: Sandbox, path: Path
) -> None:
    """The record of a question has the picture's size and hash; its bytes are nowhere on disk."""
    session = open_session(api)
    session.ask("What is it?", images=figure(), think="off")
    session.close()

    with closing(Ledger(path)) as ledger:
        (row,) = ledger.entries()
    assert "PNG" in row["request"]
    assert "sha256" in row["request"]
    assert BASE64.encode() not in path.read_bytes()
    assert len(row["request"]) < 600


def test_the_list_of_answers_tells_of_pictures(session: Session) -> None:
    """`%deepseek answers` shows the question, and how many pictures went with it."""
    session.ask("What is it?", images=[photo()] * 2, think="off")

    shown = answers_shown(session.ledger.entries(), session.now())

    assert "What is it? (with 2 pictures)" in shown.text
    assert "sha256" not in shown.text


def test_the_reader_s_language_changes_no_question(monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture is shown in Chinese, and named in records in the same way as in English."""
    pictures: list[Image | ImageLink] = [one(photo()), ImageLink("https://example.com/a.png")]
    request = preflight.request_of("What?", images=pictures)
    monkeypatch.setenv(VARIABLE, "en")
    english = [as_sent(request), name_of(request), *(one.told for one in pictures)]

    monkeypatch.setenv(VARIABLE, "zh")

    assert [as_sent(request), name_of(request), *(one.told for one in pictures)] == english
    size = len(one(photo()).data)
    assert pictures[0].summary == f"60×40 PNG，{size} 字节"
    assert pictures[1].summary == "位于 https://example.com/a.png"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (b"", "这张图片为空：只有 0 字节。未发送任何内容。"),
        (
            b"%PDF-1.4",
            (
                "这张图片是一份 PDF 文件；DeepSeek 可以读取 PNG、JPEG、WebP 和 GIF。"
                "未发送任何内容。"
                "请在制作它的程序中另存为 PNG，再发送。"
            ),
        ),
        (
            b"MM\0*",
            (
                "这张图片是一张 TIFF 图片；DeepSeek 可以读取 PNG、JPEG、WebP 和 GIF。"
                "未发送任何内容。"
                "Pillow 也许能打开它：请发送 PIL.Image.open(…)，而不是文件。"
            ),
        ),
        (b"\xff\xd8\xff", "这张图片的开头像 JPEG，但是内容不完整。未发送任何内容。"),
        (Path("/nowhere"), "没有文件“/nowhere”（在 {here} 中查找过）。未发送任何内容。"),
    ],
)
def test_why_a_picture_is_refused_is_told_in_chinese_too(
    monkeypatch: pytest.MonkeyPatch, value: bytes | Path, said: str
) -> None:
    """The sentences are whole, also where one stands in another."""
    monkeypatch.setenv(VARIABLE, "zh")

    with pytest.raises(InvalidOption) as caught:
        images.read(value)

    assert str(caught.value) == said.format(here=Path.cwd())


def test_another_picture_is_another_question() -> None:
    """The names of questions differ when a picture does, and are the same when none does."""
    first, second = (preflight.request_of("What?", images=photo(colour=c)) for c in (RED, WHITE))
    again = preflight.request_of("What?", images=photo())
    plain = preflight.request_of("What?")

    assert name_of(first) == name_of(again)
    assert as_sent(first) == as_sent(again)
    assert len({name_of(r) for r in (first, second, plain)}) == 3
    assert len({as_sent(r) for r in (first, second, plain)}) == 3


def test_reprs_and_logs_stay_short(
    session: Session, api: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither the repr of a picture, of a request, of what has arrived nor the log holds bytes."""
    caplog.set_level("DEBUG", "deepseek_magic")
    picture = one(figure())

    session.ask("What is it?", images=picture, think="off")

    assert (
        repr(picture) == f"Image(mime='image/png', width={picture.width}, height={picture.height})"
    )
    assert len(repr(question("What?", images=(picture,)))) < 400
    assert len(repr(api.requests)) < 4000
    assert BASE64 not in caplog.text


# -- the option -----------------------------------------------------------------------------


def test_the_option_may_be_given_several_times() -> None:
    """Each --image adds a picture; with --each it is refused with a way to do it."""
    assert options.parse('--image fig --image "a b.png"').image == ("fig", "a b.png")
    assert options.parse("").image == ()
    assert "--image" in options.complete("--image fig --im", "--im")
    assert "--image VALUE" in options.help_text()
    for line, words in (
        ("--image", "--image needs a value, --image VALUE"),
        ("--image ''", "--image fig"),
        ("--each df --image fig", "does not go with --each"),
        ("--image fig (a)", '--image "figures[0]"'),
    ):
        with pytest.raises(InvalidOption) as caught:
            options.parse(line)
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("a.png", "a.png"),
        ("plots/A.JPG", "plots/A.JPG"),
        ("https://example.com/x", "https://example.com/x"),
        ("~/x", "~/x"),
        ("./x", "./x"),
        ("/tmp/x", "/tmp/x"),  # noqa: S108  # nothing is there
        (__file__, __file__),
        ("fig", "the figure"),
        ("box.png", "inside"),
        ("figs[0]", "the first"),
        ("'a' + 'b'", "ab"),
    ],
)
def test_a_value_is_a_path_or_an_expression(text: str, meant: str) -> None:
    """What ends as a picture's file or begins as a path is one; the rest is Python."""

    class Box:
        png = "inside"

    assert image_of(text, {"fig": "the figure", "box": Box, "figs": ["the first"]}) == meant


def test_an_expression_that_fails_is_one_line() -> None:
    """A name that does not exist, or code that fails, says so and what to write."""
    for text, words in (("figg", "Did you mean fig?"), ("1/0", "ZeroDivisionError"), ("a b", "no")):
        with pytest.raises(InvalidOption) as caught:
            image_of(text, {"fig": 1})
        assert words in str(caught.value)
        assert "Nothing was sent." in str(caught.value)


@pytest.fixture
def cell(shell: Any, api: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give a shell whose cells ask the simulated account."""
    monkeypatch.setenv("DEEPSEEK_API_KEY", api.api_key)
    monkeypatch.setenv("DEEPSEEK_BASE_URL", api.base_url)
    return shell


def test_a_cell_sends_a_figure_and_a_file(
    cell: Any, api: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A cell with two --image sends both; with --dry-run it shows them and sends nothing."""
    path = tmp_path / "red dot.png"
    path.write_bytes(saved(photo()))
    cell.user_ns["fig"] = figure()
    line = f'--image fig --image "{path}" -t off'

    cell.run_cell(f"%%deepseek {line} --dry-run\nWhat is it?").raise_error()
    shown = capsys.readouterr().out
    assert len(api.requests) == 0
    cell.run_cell(f"%%deepseek {line}\nWhat is it?").raise_error()

    assert "60×40 PNG" in shown
    assert [picture.size for picture in sent(api)] == [one(cell.user_ns["fig"]).size, (60, 40)]


def test_a_cell_with_a_bad_picture_fails_in_one_line(cell: Any, api: Sandbox) -> None:
    """A value that is no picture fails the cell, and nothing is sent."""
    for value in ("nothing.png", "nothing", "1/0", "'a'", "print"):
        ran = cell.run_cell(f"%%deepseek --image {value}\nWhat is it?")

        assert isinstance(ran.error_in_exec, InvalidOption)
    assert len(api.requests) == 0


# -- what is loaded -------------------------------------------------------------------------


def test_nothing_is_imported_that_was_not_there(api: Sandbox, tmp_path: Path) -> None:
    """Sending a file, or a value that is no picture, loads no library of pictures."""
    (tmp_path / "a.png").write_bytes(saved(photo()))
    code = f"""
import sys
from deepseek_magic import DeepSeekError, Session
with Session(api_key={api.api_key!r}, base_url={api.base_url!r}, ledger=":memory:") as session:
    session.ask("What is it?", images={str(tmp_path / "a.png")!r}, think="off")
    try:
        session.ask("What is it?", images=object())
    except DeepSeekError as error:
        print(error)
print(sorted(set(sys.modules) & {{"matplotlib", "plotly", "PIL", "numpy", "pandas", "IPython"}}))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert ran.returncode == 0, ran.stderr
    assert "type object" in ran.stdout
    assert ran.stdout.splitlines()[-1] == "[]"
    assert [picture.size for picture in sent(api, 0)] == [(60, 40)]


@pytest.mark.kernel
def test_a_figure_of_a_notebook_is_sent(
    kernel: Any, api: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a real kernel the figure that a cell has drawn arrives, and its ledger has no base64."""
    monkeypatch.setenv("DEEPSEEK_API_KEY", api.api_key)
    monkeypatch.setenv("DEEPSEEK_BASE_URL", api.base_url)

    ran = kernel.run(
        [
            "%matplotlib inline\nimport matplotlib.pyplot as plt\n%load_ext deepseek_magic",
            "fig, ax = plt.subplots()\nax.plot([1, 3, 2]);",
            "%%deepseek --image fig -t off -o answer\nWhat does the plot show?",
            "%%deepseek --image ax -t off\nWhat does the plot show?",
            "print('cost', answer.cost)",
        ]
    )

    assert ran.error is None
    assert "cost 0.0" in ran.text(4)
    assert len(api.requests) == 2
    (plot,) = sent(api, 0)
    assert (plot.size, plot.mode) == (sent(api, 1)[0].size, "RGB")
    assert len(set(plot.resize((64, 48)).tobytes())) > 2, "there is something on it"
    assert BASE64.encode() not in ledger_path().read_bytes()
