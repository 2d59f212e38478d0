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
from onnxlite.search.estimate import Estimate

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
            a figure has none); `"undecided"` where the bound lies inside of the interval.
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
        text = f"{self.limit}={self.bound:g} is {self.verdict}: {self.figure}"
        if self.samples_needed:
            text += f"; about {self.samples_needed:,} samples would decide"
        return text

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
        loss, limit = self.figure.value, self.bound
        if self.limit in _FRACTIONS_KEPT:
            loss, limit = 1 - loss, 1 - limit
        if self.limit == "min_sqnr_db":
            loss, limit = math.sqrt(noise_ratio(loss)), math.sqrt(noise_ratio(limit))
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
            description="Also refuse results whose figure keeps to a limit that lies inside of "
            "the figure's confidence interval. Otherwise the figure itself decides, and the "
            "report names the undecided limits."
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
    verdict: Verdict = "met" if within else "missed"
    needed = None
    if figure.low is not None and figure.high is not None:
        ends = (figure.high, figure.low)
        worst, best = ends if side == "upper" else ends[::-1]
        if sign * worst <= sign * bound:
            verdict = "met"
        elif sign * best > sign * bound:
            verdict = "missed"
        else:
            verdict = "undecided"
            needed = samples and _samples_needed(
                samples, figure.value, bound, (worst if within else best)
            )
    return Check(
        limit=name,
        bound=bound,
        figure=figure,
        verdict=verdict,
        within=within,
        samples_needed=needed,
    )


def _samples_needed(samples: int, value: float, bound: float, end: float) -> int | None:
    """Number of samples at which the interval's end would come as near as the bound is.

    An interval shrinks with the square root of the number of samples.
    """
    distance, reach = abs(value - bound), abs(end - value)
    return math.ceil(samples * (reach / distance) ** 2) if distance > reach / 100 else None
