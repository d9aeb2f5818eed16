from __future__ import annotations

import dataclasses
import enum
import json
import os
import subprocess
import sys
from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, computed_field, field_validator
from typing_extensions import TypedDict

from deepseek_magic import schemas
from deepseek_magic.errors import InvalidOption, UnusableAnswer


class Tone(enum.Enum):
    """How it sounds."""

    GOOD = "good"
    BAD = "bad"


class Part(BaseModel):
    """A part of it."""

    name: str
    tone: Tone = Tone.GOOD


class Review(BaseModel):
    """What a customer has written."""

    topic: str = Field(alias="Topic", description="in two words")
    score: float
    count: int = Field(3, ge=2)
    when: datetime | None = None
    parts: list[Part] = []
    kind: Literal["long", "short"] = "long"
    tags: set[str] = {"one", "two", "three", "four", "five"}


class Tree(BaseModel):
    """Holds itself."""

    value: int
    below: list[Tree] = []
    above: Tree | None = None


class Checked(BaseModel):
    """Has checks of its own."""

    text: str
    hidden: str = Field("", exclude=True)

    @field_validator("text")
    @classmethod
    def _check(cls, text: str) -> str:
        if text == "type":
            raise TypeError("of no type")
        if text == "wrong":
            raise ValueError("is wrong\nand more")
        return text

    @computed_field
    def size(self) -> int:
        """Count the characters."""
        return len(self.text)


@dataclasses.dataclass
class Pair:
    """Two values."""

    left: int
    right: date | None = None


Old = type("Old", (), {"__module__": "pydantic.v1.main"})
"""A model of Pydantic 1, as far as it can be told."""


class Given(TypedDict, total=False):
    """May lack any field."""

    b: str
    a: int


WHOLE = (
    '{"Topic":"t","score":1,"when":"2024-01-02T03:04:05Z","parts":[{"name":"p","tone":"bad"}],'
    '"tags":[]}'
)


@pytest.mark.parametrize(
    ("model", "text", "values"),
    [
        (
            Review,
            WHOLE,
            {
                "topic": "t",
                "score": 1.0,
                "count": 3,
                "when": datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC),
                "parts": [{"name": "p", "tone": "bad"}],
                "kind": "long",
                "tags": set(),
            },
        ),
        (Part, '{"name": "p"}', {"name": "p", "tone": "good"}),
        (Part, ' ```json\n{"name": "p"}\n``` ', {"name": "p", "tone": "good"}),
        (Part, '```\n{"name": "p"}```', {"name": "p", "tone": "good"}),
        (Annotated[Part, "as it is"], '{"name": "p"}', {"name": "p", "tone": "good"}),
        (
            Tree,
            '{"value":1,"below":[{"value":2}]}',
            {"value": 1, "below": [{"value": 2, "below": [], "above": None}], "above": None},
        ),
        (Pair, '{"left":1,"right":"2024-01-31"}', {"left": 1, "right": date(2024, 1, 31)}),
        (Given, '{"a":1}', {"b": None, "a": 1}),
        (Checked, '{"text":"abc","hidden":"h"}', {"text": "abc", "size": 3}),
    ],
)
def test_an_answer_is_read_field_by_field(model: Any, text: str, values: dict[str, Any]) -> None:
    """Each field gets its value, by the model's own names and in their order."""
    schema = schemas.schema_of(model)

    found = schema.read(text)

    assert found == values
    assert tuple(found) == schema.fields == tuple(values)


def test_the_instance_itself_can_be_had() -> None:
    """An answer can be read as what the model makes of it."""
    assert schemas.schema_of(Pair).object('{"left": 1}') == Pair(1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is not JSON"),
        ("Here it is: {} or {}", "is not JSON"),
        (f"{WHOLE} and [more]", "is not JSON"),
        ("Here it is: {}", "Topic: Field required"),
        ("[]", "Input should be an object"),
        ("null", "Input should be an object"),
        ("{}", "Topic: Field required; score: Field required"),
        ('{"Topic":1,"score":"x"}', "Topic: Input should be a valid string; score: "),
        ('{"Topic":"t","score":1,"parts":[{}]}', "parts.0.name: Field required"),
        ('{"Topic":1,"score":"x","count":1,"kind":2,"when":3.5,"parts":4}', "and 2 more"),
        ('{"Topic":"t","score":NaN}', "NaN"),
        ('{"Topic":"t","score":-Infinity}', "-Infinity"),
        ('{"Topic":"t","score":1e999}', "1e999"),
        pytest.param(f'{{"Topic":"t","score":{"9" * 5000}}}', "5,000 digits", id="digits"),
        pytest.param('{"Topic":' * 10_000, "is not JSON", id="deep objects"),
        pytest.param("[" * 100_000 + "]" * 100_000, "is not JSON", id="deep lists"),
        ('{"Topic":"\\ud800","score":1}', "Invalid JSON"),
        ('{"Topic":"\ud800","score":1}', "does not fit Review"),
    ],
)
def test_an_answer_that_does_not_fit_is_one_line(text: str, words: str) -> None:
    """The error names the fields that are wrong and why, that it was billed, and what to do."""
    with pytest.raises(UnusableAnswer) as raised:
        schemas.schema_of(Review).read(text)

    told = str(raised.value)
    assert words in told
    assert "It was billed." in told
    assert "Run it again" in told
    assert "\n" not in told
    assert len(told) < 600


@pytest.mark.parametrize(("text", "words"), [("type", "TypeError"), ("wrong", "is wrong and more")])
def test_a_check_of_the_models_own_may_fail(text: str, words: str) -> None:
    """Whatever a validator raises, the answer is one that does not fit."""
    with pytest.raises(UnusableAnswer, match=words):
        schemas.schema_of(Checked).read(json.dumps({"text": text}))


@pytest.mark.parametrize("model", [Review, Part, Tree, Pair, Given, Checked])
def test_the_instructions_show_an_answer_that_fits(model: Any) -> None:
    """The system message speaks of JSON, gives the schema, and its example can be read."""
    schema = schemas.schema_of(model)

    first, given, example = schema.instructions().split("\n")

    assert "JSON" in first
    assert "properties" in given
    assert json.loads(given)
    assert set(schema.read(example.partition(": ")[2])) == set(schema.fields)


def test_descriptions_reach_the_model_by_the_names_it_has_to_use() -> None:
    """The schema has aliases, docstring and descriptions, and no titles made of names."""
    schema = json.loads(schemas.schema_of(Review).instructions().split("\n")[1])

    assert schema["description"] == "What a customer has written."
    assert schema["properties"]["Topic"] == {"description": "in two words", "type": "string"}


def test_instructions_are_alike_in_every_process() -> None:
    """The order of a set, which changes with the process, does not show: equal rows stay equal."""
    code = "import test_schemas as t; print(t.schemas.schema_of(t.Review).instructions())"
    folder = os.path.dirname(__file__)  # noqa: PTH120  # for an environment variable

    told = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": folder},
            cwd=os.path.dirname(folder),  # noqa: PTH120  # the same
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=True,
        ).stdout.strip()
        for seed in ("1", "2", "3")
    }

    assert told == {schemas.schema_of(Review).instructions()}


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        5,
        "Review",
        {"topic": str},
        {"topic": "str"},
        {"type": "nothing"},
        {"$ref": "https://example.org/label.json"},
        {"type": "array", "items": {"$ref": "#/$defs/missing"}},
        {},
        object,
        Any,
        Part(name="x"),
        BaseModel,
        type("Empty", (BaseModel,), {}),
        Old,
        list[Old],  # type: ignore[valid-type]  # it is made at run time
        type("Odd", (), {"x": 1}),
    ],
)
def test_what_is_no_model_is_one_line(wrong: Any) -> None:
    """A schema that says nothing of a form is refused before anything is sent."""
    with pytest.raises(InvalidOption) as raised:
        schemas.schema_of(wrong)

    kind = "one, such as: {" if isinstance(wrong, dict) else "a class"
    assert f"Nothing was sent. Give {kind}" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_missing_pydantic_is_said() -> None:
    """Without Pydantic the error says how to get it, and the module loads all the same."""
    code = """
import sys
sys.modules["pydantic"] = None
from deepseek_magic import schemas
try:
    schemas.schema_of(int)
except Exception as error:
    print(type(error).__name__, error)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert ran.stdout.startswith("InvalidOption A schema takes Pydantic 2")
    assert 'Nothing was sent. Install it: %pip install "pydantic>=2"' in ran.stdout
