"""Fidelity of a candidate model to its reference: SQNR on the same feeds.

The signal to quantization noise ratio of an output over all feeds is

    SQNR  =  10 log10( sum reference^2 / sum (reference - candidate)^2 )    in dB

It is infinite where the two are equal, and minus infinite where the candidate is NaN or infinite
and the reference is not. Values that are not finite in the reference are left out. A model is as
good as its worst float output. Everything that measures how far a model, an output or a weight
is from another one measures it here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.errors import VerificationError
from onnxlite.runtime import Outputs, Session
from onnxlite.samples import Feed

#: A model, or a function from a feed to the outputs by name.
Runnable: TypeAlias = ir.Model | Callable[[Feed], Outputs]

#: Relative error of an output that is NaN or infinite.
_BROKEN = 1e6
_TINY = float(np.finfo(np.float64).tiny)


def sqnr_db(signal: float, noise: float) -> float:
    """Signal to quantization noise ratio in dB; infinite without noise.

    Args:
        signal: sum of squares of the reference.
        noise: sum of squares of the difference; NaN or infinite gives minus infinity.
    """
    if not math.isfinite(noise):
        return -math.inf
    return 10 * math.log10(max(signal, _TINY) / noise) if noise > 0 else math.inf


def noise_ratio(decibels: float) -> float:
    """Noise over signal of an SQNR in dB, the inverse of `sqnr_db(1, noise)`."""
    return math.inf if decibels == -math.inf else 10 ** (-decibels / 10)


@dataclass
class SquaredError:
    """Sums of squares over pairs of arrays; memory does not grow with their number.

    Attributes:
        signal: sum of squares of the reference's finite values.
        noise: sum of squares of the difference there.
        values: number of values compared.
        broken: values that are finite in the reference and NaN or infinite in the candidate.
    """

    signal: float = 0.0
    noise: float = 0.0
    values: int = 0
    broken: int = 0

    def add(self, reference: NDArray[Any], candidate: NDArray[Any]) -> None:
        """Add two float arrays of one shape; the sums are taken in float64."""
        finite = np.isfinite(reference)
        usable = finite & np.isfinite(candidate)
        self.values += int(np.count_nonzero(finite))
        self.broken += int(np.count_nonzero(finite) - np.count_nonzero(usable))
        if usable.all():
            exact = np.asarray(reference, np.float64)
            error = exact - np.asarray(candidate, np.float64)
        else:
            exact = reference[usable].astype(np.float64)
            error = exact - candidate[usable].astype(np.float64)
        self.signal += float(np.square(exact).sum())
        self.noise += float(np.square(error).sum())

    def merge(self, other: SquaredError) -> None:
        """Add the sums over other pairs of arrays."""
        self.signal += other.signal
        self.noise += other.noise
        self.values += other.values
        self.broken += other.broken

    @property
    def sqnr_db(self) -> float:
        """SQNR in dB; minus infinite with broken values."""
        return -math.inf if self.broken else sqnr_db(self.signal, self.noise)


def array_sqnr_db(*pairs: tuple[NDArray[Any], NDArray[Any]]) -> float:
    """SQNR in dB of arrays that belong together, such as a layer's weights.

    Args:
        pairs: reference and candidate, float arrays of one shape.
    """
    total = SquaredError()
    for reference, candidate in pairs:
        total.add(reference, candidate)
    return total.sqnr_db


@dataclass(frozen=True)
class OutputErrors:
    """Errors of a candidate's float outputs.

    Attributes:
        outputs: sums over all feeds, by the reference's name of the output; empty where no
            output is a float.
    """

    outputs: Mapping[str, SquaredError] = field(default_factory=dict)

    @property
    def worst_db(self) -> float:
        """SQNR in dB of the output that suffers most; infinite if no float output differs."""
        return min((error.sqnr_db for error in self.outputs.values()), default=math.inf)

    @property
    def noise_ratio(self) -> float:
        """Noise over signal of all outputs; 0 without signal, infinite if broken."""
        if any(error.broken for error in self.outputs.values()):
            return math.inf
        signal = sum(error.signal for error in self.outputs.values())
        return sum(error.noise for error in self.outputs.values()) / signal if signal else 0.0

    def check_finite(self, what: str, advice: str) -> None:
        """Refuse values that are NaN or infinite where the reference's are not.

        Args:
            what: names the candidate in the message, for example `"the quantized model"`.
            advice: what the user can do.

        Raises:
            VerificationError: an output has such values.
        """
        for name, error in self.outputs.items():
            if error.broken:
                raise VerificationError(
                    f"output {name!r} of {what} has {error.broken} NaN or infinite of "
                    f"{error.values} values where the original has none: {advice}"
                )


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
        self._threads = threads

    def errors(self, candidate: Runnable) -> OutputErrors:
        """Run a candidate and compare its float outputs with the reference's.

        Raises:
            VerificationError: the outputs differ in number or shape.
            ExecutionError: ONNX Runtime does not run the candidate.
        """
        run = _runner(candidate, self._threads)
        found: dict[str, SquaredError] = {}
        for feed, wanted in zip(self.feeds, self.outputs, strict=True):
            made = run(feed)
            partners = match_outputs(tuple(wanted), tuple(made))
            if partners is None:
                raise VerificationError(
                    f"the outputs are {list(wanted)} in the reference and {list(made)} in the "
                    "candidate: compare a model with the one that it was made from"
                )
            for name, array in wanted.items():
                if not is_float(array):
                    continue
                other = made[partners[name]]
                if np.shape(other) != array.shape:
                    raise VerificationError(
                        f"output {name!r} is {list(np.shape(other))} in the candidate and "
                        f"{list(array.shape)} in the reference: these models do not compute the "
                        "same thing"
                    )
                found.setdefault(name, SquaredError()).add(array, other)
        return OutputErrors(found)

    def sqnr_db(self, candidate: Runnable) -> float:
        """SQNR in dB of a candidate's worst output, see `errors`."""
        return self.errors(candidate).worst_db


def worst_sqnr_db(
    reference: Runnable, candidate: Runnable, feeds: Iterable[Feed], *, threads: int | None = None
) -> float:
    """SQNR in dB of the candidate's worst float output, over all feeds.

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


def relative_error(
    reference: Sequence[Outputs], candidate: Sequence[Outputs], *, centered: bool = False
) -> float:
    """Squared error of the float outputs over their power, the mean of all outputs.

    Unlike SQNR every output counts, so that it grows steadily with damage. Outputs without power
    are left out; 0 if none is left.

    Args:
        reference: outputs of each feed.
        candidate: the same of another model.
        centered: take the variance of an output for its power, instead of the sum of squares.
    """
    ratios = []
    for name in reference[0]:
        if not is_float(reference[0][name]):
            continue
        want = [outputs[name] for outputs in reference]
        noise = sum(
            float(np.square(w.astype(np.float64) - c[name]).sum())
            for w, c in zip(want, candidate, strict=True)
        )
        mean = 0.0
        if centered:
            count = sum(w.size for w in want)
            mean = sum(float(w.sum(dtype=np.float64)) for w in want) / max(count, 1)
        power = sum(float(np.square(w.astype(np.float64) - mean).sum()) for w in want)
        if power > 0:
            ratios.append(noise / power if math.isfinite(noise) else _BROKEN)
    return float(np.mean(ratios)) if ratios else 0.0


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
