"""Inputs of a model: name, type, shape, and the axis along which its feeds count samples.

The batch axis of each input is derived from declared names. A name such as `batch` decides by
itself; otherwise the first axis is the batch, together with all axes that share its name:

    x: [N, 40], state: [2, N, 64]           N is the batch, axis 0 of x and axis 1 of the state
    x: [time, batch, 40]                    axis 1
    tokens: [batch, T], positions: [T]      positions have no batch axis and are passed whole

Where names do not settle it (`settled`), `batch_axis.py` runs the model on a doubled batch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import msgspec
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.errors import OptionError

Array: TypeAlias = NDArray[Any]
Feed: TypeAlias = dict[str, Array]
Shape: TypeAlias = tuple[int | str | None, ...]

#: One axis for all inputs, or the axis by name of the input; None for an input without batch axis.
BatchAxis: TypeAlias = "int | Mapping[str, int | None]"

#: Words in names of axes that count samples, alone or as part of a name.
_BATCH_WORDS = frozenset({"batch", "batchsize", "bs"})
#: Names that count samples behind an axis of a length.
_BATCH_LETTERS = frozenset({"b", "n"})
#: Words in names of axes that count parts of one sample.
_LENGTH_WORDS = frozenset(
    {"t", "time", "times", "seq", "sequence", "seqlen", "l", "len", "length"}
    | {"frame", "frames", "token", "tokens", "step", "steps", "word", "words"}
    | {"node", "nodes", "edge", "edges", "atom", "atoms", "vertex", "vertices"}
)


class InputSpec(msgspec.Struct, frozen=True):
    """One model input.

    Attributes:
        name: of the input.
        dtype: NumPy's name of the type; `"object"` for text.
        shape: sizes, or names of dynamic axes (None without a name); None for unknown rank.
        batch_axis: axis that counts samples; None for an input that is passed whole.
    """

    name: str
    dtype: str
    shape: Shape | None
    batch_axis: int | None = 0

    def __str__(self) -> str:
        dims = "?" if self.shape is None else ", ".join(str(d or "?") for d in self.shape)
        return f"{self.name}: {self.dtype}[{dims}]"

    @property
    def batch(self) -> int | str | None:
        """Size or name of the batch axis; None without a name or without such an axis."""
        return self.shape[self.batch_axis] if self.shape and self.batch_axis is not None else None

    @property
    def has_fixed_batch(self) -> bool:
        """True if the batch axis has a fixed size."""
        return isinstance(self.batch, int)


def input_specs(model: ir.Model) -> tuple[InputSpec, ...]:
    """The inputs that a caller of `model` must feed (initializers are not among them)."""
    specs = []
    for value in model.graph.inputs:
        if value.is_initializer():
            continue
        name = value.name or "?"
        dtype = "object" if value.dtype in (None, ir.DataType.STRING) else value.dtype.numpy().name
        dims = None
        if value.shape is not None:
            dims = tuple(d if isinstance(d, int) and d > 0 else _symbol(d) for d in value.shape)
        specs.append(InputSpec(name, dtype, dims))
    axes = _named_axes([spec.shape for spec in specs])
    return tuple(
        msgspec.structs.replace(spec, batch_axis=axis)
        for spec, axis in zip(specs, axes, strict=True)
    )


def _symbol(dim: int | ir.SymbolicDim) -> str | None:
    return None if isinstance(dim, int) else dim.value


def with_axes(specs: Sequence[InputSpec], axes: Mapping[str, int | None]) -> tuple[InputSpec, ...]:
    """Set the batch axes of the inputs that `axes` names."""
    return tuple(
        msgspec.structs.replace(spec, batch_axis=axes.get(spec.name, spec.batch_axis))
        for spec in specs
    )


def declared_axes(specs: Sequence[InputSpec], given: BatchAxis) -> dict[str, int | None]:
    """Check batch axes that a caller gives.

    Returns:
        Axis by name of the input, from 0 on, of the inputs that `given` decides.

    Raises:
        OptionError: an input is unknown, or has no such axis.
    """
    if isinstance(given, Mapping):
        asked = dict(given)
    else:  # scalars have no axis to give
        asked = {spec.name: given for spec in specs if spec.shape is None or len(spec.shape)}
    known = {spec.name: spec for spec in specs}
    for name, axis in asked.items():
        if name not in known:
            raise OptionError(
                f"batch_axis: {name!r} is no input; the model takes {', '.join(map(str, specs))}"
            )
        shape = known[name].shape
        if axis is None or shape is None:
            continue
        if not -len(shape) <= axis < len(shape):
            raise OptionError(
                f"batch_axis={axis} for input {known[name]}: give an axis from 0 to "
                f"{len(shape) - 1}, or None for an input without a batch axis"
            )
        asked[name] = axis % len(shape)
    return asked


def settled(specs: Sequence[InputSpec]) -> bool:
    """Tell whether the declared names leave no doubt about the batch axes.

    They do where a name says batch, or where the name of a first axis is in every input once and
    is no length; sizes that are fixed leave nothing to derive.
    """
    shapes = [spec.shape for spec in specs if spec.shape]
    symbols = _batch_symbols(shapes)
    if symbols:
        without = [shape for shape in shapes if not symbols & set(shape)]
        return not any(None in shape for shape in without)
    leads = {shape[0] for shape in shapes if not isinstance(shape[0], int)}
    if len(leads) != 1:
        return not leads
    (lead,) = leads
    if lead is None:
        return all(shape[0] is None for shape in shapes)
    return all(shape.count(lead) == 1 for shape in shapes) and not _words(lead) & _LENGTH_WORDS


def _named_axes(shapes: Sequence[Shape | None]) -> list[int | None]:
    """Derive the batch axes from names; where they do not tell, the first axes."""
    ranked = [shape for shape in shapes if shape]
    symbols = _batch_symbols(ranked)
    leads = [shape[0] for shape in ranked if not isinstance(shape[0], int)]
    if symbols or leads:
        shared = symbols or {lead for lead in leads[:1] if lead is not None}
        return [_axis(shape, shared, first=not symbols) for shape in shapes]
    # All are fixed: those whose first axis has the size of the first input's.
    return [
        0 if shape is None or (shape and shape[0] == ranked[0][0]) else None for shape in shapes
    ]


def _axis(shape: Shape | None, symbols: set[Any], *, first: bool) -> int | None:
    """The axis that has one of the symbols, else a dynamic first axis if it may be the batch."""
    if shape is None:
        return 0
    found = [axis for axis, dim in enumerate(shape) if dim in symbols]
    if found:
        return found[0]
    may_be = shape and (shape[0] is None or (first and isinstance(shape[0], str)))
    return 0 if may_be else None


def _batch_symbols(shapes: Sequence[Shape]) -> set[int | str | None]:
    """Names of axes that say batch."""
    names = {dim for shape in shapes for dim in shape if isinstance(dim, str)}
    said: set[int | str | None] = {name for name in names if _words(name) & _BATCH_WORDS}
    if said:
        return said
    # [time, n, features]: a letter counts samples only behind a length.
    return {
        dim
        for shape in shapes
        if isinstance(shape[0], str) and _words(shape[0]) & _LENGTH_WORDS
        for dim in shape[1:]
        if isinstance(dim, str) and dim.lower() in _BATCH_LETTERS
    }


def _words(name: str) -> set[str]:
    """Words of a name; an expression such as `2*batch` has none."""
    if not re.fullmatch(r"[\w.:-]+", name):
        return set()
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)
    return set(re.findall("[a-z]+", spaced.lower()))


def feed_size(feed: Feed, inputs: Sequence[InputSpec]) -> int:
    """Samples in one feed: the size of a batch axis, 1 if no input has one."""
    for spec in inputs:
        if spec.batch_axis is not None:
            array = feed[spec.name]
            return int(array.shape[spec.batch_axis]) if array.ndim > spec.batch_axis else 1
    return 1


def is_cuttable(feed: Feed, inputs: Sequence[InputSpec]) -> bool:
    """Tell whether the samples of a feed can be separated: its batch axes are dynamic."""
    size = feed_size(feed, inputs)
    return all(
        feed[spec.name].ndim == 0
        or (feed[spec.name].shape[spec.batch_axis] == size and not spec.has_fixed_batch)
        for spec in inputs
        if spec.batch_axis is not None
    )


def cut(feed: Feed, inputs: Sequence[InputSpec], which: slice | Sequence[int]) -> Feed:
    """Some samples of a feed, by index; inputs without batch axis stay whole."""
    result = {}
    for spec in inputs:
        array, axis = feed[spec.name], spec.batch_axis
        result[spec.name] = array if axis is None or not array.ndim else along(array, axis, which)
    return result


def along(array: Array, axis: int, which: slice | Sequence[int]) -> Array:
    """Index an array along one axis."""
    result: Array = array[(slice(None),) * axis + (which,)]
    return result


def trim(feed: Feed, inputs: Sequence[InputSpec], count: int) -> Feed | None:
    """The first `count` samples of a feed; None where an input's batch axis is fixed."""
    if count <= 0 or any(spec.has_fixed_batch for spec in inputs):
        return None
    return cut(feed, inputs, slice(count))


def separated(feed: Feed, inputs: Sequence[InputSpec]) -> list[Feed] | None:
    """The samples of a feed one by one; None if they cannot be separated."""
    if not is_cuttable(feed, inputs):
        return None
    return [cut(feed, inputs, slice(i, i + 1)) for i in range(feed_size(feed, inputs))]


def join(feeds: Sequence[Feed], inputs: Sequence[InputSpec]) -> Feed:
    """Concatenate feeds along their batch axes; the first one gives the inputs without."""
    return {
        spec.name: feeds[0][spec.name]
        if spec.batch_axis is None or feeds[0][spec.name].ndim == 0
        else np.concatenate([feed[spec.name] for feed in feeds], axis=spec.batch_axis)
        for spec in inputs
    }
