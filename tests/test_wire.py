"""What goes out and what comes back, without a network."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from datetime import UTC, datetime
from decimal import Context, Decimal, localcontext
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_magic.wire import (
    Answer,
    Balance,
    Key,
    Message,
    Piece,
    Request,
    Usage,
    amount,
    question,
)

AT = datetime(2026, 11, 20, 12, tzinfo=UTC)
COUNTS = st.none() | st.integers(0, 10**6)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def balance(*rows: Any, available: object = True) -> Balance:
    return Balance.read({"is_available": available, "balance_infos": list(rows)}, AT)


def money(currency: str, total: object) -> dict[str, object]:
    return {
        "currency": currency,
        "total_balance": total,
        "granted_balance": "0.00",
        "topped_up_balance": total,
    }


def test_key_hides() -> None:
    """A key shows itself in no repr and no text, only in `reveal()`."""
    key = Key("sk-0123456789abcdef")

    assert "0123" not in f"{key} {key!r} {[key]}"
    assert key.reveal() == "sk-0123456789abcdef"


def test_a_key_is_its_own_copy() -> None:
    """Neither a copy of a key nor what it is a field of shows its text."""

    @dataclasses.dataclass
    class Holder:
        key: Key

    key = Key("sk-0123456789abcdef")

    assert "0123" not in f"{dataclasses.asdict(Holder(key))} {copy.deepcopy([key])}"
    assert copy.copy(key) is copy.deepcopy(key) is key
    assert not dataclasses.is_dataclass(key)
    assert {key} == {Key("sk-0123456789abcdef")} != {Key("sk-another")}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_key_is_not_pickled(protocol: int) -> None:
    """A key gets into no pickle, and the error says so without its text."""
    with pytest.raises(TypeError, match="not pickled") as caught:
        pickle.dumps([Key("sk-0123456789abcdef")], protocol)

    assert "0123" not in str(caught.value)


def test_short_names() -> None:
    """`flash` and `pro` are the current models; any other name is sent as it is."""
    names = [question("?", model=name).model for name in ("flash", "pro", "deepseek-v9")]

    assert names == ["deepseek-flash", "deepseek-v4-pro", "deepseek-v9"]


def test_defaults_are_left_to_the_api() -> None:
    """A plain question sends its text, the model, and the wish for a stream with usage."""
    body = question("Why?").body()

    assert body == {
        "model": "deepseek-flash",
        "messages": [{"role": "user", "content": "Why?"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


@pytest.mark.parametrize(
    ("settings", "sent"),
    [
        ({"think": "off"}, {"thinking": {"type": "disabled"}}),
        ({"think": "low"}, {"thinking": {"type": "enabled"}, "reasoning_effort": "low"}),
        ({"think": "max"}, {"thinking": {"type": "enabled"}, "reasoning_effort": "max"}),
        ({"temperature": 0.0}, {"temperature": 0.0}),
        ({"top_p": 0.5}, {"top_p": 0.5}),
        ({"max_tokens": 7}, {"max_tokens": 7}),
        ({"stop": "END"}, {"stop": ["END"]}),
        ({"stop": ["a", "b"]}, {"stop": ["a", "b"]}),
        ({"model": "pro"}, {"model": "deepseek-v4-pro"}),
    ],
)
def test_settings_are_sent(settings: dict[str, Any], sent: dict[str, Any]) -> None:
    """Every setting reaches the body under the API's name, and brings nothing else along."""
    assert question("Why?", **settings).body() == {**question("Why?").body(), **sent}


def test_json_mode_says_json() -> None:
    """JSON mode is asked for in the way that the API wants: in the body, and in words."""
    body = question("List three.", json=True).body()

    assert body["response_format"] == {"type": "json_object"}
    assert "json" in " ".join(turn["content"] for turn in body["messages"]).lower()
    assert body["messages"][-1] == {"role": "user", "content": "List three."}


def test_system_comes_first() -> None:
    """A system message stands before the question."""
    messages = question("Why?", system="Be brief.").messages

    assert messages == (Message("system", "Be brief."), Message("user", "Why?"))


@pytest.mark.parametrize(
    "value", [Message("user", "?"), Request(()), Usage(), Piece(), Answer(), Balance(), Key("k")]
)
def test_values_are_frozen(value: Any) -> None:
    """What has been sent or received cannot be changed afterwards."""
    with pytest.raises(AttributeError):
        setattr(value, value.__slots__[0], None)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"prompt_tokens": 11, "completion_tokens": 5}, Usage(11, 5)),
        (
            {
                "prompt_tokens": 11,
                "completion_tokens": 5,
                "prompt_cache_hit_tokens": 4,
                "prompt_cache_miss_tokens": 7,
                "completion_tokens_details": {"reasoning_tokens": 3},
            },
            Usage(11, 5, 4, 7, 3),
        ),
        (
            {
                "prompt_tokens": 11,
                "completion_tokens": 5,
                "prompt_tokens_details": {"cached_tokens": 4},
            },
            Usage(11, 5, 4, 7),
        ),
        (
            {"prompt_tokens": 11, "completion_tokens": 5, "prompt_cache_miss_tokens": 11},
            Usage(11, 5, 0, 11),
        ),
        ({"prompt_cache_hit_tokens": 4, "prompt_cache_miss_tokens": 7}, Usage(11, None, 4, 7)),
        ({}, Usage()),
        (
            {
                "prompt_tokens": 11,
                "prompt_cache_hit_tokens": 4,
                "prompt_cache_miss_tokens": 4,
                "completion_tokens": 5,
            },
            Usage(11, 5),
        ),
        ({"prompt_tokens": "11", "completion_tokens": 5.0}, Usage()),
        ({"prompt_tokens": -1, "completion_tokens": True}, Usage()),
        ({"prompt_tokens": 10**30}, Usage()),
        ({"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": 9}}, Usage(3, None, 9)),
        ({"completion_tokens_details": "none", "prompt_tokens_details": [1]}, Usage()),
    ],
)
def test_usage_is_read(data: dict[str, Any], expected: Usage) -> None:
    """Counts are taken as given or derived from the others; what is no count is unknown."""
    assert Usage.read(data) == expected


@pytest.mark.parametrize("data", [None, [], "12", 12])
def test_no_usage(data: object) -> None:
    """What is no usage object is unknown and not zero."""
    assert Usage.read(data) is None


@given(st.builds(Usage, *[COUNTS] * 5), st.builds(Usage, *[COUNTS] * 5))
def test_usage_adds_up(one: Usage, other: Usage) -> None:
    """A sum is known where both counts are, and it does not matter which comes first."""
    total = one + other

    assert total == other + one
    assert (total.prompt_tokens is None) == (None in (one.prompt_tokens, other.prompt_tokens))


@pytest.mark.parametrize(
    ("chunk", "expected"),
    [
        ({"choices": [{"delta": {"content": "a"}}]}, Piece(content="a")),
        ({"choices": [{"delta": {"reasoning_content": "b"}}]}, Piece(reasoning="b")),
        (
            {"choices": [{"delta": {"content": None}, "finish_reason": "stop"}]},
            Piece(finish_reason="stop"),
        ),
        ({"choices": [{"message": {"content": "whole"}}]}, Piece(content="whole")),
        ({"choices": [], "usage": {"prompt_tokens": 1}}, Piece(usage=Usage(1))),
        ({"choices": None, "usage": None, "model": "m"}, Piece(model="m")),
        ({"choices": ["x"], "model": 5}, Piece()),
        ({"choices": [{"delta": [], "finish_reason": {}}]}, Piece()),
        ({}, Piece()),
        (
            {
                "choices": [
                    {"delta": {"content": [{"type": "text", "text": "a"}, {"text": "b"}, 5]}}
                ]
            },
            Piece(content="ab"),
        ),
        (
            {"choices": [{"index": 1, "delta": {"content": "no"}, "finish_reason": "stop"}]},
            Piece(),
        ),
        (
            {"choices": [{"index": 1, "delta": {"content": "no"}}, {"delta": {"content": "a"}}]},
            Piece(content="a"),
        ),
        ({"choices": [{"index": 0, "delta": {"content": "a"}}]}, Piece(content="a")),
        ({"model": "m" * 5000}, Piece(model="m" * 200)),
        ({"model": "", "choices": [{"finish_reason": ""}]}, Piece()),
        (
            {"model": "a\ud83d", "choices": [{"finish_reason": "b\ud83d"}]},
            Piece(model="a?", finish_reason="b?"),
        ),
    ],
)
def test_chunk_is_read(chunk: dict[str, Any], expected: Piece) -> None:
    """A chunk gives what it has, wherever usage stands and whatever is missing."""
    assert Piece.read(chunk) == expected


def test_usage_stays_whichever_chunk_brings_it() -> None:
    """Usage on an early chunk is not lost by `null` on the later ones."""
    early = Piece.read({"choices": [], "usage": {"prompt_tokens": 3}})
    late = Piece.read({"choices": [{"delta": {"content": "x"}}], "usage": None})

    assert Answer().plus(early).plus(late).usage == Usage(3)


def test_usage_without_a_count_says_nothing() -> None:
    """An empty usage object on a later chunk does not take the counts away."""
    answer = Answer(usage=Usage(3, 4))

    assert answer.plus(Piece.read({"usage": {}})).usage == Usage(3, 4)


def test_half_characters_are_replaced() -> None:
    """Half of a surrogate pair, which no file can hold, does not get into an answer."""
    piece = Piece.read(json.loads('{"choices": [{"delta": {"content": "a\\ud83db"}}]}'))

    assert piece.content == "a?b"


@given(st.dictionaries(st.sampled_from(["choices", "usage", "model", "error", "x"]), JSON))
def test_any_chunk_can_be_read(chunk: dict[str, Any]) -> None:
    """No JSON object makes the reading of a chunk fail."""
    piece = Piece.read(chunk)

    assert isinstance(piece.content, str)


def test_answer_grows() -> None:
    """Pieces add their text and reasoning, and the newest of what is told once."""
    answer = Answer(model="asked")
    for piece in (Piece(reasoning="hm"), Piece("a", model="served"), Piece("b", "", "stop")):
        answer = answer.plus(piece)

    assert (str(answer), answer.reasoning) == ("ab", "hm")
    assert (answer.model, answer.finish_reason) == ("served", "stop")
    assert repr(answer) == "Answer('ab', served, stop)"


def test_answer_as_json() -> None:
    """An answer in JSON is parsed; one that is not says where it goes wrong."""
    assert Answer('{"a": [1]}').json() == {"a": [1]}
    with pytest.raises(ValueError, match="line 1 column 1"):
        Answer("Sure!").json()


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("110.00", Decimal("110.00")),
        ("0", Decimal(0)),
        (5, Decimal(5)),
        (Decimal("47.44"), Decimal("47.44")),
        ("-0.01", None),
        ("NaN", None),
        ("Infinity", None),
        ("1e13", None),
        ("9" * 5000, None),
        ("", None),
        ("ten", None),
        (None, None),
        (True, None),
        (1.5, None),
        ([], None),
    ],
)
def test_amounts(written: object, expected: Decimal | None) -> None:
    """An amount is a decimal string; what is none, is negative or is absurd is unknown."""
    assert amount(written) == expected


@given(JSON)
def test_any_balance_can_be_read(body: object) -> None:
    """No JSON makes the reading of a balance fail; what cannot be read is unknown."""
    read = Balance.read(body, AT)

    assert read.effective is None or read.effective >= 0


@pytest.mark.parametrize("first", ["CNY", "USD"])
def test_the_order_of_currencies_does_not_matter(first: str) -> None:
    """The account's currency is the one that holds money, wherever it stands."""
    rows = [money("CNY", "7.50"), money("USD", "0.00")]
    rows.sort(key=lambda row: row["currency"] != first)

    read = balance(*rows)

    assert (read.currency, read.effective) == ("CNY", Decimal("7.50"))
    assert read.infos["USD"].total == 0


@pytest.mark.parametrize(
    ("read", "state"),
    [
        (balance(money("CNY", "10.00")), "fine"),
        (balance(money("CNY", "4.99")), "low"),
        (balance(money("CNY", "5.00")), "fine"),
        (balance(money("CNY", "0.00")), "empty"),
        (balance(money("CNY", "0.00"), available=False), "empty"),
        (balance(money("CNY", "3.00"), available=False), "unavailable"),
        (balance(money("CNY", "3.00"), available="no"), "low"),
        (balance(money("CNY", "NaN")), "unknown"),
        (balance(), "unknown"),
        (balance(available=False), "unavailable"),
        (Balance(), "unknown"),
        (dataclasses.replace(balance(money("CNY", "9.00")), spent_since=Decimal(5)), "low"),
        (dataclasses.replace(balance(money("CNY", "9.00")), spent_since=Decimal(10)), "empty"),
    ],
)
def test_states(read: Balance, state: str) -> None:
    """Fine, low, empty, unavailable and unknown are told apart; unknown is never empty."""
    assert read.state({"CNY": Decimal(5)}) == state


def test_a_negative_balance_is_unknown() -> None:
    """A balance below zero, which the API does not know, says nothing about what is left."""
    read = balance(money("CNY", "-0.01"))

    assert read.effective is None
    assert read.state({}) == "unknown"


def test_two_rows_that_contradict_each_other() -> None:
    """Two different rows of one currency leave it unknown; a row that is there twice counts."""
    assert balance(money("CNY", "3"), money("CNY", "4")).effective is None
    assert balance(money("CNY", "3"), money("CNY", "4"), money("CNY", "4")).effective is None
    assert balance(money("CNY", "3"), money("CNY", "3")).effective == 3


@pytest.mark.parametrize("name", ["", "cny", "CN", "CNYX", "C\ud83dY", "CNY\n", "<b>"])
def test_names_that_are_no_currency(name: str) -> None:
    """A row whose currency is not three capital letters is left out."""
    assert balance(money(name, "3.00")).infos == {}


def test_the_currency_that_is_billed() -> None:
    """The currency that an account is billed in goes before the one that holds more."""
    read = balance(money("CNY", "9.00"), money("USD", "1.00"))

    assert dataclasses.replace(read, prefers="USD").currency == "USD"
    assert dataclasses.replace(read, prefers="EUR").currency == "CNY"


def test_a_balance_is_exact_in_every_context() -> None:
    """What is left does not depend on how precisely the notebook reckons."""
    read = balance(money("CNY", "123456.78"))

    with localcontext(Context(prec=3)):
        assert dataclasses.replace(read, spent_since=Decimal("0.01")).effective == Decimal(
            "123456.77"
        )


def test_effective_counts_what_was_spent_since() -> None:
    """What is left is the reading less what was spent after it, and never below zero."""
    read = dataclasses.replace(balance(money("CNY", "9.00")), spent_since=Decimal("0.25"))

    assert read.effective == Decimal("8.75")
    assert dataclasses.replace(read, spent_since=Decimal(99)).effective == 0
