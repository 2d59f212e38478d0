"""Errors of a candidate's outputs, by their parts.

Every part has its own SQNR and an output is as good as its worst part. A part about which the
samples say nothing, such as scores of objects that they do not show, is undecided. Where a few
samples are much louder than the others, the others have a figure of their own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxlite.errors import VerificationError
from onnxlite.fidelity.decibels import gains_db, sqnr_db
from onnxlite.fidelity.layout import OutputLayout, OutputPart, PartKind

#: Values compared at a time.
_BLOCK = 1 << 20
#: Noise over signal that may be rounding.
_ROUNDING = 1e-4
#: Scores below this detect nothing.
_LOW_SCORE = 0.1
#: A sample is loud with this multiple of the median's power, if at most this fraction of the
#: samples is; with fewer samples none is.
_LOUD, _MAX_LOUD, _MIN_ROWS = 100.0, 0.1, 10


@dataclass(frozen=True)
class PartError:
    """Error of one part of an output.

    Attributes:
        label: output and slices, for example `"output0[:, 4:22]"`.
        kind: of the reference's values there.
        sqnr_db: SQNR in dB; where a few samples are much louder than the others, that of the
            others if it is worse.
        noise_ratio: noise over signal of the same samples.
        undecided: reason why the samples say nothing about this part; empty if they do.
        loud: indices of the samples that were left out of the figure.
    """

    label: str
    kind: PartKind
    sqnr_db: float
    noise_ratio: float
    undecided: str = ""
    loud: tuple[int, ...] = ()

    def __str__(self) -> str:
        plural = "s" if len(self.loud) > 1 else ""
        ordinary = f" without {len(self.loud)} loud sample{plural}" if self.loud else ""
        note = f" (undecided: {self.undecided})" if self.undecided else ""
        return f"{self.label}{ordinary}: {self.sqnr_db:.1f} dB{note}"


class OutputError:
    """Error of an output by its parts; a row, along the first axis, is a sample.

    Args:
        name: of the output.
        layout: its parts.
        means: mean of every part, which is subtracted from its signal; None leaves the signal
            as it is.
    """

    def __init__(
        self, name: str, layout: OutputLayout, means: Sequence[float] | None = None
    ) -> None:
        self.name, self.layout, self._means = name, layout, means
        self.values = self.broken = 0
        self._rows: list[NDArray[np.float64]] = []

    def add(self, reference: NDArray[Any], candidate: NDArray[Any]) -> None:
        """Add the output of one feed: float arrays of one shape."""
        layout = self.layout if self.layout.fits(reference) else OutputLayout()
        pairs = zip(layout.of(reference), layout.of(candidate), strict=True)
        sums = [self._sums(*pair, part) for part, pair in enumerate(pairs)]
        if len(sums) < len(self.layout.parts):
            # A feed of another shape counts in every part.
            sums = sums * len(self.layout.parts)
        self._rows.append(np.stack(sums, axis=1))

    def _sums(
        self, reference: NDArray[Any], candidate: NDArray[Any], part: int
    ) -> NDArray[np.float64]:
        """Sums of every row: signal, noise, peak, candidate's power; float64[rows, 4]."""
        rows, width = reference.shape
        step = max(1, _BLOCK // max(width, 1))
        found = np.zeros((rows, 4))
        for start in range(0, rows, step):
            block = slice(start, start + step)
            found[block] = self._block_sums(reference[block], candidate[block], part)
        return found

    def _block_sums(
        self, reference: NDArray[Any], candidate: NDArray[Any], part: int
    ) -> NDArray[np.float64]:
        exact, other = reference.astype(np.float64), candidate.astype(np.float64)
        finite = np.isfinite(exact)
        usable = finite & np.isfinite(other)
        self.values += int(np.count_nonzero(finite))
        if not usable.all():
            self.broken += int(np.count_nonzero(finite) - np.count_nonzero(usable))
            exact, other = np.where(usable, exact, 0.0), np.where(usable, other, 0.0)
        error = exact - other
        mean = 0.0 if self._means is None else self._means[part]
        signal = exact if not mean else np.where(usable, exact - mean, 0.0)
        peak = np.abs(exact).max(axis=1, initial=0.0)
        powers = [np.einsum("ij,ij->i", array, array) for array in (signal, error, other)]
        return np.stack([*powers[:2], peak, powers[2]], axis=1)

    @property
    def sums(self) -> NDArray[np.float64]:
        """Sums by row and part, float64[rows, parts, 4]; see `_sums`."""
        if len(self._rows) > 1:
            self._rows = [np.concatenate(self._rows)]
        return self._rows[0] if self._rows else np.zeros((0, len(self.layout.parts), 4))

    @property
    def signal(self) -> float:
        """Sum of squares of the reference's finite values."""
        return float(self.sums[..., 0].sum())

    @property
    def noise(self) -> float:
        """Sum of squares of the difference there."""
        return float(self.sums[..., 1].sum())

    def cosines(self, part: int) -> NDArray[np.float64]:
        """Cosine similarity of every row in one part, float64[rows]; not with `means`.

        Two zero vectors point the same way; a zero and a non-zero one do not.
        """
        signal, noise, _, power = self.sums[:, part].T
        norms = np.sqrt(signal * power)
        alike = np.where(noise > 0, 0.0, 1.0)
        # |a - b|^2 = |a|^2 + |b|^2 - 2ab
        np.divide((signal + power - noise) / 2, norms, out=alike, where=norms > 0)
        return alike

    @property
    def parts(self) -> tuple[PartError, ...]:
        """Errors of the parts, in the layout's order."""
        sums = self.sums
        return tuple(
            _part_error(self.name, part, sums[:, index], self.signal)
            for index, part in enumerate(self.layout.parts)
        )

    @property
    def decided(self) -> tuple[PartError, ...]:
        """Parts that the samples say something about; the whole output if they do about none."""
        decided = tuple(part for part in self.parts if not part.undecided)
        return decided or (self.whole,)

    @property
    def whole(self) -> PartError:
        """Error over all values."""
        ratio = self.noise / self.signal if self.signal else math.inf if self.noise else 0.0
        return PartError(self.name, "values", sqnr_db(self.signal, self.noise), ratio)

    @property
    def worst_part(self) -> PartError:
        """Part of least SQNR among those that are decided."""
        return min(self.decided, key=lambda part: part.sqnr_db)

    @property
    def sqnr_db(self) -> float:
        """SQNR in dB of the worst part; minus infinite with broken values."""
        return -math.inf if self.broken else self.worst_part.sqnr_db


def _part_error(
    name: str, part: OutputPart, sums: NDArray[np.float64], whole_signal: float
) -> PartError:
    """Judge one part by the sums of its rows, float64[rows, 4]."""
    label = f"{name}{part.label}"
    signal, noise, peaks, _ = sums.T
    power, error = float(signal.sum()), float(noise.sum())
    undecided = _undecided(part.kind, peaks, power, error, whole_signal)
    loud = _loud_rows(signal)
    if len(loud) and not undecided:
        quiet = np.ones(len(signal), np.bool_)
        quiet[loud] = False
        left = float(signal[quiet].sum()), float(noise[quiet].sum())
        nothing = _undecided(part.kind, peaks[quiet], *left, whole_signal)
        if not nothing and sqnr_db(*left) < sqnr_db(power, error):
            power, error = left
        else:
            loud = loud[:0]
    return PartError(
        label,
        part.kind,
        sqnr_db(power, error),
        error / power if power else (math.inf if error else 0.0),
        undecided,
        tuple(map(int, loud)) if not undecided else (),
    )


def _undecided(
    kind: PartKind, peaks: NDArray[np.float64], signal: float, noise: float, whole_signal: float
) -> str:
    """Reason why the samples say nothing about a part, or nothing if they do."""
    if kind == "zero" or not signal:
        # Noise that is large beside the rest of the output is no rounding.
        return "zero on all samples" if noise <= _ROUNDING * whole_signal else ""
    if kind == "constant":
        return "the same on all samples" if noise <= _ROUNDING * signal else ""
    if kind == "scores" and peaks.max(initial=0.0) < _LOW_SCORE:
        return f"no score above {_LOW_SCORE:g} on the samples"
    return ""


def _loud_rows(signal: NDArray[np.float64]) -> NDArray[np.intp]:
    """Rows of far more power than the median, if they are few."""
    if len(signal) < _MIN_ROWS:
        return np.zeros(0, np.intp)
    loud = np.flatnonzero(signal > _LOUD * np.median(signal))
    return loud if len(loud) <= _MAX_LOUD * len(signal) else loud[:0]


@dataclass(frozen=True)
class OutputErrors:
    """Errors of a candidate's float outputs.

    Attributes:
        outputs: by the reference's name of the output; empty where no output is a float.
    """

    outputs: Mapping[str, OutputError] = field(default_factory=dict)

    @property
    def worst_part(self) -> PartError | None:
        """Part of all outputs that suffers most; None without float outputs."""
        worst = [error.worst_part for error in self.outputs.values()]
        return min(worst, key=lambda part: part.sqnr_db, default=None)

    @property
    def worst_db(self) -> float:
        """SQNR in dB of the part that suffers most; infinite if no float output differs."""
        return min((error.sqnr_db for error in self.outputs.values()), default=math.inf)

    @property
    def noise_ratio(self) -> float:
        """Noise over signal, the mean of all parts; infinite if broken.

        Unlike the worst part's SQNR it grows steadily with damage. Parts without signal are left
        out; 0 if none is left.
        """
        if any(error.broken for error in self.outputs.values()):
            return math.inf
        ratios = [part.noise_ratio for error in self.outputs.values() for part in error.decided]
        finite = [ratio for ratio in ratios if math.isfinite(ratio)]
        return float(np.mean(finite)) if finite else 0.0

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


def paired_gain_db(before: OutputErrors, after: OutputErrors) -> tuple[float, float]:
    """Compare two candidates sample by sample: what the second gains at its worst part.

    The SQNR of few samples is that of their worst, and the better of two candidates by it is often
    the luckier. Gains on the same samples vary less.

    Returns:
        Mean over the samples of the gain in dB, and its standard error (infinite for one sample);
        no gain without float outputs.
    """
    if not after.outputs:
        return 0.0, math.inf
    worst = min(after.outputs.values(), key=lambda error: error.sqnr_db)
    decided = [i for i, part in enumerate(worst.parts) if not part.undecided]
    least = sorted(decided or range(len(worst.parts)), key=lambda i: worst.parts[i].sqnr_db)
    noises = (errors.outputs[worst.name].sums[:, least[0], 1] for errors in (before, after))
    gains = gains_db(*noises)
    if len(gains) < 2:
        return float(gains.mean()) if len(gains) else 0.0, math.inf
    return float(gains.mean()), float(gains.std(ddof=1) / math.sqrt(len(gains)))
