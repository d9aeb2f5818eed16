"""Answers of a form that was asked for: taken, put right once, and paid for as told."""

from __future__ import annotations

import dataclasses
import json
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, NewType

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, RootModel
from typing_extensions import TypedDict

from deepseek_magic import repair, schemas, words
from deepseek_magic.errors import (
    DeepSeekError,
    InsufficientBalance,
    InvalidOption,
    OverLimit,
    UnusableAnswer,
)
from deepseek_magic.json_text import json_in
from deepseek_magic.sandbox import Reply, Sandbox
from deepseek_magic.session import Session
from deepseek_magic.wire import Answer, CostRange, Request, Usage, question

CALM = datetime(2026, 11, 21, 2, tzinfo=UTC)
"""A Saturday: prices do not change in the midst of a test."""
PLAIN: dict[str, Any] = {"model": "flash", "think": "off"}
WRONG, RIGHT = '{"topic": "tea"}', '{"topic": "tea", "score": 3}'
CLASSES = """
from pydantic import BaseModel
class Label(BaseModel):
    topic: str
    score: int
"""


class Label(BaseModel):
    """What is made of a text."""

    topic: str
    score: int


class Node(BaseModel):
    """Holds others of its kind."""

    name: str
    parent: Node | None = None
    children: list[Node] = []


@dataclasses.dataclass
class Pair:
    """Two values."""

    left: int
    right: date | None = None


class Row(TypedDict):
    """A dict with known names."""

    name: str
    size: float


POINT: dict[str, Any] = {
    "title": "Point",
    "type": "object",
    "properties": {"x": {"type": "number"}, "kind": {"$ref": "#/$defs/kind"}},
    "required": ["x"],
    "$defs": {"kind": {"enum": ["a", "b"]}},
}
LINE: dict[str, Any] = {
    "type": "array",
    "items": {"$ref": "#/$defs/point"},
    "$defs": {"point": {"type": "object", "properties": {"x": {}, "note": {"type": "string"}}}},
}


@pytest.fixture(autouse=True)
def calm(api: Sandbox) -> None:
    """Stop the account's clock."""
    api.set_clock(CALM)


@pytest.fixture
def session(api: Sandbox, open_session: Callable[..., Session]) -> Session:
    """Give a session whose ledger is a file."""
    return open_session(api, clock=lambda: CALM)


def bodies(api: Sandbox) -> list[dict[str, Any]]:
    return [row.body for row in api.requests if row.body]


def entries(session: Session) -> list[tuple[Any, Any]]:
    """Give state and cost of every call, the oldest first."""
    rows = session.ledger.entries()
    return [(row["state"], row["cost"]) for row in sorted(rows, key=lambda row: row["id"])]


# -- what is taken -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "text", "parsed"),
    [
        (Label, RIGHT, Label(topic="tea", score=3)),
        (list[Label], f'{{"items": [{RIGHT}]}}', [Label(topic="tea", score=3)]),
        (list[Label], f"[{RIGHT}]", [Label(topic="tea", score=3)]),
        (list[Label], '{"items": []}', []),
        (list[str], '{"items": ["a", "b"]}', ["a", "b"]),
        (tuple[int, str], '{"items": [1, "a"]}', (1, "a")),
        (set[int], '{"items": [1, 2]}', {1, 2}),
        (Pair, '{"left": 1, "right": "2024-01-31"}', Pair(1, date(2024, 1, 31))),
        (list[Pair], '{"items": [{"left": 1}]}', [Pair(1)]),
        (Row, '{"name": "a", "size": 1}', {"name": "a", "size": 1.0}),
        (dict[str, int], '{"a": 1}', {"a": 1}),
        (int, '{"value": 7}', 7),
        (int, "7", 7),
        (Literal["yes", "no"], '{"value": "yes"}', "yes"),
        (Decimal, '{"value": 0.1}', Decimal("0.1")),
        (Label | Pair, '{"left": 1}', Pair(1)),
        (NewType("Labels", list[Label]), f"[{RIGHT}]", [Label(topic="tea", score=3)]),
        (Label | None, '{"value": null}', None),
        (Label | None, f'{{"value": {RIGHT}}}', Label(topic="tea", score=3)),
        (Label | None, RIGHT, Label(topic="tea", score=3)),
        (RootModel[list[int]], '{"items": [1]}', RootModel[list[int]]([1])),
        (Annotated[list[int], Field(min_length=1)], '{"items": [1]}', [1]),
        (POINT, '{"x": 1, "kind": "a"}', {"x": 1, "kind": "a"}),
        (LINE, '{"items": [{"x": 1}]}', [{"x": 1}]),
        ({"type": "array", "items": {"type": "string"}}, '["a"]', ["a"]),
        (
            Node,
            '{"name": "a", "children": [{"name": "b"}]}',
            Node(name="a", children=[Node(name="b")]),
        ),
    ],
)
def test_every_kind_of_schema(
    session: Session, api: Sandbox, model: Any, text: str, parsed: Any
) -> None:
    """`parsed` is what the answer says, by the schema; JSON mode and the word are in the body."""
    api.script(text)

    answer = session.ask("Give one.", schema=model, **PLAIN)

    (body,) = bodies(api)
    assert answer.parsed == parsed
    assert type(answer.parsed) is type(parsed)
    assert (answer.text, answer.cost) == (text, api.billed)
    assert body["response_format"] == {"type": "json_object"}
    assert "JSON" in body["messages"][0]["content"]


@pytest.mark.parametrize(
    ("model", "text", "words"),
    [
        (list[Label], RIGHT, "items: Field required"),
        (list[Label], f'{{"items": [{WRONG}]}}', "items.0.score: Field required"),
        (Annotated[list[int], Field(min_length=1)], '{"items": []}', "at least 1 item"),
        (int, '{"value": "x"}', "value: Input should be a valid integer"),
        (POINT, "{}", "'x' is a required property"),
        (POINT, '{"x": "1"}', "x: '1' is not of type 'number'"),
        (POINT, '{"x": 1, "kind": "c"}', "kind: 'c' is not one of"),
        (POINT, f'{{"x": "{"9" * 500}"}}', 'x: fits not type: "number"'),
        (POINT, '{"x": NaN}', "NaN"),
    ],
)
def test_what_does_not_fit(model: Any, text: str, words: str) -> None:
    """The error names the place and the reason, and they are there for the model, bounded."""
    with pytest.raises(UnusableAnswer) as caught:
        schemas.schema_of(model).object(text)

    told = str(caught.value)
    assert words in told
    assert "\n" not in told
    assert len(told) < 600
    assert any(words.split("; ", maxsplit=1)[0] in line for line in caught.value.problems)
    assert all(len(line) < 200 for line in caught.value.problems)


def test_problems_are_bounded() -> None:
    """Of a thousand wrong values ten are told to the model."""
    text = json.dumps({"items": [{"topic": 1}] * 1000})

    with pytest.raises(UnusableAnswer) as caught:
        schemas.schema_of(list[Label]).object(text)

    assert len(caught.value.problems) == schemas.PROBLEMS + 1
    assert caught.value.problems[-1] == "and 1,990 more"


FENCE = "```"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (RIGHT, RIGHT),
        (f"\ufeff {RIGHT}\n", RIGHT),
        (f"{FENCE}json\n{RIGHT}\n{FENCE}", RIGHT),
        (f"{FENCE}\n{RIGHT}{FENCE}", RIGHT),
        (f"{FENCE}json\n7\n{FENCE}", "7"),
        (f"Here it is:\n{FENCE}json\n{RIGHT}\n{FENCE}\nAnything else?", RIGHT),
        (f"As in [1]:\n{FENCE}json\n{RIGHT}\n{FENCE}", RIGHT),
        (f"Here it is: {RIGHT}", RIGHT),
        (f"{RIGHT} I hope this helps.", RIGHT),
        ("Here they are: [1, 2]", "[1, 2]"),
        ("Sure.\n[1, 2]\nDone.", "[1, 2]"),
        ('{"code": "```json\\n{}\\n```"}', '{"code": "```json\\n{}\\n```"}'),
        ('Code: {"code": "```json\\n{}\\n```"}', '{"code": "```json\\n{}\\n```"}'),
    ],
)
def test_json_is_found(text: str, found: str) -> None:
    """A fence, a sentence before and one after are borne."""
    assert json_in(text) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "No JSON at all.",
        "Either {} or {}",
        f"{RIGHT} or else {RIGHT}",
        '{"items": [{"a": 1}, {"a": 2',
        '{"items": [{"a": 1}',
        "That is so, see [1] in the book.",
        f"{FENCE}json\n{{}}\n{FENCE}\nor\n{FENCE}json\n{{}}\n{FENCE}",
        '{"a": 1} [2]',
        "[" * 100_000,
        "Sure! " + '{"a":' * 100_000,
    ],
)
def test_what_is_not_clear_is_not_taken(text: str) -> None:
    """Two values, a part of one that was cut off, or a remark in brackets are no answer."""
    assert json_in(text) == text


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.builds(Label, topic=st.text(st.characters(exclude_categories=["Cs"])),
                       score=st.integers(-(10**15), 10**15))),
    st.sampled_from(["{}", "Here it is:\n{}", "```json\n{}\n```", "{}\nThat is all."]),
)  # fmt: skip
def test_models_come_back_as_they_were(labels: list[Label], around: str) -> None:
    """Whatever a model writes of itself is read as the same, bare and in an object."""
    bare = json.dumps([label.model_dump() for label in labels])
    schema = schemas.schema_of(list[Label])

    assert schema.object(around.replace("{}", f'{{"items": {bare}}}')) == labels
    assert schema.object(bare) == labels


def test_json_of_any_form(session: Session, api: Sandbox) -> None:
    """With json alone `parsed` is the JSON, out of a fence too, and `json()` gives the same."""
    api.script("```json\n[1, 2]\n```")

    answer = session.ask("A list, as JSON.", json=True, **PLAIN)

    assert answer.parsed == answer.json() == [1, 2]


def test_a_question_without_json_has_nothing_parsed(session: Session, api: Sandbox) -> None:
    """An answer that was not asked for as JSON is text, also where it is empty: no repair."""
    api.script("[1]", "")

    answer = session.ask("Why?", **PLAIN)
    with pytest.raises(UnusableAnswer, match="empty"):
        session.ask("Why not?", **PLAIN)

    assert answer.parsed is None
    assert len(api.requests) == 2
    with pytest.raises(ValueError, match="schema="):
        answer.frame()


# -- how it is asked for -----------------------------------------------------------------


@pytest.mark.parametrize("model", [Label, list[Label], Node, list[Node], Pair, int, POINT])
def test_the_instructions_have_an_example_that_fits(model: Any) -> None:
    """Schema and example stand in the system message, references can be looked up in it."""
    schema = schemas.schema_of(model)

    first, given_schema, example = schema.instructions().split("\n")

    told = json.loads(given_schema)
    refs = {part.split('"')[0] for part in given_schema.split('"$ref":"#/$defs/')[1:]}
    assert "JSON" in first
    assert "$ref" in told or told["type"] == "object"
    assert refs <= set(told.get("$defs", {}))
    schema.object(example.partition(": ")[2])


def test_the_example_of_a_large_model_is_short() -> None:
    """What grows with each level of models is shown without what may be missing."""
    made: Any = Label
    for level in range(8):
        fields = {f"f{n}": made for n in range(6)}
        annotations = {**fields, "name": str}
        made = type(f"Level{level}", (BaseModel,), {
            "__annotations__": {name: kind if name == "name" else kind | None
                                for name, kind in annotations.items()},
            **dict.fromkeys(fields),
        })  # fmt: skip

    example = schemas.schema_of(made).instructions().split("\n")[2]

    assert len(example) < 200
    assert '"name":"…"' in example


def test_a_schema_joins_the_system_message(session: Session, api: Sandbox) -> None:
    """The user's own system message stands first, and a request that has the form keeps one."""
    api.script(RIGHT, RIGHT)
    schema = schemas.schema_of(Label)
    request = repair.with_form(question("Label it.", system="Be brief.", think="off"), schema)

    session.ask("Label it.", system="Be brief.", schema=Label, **PLAIN)
    session.ask(request, schema=Label)

    first, second = bodies(api)
    assert first["messages"] == second["messages"]
    assert first["messages"][0]["content"] == f"Be brief.\n\n{schema.instructions()}"


def test_a_missing_validator_is_said() -> None:
    """Without jsonschema a dict is one clear line, and models work all the same."""
    code = f"""
import sys
sys.modules["jsonschema"] = None
from deepseek_magic import schemas
schemas.schema_of(list[int])
try:
    schemas.schema_of({POINT!r})
except Exception as error:
    print(type(error).__name__, error)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert ran.stdout.startswith("InvalidOption A JSON schema takes the package jsonschema")
    assert '%pip install "jsonschema>=4.18"' in ran.stdout


def test_nothing_is_fetched_for_a_schema(refused: Any) -> None:
    """A schema that refers to another host is refused, and asks nobody for it."""
    elsewhere = {"type": "object", "properties": {"a": {"$ref": "https://example.org/a.json"}}}

    with pytest.raises(InvalidOption, match=r"refers to https://example\.org/a"):
        schemas.schema_of(elsewhere)

    assert not refused.read_text()


# -- the repair --------------------------------------------------------------------------


def test_a_repair_is_asked_once_and_counted(session: Session, api: Sandbox) -> None:
    """The wrong answer goes back with what is wrong; cost and tokens are the sum of both."""
    api.script(WRONG, Reply(f"```json\n{RIGHT}\n```"))

    answer = session.ask("Label it.", schema=Label, **PLAIN)

    first, second = bodies(api)
    *before, wrong, told = second["messages"]
    counts = [row.usage["total_tokens"] for row in api.requests if row.usage]
    assert answer.parsed == Label(topic="tea", score=3)
    assert before == first["messages"]
    assert wrong == {"role": "assistant", "content": WRONG}
    assert "- score: Field required" in told["content"]
    assert "JSON" in told["content"]
    assert {**first, "messages": []} == {**second, "messages": []}
    assert answer.cost == api.billed == session.spent["CNY"]
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens or 0) + (answer.usage.completion_tokens or 0) == sum(counts)
    assert "one repair" in answer.note
    costs = [row.cost for row in api.requests]
    assert entries(session) == [("unusable", costs[0]), ("done", costs[1])]


def test_the_growing_answer_tells_of_the_repair(session: Session, api: Sandbox) -> None:
    """Between both a note says what is wrong; then the new answer grows from nothing."""
    api.script(WRONG, RIGHT)

    seen = list(session.stream("Label it.", schema=Label, **PLAIN))

    (place,) = [n for n, one in enumerate(seen) if one.note and not one.finish_reason]
    assert "score: Field required" in seen[place].note
    assert seen[place].text == ""
    assert seen[place - 1].text == WRONG
    assert seen[-1].text == RIGHT
    assert seen[-1].cost == api.billed


def test_both_fail(session: Session, api: Sandbox) -> None:
    """After one repair it ends: raw text and cost of both in `.answer`, the next step in words."""
    api.script(WRONG, "I cannot.", RIGHT)

    with pytest.raises(UnusableAnswer) as caught:
        session.ask("Label it.", schema=Label, **PLAIN)

    answer = caught.value.answer
    assert len(api.requests) == 2
    assert answer is not None
    assert (answer.text, answer.cost) == ("I cannot.", api.billed)
    assert str(caught.value).startswith("After one repair the answer is not JSON")
    assert "Both answers were billed. Run it again" in str(caught.value)
    assert [state for state, _ in entries(session)] == ["unusable", "unusable"]


def test_what_is_asked_does_not_hang_on_the_language(
    monkeypatch: pytest.MonkeyPatch, session: Session, api: Sandbox
) -> None:
    """A Chinese notebook shows Chinese sentences and sends the same requests, repairs included."""
    told = []
    for language in ("en", "zh"):
        monkeypatch.setenv(words.VARIABLE, language)
        api.script(WRONG, '{"topic": 1, "score": NaN}')
        with pytest.raises(UnusableAnswer) as caught:
            session.ask("Label it.", schema=Label, **PLAIN)
        told.append(caught.value)

    first, second, *again = [request.body for request in api.requests]
    assert again == [first, second]
    assert told[0].problems == told[1].problems == ("It is not JSON: NaN is no number of JSON",)
    assert str(told[1]) == (
        "修正一次之后，回答不是 JSON（NaN 不是 JSON 中的数字）。两次回答都已计费。请重新运行。"
    )


def test_why_no_repair_came_is_told_in_chinese_too(
    monkeypatch: pytest.MonkeyPatch, session: Session, api: Sandbox
) -> None:
    """Where the money ended in between: what happened, what was billed, what to do, once each."""
    monkeypatch.setenv(words.VARIABLE, "zh")
    api.script(WRONG, Reply(status=402))

    with pytest.raises(InsufficientBalance) as caught:
        session.ask("Label it.", schema=Label, **PLAIN)

    happened, unfit, unsent, *_ = caught.value.told
    assert happened.startswith("DeepSeek 余额已用完（402")
    assert unfit == "回答不符合 Label（score: Field required）。"
    assert unsent == "这次回答已计费；修正请求没有发送。"


@pytest.mark.parametrize("first", ["Sure!", "", " \n", WRONG + "{"])
def test_json_alone_is_repaired_too(session: Session, api: Sandbox, first: str) -> None:
    """What is no JSON, or nothing, is asked for once more; no empty turn is sent."""
    api.script(first, RIGHT)

    answer = session.ask("A label, as JSON.", json=True, **PLAIN)

    messages = bodies(api)[1]["messages"]
    assert answer.parsed == {"topic": "tea", "score": 3}
    assert answer.cost == api.billed
    assert all(message["content"].strip() for message in messages)
    assert len(messages) == (3 if first.strip() else 1)


@pytest.mark.parametrize(
    ("reply", "settings"),
    [
        (Reply('{"topic": "t', finish_reason="length"), {}),
        (Reply("", reasoning="So much", finish_reason="length"), {}),
        (Reply("No", finish_reason="content_filter"), {}),
        (Reply(WRONG, then="no-finish"), {}),
        (Reply(WRONG), {"repair": False}),
    ],
)
def test_no_repair(session: Session, api: Sandbox, reply: Reply, settings: dict[str, Any]) -> None:
    """What was cut, filtered or broke off is not sent back, nor where the user wants none."""
    api.script(reply)

    with pytest.raises(DeepSeekError) as caught:
        session.ask("Label it.", schema=Label, **PLAIN, **settings)

    assert len(api.requests) == 1
    assert caught.value.answer is not None
    assert caught.value.answer.text == (reply.text or "")


def test_a_repair_that_is_not_a_yes_or_no(session: Session, api: Sandbox) -> None:
    """A setting that is neither True nor False is refused before anything is sent."""
    with pytest.raises(InvalidOption, match="repair"):
        session.ask("Label it.", schema=Label, repair="no", **PLAIN)

    assert not api.requests


def test_a_repair_waits_out_an_overload(session: Session, api: Sandbox) -> None:
    """A repair that was turned away unbilled is asked again, as any question."""
    busy = Reply(status=503, headers={"Retry-After": "0"})
    api.script(WRONG, busy, RIGHT)

    answer = session.ask("Label it.", schema=Label, **PLAIN)

    assert len(api.requests) == 3
    assert answer.cost == api.billed


def test_a_refused_repair_keeps_the_first_answer(session: Session, api: Sandbox) -> None:
    """A repair that the API refuses leaves the first answer, its cost, and the reason."""
    api.script(WRONG, 400)

    with pytest.raises(UnusableAnswer, match="No repair came") as caught:
        session.ask("Label it.", schema=Label, **PLAIN)

    assert caught.value.answer is not None
    assert (caught.value.answer.text, caught.value.answer.cost) == (WRONG, api.billed)


def test_a_repair_that_breaks_off(session: Session, api: Sandbox) -> None:
    """The first answer is kept with a range that holds what both may have cost."""
    api.script(WRONG, Reply(after="request", then="close"))

    with pytest.raises(UnusableAnswer, match="No repair came") as caught:
        session.ask("Label it.", schema=Label, **PLAIN, max_tokens=50)

    answer = caught.value.answer
    assert answer is not None
    assert answer.text == WRONG
    assert answer.cost_range is not None
    assert answer.cost_range.low <= api.billed <= answer.cost_range.high


def test_the_money_ends_before_the_repair(session: Session, api: Sandbox) -> None:
    """An empty account at the repair is told as such, with the first answer and its cost."""
    api.script(WRONG, 402)

    with pytest.raises(InsufficientBalance, match="does not fit Label") as caught:
        session.ask("Label it.", schema=Label, **PLAIN)

    assert caught.value.answer is not None
    assert (caught.value.answer.text, caught.value.answer.cost) == (WRONG, api.billed)
    assert str(caught.value).startswith("The DeepSeek balance is empty")
    assert "Nothing was billed" not in str(caught.value)
    assert "Top up" in str(caught.value)

    first, asked = api.billed, len(api.requests)
    api.script(RIGHT)
    answer = session.ask("Label it.", schema=Label, **PLAIN)

    body = api.requests[-1].body or {}
    assert [one["role"] for one in body["messages"]][-2:] == ["assistant", "user"]
    assert len(api.requests) == asked + 1
    assert answer.cost == api.billed > first
    assert session.spent == {"CNY": api.billed}


@pytest.mark.parametrize("again", [WRONG, 400, Reply(RIGHT, after=1, then="close")])
def test_a_repair_is_put_off_once(session: Session, api: Sandbox, again: Any) -> None:
    """After a repair that was billed, or is at fault itself, the question is asked anew."""
    api.script(WRONG, 402)
    with pytest.raises(InsufficientBalance):
        session.ask("Label it.", schema=Label, **PLAIN)
    api.script(again)
    with pytest.raises(DeepSeekError):
        session.ask("Label it.", schema=Label, **PLAIN)

    api.script(RIGHT)
    session.ask("Label it.", schema=Label, **PLAIN)

    body = api.requests[-1].body or {}
    assert body["messages"][-1] == {"role": "user", "content": "Label it."}


def test_a_budget_holds_for_both(session: Session, api: Sandbox) -> None:
    """A repair for which the budget has too little left is not sent, and the reason is told."""
    long = json.dumps({"topic": "tea " * 2000})
    worst = session.estimate(
        "Label it.", schema=Label, max_tokens=3000, currency="CNY", **PLAIN
    ).worst
    assert worst is not None
    api.script(long, RIGHT)

    with pytest.raises(UnusableAnswer, match="No repair came: This question may cost") as caught:
        session.ask("Label it.", schema=Label, budget=worst, max_tokens=3000, **PLAIN)

    assert len(api.requests) == 1
    assert caught.value.answer is not None
    assert caught.value.answer.cost == api.billed <= worst

    answer = session.ask("Label it.", schema=Label, budget="1", max_tokens=3000, **PLAIN)

    assert len(api.requests) == 2
    assert answer.parsed == Label(topic="tea", score=3)
    assert answer.cost == api.billed


def test_a_day_limit_holds_for_both(api: Sandbox, open_session: Callable[..., Session]) -> None:
    """Nothing that may pass the limit of the day is sent, a repair neither."""
    session = open_session(api, clock=lambda: CALM, day_limit="0.0150")
    api.script(json.dumps({"topic": "tea " * 2000}), RIGHT)
    session.balance()

    with pytest.raises(UnusableAnswer, match="No repair came"):
        session.ask("Label it.", schema=Label, max_tokens=3000, **PLAIN)
    with pytest.raises(OverLimit):
        session.ask("Label it.", schema=Label, max_tokens=3000, **PLAIN)

    assert len(api.requests) == 1
    assert api.billed <= Decimal("0.0150")


def test_an_answer_with_a_key_in_it_is_not_sent_back(session: Session, api: Sandbox) -> None:
    """A repair would carry what looks like a key; it is not asked for."""
    secret = "sk-" + "a1b2" * 8
    api.script(json.dumps({"topic": secret}))

    with pytest.raises(UnusableAnswer, match="something like a key") as caught:
        session.ask("Label it.", schema=Label, **PLAIN)

    assert secret not in str(caught.value)
    assert len(api.requests) == 1


def test_leaving_in_the_repair_keeps_what_it_cost(session: Session, api: Sandbox) -> None:
    """What is known last, after a repair that was left, has the first answer and its cost."""
    api.script(WRONG, Reply(tokens=200, speed=50))
    answers = session.stream("Label it.", schema=Label, **PLAIN)
    for answer in answers:
        if answer.note:
            break
    for answer in answers:
        if answer.text:
            break

    answers.close()

    last = session.take_last()
    assert api.wait_idle()
    assert last is not None
    assert last.cost_range is not None
    assert last.cost_range.low <= api.billed <= last.cost_range.high
    assert [state for state, _ in entries(session)] == ["unusable", "interrupted"]


def test_what_is_not_known_of_one_is_not_known_of_both() -> None:
    """Sums of costs and tokens: exact, a range, or nothing."""
    usage = Usage(1, 2, 0, 1, 0)
    exact = Answer("a", usage=usage, cost=Decimal(1), seconds=1.0)
    span = Answer("b", cost_range=CostRange(Decimal(0), Decimal(3), Decimal(2)), seconds=1.0)

    assert repair.together(exact, exact).cost == 2
    assert repair.together(exact, exact).usage == Usage(2, 4, 0, 2, 0)
    assert repair.together(exact, span).cost is None
    assert repair.together(exact, span).cost_range == CostRange(Decimal(1), Decimal(4), Decimal(3))
    assert repair.together(exact, Answer("c")).cost_range is None
    assert repair.together(exact, Answer("c")).usage is None


# -- frames ------------------------------------------------------------------------------


def test_a_list_becomes_a_frame(session: Session, api: Sandbox) -> None:
    """A row for each model, a column for each field; models in it are dicts."""
    api.script(
        json.dumps({"items": [{"name": "a", "parent": {"name": "b"}}, {"name": "c"}]}),
        '{"items": []}',
        RIGHT,
    )

    frame = session.ask("Nodes.", schema=list[Node], **PLAIN).frame()
    empty = session.ask("None.", schema=list[Node], **PLAIN).frame()
    single = session.ask("One.", schema=Label, **PLAIN).frame()

    assert isinstance(frame, pd.DataFrame)
    assert list(frame.columns) == list(empty.columns) == ["name", "parent", "children"]
    assert list(frame["name"]) == ["a", "c"]
    assert frame["parent"].iloc[0]["name"] == "b"
    assert len(empty) == 0
    assert single.to_dict("records") == [{"topic": "tea", "score": 3}]


@pytest.mark.parametrize(("missing", "kind"), [("pandas", "DataFrame polars"), ("both", "list")])
def test_a_frame_without_pandas(missing: str, kind: str) -> None:
    """Polars does where pandas is not there; without both it is the list."""
    code = f"""
import sys
sys.modules["pandas"] = None
if {missing == "both"}:
    sys.modules["polars"] = None
{CLASSES}
from deepseek_magic import schemas
schema = schemas.schema_of(list[Label])
found = schema.frame(schema.object('[{RIGHT}]'))
print(type(found).__name__, *type(found).__module__.split(".")[:1])
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert ran.stdout.startswith(kind), ran.stderr


def test_a_frame_of_what_no_text_type_takes(session: Session, api: Sandbox) -> None:
    """Half a character, which JSON can name, is in the frame as it came."""
    api.script('{"items": [{"x": 1, "note": "\\ud800"}]}')

    frame = session.ask("One.", schema=LINE, **PLAIN).frame()

    assert list(frame["note"]) == ["\ud800"]


def test_an_answer_can_be_pickled(session: Session, api: Sandbox) -> None:
    """A kept answer has what it says, and its frame, in another process too."""
    api.script(f'{{"items": [{RIGHT}]}}')
    answer = session.ask("Labels.", schema=list[Label], **PLAIN)

    again = pickle.loads(pickle.dumps(answer))  # noqa: S301  # our own

    assert again == answer
    assert again.parsed == [Label(topic="tea", score=3)]
    assert list(again.frame()["score"]) == [3]


# -- rows --------------------------------------------------------------------------------


ROWS: dict[str, Any] = {**PLAIN, "progress": False, "concurrency": 1}


def test_a_row_is_repaired_once(session: Session, api: Sandbox) -> None:
    """At the cost of the row; what fails twice is its error, and never an answer later."""
    api.script(RIGHT, WRONG, "chat", RIGHT, "no")

    frame = session.map(["a", "b", "c"], "{{text}}", schema=Label, **ROWS)

    assert len(api.requests) == 5
    assert sum(frame["cost"], Decimal(0)) == api.billed == session.spent["CNY"]
    assert sorted(frame["error"].isna()) == [False, True, True]
    assert next(e for e in frame["error"] if isinstance(e, str)).startswith("After one repair")
    states = sorted(state for state, _ in entries(session))
    assert states == ["done", "done", "unusable", "unusable", "unusable"]

    api.script(RIGHT)
    again = session.map(["a", "b", "c"], "{{text}}", schema=Label, **ROWS)

    assert len(api.requests) == 6
    assert again["error"].isna().all()


def test_a_repaired_row_is_kept(session: Session, api: Sandbox) -> None:
    """What a repair has brought is the answer of its row, for nothing from then on."""
    api.script(WRONG, RIGHT)
    session.map(["a", "a"], "{{text}}", schema=Label, **ROWS)

    again = session.map(["a", "a"], "{{text}}", schema=Label, **ROWS)

    assert len(api.requests) == 2
    assert list(again["score"]) == [3, 3]
    assert list(again["cost"]) == [0, 0]


def test_rows_without_repair(session: Session, api: Sandbox) -> None:
    """With repair False a row fails at once, and rows that want no JSON are never sent back."""
    api.script(WRONG, "")

    first = session.map(["a"], "{{text}}", schema=Label, repair=False, **ROWS)
    second = session.map(["a"], "{{text}}", **ROWS)

    assert len(api.requests) == 2
    assert first["error"].notna().all()
    assert second["error"].notna().all()


def test_the_money_ends_in_the_repair_of_a_row(session: Session, api: Sandbox) -> None:
    """The row is missing, has what was billed for it, and after a top-up its repair is asked."""
    api.script(WRONG, 402)

    with pytest.raises(InsufficientBalance) as caught:
        session.map(["a", "b"], "{{text}}", schema=Label, **ROWS)
    asked = len(api.requests)
    api.script(RIGHT, RIGHT, RIGHT)
    partial = caught.value.partial
    again = session.map(["a", "b"], "{{text}}", schema=Label, **ROWS)

    bodies = [request.body or {} for request in list(api.requests)[asked:]]
    repairs = [body for body in bodies if body["messages"][-2]["role"] == "assistant"]
    assert len(repairs) == 1
    assert len(bodies) <= 2
    assert sum(partial["cost"], Decimal(0)) + sum(again["cost"], Decimal(0)) == api.billed
    assert again["error"].isna().all()
    assert "0 of 2 rows have their answer" in str(caught.value) or "1 of 2" in str(caught.value)


def test_a_budget_ends_before_the_repair_of_a_row(session: Session, api: Sandbox) -> None:
    """No repair passes the budget; the row is missing at the cost that it had."""
    worst = session.estimate("a", schema=Label, max_tokens=3000, currency="CNY", **PLAIN).worst
    assert worst is not None
    api.script(json.dumps({"topic": "tea " * 2000}), RIGHT)

    with pytest.raises(OverLimit) as caught:
        session.map(["a"], "{{text}}", schema=Label, budget=worst, max_tokens=3000, **ROWS)

    assert len(api.requests) == 1
    assert list(caught.value.partial["cost"]) == [api.billed]
    assert caught.value.partial["error"].notna().all()

    first = api.billed
    frame = session.map(["a"], "{{text}}", schema=Label, budget="1", max_tokens=3000, **ROWS)

    assert len(api.requests) == 2
    assert list(frame["score"]) == [3]
    assert list(frame["cost"]) == [api.billed - first]


def test_rows_of_a_form_without_fields(session: Session, api: Sandbox) -> None:
    """A list for each row stands in the column of the answers, models in it as dicts."""
    api.script(f'{{"items": [{RIGHT}]}}', '["no"]', '{"items": []}')

    frame = session.map(["a", "b"], "{{text}}", schema=list[Label], column="labels", **ROWS)

    assert list(frame.columns) == ["text", "labels", "cost", "error"]
    assert sorted(frame["labels"], key=len) == [[], [{"topic": "tea", "score": 3}]]


# -- in a cell ---------------------------------------------------------------------------


@pytest.fixture
def run(
    api: Sandbox, shell: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], tuple[str, BaseException | None]]:
    """Give a function that runs a cell, in a shell that has `Label`."""
    monkeypatch.setenv("DEEPSEEK_API_KEY", api.api_key)
    monkeypatch.setenv("DEEPSEEK_BASE_URL", api.base_url)
    shell.user_ns.update(Label=Label, POINT=POINT, text="tea")

    def run_cell(source: str) -> tuple[str, BaseException | None]:
        capsys.readouterr()
        result = shell.run_cell(source)
        return capsys.readouterr().out, result.error_in_exec or result.error_before_exec

    return run_cell


def test_a_cell_binds_a_frame(run: Any, shell: Any, api: Sandbox) -> None:
    """A list of models is bound as a DataFrame, and the quiet line tells of the repair."""
    api.script(f'{{"items": [{WRONG}]}}', f'{{"items": [{RIGHT}]}}')

    shown, error = run("%%deepseek --schema list[Label] -o labels -t off\nLabel it.")

    assert error is None
    assert shell.user_ns["labels"].to_dict("records") == [{"topic": "tea", "score": 3}]
    assert "items.0.score: Field required" in shown
    assert "one repair was made" in shown


def test_a_cell_binds_what_a_dict_describes(run: Any, shell: Any, api: Sandbox) -> None:
    """A JSON schema of the notebook's checks the answer, and the JSON is bound."""
    api.script('{"x": 2}')

    _, error = run("%%deepseek --schema POINT -o point -t off\nA point.")

    assert error is None
    assert shell.user_ns["point"] == {"x": 2}


def test_a_cell_whose_repair_fails(run: Any, shell: Any, api: Sandbox) -> None:
    """It fails in one line, both raw texts stand there, and nothing is bound."""
    api.script(WRONG, "I cannot do it.")

    shown, error = run("%%deepseek --schema Label -o label -t off\nLabel it.")

    assert isinstance(error, UnusableAnswer)
    assert WRONG in shown
    assert "I cannot do it." in shown
    assert "not usable" in shown
    assert "label" not in shell.user_ns


@pytest.mark.parametrize("off", ["--no-repair", "trait"])
def test_a_cell_without_repair(run: Any, api: Sandbox, off: str) -> None:
    """The flag and the setting of the notebook do without."""
    api.script("no", "no")
    if off == "trait":
        run("%config DeepSeekMagics.repair = False")

    _, error = run(f"%%deepseek --json {'' if off == 'trait' else off} -t off\nAs JSON.")

    assert isinstance(error, UnusableAnswer)
    assert len(api.requests) == 1


def test_no_repair_needs_json(run: Any, api: Sandbox) -> None:
    """The flag alone is a mistake, told before anything is sent."""
    _, error = run("%%deepseek --no-repair\nWhy?")

    assert isinstance(error, InvalidOption)
    assert not api.requests


@pytest.mark.parametrize("line", ["--json", "--schema Label", "--schema Label --each [1,2]"])
def test_a_dry_run_tells_of_the_repair(run: Any, api: Sandbox, line: str) -> None:
    """That a repair may come is said beside the worst case, unless there is none."""
    with_one, _ = run(f"%%deepseek --dry-run {line}\nAs JSON: {{{{text}}}}")
    without, _ = run(f"%%deepseek --dry-run --no-repair {line}\nAs JSON: {{{{text}}}}")

    assert "sent back once" in with_one
    assert "sent back once" not in without
    assert not api.requests


@pytest.mark.kernel
def test_a_notebook_keeps_the_repaired_answer(kernel: Any, api: Sandbox, monkeypatch: Any) -> None:
    """One output stands there, with the answer that fits and the cost of both."""
    monkeypatch.setenv("DEEPSEEK_API_KEY", api.api_key)
    monkeypatch.setenv("DEEPSEEK_BASE_URL", api.base_url)
    api.balance = Decimal(50)  # no warning of a low balance beside it
    api.set_clock(None)  # as the kernel: real time
    api.script(Reply(f'{{"items": [{WRONG}]}}', reasoning="Hm."), f'{{"items": [{RIGHT}]}}')

    ran = kernel.run(
        [
            "%load_ext deepseek_magic",
            CLASSES,
            "%%deepseek --schema list[Label] -o labels\nLabel it.",
            "print(type(labels).__name__, *labels.columns, len(labels))",
        ]
    )

    (output,) = ran.notebook.cells[2]["outputs"]
    assert ran.error is None
    assert "one repair was made" in output["data"]["text/plain"]
    assert WRONG not in output["data"]["text/plain"]
    assert output["metadata"]["deepseek_magic"]["cost"] == str(api.billed)
    assert ran.text(3).strip() == "DataFrame topic score 1"


@pytest.mark.kernel
def test_an_interrupt_in_the_repair(kernel: Any, api: Sandbox, monkeypatch: Any) -> None:
    """Stop ends the cell in one line, with what both may have cost, and no third request."""
    monkeypatch.setenv("DEEPSEEK_API_KEY", api.api_key)
    monkeypatch.setenv("DEEPSEEK_BASE_URL", api.base_url)
    client, shown = kernel.start(), list[str]()
    for source in ("%load_ext deepseek_magic", CLASSES):
        client.execute_interactive(source, timeout=60)
    api.script(WRONG, Reply(tokens=5000, speed=50))

    client.execute("%%deepseek --schema Label -t off -o label\nLabel it.", allow_stdin=False)
    pause = threading.Event()
    while len([row for row in api.requests if row.status == 200]) < 2:
        assert not pause.wait(0.02)
    client.control_channel.send(client.session.msg("interrupt_request", content={}))
    reply = client.get_shell_msg(timeout=60)
    while (message := client.get_iopub_msg(timeout=30))["content"].get(
        "execution_state"
    ) != "idle" or message["parent_header"].get("msg_id") != reply["parent_header"]["msg_id"]:
        shown.append(str(message["content"].get("data", {}).get("text/plain", "")))

    assert (reply["content"]["ename"], len(reply["content"]["traceback"])) == ("Interrupted", 1)
    assert "may bill" in reply["content"]["evalue"]
    assert any("interrupted" in text and "at most" in text for text in shown)
    assert len(api.requests) == 2


def test_a_request_without_a_schema_is_as_it_was() -> None:
    """No form, no change."""
    request: Request = question("Why?")

    assert repair.with_form(request, None) is request
