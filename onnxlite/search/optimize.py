"""`optimize`: search, check the winner on samples that nothing has seen, and prove it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import msgspec
from msgspec import Meta
from numpy.typing import NDArray

from onnxlite.cache import cache_folder
from onnxlite.errors import OptionError, UnsupportedError
from onnxlite.model import PROTO_LIMIT_BYTES, ModelLike, give_back, load, plain_model, size_bytes
from onnxlite.options import Seed
from onnxlite.quantize.core.targets import target_named
from onnxlite.recipe.proof import check_target
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
from onnxlite.step import Result, StepContext, from_options

#: Called with every trial as it ends.
TrialSink: TypeAlias = Callable[[Trial], None]
#: Limits as a record or as a dictionary.
BudgetLike: TypeAlias = Budget | Mapping[str, Any]


class OptimizeOptions(Budget, frozen=True, kw_only=True):
    """Options of `optimize`: the limits of a budget, and how the search goes."""

    renamed: ClassVar[dict[str, str]] = {"time_limit": "time_limit_s"}

    prefer: Annotated[
        Prefer | None,
        Meta(
            description='Objective among the results that meet the budget: `"latency"`, '
            '`"size"`, `"both"` (their product), or `"quality"`. None is `"both"`, or '
            '`"quality"` if the budget limits nothing but latency and size.'
        ),
    ] = None
    target: Annotated[
        str, Meta(description="Runtime whose integer types are used, see `quantize_static`.")
    ] = "cpu"
    time_limit_s: (
        Annotated[
            float,
            Meta(gt=0, description="Seconds, about; then the best result so far is taken."),
        ]
        | None
    ) = None
    output: (
        Annotated[
            Path,
            Meta(
                description="Write the result here, atomically; nothing is written if it is the "
                "original."
            ),
        ]
        | None
    ) = None
    cache: Annotated[
        Path | Literal[False] | None,
        Meta(
            description="Folder of the results of trials, from which an interrupted search "
            "resumes; None is a folder of the user's cache, False keeps nothing."
        ),
    ] = None
    seed: Seed = 0

    def validate(self) -> None:
        """Raise `OptionError` for an unknown target."""
        target_named(self.target)


@from_options(OptimizeOptions, runtime=("progress",))
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
    which neither calibration nor choice has seen. Where nothing meets the budget, or nothing is
    better than the original, the result is the original, and the report says why.

    Args:
        model: a path, a `ModelProto`, an `ir.Model` or a `Result`; it is not changed.
        samples: real inputs, some hundred to some thousand, in any form of `SamplesLike`. Half
            of them are for calibration, a quarter for the choice, a quarter for the check.
        budget: what may be lost and what is wanted, as a `Budget` or a dictionary; or give
            its limits by name. By default `max_drop=0.01`.
        metric: what `max_drop` is about: `"accuracy"` (with labels), `"agreement"` of the top
            class with the original's, `"cosine"`, `"sqnr"`, `"max-error"`, or a function of
            a model's outputs (and of the labels, where there are some) that returns one
            number, or one per sample; more is better. By default the first of these that
            fits the model.
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
    limits = _budget(budget, options)
    model = plain_model(model)
    original = load(model)
    if options.output is not None:
        check_target(options.output, original)
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
            budget=limits,
            metric=metric,
            prefer=options.prefer,
            cache=_store(options.cache),
            clock=Deadline(start, options.time_limit_s, context.progress),
            crew=crew,
            seed=options.seed,
        )
        result, report = search.finish(search.run(options.target, on_trial))
    if report.changed and options.output is not None:
        saved = save(result, options.output)
        report = msgspec.structs.replace(report, output_path=str(saved))
    return Result(give_back(model, result), report)


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


def _store(cache: Path | Literal[False] | None) -> Store:
    if cache is False:
        return Store(None)
    store = Store(cache_folder() / "trials" if cache is None else cache)
    store.trim()
    return store
