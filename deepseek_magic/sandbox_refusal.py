"""How the simulated account says no: the bodies of the API's errors, and when they apply."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

from .sandbox_images import faults, images_of

MODELS = ("deepseek-flash", "deepseek-v4-pro")
ALIASES: Mapping[str, str] = MappingProxyType(
    {"deepseek-v4-flash": "deepseek-flash", "deepseek-v4-flash-vision-exp": "deepseek-flash"}
)
CONTEXT_WINDOW = 1_048_576
MAX_OUTPUT = 393_216
MAX_STOPS = 16
MAX_TOOLS = 128
MAX_USER_ID = 512
EFFORTS: Mapping[str, str] = MappingProxyType(
    {
        "minimal": "low",
        "low": "low",
        "medium": "high",
        "high": "high",
        "xhigh": "high",
        "max": "max",
        "ultra": "max",
    }
)
_ROLES = ("system", "user", "assistant", "tool", "latest_reminder")
_UNREADABLE = "Failed to deserialize the JSON body into the target type: "
_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")

INSUFFICIENT_BALANCE = "Insufficient Balance"
NO_SUCH_USER = "Authentication Fails (no such user)"
WRONG_HEADER = "Authentication Fails (auth header format should be Bearer sk-...)"
NO_IMAGES = "This model does not support image"
CONTENT_RISK = "Content Exists Risk"
TOO_BUSY = (
    "Service is too busy. We advise users to temporarily switch to alternative LLM API "
    "service providers."
)
_ERROR_PAGE = (
    "<html>\r\n<head><title>{status} {phrase}</title></head>\r\n<body>\r\n"
    "<center><h1>{status} {phrase}</h1></center>\r\n<hr><center>openresty</center>\r\n"
    "</body>\r\n</html>\r\n"
)


def model_rows() -> list[dict[str, Any]]:
    """Give the rows of `GET /models`; aliases are not listed."""
    shown = (
        ("deepseek-flash", "DeepSeek-V4.1-Flash", ["text", "image"]),
        ("deepseek-v4-pro", "DeepSeek-V4-Pro", ["text"]),
    )
    return [
        {
            "id": model,
            "object": "model",
            "owned_by": "deepseek",
            "name": name,
            "context_window": CONTEXT_WINDOW,
            "max_output_tokens": MAX_OUTPUT,
            "input_modalities": modalities,
            "output_modalities": ["text"],
            "effort": {"supported_levels": ["low", "high", "max"], "default_level": "high"},
        }
        for model, name, modalities in shown
    ]


def error_body(
    message: str, kind: str = "invalid_request_error", code: str = "invalid_request_error"
) -> dict[str, Any]:
    """Give the body in which the API wraps every error."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def documented(status: int) -> dict[str, Any] | str:
    """Give what the API is known to send with *status*; text is an HTML page."""
    phrase = HTTPStatus(status).phrase
    if 300 <= status < 400:
        return ""
    if status in {500, 502, 504}:
        return _ERROR_PAGE.format(status=status, phrase=phrase)
    unavailable = "service_unavailable_error"
    known = {
        400: error_body(CONTENT_RISK),
        401: wrong_key("sk-00000000000000000000000000000000"),
        402: error_body(INSUFFICIENT_BALANCE, "unknown_error"),
        429: over_concurrency(2501, 2500),
        503: error_body(TOO_BUSY, unavailable, unavailable),
    }
    return known.get(status) or error_body(phrase)


def wrong_key(key: str) -> dict[str, Any]:
    """Give the 401 for a key that no account has."""
    message = f"Authentication Fails, Your api key: ****{key[-4:]} is invalid"
    return error_body(message, "authentication_error")


def refused_header(text: str) -> dict[str, Any]:
    """Give a 401 with the words *text*."""
    return error_body(text, "authentication_error")


def over_concurrency(current: int, limit: int) -> dict[str, Any]:
    """Give the 429 of an account with too many requests at once."""
    return error_body(
        f"Too many requests. Your current concurrency is {current}, which exceeds your "
        f"concurrency limit of {limit}.",
        "rate_limit_error",
    )


def over_balance_concurrency(current: int, limit: int) -> dict[str, Any]:
    """Give the 429 of an account whose money allows no more requests at once."""
    return error_body(
        f"Too many requests. Your current concurrency is {current}, which exceeds your "
        f"concurrency limit of {limit} based on your remaining balance. Please top up your "
        "balance to restore your concurrency.",
        "rate_limit_error",
    )


def model_of(body: Mapping[str, Any]) -> str:
    """Name the model that answers *body*, which has passed `fault`."""
    return ALIASES.get(body["model"], str(body["model"]))


def too_long(prompt: int, completion: int) -> str | None:
    """Say that a prompt does not fit into the context window; None when it does."""
    if prompt + completion <= CONTEXT_WINDOW:
        return None
    return (
        f"This model's maximum context length is {CONTEXT_WINDOW} tokens. However, you requested "
        f"{prompt + completion} tokens ({prompt} in the messages, {completion} in the "
        "completion). Please reduce the length of the messages or completion."
    )


def fault(body: object, size: int, *, beta: bool) -> str | None:
    """Say the first thing that is wrong with the *body* of a chat request; None when nothing is.

    *size* is its length in bytes. *beta* is whether it came to the beta address.
    """
    if not isinstance(body, dict):
        return (
            f"{_UNREADABLE}invalid type, expected struct ChatCompletionRequest at line 1 column 1"
        )
    at = f" at line 1 column {size}"
    unreadable = next(_unreadable(body), None)
    if unreadable:
        return f"{_UNREADABLE}{unreadable}{at}"
    return next(_unusable(body, beta=beta), None)


def _unreadable(body: Mapping[str, Any]) -> Iterator[str]:
    for name in ("model", "messages"):
        if name not in body:
            yield f"missing field `{name}`"
    if not isinstance(body.get("model"), str):
        yield "model: invalid type, expected a string"
    messages = body.get("messages")
    if not isinstance(messages, list):
        yield "messages: invalid type, expected a sequence"
        return
    for number, message in enumerate(messages):
        yield from (f"messages[{number}]{wrong}" for wrong in _unreadable_message(message, body))
    for name, kind in (("stream", bool), ("max_tokens", int), ("user_id", str)):
        value = body.get(name)
        if value is not None and (not isinstance(value, kind) or type(value) is bool is not kind):
            yield f"{name}: invalid type, expected {kind.__name__}"
    for name in ("temperature", "top_p", "frequency_penalty", "presence_penalty"):
        if not (body.get(name) is None or _is_number(body[name])):
            yield f"{name}: invalid type, expected f64"
    yield from _unreadable_settings(body)


def _unreadable_message(message: object, body: Mapping[str, Any]) -> Iterator[str]:
    if not isinstance(message, dict):
        yield ": invalid type, expected a map"
        return
    role, content = message.get("role"), message.get("content")
    if role not in _ROLES:
        expected = ", ".join(f"'{name}'" for name in _ROLES)
        yield f": unknown variant '{role}', expected one of {expected}"
    if not isinstance(message.get("reasoning_content", ""), str | None):
        yield ".reasoning_content: invalid type, expected a string"
    sees_images = ALIASES.get(str(body.get("model")), body.get("model")) == "deepseek-flash"
    if isinstance(content, list):
        yield from _unreadable_parts(content)
        if not sees_images and not images_of(content):
            yield ": invalid type: sequence, expected a string"
    elif not (isinstance(content, str) or (content is None and role == "assistant")):
        yield ": invalid type, expected a string"


def _unreadable_parts(parts: list[Any]) -> Iterator[str]:
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            continue
        image = part.get("image_url") if kind == "image_url" else None
        if not (isinstance(image, dict) and isinstance(image.get("url"), str)):
            yield ".content: expected a `text` or an `image_url` part"


def _unreadable_settings(body: Mapping[str, Any]) -> Iterator[str]:
    for name in ("thinking", "response_format", "stream_options"):
        if not isinstance(body.get(name) or {}, dict):
            yield f"{name}: invalid type, expected a map"
            return
    kind = (body.get("thinking") or {}).get("type", "enabled")
    if kind not in {"enabled", "disabled"}:
        yield f"thinking.type: unknown variant '{kind}', expected 'enabled' or 'disabled'"
    effort = body.get("reasoning_effort")
    if effort is not None and effort not in EFFORTS:
        expected = ", ".join(f"'{name}'" for name in EFFORTS)
        yield f"reasoning_effort: unknown variant '{effort}', expected one of {expected}"
    stop = body.get("stop") or []
    if not (isinstance(stop, str) or _all_text(stop)):
        yield "stop: invalid type, expected a string or a sequence of strings"


def _unusable(body: Mapping[str, Any], *, beta: bool) -> Iterator[str]:
    if ALIASES.get(body["model"], body["model"]) not in MODELS:
        yield (
            f"The supported API model names are {', '.join(MODELS)}, but you passed {body['model']}"
        )
    if not body["messages"]:
        yield "Empty input messages"
        return
    yield from _unusable_images(body)
    yield from _out_of_range(body)
    kind = (body.get("response_format") or {}).get("type", "text")
    if kind not in {"text", "json_object"}:
        yield "This response_format type is unavailable now"
    if not isinstance(body.get("stop"), str) and len(body.get("stop") or []) > MAX_STOPS:
        yield f"Invalid stop value, at most {MAX_STOPS} stop strings are supported"
    if len((body.get("user_id") or "").encode()) > MAX_USER_ID:
        yield f"Invalid user_id value, at most {MAX_USER_ID} bytes are supported"
    last = body["messages"][-1]
    if last.get("prefix") and not beta:
        yield "The prefix of an assistant message is only available with base_url .../beta"
    if last.get("prefix") and last["role"] != "assistant":
        yield "Only a last message of the role assistant can be a prefix"
    yield from _unusable_tools(body)
    if body.get("logprobs"):
        yield "This sandbox has no logprobs"


def _unusable_images(body: Mapping[str, Any]) -> Iterator[str]:
    """Say what the guide on vision says of requests with pictures (api-docs.deepseek.com)."""
    with_images = [m for m in body["messages"] if images_of(m.get("content"))]
    if with_images and model_of(body) != "deepseek-flash":
        yield NO_IMAGES
    if any(message["role"] != "user" for message in with_images):
        yield "Images are supported in user messages only"
    yield from faults(body)


def _out_of_range(body: Mapping[str, Any]) -> Iterator[str]:
    ranges = (("max_tokens", 1, MAX_OUTPUT), ("temperature", 0, 2), ("top_p", 0, 1))
    for name, low, high in ranges:
        value = body.get(name)
        if value is not None and not low <= value <= high:
            yield f"Invalid {name} value, the valid range of {name} is [{low}, {high}]"


def _unusable_tools(body: Mapping[str, Any]) -> Iterator[str]:
    tools = body.get("tools") or []
    if not isinstance(tools, list) or len(tools) > MAX_TOOLS:
        yield f"Invalid tools value, at most {MAX_TOOLS} functions are supported"
        return
    for tool in tools:
        function = tool.get("function") if isinstance(tool, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if not (isinstance(name, str) and _TOOL_NAME.fullmatch(name)):
            yield f"Invalid tool name {name!r}, expected {_TOOL_NAME.pattern}"
    if tools and body.get("tool_choice", "auto") not in {"auto", "none"}:
        yield "This sandbox does not call tools; leave tool_choice at 'auto' or 'none'"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _all_text(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
