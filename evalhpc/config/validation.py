"""pydantic's findings as one ConfigError: a line per problem, a misspelt key with the right one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from evalhpc.config.schema import belongs, did_you_mean, near_key, section, submodel
from evalhpc.errors import ConfigError
from evalhpc.models import site, suite

Model = TypeVar("Model", bound=BaseModel)


def _pattern(text_type: Any) -> str:
    return str(get_args(text_type)[1].pattern)


#: What a pattern asks for, in words.
_FORMS = {
    _pattern(site.Walltime): "a walltime: minutes (30), 30:00, 2:00:00 or 1-00:00:00",
    _pattern(site.Memory): "an amount of memory such as 500M or 4G, or 0 for the whole node",
    _pattern(site.VariableName): "the name of an environment variable",
    _pattern(site.Directive): "one sbatch option such as --exclusive or --reservation=maint",
    _pattern(suite.Name): "a name of letters, digits, '_', '.' and '-', at most 100",
    str(site.Site.model_fields["name"].metadata[0].pattern): (
        "a name of lower-case letters, digits, '_' and '-'"
    ),
}
_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "tuple": "a list: [a, b] or `- a` lines",
    "dict": "a section of `key: value` lines",
    "model": "a section of `key: value` lines",
    "finite": "a finite number",
}


def validate(
    model: type[Model],
    data: Mapping[str, Any],
    where: str,
    *,
    known: Iterable[str] = (),
    hint: str = "",
) -> Model:
    """`data` as a `model`; ConfigError with a line `where: key: problem` for each problem.

    `known`: further dotted keys that `where` may hold and `model` does not declare.
    """
    found = [f"{key}: {_number(type_)}, not true or false" for key, type_ in _booleans(model, data)]
    try:
        valid = model.model_validate(dict(data))
        if not found:
            return valid
    except ValidationError as error:
        found += problems(error, model, known)
    lines = [f"{where}: {line}" for line in found]
    raise ConfigError("\n".join(lines), hint=hint or "correct the lines above, then run this again")


def problems(
    error: ValidationError, model: type[BaseModel], known: Iterable[str] = ()
) -> list[str]:
    """`key.path: what is wrong`, one for each finding."""
    known = tuple(known)
    found = error.errors(include_url=False)
    return [_problem(one, model, known) for one in found if not _follows(one, found)]


def value_problem(value: Any, type_: Any) -> str:
    """What is wrong with one value of `type_` (constraints included); "" if nothing."""
    if isinstance(value, bool) and _number(type_):
        return f"{_number(type_)}, not true or false"
    # A model brings its own configuration, and pydantic refuses a second one.
    config = None if submodel(type_) else ConfigDict(allow_inf_nan=False)
    try:
        TypeAdapter(type_, config=config).validate_python(value)
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        inside = key_name(found["loc"])
        return f"{inside}: {_expected(found)}" if inside else _expected(found)
    return ""


def key_name(loc: Sequence[str | int]) -> str:
    """`benchmarks[2].params.limit` of pydantic's ("benchmarks", 2, "params", "limit")."""
    name = ""
    for part in loc:
        if part == "[key]":
            continue
        name += f"[{part}]" if isinstance(part, int) else f".{part}"
    return name.lstrip(".")


def _number(type_: Any) -> str:
    """ "must be a whole number" for int, optional or not; "" for a type that is no number."""
    parts = {type_, *get_args(type_)}
    if parts & {Any, bool, str}:
        return ""
    if int in parts:
        return "must be a whole number"
    return "must be a number" if float in parts else ""


def _booleans(
    model: type[BaseModel], data: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """Numbers given as true or false, which pydantic would take for 1 and 0."""
    for key, value in data.items():
        field = model.model_fields.get(key)
        if field is None:
            continue
        if isinstance(value, bool) and _number(field.annotation):
            yield prefix + key, field.annotation
        inner = submodel(field.annotation)
        for position, item in enumerate(value if isinstance(value, list | tuple) else [value]):
            if inner is not None and isinstance(item, Mapping):
                name = f"{key}[{position}]" if item is not value else key
                yield from _booleans(inner, item, f"{prefix}{name}.")


def _follows(one: ErrorDetails, found: Sequence[ErrorDetails]) -> bool:
    """Whether pydantic calls a list too short only because it left bad items out."""
    depth = len(one["loc"])
    return one["type"] == "too_short" and any(
        other["loc"][:depth] == one["loc"] for other in found if len(other["loc"]) > depth
    )


def _problem(found: ErrorDetails, model: type[BaseModel], known: Sequence[str]) -> str:
    loc = found["loc"]
    if found["type"] == "extra_forbidden":
        return _unknown(loc, model, known)
    # A value of this section may be a password that somebody put there.
    secret = loc[:2] == ("environment", "variables")
    return f"{key_name(loc)}: {_expected(found, show=not secret)}"


def _unknown(loc: Sequence[str | int], model: type[BaseModel], known: Sequence[str]) -> str:
    key = str(loc[-1])
    path = [part for part in loc[:-1] if isinstance(part, str)]
    owner = section(model, path) or model
    siblings = [*owner.model_fields, *(name for name in known if "." not in name and not path)]
    advice = belongs(key, model, known) or did_you_mean(key, siblings) or near_key(key, model)
    if not path:
        return f"{key}: unknown key {key!r}{advice}"
    return f"{key_name(loc)}: unknown key {key!r} in {key_name(loc[:-1])}{advice}"


def _expected(found: ErrorDetails, *, show: bool = True) -> str:
    kind, value, context = found["type"], found["input"], found.get("ctx", {})
    got = f", not {_shown(value)}" if show else ""
    if kind == "extra_forbidden":
        return "unknown key"
    if kind == "missing":
        return "is missing"
    if kind == "union_tag_not_found":
        return f"has no {context['discriminator']}"
    if kind == "union_tag_invalid":
        return f"has the {context['discriminator']} {context['tag']!r}, not one of " + str(
            context["expected_tags"]
        )
    if kind == "string_type" and isinstance(value, int | float):
        return f"must be text{got}: put the value in quotes"
    if kind == "string_type":
        return f"must be text{got}"
    if kind == "literal_error":
        return f"must be {context['expected']}{got}"
    if kind == "string_pattern_mismatch":
        pattern = str(context["pattern"])
        return f"must be {_FORMS.get(pattern, f'text that matches {pattern}')}{got}"
    if kind in _BOUNDS:
        words, bound = _BOUNDS[kind]
        return f"must be {words} {context[bound]:g}{got}"
    if kind == "too_short":
        return "must not be empty"
    family = kind.partition("_")[0]
    return f"must be {_KINDS[family]}{got}" if family in _KINDS else found["msg"]


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "empty"}[value]
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
