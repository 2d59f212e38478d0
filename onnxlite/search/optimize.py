"""`optimize`: search, check the winner on samples that nothing has seen, and prove it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

import msgspec
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.cache import cache_folder
from onnxlite.errors import OptionError, UnsupportedError
from onnxlite.model import PROTO_LIMIT_BYTES, ModelLike, load, plain_model, size_bytes, to_proto
from onnxlite.quantize.core.targets import target_named
from onnxlite.recipe import Outcome
from onnxlite.recipe.outcome import ModelT
from onnxlite.recipe.proof import check_target
from onnxlite.records import Progress, no_progress
from onnxlite.samples import SamplesLike, input_specs
from onnxlite.save import save
from onnxlite.search.budget import Budget
from onnxlite.search.deadline import Deadline
from onnxlite.search.executor import task_executor
from onnxlite.search.metric import MetricLike
from onnxlite.search.records import OptimizeReport, Prefer, Trial
from onnxlite.search.search import Search
from onnxlite.search.split import split_samples
from onnxlite.search.trial_cache import Store

#: Called with every trial as it ends.
TrialSink = Callable[[Trial], None]


@dataclass(frozen=True, kw_only=True)
class OptimizeOutcome(Outcome[ModelT]):
    """Result of `optimize`: the best model within the budget, or the original; and the report."""

    report: OptimizeReport


@overload
def optimize(
    model: onnx.ModelProto,
    output: str | os.PathLike[str] | None = None,
    *,
    samples: SamplesLike,
    budget: Budget | None = None,
    metric: MetricLike | None = None,
    labels: NDArray[Any] | Sequence[Any] | None = None,
    evaluation: SamplesLike | None = None,
    prefer: Prefer | None = None,
    target: str = "cpu",
    time_limit: float | None = None,
    executor: Executor | int | None = None,
    cache: str | os.PathLike[str] | Literal[False] | None = None,
    seed: int = 0,
    command: str | None = None,
    on_trial: TrialSink | None = None,
    progress: Progress = no_progress,
) -> OptimizeOutcome[onnx.ModelProto]: ...
@overload
def optimize(
    model: str | os.PathLike[str] | ir.Model,
    output: str | os.PathLike[str] | None = None,
    *,
    samples: SamplesLike,
    budget: Budget | None = None,
    metric: MetricLike | None = None,
    labels: NDArray[Any] | Sequence[Any] | None = None,
    evaluation: SamplesLike | None = None,
    prefer: Prefer | None = None,
    target: str = "cpu",
    time_limit: float | None = None,
    executor: Executor | int | None = None,
    cache: str | os.PathLike[str] | Literal[False] | None = None,
    seed: int = 0,
    command: str | None = None,
    on_trial: TrialSink | None = None,
    progress: Progress = no_progress,
) -> OptimizeOutcome[ir.Model]: ...
def optimize(
    model: ModelLike,
    output: str | os.PathLike[str] | None = None,
    *,
    samples: SamplesLike,
    budget: Budget | None = None,
    metric: MetricLike | None = None,
    labels: NDArray[Any] | Sequence[Any] | None = None,
    evaluation: SamplesLike | None = None,
    prefer: Prefer | None = None,
    target: str = "cpu",
    time_limit: float | None = None,
    executor: Executor | int | None = None,
    cache: str | os.PathLike[str] | Literal[False] | None = None,
    seed: int = 0,
    command: str | None = None,
    on_trial: TrialSink | None = None,
    progress: Progress = no_progress,
) -> OptimizeOutcome[onnx.ModelProto] | OptimizeOutcome[ir.Model]:
    """Find the smallest and fastest form of a model within a budget, and prove it.

    Recipes are tried out: built, judged on samples that no step was calibrated on, and timed
    in interleaved pairs with the original. The best is then checked on further samples, which
    neither calibration nor choice has seen. Where nothing keeps to the budget, or nothing is
    better than the original, the result is the original, and the report says why.

    Args:
        model: a path, a `ModelProto` or an `ir.Model`; it is not changed.
        output: write the result here, atomically; nothing is written if it is the original.
        samples: real inputs, some hundred to some thousand, in any form of `SamplesLike`. Half
            of them are for calibration, a quarter for the choice, a quarter for the check.
        budget: what may be lost and what is wanted; by default `Budget(max_drop=0.01)`.
        metric: what `max_drop` is about: `"accuracy"` (with labels), `"agreement"` of the top
            class with the original's, `"cosine"`, `"sqnr"`, `"max-error"`, or a function of
            a model's outputs (and of the labels, where there are some) that gives one
            number, or one per sample, more being better. By default the first of these that
            fits the model.
        labels: one entry per sample, of `evaluation` if that is given.
        evaluation: separate inputs for choice and check; then all `samples` calibrate.
        prefer: what counts among results within the budget: `"latency"`, `"size"`, `"both"`
            (their product), or `"quality"`. By default both, or quality if the budget limits
            nothing but latency and size.
        target: the runtime's integer types, see `quantize_static`.
        time_limit: seconds, about; then the best result so far is taken.
        executor: who does the trials: None is this process, a number so many processes, or any
            `concurrent.futures.Executor`, for example `Client.get_executor()` of a Dask
            cluster. The candidates are the same with each. Whatever is measured is measured
            here, while no worker of the batch is busy.
        cache: folder for what trials made, so that a search goes on where one was
            interrupted; None is a folder of the user's cache, False keeps nothing.
        seed: of everything random.
        command: the command line, for the record.
        on_trial: called with every trial as it ends.
        progress: called as the work goes on. Ctrl-C ends the search with the best so far.

    Returns:
        The model in the kind of `model`, and the report: all trials, those on the Pareto
        front marked, and the recipe, which reproduces the result with `onnxlite.run`.

    Raises:
        OptionError: the budget limits what the model's outputs do not have, or an option is
            wrong.
        SamplesError: the samples or labels do not fit.
        SaveError: the output path cannot be written.
        UnsupportedError: the model holds 2 GiB of tensors or more.
        ExecutionError: ONNX Runtime does not run the model.
    """
    start = time.perf_counter()
    if time_limit is not None and not time_limit > 0:
        raise OptionError(f"time_limit is a number of seconds, given was {time_limit}")
    target_named(target)
    model = plain_model(model)
    original = load(model)
    if output is not None:
        check_target(Path(output), original)
    if (nbytes := size_bytes(original)) >= PROTO_LIMIT_BYTES:
        raise UnsupportedError(
            f"the model holds {nbytes / 2**30:.1f} GiB of tensors, and trials are kept as messages "
            "of at most 2: choose the steps yourself and use run, or quantize_weights"
        )
    shares = split_samples(samples, input_specs(original), evaluation=evaluation, labels=labels)
    with task_executor(executor) as crew:
        search = Search(
            model,
            original,
            shares,
            budget=budget or Budget(max_drop=0.01),
            metric=metric,
            prefer=prefer,
            cache=_store(cache),
            clock=Deadline(start, time_limit, progress),
            crew=crew,
            seed=seed,
            command=command,
        )
        result, report = search.finish(search.run(target, on_trial))
    if report.changed and output is not None:
        report = msgspec.structs.replace(report, output_path=str(save(result, output)))
    if isinstance(model, onnx.ModelProto):
        return OptimizeOutcome(model=to_proto(result), report=report)
    return OptimizeOutcome(model=result, report=report)


def _store(cache: str | os.PathLike[str] | Literal[False] | None) -> Store:
    if cache is False:
        return Store(None)
    store = Store(cache_folder() / "trials" if cache is None else Path(cache))
    store.trim()
    return store
