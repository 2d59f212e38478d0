"""Samples in any form, made into one validated stream of feeds.

A feed is what one inference takes: `dict[input name, ndarray]`. `Samples` is
re-iterable and keeps no copy of what it was given: arrays are sliced, files are
memory-mapped, and the batches of a loader pass through one at a time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from onnxlite.errors import OptionError, SamplesError
from onnxlite.inputs import Array, Feed, InputSpec, feed_size, trim, with_axes
from onnxlite.sample_reader import check_names, kept, reader

#: An ndarray (one input; samples along its batch axis), a dict of them, a `.npy`/`.npz` path, a
#: folder of those, or an iterable of batches (array, tuple, or dict per batch).
SamplesLike: TypeAlias = (
    "Array | Mapping[str, Any] | str | os.PathLike[str] | Iterable[Any] | Samples"
)


class Bound:
    """Samples of known inputs: their batch axes hold for every `Samples` made of them.

    Attributes:
        inputs: of the model that they are for.
    """

    inputs: tuple[InputSpec, ...]


class BoundSamples(Bound):
    """Samples in any form, bound to inputs.

    Args:
        source: the data; what can be iterated only once is kept as a list.
        inputs: with their batch axes.
    """

    def __init__(self, source: SamplesLike, inputs: Sequence[InputSpec]) -> None:
        self.source = kept(source)
        self.inputs = tuple(inputs)
        #: Warnings that were given, each once.
        self.warned: set[str] = set()

    def __iter__(self) -> Iterator[Feed]:
        return iter(Samples(self, self.inputs))


class Samples(Bound):
    """A validated, re-iterable stream of feeds for one model.

    Args:
        source: the data, in any of the forms of `SamplesLike`.
        inputs: the model's inputs (`input_specs(model)`); batch axes that `source` is bound to
            hold instead of theirs.
        batch_size: samples per feed where the model's batch axis is dynamic. A fixed batch
            axis decides by itself; a loader's batches stay as they are.
        limit: use at most this many samples, but the first feed whole if its batch axis is
            fixed.

    Raises:
        OptionError: `batch_size` or `limit` is below 1.
        SamplesError: a name, dtype or shape does not fit, a value is NaN or too large for its
            type, or there is no sample. Raised while iterating for what only then is known.
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
        if isinstance(source, Bound):
            axes = {spec.name: spec.batch_axis for spec in source.inputs}
            self.inputs = with_axes(self.inputs, axes)
        warned: set[str] = set()
        if isinstance(source, BoundSamples):
            warned = source.warned
            source = source.source
        self._limit = limit
        if isinstance(source, Samples):
            self._limit = source._limit if limit is None else limit
            self._open: Callable[[], Iterator[Feed]] = source._open
            self._held: int = source._held
            return
        self._open = reader(source, self.inputs, batch_size, warned)
        self._held = _held(source, self.inputs)
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


def _held(source: Any, inputs: Sequence[InputSpec]) -> int:
    """Number of samples in arrays, 0 where that takes reading."""
    arrays = source if isinstance(source, Mapping) else {s.name: source for s in inputs[:1]}
    sizes = [
        arrays[spec.name].shape[spec.batch_axis]
        for spec in inputs
        if spec.batch_axis is not None
        and getattr(arrays.get(spec.name), "ndim", 0) > spec.batch_axis
    ]
    return max(sizes, default=0)


def _validated(feed: Feed, inputs: tuple[InputSpec, ...], index: int) -> Feed:
    where = f"feed {index}"
    check_names(feed, inputs, where)
    result: Feed = {}
    for spec in inputs:
        array = _cast(feed[spec.name], spec, where)
        _check_shape(array, spec, where)
        # Another axis may have length 0: the past of a decoder at its first token.
        axis = spec.batch_axis
        if axis is not None and array.ndim > axis and array.shape[axis] == 0:
            raise SamplesError(f"{where}: input {spec.name!r} is empty (shape {array.shape})")
        # Masks of attention are -inf on purpose; what overflows in the cast is not.
        wrong = array.dtype.kind == "f" and ~np.isfinite(array)
        if np.any(wrong) and (bad := int((wrong & ~np.isinf(feed[spec.name])).sum())):
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
