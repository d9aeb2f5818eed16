"""A type as the form of an answer: how it is asked for, and how it is read.

The API's JSON mode gives objects only. What is none, such as a list of models, is
asked for inside one, `{"items": [...]}`, and taken out of it again.
"""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import UnionType
from typing import Any, Protocol

from .errors import InvalidOption, UnusableAnswer, one_line
from .json_text import json_in
from .words import later, t

SHOWN = 3
"""Wrong fields named in an error, at most."""
PROBLEMS = 10
"""Wrong fields named to the model, at most."""
DIGITS = 300
"""Digits of a whole number; with more, it is no value but an accident."""
PARTS = 200
"""Values in an example, at most; of a larger model only what has to be there is shown."""
ITEMS, VALUE = "items", "value"
"""The names under which a list, and another value that is no object, are asked for."""

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
_OF_SCHEMAS = frozenset(
    {"type", "properties", "items", "prefixItems", "anyOf", "oneOf", "allOf", "enum", "const"}
    | {"$ref", "additionalProperties", "patternProperties"}
)
"""The words of JSON schemas of which one has to be there; without them any value would fit."""
_UNFIT = later("The answer does not fit {name} ({reason}).")
_UNWRITTEN = later("The answer cannot be written as {name} ({reason}).")
_SEQUENCES = (list, tuple, Sequence)


class _Check(Protocol):
    """Takes what fits a form."""

    def take(self, text: str, value: Any) -> Any:
        """Give what the JSON *text*, which says *value*, stands for; raise where it does not."""

    def plain(self, found: Any) -> Any:
        """Write what was taken as dicts, lists and plain values."""


@dataclass(frozen=True, slots=True)
class Schema:
    """What an answer has to be: *name* of the *model*, *fields* by the model's own names.

    A form that is no object with fields has none; *item_fields* are those of each
    model in a list of them.
    """

    name: str
    fields: tuple[str, ...]
    item_fields: tuple[str, ...]
    model: Any
    _check: _Check
    _instructions: str

    def __reduce__(self) -> tuple[Any, ...]:
        return schema_of, (self.model,)

    def instructions(self) -> str:
        """Say what to answer with; the same text for the same model, in any process."""
        return self._instructions

    def columns(self, column: str) -> tuple[str, ...]:
        """Name the columns of an answer in a frame: one for each field, else *column*."""
        return self.fields or (column,)

    def object(self, text: str) -> Any:
        """Read an answer as an instance of the model; one that is none is `UnusableAnswer`."""
        text = json_in(text)
        try:
            value = json.loads(
                text, parse_constant=_not_finite, parse_float=_finite, parse_int=_whole
            )
        except (ValueError, RecursionError) as error:
            what = t("The answer is not JSON ({error}).", error=one_line(_said(error), 80))
            raise _unusable(
                (what, t("It was billed."), t("Run it again.")),
                [f"It is not JSON: {one_line(str(error), 80)}"],
            ) from error
        try:
            return self._check.take(text, value)
        except Exception as error:  # the model's own checks may fail in any way
            raise self._unfit(_UNFIT, error) from error

    def read(self, text: str) -> Any:
        """Read an answer as a value for each field, models in it as dicts, enums by their value.

        Of a form without fields it is one plain value.
        """
        values = self._written(self.object(text))
        return {field: values.get(field) for field in self.fields} if self.fields else values

    def frame(self, found: Any) -> Any:
        """Put the models of *found*, one or a list, into a frame; what has no fields stays."""
        fields = self.fields or self.item_fields
        if not fields:
            return found
        values = self._written(found)
        rows = [values] if self.fields else list(values)
        return _frame({field: [row.get(field) for row in rows] for field in fields}, found)

    def bound(self, found: Any) -> Any:
        """Give what a cell binds: a list of models as a frame, all else as it was read."""
        return self.frame(found) if self.item_fields else found

    def _written(self, found: Any) -> Any:
        try:
            return _plain(self._check.plain(found))
        except Exception as error:  # so may its own ways to write itself
            raise self._unfit(_UNWRITTEN, error) from error

    def _unfit(self, what: str, error: Exception) -> UnusableAnswer:
        step = t(
            "Run it again, or say in the question what is wanted; what may be missing takes "
            "`= None` in {name}.",
            name=self.name,
        )
        return _unusable(
            (t(what, name=self.name, reason=_reason(error)), t("It was billed."), step),
            list(_problems(error)),
        )


def _unusable(told: Sequence[str], problems: Sequence[str]) -> UnusableAnswer:
    error = UnusableAnswer(*told)
    error.problems = tuple(problems)
    return error


def _frame(columns: Mapping[str, list[Any]], found: Any) -> Any:
    """Make a frame of pandas, else of Polars; *found* as it is where neither is installed."""
    try:
        import pandas as pd
    except ImportError:
        return _polars_frame(columns, found)
    try:
        return pd.DataFrame(dict(columns))
    except UnicodeEncodeError:  # half a character, which the text type of pandas does not take
        return pd.DataFrame({name: pd.Series(v, dtype="object") for name, v in columns.items()})


def _polars_frame(columns: Mapping[str, list[Any]], found: Any) -> Any:
    try:
        import polars as pl
    except ImportError:
        return found
    return pl.DataFrame(dict(columns), strict=False)


# What a model may be


def schema_of(model: Any) -> Schema:
    """Take *model*: one of Pydantic, what Pydantic takes for a type, or a JSON schema as a dict."""
    if isinstance(model, Schema):
        return model
    if isinstance(model, dict):
        return _described(model)
    name = _name(model)
    plain = _unwrapped(model)
    if not (isinstance(plain, type | UnionType) or typing.get_origin(plain)):
        kind = one_line(type(model).__name__, 40)
        raise _no_schema(t("A value of type {kind} is no model; that is a class", kind=kind))
    if old := _of_pydantic_1(model):
        raise _no_schema(
            t(
                "{name} is a model of Pydantic 1, which has no schema for this; take the BaseModel "
                "of pydantic, not that of pydantic.v1",
                name=one_line(old, 60),
            )
        )
    return _typed(model, name)


def _typed(model: Any, name: str) -> Schema:
    try:
        from pydantic import TypeAdapter
        from typing_extensions import TypedDict
    except ImportError as error:
        raise InvalidOption(
            t("A schema takes Pydantic 2, which is not installed."),
            t("Nothing was sent."),
            t('Install it: %pip install "pydantic>=2"'),
        ) from error
    try:
        bare = whole = TypeAdapter[Any](model)
        schema = asked = bare.json_schema(schema_generator=_generator())
        if key := _key(schema):
            whole = TypeAdapter[Any](TypedDict("Form", {key: model}))  # type: ignore[operator]
            asked = whole.json_schema(schema_generator=_generator())
            del asked["title"]
    except Exception as error:
        reason = one_line(str(error).partition("\n")[0], 160)
        why = t("{name} is no schema that Pydantic can use ({reason})", name=name, reason=reason)
        raise _no_schema(why) from error
    if not _says_something(schema):
        raise _no_schema(t("{name} says nothing of the form of an answer", name=name))
    return Schema(
        name,
        _fields(model) if _is_object(schema, schema) else (),
        _item_fields(model, schema),
        model,
        _OfType(bare, whole, key),
        _instructions(asked),
    )


def _described(model: dict[str, Any]) -> Schema:
    """Take a JSON schema."""
    try:
        from jsonschema.exceptions import SchemaError  # type: ignore[import-untyped]
        from jsonschema.validators import validator_for  # type: ignore[import-untyped]
        from referencing import Registry
    except ImportError as error:
        raise InvalidOption(
            t("A JSON schema takes the package jsonschema, which is not installed or too old."),
            t("Nothing was sent."),
            t('Install it: %pip install "jsonschema>=4.18"'),
        ) from error
    try:
        schema = json.loads(json.dumps(model))
        checker = validator_for(schema)
        checker.check_schema(schema)
    except SchemaError as error:
        raise _no_json_schema(_no_schema_as(error.message)) from error
    except (TypeError, ValueError, RecursionError) as error:
        raise _no_json_schema(_no_schema_as(str(error))) from error
    if missing := _unresolved(schema):
        why = t("The JSON schema refers to {missing}, which is not in it", missing=missing)
        raise _no_json_schema(why)
    if not _says_something(schema):
        raise _no_json_schema(t('The dict is no JSON schema: it has no "type" and no "properties"'))
    key, items = _key(schema), _resolved(_resolved(schema, schema).get("items"), schema)
    return Schema(
        one_line(str(schema.get("title") or t("the JSON schema")), 60),
        tuple(_resolved(schema, schema)["properties"]) if _is_object(schema, schema) else (),
        tuple(items["properties"]) if key == ITEMS and _is_object(items, schema) else (),
        model,
        # With an empty registry nothing that a schema refers to is fetched from anywhere.
        _OfSchema(checker(schema, registry=Registry()), key),
        _instructions(_within(schema, key) if key else schema),
    )


def _no_schema_as(reason: str) -> str:
    return t("The dict is no JSON schema ({reason})", reason=one_line(reason, 120))


def _no_json_schema(what: str) -> InvalidOption:
    example = '{"type": "object", "properties": {"topic": {"type": "string"}}}'
    return InvalidOption(
        t("{what}.", what=what),
        t("Nothing was sent."),
        t("Give one, such as: {example}", example=example),
    )


def _unresolved(schema: dict[str, Any]) -> str | None:
    """Name a reference that leads nowhere: with it no answer would ever fit."""
    from referencing import Registry, Resource
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    found = Resource.from_contents(schema, default_specification=DRAFT202012)
    lookup = Registry().with_resource(uri="", resource=found).resolver().lookup
    for ref in _refs(schema):
        try:
            lookup(ref)
        except Unresolvable:
            return one_line(ref, 100)
    return None


def _refs(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(ref := schema.get("$ref"), str):
            yield ref
        yield from (ref for part in schema.values() for ref in _refs(part))
    elif isinstance(schema, list):
        yield from (ref for part in schema for ref in _refs(part))


def _no_schema(what: str) -> InvalidOption:
    return InvalidOption(
        t("{what}.", what=what),
        t("Nothing was sent."),
        t("Give a class, such as: class Label(pydantic.BaseModel): topic: str; score: float"),
    )


def _unwrapped(model: Any) -> Any:
    """Give the type that an annotated one, a new one or an alias stands for."""
    for _ in range(PROBLEMS):  # an alias may stand for itself
        if typing.get_origin(model) is typing.Annotated:
            model = typing.get_args(model)[0]
        elif type(model).__name__ == "TypeAliasType":
            model = model.__value__
        elif isinstance(model, typing.NewType):
            model = model.__supertype__
        else:
            break
    return model


def _name(model: Any) -> str:
    """Write a type as one writes it: `list[Label]`."""
    model = _unwrapped(model)
    if model is type(None):
        return "None"
    origin, args = typing.get_origin(model), typing.get_args(model)
    if origin in {typing.Union, UnionType}:
        return one_line(" | ".join(_name(arg) for arg in args), 60)
    name = str(getattr(origin or model, "__name__", None) or model)
    parts = ", ".join(_name(arg) if isinstance(arg, type) else str(arg) for arg in args)
    return one_line(f"{name}[{parts}]" if parts else name, 60)


def _of_pydantic_1(model: Any) -> str | None:
    """Name the model of Pydantic 1 that *model* is, or has among its parts."""
    bases = getattr(model, "__mro__", ())
    if any(str(getattr(base, "__module__", "")).startswith("pydantic.v1.") for base in bases):
        return str(model.__name__)
    return next((old for arg in typing.get_args(model) if (old := _of_pydantic_1(arg))), None)


def _says_something(schema: Mapping[str, Any]) -> bool:
    """Tell whether a form is told at all: of a field's name, or of a kind of value."""
    found = _resolved(schema, schema)
    words = {word for word in _OF_SCHEMAS & set(found) if found[word] not in ({}, [])}
    return bool(words) and not (words == {"type"} and found["type"] == "object")


def _is_object(schema: Mapping[str, Any], root: Mapping[str, Any]) -> bool:
    """Tell whether *schema* is of an object with fields."""
    found = _resolved(schema, root)
    return found.get("type", "object") == "object" and bool(found.get("properties"))


def _key(schema: Mapping[str, Any]) -> str:
    """Name what a value is asked for under that may be no object; "" where it always is one."""
    if _resolved(schema, schema).get("type") == "array":
        return ITEMS
    return "" if _always_object(schema, schema, 0) else VALUE


def _always_object(schema: Any, root: Mapping[str, Any], depth: int) -> bool:
    found = _resolved(schema, root)
    choices = found.get("anyOf") or found.get("oneOf")
    if choices and depth < SHOWN:
        return all(_always_object(choice, root, depth + 1) for choice in choices)
    return found.get("type") == "object" or "properties" in found


def _within(schema: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Put *schema* into one of an object that has it under *key*; its parts stay at the root."""
    shared = {name: schema[name] for name in ("$schema", "$defs", "definitions") if name in schema}
    inner = {name: part for name, part in schema.items() if name not in shared}
    return {**shared, "type": "object", "properties": {key: inner}, "required": [key]}


@dataclass(frozen=True, slots=True)
class _OfType:
    """Takes what fits a type: *bare*, or as *whole* under a *key*."""

    bare: Any
    whole: Any
    key: str

    def take(self, text: str, value: Any) -> Any:
        if self.key and isinstance(value, dict) and (self.key == ITEMS or self.key in value):
            return self.whole.validate_json(text)[self.key]
        return self.bare.validate_json(text)

    def plain(self, found: Any) -> Any:
        return self.bare.dump_python(found, by_alias=False, warnings=False)


class _Misfit(Exception):  # it is shaped like Pydantic's own
    def __init__(self, found: list[dict[str, Any]]) -> None:
        super().__init__(found)
        self.found = found

    def errors(self, **_: Any) -> list[dict[str, Any]]:
        return self.found


@dataclass(frozen=True, slots=True)
class _OfSchema:
    """Takes what fits a JSON schema, also where it stands under a *key*."""

    validator: Any
    key: str

    def take(self, text: str, value: Any) -> Any:  # noqa: ARG002  # others read the text
        if self.key and isinstance(value, dict) and self.key in value:
            value = value[self.key]
        found = [{"loc": tuple(one.path), "msg": _told(one)} for one in self._errors(value)]
        if found:
            raise _Misfit(found)
        return value

    def _errors(self, value: Any) -> Iterator[Any]:
        yield from self.validator.iter_errors(value)

    def plain(self, found: Any) -> Any:
        return found


def _told(error: Any) -> str:
    """Tell what a JSON schema asks for; the value itself, if it is short."""
    if len(error.message) <= 80:
        return str(error.message)
    return f"fits not {error.validator}: {json.dumps(error.validator_value)}"


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
    model = _unwrapped(model)
    origin = typing.get_origin(model) or model
    known = getattr(model, "__pydantic_fields__", None)
    if known is not None:
        computed = getattr(model, "__pydantic_decorators__").computed_fields  # noqa: B009
        return (*(name for name, field in known.items() if not field.exclude), *computed)
    if dataclasses.is_dataclass(origin):
        return tuple(field.name for field in dataclasses.fields(origin))
    try:
        return tuple(typing.get_type_hints(origin))
    except (TypeError, NameError):  # no class with fields, such as one model or another
        return ()


def _item_fields(model: Any, schema: Mapping[str, Any]) -> tuple[str, ...]:
    """Give the fields of each model in a list of models."""
    model, items = _unwrapped(model), _resolved(schema, schema).get("items")
    if typing.get_origin(model) not in _SEQUENCES or not items or not _is_object(items, schema):
        return ()
    return _fields(typing.get_args(model)[0])


# What is asked for


def _instructions(schema: Mapping[str, Any]) -> str:
    return (
        "Answer with one JSON object and nothing else. It has to fit this JSON schema:\n"
        f"{_compact(schema)}\n"
        f"An example of the form, not of the values: {_compact(_short_example(schema))}"
    )


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _ref(schema: Any) -> str:
    return str(schema.get("$ref", "")) if isinstance(schema, Mapping) else ""


def _resolved(schema: Any, root: Mapping[str, Any]) -> Mapping[str, Any]:
    """Follow what *schema* refers to within *root*; {} where that is not there, or a circle."""
    seen = set[str]()
    while (ref := _ref(schema)) and ref not in seen:
        seen.add(ref)
        schema = root
        for part in ref.removeprefix("#").strip("/").split("/") if ref != "#" else ():
            name = part.replace("~1", "/").replace("~0", "~")
            schema = schema.get(name, {}) if isinstance(schema, Mapping) else {}
    return schema if isinstance(schema, Mapping) and not _ref(schema) else {}


class _TooLong(Exception):
    """An example has more values than anyone wants to read."""


def _short_example(schema: Mapping[str, Any]) -> Any:
    """Make up an answer that fits; of a large model without what may be missing."""
    for all_fields in (True, False):
        try:
            return _Example(schema, all_fields=all_fields).of(schema)
        except _TooLong:
            pass
    fields = _resolved(schema, schema).get("required", ())
    return dict.fromkeys(fields, "…")


class _Example:
    """Makes up values that fit parts of the schema *root*; with *all_fields* also optional ones."""

    def __init__(self, root: Mapping[str, Any], *, all_fields: bool) -> None:
        self._root = root
        self._all = all_fields
        self._left = PARTS

    def of(self, schema: Any, within: tuple[str, ...] = ()) -> Any:
        """Make up a value that fits *schema*; *within* are the models that it stands in."""
        self._left -= 1
        if self._left < 0:
            raise _TooLong
        if (ref := _ref(schema)) in within:
            return {}
        within = (*within, ref) if ref else within
        schema = _resolved(schema, self._root)
        if given := schema.get("examples"):
            return given[0] if isinstance(given, list) else given
        if "const" in schema or "enum" in schema:
            return schema.get("const", schema.get("enum", [None])[0])
        if choices := schema.get("anyOf") or schema.get("oneOf"):
            # A model that may hold itself ends with none of it.
            fresh = [choice for choice in choices if _ref(choice) not in within]
            real = [choice for choice in fresh if choice != {"type": "null"}]
            return self.of((real or fresh or choices)[0], within)
        if parts := schema.get("allOf"):
            return self.of(parts[0], within)
        return self._of_type(schema, within)

    def _of_type(self, schema: Mapping[str, Any], within: tuple[str, ...]) -> Any:
        kind = schema.get("type", "object" if "properties" in schema else None)
        match kind[0] if isinstance(kind, list) and kind else kind:
            case "object":
                return self._object(schema, within)
            case "array":
                items = schema.get("prefixItems") or [schema.get("items", {})]
                return [self.of(item, within) for item in items if _ref(item) not in within]
            case "integer" | "number" as kind:
                return _number(schema, kind)
            case kind:
                constant: dict[Any, Any] = {"boolean": True, "null": None}
                return constant.get(kind, _EXAMPLES.get(str(schema.get("format")), "…"))

    def _object(self, schema: Mapping[str, Any], within: tuple[str, ...]) -> dict[str, Any]:
        fields = schema.get("properties", {})
        needed = fields if self._all else schema.get("required", ())
        found = {name: self.of(part, within) for name, part in fields.items() if name in needed}
        values = schema.get("additionalProperties")
        if not fields and isinstance(values, Mapping) and _ref(values) not in within:
            found["…"] = self.of(values, within)
        return found


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


class _NoJson(ValueError):
    """What Python reads and JSON has not: in English, for the model; *said* is for the user."""

    def __init__(self, text: str, **values: object) -> None:
        super().__init__(text.format(**values))
        self.said = t(text, **values)


def _said(error: Exception) -> str:
    return error.said if isinstance(error, _NoJson) else str(error)


def _not_finite(word: str) -> float:
    raise _NoJson(later("{word} is no number of JSON"), word=word)


def _finite(digits: str) -> float:
    return number if math.isfinite(number := float(digits)) else _not_finite(one_line(digits, 20))


def _whole(digits: str) -> int:
    if len(digits) > DIGITS:
        raise _NoJson(later("a number has {n:,} digits"), n=len(digits))
    return int(digits)


def _reason(error: Exception) -> str:
    """Tell what is wrong with which fields, the first of them."""
    found = list(_wrong_fields(error, SHOWN))
    if (rest := _count_of(error) - SHOWN) > 0:
        found.append(t("and {n:,} more", n=rest))
    return t("; ").join(found)


def _problems(error: Exception) -> Iterator[str]:
    """Tell the same in lines, for the model."""
    yield from _wrong_fields(error, PROBLEMS)
    if (rest := _count_of(error) - PROBLEMS) > 0:
        yield f"and {rest:,} more"


def _wrong_fields(error: Exception, most: int) -> Iterator[str]:
    if (found := _errors_of(error)) is None:
        yield one_line(f"{type(error).__name__}: {error}", 120)
    else:
        yield from (_wrong(each["loc"], each["msg"]) for each in found[:most])


def _count_of(error: Exception) -> int:
    return len(_errors_of(error) or ())


def _errors_of(error: Exception) -> list[Any] | None:
    errors: Callable[..., list[Any]] | None = getattr(error, "errors", None)
    if not callable(errors):
        return None
    return errors(include_url=False, include_context=False, include_input=False)


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
