"""What holds for the recogniser whatever exceptions are made of: random chains, groups, data."""

from __future__ import annotations

import string
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from deepseek_magic.errors import OverLimit
from deepseek_magic.recognise import is_insufficient_balance
from test_recognise import (
    BODY,
    CHAT,
    NEGATIVE,
    POSITIVE,
    SHOP,
    Boom,
    Hostile,
    http_error,
    made,
    openrouter,
)


class Counting(Exception):
    """Counts how often its text is asked for, and the attributes that are."""

    asked = 0
    read: list[str] = []  # noqa: RUF012  # one count for all of them

    def __str__(self) -> str:
        Counting.asked += 1
        return "Error code: 402 - {" * 5_000

    def __getattr__(self, name: str) -> Any:
        Counting.read.append(name)
        raise AttributeError(name)

    @property
    def response(self) -> Any:
        """What would have to be asked for."""
        Counting.read.append("response")
        return None


KINDS: list[Callable[[], BaseException]] = [
    lambda: RuntimeError("x"), lambda: KeyError("Insufficient Balance"), lambda: Hostile("x"),
    lambda: http_error(SHOP), lambda: openrouter("Insufficient credits"),
    lambda: RuntimeError("Insufficient Balance"), lambda: OverLimit("402"),
    lambda: made("E", Mock(), body=Mock(), response=Mock()),
    lambda: made("E", {"error": {1: 2}}, status_code="402"), KeyboardInterrupt, Counting,
]  # fmt: skip
FOUND = sorted(set(POSITIVE) - {"base group"})
MISSES = sorted(name for name, one in NEGATIVE.items() if issubclass(type(one), Exception))
untimed = settings(deadline=None)
EXPLICIT = ["__cause__", "errors", "group", "args"]
LINKS = st.lists(
    st.tuples(
        st.integers(0, 30),
        st.integers(0, 30),
        st.sampled_from(["__cause__", "__context__", "errors", "original_exception"]),
    ),
    max_size=40,
)
STEPS = st.lists(
    st.tuples(
        st.sampled_from([RuntimeError, KeyError, Hostile, Counting, OverLimit, SystemExit]),
        st.sampled_from(EXPLICIT),
    ),
    max_size=20,
)
DATA = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.binary() | st.just("402"),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
)
FIELDS = (
    "status", "url", "response", "request", "headers", "body", "provider", "exceptions", "fp",
    "__notes__", "config", "last_attempt",
)  # fmt: skip


def link(one: BaseException, other: BaseException, how: str) -> None:
    if how.startswith("__"):
        vars(BaseException)[how].__set__(one, other)
    elif how == "args":
        vars(BaseException)["args"].__set__(one, ("failed", other))
    else:
        object.__getattribute__(one, "__dict__")[how] = [other]


def wrap(
    error: BaseException, steps: list[tuple[type[BaseException], str]], words: str = "x"
) -> BaseException:
    for kind, how in steps:
        outer = kind(words)
        if how == "group":
            error = BaseExceptionGroup("several", [outer, error])
        else:
            link(outer, error, how)
            error = outer
    return error


def state(error: BaseException) -> tuple[Any, ...]:
    """Give all that is on *error*, by identity where it could be anything."""
    slots = ("args", "__cause__", "__context__", "__suppress_context__", "__traceback__")
    held = object.__getattribute__(error, "__dict__")
    of_all = [vars(BaseException)[slot].__get__(error) for slot in slots]
    inner = [id(part) for part in of_all[0]]
    return (inner, [id(one) for one in of_all[1:]], {name: id(one) for name, one in held.items()})


def web_of(kinds: list[Callable[[], BaseException]], links: Any) -> list[BaseException]:
    web = [kind() for kind in kinds]
    for one, other, how in links:
        link(web[one % len(web)], web[other % len(web)], how)
    return web


@untimed
@given(kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=31), links=LINKS)
@example(kinds=KINDS, links=[(n, (n + 1) % 11, "__cause__") for n in range(11)])
def test_any_web_of_exceptions(kinds: list[Callable[[], BaseException]], links: Any) -> None:
    """Loops and branches of harmless ones end in no; each is asked a few times, and its text only.

    Twenty is how far the words of one are followed down.
    """
    web = web_of(kinds, links)
    Counting.asked = 0
    Counting.read.clear()

    assert is_insufficient_balance(web[0]) is False
    assert Counting.asked <= 21 * len(web)
    assert not Counting.read


@untimed
@given(
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=12),
    links=LINKS,
    name=st.sampled_from(FOUND) | st.none(),
)
def test_the_answer_is_the_same_twice_and_nothing_changes(
    kinds: list[Callable[[], BaseException]], links: Any, name: str | None
) -> None:
    """Looking leaves every exception of a web as it was, so the second look finds the same."""
    web = web_of(kinds, links)
    if name is not None:
        web[0] = wrap(POSITIVE[name], [(RuntimeError, "errors")])
    before = [state(one) for one in web]

    first = is_insufficient_balance(web[0])

    assert [state(one) for one in web] == before
    assert is_insufficient_balance(web[0]) is first
    assert first is (name is not None)


@untimed
@given(steps=STEPS, name=st.sampled_from(FOUND))
def test_what_is_raised_from_it(steps: list[tuple[type[BaseException], str]], name: str) -> None:
    """However often it is wrapped, explicitly, in a list, an argument or a group, it is found."""
    assert is_insufficient_balance(wrap(POSITIVE[name], steps))


@untimed
@given(steps=STEPS, name=st.sampled_from(MISSES))
def test_a_near_miss_stays_one(steps: list[tuple[type[BaseException], str]], name: str) -> None:
    """Wrapping adds no evidence: what looks alike is no more so inside others."""
    miss = NEGATIVE[name]
    assert isinstance(miss, Exception)

    assert not is_insufficient_balance(wrap(miss, steps))


@untimed
@given(
    st.lists(st.sampled_from(MISSES), max_size=6),
    st.sampled_from(FOUND),
    st.lists(st.sampled_from(MISSES), max_size=6),
)
def test_others_in_the_group_hide_nothing(before: list[str], name: str, after: list[str]) -> None:
    """Unrelated failures beside it, near misses too, neither hide it nor together look like it."""
    around: list[Any] = [NEGATIVE[miss] for miss in (*before, *after)]
    members = [*around[: len(before)], POSITIVE[name], *around[len(before) :]]

    assert is_insufficient_balance(BaseExceptionGroup("rows", members))
    assert not around or not is_insufficient_balance(BaseExceptionGroup("rows", around))


@untimed
@given(st.text(), st.sampled_from(FOUND))
def test_any_words_around_it(words: str, name: str) -> None:
    """Whatever the outer exception says, an explicit cause is found."""
    assert is_insufficient_balance(wrap(POSITIVE[name], [(RuntimeError, "__cause__")], words))


@untimed
@given(st.text(max_size=300), st.text(max_size=300))
def test_the_documented_text_in_any_other(before: str, after: str) -> None:
    """The status and the body that user code quotes count in the middle of any short text."""
    assume(not {*before, *after} & {"\\", "{", '"', "'", "“", "”"})
    assume("deep" not in before + after)

    assert is_insufficient_balance(Exception(f"{before} API failed: 402 - {BODY} {after}"))


@untimed
@given(
    st.text(alphabet=string.ascii_lowercase + "-", min_size=1, max_size=20),
    st.sampled_from(["{}.deepseek.com.example.org", "{}deepseek.com", "deepseek.{}", "{}.com"]),
)
def test_other_hosts(word: str, form: str) -> None:
    """402 alone, from whatever host but DeepSeek's, is not this failure."""
    host = form.format(f"x{word}x")

    assert not is_insufficient_balance(http_error(f"https://{host}/deepseek/chat", None))
    assert is_insufficient_balance(http_error(CHAT))


@untimed
@given(DATA)
def test_any_data_is_bearable(data: Any) -> None:
    """No data on an exception makes it raise, or look like an empty balance."""
    error = made("E", data, **dict.fromkeys(FIELDS, data))

    assert is_insufficient_balance(error) is False


@untimed
@given(DATA, st.sampled_from(FIELDS), st.sampled_from(FOUND))
def test_any_data_hides_nothing(data: Any, name: str, found: str) -> None:
    """Odd data on an outer exception hides nothing of what it was raised from."""
    outer = made("E", data, **{name: data})
    outer.__cause__ = POSITIVE[found]

    assert is_insufficient_balance(outer)


@untimed
@given(st.sampled_from(FOUND), st.sampled_from([KeyboardInterrupt, SystemExit, Boom]))
def test_hostile_company(name: str, failure: type[BaseException]) -> None:
    """Objects on an exception that fail at every touch hide nothing, and nothing gets out."""

    class Failing(type):
        def __getattribute__(cls, _: str) -> Any:
            raise failure("no")

    class Trap(metaclass=Failing):
        def __getattribute__(self, _: str) -> Any:
            raise failure("no")

        __iter__ = __eq__ = __hash__ = __len__ = __bool__ = __getattribute__  # type: ignore[assignment]

    outer = made("E", Trap(), response=Trap(), body=[Trap()], headers={"a": Trap()}, url=Trap())
    trapped = type("T", (Exception,), {"__module__": "m"})("x")
    outer.__cause__ = POSITIVE[name]
    trapped.__context__ = outer

    assert is_insufficient_balance(trapped)
    assert is_insufficient_balance(BaseExceptionGroup("", [failure("no"), trapped]))
    assert not is_insufficient_balance(made("E", Trap(), response=Trap(), status=Trap()))
