"""Outputs of a reference on some feeds, computed once, to compare candidates with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.errors import VerificationError
from onnxlite.fidelity.layout import OutputLayout, output_layout
from onnxlite.fidelity.lengths import common_part
from onnxlite.fidelity.output_error import OutputError, OutputErrors
from onnxlite.inputs import Feed
from onnxlite.ops import value_lengths
from onnxlite.runtime import Outputs, Session

#: A model, or a function from a feed to the outputs by name.
Runnable: TypeAlias = ir.Model | Callable[[Feed], Outputs]


class ReferenceOutputs:
    """Outputs of a reference on some feeds, and how each of them is made up.

    Args:
        outputs: by name, one entry for each feed.
        centered: take the variance of a part for its signal, instead of the sum of squares.
        varying: sizes of outputs depend on values; what is common is compared.
    """

    def __init__(
        self, outputs: Sequence[Outputs], *, centered: bool = False, varying: bool = False
    ) -> None:
        self.outputs, self._centered, self._varying = outputs, centered, varying

    @cached_property
    def layouts(self) -> Mapping[str, OutputLayout]:
        """Layout of every float output, by name."""
        first = self.outputs[0] if self.outputs else {}
        return {
            name: output_layout([outputs[name] for outputs in self.outputs])
            for name, array in first.items()
            if is_float(array)
        }

    @cached_property
    def _means(self) -> Mapping[str, Sequence[float] | None]:
        return {
            name: _part_means(layout, [outputs[name] for outputs in self.outputs])
            if self._centered
            else None
            for name, layout in self.layouts.items()
        }

    @cached_property
    def decided(self) -> Mapping[str, tuple[int, ...]]:
        """Indices of the parts that these outputs say something about; all where none is."""
        exact = self.errors(self.outputs).outputs
        found = {}
        for name, error in exact.items():
            parts = error.parts
            decided = tuple(i for i, part in enumerate(parts) if not part.undecided)
            found[name] = decided or tuple(range(len(parts)))
        return found

    def errors(self, candidate: Iterable[Outputs]) -> OutputErrors:
        """Compare the outputs of a candidate, one entry for each feed, with these.

        Raises:
            VerificationError: the outputs differ in number or shape.
        """
        found = {
            name: OutputError(name, layout, self._means[name])
            for name, layout in self.layouts.items()
        }
        for wanted, made in zip(self.outputs, candidate, strict=True):
            partners = match_outputs(tuple(wanted), tuple(made))
            if partners is None:
                raise VerificationError(
                    f"the outputs are {list(wanted)} in the reference and {list(made)} in the "
                    "candidate: compare a model with the one that it was made from"
                )
            for name, error in found.items():
                pair = wanted[name], made[partners[name]]
                error.add(*common_part(name, *pair, varying=self._varying))
        return OutputErrors(found)


def _part_means(layout: OutputLayout, arrays: Sequence[NDArray[Any]]) -> list[float]:
    """Mean of the finite values of every part."""
    totals = np.zeros((len(layout.parts), 2))
    for array in arrays:
        for index, part in enumerate(layout.of(array)):
            finite = part[np.isfinite(part)]
            totals[index] += finite.sum(dtype=np.float64), finite.size
    return [float(total / max(count, 1)) for total, count in totals]


class Reference:
    """Outputs of a reference model on some feeds, computed once.

    Args:
        model: the reference.
        feeds: what it and every candidate are run on.
        threads: of ONNX Runtime, for models; None takes all cores.

    Raises:
        ExecutionError: ONNX Runtime does not run the reference.
    """

    def __init__(
        self, model: Runnable, feeds: Iterable[Feed], *, threads: int | None = None
    ) -> None:
        run = _runner(model, threads)
        self.feeds: Sequence[Feed] = list(feeds)
        self.outputs: Sequence[Outputs] = [run(feed) for feed in self.feeds]
        varying = isinstance(model, ir.Model) and bool(value_lengths(model))
        self._expected = ReferenceOutputs(self.outputs, varying=varying)
        self._threads = threads

    def errors(self, candidate: Runnable) -> OutputErrors:
        """Run a candidate and compare its float outputs with the reference's.

        Raises:
            VerificationError: the outputs differ in number or shape.
            ExecutionError: ONNX Runtime does not run the candidate.
        """
        run = _runner(candidate, self._threads)
        return self._expected.errors(run(feed) for feed in self.feeds)

    def sqnr_db(self, candidate: Runnable) -> float:
        """SQNR in dB of a candidate's worst part, see `errors`."""
        return self.errors(candidate).worst_db


def worst_sqnr_db(
    reference: Runnable, candidate: Runnable, feeds: Iterable[Feed], *, threads: int | None = None
) -> float:
    """SQNR in dB of the candidate's worst part of a float output, over all feeds.

    For several candidates keep a `Reference`: it runs the reference once.

    Args:
        reference: a model, or a function that runs one.
        candidate: the same.
        feeds: inputs of both.
        threads: of ONNX Runtime, for models; None takes all cores.

    Raises:
        VerificationError: the outputs differ in number or shape.
        ExecutionError: ONNX Runtime does not run one of the models.
    """
    return Reference(reference, feeds, threads=threads).sqnr_db(candidate)


def match_outputs(reference: Sequence[str], candidate: Sequence[str]) -> dict[str, str] | None:
    """Map the reference's outputs to the candidate's: by name, else by position.

    None if both the names and the numbers differ.
    """
    if set(reference) <= set(candidate):
        return {name: name for name in reference}
    if len(reference) != len(candidate):
        return None
    return dict(zip(reference, candidate, strict=True))


def is_float(value: Any) -> bool:
    """Tell float arrays from integers, text, sequences and maps, which have no SQNR."""
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"


def _runner(model: Runnable, threads: int | None) -> Callable[[Feed], Outputs]:
    """A function that runs a model, with floats in the widths that it takes."""
    if not isinstance(model, ir.Model):
        return model
    session = Session(model, threads=threads)
    return lambda feed: session.run(session.suited(feed))
