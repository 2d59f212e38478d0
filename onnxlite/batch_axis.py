"""Batch axes of a model's inputs: given by the caller, declared by names, or tried out.

Names settle most models (`inputs.py`). For the others the model runs on two generated feeds and on
each of them twice in a row along the axes in question. They are batch axes if every output is
either unchanged or holds its own values twice in a row along some axis, one of them at least:

    states [2, ?, 64]     axis 1 together with axis 0 of x: accepted
    [time, ?, 40]         axis 0: the recurrence goes on, so the second half differs; axis 1 holds
    nodes and edges       twice the nodes without further edges: the second half differs; none
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.errors import ExecutionError, UnsupportedError
from onnxlite.inputs import (
    BatchAxis,
    Feed,
    InputSpec,
    declared_axes,
    input_specs,
    join,
    settled,
    with_axes,
)
from onnxlite.runtime import Outputs, Session, checking_session, probe_feeds
from onnxlite.samples import Bound, BoundSamples, SamplesLike, generate

logger = logging.getLogger(__name__)

#: Sums in another order differ by no more, relative to the largest value.
_TOLERANCE = 1e-3
#: Size of dynamic axes in a trial: a graph of one or two nodes hardly has messages.
_SIZE = 5

Axes = Mapping[str, int | None]


@overload
def bind(model: ir.Model, samples: None, given: BatchAxis | None = None) -> None: ...
@overload
def bind(model: ir.Model, samples: SamplesLike, given: BatchAxis | None = None) -> SamplesLike: ...
def bind(
    model: ir.Model, samples: SamplesLike | None, given: BatchAxis | None = None
) -> SamplesLike | None:
    """Bind samples to the inputs of a model, with the batch axis of each.

    Args:
        model: that the samples are for.
        samples: in any form; those that are bound keep their axes unless some are given.
        given: axis of all inputs, or of some by name; the others are derived.

    Raises:
        OptionError: an input is unknown, or has no such axis.
    """
    if samples is None or (given is None and isinstance(samples, Bound)):
        return samples
    return BoundSamples(samples, batch_specs(model, given))


def batch_specs(model: ir.Model, given: BatchAxis | None = None) -> tuple[InputSpec, ...]:
    """The inputs of a model with their batch axes; the model runs where names do not tell them.

    Raises:
        OptionError: an input in `given` is unknown, or has no such axis.
    """
    specs = input_specs(model)
    asked = {} if given is None else declared_axes(specs, given)
    specs = with_axes(specs, asked)
    open_specs = [spec for spec in specs if spec.shape and spec.name not in asked]
    if not open_specs or settled(specs):
        return specs
    return with_axes(specs, _tried(model, specs, asked))


def _tried(model: ir.Model, specs: Sequence[InputSpec], asked: Axes) -> Axes:
    """Find axes along which the model treats samples apart; none if no choice does.

    Where no generated feed is accepted, the axes stay as they are.
    """
    try:
        session = checking_session(model)
        feeds, alone = _trial_feeds(model, specs, session)
    except (ExecutionError, UnsupportedError) as error:
        logger.warning(
            "the batch axes of %s are not certain (%s): the first axes are taken; give others by "
            "batch_axis (--batch-axis)",
            ", ".join(map(str, specs)),
            error,
        )
        return {}
    seen: list[Axes] = []
    for choice in _choices(specs):
        axes = {**choice, **asked}
        if axes in seen or all(axis is None for axis in axes.values()):
            continue
        # What varies in size beside the samples belongs to one of them, like the edges of a graph.
        if any(axes[name] is None and name not in asked for name in _dynamic_axes(specs)):
            continue
        seen.append(axes)
        tried = with_axes(specs, axes)
        try:
            twice = [session.run(join([feed, feed], tried)) for feed in feeds]
        except ExecutionError:
            continue
        if all(map(_doubles, alone, twice)):
            return axes
    return {spec.name: asked.get(spec.name) for spec in specs}


def _trial_feeds(
    model: ir.Model, specs: Sequence[InputSpec], session: Session
) -> tuple[list[Feed], list[Outputs]]:
    """Generate feeds of several nodes, tokens or frames if the model accepts those; run them."""
    feeds = generate(specs, default_dim=_SIZE)
    try:
        return feeds, [session.run(feed) for feed in feeds]
    except ExecutionError:
        feeds = probe_feeds(model)
        return feeds, [session.run(feed) for feed in feeds]


def _choices(specs: Sequence[InputSpec]) -> Iterator[Axes]:
    """Axes that may count samples, the likeliest first; fixed axes never do."""
    dynamic = {spec.name: list[int]() for spec in specs} | _dynamic_axes(specs)
    yield {s.name: s.batch_axis if s.batch_axis in dynamic[s.name] else None for s in specs}
    yield {name: axes[0] if axes else None for name, axes in dynamic.items()}
    for axis in (0, 1):
        yield {name: axis if axis in axes else None for name, axes in dynamic.items()}
    # Sequences first: the second axis of those, the first dynamic one of the others.
    yield {name: axes[:2][-1] if axes else None for name, axes in dynamic.items()}
    symbols = dict.fromkeys(d for s in specs for d in s.shape or () if isinstance(d, str))
    for symbol in symbols:
        yield {
            s.name: s.shape.index(symbol) if s.shape and symbol in s.shape else None for s in specs
        }


def _dynamic_axes(specs: Sequence[InputSpec]) -> dict[str, list[int]]:
    """Axes without a fixed size, of the inputs that have some."""
    found = {
        spec.name: [i for i, dim in enumerate(spec.shape or ()) if not isinstance(dim, int)]
        for spec in specs
    }
    return {name: axes for name, axes in found.items() if axes}


def _doubles(alone: Outputs, twice: Outputs) -> bool:
    """Tell whether outputs of a doubled batch hold those of a single one twice."""
    if any(not hasattr(value, "shape") for value in alone.values()):
        return False  # sequences and maps
    doubled = 0
    for name, one in alone.items():
        two = twice[name]
        if one.shape == two.shape:
            if not _close(one, two):
                return False
            continue
        sizes = zip(one.shape, two.shape, strict=False)
        found = [axis for axis, (single, double) in enumerate(sizes) if 2 * single == double]
        if not any(_close(np.concatenate([one, one], axis), two) for axis in found):
            return False
        doubled += 1
    return doubled > 0


def _close(one: NDArray[Any], two: NDArray[Any]) -> bool:
    if one.shape != two.shape:
        return False
    if one.dtype.kind not in "fV":
        return bool(np.array_equal(one, two))
    a, b = one.astype(np.float64), two.astype(np.float64)
    scale = np.abs(a[np.isfinite(a)]).max(initial=0.0)
    return bool(np.allclose(a, b, rtol=0, atol=_TOLERANCE * scale, equal_nan=True))
