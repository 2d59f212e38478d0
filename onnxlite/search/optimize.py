"""`optimize`: search, check the winner on samples that nothing has seen, and prove it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.batch_axis import bind
from onnxlite.cache import Cache
from onnxlite.errors import OptionError, UnsupportedError
from onnxlite.evaluate import benchmark
from onnxlite.inputs import Feed, input_specs, trim
from onnxlite.model import (
    PROTO_LIMIT_BYTES,
    ModelLike,
    PlainModel,
    give_back,
    load,
    plain_model,
    size_bytes,
)
from onnxlite.recipe.proof import check_target
from onnxlite.samples import Samples, SamplesLike
from onnxlite.save import save
from onnxlite.search.budget import Budget
from onnxlite.search.deadline import Deadline, default_limit_s
from onnxlite.search.executor import task_executor
from onnxlite.search.final_check import check_best, prove_result
from onnxlite.search.job import OptimizeOptions, SearchJob, TrialSink
from onnxlite.search.records import OptimizeReport
from onnxlite.search.search import Search
from onnxlite.search.split import SampleSplit, split_samples
from onnxlite.search.trial_runner import TrialRunner
from onnxlite.step import Result, StepContext, from_options
from onnxlite.task_metrics import MetricLike, choose_metric, observe_model

#: Limits as a record or as a dictionary.
BudgetLike: TypeAlias = Budget | Mapping[str, Any]

#: A time limit below this fraction of the default one is short: steps are made with less effort.
_SHORT = 0.5


@from_options(OptimizeOptions, runtime=("batch_axis", "floor_db", "progress"))
def optimize(
    model: ModelLike,
    samples: SamplesLike,
    *,
    budget: BudgetLike | None = None,
    metric: MetricLike | None = None,
    labels: NDArray[Any] | Sequence[Any] | None = None,
    evaluation: SamplesLike | None = None,
    executor: Executor | int | None = None,
    on_trial: TrialSink | None = None,
    options: OptimizeOptions,
    context: StepContext,
) -> Result[Any, OptimizeReport]:
    """Find the smallest and fastest form of a model within a budget, and prove it.

    Recipes are tried: built, compared with the original on samples that no step was calibrated
    on, and timed in interleaved pairs with it. The best is then checked on further samples,
    which neither calibration nor choice has seen. A result that is not usable there, see
    `floor_db`, is never returned, whatever the budget allows. Where nothing meets the budget, or
    nothing is better than the original, the result is the original, and the report says why.

    Args:
        model: a path, a `ModelProto`, an `ir.Model` or a `Result`; it is not changed.
        samples: real inputs, some hundred to some thousand, in any form of `SamplesLike`. Half
            of them are for calibration, a quarter for the choice, a quarter for the check.
        budget: what may be lost and what is wanted, as a `Budget` or a dictionary; or give
            its limits by name. By default `max_drop=0.01`.
        metric: what `max_drop` is about: a name in `task_metrics.METRICS`
            (`"accuracy"` with labels, `"agreement"`, `"detection"`, `"segmentation"`, `"ctc"`,
            `"tokens"`, `"embedding"`, `"regression"`, `"cosine"`, `"sqnr"`, `"max-error"`), a
            fitted metric such as `Detection(decoder)`, or a function of a model's outputs (and
            of the labels, where there are some) that returns one number, or one per sample;
            more is better. By default the one that fits the real outputs; the report names it
            with the reason.
        labels: one entry per sample, of `evaluation` if that is given.
        evaluation: separate inputs for choice and check; then all `samples` calibrate.
        executor: where trials run: None is this process, a number so many processes, or any
            `concurrent.futures.Executor`, for example `Client.get_executor()` of a Dask
            cluster. The candidates are the same with each. Latencies are measured in this
            process, while no worker of the batch is busy.
        on_trial: called with every trial as it ends.

    Returns:
        The model in the kind of `model`, and the report: all trials, those on the Pareto
        front marked, and the recipe, which reproduces the result with `onnxlite.run`. Ctrl-C
        ends the search with the best so far.

    Raises:
        OptionError: the budget limits what the model's outputs do not have, or an option is
            wrong.
        SamplesError: the samples or labels do not fit.
        SaveError: the output path cannot be written.
        UnsupportedError: the model holds 2 GiB of tensors or more.
        ExecutionError: ONNX Runtime does not run the model.
    """
    start = time.perf_counter()
    source = plain_model(model)
    original = _loaded(source, options)
    samples = bind(original, samples, context.batch_axis)
    evaluation = bind(original, evaluation, context.batch_axis)
    split = split_samples(samples, input_specs(original), evaluation=evaluation, labels=labels)
    least_s = default_limit_s(original, _one_sample(split, original), sum(split.counts))
    limit_s = least_s if options.time_limit_s is None else options.time_limit_s
    short = options.effort == "default" and limit_s < least_s * _SHORT
    job = SearchJob(
        model=source,
        original=original,
        options=options,
        budget=_budget(budget, options),
        split=split,
        metric=choose_metric(
            metric,
            lambda: observe_model(original, split.selection),
            labelled=split.selection_labels is not None,
        ),
        cache=_cache(options.cache),
        deadline=Deadline(start, limit_s, context.progress),
        on_trial=on_trial,
        effort="fast" if short else options.effort,
        floor_db=context.floor_db,
        benchmark=benchmark,
    )
    with task_executor(executor) as tasks:
        search = Search(job, TrialRunner(job, tasks))
        search.run()
        result, report = prove_result(search, check_best(search))
    if report.changed and options.output is not None:
        saved = save(result, options.output)
        report = msgspec.structs.replace(report, output_path=str(saved))
    return Result(give_back(source, result), report)


def _one_sample(split: SampleSplit, original: ir.Model) -> Feed:
    """Return the first calibration sample."""
    stream = Samples(split.calibration, input_specs(original), batch_size=1)
    feed = next(iter(stream))
    return trim(feed, stream.inputs, 1) or feed


def _loaded(source: PlainModel, options: OptimizeOptions) -> ir.Model:
    """Load the original, and refuse at once what cannot be searched or saved."""
    original = load(source)
    if options.output is not None:
        check_target(options.output, original)
    if (nbytes := size_bytes(original)) >= PROTO_LIMIT_BYTES:
        raise UnsupportedError(
            f"the model holds {nbytes / 2**30:.1f} GiB of tensors, and trials are kept as messages "
            "of at most 2: choose the steps yourself and use run, or quantize_weights"
        )
    return original


def _budget(budget: BudgetLike | None, options: OptimizeOptions) -> Budget:
    """The limits that were given, in one form or the other; one point of the metric by default.

    Raises:
        OptionError: limits were given in both forms, or `budget` is no such thing.
    """
    fields = {name: getattr(options, name) for name in Budget.__struct_fields__}
    given = [name for name, value in fields.items() if value not in (None, False)]
    if budget is None:
        limits = Budget(**fields)
        return limits if limits.limits() else msgspec.structs.replace(limits, max_drop=0.01)
    if given:
        raise OptionError(f"give {given[0]} or budget, not both")
    if isinstance(budget, Budget):
        return budget
    if isinstance(budget, Mapping):
        return Budget(**budget)
    raise OptionError(
        f"budget={budget!r}: give a Budget, a dictionary, or a limit by name, like max_drop=0.01"
    )


def _cache(folder: Path | Literal[False] | None) -> Cache:
    return Cache.in_memory() if folder is False else Cache(folder)
