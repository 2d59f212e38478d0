"""Steps of trials as tasks, run in this process or by the workers of an executor."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Protocol

import onnx
import onnx_ir as ir

from onnxlite.analysis.lineage import Origin, lineage_of, record_original, restore_lineage
from onnxlite.errors import OnnxliteError, OptionError
from onnxlite.model import load, to_bytes
from onnxlite.recipe import PruneChannels, QuantizeAuto, QuantizeDynamic, QuantizeStatic
from onnxlite.recipe.proof import Reference
from onnxlite.records import Progress, StepReport, no_progress
from onnxlite.samples import Samples, SamplesLike, input_specs
from onnxlite.step import Step, StepContext
from onnxlite.workers import Lost, Workers, local_workers

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepTask:
    """A step to be applied.

    Attributes:
        original: the first input of the recipe, serialised: results are held against it.
        model: what the step is applied to, serialised.
        lineage: of that model.
        step: the step.
        samples: what it is calibrated on.
    """

    original: bytes
    model: bytes
    lineage: Mapping[str, Origin]
    step: Step
    samples: SamplesLike


@dataclass(frozen=True)
class StepResult:
    """What came of it: a model with its report, or the reason why there is none.

    Attributes:
        model: serialised; None if the step failed.
        lineage: of that model.
        report: what the step says.
        failure: the error.
        lost: the failure is that of workers, and says nothing of the step.
    """

    model: bytes | None
    lineage: dict[str, Origin]
    report: StepReport | None
    failure: str | None
    lost: bool = False


def do(work: StepTask, progress: Progress = no_progress) -> StepResult:
    """Apply the step and verify the result in ONNX Runtime, like `onnxlite.run` does.

    An error that onnxlite raises on purpose is a result: the candidate failed. So is one
    that it does not: a search must outlive a step that a strange model breaks.
    """
    try:
        original = parse(work.original)
        current = parse(work.model, work.lineage)
        record_original(current, original)
        result, report = work.step.apply(current, work.samples, StepContext(progress=progress))
        if report.changed:
            Reference(original, work.samples).verify(result, work.step.name())
        return StepResult(to_bytes(result), dict(lineage_of(result)), report, None)
    except OnnxliteError as error:
        return StepResult(None, {}, None, str(error))
    except MemoryError:
        raise
    except Exception as error:
        logger.warning(
            "%s broke on this model and is left out; please report it (%s: %s)",
            work.step.name(),
            type(error).__name__,
            error,
        )
        return StepResult(None, {}, None, f"{type(error).__name__}: {error}")


class TimeUp(BaseException):
    """Raised by a progress callback to end a step early: time is up.

    Like Ctrl-C, it must not be taken for an error of what it interrupts.
    """


def parse(content: bytes, lineage: Mapping[str, Origin] | None = None) -> ir.Model:
    """A serialised model, with its lineage."""
    proto = onnx.ModelProto()
    proto.ParseFromString(content)
    model = load(proto)
    if lineage:
        restore_lineage(model, lineage)
    return model


Labelled = tuple[str, StepTask]


class TaskExecutor(Protocol):
    """Does pieces of work, in any order.

    Attributes:
        parallel: whether several are done at once.
    """

    parallel: bool

    def do(
        self, works: Sequence[Labelled], progress: Progress
    ) -> Iterator[tuple[int, StepResult, float]]:
        """Give index, result and seconds of each piece of work as it is done."""
        ...


class InProcessExecutor:
    """Does one after the other here."""

    parallel = False

    def do(
        self, works: Sequence[Labelled], progress: Progress
    ) -> Iterator[tuple[int, StepResult, float]]:
        """Give each result as it is done; what `progress` raises goes through."""
        for index, (label, work) in enumerate(works):

            def told(stage: str, done: int, total: int, label: str = label) -> None:
                progress(f"{label}: {stage}", done, total)

            start = time.perf_counter()
            result = do(work, told)
            yield index, result, time.perf_counter() - start


class WorkerExecutor:
    """Hands steps out to workers, except those that measure times: these run here, alone.

    Workers are busy, and may be other machines than the one that the model is for.
    """

    parallel = True

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._here = InProcessExecutor()

    def do(
        self, works: Sequence[Labelled], progress: Progress
    ) -> Iterator[tuple[int, StepResult, float]]:
        """Give each result as it is done: first what workers do, then what is done here."""
        away = [i for i, (_, work) in enumerate(works) if not measures(work.step)]
        pieces = [_portable(works[i][1]) for i in away]
        labels = ", ".join(works[i][0] for i in away)
        for index, result in self._workers.each(
            timed, pieces, stage=f"workers: {labels}", progress=progress
        ):
            if isinstance(result, Lost):
                yield away[index], StepResult(None, {}, None, str(result), lost=True), 0.0
            else:
                yield away[index], *result
        here = [i for i, (_, work) in enumerate(works) if measures(work.step)]
        for index, done, seconds in self._here.do([works[i] for i in here], progress):
            yield here[index], done, seconds


def timed(work: StepTask) -> tuple[StepResult, float]:
    """Do a piece of work and tell the seconds it took; what workers are sent."""
    start = time.perf_counter()
    done = do(work)
    return done, time.perf_counter() - start


def measures(step: Step) -> bool:
    """Whether a step decides by times of this machine."""
    match step:
        case QuantizeStatic(placement="measured") | QuantizeAuto():
            return True
        case QuantizeDynamic(kernel="auto"):
            return True
        case PruneChannels(latency=float()):
            return True
        case _:
            return False


@contextlib.contextmanager
def task_executor(executor: Executor | int | None) -> Iterator[TaskExecutor]:
    """The crew for what a caller gave; processes that were started for it end with it.

    Raises:
        OptionError: a number of workers below 1.
    """
    if executor is None:
        yield InProcessExecutor()
    elif isinstance(executor, int):
        if executor < 1:
            raise OptionError(f"executor={executor}: at least one worker")
        workers = local_workers(executor)
        try:
            yield WorkerExecutor(workers)
        finally:
            workers.close()
    else:
        yield WorkerExecutor(Workers(executor))


def _portable(work: StepTask) -> StepTask:
    """The work with its samples as plain arrays: windows of streams cannot be pickled."""
    feeds = Samples(work.samples, input_specs(parse(work.model)))
    return replace(work, samples=list(feeds))
