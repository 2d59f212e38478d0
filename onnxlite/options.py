"""Options as frozen records: declared once, validated, described field by field.

A field is `name: Annotated[type, Meta(..., description="...")] = default`. The record is the
option list: signatures, docstrings, recipes and the command line are made from it. A wrong
value raises an `OptionError` that names the option, the value, what is allowed, and the
nearest allowed value.
"""

from __future__ import annotations

import difflib
import math
import os
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeAlias, get_args, get_origin

import msgspec
from msgspec import Meta

from onnxlite.errors import OptionError

#: Returned by `_fitted` for a value that a type does not accept; None is a value itself.
_MISFIT = object()
_UNIONS = (typing.Union, types.UnionType)
_WORDS = {"yes": True, "on": True, "true": True, "no": False, "off": False, "false": False}

#: Options that several steps have, each with one meaning.
Include: TypeAlias = Annotated[
    tuple[str, ...],
    Meta(description="Patterns (`fnmatch`) of node or weight names to change; empty means all."),
]
Exclude: TypeAlias = Annotated[
    tuple[str, ...],
    Meta(description="Patterns (`fnmatch`) of node or weight names to leave alone."),
]
Limit: TypeAlias = (
    Annotated[int, Meta(ge=1, description="Use at most this many samples; None uses all.")] | None
)
BatchAxisOption: TypeAlias = (
    Annotated[
        int | dict[str, int | None],
        Meta(
            description="Axis of the samples, of all inputs or by name of the input; None for an "
            "input without such an axis. By default it is derived from names of axes, and from a "
            "run with a doubled batch where they do not tell."
        ),
    ]
    | None
)
#: What a result may cost.
Effort: TypeAlias = Literal["fast", "default", "best"]
Seed: TypeAlias = Annotated[int, Meta(ge=0, description="Seed of all random choices.")]


class Field(NamedTuple):
    """One option: its name, its type with `Annotated` parts, its default and description."""

    name: str
    kind: Any
    default: Any
    description: str


class _OptionsType(msgspec.StructMeta):
    """Reports unknown option names in the same words as wrong values."""

    def __call__(cls, *args: Any, **options: Any) -> Any:
        known = cls.__struct_fields__
        check_names(options, known, getattr(cls, "renamed", {}), where=cls.__name__)
        efforts: Mapping[str, Mapping[str, Any]] = getattr(cls, "efforts", {})
        effort = options.get("effort")
        preset = efforts.get(effort, {}) if isinstance(effort, str) else {}
        return super().__call__(*args, **{**preset, **options})


class Options(msgspec.Struct, metaclass=_OptionsType, frozen=True, kw_only=True):
    """Base of option records; every value is checked against its field on construction.

    Attributes:
        renamed: former names of options, each with its present name.
        efforts: for each value of an option `effort` the defaults of the other options.
    """

    renamed: ClassVar[Mapping[str, str]] = {}
    efforts: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def __post_init__(self) -> None:
        for field in fields_of(type(self)):
            given = getattr(self, field.name)
            value = checked(field.name, given, field.kind)
            if value is not given:
                msgspec.structs.force_setattr(self, field.name, value)
        self.validate()

    def validate(self) -> None:
        """Raise `OptionError` for options that do not go together."""


@cache
def fields_of(cls: type[Options]) -> tuple[Field, ...]:
    """List the options of a record in the order of their declaration."""
    kinds = typing.get_type_hints(cls, include_extras=True)
    return tuple(
        Field(
            field.name,
            kinds[field.name],
            field.default_factory()
            if field.default_factory is not msgspec.NODEFAULT
            else field.default,
            _description(kinds[field.name]),
        )
        for field in msgspec.structs.fields(cls)
    )


def checked(name: str, value: Any, kind: Any) -> Any:
    """Return `value` in the type that the option declares.

    A list becomes a tuple, an integer a float and a NumPy scalar a Python number where the
    type says so; nothing else is converted.

    Raises:
        OptionError: the value does not fit; the message says what does.
    """
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    fitted = _fitted(value, kind)
    if fitted is _MISFIT:
        raise OptionError(f"{name}={_shown(value)}: {_advice(name, value, kind)}")
    return fitted


def check_names(
    given: Iterable[str], known: Iterable[str], renamed: Mapping[str, str] = {}, *, where: str
) -> None:
    """Raise `OptionError` for a name that is no option; it names the present or nearest one.

    Args:
        given: the names.
        known: the names that there are.
        renamed: former names with their present ones, or with a sentence.
        where: the function, record or recipe step that the options belong to.
    """
    known = tuple(known)
    for name in given:
        if name in known:
            continue
        if name in renamed:
            new = renamed[name]
            hint = f"it is now {new!r}" if new in known else new
        elif near := difflib.get_close_matches(name, known, 1):
            hint = f"did you mean {near[0]!r}? allowed: {', '.join(known)}"
        else:
            hint = f"allowed: {', '.join(known) or 'none'}"
        raise OptionError(f"{where} has no option {name!r}: {hint}")


def from_text(name: str, text: str, kind: Any) -> Any:
    """Read an option from the command line: `0.5` or `50%`, `auto`, `true`, a name.

    Raises:
        OptionError: the text is not a value of the type.
    """
    readings = list(_readings(text, kind))
    for value in readings:
        if _fitted(value, kind) is not _MISFIT:
            return _fitted(value, kind)
    # A number out of its range is a number, not a text.
    value = next((value for value in readings if not isinstance(value, str)), text)
    raise OptionError(f"{name}={_shown(value)}: {_advice(name, value, kind)}")


def arms_of(kind: Any) -> tuple[Any, ...]:
    """List the alternatives of a type, without `Annotated`: `int | None` has two."""
    kind = _bare(kind)
    if get_origin(kind) in _UNIONS:
        return tuple(arm for part in get_args(kind) for arm in arms_of(part))
    return (kind,)


def choices_of(kind: Any) -> tuple[Any, ...]:
    """List the values that a type names one by one, as literals or true and false."""
    found: list[Any] = []
    for arm in arms_of(kind):
        if get_origin(arm) is Literal:
            found += get_args(arm)
        elif arm is bool:
            found += [True, False]
    return tuple(found)


def _fitted(value: Any, kind: Any) -> Any:
    """The value as a member of a type, or `_MISFIT`."""
    origin, arms = get_origin(kind), get_args(kind)
    if origin is Annotated:
        fitted = _fitted(value, arms[0])
        outside = fitted is not _MISFIT and any(_outside(fitted, meta) for meta in arms[1:])
        return _MISFIT if outside else fitted
    if origin in _UNIONS:
        results = (_fitted(value, arm) for arm in arms)
        return next((fitted for fitted in results if fitted is not _MISFIT), _MISFIT)
    if origin is Literal:
        return next((k for k in arms if type(k) is type(value) and k == value), _MISFIT)
    if origin is tuple:
        return _items(value, arms[0])
    if origin in (dict, Mapping):
        return _entries(value, arms[1])
    if origin is not None:
        return value if isinstance(value, origin) else _MISFIT
    return _plain(value, kind)


def _plain(value: Any, kind: Any) -> Any:
    """The value as a member of a type without parameters, or `_MISFIT`."""
    if kind is Any:
        return value
    if kind is Path:
        return Path(value) if isinstance(value, str | os.PathLike) else _MISFIT
    if kind is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return float(value) if number and math.isfinite(value) else _MISFIT
    if kind is int and isinstance(value, bool):
        return _MISFIT
    if kind is types.NoneType or kind is None:
        return None if value is None else _MISFIT
    return value if isinstance(value, kind) else _MISFIT


def _items(value: Any, kind: Any) -> Any:
    if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
        return _MISFIT
    items = tuple(_fitted(item, kind) for item in value)
    if any(item is _MISFIT for item in items):
        return _MISFIT
    return value if type(value) is tuple and items == value else items


def _entries(value: Any, kind: Any) -> Any:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        return _MISFIT
    entries = {key: _fitted(item, kind) for key, item in value.items()}
    return _MISFIT if any(item is _MISFIT for item in entries.values()) else entries


def _outside(value: Any, meta: Any) -> bool:
    if not isinstance(meta, Meta) or not isinstance(value, int | float):
        return False
    return (
        (meta.ge is not None and value < meta.ge)
        or (meta.gt is not None and value <= meta.gt)
        or (meta.le is not None and value > meta.le)
        or (meta.lt is not None and value >= meta.lt)
    )


def _readings(text: str, kind: Any) -> Iterator[Any]:
    """List possible values of a command-line text, the most specific first."""
    yield from (choice for choice in choices_of(kind) if str(choice).lower() == text.lower())
    for arm in arms_of(kind):
        try:
            if arm is int:
                yield int(text)
            elif arm is types.NoneType and text.lower() == "none" and str not in arms_of(kind):
                yield None
            elif arm is float:
                yield float(text[:-1]) / 100 if text.endswith("%") else float(text)
        except ValueError:
            continue
    yield text


def _advice(name: str, value: Any, kind: Any) -> str:
    """Name the allowed values and, if there is one, the nearest."""
    allowed = f"give {_allowed(kind)}"
    meant = _meant(value, kind)
    if meant is _MISFIT:
        return allowed
    return f"did you mean {name}={meant!r}? {allowed}"


def _meant(value: Any, kind: Any) -> Any:
    """The allowed value that a wrong one most likely stands for, or `_MISFIT`."""
    if not isinstance(value, str):
        return _MISFIT
    synonyms = _synonyms(kind)
    if value.lower() in synonyms:
        return synonyms[value.lower()]
    choices = choices_of(kind)
    if (word := _WORDS.get(value.lower())) is not None and word in choices:
        return word
    texts = {str(choice).lower(): choice for choice in choices}
    if near := difflib.get_close_matches(value.lower().replace("_", "-"), texts, 1, 0.5):
        return texts[near[0]]
    if any(get_origin(arm) is tuple for arm in arms_of(kind)):
        return [value]
    numbers = [arm for arm in arms_of(kind) if arm in (int, float)]
    for number in numbers:
        try:
            return number(value)
        except ValueError:
            continue
    return _MISFIT


def _allowed(kind: Any) -> str:
    """The members of a type in words: "a number >= 0 and < 1"."""
    origin, arms = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _allowed(arms[0]) + "".join(_bounds(meta) for meta in arms[1:])
    if origin in _UNIONS:
        choices = choices_of(kind)
        parts = [_one_of(choices)] if choices else []
        others = [arm for arm in arms if not choices_of(arm) and arm is not types.NoneType]
        return " or ".join([*parts, *(_allowed(arm) for arm in others)])
    if origin is Literal:
        return _one_of(arms)
    if origin is tuple:
        return f"a list, each item {_allowed(arms[0])}"
    if origin in (dict, Mapping):
        return f"a table of names, each with {_allowed(arms[1])}"
    words = {
        bool: "True or False",
        int: "a whole number",
        float: "a finite number",
        str: "a text",
        Path: "a path",
    }
    if kind in words:
        return words[kind]
    return "a function" if "Callable" in str(origin or kind) else f"a {kind.__name__}"


def _one_of(choices: tuple[Any, ...]) -> str:
    if choices == (True, False):
        return "True or False"
    return f"one of {', '.join(map(repr, choices))}"


def _bounds(meta: Any) -> str:
    if not isinstance(meta, Meta):
        return ""
    bounds = ((">=", meta.ge), (">", meta.gt), ("<=", meta.le), ("<", meta.lt))
    parts = [f"{sign} {bound:g}" for sign, bound in bounds if bound is not None]
    return f" {' and '.join(parts)}" if parts else ""


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{type(value).__name__} of {len(text)} characters"


def _bare(kind: Any) -> Any:
    return _bare(get_args(kind)[0]) if get_origin(kind) is Annotated else kind


def _metas(kind: Any) -> Iterator[Meta]:
    if get_origin(kind) is Annotated:
        inner, *metas = get_args(kind)
        yield from (meta for meta in metas if isinstance(meta, Meta))
        yield from _metas(inner)
    elif get_origin(kind) in _UNIONS:
        for arm in get_args(kind):
            yield from _metas(arm)


def _description(kind: Any) -> str:
    return next((meta.description for meta in _metas(kind) if meta.description), "")


def _synonyms(kind: Any) -> dict[str, Any]:
    return {
        word: value
        for meta in _metas(kind)
        for word, value in ((meta.extra or {}).get("synonyms") or {}).items()
    }
