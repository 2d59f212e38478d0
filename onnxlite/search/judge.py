"""Quality: a candidate's outputs on samples, as figures with intervals."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.errors import OptionError, SamplesError, VerificationError
from onnxlite.runtime import Outputs, Session
from onnxlite.samples import Samples, SamplesLike, feed_size, input_specs
from onnxlite.search import estimate
from onnxlite.search.estimate import Estimate
from onnxlite.search.metric import MetricLike, class_outputs, metric_name, scored
from onnxlite.search.scores import ClassScores, OutputScores

#: The original's outputs are kept up to this size, so that it runs once and not per candidate.
_KEEP_BYTES = 1 << 28


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """What a candidate is worth on a set of samples.

    Attributes:
        metric: name of the metric.
        reference: the original's value of it.
        candidate: the candidate's.
        samples: number of samples.
        figures: by the names of `budget.LIMITS`, those on quality, with their intervals. Each
            is of the output where it is worst.
    """

    metric: str
    reference: float
    candidate: float
    samples: int
    figures: dict[str, Estimate]

    @property
    def drop(self) -> float:
        """How much of the metric is lost."""
        return self.figures["drop"].value

    def __str__(self) -> str:
        return (
            f"{self.metric} {self.reference:.4g} -> {self.candidate:.4g} on {self.samples} samples"
        )


class Judge:
    """Compares candidates with one original on one set of samples.

    Args:
        model: the original.
        samples: what both are run on.
        metric: what `drop` is about.
        labels: for the metric, one entry per sample.
        confidence: of all intervals.
        threads: of ONNX Runtime; None takes all cores.

    Raises:
        SamplesError: the samples do not fit, or there is not one label per sample.
        ExecutionError: ONNX Runtime does not run the original.
    """

    def __init__(
        self,
        model: ir.Model,
        samples: SamplesLike,
        metric: MetricLike,
        *,
        labels: NDArray[Any] | None = None,
        confidence: float = 0.95,
        threads: int | None = None,
    ) -> None:
        self._metric, self._labels = metric, labels
        self._confidence, self._threads = confidence, threads
        self._specs = input_specs(model)
        self._feeds = Samples(samples, self._specs)
        self._scores = class_outputs(model)
        self._session = Session(model, threads=threads)
        self._kept: list[Outputs] | None = []
        count = nbytes = 0
        for feed in self._feeds:
            outputs = _tensors(self._session.run(feed))
            count += feed_size(feed, self._specs)
            nbytes += sum(array.nbytes for array in outputs.values())
            if self._kept is not None:
                self._kept.append(outputs)
                if nbytes > _KEEP_BYTES:
                    self._kept = None
        if not self._scores:
            self._scores = [name for name in outputs if outputs[name].ndim == 2][:1]
        if labels is not None and len(labels) != count:
            raise SamplesError(f"{len(labels)} labels for {count} samples: give one per sample")
        self.samples = count

    def judge(self, model: ir.Model) -> Quality:
        """The figures of a candidate.

        Raises:
            VerificationError: an output has another shape, or is NaN or infinite where the
                original's is not.
            ExecutionError: ONNX Runtime does not run it.
        """
        session = Session(model, threads=self._threads)
        outputs: dict[str, OutputScores] = {}
        accuracy = ClassScores(self._scores[0]) if self._metric == "accuracy" else None
        pairs: list[tuple[Outputs, Outputs]] = []
        peak: dict[str, float] = {}
        for index, feed in enumerate(self._feeds):
            want = (
                self._kept[index] if self._kept is not None else _tensors(self._session.run(feed))
            )
            have = _tensors(session.run(feed))
            if want.keys() != have.keys():
                raise VerificationError(f"its outputs are {list(have)}, they were {list(want)}")
            size = feed_size(feed, self._specs)
            for name, array in want.items():
                outputs.setdefault(name, OutputScores(name)).add(array, have[name], size)
                if array.dtype.kind == "f":
                    top = float(np.abs(array[np.isfinite(array)]).max(initial=0.0))
                    peak[name] = max(peak.get(name, 0.0), top)
            if accuracy is not None:
                accuracy.add(want, have)
            if callable(self._metric):
                pairs.append((want, have))
        for scores in outputs.values():
            if scores.broken:
                raise VerificationError(
                    f"output {scores.name!r} has {scores.broken} NaN or infinite values where the "
                    "original has none, or the other way round"
                )
        return self._quality(outputs, accuracy, pairs, peak)

    def _quality(
        self,
        outputs: dict[str, OutputScores],
        accuracy: ClassScores | None,
        pairs: list[tuple[Outputs, Outputs]],
        peak: dict[str, float],
    ) -> Quality:
        rows, sure = list(outputs.values()), self._confidence
        noisy = max(rows, key=lambda o: o.noise.sum() / max(o.signal.sum(), 1e-300))
        noise = estimate.noise_share(noisy.signal, noisy.noise, confidence=sure)
        figures = {
            "sqnr_db": estimate.decibels(noise),
            # The largest of n errors has no interval: an unseen one may be larger.
            "max_error": Estimate(max(float(o.largest.max(initial=0.0)) for o in rows)),
        }
        vectors = [o for o in rows if o.width > 1]
        if vectors:
            turned = min(vectors, key=lambda o: float(o.cosine.mean()))
            figures["cosine"] = estimate.mean(turned.cosine, confidence=sure)
        ranked = [outputs[name] for name in self._scores if name in outputs]
        if ranked:
            worst = min(ranked, key=lambda o: float(o.same.mean()))
            figures["agreement"] = estimate.share(
                int(worst.same.sum()), len(worst.same), confidence=sure
            )
        reference, candidate, drop = self._drop(figures, noise, accuracy, pairs, outputs, peak)
        return Quality(
            metric=metric_name(self._metric),
            reference=reference,
            candidate=candidate,
            samples=self.samples,
            figures={"drop": drop, **figures},
        )

    def _drop(
        self,
        figures: dict[str, Estimate],
        noise: Estimate,
        accuracy: ClassScores | None,
        pairs: list[tuple[Outputs, Outputs]],
        outputs: dict[str, OutputScores],
        peak: dict[str, float],
    ) -> tuple[float, float, Estimate]:
        """The metric of both models, and how much of it is lost."""
        match self._metric:
            case "accuracy":
                assert accuracy is not None
                assert self._labels is not None
                one, two = accuracy.right(self._labels)
                drop = estimate.paired_drop(one, two, confidence=self._confidence)
                return float(one.mean()), float(two.mean()), drop
            case "agreement" | "cosine":
                if self._metric not in figures:
                    raise OptionError(
                        f"no output has a {self._metric}: choose another metric, for example sqnr"
                    )
                figure = figures[self._metric]
                return 1.0, figure.value, _lost(figure)
            case "sqnr":
                return 1.0, 1 - noise.value, noise
            case "max-error":
                relative = max(
                    float(o.largest.max(initial=0.0)) / max(peak.get(o.name, 1.0), 1e-300)
                    for o in outputs.values()
                )
                return 1.0, 1 - relative, Estimate(relative)
            case code:
                assert callable(code)
                values = [
                    scored(code, _joined([p[i] for p in pairs]), self._labels) for i in (0, 1)
                ]
                return _task_drop(values[0], values[1], self._confidence)


def _task_drop(
    one: float | NDArray[np.float64], two: float | NDArray[np.float64], confidence: float
) -> tuple[float, float, Estimate]:
    if isinstance(one, float) or isinstance(two, float):
        first, second = float(np.mean(one)), float(np.mean(two))
        return first, second, Estimate(first - second)
    drop = estimate.mean(one - two, confidence=confidence)
    return float(one.mean()), float(two.mean()), drop


def _lost(kept: Estimate) -> Estimate:
    """One less a share that is kept."""
    if kept.low is None or kept.high is None:
        return Estimate(1 - kept.value)
    return Estimate(1 - kept.value, 1 - kept.high, 1 - kept.low)


def _tensors(outputs: dict[str, Any]) -> Outputs:
    """Without sequences and maps."""
    return {name: array for name, array in outputs.items() if isinstance(array, np.ndarray)}


def _joined(parts: list[Outputs]) -> Outputs:
    """All feeds' outputs as one array each, samples along the first axis."""
    try:
        return {
            name: np.concatenate([np.atleast_1d(part[name]) for part in parts]) for name in parts[0]
        }
    except ValueError as error:
        raise OptionError(
            f"an output has another shape on every feed, so the metric cannot see all of them "
            f"at once: {error}; give samples of one size"
        ) from error
