"""The simulated account: everything over a real socket, as a client meets it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_magic import sandbox_page
from deepseek_magic.sandbox import Exchange, Reply, Sandbox, main
from deepseek_magic.sandbox_tokens import count, pieces

OFF_PEAK = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)  # a Sunday
PEAK = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)  # Monday, 10:00 in Beijing
EMPTY = (
    b'{"error":{"message":"Insufficient Balance","type":"unknown_error","param":null,'
    b'"code":"invalid_request_error"}}'
)
ASK: dict[str, Any] = {
    "model": "deepseek-flash",
    "messages": [{"role": "user", "content": "Why is the sky blue?"}],
}


@pytest.fixture
def api() -> Iterator[Sandbox]:
    with Sandbox(balance="5.00", clock=OFF_PEAK) as api:
        yield api


def post(
    api: Sandbox, body: Any = None, path: str = "/chat/completions", **over: Any
) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps({**(body or ASK), **over}).encode()
    headers = {"authorization": f"Bearer {api.api_key}", "content-type": "application/json"}
    return httpx.post(api.base_url + path, content=content, headers=headers, timeout=20)


def get(api: Sandbox, path: str, key: str | None = None) -> httpx.Response:
    return httpx.get(api.base_url + path, headers={"authorization": f"Bearer {key or api.api_key}"})


def client(api: Sandbox, **settings: Any) -> openai.OpenAI:
    return openai.OpenAI(
        api_key=api.api_key, base_url=api.base_url, **{"max_retries": 0, "timeout": 20, **settings}
    )


def chunks(response: httpx.Response) -> list[dict[str, Any]]:
    lines = [line for line in response.text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def connect(api: Sandbox, **over: Any) -> socket.socket:
    body = json.dumps({**ASK, "stream": True, **over}).encode()
    head = (
        "POST /chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Authorization: Bearer {api.api_key}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    connection = socket.create_connection(("127.0.0.1", api.port), timeout=20)
    connection.sendall(head.encode() + body)
    return connection


def read_until(connection: socket.socket, mark: bytes) -> bytes:
    data = b""
    while mark not in data:
        more = connection.recv(65_536)
        assert more, f"the connection ended before {mark!r}: {data!r}"
        data += more
    return data


def read_all(connection: socket.socket) -> tuple[bytes, str]:
    """Read to the end; tell whether it was a proper close or a reset."""
    data = b""
    with closing(connection):
        try:
            while more := connection.recv(65_536):
                data += more
        except ConnectionResetError:
            return data, "reset"
    return data, "closed"


def unchunked(data: bytes) -> list[bytes]:
    """Take the chunks out of a chunked HTTP body; [] at its end means a proper one."""
    rest = data.partition(b"\r\n\r\n")[2]
    found = []
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        found.append(rest[: int(size, 16)])
        rest = rest[int(size, 16) + 2 :]
    return found


def last(api: Sandbox) -> Exchange:
    assert api.wait_idle()
    return api.traffic[-1]


# What is refused, in the API's own words


def body_with(**over: Any) -> dict[str, Any]:
    return {**ASK, **over}


DOCUMENTED_400 = [
    (
        body_with(model="deepseek-v4.1-flash"),
        (
            "The supported API model names are deepseek-flash, deepseek-v4-pro, but you passed "
            "deepseek-v4.1-flash"
        ),
    ),
    (
        body_with(model="deepseek-chat"),
        (
            "The supported API model names are deepseek-flash, deepseek-v4-pro, but you passed "
            "deepseek-chat"
        ),
    ),
    (
        body_with(max_tokens=393_217),
        "Invalid max_tokens value, the valid range of max_tokens is [1, 393216]",
    ),
    (
        body_with(max_tokens=0),
        "Invalid max_tokens value, the valid range of max_tokens is [1, 393216]",
    ),
    (
        body_with(response_format={"type": "json_schema"}),
        "This response_format type is unavailable now",
    ),
]


@pytest.mark.parametrize(("body", "message"), DOCUMENTED_400)
def test_a_request_that_cannot_be_answered_gets_the_documented_400(
    api: Sandbox, body: dict[str, Any], message: str
) -> None:
    """The text, type and code of a 400 are those of the API, and nothing is charged."""
    response = post(api, body)

    assert response.status_code == 400
    error = {"message": message, "type": "invalid_request_error", "param": None}
    assert response.json() == {"error": {**error, "code": "invalid_request_error"}}
    assert response.headers["x-ds-trace-id"] == last(api).trace_id
    assert api.billed == 0
    assert last(api).cost is None


@pytest.mark.parametrize(
    ("over", "words"),
    [
        (
            {"messages": [{"role": "developer", "content": "x"}]},
            (
                "messages[0]: unknown variant 'developer', expected one of 'system', 'user', "
                "'assistant', 'tool', 'latest_reminder'"
            ),
        ),
        ({"messages": []}, "Empty input messages"),
        ({"messages": "hello"}, "messages: invalid type"),
        ({"messages": ["hello"]}, "messages[0]: invalid type"),
        ({"messages": [{"role": "user"}]}, "messages[0]: invalid type"),
        ({"messages": [{"role": "user", "content": [{"type": "sound"}]}]}, "messages[0].content"),
        ({"model": 5}, "model: invalid type"),
        ({"stop": ["x"] * 17}, "at most 16 stop"),
        ({"stop": 5}, "stop: invalid type"),
        ({"temperature": 2.1}, "the valid range of temperature is [0, 2]"),
        ({"temperature": "hot"}, "temperature: invalid type"),
        ({"top_p": -0.1}, "the valid range of top_p is [0, 1]"),
        ({"max_tokens": True}, "max_tokens: invalid type"),
        ({"max_tokens": "5"}, "max_tokens: invalid type"),
        ({"stream": "yes"}, "stream: invalid type"),
        ({"thinking": {"type": "sometimes"}}, "thinking.type: unknown variant 'sometimes'"),
        ({"thinking": "off"}, "thinking: invalid type"),
        ({"reasoning_effort": "huge"}, "reasoning_effort: unknown variant 'huge'"),
        ({"user_id": "é" * 257}, "at most 512 bytes"),
        ({"tools": [{}] * 129}, "at most 128 functions"),
        ({"tools": [{"function": {"name": "no spaces"}}]}, "Invalid tool name"),
        (
            {"max_tokens": 393_216, "messages": [{"role": "user", "content": "x" * 2_190_000}]},
            "maximum context length is 1048576 tokens",
        ),
        ({"messages": [{"role": "assistant", "content": "x", "prefix": True}]}, "/beta"),
    ],
)
def test_every_rule_of_a_request_is_kept(api: Sandbox, over: dict[str, Any], words: str) -> None:
    """A value outside of the documented rules is a 400 that names it."""
    response = post(api, **over)

    assert response.status_code == 400
    assert words in response.json()["error"]["message"]


def test_a_missing_field_and_broken_json_are_told_apart(api: Sandbox) -> None:
    """A body that is no JSON, no object, or lacks a field is a 400 each."""
    said = [
        post(api, body).json()["error"]["message"]
        for body in (b"{", b"", b"[]", b'{"model": "deepseek-flash"}', b"\xff" * 9, b"[" * 100_000)
    ]

    assert "parse the request body as JSON" in said[0]
    assert "expected struct" in said[1]
    assert "expected struct" in said[2]
    assert said[3].endswith("missing field `messages` at line 1 column 27")
    assert "parse the request body as JSON" in said[4]
    assert "parse the request body as JSON" in said[5]


def test_pro_reads_no_images_and_flash_does(api: Sandbox) -> None:
    """A picture is the documented 400 for Pro and an answer from Flash."""
    dot = (
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg"
        "gg=="
    )
    url = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{dot}"}}
    text = {"type": "text", "text": "What is it?"}
    seen, parts = ([{"role": "user", "content": one}] for one in ([text, url], [text]))

    refused, answered = post(api, messages=seen, model="deepseek-v4-pro"), post(api, messages=seen)
    in_parts = post(api, messages=parts, model="deepseek-v4-pro")

    assert refused.status_code == 400
    assert refused.json()["error"]["message"] == "This model does not support image"
    assert in_parts.json()["error"]["message"].startswith(
        "Failed to deserialize the JSON body into the target type: "
        "messages[0]: invalid type: sequence, expected a string at line 1 column "
    )
    assert 150 < answered.json()["usage"]["prompt_tokens"] < 400


def test_each_way_of_a_wrong_key_has_its_documented_words(api: Sandbox) -> None:
    """A wrong key, a removed key and a wrong header are 401 with different messages."""
    old = api.add_key()
    api.remove_key(old)

    wrong, former = get(api, "/models", "sk-MY_KEY"), get(api, "/models", old)
    missing = httpx.get(api.base_url + "/models")

    assert {wrong.status_code, former.status_code, missing.status_code} == {401}
    assert wrong.json() == {
        "error": {
            "message": "Authentication Fails, Your api key: ****_KEY is invalid",
            "type": "authentication_error",
            "param": None,
            "code": "invalid_request_error",
        }
    }
    assert former.json()["error"]["message"] == "Authentication Fails (no such user)"
    assert (
        missing.json()["error"]["message"]
        == "Authentication Fails (auth header format should be Bearer sk-...)"
    )


def test_several_keys_open_one_account(api: Sandbox) -> None:
    """A key that was added works like the first."""
    assert get(api, "/models", api.add_key()).status_code == 200


@pytest.mark.parametrize("stream", [True, False])
def test_an_empty_account_is_refused_with_the_documented_402(api: Sandbox, stream: bool) -> None:
    """Without money the body is DeepSeek's to the byte, before any event."""
    api.balance = "0"

    response = post(api, stream=stream)

    assert (response.status_code, response.content) == (402, EMPTY)
    assert response.headers["content-type"] == "application/json"
    assert last(api).cost is None


@pytest.mark.parametrize(
    ("status", "message", "kind", "code"),
    [
        (400, "Content Exists Risk", "invalid_request_error", "invalid_request_error"),
        (402, "Insufficient Balance", "unknown_error", "invalid_request_error"),
        (
            503,
            (
                "Service is too busy. We advise users to temporarily switch to alternative LLM API "
                "service providers."
            ),
            "service_unavailable_error",
            "service_unavailable_error",
        ),
    ],
)
def test_a_scripted_status_has_the_documented_body(
    api: Sandbox, status: int, message: str, kind: str, code: str
) -> None:
    """A bare number in a script is that status as the API sends it, and is not charged."""
    api.script(status)

    response = post(api)

    assert response.status_code == status
    error = {"message": message, "type": kind, "param": None, "code": code}
    assert response.json() == {"error": error}
    assert api.billed == 0


def test_a_500_is_a_page_of_html(api: Sandbox) -> None:
    """The API's 500 can be an HTML page; so it is here."""
    api.script(500)

    response = post(api)

    assert response.headers["content-type"] == "text/html"
    assert "<h1>500 Internal Server Error</h1>" in response.text


def test_too_many_requests_at_once_are_refused(api: Sandbox) -> None:
    """Above the limit of a model a request is a plain 429; its place is free when one ends."""
    api.change(concurrency={"deepseek-flash": 1})
    api.script(Reply(after=3, then="stall"))
    held = connect(api)
    read_until(held, b"data: ")

    refused, other = post(api), post(api, model="deepseek-v4-pro")

    error = refused.json()["error"]
    assert refused.status_code == 429
    assert error["type"] == "rate_limit_error"
    assert (
        "Your current concurrency is 2, which exceeds your concurrency limit of 1."
        in error["message"]
    )
    assert other.status_code == 200
    held.close()
    assert api.wait_idle()
    assert post(api).status_code == 200


def test_little_money_allows_few_requests_at_once(api: Sandbox) -> None:
    """With a limit by balance the 429 names the balance, and a top-up lifts it."""
    api.balance = "1.00"
    api.change(concurrency_per_unit="2", keep_alive=0.02)
    api.script(Reply(latency=600, tokens=5), Reply(latency=600, tokens=5))
    held = [connect(api), connect(api)]
    for one in held:
        read_until(one, b": keep-alive")
    refused = post(api)
    api.top_up("1.00")
    allowed = post(api)
    for one in held:
        one.close()

    assert refused.status_code == 429
    assert refused.json() == {
        "error": {
            "message": "Too many requests. Your current concurrency is 3, which exceeds your "
            "concurrency limit of 2 based on your remaining balance. Please top up your balance to "
            "restore your concurrency.",
            "type": "rate_limit_error",
            "param": None,
            "code": "invalid_request_error",
        }
    }
    assert allowed.status_code == 200


def test_what_does_not_exist_is_a_404_in_the_api_s_shape(api: Sandbox) -> None:
    """Another path or method has an error body like every other."""
    for response in (get(api, "/v2/models"), get(api, "/chat/completions"), post(api, path="/")):
        assert response.status_code == 404
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}


# What is answered


@pytest.mark.parametrize("prefix", ["", "/v1", "/beta"])
def test_every_prefix_of_the_api_works(api: Sandbox, prefix: str) -> None:
    """Chat, models and balance are reached at the root, under /v1 and under /beta."""
    answers = [
        post(api, path=f"{prefix}/chat/completions"),
        get(api, f"{prefix}/models"),
        get(api, f"{prefix}/user/balance"),
    ]

    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert [row["id"] for row in answers[1].json()["data"]] == ["deepseek-flash", "deepseek-v4-pro"]
    assert answers[1].json()["data"][0] == {
        "id": "deepseek-flash",
        "object": "model",
        "owned_by": "deepseek",
        "name": "DeepSeek-V4.1-Flash",
        "context_window": 1048576,
        "max_output_tokens": 393216,
        "input_modalities": ["text", "image"],
        "output_modalities": ["text"],
        "effort": {"supported_levels": ["low", "high", "max"], "default_level": "high"},
    }


def test_a_stream_has_the_documented_shape(api: Sandbox) -> None:
    """Reasoning comes before text, usage and finish_reason in the last chunk, then [DONE]."""
    got = chunks(post(api, stream=True))

    deltas = [chunk["choices"][0]["delta"] for chunk in got]
    assert deltas[0] == {"role": "assistant", "content": None, "reasoning_content": ""}
    thought = [bool(delta.get("reasoning_content")) for delta in deltas[1:-1]]
    assert thought == sorted(thought, reverse=True)
    assert [chunk["choices"][0]["finish_reason"] for chunk in got[:-1]] == [None] * (len(got) - 1)
    assert all("usage" not in chunk for chunk in got[:-1])
    assert deltas[-1]["content"] == ""
    assert got[-1]["choices"][0]["finish_reason"] == "stop"
    usage = got[-1]["usage"]
    assert usage["completion_tokens"] == len(got) - 2
    assert usage["completion_tokens_details"]["reasoning_tokens"] == sum(thought)
    assert usage["prompt_tokens"] == usage["prompt_cache_miss_tokens"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert {chunk["object"] for chunk in got} == {"chat.completion.chunk"}
    assert len({(chunk["id"], chunk["model"], chunk["system_fingerprint"]) for chunk in got}) == 1


def test_asked_for_usage_stands_in_every_chunk(api: Sandbox) -> None:
    """With include_usage the other chunks say null."""
    got = chunks(post(api, stream=True, stream_options={"include_usage": True}))

    assert {chunk["usage"] for chunk in got[:-1]} == {None}
    assert got[-1]["usage"]["completion_tokens"] == len(got) - 2


@pytest.mark.parametrize("asked", [True, False])
def test_the_older_shape_has_usage_in_a_chunk_of_its_own(api: Sandbox, asked: bool) -> None:
    """In the older form the chunk with usage has no choices, and comes only when asked for."""
    api.change(usage_chunk="separate")

    got = chunks(post(api, stream=True, stream_options={"include_usage": asked}))

    assert ([] in [chunk["choices"] for chunk in got]) is asked
    ends = [chunk for chunk in got if chunk["choices"] and chunk["choices"][0]["finish_reason"]]
    assert not ends[0].get("usage")


def test_sync_async_and_whole_answers_are_the_same(api: Sandbox) -> None:
    """The official client reads one and the same answer in each of its ways."""
    said: list[tuple[str, str]] = []

    async def in_async() -> None:
        settings = {"api_key": api.api_key, "base_url": api.base_url}
        async with openai.AsyncOpenAI(**settings) as client:  # type: ignore[arg-type]
            stream = await client.chat.completions.create(**ASK, stream=True)
            deltas = [chunk.choices[0].delta async for chunk in stream]
            said.append(joined(deltas))

    def joined(deltas: list[Any]) -> tuple[str, str]:
        thought = "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas)
        return thought, "".join(delta.content or "" for delta in deltas)

    with client(api) as sync:
        whole = sync.chat.completions.create(**ASK)
        said.append(joined([whole.choices[0].message]))
        said.append(
            joined([c.choices[0].delta for c in sync.chat.completions.create(**ASK, stream=True)])
        )
    asyncio.run(in_async())

    assert said[0] == said[1] == said[2]
    assert "sandbox" in said[0][0]
    assert "sandbox" in said[0][1]
    assert whole.usage
    assert whole.usage.completion_tokens == len(pieces(said[0][0])) + len(pieces(said[0][1]))


def test_the_answer_follows_the_question(api: Sandbox) -> None:
    """Another question has another answer; the same has the same; both name their subject."""

    def text(question: str) -> str:
        body = post(api, messages=[{"role": "user", "content": question}]).json()
        return str(body["choices"][0]["message"]["content"])

    sky, sea = text("Why is the sky blue?"), text("Why is the sea salty?")

    assert sky == text("Why is the sky blue?") != sea
    assert "Why is the sky blue?" in sky
    assert "no model" in sky
    assert 100 < count(sky) < 260
    assert "```python" in text("Write a python function")
    assert "$E = mc^2$" in text("Which formula is best known?")
    assert "| --- |" in text("Compare two tables")


def test_thinking_can_be_turned_off_and_lengthened(api: Sandbox) -> None:
    """Off has no reasoning at all; low, high and max take more tokens each."""
    off = post(api, thinking={"type": "disabled"}).json()
    levels = [
        post(api, reasoning_effort=level).json()["usage"]["completion_tokens_details"]
        for level in ("minimal", "medium", "ultra")
    ]

    assert "reasoning_content" not in off["choices"][0]["message"]
    assert off["usage"]["completion_tokens_details"] == {"reasoning_tokens": 0}
    low, high, most = (level["reasoning_tokens"] for level in levels)
    assert 0 < low < high < most


def test_an_alias_is_answered_under_the_model_s_name(api: Sandbox) -> None:
    """The older names of Flash still work, and the answer carries the current one."""
    assert post(api, model="deepseek-v4-flash").json()["model"] == "deepseek-flash"


def test_max_tokens_covers_the_reasoning(api: Sandbox) -> None:
    """A small limit ends in the reasoning, with finish_reason length and no text."""
    body = post(api, max_tokens=20).json()

    assert body["choices"][0]["finish_reason"] == "length"
    assert body["choices"][0]["message"]["content"] == ""
    assert body["usage"]["completion_tokens"] == 20


def test_a_stop_string_ends_the_text_before_itself(api: Sandbox) -> None:
    """The text ends before the first of the stop strings, as a proper end."""
    api.script(Reply(text="one two three four"))

    choice = post(api, stop=["four", "three"]).json()["choices"][0]

    assert choice["message"]["content"] == "one two "
    assert choice["finish_reason"] == "stop"


def test_json_mode_gives_an_object(api: Sandbox) -> None:
    """JSON mode answers with an object that fits the schema or the example in the prompt."""

    def ask(prompt: str) -> Any:
        messages = [{"role": "user", "content": prompt}]
        body = post(api, messages=messages, response_format={"type": "json_object"}).json()
        return json.loads(body["choices"][0]["message"]["content"])

    schema = {
        "type": "object",
        "$defs": {"Mood": {"enum": ["good", "bad"], "type": "string"}},
        "properties": {
            "mood": {"$ref": "#/$defs/Mood"},
            "stars": {"type": "integer", "minimum": 1, "maximum": 5},
            "words": {"type": "array", "items": {"type": "string"}},
            "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        },
    }
    filled = ask(f"Answer as JSON of this schema: {json.dumps(schema)}")

    assert filled["mood"] in {"good", "bad"}
    assert filled["stars"] in range(1, 6)
    assert all(isinstance(word, str) for word in [*filled["words"], filled["note"]])
    assert ask('Answer as JSON like {"answer": 5}') == {"answer": 5}
    assert "sandbox" in ask("Some JSON, please")["source"]


def test_json_mode_without_the_word_runs_into_the_limit(api: Sandbox) -> None:
    """Without "json" in the prompt come blanks until max_tokens, as the documentation warns."""
    choice = post(api, response_format={"type": "json_object"}, max_tokens=300).json()["choices"][0]

    assert choice["message"]["content"].strip() == ""
    assert choice["finish_reason"] == "length"


def test_a_label_is_one_of_those_offered(api: Sandbox) -> None:
    """A question for a label gets one of its labels, and nothing else."""
    for prompt, allowed in [
        (
            "Classify as positive, negative or neutral: I like it.",
            {"positive", "negative", "neutral"},
        ),
        ("Is this spam? Answer yes or no.", {"yes", "no"}),
    ]:
        messages = [{"role": "user", "content": prompt}]
        choice = post(api, messages=messages).json()["choices"][0]
        assert choice["message"]["content"] in allowed


def test_a_prefix_is_continued_on_the_beta_address(api: Sandbox) -> None:
    """The last message of the assistant, marked as a prefix, is gone on with."""
    start = {"role": "assistant", "content": "```python\n", "prefix": True}

    answer = post(
        api, path="/beta/chat/completions", messages=[*ASK["messages"], start], stop=["```"]
    )

    text = answer.json()["choices"][0]["message"]["content"]
    assert text.startswith("print(")
    assert "```" not in text


def test_the_rest_of_a_scripted_answer(api: Sandbox) -> None:
    """Of an answer that its request begins, the rest is sent, without thinking again."""
    whole, begun = "Once upon a time there was a notebook.", "Once upon a time "
    start = {"role": "assistant", "content": begun, "prefix": True, "reasoning_content": "Hm. " * 9}
    api.script(Reply(whole, reasoning="Hm."), Reply("Something else.", reasoning="Hm."))

    rest, other = (
        post(api, path="/beta/chat/completions", messages=[*ASK["messages"], start]).json()
        for _ in range(2)
    )

    assert rest["choices"][0]["message"]["content"] == whole.removeprefix(begun)
    assert not rest["choices"][0]["message"]["reasoning_content"]
    assert other["choices"][0]["message"]["content"] == "Something else."
    assert rest["usage"]["completion_tokens"] == count(whole.removeprefix(begun))
    assert rest["usage"]["prompt_tokens"] == sum(
        map(count, (ASK["messages"][0]["content"], begun, "Hm. " * 9))
    )


def test_the_rest_of_its_own_answer(api: Sandbox) -> None:
    """An essay or a JSON of the sandbox's own goes on to the end that it would have had."""
    for asked in ("Why is the sky blue?", 'Give JSON, such as {"a": [1, 2, 3]}'):
        wanted = {"response_format": {"type": "json_object"}} if "JSON" in asked else {}
        question = {"role": "user", "content": asked}
        path = "/beta/chat/completions"
        whole = post(api, path=path, messages=[question], **wanted).json()
        text = whole["choices"][0]["message"]["content"]
        start = {"role": "assistant", "content": text[:9], "prefix": True}

        rest = post(api, path=path, messages=[question, start], **wanted).json()

        assert text[:9] + rest["choices"][0]["message"]["content"] == text


@pytest.mark.parametrize(
    ("last", "said"),
    [
        ({"role": "user", "content": "x", "prefix": True}, "role assistant can be a prefix"),
        ({"role": "assistant", "content": "x", "reasoning_content": 5}, "expected a string"),
    ],
)
def test_a_wrong_prefix(api: Sandbox, last: dict[str, Any], said: str) -> None:
    """What cannot be a prefix is refused, and costs nothing."""
    answer = post(api, path="/beta/chat/completions", messages=[*ASK["messages"], last])

    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]
    assert api.billed == 0


@given(st.text() | st.text(alphabet="ab ,你好。é"))
def test_pieces_and_count_agree(text: str) -> None:
    """As many pieces as tokens, which join to the text."""
    cut = pieces(text)

    assert "".join(cut) == text
    assert len(cut) == count(text)
    assert all(cut)


def test_tokens_follow_the_rule_of_thumb() -> None:
    """A thousand English characters are 300 tokens, a thousand Chinese ones 600."""
    assert (count("x" * 1000), count("好" * 1000)) == (300, 600)


# What it costs


@pytest.mark.parametrize(
    ("model", "currency", "at", "hit", "miss", "output"),
    [
        ("deepseek-flash", "CNY", OFF_PEAK, "0.02", "1", "4"),
        ("deepseek-flash", "CNY", PEAK, "0.04", "2", "8"),
        ("deepseek-flash", "USD", OFF_PEAK, "0.003", "0.15", "0.60"),
        ("deepseek-flash", "USD", PEAK, "0.006", "0.30", "1.20"),
        ("deepseek-v4-pro", "CNY", OFF_PEAK, "0.15", "4.5", "13.5"),
        ("deepseek-v4-pro", "CNY", PEAK, "0.30", "9.0", "27.0"),
        ("deepseek-v4-pro", "USD", OFF_PEAK, "0.022", "0.66", "1.98"),
        ("deepseek-v4-pro", "USD", PEAK, "0.044", "1.32", "3.96"),
    ],
)
def test_the_bill_is_exact(
    *, model: str, currency: str, at: datetime, hit: str, miss: str, output: str
) -> None:
    """Each token is charged at the list price of its model, currency and hour, exactly."""
    usage = {
        "prompt_cache_hit_tokens": 1_000_003,
        "prompt_cache_miss_tokens": 200_001,
        "prompt_tokens": 1_200_004,
        "completion_tokens": 30_007,
    }
    with Sandbox(balance="1000", currency=currency, clock=at) as api:
        api.script(Reply(usage=usage))
        answer = post(api, model=model)

        expected = (
            1_000_003 * Decimal(hit) + 200_001 * Decimal(miss) + 30_007 * Decimal(output)
        ) / 1_000_000
        assert answer.json()["usage"] == usage
        assert api.billed == last(api).cost == expected
        assert api.balance == 1000 - expected
        assert last(api).currency == currency


@pytest.mark.parametrize(
    ("when", "peak"),
    [
        ("2026-11-23T00:59:59", False),  # Monday 08:59:59 in Beijing
        ("2026-11-23T01:00:00", True),
        ("2026-11-23T03:59:59", True),
        ("2026-11-23T04:00:00", False),
        ("2026-11-23T05:59:59", False),
        ("2026-11-23T06:00:00", True),
        ("2026-11-23T09:59:59", True),
        ("2026-11-23T10:00:00", False),
        ("2026-11-27T09:00:00", True),  # Friday
        ("2026-11-28T02:00:00", False),  # Saturday
        ("2026-11-29T02:00:00", False),  # Sunday
        ("2026-10-01T02:00:00", False),  # a Thursday, National Day
        ("2026-02-23T02:00:00", False),  # a Monday, the last day of Spring Festival
        ("2026-09-20T02:00:00", False),  # a Sunday that is worked: a weekend all the same
    ],
)
def test_peak_hours_are_those_of_beijing(api: Sandbox, when: str, peak: bool) -> None:
    """Working hours in Beijing cost double; lunch, weekends and public holidays do not."""
    api.change(cache=False)
    post(api)
    off_peak = last(api).cost
    api.set_clock(datetime.fromisoformat(when).replace(tzinfo=UTC))

    post(api)

    assert off_peak
    assert last(api).cost == off_peak * (2 if peak else 1)


@pytest.mark.parametrize(("billed_at", "factor"), [("start", 1), ("end", 2)])
def test_the_band_is_that_of_the_start_unless_told_otherwise(billed_at: Any, factor: int) -> None:
    """A request that runs into peak hours costs what *billed_at* says."""
    before = datetime(2026, 11, 23, 0, 59, 59, tzinfo=UTC)
    with Sandbox(clock=before, billed_at=billed_at, cache=False) as api:
        post(api)
        first = last(api).cost
        api.change(keep_alive=0.02)
        api.script(Reply(latency=1.0))
        held = connect(api)
        read_until(held, b": keep-alive")
        api.set_clock(before + timedelta(seconds=1))
        read_until(held, b"[DONE]")
        held.close()

        assert first
        assert last(api).cost == first * factor


def test_granted_money_goes_first() -> None:
    """A charge takes the grant before the money that was paid in."""
    with Sandbox(balance="3.00", granted="1.00", clock=OFF_PEAK) as api:

        def amounts() -> tuple[str, ...]:
            info = get(api, "/user/balance").json()["balance_infos"][0]
            return tuple(info[f"{name}_balance"] for name in ("total", "granted", "topped_up"))

        assert amounts() == ("3.00", "1.00", "2.00")
        api.script(Reply(usage={"prompt_tokens": 0, "completion_tokens": 200_000}))
        post(api)
        assert amounts() == ("2.20", "0.20", "2.00")
        api.script(Reply(usage={"prompt_tokens": 0, "completion_tokens": 200_000}))
        post(api)
        assert amounts() == ("1.40", "0.00", "1.40")


def test_the_last_answer_is_finished_and_the_balance_stops_at_zero(api: Sandbox) -> None:
    """An answer that costs more than is left arrives whole; then comes the 402, then a top-up."""
    api.balance = "0.0000001"

    answered, refused = post(api), post(api)

    assert answered.json()["choices"][0]["finish_reason"] == "stop"
    assert refused.status_code == 402
    assert api.balance == 0
    assert api.billed > Decimal("0.0000001")
    body = get(api, "/user/balance").json()
    assert body["is_available"] is False
    assert body["balance_infos"][0]["total_balance"] == "0.00"
    assert api.top_up("10.00") == 10
    assert post(api).status_code == 200


def test_the_shown_balance_lags_and_the_402_does_not(api: Sandbox) -> None:
    """A charge shows after *lag* seconds; an empty account is refused at once."""
    api.balance = "0.50"
    api.change(lag=1800)
    api.script(Reply(usage={"prompt_tokens": 0, "completion_tokens": 1_000_000}))
    post(api)

    def shown() -> tuple[bool, str]:
        body = get(api, "/user/balance").json()
        return body["is_available"], body["balance_infos"][0]["total_balance"]

    assert post(api).status_code == 402
    assert shown() == (True, "0.50")
    api.top_up("1.00")
    assert shown() == (True, "1.50")
    api.set_clock(OFF_PEAK + timedelta(seconds=1799))
    assert shown() == (True, "1.50")
    api.set_clock(OFF_PEAK + timedelta(seconds=1800))
    assert shown() == (True, "1.00")


def test_an_account_can_list_both_currencies_in_any_order() -> None:
    """The balance endpoint lists what it is told to; the money that there is pays."""
    with Sandbox(balance="0", other="2.00", listed=("USD", "CNY"), clock=OFF_PEAK) as api:
        rows = get(api, "/user/balance").json()["balance_infos"]
        assert [(row["currency"], row["total_balance"]) for row in rows] == [
            ("USD", "2.00"),
            ("CNY", "0.00"),
        ]
        post(api)
        assert last(api).currency == "USD"
        assert api.billed == 0
        assert api.billed_in("USD") == last(api).cost
        api.change(listed=())
        assert get(api, "/user/balance").json() == {"is_available": True, "balance_infos": []}


def test_money_can_be_there_and_not_available(api: Sandbox) -> None:
    """An account that is not available is refused like an empty one, and shows its money."""
    api.change(available=False)

    body = get(api, "/user/balance").json()

    assert body["is_available"] is False
    assert body["balance_infos"][0]["total_balance"] == "5.00"
    assert post(api).status_code == 402


def test_the_same_input_hits_the_cache_the_second_time(api: Sandbox) -> None:
    """A whole input that was seen before is a hit; a longer one hits as far as it was stored."""

    def hit_and_miss(*messages: dict[str, str], **over: Any) -> tuple[int, int]:
        usage = post(api, messages=list(messages), **over).json()["usage"]
        assert usage["prompt_tokens_details"]["cached_tokens"] == usage["prompt_cache_hit_tokens"]
        return usage["prompt_cache_hit_tokens"], usage["prompt_cache_miss_tokens"]

    system = {"role": "system", "content": "s" * 100}
    first, second, third = ({"role": "user", "content": c * 10} for c in "abc")

    assert hit_and_miss(system, first) == (0, 33)
    assert hit_and_miss(system, first) == (33, 0)
    assert hit_and_miss(system, second) == (0, 33)
    assert hit_and_miss(system, third) == (30, 3)
    assert hit_and_miss(system, first, user_id="someone") == (0, 33)
    assert hit_and_miss(system, first, model="deepseek-v4-pro") == (0, 33)


def test_a_conversation_hits_up_to_its_last_answer(api: Sandbox) -> None:
    """The end of an output is stored too, so that the next turn pays for the new words alone."""
    api.script("x" * 100)
    post(api)
    turns = [*ASK["messages"], {"role": "assistant", "content": "x" * 100}]

    usage = post(api, messages=[*turns, {"role": "user", "content": "y" * 10}]).json()["usage"]

    assert (usage["prompt_cache_hit_tokens"], usage["prompt_cache_miss_tokens"]) == (36, 3)


# What goes wrong


def test_a_script_is_used_in_its_order_and_then_over(api: Sandbox) -> None:
    """Each reply serves one request; afterwards the account answers by itself again."""
    api.script("first", Reply(text="second", reasoning="hm"), 503)

    said = [post(api) for _ in range(4)]

    messages = [one.json()["choices"][0]["message"] for one in said if one.status_code == 200]
    assert [one.status_code for one in said] == [200, 200, 503, 200]
    assert [message["content"] for message in messages[:2]] == ["first", "second"]
    assert messages[1]["reasoning_content"] == "hm"
    assert "sandbox" in messages[2]["content"]


def test_a_standing_reply_stays_until_it_is_taken_back(api: Sandbox) -> None:
    """With forever the last reply stays; a refused request does not use one up."""
    api.script("once", 503, forever=True)
    post(api, b"{")

    before = [post(api).status_code for _ in range(3)]
    api.unscript()

    assert before == [200, 503, 503]
    assert post(api).status_code == 200


@pytest.mark.parametrize(
    ("reply", "status", "kind", "content"),
    [
        (
            Reply(status=429, headers={"Retry-After": "7"}, body="slow down"),
            429,
            "text/plain",
            b"slow down",
        ),
        (Reply(status=402, body=b""), 402, "application/octet-stream", b""),
        (Reply(body="<html>login</html>"), 200, "text/html", b"<html>login</html>"),
        (
            Reply(body={"error": {}}, content_type="text/event-stream"),
            200,
            "text/event-stream",
            b'{"error":{}}',
        ),
        (Reply(status=418, body={"a": 1}), 418, "application/json", b'{"a":1}'),
        (Reply(status=307, headers={"Location": "http://example.com/"}), 307, "text/plain", b""),
    ],
)
def test_any_response_can_be_set(
    api: Sandbox, reply: Reply, status: int, kind: str, content: bytes
) -> None:
    """Status, headers, type and body are sent as given, and nothing is charged."""
    api.script(reply)

    response = post(api)

    assert (response.status_code, response.content) == (status, content)
    assert response.headers["content-type"].startswith(kind)
    assert all(response.headers[name] == value for name, value in reply.headers.items())
    assert api.billed == 0
    assert last(api).status == status


@pytest.mark.parametrize(
    ("reply", "ends"),
    [
        (Reply(after="request", then="close"), "closed"),
        (Reply(after="request", then="reset"), "reset"),
    ],
)
def test_a_connection_can_end_before_the_response(api: Sandbox, reply: Reply, ends: str) -> None:
    """Cut before the headers, nothing arrives and nothing is charged."""
    api.script(reply)

    assert read_all(connect(api)) == (b"", ends)
    assert (last(api).status, last(api).cost, last(api).finished) == (None, None, False)


@pytest.mark.parametrize(("then", "ends"), [("close", "closed"), ("reset", "reset")])
@pytest.mark.parametrize("after", [0, 3, 8, "last"])
def test_a_cut_answer_is_charged_until_the_cut(
    api: Sandbox, then: Any, ends: str, after: Any
) -> None:
    """Cut in the reasoning, the text or the last event: what was generated is charged."""
    api.script(Reply(text="t" * 20, reasoning="r" * 20, after=after, then=then))
    api.change(cache=False)

    data, end = read_all(connect(api))

    tokens = 12 if after == "last" else after
    body = b"".join(unchunked(data))
    assert end == ends
    assert not data.endswith(b"0\r\n\r\n")
    assert body.count(b'"reasoning_content":"r') == min(tokens, 6)
    assert body.count(b'"content":"t') == max(tokens - 6, 0)
    assert body.endswith(b"\n\n") is (after != "last")
    assert last(api).cost == Decimal(6 + 4 * tokens) / 1_000_000
    assert last(api).usage["completion_tokens"] == tokens  # type: ignore[index]
    assert last(api).finished is False


@pytest.mark.parametrize(
    ("then", "done", "finish", "usage", "charged"),
    [
        ("no-done", False, True, True, 12),
        ("no-finish", True, False, False, 12),
        ("no-usage", True, True, False, 12),
        ("end", False, False, False, 4),
        ("garbage", True, True, True, 12),
        ("bytes", True, True, True, 12),
        ("error", False, False, False, 4),
    ],
)
def test_a_stream_can_be_flawed(
    api: Sandbox, *, then: Any, done: bool, finish: bool, usage: bool, charged: int
) -> None:
    """Each flaw leaves out or adds exactly what it says, and the tokens sent are charged."""
    api.script(Reply(text="t" * 20, reasoning="r" * 20, after=4, then=then))

    body = post(api, stream=True).content

    assert (b"data: [DONE]\n\n" in body) is done
    assert (b'"finish_reason":"stop"' in body) is finish
    assert (b'"completion_tokens":12' in body) is usage
    assert (EMPTY in body) is (then == "error")
    assert (b"\xff" in body) is (then == "bytes")
    assert (b'[{"delta"\n\n' in body) is (then == "garbage")
    assert last(api).usage["completion_tokens"] == charged  # type: ignore[index]
    assert last(api).finished is (then not in {"end", "error"})


def test_an_error_before_the_first_token_is_not_charged(api: Sandbox) -> None:
    """An error as the only event is a refusal; its body can be an object or text."""
    api.script(Reply(after=0, then="error"), Reply(after=0, then="error", body={"error": "no"}))

    first, second = post(api, stream=True), post(api, stream=True)

    assert first.content == b"data: " + EMPTY + b"\n\n"
    assert second.content == b'data: {"error":"no"}\n\n'
    assert api.billed == 0
    assert last(api).cost is None


def test_the_official_client_sees_the_failures_that_are_known(api: Sandbox) -> None:
    """The failures have the exceptions of the fact sheet: they are the real thing."""
    older = openai.__version__.startswith("2.")  # which lets what httpx says through
    cut = httpx.RemoteProtocolError if older else openai.APIConnectionError
    reset = httpx.ReadError if older else openai.APIConnectionError
    silent_for_long = httpx.ReadTimeout if older else openai.APITimeoutError
    cases: list[tuple[Reply, type[Exception]]] = [
        (Reply(status=402), openai.APIStatusError),
        (Reply(after=4, then="error"), openai.APIError),
        (Reply(after=4, then="close"), cut),
        (Reply(after=4, then="reset"), reset),
        (Reply(after=4, then="stall"), silent_for_long),
        (Reply(after=4, then="garbage"), json.JSONDecodeError),
        (Reply(status=503), openai.InternalServerError),
        (Reply(status=429), openai.RateLimitError),
    ]
    with client(api, timeout=1.0) as sync:
        for reply, kind in cases:
            api.script(reply)
            with pytest.raises(kind):
                list(sync.chat.completions.create(**ASK, stream=True))
        api.script(Reply(after=4, then="end"))
        silent = list(sync.chat.completions.create(**ASK, stream=True))

    assert len(silent) == 5


@pytest.mark.parametrize("reason", ["insufficient_system_resource", "content_filter", "length"])
def test_an_answer_can_end_for_another_reason(api: Sandbox, reason: str) -> None:
    """The answer stops after so many tokens and says why."""
    api.script(Reply(finish_reason=reason, after=5))

    got = chunks(post(api, stream=True))

    assert got[-1]["choices"][0]["finish_reason"] == reason
    assert len(got) == 7


def test_an_answer_can_be_empty(api: Sandbox) -> None:
    """An empty text with a proper end can be had."""
    api.script(Reply(text="", reasoning=""))

    choice = post(api).json()["choices"][0]

    assert (choice["message"]["content"], choice["finish_reason"]) == ("", "stop")


@pytest.mark.parametrize(
    "then", ["close", "reset", "end", "garbage", "bytes", "no-usage", "no-finish", "error"]
)
def test_a_whole_answer_can_be_flawed_too(api: Sandbox, then: Any) -> None:
    """Without streaming the same failures break the one JSON object."""
    api.script(Reply(text="t" * 20, reasoning="r" * 20, after=4, then=then))

    data, _ = read_all(connect(api, stream=False)) if then in {"close", "reset"} else (b"", "")
    body = b"".join(unchunked(data)) if data else post(api, stream=False).content

    try:
        parsed = json.loads(body)
    except ValueError:
        assert then in {"close", "reset", "end", "garbage", "bytes"}
    else:
        assert then in {"no-usage", "no-finish", "error"}
        assert ("usage" in parsed) is (then == "no-finish")
        assert ("error" in parsed) is (then == "error")


def test_silence_lasts_until_the_client_leaves(api: Sandbox) -> None:
    """A stalled answer stays open and silent, or shows keep-alives; it is charged so far."""
    api.change(keep_alive=0.02)
    api.script(Reply(after=4, then="stall"), Reply(after=4, then="keep-alive"))

    with closing(connect(api)) as silent, closing(connect(api)) as alive:
        read_until(alive, b": keep-alive\n\n")
        silent.settimeout(0.2)
        heard = b""
        with contextlib.suppress(TimeoutError):
            while more := silent.recv(65_536):
                heard += more
        assert heard
        assert b"keep-alive" not in heard
    assert api.wait_idle()

    assert [row.usage["completion_tokens"] for row in api.requests] == [4, 4]  # type: ignore[index]
    assert [row.client_gone for row in api.requests] == [True, True]


def test_waiting_shows_signs_of_life(api: Sandbox) -> None:
    """A late stream begins with comments, a late whole answer with empty lines."""
    api.change(latency=0.2, keep_alive=0.03)

    streamed, whole = post(api, stream=True), post(api)

    assert streamed.content.startswith(b": keep-alive\n\n: keep-alive\n\n")
    assert whole.content.startswith(b"\n\n")
    assert whole.json()["choices"]


def test_a_client_that_leaves_is_charged_for_what_was_generated(api: Sandbox) -> None:
    """Leaving in the middle costs the input and the tokens until then, no more."""
    api.change(speed=50, cache=False)
    api.script(Reply(text="t" * 10_000, reasoning=""))
    connection = connect(api)
    read_until(connection, b'"content":"t')
    connection.close()

    left = last(api)

    assert left.usage
    assert 0 < left.usage["completion_tokens"] < 3000
    assert left.cost == Decimal(6 + 4 * left.usage["completion_tokens"]) / 1_000_000
    assert (left.finished, left.client_gone) == (False, True)


def test_pieces_arrive_cut_anywhere(api: Sandbox) -> None:
    """With *split* the writes cut through characters and lines, and the bytes stay the same."""
    api.script(Reply(pieces=("你好", "", "\n世界"), reasoning="", split=3))

    got = unchunked(read_all_of(connect(api)))

    assert {len(part) for part in got[:-2]} == {3}
    text = b"".join(got).decode()
    events = [json.loads(line[6:]) for line in text.split("\n") if line.startswith("data: {")]
    said = [event["choices"][0]["delta"]["content"] for event in events]
    assert said == [None, "你好", "", "\n世界", ""]
    assert events[-1]["usage"]["completion_tokens"] == 3


def read_all_of(connection: socket.socket) -> bytes:
    with closing(connection):
        return read_until(connection, b"0\r\n\r\n")


def test_lines_can_end_otherwise_and_have_things_between(api: Sandbox) -> None:
    """CRLF ends, blank lines and comments between events are as set."""
    api.script(Reply(text="hello", newline="\r\n", padding="\r\n: hm\r\n\r\n"))

    body = post(api, stream=True).content

    assert b"\n\n" not in body
    assert body.endswith(b"data: [DONE]\r\n\r\n\r\n: hm\r\n\r\n")
    with client(api) as sync:
        api.script(Reply(text="hello", newline="\r\n", padding="\r\n: hm\r\n\r\n"))
        stream = sync.chat.completions.create(**ASK, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "hello"


def test_the_balance_can_fail_as_well(api: Sandbox) -> None:
    """The other paths have scripts of their own: a status, a page, nonsense, a cut, silence."""
    path = "/user/balance"
    api.script(503, 500, Reply(then="garbage"), Reply(then="close"), Reply(then="stall"), path=path)

    assert get(api, path).status_code == 503
    assert "<html>" in get(api, path).text
    assert get(api, path).text == '{"is_available": tr'
    with pytest.raises(httpx.RemoteProtocolError):
        get(api, path)
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(
            api.base_url + path, headers={"authorization": f"Bearer {api.api_key}"}, timeout=0.3
        )
    assert get(api, path).status_code == 200
    assert post(api).status_code == 200


@pytest.mark.parametrize(
    "wrong",
    [
        {"after": "request"},
        {"after": "request", "then": "error"},
        {"after": "last", "then": "no-done"},
        {"after": -1},
        {"text": "a", "pieces": ("a",)},
        {"split": 0},
    ],
)
def test_a_reply_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    """What could not happen is an error where it is written."""
    with pytest.raises(ValueError, match=r"after|pieces|split"):
        Reply(**wrong)


# The page


def test_the_page_tops_up(api: Sandbox) -> None:
    """A payment is added once and confirmed, on a page that says that nothing is real."""
    with httpx.Client(follow_redirects=True) as browser:
        page = browser.get(api.top_up_url)
        token = page.text.partition('name="token" value="')[2].partition('"')[0]
        paid = browser.post(f"{api.base_url}/top_up", data={"token": token, "amount": "10"})
        again = browser.get(paid.url)

    assert "No real money moves" in page.text
    assert "5.00 CNY" in page.text
    assert "Topped up 10.00 CNY. Go back to your notebook and click Re-run cell" in paid.text
    assert again.status_code == 200
    assert api.balance == 15
    assert list(api.traffic) == []
    assert "default-src 'none'" in page.headers["content-security-policy"]


@pytest.mark.parametrize("amount", ["", "0", "-5", "x", "1.005", "NaN", "1e9", "<b>"])
def test_the_page_takes_no_odd_amounts(api: Sandbox, amount: str) -> None:
    """What is no amount is said so, and nothing is topped up."""
    response = httpx.post(
        api.top_up_url.replace("?", "?x="),
        data={"token": api.top_up_url.rpartition("=")[2], "amount": amount},
    )

    assert response.status_code == 400
    assert "Nothing was topped up" in response.text
    assert api.balance == 5


@pytest.mark.parametrize(
    ("accepted", "language"),
    [
        ("", "en"),
        ("*", "en"),
        ("de-DE,de;q=0.9", "en"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("ZH-hans", "zh"),
        ("fr, zh;q=0.5, en;q=0.4", "zh"),
        ("zh;q=0.4, en-GB;q=0.5", "en"),
        ("en,zh", "en"),
        ("zh;q=0", "en"),
        ("zh;q=x", "en"),
    ],
)
def test_the_page_speaks_the_language_of_the_browser(accepted: str, language: str) -> None:
    """It is the one that the browser likes best, of English and Chinese; else English."""
    assert sandbox_page.language_of(accepted) == language


def test_the_page_is_chinese_for_who_wants_it(api: Sandbox) -> None:
    """The whole page is, and so is what it says of a payment, made or not."""
    chinese = {"accept-language": "zh-CN,zh;q=0.9,en;q=0.8"}
    with httpx.Client(follow_redirects=True, headers=chinese) as browser:
        page = browser.get(api.top_up_url)
        form = {"token": api.top_up_url.rpartition("=")[2], "amount": "10"}
        paid = browser.post(f"{api.base_url}/top_up", data=form)
        unpaid = browser.post(f"{api.base_url}/top_up", data={**form, "amount": "-1"})
    bare = re.sub(r"<style>.*?</style>|<[^>]*>|&\w+;", "", page.text, flags=re.DOTALL)

    assert '<html lang="zh">' in page.text
    assert "不涉及真实资金" in page.text
    assert "金额（CNY）" in page.text
    assert "已充值 10.00 CNY。请回到笔记本，点击“重新运行单元格”" in paid.text
    assert "没有充值" in unpaid.text
    assert set(re.findall(r"[A-Za-z]+", bare)) == {"CNY", "DeepSeek"}


def test_both_languages_of_the_page_say_the_same() -> None:
    """They have the same texts, with the same places to fill in."""
    english, chinese = (
        {name: re.findall(r"\{\w+\}|</?\w+>", text) for name, text in texts.items()}
        for texts in (sandbox_page.WORDS["en"], sandbox_page.WORDS["zh"])
    )

    assert english == chinese


def test_other_pages_of_the_browser_cannot_top_up(api: Sandbox) -> None:
    """Without the token, or under another host name, the page is closed."""
    token = api.top_up_url.rpartition("=")[2]
    url = f"{api.base_url}/top_up"

    answers = [
        httpx.get(url),
        httpx.post(url, data={"amount": "10", "token": "guess"}),
        httpx.post(url, data={"amount": "10", "token": token}, headers={"host": "evil.example"}),
        httpx.get(api.top_up_url, headers={"host": f"evil.example:{api.port}"}),
    ]

    assert [answer.status_code for answer in answers] == [403] * 4
    assert api.balance == 5


# The account as an object


def test_requests_are_recorded_without_the_key(api: Sandbox) -> None:
    """The record has what was asked and what it cost; its repr holds no key."""
    post(api, user_id="me")
    get(api, "/user/balance")
    get(api, "/models", "sk-wrong")

    asked, read, refused = api.traffic
    assert list(api.requests) == [asked]
    assert (asked.method, asked.path, asked.status) == ("POST", "/chat/completions", 200)
    assert asked.body == {**ASK, "user_id": "me"}
    assert asked.at == OFF_PEAK
    assert asked.headers["authorization"] == f"Bearer {api.api_key}"
    assert (asked.finished, asked.client_gone, asked.cost) == (True, False, api.billed)
    assert (read.body, read.cost, refused.status) == (None, None, 401)
    assert api.traffic[-2:] == [read, refused]
    assert api.api_key not in repr(api.traffic) + repr(api)
    api.requests.clear()
    assert len(api.requests) == 0
    assert list(api.traffic) == [read, refused]
    api.traffic.clear()
    assert len(api.traffic) == 0


def test_the_record_can_be_bounded() -> None:
    """With *keep_requests* only the newest stay, and the bill counts all."""
    with Sandbox(keep_requests=2, clock=OFF_PEAK, cache=False) as api:
        for _ in range(4):
            post(api)

        assert len(api.requests) == 2
        assert api.billed == sum(row.cost or 0 for row in api.requests) * 2


def test_many_threads_are_charged_exactly(api: Sandbox) -> None:
    """Requests at once from many threads leave one exact bill."""
    threads = [threading.Thread(target=lambda: [post(api) for _ in range(5)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(api.requests) == 40
    assert api.billed == sum(row.cost or 0 for row in api.requests)
    assert api.balance == 5 - api.billed


def test_starting_and_closing_twice_is_harmless() -> None:
    """It starts once, ends once, and comes back on the same port with the same money."""
    before = set(threading.enumerate())
    api = Sandbox()
    with pytest.raises(RuntimeError, match="Start it"):
        _ = api.base_url
    port = api.start().port
    assert api.start().port == port
    post(api)
    held = connect(api)
    read_until(held, b"[DONE]")
    api.script(Reply(after=3, then="stall"))
    stalled = connect(api)
    read_until(stalled, b"content")
    api.close()
    api.close()

    assert set(threading.enumerate()) == before
    assert stalled.recv(65_536) is not None
    assert api.requests[-1].client_gone is False
    with pytest.raises(httpx.ConnectError):
        post(api)
    with api:
        assert api.port == port
        assert get(api, "/models").status_code == 200
    held.close()
    stalled.close()


def test_it_starts_inside_a_running_loop() -> None:
    """In a notebook a loop runs already; the sandbox has its own."""

    async def cell() -> int:
        with Sandbox() as api:
            async with httpx.AsyncClient() as http:
                return (await http.get(api.base_url + "/models")).status_code

    assert asyncio.run(cell()) == 401


@pytest.mark.parametrize("host", ["0.0.0.0", "", "::", "192.168.0.1", "localhost"])  # noqa: S104
def test_it_listens_nowhere_else(host: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Any host but 127.0.0.1 is refused with the reason."""
    with pytest.raises(ValueError, match="Nothing was started"):
        Sandbox(host=host)


@pytest.mark.parametrize(
    "wrong",
    [
        {"balance": "-1"},
        {"balance": 0.05},
        {"balance": "ten"},
        {"currency": "EUR"},
        {"granted": "9"},
        {"speed": 0},
        {"latency": -1},
        {"billed_at": "noon"},
        {"clock": datetime(2026, 1, 1)},  # noqa: DTZ001
        {"listed": ("EUR",)},
    ],
)
def test_a_wrong_option_is_said_at_once(wrong: dict[str, Any]) -> None:
    """An option that cannot be is an error where the sandbox is made."""
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}|currency"):
        Sandbox(**{"balance": "5", **wrong})


def test_an_unknown_option_is_no_option(api: Sandbox) -> None:
    """A misspelt rule or attribute is an error, not ignored."""
    with pytest.raises(TypeError):
        api.change(latencies=3)
    with pytest.raises(AttributeError):
        api.latency = 3  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="Nothing is set"):
        api.script("x", path="/nowhere")


def test_broken_http_is_not_a_fault_of_ours(
    api: Sandbox, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Half a request, or bytes that are no HTTP, end that connection and nothing else."""
    for data in (
        b"POST /chat/completions HTTP/1.1\r\nContent-Length: 50\r\n\r\n{",
        b"POST /chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{",
        b"\xff\x00 hello\r\n\r\n",
    ):
        with closing(socket.create_connection(("127.0.0.1", api.port))) as connection:
            connection.sendall(data)

    assert get(api, "/models").status_code == 200
    assert api.wait_idle()
    assert [row for row in caplog.records if row.levelno >= logging.ERROR] == []
    assert capfd.readouterr().err == ""


# The command


def serve(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "deepseek_magic.sandbox", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_until_it_is_told_to_end(ending: signal.Signals) -> None:
    """It prints address, key, page and the lines to paste; a signal ends it without noise."""
    with serve(
        "--balance", "0.05", "--currency", "USD", "--key", "sk-mine", "--granted", "0.01"
    ) as process:
        assert process.stdout
        lines = [process.stdout.readline() for _ in range(12)]
        said = "".join(lines)
        address = said.partition("export DEEPSEEK_BASE_URL=")[2].split()[0]
        body = httpx.get(
            f"{address}/user/balance", headers={"authorization": "Bearer sk-mine"}
        ).json()
        process.send_signal(ending)
        out, err = process.communicate(timeout=20)

    assert body["balance_infos"][0]["granted_balance"] == "0.01"
    assert "export DEEPSEEK_API_KEY=sk-mine" in said
    assert f"{address}/top_up?token=" in said
    assert (process.returncode, err) == (0, "")
    assert "ended" in said + out


@pytest.mark.parametrize(
    "arguments",
    [["--host", "0.0.0.0"], ["--balance", "lots"], ["--granted", "99"]],  # noqa: S104
)
def test_the_command_says_in_one_line_why_it_does_not_start(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong argument is one line and a failing status."""
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        status = main(arguments)
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), handlers, strict=True):
            signal.signal(number, handler)

    err = capsys.readouterr().err
    assert status == 2
    assert err.startswith("The sandbox did not start: ")
    assert err.count("\n") == 1


def test_a_port_that_is_taken_is_said(api: Sandbox) -> None:
    """Two accounts on one port: the second does not start, and leaves nothing behind."""
    before = threading.active_count()

    with pytest.raises(OSError, match="in use"):
        Sandbox(port=api.port).start()

    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("question", "answers"),
    [
        ("这条评论是正面还是负面？用一个词回答。很好", {"正面", "负面"}),
        ("这封信属于：投诉、表扬或询问？只回答一个词。", {"投诉", "表扬", "询问"}),
    ],
)
def test_a_label_in_chinese(api: Sandbox, question: str, answers: set[str]) -> None:
    """A short question in Chinese gets one of its labels."""
    got = post(api, messages=[{"role": "user", "content": question}]).json()

    assert got["choices"][0]["message"]["content"] in answers


def test_an_answer_in_chinese(api: Sandbox) -> None:
    """A question in Chinese is answered in Chinese, and says where the answer comes from."""
    got = post(api, messages=[{"role": "user", "content": "为什么天是蓝的？"}]).json()

    message = got["choices"][0]["message"]
    assert message["content"].startswith("**为什么天是蓝的？**")
    assert "这个回答来自*沙盒*" in message["content"]
    assert "这里没有模型" in message["reasoning_content"]
