"""Steps of trials as tasks, run in this process or by the workers of an executor.

What goes into a task and what comes out can be pickled, so that a worker of a pool or of a
cluster needs nothing but this package.
"""

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
from onnxlite.apply import apply_step
from onnxlite.errors import OnnxliteError, OptionError
from onnxlite.inputs import input_specs
from onnxlite.model import load, to_bytes
from onnxlite.recipe import PruneChannels, QuantizeAuto, QuantizeDynamic, QuantizeStatic
from onnxlite.recipe.proof import Reference
from onnxlite.records import Progress, StepReport, no_progress
from onnxlite.samples import BoundSamples, Samples, SamplesLike
from onnxlite.step import Step, StepContext
from onnxlite.workers import Lost, Workers, local_workers

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StepTask:
    """A step to be applied to a model.

    Attributes:
        label: the candidate that needs it, for progress.
        original: the first input of the recipe, serialised: results are compared with it.
        model: what the step is applied to, serialised.
        lineage: of that model.
        step: the step.
        samples: calibration samples.
    """

    label: str
    original: bytes
    model: bytes
    lineage: Mapping[str, Origin]
    step: Step
    samples: SamplesLike


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """Result of a task: a model with its report, or the reason why there is none.

    Attributes:
        model: serialised; None if the step failed.
        lineage: of that model.
        report: of the step.
        failure: the error.
        lost: the failure is that of workers, and says nothing about the step.
        seconds: wall-clock time of the task.
    """

    model: bytes | None = None
    lineage: Mapping[str, Origin]
    report: StepReport | None = None
    failure: str | None = None
    lost: bool = False
    seconds: float = 0.0


def run_task(task: StepTask, progress: Progress = no_progress) -> StepResult:
    """Apply the step and verify the result in ONNX Runtime, like `onnxlite.run` does.

    Errors are results: the candidate failed. That holds for unexpected ones as well, because
    a search has to survive a step that breaks on an unusual model.
    """
    start = time.perf_counter()
    try:
        result = _apply(task, progress)
    except OnnxliteError as error:
        result = StepResult(lineage={}, failure=str(error))
    except MemoryError:
        raise
    except Exception as error:
        logger.warning(
            "%s broke on this model and is left out; please report it (%s: %s)",
            task.step.name(),
            type(error).__name__,
            error,
        )
        result = StepResult(lineage={}, failure=f"{type(error).__name__}: {error}")
    return replace(result, seconds=time.perf_counter() - start)


def _apply(task: StepTask, progress: Progress) -> StepResult:
    original = parse_model(task.original)
    current = parse_model(task.model, task.lineage)
    record_original(current, original)
    context = StepContext(progress=progress)
    model, report = apply_step(task.step, current, task.samples, context)
    if report.changed:
        Reference(original, task.samples).verify(model, task.step.name())
    return StepResult(model=to_bytes(model), lineage=dict(lineage_of(model)), report=report)


def parse_model(content: bytes, lineage: Mapping[str, Origin] | None = None) -> ir.Model:
    """Parse a serialised model and attach its lineage."""
    proto = onnx.ModelProto()
    proto.ParseFromString(content)
    model = load(proto)
    if lineage:
        restore_lineage(model, lineage)
    return model


class TaskExecutor(Protocol):
    """Runs tasks, in any order.

    Attributes:
        parallel: whether several run at once.
    """

    parallel: bool

    def run(
        self, tasks: Sequence[StepTask], progress: Progress
    ) -> Iterator[tuple[int, StepResult]]:
        """Give index and result of each task as it ends; what `progress` raises goes through."""
        ...


class InProcessExecutor:
    """Runs one task after the other in this process."""

    parallel = False

    def run(
        self, tasks: Sequence[StepTask], progress: Progress
    ) -> Iterator[tuple[int, StepResult]]:
        """Give index and result of each task as it ends; what `progress` raises goes through."""
        for index, task in enumerate(tasks):

            def labelled(stage: str, done: int, total: int, label: str = task.label) -> None:
                progress(f"{label}: {stage}", done, total)

            yield index, run_task(task, labelled)


class WorkerExecutor:
    """Runs tasks on workers, except those that measure times: these run here, alone.

    Workers are busy, and may be other machines than the one that the model is for.
    """

    parallel = True

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._here = InProcessExecutor()

    def run(
        self, tasks: Sequence[StepTask], progress: Progress
    ) -> Iterator[tuple[int, StepResult]]:
        """Give index and result of each task as it ends: those of workers first."""
        remote = [i for i, task in enumerate(tasks) if not measures_time(task.step)]
        local = [i for i, task in enumerate(tasks) if measures_time(task.step)]
        labels = ", ".join(tasks[i].label for i in remote)
        portable = [_portable(tasks[i]) for i in remote]
        for index, result in self._workers.each(
            run_task, portable, stage=f"workers: {labels}", progress=progress
        ):
            if isinstance(result, Lost):
                result = StepResult(lineage={}, failure=str(result), lost=True)
            yield remote[index], result
        for index, result in self._here.run([tasks[i] for i in local], progress):
            yield local[index], result


def measures_time(step: Step) -> bool:
    """Tell whether a step decides by times of this machine."""
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
    """Make the executor of tasks for what a caller gave; processes started here end with it.

    Args:
        executor: None is this process, a number so many processes, or any executor.

    Raises:
        OptionError: a number of workers below 1.
    """
    if executor is None:
        yield InProcessExecutor()
    elif isinstance(executor, int):
        if executor < 1:
            raise OptionError(f"executor={executor}: give at least one worker")
        workers = local_workers(executor)
        try:
            yield WorkerExecutor(workers)
        finally:
            workers.close()
    else:
        yield WorkerExecutor(Workers(executor))


def _portable(task: StepTask) -> StepTask:
    """The task with its samples as plain arrays: parts of streams cannot be pickled."""
    feeds = Samples(task.samples, input_specs(parse_model(task.model)))
    return replace(task, samples=BoundSamples(list(feeds), feeds.inputs))
