"""What is refused before anything is sent."""

from __future__ import annotations

from collections import UserString
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from math import inf, nan
from typing import Any

import numpy as np
import pytest

from deepseek_magic.errors import InvalidOption, KeyInText, UnknownSetting
from deepseek_magic.preflight import like_a_key, refusal, remarks, request_of
from deepseek_magic.wire import Key, Message, Request, question

OWN = Key("a-company-relay-key")
KEYS = [
    "sk-" + "0123456789abcdef" * 2,
    "sk-proj-" + "Ab3_" * 10,
    "sk-ant-api03-" + "Zz9-" * 8,
    "sk-or-v1-" + "0af9" * 16,
    "ghp_" + "A1b2" * 9,
    "github_pat_" + "A1b2" * 12,
    "hf_" + "A1b2" * 9,
    "AKIA" + "ABCD1234EFGH5678",
    "AIza" + "B" * 35,
    "xoxb-" + "1234567890-" * 3,
    "-----BEGIN RSA PRIVATE KEY-----",
    "-----BEGIN PRIVATE KEY-----",
]
HARMLESS = [
    "sk-learn",
    "sk-learn-contrib-is-a-package-family",
    "task-management-with-long-words",
    "risk-0123456789abcdef0123456789abcdef",
    "disk-aaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "sk-...",
    "DEEPSEEK_API_KEY",
    "AKIA",
    "d41d8cd98f00b204e9800998ecf8427e",
    "-----BEGIN PUBLIC KEY-----",
]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("frame", ["{}", "key={}", "'{}'", "Bearer {}", "my key:\n{}\nthanks"])
def test_keys_are_seen(key: str, frame: str) -> None:
    """Something like a key is seen wherever it stands in a text."""
    assert like_a_key(frame.format(key))


@pytest.mark.parametrize("text", HARMLESS)
def test_harmless_texts_pass(text: str) -> None:
    """Words that only begin like a key are not taken for one."""
    assert not like_a_key(f"Tell me about {text} please.")


def test_own_key_is_seen() -> None:
    """The session's own key is seen even when it looks like nothing."""
    assert like_a_key(f"why does {OWN.reveal()} fail?", OWN)
    assert not like_a_key("why does it fail?", OWN)


@pytest.mark.parametrize(
    "request_",
    [
        question(KEYS[0]),
        question("fine", system=KEYS[0]),
        question("fine", stop=["END", KEYS[0]]),
        question("fine", model=KEYS[0]),
        Request((Message("user", KEYS[0]), Message("assistant", "ok"), Message("user", "why?"))),
    ],
)
def test_a_key_is_refused_anywhere(request_: Request) -> None:
    """A key in any text of a request refuses it, and the refusal does not repeat it."""
    refused = refusal(request_)

    assert isinstance(refused, KeyInText)
    assert KEYS[0] not in str(refused)
    assert "Nothing was sent" in str(refused)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"think": "hard"}, "off, low, high, max"),
        ({"temperature": -0.1}, "from 0 to 2"),
        ({"temperature": 2.01}, "from 0 to 2"),
        ({"temperature": nan}, "from 0 to 2"),
        ({"top_p": 0.0}, "from above 0 to 1"),
        ({"top_p": 1.01}, "from above 0 to 1"),
        ({"top_p": inf}, "from above 0 to 1"),
        ({"max_tokens": 0}, "from 1 to 393,216"),
        ({"max_tokens": 393_217}, "from 1 to 393,216"),
        ({"stop": ["x"] * 17}, "up to 16"),
    ],
)
def test_values_out_of_range(settings: dict[str, Any], words: str) -> None:
    """A value that the API refuses is refused here, with the values that it takes."""
    refused = refusal(question("Why?", **settings))

    assert isinstance(refused, InvalidOption)
    assert words in str(refused)
    assert str(refused).endswith("Nothing was sent.")


@pytest.mark.parametrize(
    "settings",
    [
        {"think": "off"},
        {"temperature": 0},
        {"temperature": 2},
        {"top_p": 1},
        {"max_tokens": 1},
        {"max_tokens": 393_216},
        {"stop": ["x"] * 16},
    ],
)
def test_values_at_the_bounds(settings: dict[str, Any]) -> None:
    """The bounds themselves may be sent."""
    assert refusal(question("Why?", **settings)) is None


@pytest.mark.parametrize("text", ["", " \n\t"])
def test_an_empty_question(text: str) -> None:
    """A question without words is not sent."""
    assert "no question" in str(refusal(question(text))).lower()


def test_no_messages() -> None:
    """A request without messages is not sent."""
    assert isinstance(refusal(Request(())), InvalidOption)


def test_half_a_character() -> None:
    """Half of a surrogate pair is refused in words instead of failing on its way."""
    assert "half a character" in str(refusal(question("smile \ud83d")))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"temperature": 1.0}, ["temperature has no effect"]),
        ({"temperature": 1.0, "think": "off"}, []),
        ({"top_p": 0.5}, ["0.95"]),
        ({"top_p": 0.96}, []),
        ({"top_p": 0.5, "think": "off"}, ["top_p has no effect"]),
        ({"top_p": 0.5, "model": "pro"}, ["top_p has no effect"]),
        ({"top_p": 0.5, "model": "pro", "think": "off"}, []),
        ({}, []),
    ],
)
def test_ignored_settings_are_named(settings: dict[str, Any], words: list[str]) -> None:
    """A setting that the API will ignore in the chosen mode is named, and no other."""
    said = remarks(question("Why?", **settings))

    assert len(said) == len(words)
    assert all(word in line for word, line in zip(words, said, strict=True))


def test_the_first_reason_counts() -> None:
    """With several reasons one error names the first."""
    request = replace(question(""), temperature=9.0)

    assert "no question" in str(refusal(request)).lower()


@pytest.mark.parametrize(
    ("settings", "plain"),
    [
        ({"max_tokens": np.int64(500)}, {"max_tokens": 500}),
        ({"max_tokens": Decimal(500)}, {"max_tokens": 500}),
        ({"max_tokens": 500.0}, {"max_tokens": 500}),
        ({"temperature": np.float32(0.5)}, {"temperature": 0.5}),
        (
            {"temperature": Decimal("0.5"), "top_p": Fraction(1, 2)},
            {"temperature": 0.5, "top_p": 0.5},
        ),
        ({"stop": ["a", "b"]}, {"stop": ("a", "b")}),
        ({"model": None, "think": None, "stop": None, "json": None}, {}),
    ],
)
def test_values_of_other_libraries(settings: dict[str, Any], plain: dict[str, Any]) -> None:
    """Numbers of any library are sent as plain ones, and None leaves the default."""
    found = request_of("Why?", **settings)

    assert found == question("Why?", **plain)
    for name in ("max_tokens", "temperature", "top_p"):
        assert type(getattr(found, name)) in (int, float, type(None))


@pytest.mark.parametrize(
    ("prompt", "settings", "name"),
    [
        (None, {}, "prompt"),
        (5, {}, "prompt"),
        (UserString("Why?"), {}, "prompt"),
        ("Why?", {"system": 5}, "system"),
        ("Why?", {"model": ""}, "model"),
        ("Why?", {"model": 5}, "model"),
        ("Why?", {"think": True}, "think"),
        ("Why?", {"think": ["low"]}, "think"),
        ("Why?", {"max_tokens": "500"}, "max_tokens"),
        ("Why?", {"max_tokens": 1.5}, "max_tokens"),
        ("Why?", {"max_tokens": True}, "max_tokens"),
        ("Why?", {"max_tokens": nan}, "max_tokens"),
        ("Why?", {"max_tokens": inf}, "max_tokens"),
        ("Why?", {"max_tokens": 10**400}, "max_tokens"),
        ("Why?", {"max_tokens": Decimal("sNaN")}, "max_tokens"),
        ("Why?", {"temperature": "warm"}, "temperature"),
        ("Why?", {"temperature": False}, "temperature"),
        ("Why?", {"top_p": []}, "top_p"),
        ("Why?", {"stop": ""}, "stop"),
        ("Why?", {"stop": ["a", ""]}, "stop"),
        ("Why?", {"stop": 5}, "stop"),
        ("Why?", {"stop": b"a"}, "stop"),
        ("Why?", {"json": "yes\nor no" * 100}, "json"),
    ],
)
def test_values_that_do_not_fit(prompt: Any, settings: dict[str, Any], name: str) -> None:
    """A value of the wrong kind is named in one line before anything is sent."""
    with pytest.raises(InvalidOption, match=f"^`{name}` cannot be .* Nothing was sent") as caught:
        request_of(prompt, **settings)

    assert len(str(caught.value)) < 200
    assert str(caught.value).isprintable()


def test_a_setting_that_does_not_exist() -> None:
    """A misspelt setting is a `TypeError`, as for any function, and names the one meant."""
    with pytest.raises(TypeError, match=r"`temprature` here\..* mean `temperature`\?"):
        request_of("Why?", temprature=1)
    with pytest.raises(UnknownSetting, match=r"mean `budget`\?"):
        request_of("Why?", budgt=1)
    with pytest.raises(InvalidOption, match=r"Settings are model, think, .*images\.$"):
        request_of("Why?", **{"qqqqqq\n": 1})
