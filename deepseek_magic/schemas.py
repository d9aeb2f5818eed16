"""A Pydantic model as the form of an answer: how it is asked for, and how it is read."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from .errors import InvalidOption, UnusableAnswer, one_line

SHOWN = 3
"""Wrong fields named in an error, at most."""
DIGITS = 300
"""Digits of a whole number; with more, it is no value but an accident."""

_FENCED = re.compile(r"```(?:json)?[ \t]*\r?\n(.*?)\r?\n?```", re.DOTALL | re.IGNORECASE)
_EXAMPLES = {
    "date-time": "2024-01-31T12:00:00Z",
    "date": "2024-01-31",
    "time": "12:00:00",
    "duration": "PT1H30M",
    "uuid": "12345678-1234-4234-8234-123456789abc",
    "email": "name@example.org",
    "uri": "https://example.org/",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "binary": "…",
}


@dataclass(frozen=True, slots=True)
class Schema:
    """What an answer has to be: *name* of the model, *fields* by the model's own names."""

    name: str
    fields: tuple[str, ...]
    _adapter: Any
    _instructions: str

    def instructions(self) -> str:
        """Say what to answer with; the same text for the same model, in any process."""
        return self._instructions

    def object(self, text: str) -> Any:
        """Read an answer as an instance of the model; one that is none is `UnusableAnswer`."""
        text = _bare(text)
        try:
            json.loads(text, parse_constant=_not_finite, parse_float=_finite, parse_int=_whole)
        except (ValueError, RecursionError) as error:
            raise UnusableAnswer(
                f"The answer is not JSON ({one_line(str(error), 80)}). It was billed. Run it again."
            ) from error
        try:
            return self._adapter.validate_json(text)
        except Exception as error:  # the model's own checks may fail in any way
            raise self._unfit("does not fit", error) from error

    def read(self, text: str) -> dict[str, Any]:
        """Read an answer as a value for each field, models in it as dicts, enums by their value."""
        found = self.object(text)
        try:
            values = _plain(self._adapter.dump_python(found, by_alias=False, warnings=False))
        except Exception as error:  # so may its own ways to write itself
            raise self._unfit("cannot be written as", error) from error
        return {field: values.get(field) for field in self.fields}

    def _unfit(self, how: str, error: Exception) -> UnusableAnswer:
        return UnusableAnswer(
            f"The answer {how} {self.name} ({_reason(error)}). It was billed. Run it again, or say "
            f"in the question what is wanted; what may be missing takes `= None` in {self.name}."
        )


def schema_of(model: Any) -> Schema:
    """Take *model*, a Pydantic model or what Pydantic takes for one with named fields."""
    try:
        from pydantic import TypeAdapter
    except ImportError as error:
        raise InvalidOption(
            "A schema takes Pydantic 2, which is not installed. Nothing was sent. "
            'Install it: %pip install "pydantic>=2"'
        ) from error
    name = one_line(str(getattr(model, "__name__", None) or model), 60)
    if not (isinstance(model, type) or typing.get_origin(model)):
        kind = one_line(type(model).__name__, 40)
        raise _no_schema(f"A value of type {kind} is no model; that is a class")
    if typing.get_origin(model) is typing.Annotated:
        return schema_of(typing.get_args(model)[0])
    try:
        adapter = TypeAdapter[Any](model)
        schema = adapter.json_schema(schema_generator=_generator())
    except Exception as error:
        reason = one_line(str(error).partition("\n")[0], 120)
        raise _no_schema(f"{name} is no schema that Pydantic can use ({reason})") from error
    fields = _fields(model) if _resolved(schema, schema).get("properties") else ()
    if not fields:
        raise _no_schema(f"{name} is no object with fields")
    return Schema(name, fields, adapter, _instructions(schema))


def _no_schema(what: str) -> InvalidOption:
    return InvalidOption(
        f"{what}. Nothing was sent. Give a class, such as: "
        "class Label(pydantic.BaseModel): topic: str; score: float"
    )


def _generator() -> type[Any]:
    """Make what writes JSON schemas: without titles, and alike in every process."""
    from pydantic.json_schema import GenerateJsonSchema

    class Compact(GenerateJsonSchema):
        ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012  # theirs

        def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
            return False

        def encode_default(self, dft: Any) -> Any:
            encoded = super().encode_default(dft)
            is_set = isinstance(dft, set | frozenset)
            return sorted(encoded, key=json.dumps) if is_set else encoded

    return Compact


def _fields(model: Any) -> tuple[str, ...]:
    """Give the names that a dumped *model* has, in their order."""
    origin = typing.get_origin(model) or model
    known = getattr(model, "__pydantic_fields__", None)
    if known is not None:
        computed = getattr(model, "__pydantic_decorators__").computed_fields  # noqa: B009
        return (*(name for name, field in known.items() if not field.exclude), *computed)
    if dataclasses.is_dataclass(origin):
        return tuple(field.name for field in dataclasses.fields(origin))
    return tuple(typing.get_type_hints(origin))


# What is asked for


def _instructions(schema: Mapping[str, Any]) -> str:
    example = _compact(_example(schema, schema))
    return (
        "Answer with one JSON object and nothing else. It has to fit this JSON schema:\n"
        f"{_compact(schema)}\n"
        f"An example of the form, not of the values: {example}"
    )


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _ref(schema: Any) -> str:
    return str(schema.get("$ref", "")) if isinstance(schema, Mapping) else ""


def _resolved(schema: Any, root: Mapping[str, Any]) -> Mapping[str, Any]:
    while ref := _ref(schema):
        name = ref.removeprefix("#/$defs/").replace("~1", "/").replace("~0", "~")
        schema = root.get("$defs", {}).get(name, {})
    return schema if isinstance(schema, Mapping) else {}


def _example(schema: Any, root: Mapping[str, Any], within: tuple[str, ...] = ()) -> Any:
    """Make up a value that fits *schema*; *within* are the models that it stands in."""
    if (ref := _ref(schema)) in within:
        return {}
    within = (*within, ref) if ref else within
    schema = _resolved(schema, root)
    if given := schema.get("examples"):
        return given[0] if isinstance(given, list) else given
    if "const" in schema or "enum" in schema:
        return schema.get("const", schema.get("enum", [None])[0])
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        # A model that may hold itself ends with none of it.
        fresh = [choice for choice in choices if _ref(choice) not in within]
        real = [choice for choice in fresh if choice != {"type": "null"}]
        return _example((real or fresh or choices)[0], root, within)
    if parts := schema.get("allOf"):
        return _example(parts[0], root, within)
    return _of_type(schema, root, within)


def _of_type(schema: Mapping[str, Any], root: Mapping[str, Any], within: tuple[str, ...]) -> Any:
    match schema.get("type"):
        case "object":
            properties = schema.get("properties", {}).items()
            return {name: _example(part, root, within) for name, part in properties}
        case "array":
            items = schema.get("prefixItems") or [schema.get("items", {})]
            return [_example(item, root, within) for item in items if _ref(item) not in within]
        case "integer" | "number" as kind:
            return _number(schema, kind)
        case kind:
            constant: dict[Any, Any] = {"boolean": True, "null": None}
            return constant.get(kind, _EXAMPLES.get(str(schema.get("format")), "…"))


def _number(schema: Mapping[str, Any], kind: str) -> float:
    """Give a number within the bounds of *schema*, as far as one of them says where."""
    if (least := schema.get("minimum")) is not None:
        return float(least) if kind == "number" else int(least)
    if (below := schema.get("exclusiveMinimum")) is not None:
        return below + (1 if kind == "integer" else 0.5)  # type: ignore[no-any-return]  # JSON
    most = schema.get("maximum", schema.get("exclusiveMaximum", math.inf))
    if most <= 1:
        return most - (1 if kind == "integer" else 0.5)  # type: ignore[no-any-return]  # JSON
    return 1 if kind == "integer" else 0.5


# What came


def _bare(text: str) -> str:
    text = text.strip()
    fenced = _FENCED.fullmatch(text)
    return fenced[1].strip() if fenced else text


def _not_finite(word: str) -> float:
    raise ValueError(f"{word} is no number of JSON")


def _finite(digits: str) -> float:
    return number if math.isfinite(number := float(digits)) else _not_finite(one_line(digits, 20))


def _whole(digits: str) -> int:
    if len(digits) > DIGITS:
        raise ValueError(f"a number has {len(digits):,} digits")
    return int(digits)


def _reason(error: Exception) -> str:
    """Tell what is wrong with which fields, the first of them."""
    errors = getattr(error, "errors", None)
    if not callable(errors):
        return one_line(f"{type(error).__name__}: {error}", 120)
    found = errors(include_url=False, include_context=False, include_input=False)
    told = [_wrong(each["loc"], each["msg"]) for each in found[:SHOWN]]
    rest = len(found) - SHOWN
    return "; ".join(told) + (f"; and {rest:,} more" if rest > 0 else "")


def _wrong(place: Sequence[object], what: str) -> str:
    where = ".".join(map(str, place))
    return f"{one_line(where, 60)}: {one_line(what, 80)}" if where else one_line(what, 80)


def _plain(value: Any) -> Any:
    """Replace enums by their values, however deep they stand."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if type(value) in {list, tuple, set, frozenset}:
        return type(value)(_plain(item) for item in value)
    return value
