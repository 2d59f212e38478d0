"""Quality of a candidate: its outputs compared with the original's, as figures with intervals."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.errors import OptionError, SamplesError, VerificationError
from onnxlite.evaluate.metrics import predicted_classes
from onnxlite.runtime import Outputs, Session
from onnxlite.samples import Samples, SamplesLike, feed_size, input_specs
from onnxlite.search import estimate
from onnxlite.search.estimate import Estimate
from onnxlite.search.metric import MetricLike, class_outputs, metric_name, scored

Array64 = NDArray[np.float64]


class OutputScores:
    """One output's figures per sample.

    Attributes:
        name: of the output.
        signal: sum of squares of the reference's values, float64[samples].
        noise: sum of squares of the difference.
        cosine: cosine similarity.
        largest: largest absolute difference.
        same: 1 where the largest entry is at the same place, or where integers and text are
            equal; else 0.
        width: values per sample.
        broken: values that are finite in one model and NaN or infinite in the other.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.signal, self.noise, self.cosine, self.largest, self.same = (
            np.empty(0, np.float64) for _ in range(5)
        )
        self.width = 0
        self.broken = 0

    def add(self, reference: NDArray[Any], candidate: NDArray[Any], samples: int) -> None:
        """Add the output of one feed; what has no axis of samples counts as one sample.

        Raises:
            VerificationError: the shapes or kinds differ.
        """
        if reference.shape != candidate.shape or reference.dtype.kind != candidate.dtype.kind:
            raise VerificationError(
                f"output {self.name!r} is {candidate.dtype}{list(candidate.shape)}, it was "
                f"{reference.dtype}{list(reference.shape)}"
            )
        rows = samples if reference.ndim and len(reference) == samples else 1
        one, two = reference.reshape(rows, -1), candidate.reshape(rows, -1)
        self.width = max(self.width, one.shape[1])
        if reference.dtype.kind not in "fV":
            equal = (one == two).all(axis=1).astype(np.float64)
            self._append(np.ones(rows), 1 - equal, equal, 1 - equal, equal)
            return
        a, b = one.astype(np.float64), two.astype(np.float64)
        finite = np.isfinite(a) & np.isfinite(b)
        alike = (a == b) | (np.isnan(a) & np.isnan(b))
        self.broken += int(np.count_nonzero(~finite & ~alike))
        a, b = np.where(finite, a, 0.0), np.where(finite, b, 0.0)
        error = a - b
        signal, noise = np.square(a).sum(axis=1), np.square(error).sum(axis=1)
        norms = np.sqrt(signal) * np.linalg.norm(b, axis=1)
        # Two zero vectors point the same way; a zero and a non-zero one do not.
        cosine = np.where(noise > 0, 0.0, 1.0)
        np.divide((a * b).sum(axis=1), norms, out=cosine, where=norms > 0)
        same = (a.argmax(axis=1) == b.argmax(axis=1)) if a.shape[1] else np.ones(rows)
        self._append(
            signal, noise, cosine, np.abs(error).max(axis=1, initial=0.0), same.astype(np.float64)
        )

    def _append(self, *parts: Array64) -> None:
        present = (self.signal, self.noise, self.cosine, self.largest, self.same)
        self.signal, self.noise, self.cosine, self.largest, self.same = (
            np.concatenate([old, new]) for old, new in zip(present, parts, strict=True)
        )


class ClassScores:
    """Whether each sample's class is right, for both models; from outputs that hold classes."""

    def __init__(self, output: str) -> None:
        self.output = output
        self._classes: tuple[list[NDArray[Any]], list[NDArray[Any]]] = ([], [])

    def add(self, reference: Outputs, candidate: Outputs) -> None:
        """Add one feed's outputs."""
        for kept, outputs in zip(self._classes, (reference, candidate), strict=True):
            kept.append(predicted_classes(outputs[self.output]))

    def right(self, labels: NDArray[Any]) -> tuple[Array64, Array64]:
        """1 where a model's class is the label, of the reference and of the candidate."""
        one, two = (np.concatenate(kept) == labels for kept in self._classes)
        return one.astype(np.float64), two.astype(np.float64)


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


class QualityEvaluator:
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
