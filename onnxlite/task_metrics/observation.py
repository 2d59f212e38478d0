"""Real outputs of a model on some feeds, and what its graph tells of them.

Rank, shape and range come from the values; a declaration may be missing or wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.inputs import Feed, feed_size, input_specs
from onnxlite.ops import OutputSource, output_source
from onnxlite.runtime import Outputs, Session
from onnxlite.samples import Samples, SamplesLike

Array64 = NDArray[np.float64]

#: Samples of which outputs are looked at, and bytes of their outputs.
MAX_OBSERVED, MAX_OBSERVED_BYTES = 32, 1 << 26
#: Sums of probabilities differ from 1 by no more, float16 included.
_SUM_TOLERANCE = 5e-3


@dataclass(frozen=True)
class ObservedOutput:
    """Values of one output.

    Attributes:
        name: of the output.
        arrays: one per feed.
        samples: number of samples in each feed.
        source: operators that compute it.
    """

    name: str
    arrays: tuple[NDArray[np.generic], ...]
    samples: tuple[int, ...]
    source: OutputSource

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape on the first feed."""
        return self.arrays[0].shape

    @property
    def rank(self) -> int:
        """Number of axes."""
        return self.arrays[0].ndim

    @property
    def is_float(self) -> bool:
        """True for floats, those of ml_dtypes included."""
        return self.arrays[0].dtype.kind in "fV"

    @property
    def is_integer(self) -> bool:
        """True for integers and booleans."""
        return self.arrays[0].dtype.kind in "iub"

    @cached_property
    def batch_axis(self) -> int | None:
        """Axis of the samples, 0 or 1; None if neither has their number."""
        for axis in (0, 1):
            pairs = zip(self.arrays, self.samples, strict=True)
            if all(a.ndim > axis and a.shape[axis] == n for a, n in pairs):
                return axis
        return None

    @cached_property
    def values(self) -> Array64:
        """Finite values float64[samples, ...] of the feeds that have the shape of the first."""
        axis = self.batch_axis
        moved = [a[None] if axis is None else np.moveaxis(a, axis, 0) for a in self.arrays]
        like = [a for a in moved if a.shape[1:] == moved[0].shape[1:]]
        joined = np.concatenate(like).astype(np.float64)
        return np.nan_to_num(joined, nan=0.0, posinf=0.0, neginf=0.0)

    @cached_property
    def in_unit_interval(self) -> bool:
        """True if all values are in 0..1, and not all the same."""
        values = self.values
        return bool(values.size and values.min() >= 0 and values.max() <= 1 and np.ptp(values) > 0)

    def sums_to_one(self, axis: int) -> bool:
        """True if the values, or their exponentials, are probabilities along an axis of `values`.

        A softmax and a log-softmax make such values, in whatever operators they are written.
        """
        values = self.values
        if values.shape[axis] < 2:
            return False
        if self.in_unit_interval:
            sums = values.sum(axis=axis)
        elif values.max() <= _SUM_TOLERANCE and values.min() < 0:
            sums = np.exp(values).sum(axis=axis)
        else:
            return False
        return bool(np.abs(sums - 1).max() < _SUM_TOLERANCE)

    def __str__(self) -> str:
        axis = self.batch_axis
        dims = ["n" if index == axis else str(size) for index, size in enumerate(self.shape)]
        text = f"output {self.name!r} [{', '.join(dims)}]"
        return f"{text}, last op {self.source.op_type}" if self.source.op_type else text


@dataclass(frozen=True)
class Observation:
    """Outputs of a model on some feeds.

    Attributes:
        outputs: by name, tensors only.
        feeds: their inputs.
        samples: number of samples in all feeds.
    """

    outputs: Mapping[str, ObservedOutput]
    feeds: tuple[Feed, ...]
    samples: int

    def runs(self) -> Iterator[tuple[Outputs, int]]:
        """Outputs and number of samples of each feed."""
        for index in range(len(self.feeds)):
            outputs = {name: o.arrays[index] for name, o in self.outputs.items()}
            yield outputs, next(iter(self.outputs.values())).samples[index]

    @property
    def floats(self) -> list[ObservedOutput]:
        """Float outputs with values, less recurrent states and what is passed through."""
        found = [o for o in self.outputs.values() if o.is_float and o.values.size]
        return [o for o in found if not self._is_state(o)] or found

    @property
    def integers(self) -> list[ObservedOutput]:
        """Outputs of integers and booleans with values, less what is passed through."""
        found = [o for o in self.outputs.values() if o.is_integer and o.arrays[0].size]
        return [o for o in found if not self._is_input(o)]

    @cached_property
    def token_counts(self) -> frozenset[int]:
        """Lengths of sequences of integers that the model is fed, for example token ids."""
        first = self.feeds[0].values()
        return frozenset(a.shape[1] for a in first if a.dtype.kind in "iu" and a.ndim == 2)

    @cached_property
    def reads_text(self) -> bool:
        """True if sequences of integers are all that the model is fed, but for scalars."""
        arrays = self.feeds[0].values()
        return bool(self.token_counts) and not any(
            a.dtype.kind == "f" and a.ndim > 1 for a in arrays
        )

    @cached_property
    def image_size(self) -> tuple[int, int] | None:
        """Height and width of the pictures that the model is fed."""
        for array in self.feeds[0].values():
            if array.ndim == 4:
                last = array.shape[3] in (1, 3, 4) and array.shape[1] not in (1, 3, 4)
                height, width = array.shape[1:3] if last else array.shape[2:4]
                return int(height), int(width)
        return None

    def _is_state(self, output: ObservedOutput) -> bool:
        """Tell whether an output has the shape of an input, as a recurrent state has."""
        shapes = {a.shape for a in self.feeds[0].values() if a.dtype.kind == "f" and a.ndim > 1}
        return len(self.outputs) > 1 and output.shape in shapes

    def _is_input(self, output: ObservedOutput) -> bool:
        """Tell whether an output is an input that is passed through, for example a mask."""
        inputs = self.feeds[0].values()
        return any(np.array_equal(output.arrays[0], array) for array in inputs)


def observe(model: ir.Model, runs: Iterable[tuple[Feed, Outputs, int]]) -> Observation:
    """Collect the outputs of a model.

    Args:
        model: whose outputs they are.
        runs: inputs, outputs and number of samples of each feed; read until there are
            `MAX_OBSERVED` samples or `MAX_OBSERVED_BYTES` of outputs.
    """
    sources = {value.name: output_source(value) for value in model.graph.outputs}
    kept: list[tuple[Feed, Outputs, int]] = []
    seen = nbytes = 0
    for run in runs:
        kept.append(run)
        seen += run[2]
        nbytes += sum(array.nbytes for array in run[1].values())
        if seen >= MAX_OBSERVED or nbytes >= MAX_OBSERVED_BYTES:
            break
    counts = tuple(samples for _, _, samples in kept)
    return Observation(
        outputs={
            name: ObservedOutput(
                name,
                tuple(outputs[name] for _, outputs, _ in kept),
                counts,
                sources.get(name, OutputSource("", "other")),
            )
            for name in kept[0][1]
        },
        feeds=tuple(feed for feed, _, _ in kept),
        samples=seen,
    )


def observe_model(
    model: ir.Model, samples: SamplesLike, *, threads: int | None = None
) -> Observation:
    """Run a model on the first samples, and collect its outputs.

    Raises:
        SamplesError: the samples do not fit the model.
        ExecutionError: ONNX Runtime does not run it.
    """
    session = Session(model, threads=threads)
    feeds = Samples(samples, input_specs(model), limit=MAX_OBSERVED)
    runs = ((feed, tensors(session.run(feed)), feed_size(feed, feeds.inputs)) for feed in feeds)
    return observe(model, runs)


def tensors(outputs: Mapping[str, object]) -> Outputs:
    """Leave out sequences and maps."""
    return {name: array for name, array in outputs.items() if isinstance(array, np.ndarray)}
