"""A recipe: steps in order, readable from TOML and writable to it.

version = 1

[[steps]]
step = "simplify"

[[steps]]
step = "prune-weights"
sparsity = 0.3

[[steps]]
step = "quantize-static"
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import tomli_w

from onnxlite.errors import OptionError
from onnxlite.recipe.steps import STEPS, Step

VERSION = 1


class Recipe(msgspec.Struct, frozen=True):
    """Steps that are applied to a model one after the other.

    Attributes:
        steps: in order.
        calibration: how many of the samples, from the first on, the steps are given; what
            comes after them is held out. None leaves it to the split of `run`. A result
            depends on it, so a recipe that reproduces one names it.

    Raises:
        OptionError: there is no step, or a step has a value that is out of range; the
            message names the step's number, the field and what is allowed.
    """

    steps: tuple[Step, ...]
    calibration: int | None = None

    def __post_init__(self) -> None:
        if not self.steps:
            raise OptionError(f"a recipe needs at least one step: {_names()}")
        count = self.calibration
        if count is not None and (type(count) is not int or count < 1):
            raise OptionError(f"calibration counts samples, from 1 on; given was {count!r}")
        for number, step in enumerate(self.steps, 1):
            if type(step) not in STEPS.values():
                raise OptionError(
                    f"step {number} is of type {type(step).__name__}, not a step of a recipe: "
                    f"{', '.join(cls.__name__ for cls in STEPS.values())}"
                )
            _step(number, _fields(step))

    def to_toml(self) -> str:
        """The recipe as TOML, with every option written out; `from_toml` gives it back."""
        tables = (f"\n[[steps]]\n{_table(_fields(step))}" for step in self.steps)
        count = "" if self.calibration is None else f"calibration = {self.calibration}\n"
        return f"version = {VERSION}\n{count}{''.join(tables)}"

    @staticmethod
    def from_toml(text: str) -> Recipe:
        """Read a recipe from TOML.

        Raises:
            OptionError: not TOML, an unknown step or field, or a wrong value; the message
                names the step's number, the field and what is allowed.
        """
        try:
            data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise OptionError(f"the recipe is not valid TOML: {error}") from error
        if unknown := sorted(data.keys() - {"version", "calibration", "steps"}):
            raise OptionError(
                f"a recipe has no key {unknown[0]!r}: it holds 'version', 'calibration' and "
                "one [[steps]] table per step"
            )
        if (version := data.get("version", VERSION)) != VERSION:
            raise OptionError(
                f"the recipe has version {version!r}, this onnxlite reads version {VERSION}"
            )
        tables = data.get("steps", [])
        if not isinstance(tables, list):
            raise OptionError("'steps' is a list of tables: write [[steps]] above each step")
        steps = tuple(_step(number, table) for number, table in enumerate(tables, 1))
        return Recipe(steps, data.get("calibration"))


def load_recipe(path: str | os.PathLike[str]) -> Recipe:
    """Read a recipe from a TOML file.

    Raises:
        OptionError: the file cannot be read, or `Recipe.from_toml` refuses its text.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise OptionError(f"no recipe at {str(path)!r}: check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"cannot read the recipe {str(path)!r}: {error}") from error
    try:
        return Recipe.from_toml(text)
    except OptionError as error:
        raise OptionError(f"{path}: {error}") from error


def _table(fields: dict[str, Any]) -> str:
    """A step's options; those that are tables themselves come after the others."""
    plain = {key: value for key, value in fields.items() if not isinstance(value, dict)}
    inner = {key: value for key, value in fields.items() if isinstance(value, dict)}
    below = (f"\n{tomli_w.dumps({'steps': {key: value}})}" for key, value in inner.items())
    return tomli_w.dumps(plain) + "".join(below)


def _fields(step: Step) -> dict[str, Any]:
    """A step's options as TOML types; TOML has no null, so an option not given is left out."""
    return {key: value for key, value in msgspec.to_builtins(step).items() if value is not None}


def _step(number: int, table: Any) -> Step:
    if not isinstance(table, dict) or "step" not in table:
        raise OptionError(f"step {number} does not say which step it is: step = {_names()}")
    name = table["step"]
    cls = STEPS.get(name) if isinstance(name, str) else None
    if cls is None:
        raise OptionError(f"step {number}: there is no step {name!r}; allowed: {_names()}")
    where = f"step {number} ({name})"
    kinds = {field.name: field.type for field in msgspec.structs.fields(cls)}
    for field, value in table.items():
        if field == "step":
            continue
        if field not in kinds:
            allowed = ", ".join(kinds) or "none"
            raise OptionError(f"{where}: there is no field {field!r}; allowed: {allowed}")
        try:
            msgspec.convert(value, kinds[field])
        except msgspec.ValidationError as error:
            allowed = _allowed(msgspec.inspect.type_info(kinds[field]))
            raise OptionError(f"{where}: {field} is {allowed}, given was {value!r}") from error
    try:
        return msgspec.convert(table, cls)
    except msgspec.ValidationError as error:
        raise OptionError(f"{where}: {error}") from error


def _names() -> str:
    return ", ".join(repr(name) for name in STEPS)


def _allowed(kind: msgspec.inspect.Type) -> str:
    """What a field takes, in words: "a number >= 0 and < 1"."""
    match kind:
        case msgspec.inspect.UnionType(types=types):
            given = [t for t in types if not isinstance(t, msgspec.inspect.NoneType)]
            return " or ".join(_allowed(t) for t in given)
        case msgspec.inspect.LiteralType(values=values):
            return f"one of {', '.join(map(repr, values))}"
        case msgspec.inspect.BoolType():
            return "true or false"
        case msgspec.inspect.IntType():
            return f"a whole number{_bounds(kind)}"
        case msgspec.inspect.FloatType():
            return f"a number{_bounds(kind)}"
        case msgspec.inspect.VarTupleType(item_type=item):
            return f"a list, each item {_allowed(item)}"
        case msgspec.inspect.StrType():
            return "a text"
        case _:
            return f"a {type(kind).__name__.removesuffix('Type').lower()}"


def _bounds(kind: msgspec.inspect.IntType | msgspec.inspect.FloatType) -> str:
    bounds = ((">=", kind.ge), (">", kind.gt), ("<=", kind.le), ("<", kind.lt))
    parts = [f"{sign} {bound:g}" for sign, bound in bounds if bound is not None]
    return f" {' and '.join(parts)}" if parts else ""
