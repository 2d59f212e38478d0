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

import difflib
import os
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import msgspec
import tomli_w
from msgspec import Meta

from onnxlite.errors import OptionError
from onnxlite.options import Options, check_names
from onnxlite.prune.options import PruneChannels, PruneWeights, SparseStorage
from onnxlite.quantize.core.options import QuantizeStatic
from onnxlite.quantize.dynamic.options import QuantizeDynamic
from onnxlite.quantize.float16.options import ToFloat16
from onnxlite.quantize.mixed.options import QuantizeAuto
from onnxlite.quantize.weight_only.options import QuantizeWeights
from onnxlite.repair.options import Repair
from onnxlite.simplify.options import Simplify
from onnxlite.step import Step
from onnxlite.tune.options import Tune

VERSION = 1

#: Every step of a recipe by its name.
STEPS: dict[str, type[Step]] = {
    cls.name(): cls
    for cls in (
        Simplify,
        PruneChannels,
        PruneWeights,
        Repair,
        Tune,
        QuantizeStatic,
        QuantizeDynamic,
        QuantizeAuto,
        QuantizeWeights,
        ToFloat16,
        SparseStorage,
    )
}


class Recipe(Options, frozen=True):
    """Steps that are applied to a model one after the other.

    Attributes:
        steps: in order.
        calibration: number of samples, from the first on, that the steps are given; what comes
            after them is held out. None leaves it to the split of `run`. A result depends on
            it, so a recipe that reproduces one names it.

    Raises:
        OptionError: there is no step, or an entry is no step or has an option that TOML
            cannot hold; the message names the step's number.
    """

    steps: tuple[Step, ...]
    calibration: Annotated[int, Meta(ge=1, description="Samples for the steps.")] | None = None

    def __post_init__(self) -> None:
        for number, step in enumerate(self.steps, 1):
            if not isinstance(step, Step):
                raise OptionError(
                    f"step {number} is {step!r}, of type {type(step).__name__}: give a step of a "
                    f"recipe, one of {', '.join(cls.__name__ for cls in STEPS.values())}"
                )
        super().__post_init__()

    def validate(self) -> None:
        """Raise `OptionError` without a step, or for options that TOML cannot hold."""
        if not self.steps:
            raise OptionError(f"a recipe needs at least one step: {_names()}")
        for number, step in enumerate(self.steps, 1):
            _fields(number, step)

    def to_toml(self) -> str:
        """Return the recipe as TOML with every option written out; `from_toml` reads it."""
        tables = (
            f"\n[[steps]]\n{_table(_fields(number, step))}"
            for number, step in enumerate(self.steps, 1)
        )
        count = "" if self.calibration is None else f"calibration = {self.calibration}\n"
        return f"version = {VERSION}\n{count}{''.join(tables)}"

    @staticmethod
    def from_toml(text: str) -> Recipe:
        """Read a recipe from TOML.

        Raises:
            OptionError: not TOML, an unknown step or option, or a wrong value; the message
                names the step's number, the option and what is allowed.
        """
        try:
            data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise OptionError(f"the recipe is not valid TOML: {error}") from error
        check_names(data, ("version", "calibration", "steps"), where="a recipe")
        if (version := data.get("version", VERSION)) != VERSION:
            raise OptionError(
                f"the recipe has version {version!r}, this onnxlite reads version {VERSION}"
            )
        tables = data.get("steps", [])
        if not isinstance(tables, list):
            raise OptionError("'steps' is a list of tables: write [[steps]] above each step")
        steps = tuple(_step(number, table) for number, table in enumerate(tables, 1))
        return Recipe(steps, data.get("calibration"))


#: Every form in which functions accept a recipe.
RecipeLike: TypeAlias = Recipe | Step | Iterable[Step] | str | os.PathLike[str]


def as_recipe(recipe: RecipeLike) -> Recipe:
    """Return a recipe from a recipe, a step, a list of steps or the path of a TOML file."""
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, str | os.PathLike):
        return load_recipe(recipe)
    if isinstance(recipe, Step):
        return Recipe((recipe,))
    if not isinstance(recipe, Iterable):
        raise OptionError(
            f"recipe={recipe!r}: give a Recipe, a list of steps or the path of a TOML file"
        )
    return Recipe(tuple(recipe))


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


def _fields(number: int, step: Step) -> dict[str, Any]:
    """A step's options as TOML types; TOML has no null, so an option not given is left out."""
    if functions := [name for name in step.__struct_fields__ if callable(getattr(step, name))]:
        raise OptionError(
            f"step {number} ({step.name()}): {functions[0]} is a function, which a recipe cannot "
            f"hold: call onnxlite.{step.name().replace('-', '_')} instead"
        )
    values = msgspec.to_builtins(step, enc_hook=os.fspath)
    return {key: value for key, value in values.items() if value is not None}


def _step(number: int, table: Any) -> Step:
    """Make a step from its table."""
    if not isinstance(table, dict) or "step" not in table:
        raise OptionError(f"step {number} does not say which step it is: step = {_names()}")
    name = table["step"]
    cls = STEPS.get(name) if isinstance(name, str) else None
    if cls is None:
        near = difflib.get_close_matches(str(name), STEPS, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise OptionError(f"step {number}: there is no step {name!r}; {hint}allowed: {_names()}")
    where = f"step {number} ({name})"
    options = {key: value for key, value in table.items() if key != "step"}
    check_names(options, cls.__struct_fields__, cls.renamed, where=where)
    try:
        return cls(**options)
    except OptionError as error:
        raise OptionError(f"{where}: {error}") from error


def _names() -> str:
    return ", ".join(repr(name) for name in STEPS)
