"""A budget: what a result may lose and what it must reach, and whether it does."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from onnxlite.errors import OptionError
from onnxlite.options import Options
from onnxlite.search.estimate import Estimate

Verdict = Literal["met", "missed", "undecided"]

#: Each limit with the figure it bounds, and whether the figure may be at most or at least that.
LIMITS: tuple[tuple[str, str, Literal["most", "least"]], ...] = (
    ("max_drop", "drop", "most"),
    ("min_agreement", "agreement", "least"),
    ("min_cosine", "cosine", "least"),
    ("min_sqnr_db", "sqnr_db", "least"),
    ("max_error", "max_error", "most"),
    ("max_latency", "latency", "most"),
    ("max_latency_ms", "latency_ms", "most"),
    ("max_size", "size", "most"),
    ("max_bytes", "bytes", "most"),
)
#: A drop of exactly the bound is within it, however its binary fractions were rounded.
_ROUNDING = 1e-9
#: Limits on what the outputs may lose; the others are on what is to be gained.
QUALITY_LIMITS = frozenset({"max_drop", "min_agreement", "min_cosine", "min_sqnr_db", "max_error"})


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One limit held against one result.

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


class Budget(Options, frozen=True, kw_only=True):
    """Limits that a result must keep; all of them."""

    max_drop: (
        Annotated[
            float,
            Meta(
                ge=0,
                le=1,
                description="Largest drop of the metric: 0.01 is one point of accuracy, agreement "
                "or cosine.",
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
                description="Least fraction of samples that keep the top class of the original.",
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
    min_sqnr_db: Annotated[
        float | None, Meta(description="SQNR in dB that the worst output must keep.")
    ] = None
    max_error: (
        Annotated[float, Meta(ge=0, description="Largest absolute error of an output value.")]
        | None
    ) = None
    max_latency: (
        Annotated[
            float,
            Meta(
                gt=0, description="Latency as a fraction of the original's; 0.5 is twice as fast."
            ),
        ]
        | None
    ) = None
    max_latency_ms: (
        Annotated[
            float,
            Meta(
                gt=0,
                description="Latency in milliseconds on this machine, one thread, batch size 1.",
            ),
        ]
        | None
    ) = None
    max_size: (
        Annotated[
            float, Meta(gt=0, description="Size of the file as a fraction of the original's.")
        ]
        | None
    ) = None
    max_bytes: Annotated[int, Meta(gt=0, description="Size of the file in bytes.")] | None = None
    certain: Annotated[
        bool,
        Meta(
            description="Also treat an undecided limit (its bound lies inside of the figure's "
            "interval) as missed; otherwise the figure itself decides, and the report says so."
        ),
    ] = False

    def limits(self) -> dict[str, float]:
        """The limits that are set, by name."""
        values = ((name, getattr(self, name)) for name, _, _ in LIMITS)
        return {name: float(value) for name, value in values if value is not None}

    @property
    def limits_quality(self) -> bool:
        """Whether any limit is on what may be lost."""
        return bool(QUALITY_LIMITS & self.limits().keys())

    def check(self, figures: dict[str, Estimate], samples: int) -> tuple[Check, ...]:
        """Hold measured figures against every limit.

        Args:
            figures: by the names of `LIMITS`.
            samples: how many samples the figures of quality come from.

        Raises:
            OptionError: a limit is on a figure that this model's outputs do not have.
        """
        checks = []
        for name, key, sense in LIMITS:
            bound = getattr(self, name)
            if bound is None:
                continue
            if key not in figures:
                raise OptionError(
                    f"{name} cannot be checked: the outputs give no figure {key!r}; they give "
                    f"{', '.join(sorted(figures))}"
                )
            counted = samples if name in QUALITY_LIMITS else None
            checks.append(_check(name, float(bound), figures[key], sense, counted))
        return tuple(checks)

    def accepts(self, checks: tuple[Check, ...]) -> bool:
        """Whether a result with these checks may be returned."""
        if self.certain:
            return all(check.verdict == "met" for check in checks)
        return all(check.within for check in checks)


def _check(
    name: str,
    bound: float,
    figure: Estimate,
    sense: Literal["most", "least"],
    samples: int | None,
) -> Check:
    sign = 1.0 if sense == "most" else -1.0
    within = sign * figure.value <= sign * bound + _ROUNDING * abs(bound)
    if figure.low is None or figure.high is None:
        return Check(
            limit=name,
            bound=bound,
            figure=figure,
            verdict="met" if within else "missed",
            within=within,
        )
    worst, best = (figure.high, figure.low) if sense == "most" else (figure.low, figure.high)
    verdict: Verdict = "undecided"
    if sign * worst <= sign * bound:
        verdict = "met"
    elif sign * best > sign * bound:
        verdict = "missed"
    needed = None
    if verdict == "undecided" and samples:
        # An interval's ends come nearer with the square root of the number of samples.
        distance, reach = abs(figure.value - bound), abs((worst if within else best) - figure.value)
        needed = math.ceil(samples * (reach / distance) ** 2) if distance > reach / 100 else None
    return Check(
        limit=name,
        bound=bound,
        figure=figure,
        verdict=verdict,
        within=within,
        samples_needed=needed,
    )
