"""Budget: limits on the loss of quality, latency and size, and whether a result keeps them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from onnxlite.errors import OptionError
from onnxlite.fidelity import noise_ratio
from onnxlite.options import Options
from onnxlite.search.estimate import ENOUGH_SAMPLES, Estimate

Verdict = Literal["met", "missed", "undecided"]
Bound = Literal["upper", "lower"]

#: Each limit with the figure that it bounds, and whether from above or below.
LIMITS: Mapping[str, tuple[str, Bound]] = {
    "max_drop": ("drop", "upper"),
    "min_agreement": ("agreement", "lower"),
    "min_cosine": ("cosine", "lower"),
    "min_sqnr_db": ("sqnr_db", "lower"),
    "max_error": ("max_error", "upper"),
    "max_latency": ("latency", "upper"),
    "max_latency_ms": ("latency_ms", "upper"),
    "max_size": ("size", "upper"),
    "max_bytes": ("bytes", "upper"),
}
#: Limits on the loss of quality; the others are on latency and size.
QUALITY_LIMITS = frozenset({"max_drop", "min_agreement", "min_cosine", "min_sqnr_db", "max_error"})
#: Limits on a fraction of which 1 is perfect.
_FRACTIONS_KEPT = frozenset({"min_agreement", "min_cosine"})
#: A drop of exactly the bound is within it, however its binary fractions were rounded.
_RELATIVE_TOLERANCE = 1e-9


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One limit compared with one result.

    Attributes:
        limit: the budget's field.
        bound: its value.
        figure: what was measured, with its interval.
        verdict: `"met"` or `"missed"` with the confidence of the interval (or exactly, where
            a figure has none); `"undecided"` where the bound lies inside of the interval, or
            is met by an interval that cannot be trusted (`Estimate.doubt`).
        within: whether the figure itself keeps to the bound.
        samples_needed: about how many samples would decide it; None if it is decided.
    """

    limit: str
    bound: float
    figure: Estimate
    verdict: Verdict
    within: bool
    samples_needed: int | None = None

    def __str__(self) -> str:
        parts = [f"{self.limit}={self.bound:g} is {self.verdict}: {self.figure}"]
        if (doubt := self.doubt) is not None:
            parts.append(doubt)
        if self.samples_needed:
            parts.append(f"about {self.samples_needed:,} samples would decide")
        return "; ".join(parts)

    @property
    def doubt(self) -> str | None:
        """Say what the samples show, and why that decides nothing.

        None if it decides, or if the interval alone leaves the limit undecided.
        """
        figure, (_, side) = self.figure, LIMITS[self.limit]
        if self.verdict != "undecided" or figure.spread is None or figure.doubt is None:
            return None
        end = figure.high if side == "upper" else figure.low
        shown = figure.value if end is None else end
        keeps = shown <= self.bound if side == "upper" else shown >= self.bound
        if not keeps and not figure.spread.is_heavy:
            return None
        what = "no more" if side == "upper" else "no less"
        return f"{figure.spread.samples:,} samples show {what} than {shown:.4g}, but {figure.doubt}"

    @property
    def limits_quality(self) -> bool:
        """True if the limit is on the loss of quality."""
        return self.limit in QUALITY_LIMITS

    @property
    def is_likely(self) -> bool:
        """True if the limit will probably be kept on other samples as well.

        The best of many candidates is flattered by its selection: at the edge of the budget
        about half of them would fail on other samples. So the middle between the figure and
        the unfavourable end of its interval decides.
        """
        value, low, high = self.figure.value, self.figure.low, self.figure.high
        if low is None or high is None or not self.within:
            return self.within
        # With few samples every interval is wide: half of the limit is far enough from it.
        if self.limit in ("max_drop", "max_error"):
            return (value + high) / 2 <= self.bound or value <= self.bound / 2
        is_half = self.limit in _FRACTIONS_KEPT and 1 - value <= (1 - self.bound) / 2
        return (value + low) / 2 >= self.bound or is_half

    @property
    def excess(self) -> float | None:
        """Loss of quality relative to the limit, above 1 beyond it; None where no loss may be."""
        loss, limit = (_as_loss(self.limit, value) for value in (self.figure.value, self.bound))
        if self.limit == "min_sqnr_db":
            loss, limit = math.sqrt(loss), math.sqrt(limit)
        return max(loss, limit * 0.02) / limit if limit > 0 else None


_Fraction = Annotated[float, Meta(gt=0, le=1)]


class Budget(Options, frozen=True, kw_only=True):
    """Limits that a result must keep, all of them.

    Raises:
        OptionError: a limit that is unknown or out of range.
    """

    max_drop: (
        Annotated[
            float,
            Meta(
                ge=0,
                le=1,
                description="Largest loss of the metric: 0.01 is one point of accuracy, agreement "
                "or cosine similarity.",
            ),
        ]
        | None
    ) = None
    min_agreement: (
        Annotated[
            float,
            Meta(
                gt=0,
                le=1,
                description="Least fraction of samples whose top class stays that of the original.",
            ),
        ]
        | None
    ) = None
    min_cosine: (
        Annotated[
            float,
            Meta(gt=0, le=1, description="Least mean cosine similarity to the original's outputs."),
        ]
        | None
    ) = None
    min_sqnr_db: Annotated[float, Meta(description="Least SQNR of the outputs, in dB.")] | None = (
        None
    )
    max_error: (
        Annotated[float, Meta(ge=0, description="Largest absolute difference of an output value.")]
        | None
    ) = None
    max_latency: (
        Annotated[
            float,
            Meta(gt=0, description="Latency relative to the original: 0.5 is twice as fast."),
        ]
        | None
    ) = None
    max_latency_ms: (
        Annotated[
            float,
            Meta(gt=0, description="Latency in milliseconds on this machine, one thread, batch 1."),
        ]
        | None
    ) = None
    max_size: (
        Annotated[float, Meta(gt=0, description="Size of the file relative to the original.")]
        | None
    ) = None
    max_bytes: Annotated[int, Meta(gt=0, description="Size of the file in bytes.")] | None = None
    certain: Annotated[
        bool,
        Meta(
            description="Also refuse results whose figure keeps to a limit that the samples leave "
            "undecided: it lies inside of the confidence interval, or few samples or a heavy tail "
            "make the interval doubtful. Otherwise the figure itself decides, and the report "
            "names the undecided limits."
        ),
    ] = False

    def limits(self) -> dict[str, float]:
        """Return the limits that are set, by name."""
        values = ((name, getattr(self, name)) for name in LIMITS)
        return {name: float(value) for name, value in values if value is not None}

    @property
    def limits_quality(self) -> bool:
        """True if any limit is on the loss of quality."""
        return bool(QUALITY_LIMITS & self.limits().keys())

    def compare(self, figures: Mapping[str, Estimate], samples: int) -> tuple[Check, ...]:
        """Compare measured figures with every limit.

        Args:
            figures: by the names in `LIMITS`.
            samples: number of samples that the figures of quality come from.

        Raises:
            OptionError: a limit is on a figure that this model's outputs do not have.
        """
        checks = []
        for name, bound in self.limits().items():
            key, side = LIMITS[name]
            if key not in figures:
                raise OptionError(
                    f"{name} cannot be checked: the outputs have no {key}; limit one of "
                    f"{', '.join(sorted(figures))}"
                )
            counted = samples if name in QUALITY_LIMITS else None
            checks.append(_check(name, bound, figures[key], side, counted))
        return tuple(checks)

    def accepts(self, checks: tuple[Check, ...]) -> bool:
        """Tell whether a result with these checks may be returned."""
        if self.certain:
            return all(check.verdict == "met" for check in checks)
        return all(check.within for check in checks)


def _check(name: str, bound: float, figure: Estimate, side: Bound, samples: int | None) -> Check:
    sign = 1.0 if side == "upper" else -1.0
    within = sign * figure.value <= sign * bound + _RELATIVE_TOLERANCE * abs(bound)
    ends = (figure.high, figure.low)
    worst, best = ends if side == "upper" else ends[::-1]
    verdict: Verdict = "met" if within else "missed"
    if best is not None and sign * best > sign * bound:
        verdict = "missed"
    elif figure.worst_case is not None and sign * figure.worst_case <= sign * bound:
        verdict = "met"
    elif not figure.is_reliable or (worst is not None and not sign * worst <= sign * bound):
        verdict = "undecided"
    elif worst is not None:
        verdict = "met"
    return Check(
        limit=name,
        bound=bound,
        figure=figure,
        verdict=verdict,
        within=within,
        samples_needed=_samples_needed(name, bound, figure, samples)
        if samples and verdict == "undecided"
        else None,
    )


def _samples_needed(name: str, bound: float, figure: Estimate, samples: int) -> int | None:
    """Number of samples that would decide; None if the figure is too near to the bound.

    An interval shrinks with the square root of the number of samples. What they can miss shrinks
    with the number itself; without a heavy tail it matters only below `ENOUGH_SAMPLES`.
    """
    loss, limit = _as_loss(name, figure.value), _as_loss(name, bound)
    distance = abs(loss - limit)
    side = figure.high if (loss < limit) == (LIMITS[name][1] == "upper") else figure.low
    reach = 0.0 if side is None else abs(_as_loss(name, side) - loss)
    if not distance > reach / 100:
        return None
    needed = math.ceil(samples * (reach / distance) ** 2)
    if figure.spread is None or figure.is_reliable:
        return needed
    excluded = None
    if figure.worst_case is not None:
        missed = abs(_as_loss(name, figure.worst_case) - loss)
        excluded = math.ceil(samples * missed / distance)
    if figure.spread.is_heavy:
        return None if excluded is None else max(needed, excluded)
    return max(needed, min(excluded or ENOUGH_SAMPLES, ENOUGH_SAMPLES))


def _as_loss(name: str, value: float) -> float:
    """A figure or its bound as a loss, on the scale on which samples are averaged."""
    if name in _FRACTIONS_KEPT:
        return 1 - value
    return noise_ratio(value) if name == "min_sqnr_db" else value
