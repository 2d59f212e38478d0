"""Values without a task of their own: regression, cosine, SQNR and the largest error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from onnxlite.fidelity import OutputLayout, output_layout
from onnxlite.runtime import Outputs
from onnxlite.task_metrics.base import (
    Proposal,
    SampleLosses,
    SampleRatio,
    TaskMetric,
    finite,
    per_sample,
)
from onnxlite.task_metrics.observation import Observation, ObservedOutput

Array64 = NDArray[np.float64]

#: Values per sample up to which all samples are kept to find their spread.
_MAX_VALUES = 4096
#: More columns than this are no quantities of their own.
_MAX_QUANTITIES = 64
#: Parts of which the samples show what they do.
_DECIDING = ("values", "scores")
_TINY = float(np.finfo(np.float64).tiny)
#: A spread below this fraction of the largest value is rounding noise.
_MIN_SPREAD = 1e-5


@dataclass(frozen=True)
class _Values(TaskMetric):
    """A metric of the values of some outputs.

    Attributes:
        outputs: their names.
    """

    outputs: tuple[str, ...]

    @classmethod
    def propose(cls, observed: Observation, *, strict: bool) -> Proposal | None:
        """Fit to all float outputs, or to integers where there are no floats."""
        del strict
        chosen = cls._chosen(observed)
        if not chosen:
            return None
        shown = ", ".join(map(str, chosen[:2])) + (" and others" if len(chosen) > 2 else "")
        return Proposal(cls._fitted(chosen), f"{shown}: {cls.figure()}")

    @classmethod
    def _fitted(cls, chosen: Sequence[ObservedOutput]) -> Self:
        return cls(tuple(o.name for o in chosen))

    @classmethod
    def _chosen(cls, observed: Observation) -> list[ObservedOutput]:
        return observed.floats or observed.integers

    @classmethod
    def figure(cls) -> str:
        """Name of the figure in reasons."""
        return cls.name

    def decode(self, outputs: Outputs, samples: int) -> list[list[Array64]]:
        """Values of each sample, one array per output."""
        found = [
            [finite(one).reshape(-1) for one in per_sample(outputs[name], samples)]
            for name in self.outputs
        ]
        return [list(entries) for entries in zip(*found, strict=False)]


@dataclass(frozen=True)
class Regression(_Values):
    """Squared error relative to the variance over the samples: 1 - R^2.

    Up to 64 columns count the same each, whatever their units; more of them are summed up. Columns
    that do not vary are left out.
    """

    name: ClassVar[str] = "regression"
    meaning: ClassVar[str] = (
        "1% of the variance over the samples is lost: R^2 with the original is 0.99, an error of "
        "a tenth of the standard deviation"
    )
    joint: ClassVar[bool] = True

    @classmethod
    def _chosen(cls, observed: Observation) -> list[ObservedOutput]:
        """Outputs of few values per sample, which differ between the samples."""
        found = [o for o in observed.floats if o.rank <= 2 or o.values[0].size <= _MAX_VALUES]
        return [o for o in found if len(o.values) > 1 and _varying(_rows(o.values)).any()]

    @classmethod
    def figure(cls) -> str:
        """Name of the figure in reasons."""
        return "error relative to the spread of the samples"

    def losses(
        self, reference: Sequence[list[Array64]], candidate: Sequence[list[Array64]]
    ) -> SampleLosses:
        """Squared error over variance, the mean of the columns."""
        parts = []
        for index in range(len(self.outputs)):
            one, two = (_even([entry[index] for entry in side]) for side in (reference, candidate))
            varying = _varying(one)
            if one.shape != two.shape:
                parts.append(np.ones(len(one)))
                continue
            if not varying.any():
                continue
            error = np.square(one[:, varying] - two[:, varying])
            variance = one[:, varying].var(axis=0)
            if len(variance) > _MAX_QUANTITIES:
                variance = np.full_like(variance, variance.mean())
            parts.append((error / variance).mean(axis=1))
        if not parts:
            nothing = np.zeros(len(reference))
            return SampleLosses(SampleRatio(nothing, nothing))
        return SampleLosses.mean(np.max(parts, axis=0))


@dataclass(frozen=True)
class _PartValues(_Values):
    """A metric of the parts of outputs, of which the worst one is taken.

    Parts are slices of like scale, see `onnxlite.fidelity.output_layout`; those that are zero or
    the same on all samples do not count.

    Attributes:
        layouts: parts of each output; none takes it as a whole.
    """

    layouts: tuple[OutputLayout, ...] = ()

    @classmethod
    def _fitted(cls, chosen: Sequence[ObservedOutput]) -> Self:
        layouts = (output_layout(o.arrays) if o.is_float else OutputLayout() for o in chosen)
        return cls(tuple(o.name for o in chosen), tuple(layouts))

    def decode(self, outputs: Outputs, samples: int) -> list[list[Array64]]:
        """Values of each sample, one array per part."""
        parts = []
        for name, layout in zip(self.outputs, self._all_layouts, strict=True):
            array = outputs[name]
            fitting = layout if layout.fits(array) else OutputLayout()
            pieces = [per_sample(finite(piece), samples) for piece in fitting.of(array)]
            # What has another shape on this feed counts in every part.
            parts += pieces if len(pieces) == len(layout.parts) else pieces * len(layout.parts)
        return [[piece.reshape(-1) for piece in entries] for entries in zip(*parts, strict=False)]

    def losses(
        self, reference: Sequence[list[Array64]], candidate: Sequence[list[Array64]]
    ) -> SampleLosses:
        """Loss of each part."""
        figures = {}
        for index, (label, kind) in enumerate(self._kinds):
            pairs = [(a[index], b[index]) for a, b in zip(reference, candidate, strict=True)]
            # Another shape has nothing in common with the reference: it is as good as zeros.
            like = [(a, b if a.shape == b.shape else np.zeros_like(a)) for a, b in pairs]
            if kind:
                figures[label] = self._loss(like, kind)
        nothing = SampleRatio(np.zeros(len(reference)), np.zeros(len(reference)))
        return self.finish(SampleLosses(nothing, figures=figures))

    def _loss(self, pairs: Sequence[tuple[Array64, Array64]], kind: str) -> SampleRatio:
        """Loss of one part of a kind, from its values in both models on each sample."""
        raise NotImplementedError

    def finish(self, losses: SampleLosses) -> SampleLosses:
        """Take the part that loses most."""
        figures = losses.figures.values()
        worst = max(figures, key=lambda figure: figure.value or 0.0, default=losses.drop)
        return replace(losses, drop=worst)

    @property
    def _all_layouts(self) -> tuple[OutputLayout, ...]:
        return self.layouts or (OutputLayout(),) * len(self.outputs)

    @property
    def _kinds(self) -> Sequence[tuple[str, str]]:
        """Name of each part, and its kind if its values decide; all do if none does."""
        pairs = zip(self.outputs, self._all_layouts, strict=True)
        found = [(name + p.label, p.kind) for name, one in pairs for p in one.parts]
        if not any(kind in _DECIDING for _, kind in found):
            return found
        return [(label, kind if kind in _DECIDING else "") for label, kind in found]


@dataclass(frozen=True)
class Cosine(_PartValues):
    """Cosine similarity of each sample's values, of the part where it is lowest.

    A sample without anything to find has scores that point anywhere, and a single value has no
    direction but its sign: samples of such parts weigh as much as their signal has power.
    """

    name: ClassVar[str] = "cosine"
    meaning: ClassVar[str] = "mean cosine similarity to the original is 0.99"

    @classmethod
    def _chosen(cls, observed: Observation) -> list[ObservedOutput]:
        """Outputs of several values per sample."""
        return [o for o in super()._chosen(observed) if o.values[0].size > 1]

    def _loss(self, pairs: Sequence[tuple[Array64, Array64]], kind: str) -> SampleRatio:
        losses = np.array([_cosine_loss(*pair) for pair in pairs])
        weights = np.ones_like(losses)
        if kind == "scores" or all(one.size == 1 for one, _ in pairs):
            weights = np.array([np.square(one).sum() for one, _ in pairs])
        return SampleRatio(losses * weights, weights)


@dataclass(frozen=True)
class Sqnr(_PartValues):
    """Noise over signal: squared error over squared values, of the worst part of the outputs."""

    name: ClassVar[str] = "sqnr"
    meaning: ClassVar[str] = "noise is 1% of the signal's power: an SQNR of 20 dB"

    @classmethod
    def figure(cls) -> str:
        """Name of the figure in reasons."""
        return "noise over signal"

    def _loss(self, pairs: Sequence[tuple[Array64, Array64]], kind: str) -> SampleRatio:
        del kind
        noise = np.array([np.square(one - two).sum() for one, two in pairs])
        return SampleRatio(noise, np.array([np.square(one).sum() for one, _ in pairs]))


@dataclass(frozen=True)
class MaxError(_PartValues):
    """Largest error of all samples over the largest value of the reference, of the worst part."""

    name: ClassVar[str] = "max-error"
    meaning: ClassVar[str] = "one value differs by 1% of the largest value, and no value by more"

    @classmethod
    def figure(cls) -> str:
        """Name of the figure in reasons."""
        return "largest error over largest value"

    def _loss(self, pairs: Sequence[tuple[Array64, Array64]], kind: str) -> SampleRatio:
        del kind
        errors = [np.abs(one - two).max(initial=0.0) for one, two in pairs]
        return SampleRatio(
            np.array(errors), np.array([np.abs(one).max(initial=0.0) for one, _ in pairs])
        )

    def finish(self, losses: SampleLosses) -> SampleLosses:
        """Take the largest of all samples, as one figure: an unseen one may be larger."""
        worst = max(
            float(figure.total.max(initial=0.0)) / max(float(figure.weight.max(initial=0.0)), _TINY)
            for figure in losses.figures.values()
        )
        return SampleLosses.mean(np.array([worst]), **losses.figures)


def _cosine_loss(one: Array64, two: Array64) -> float:
    norms = float(np.linalg.norm(one) * np.linalg.norm(two))
    if norms == 0:
        return 0.0 if (one == two).all() else 1.0
    return max(1 - float(one @ two) / norms, 0.0)


def _rows(values: Array64) -> Array64:
    return values.reshape(len(values), -1)


def _even(entries: list[Array64]) -> Array64:
    """All samples as rows; samples of other lengths are cut to the shortest."""
    length = min(map(len, entries), default=0)
    return np.stack([entry[:length] for entry in entries])


def _varying(rows: Array64) -> NDArray[np.bool_]:
    """Columns that differ between samples."""
    limit = _MIN_SPREAD * max(float(np.abs(rows).max(initial=0.0)), 1e-300)
    return np.asarray(rows.std(axis=0) > limit)
