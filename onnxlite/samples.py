"""Samples in any form, made into one validated stream of feeds.

A feed is what one inference takes: `dict[input name, ndarray]`. `Samples` is
re-iterable and keeps no copy of what it was given: arrays are sliced, files are
memory-mapped, and the batches of a loader pass through one at a time.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.errors import OptionError, SamplesError

logger = logging.getLogger(__name__)

Array: TypeAlias = NDArray[Any]
Feed: TypeAlias = dict[str, Array]

#: An ndarray (one input; first axis = samples), a dict of them, a `.npy`/`.npz` path, a
#: folder of those, or an iterable of batches (array, tuple, or dict per batch).
SamplesLike: TypeAlias = (
    "Array | Mapping[str, Any] | str | os.PathLike[str] | Iterable[Any] | Samples"
)


class InputSpec(msgspec.Struct, frozen=True):
    """One model input: its name, NumPy dtype name and shape (str or None = dynamic)."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None

    def __str__(self) -> str:
        dims = "?" if self.shape is None else ", ".join(str(d or "?") for d in self.shape)
        return f"{self.name}: {self.dtype}[{dims}]"


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
    return tuple(specs)


def _symbol(dim: int | ir.SymbolicDim) -> str | None:
    return None if isinstance(dim, int) else dim.value


class Samples:
    """A validated, re-iterable stream of feeds for one model.

    Args:
        source: the data, in any of the forms of `SamplesLike`.
        inputs: the model's inputs (`input_specs(model)`).
        batch_size: samples per feed where the model's batch axis is dynamic. A fixed batch
            axis decides by itself; a loader's batches stay as they are.
        limit: use at most this many samples, but the first feed whole if its batch axis is
            fixed.

    Raises:
        OptionError: `batch_size` or `limit` is below 1.
        SamplesError: a name, dtype or shape does not fit, a value is NaN or infinite, or
            there is no sample. Raised while iterating for what only then is known.
    """

    def __init__(
        self,
        source: SamplesLike,
        inputs: Sequence[InputSpec],
        *,
        batch_size: int = 8,
        limit: int | None = None,
    ) -> None:
        if batch_size < 1 or (limit is not None and limit < 1):
            raise OptionError(f"batch_size={batch_size}, limit={limit}: give counts from 1 on")
        self.inputs = tuple(inputs)
        self._limit = limit
        if isinstance(source, Samples):
            self._limit = source._limit if limit is None else limit
            self._open: Callable[[], Iterator[Feed]] = source._open
            self._held: int = source._held
            return
        self._open = _reader(source, self.inputs, batch_size)
        arrays: Iterable[Any] = source.values() if isinstance(source, Mapping) else [source]
        self._held = max((len(a) for a in arrays if getattr(a, "ndim", 0)), default=0)
        next(iter(self))

    def __iter__(self) -> Iterator[Feed]:
        seen = 0
        for index, feed in enumerate(self._open()):
            feed = _validated(feed, self.inputs, index)
            count = feed_size(feed, self.inputs)
            if self._limit is not None and seen + count > self._limit:
                trimmed = trim(feed, self.inputs, self._limit - seen)
                if trimmed is not None or not seen:
                    yield trimmed or feed
                return
            seen += count
            yield feed
            if self._limit is not None and seen >= self._limit:
                return
        if not seen:
            raise SamplesError(
                "the samples are empty, or can be iterated only once: give a list, an array or a "
                "loader with at least one sample"
            )

    def __length_hint__(self) -> int:
        """Number of samples, if arrays tell it without a pass over the data; else 0."""
        return self._held if self._limit is None else min(self._held, self._limit)

    def count(self) -> int:
        """Number of samples, found by one pass over the data."""
        return sum(feed_size(feed, self.inputs) for feed in self)


def feed_size(feed: Feed, inputs: Sequence[InputSpec]) -> int:
    """Samples in one feed: the size of the first input's batch axis, 1 without one."""
    for spec in inputs:
        if spec.shape is None or len(spec.shape) > 0:
            array = feed[spec.name]
            return int(array.shape[0]) if array.ndim else 1
    return 1


def generate(
    inputs: Sequence[InputSpec],
    *,
    count: int = 2,
    seed: int = 0,
    dims: Mapping[str, int] | None = None,
    default_dim: int = 1,
) -> list[Feed]:
    """Make up plausible feeds for a model nobody gave samples for.

    Floats are standard normal; integers are 0 or 1 (a valid index, token or mask almost
    everywhere); booleans are true. `dims` sets symbolic dimensions by name; the others
    become `default_dim`.
    """
    rng = np.random.default_rng(seed)
    return [
        {s.name: _random(s, rng, dims or {}, default_dim) for s in inputs} for _ in range(count)
    ]


def _random(
    spec: InputSpec, rng: np.random.Generator, dims: Mapping[str, int], default: int
) -> Array:
    shape = [d if isinstance(d, int) else dims.get(d or "", default) for d in spec.shape or ()]
    if spec.dtype == "object":
        return np.full(shape, "text", dtype=object)
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "b":
        return np.ones(shape, dtype)
    if dtype.kind in "iu":
        return rng.integers(0, 2, shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)


def _reader(source: Any, inputs: tuple[InputSpec, ...], batch: int) -> Callable[[], Iterator[Feed]]:
    """Choose how to read `source`; what comes out is re-iterable."""
    if isinstance(source, str | os.PathLike):
        return _path_reader(Path(source), inputs, batch)
    if isinstance(source, Mapping):
        arrays = {str(name): _to_array(array) for name, array in source.items()}
        return lambda: _split(arrays, inputs, batch)
    if isinstance(source, np.ndarray) or hasattr(source, "__array__"):
        array = _to_array(source)
        return lambda: _split({_only(inputs).name: array}, inputs, batch)
    if isinstance(source, Iterator):
        logger.warning(
            "the samples are a one-shot iterator: all of it is kept in memory, because "
            "several passes are needed; pass a list, an array or a loader to avoid that"
        )
        source = list(source)
    if isinstance(source, Iterable):
        return lambda: (_as_feed(item, inputs, index) for index, item in enumerate(source))
    raise SamplesError(
        f"samples of type {type(source).__name__} are not understood: give an array, a dict of "
        "arrays, a .npy/.npz path, a folder of those, or an iterable of batches"
    )


def _path_reader(
    path: Path, inputs: tuple[InputSpec, ...], batch: int
) -> Callable[[], Iterator[Feed]]:
    try:
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        files = [file for file in files if file.suffix in (".npy", ".npz")]
        if not path.exists():
            raise SamplesError(f"no samples at {str(path)!r}: check the path")
    except OSError as error:
        raise SamplesError(f"cannot read samples from {str(path)!r}: {error}") from error
    if path.is_dir() and not files:
        raise SamplesError(f"the folder {str(path)!r} holds no .npy or .npz file")
    if not files:
        raise SamplesError(f"{str(path)!r}: samples are read from .npy and .npz files")
    if len(files) == 1:
        arrays = _read_arrays(files[0], inputs)
        return lambda: _split(arrays, inputs, batch)
    # One file at a time: a folder may hold more than memory does.
    return lambda: (
        feed for file in files for feed in _split(_read_arrays(file, inputs), inputs, batch)
    )


def _read_arrays(path: Path, inputs: tuple[InputSpec, ...]) -> dict[str, Array]:
    """The arrays of one file by input name; a `.npy` is memory-mapped."""
    try:
        if path.suffix == ".npy":
            arrays = {"arr_0": np.load(path, mmap_mode="r", allow_pickle=False)}
        else:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
                arrays = dict(data)
    # NumPy hands through whatever its header parser, zipfile and zlib raise.
    except Exception as error:
        raise SamplesError(f"cannot read samples from {str(path)!r}: {error}") from error
    return {_only(inputs).name: arrays["arr_0"]} if list(arrays) == ["arr_0"] else arrays


def _only(inputs: tuple[InputSpec, ...]) -> InputSpec:
    if len(inputs) != 1:
        names = ", ".join(str(spec) for spec in inputs)
        raise SamplesError(
            f"one array for a model with {len(inputs)} inputs ({names}): give a dict of arrays"
        )
    return inputs[0]


def _to_array(value: Any) -> Array:
    """Convert to an ndarray: NumPy, nested lists, and tensors of any framework."""
    try:
        if hasattr(value, "detach"):  # a torch tensor: NumPy refuses one that requires a gradient
            value = value.detach().cpu()
        return np.asarray(value)
    # Ragged lists, and tensors that NumPy has no type or no memory layout for.
    except (TypeError, ValueError, RuntimeError) as error:
        raise SamplesError(
            f"a sample of type {type(value).__name__} cannot be made an array: {error}"
        ) from error


def _as_feed(item: Any, inputs: tuple[InputSpec, ...], index: int) -> Feed:
    if isinstance(item, Mapping):
        return {str(name): _to_array(array) for name, array in item.items()}
    if isinstance(item, tuple | list) and not np.isscalar(item[0] if item else 0):
        # A loader yields (inputs..., label): what goes beyond the inputs is not for us.
        if len(item) < len(inputs):
            raise SamplesError(
                f"batch {index} has {len(item)} arrays for {len(inputs)} inputs: "
                f"give them in the order {', '.join(spec.name for spec in inputs)}"
            )
        return {s.name: _to_array(a) for s, a in zip(inputs, item, strict=False)}
    return {_only(inputs).name: _to_array(item)}


def _split(
    arrays: Mapping[str, Array], inputs: tuple[InputSpec, ...], batch: int
) -> Iterator[Feed]:
    """Cut arrays whose first axis counts samples into feeds.

    An array with one axis more than its input holds whole inputs; then each feed is
    one sample. A scalar goes into every feed.
    """
    _check_names(arrays, inputs, "the samples")
    stacked = any(_is_stacked(arrays[spec.name], spec) for spec in inputs)
    counted = {spec.name: len(arrays[spec.name]) for spec in inputs if arrays[spec.name].ndim > 0}
    if len(set(counted.values())) > 1:
        raise SamplesError(
            f"the inputs have different numbers of samples: {counted}; the first axis counts them"
        )
    total = next(iter(counted.values()), 1)
    fixed = [
        spec.shape[0] for spec in inputs if spec.shape and not _is_stacked(arrays[spec.name], spec)
    ]
    sizes = [size for size in fixed if isinstance(size, int)]
    step = 1 if stacked else min(sizes, default=batch)
    if sizes and total % step:
        logger.warning("%d of %d samples do not fill a batch: unused", total % step, total)
        if total < step:
            raise SamplesError(
                f"{total} samples cannot fill the model's fixed batch of {step}: "
                f"give at least {step}"
            )
        total -= total % step
    for start in range(0, total, step):
        feed = {}
        for spec in inputs:
            array = arrays[spec.name]
            if array.ndim == 0:
                feed[spec.name] = array
            elif _is_stacked(array, spec):
                feed[spec.name] = array[start]
            else:
                feed[spec.name] = array[start : start + step]
        yield feed


def _is_stacked(array: Array, spec: InputSpec) -> bool:
    return spec.shape is not None and array.ndim == len(spec.shape) + 1


def _check_names(names: Iterable[str], inputs: tuple[InputSpec, ...], where: str) -> None:
    expected, given = {spec.name for spec in inputs}, set(names)
    if missing := sorted(expected - given):
        raise SamplesError(
            f"{where}: no data for input {', '.join(map(repr, missing))}; "
            f"the model takes {', '.join(map(str, inputs))}, given were {sorted(given)}"
        )
    if extra := sorted(given - expected):
        raise SamplesError(
            f"{where}: {', '.join(map(repr, extra))} is not an input; "
            f"the model takes {', '.join(map(str, inputs))}"
        )


def _validated(feed: Feed, inputs: tuple[InputSpec, ...], index: int) -> Feed:
    where = f"feed {index}"
    _check_names(feed, inputs, where)
    result: Feed = {}
    for spec in inputs:
        array = _cast(feed[spec.name], spec, where)
        _check_shape(array, spec, where)
        # Another axis may have length 0: the past of a decoder at its first token.
        if array.ndim and array.shape[0] == 0:
            raise SamplesError(f"{where}: input {spec.name!r} is empty (shape {array.shape})")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            bad = int(array.size - np.isfinite(array).sum())
            raise SamplesError(
                f"{where}: input {spec.name!r} has {bad} NaN or infinite of {array.size} values: "
                "check the preprocessing"
            )
        result[spec.name] = array
    return result


def _cast(array: Array, spec: InputSpec, where: str) -> Array:
    """Convert where no value changes its meaning: float widths, and integers that fit."""
    array = np.asarray(array)
    wanted = np.dtype(spec.dtype)
    if array.dtype == wanted:
        return np.ascontiguousarray(array).reshape(array.shape)
    both_text = array.dtype.kind == "U" and wanted.kind == "O"
    both_float = array.dtype.kind == "f" and wanted.kind in "fV"
    both_integer = array.dtype.kind in "iu" and wanted.kind in "iu"
    if not (both_text or both_float or both_integer):
        kind = "text" if wanted.kind == "O" else spec.dtype
        hint = ": scale and convert them first" if array.dtype.kind in "iu" else ""
        raise SamplesError(
            f"{where}: input {spec.name!r} takes {kind}, given was {array.dtype}{hint}"
        )
    with np.errstate(over="ignore"):  # what overflows becomes infinite, and is refused as such
        result = array.astype(wanted)
    if both_integer and not np.array_equal(result, array):
        raise SamplesError(
            f"{where}: input {spec.name!r} takes {spec.dtype}, and values of the given "
            f"{array.dtype} do not fit"
        )
    return result


def _check_shape(array: Array, spec: InputSpec, where: str) -> None:
    if spec.shape is None:
        return
    fits = array.ndim == len(spec.shape) and all(
        not isinstance(want, int) or want == have
        for want, have in zip(spec.shape, array.shape, strict=False)
    )
    if not fits:
        raise SamplesError(
            f"{where}: input {spec} was given shape {tuple(array.shape)}: "
            "reshape the samples, or fix the axis order"
        )


def trim(feed: Feed, inputs: Sequence[InputSpec], count: int) -> Feed | None:
    """The first `count` samples of a feed; None where an input's batch axis is fixed."""
    if count <= 0 or any(s.shape and isinstance(s.shape[0], int) for s in inputs):
        return None
    return {s.name: feed[s.name][:count] if feed[s.name].ndim else feed[s.name] for s in inputs}
