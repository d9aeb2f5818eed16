"""What the simulated account answers.

Nothing here is a model. The same question always gets the same answer, and the
answer says where it comes from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, cycle, islice
from textwrap import shorten
from typing import Any
from zlib import crc32

from .sandbox_images import images_of
from .sandbox_refusal import MAX_OUTPUT
from .sandbox_texts import texts_for
from .sandbox_tokens import Parts, pieces, text_of

BLANKS = 8192


@dataclass(frozen=True, slots=True)
class Draft:
    """An answer before it is sent, token by token."""

    reasoning: Parts
    text: Parts
    finish_reason: str
    thinks: bool

    def __len__(self) -> int:
        return len(self.reasoning) + len(self.text)

    def parts(self, start: int, end: int) -> Iterator[tuple[str, bool]]:
        """Give tokens *start* to *end*, each with whether it is reasoning."""
        thought = len(self.reasoning)
        yield from ((part, True) for part in self.reasoning[start:end])
        yield from (
            (part, False) for part in self.text[max(start - thought, 0) : max(end - thought, 0)]
        )


def draft(
    body: Mapping[str, Any],
    effort: str,
    *,
    text: str | None = None,
    reasoning: str | None = None,
    text_pieces: Parts | None = None,
    tokens: int | None = None,
    reasoning_tokens: int | None = None,
    finish_reason: str = "stop",
) -> Draft:
    """Compose the answer to *body*, or lay out the one that is given."""
    thinks, begun = _thinks(body), prefix_of(body)
    thought = pieces(_reasoning(body, effort) if reasoning is None else reasoning)
    if reasoning_tokens is not None:
        thought = _stretched(thought, reasoning_tokens)
    # A beginning comes after all thinking, be it given with it or not.
    thought = thought if thinks and begun is None else ()
    blank = text is None and text_pieces is None and _asks_for_blanks(body)
    limit = body.get("max_tokens") or (BLANKS if blank else MAX_OUTPUT)
    said = text_pieces or pieces(_text(body) if text is None else text)
    if tokens is not None:
        said = _stretched(said, tokens)
    said = (" ",) * (limit + 1) if blank else _before_stop(said, body.get("stop"))
    if begun and (whole := "".join(said)).startswith(begun):
        said = pieces(whole.removeprefix(begun))
    reason = finish_reason if len(thought) + len(said) <= limit else "length"
    thought = thought[:limit]
    return Draft(thought, said[: limit - len(thought)], reason, thinks)


def prefix_of(body: Mapping[str, Any]) -> str | None:
    """Give the beginning that the answer to *body* is to go on from; None where there is none."""
    last = body["messages"][-1]
    if last["role"] != "assistant" or not last.get("prefix"):
        return None
    return text_of(last.get("content"))


def _thinks(body: Mapping[str, Any]) -> bool:
    return bool((body.get("thinking") or {}).get("type", "enabled") == "enabled")


def _stretched(parts: Parts, tokens: int) -> Parts:
    return tuple(islice(cycle(parts or ("and ",)), tokens))


def _before_stop(parts: Parts, stop: str | Sequence[str] | None) -> Parts:
    stops = [stop] if isinstance(stop, str) else list(stop or [])
    whole = "".join(parts)
    end = min((at for one in stops if one and (at := whole.find(one)) >= 0), default=None)
    if end is None:
        return parts
    starts = accumulate(map(len, parts), initial=0)
    return tuple(
        part[: end - start] for start, part in zip(starts, parts, strict=False) if start < end
    )


def _wants_json(body: Mapping[str, Any]) -> bool:
    return bool((body.get("response_format") or {}).get("type") == "json_object")


def _asks_for_blanks(body: Mapping[str, Any]) -> bool:
    """JSON mode without the word in the prompt: the API warns of endless white space."""
    return _wants_json(body) and "json" not in _whole_prompt(body).lower()


def _whole_prompt(body: Mapping[str, Any]) -> str:
    asked = body["messages"][:-1] if prefix_of(body) is not None else body["messages"]
    return "\n".join(text_of(message.get("content")) for message in asked)


def _question(body: Mapping[str, Any]) -> str:
    asked = [m for m in body["messages"] if m["role"] == "user"] or body["messages"]
    return text_of(asked[-1].get("content"))


def _pictures(body: Mapping[str, Any]) -> str:
    """Say which pictures came with the last message; "" where there are none."""
    number = len(images_of(body["messages"][-1].get("content")))
    texts = texts_for(_question(body))
    if number < 2:
        return texts.one_picture if number else ""
    return texts.pictures.format(number=number)


def _subject(question: str) -> str:
    """Name what *question* is about in a few words that are safe inside Markdown."""
    line = next((line for line in question.splitlines() if line.strip()), "")
    plain = " ".join(
        re.sub(r"[^\w\s'?,.:;%€+=/()，。：；、？！“”（）-]", "", line).replace("_", " ").split()
    )
    return shorten(plain, 60, placeholder="…") or texts_for(question).nameless


def _reasoning(body: Mapping[str, Any], effort: str) -> str:
    question = _question(body)
    first, *rest = texts_for(question).thoughts
    thoughts = (first.format(subject=_subject(question)), *rest)
    if _labels(body) is not None:
        return thoughts[0]
    return "".join({"low": thoughts[:1], "high": thoughts[:3], "max": thoughts * 2}[effort])


def _text(body: Mapping[str, Any]) -> str:
    own, begun = _own_text(body), prefix_of(body)
    return _continued(begun) if begun and not own.startswith(begun) else own


def _own_text(body: Mapping[str, Any]) -> str:
    if _wants_json(body):
        return json.dumps(_json_answer(body), ensure_ascii=False, indent=2)
    if (label := _labels(body)) is not None:
        return label
    return _essay(_question(body), _pictures(body))


def _continued(start: str) -> str:
    if start.count("```") % 2:
        return 'print("written by the sandbox, not by a model")\n```\n'
    return texts_for(start).goes_on


_SHORT = re.compile(
    r"\b(label|classify|categori[sz]e|sentiment|(one|single) (word|letter|number)|yes or no|"
    r"true or false|only (the|one)|nothing else)\b"
    "|一个词|一个字|分类|标签|是或否|只回答|情感",
    re.IGNORECASE,
)
_CHOICES = re.compile(
    r"(?:\b(?:as|of|into|either|with)\b|:)\s*['\"]?"
    r"(\w[\w-]*['\"]?(?:\s*(?:,\s*or\b|,|/|\||\bor\b)\s*['\"]?\w[\w-]*['\"]?)+)",
    re.IGNORECASE,
)

_ALTERNATIVES = re.compile(
    r"\b(\w+(?:\s*,\s*\w+)*\s*,?\s*\bor\s+\w+)"
    r"|[是为于：:]((?:[\u4e00-\u9fff]{1,4}、)*[\u4e00-\u9fff]{1,4}?(?:还是|或者|或)[\u4e00-\u9fff]{1,4})",
    re.IGNORECASE,
)


def _labels(body: Mapping[str, Any]) -> str | None:
    """Choose one of the labels that a short question offers; None for other questions."""
    question = _question(body)
    prompt = _whole_prompt(body)
    if len(question) > 4000 or not _SHORT.search(prompt):
        return None
    offered = _CHOICES.search(prompt) or _ALTERNATIVES.search(prompt)
    text = "yes or no" if "yes or no" in prompt.lower() else "sandbox"
    if offered is not None:
        text = next(filter(None, offered.groups()))
    parts = re.split(r",\s*or\b|,|/|\||\bor\b|、|还是|或者|或", text)
    choices = [choice for part in parts if (choice := part.strip(" '\""))]
    return choices[crc32(question.encode()) % len(choices)]


_EXTRAS = (
    (r"\b(code|python|function|script|sql|program)\b|代码|函数|程序", "code"),
    (r"\b(math|formula|equation|energy|physics|mean)\b|公式|数学", "math"),
    (r"\b(table|compare|column|row|data|versus|vs)\b|表格|比较|数据", "table"),
)
_KINDS = ("table", "code", "math", "quote")


def _essay(question: str, pictures: str) -> str:
    seed, texts = crc32(question.encode()), texts_for(question)
    chosen = next(
        (kind for words, kind in _EXTRAS if re.search(words, question, re.IGNORECASE)), None
    )
    steps = enumerate(texts.lists[seed // 4 % 3], 1)
    return texts.essay.format(
        subject=_subject(question),
        pictures=pictures,
        steps="\n".join(f"{n}. {step}" for n, step in steps),
        extra=getattr(texts, chosen or _KINDS[seed % 4]),
    )


def _json_answer(body: Mapping[str, Any]) -> object:
    """Fill the schema or the example that the prompt holds; else say who answers."""
    found = list(_json_objects(_whole_prompt(body)))
    seed = crc32(_question(body).encode())
    schema = next((one for one in found if isinstance(one.get("properties"), dict)), None)
    if schema is not None:
        return _instance(schema, schema, seed, 0)
    if found:
        return found[-1]
    return {
        "subject": _subject(_question(body)),
        "source": "sandbox, not a model",
        "number": seed % 100,
    }


def _json_objects(text: str) -> Iterator[dict[str, Any]]:
    decoder, at = json.JSONDecoder(), text.find("{")
    for _ in range(200):
        if at < 0:
            return
        try:
            value, end = decoder.raw_decode(text, at)
        except ValueError:
            end = at + 1
        else:
            yield value
        at = text.find("{", end)


def _instance(schema: Mapping[str, Any], root: Mapping[str, Any], seed: int, depth: int) -> object:
    """Build a value that *schema* accepts, as far as plain JSON Schema goes."""
    for name in ("const", "default"):
        if name in schema:
            return schema[name]
    if "$ref" in schema:
        target: Any = root
        for step in str(schema["$ref"]).removeprefix("#/").split("/"):
            target = target.get(step, {})
        return _instance(target, root, seed, depth + 1) if depth < 20 else None
    if schema.get("enum"):
        return schema["enum"][seed % len(schema["enum"])]
    for name in ("anyOf", "oneOf", "allOf"):
        if schema.get(name):
            return _instance(schema[name][0], root, seed, depth + 1)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    return _plain(kind[0] if isinstance(kind, list) else kind, schema, root, seed, depth)


def _plain(
    kind: str, schema: Mapping[str, Any], root: Mapping[str, Any], seed: int, depth: int
) -> object:
    if kind == "object":
        fields = schema.get("properties", {})
        if depth >= 20:
            fields = {}
        return {name: _instance(one, root, seed, depth + 1) for name, one in fields.items()}
    if kind == "array":
        items = schema.get("prefixItems") or [schema.get("items") or {}] * max(
            schema.get("minItems", 2), min(2, schema.get("maxItems", 2))
        )
        return (
            [_instance(one, root, seed + n, depth + 1) for n, one in enumerate(items)]
            if depth < 20
            else []
        )
    if kind in {"integer", "number"}:
        return _number(kind, schema, seed)
    return {"boolean": seed % 2 == 0, "null": None}.get(kind, _string(schema))


def _number(kind: str, schema: Mapping[str, Any], seed: int) -> float:
    low = schema.get("minimum", schema.get("exclusiveMinimum", 0))
    high = schema.get("maximum", schema.get("exclusiveMaximum", max(100, low * 2 + 10)))
    if kind == "number":
        return float(round(low + (high - low) * (0.25 + seed % 50 / 100), 2))
    return int(low + 1 + seed % max(int(high - low - 1), 1) if high - low > 1 else low)


_FORMATS = {
    "date": "2026-01-31",
    "date-time": "2026-01-31T12:00:00Z",
    "time": "12:00:00Z",
    "email": "sandbox@example.com",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


def _string(schema: Mapping[str, Any]) -> str:
    text = _FORMATS.get(schema.get("format", ""), "from the sandbox")
    text = text.ljust(schema.get("minLength", 0), ".")
    return text[: schema.get("maxLength", len(text))]
