"""What type checkers see of `onnxlite`; written by `python -m tests.public_stub`."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from os import PathLike
from typing import Any, Literal, overload

import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.analysis.summary import Summary as Summary
from onnxlite.errors import ExecutionError as ExecutionError
from onnxlite.errors import InvalidModelError as InvalidModelError
from onnxlite.errors import LoadError as LoadError
from onnxlite.errors import MissingPackageError as MissingPackageError
from onnxlite.errors import ModelError as ModelError
from onnxlite.errors import OnnxliteError as OnnxliteError
from onnxlite.errors import OptionError as OptionError
from onnxlite.errors import SamplesError as SamplesError
from onnxlite.errors import SaveError as SaveError
from onnxlite.errors import UnsupportedError as UnsupportedError
from onnxlite.errors import VerificationError as VerificationError
from onnxlite.evaluate import Fidelity as Fidelity
from onnxlite.evaluate import Latency as Latency
from onnxlite.evaluate import LayerFidelity as LayerFidelity
from onnxlite.model import ModelLike as ModelLike
from onnxlite.model import load as load
from onnxlite.options import BatchAxisOption, Effort
from onnxlite.packing import Bits
from onnxlite.prune import ChannelReport as ChannelReport
from onnxlite.prune import explain_channels as explain_channels
from onnxlite.prune.options import Importance, ImportanceFunction, Scope, SparseMethod
from onnxlite.prune.options import PruneChannelsReport as PruneChannelsReport
from onnxlite.prune.options import PruneWeightsReport as PruneWeightsReport
from onnxlite.prune.options import SparseStorageReport as SparseStorageReport
from onnxlite.quantize.core.options import (
    Form,
    ObserverChoice,
    PlacementBy,
    RoundingOption,
    SmoothOption,
    StorageOption,
    WeightBits,
)
from onnxlite.quantize.core.options import QuantizeStaticReport as QuantizeStaticReport
from onnxlite.quantize.dynamic.options import KernelChoice
from onnxlite.quantize.dynamic.options import QuantizeDynamicReport as QuantizeDynamicReport
from onnxlite.quantize.float16.options import HalfMode, HalfType, IoType
from onnxlite.quantize.float16.options import ToFloat16Report as ToFloat16Report
from onnxlite.quantize.mixed.options import QuantizeAutoReport as QuantizeAutoReport
from onnxlite.quantize.mixed.sensitivity import LayerSensitivity as LayerSensitivity
from onnxlite.quantize.mixed.sensitivity import Sensitivity as Sensitivity
from onnxlite.quantize.weight_only.options import FirstLastBits, WeightMethod, WeightMode
from onnxlite.quantize.weight_only.options import QuantizeWeightsReport as QuantizeWeightsReport
from onnxlite.recipe import PruneChannels as PruneChannels
from onnxlite.recipe import PruneWeights as PruneWeights
from onnxlite.recipe import QuantizeAuto as QuantizeAuto
from onnxlite.recipe import QuantizeDynamic as QuantizeDynamic
from onnxlite.recipe import QuantizeStatic as QuantizeStatic
from onnxlite.recipe import QuantizeWeights as QuantizeWeights
from onnxlite.recipe import Recipe as Recipe
from onnxlite.recipe import Repair as Repair
from onnxlite.recipe import RunReport as RunReport
from onnxlite.recipe import Simplify as Simplify
from onnxlite.recipe import SparseStorage as SparseStorage
from onnxlite.recipe import ToFloat16 as ToFloat16
from onnxlite.recipe import Tune as Tune
from onnxlite.recipe import load_recipe as load_recipe
from onnxlite.recipe.document import RecipeLike
from onnxlite.records import LayerRow as LayerRow
from onnxlite.records import Progress
from onnxlite.records import Skipped as Skipped
from onnxlite.records import StepReport as StepReport
from onnxlite.records import Usability as Usability
from onnxlite.repair.options import Method
from onnxlite.repair.options import RepairReport as RepairReport
from onnxlite.report import load_report as load_report
from onnxlite.report import save_report as save_report
from onnxlite.samples import Samples as Samples
from onnxlite.samples import SamplesLike as SamplesLike
from onnxlite.save import save as save
from onnxlite.search import Budget as Budget
from onnxlite.search import Check as Check
from onnxlite.search import OptimizeReport as OptimizeReport
from onnxlite.search import Quality as Quality
from onnxlite.search import SearchRecord as SearchRecord
from onnxlite.search import Trial as Trial
from onnxlite.search.job import TrialSink
from onnxlite.search.optimize import BudgetLike
from onnxlite.search.records import Prefer
from onnxlite.simplify.options import OnnxsimChoice
from onnxlite.simplify.options import SimplifyReport as SimplifyReport
from onnxlite.simplify.rewrite import Rewrite
from onnxlite.step import Result as Result
from onnxlite.step import Step as Step
from onnxlite.task_metrics import MetricLike
from onnxlite.tune.options import Labels, LossFunction
from onnxlite.tune.options import TuneReport as TuneReport

__version__: str
__all__ = [
    "Budget",
    "ChannelReport",
    "Check",
    "ExecutionError",
    "Fidelity",
    "InvalidModelError",
    "Latency",
    "LayerFidelity",
    "LayerRow",
    "LayerSensitivity",
    "LoadError",
    "MissingPackageError",
    "ModelError",
    "ModelLike",
    "OnnxliteError",
    "OptimizeReport",
    "OptionError",
    "PruneChannels",
    "PruneChannelsReport",
    "PruneWeights",
    "PruneWeightsReport",
    "Quality",
    "QuantizeAuto",
    "QuantizeAutoReport",
    "QuantizeDynamic",
    "QuantizeDynamicReport",
    "QuantizeStatic",
    "QuantizeStaticReport",
    "QuantizeWeights",
    "QuantizeWeightsReport",
    "Recipe",
    "Repair",
    "RepairReport",
    "Result",
    "RunReport",
    "Samples",
    "SamplesError",
    "SamplesLike",
    "SaveError",
    "SearchRecord",
    "Sensitivity",
    "Simplify",
    "SimplifyReport",
    "Skipped",
    "SparseStorage",
    "SparseStorageReport",
    "Step",
    "StepReport",
    "Summary",
    "ToFloat16",
    "ToFloat16Report",
    "Trial",
    "Tune",
    "TuneReport",
    "UnsupportedError",
    "Usability",
    "VerificationError",
    "__version__",
    "benchmark",
    "compare",
    "explain_channels",
    "inspect",
    "load",
    "load_recipe",
    "load_report",
    "optimize",
    "prune_channels",
    "prune_weights",
    "quantize_auto",
    "quantize_dynamic",
    "quantize_static",
    "quantize_weights",
    "repair",
    "run",
    "save",
    "save_report",
    "sensitivity",
    "simplify",
    "sparse_storage",
    "to_float16",
    "tune",
]

def benchmark(
    reference: ModelLike,
    candidate: ModelLike,
    *,
    samples: SamplesLike | None = None,
    threads: int | None = 1,
    batch_size: int = 1,
    rounds: int | None = None,
    time_limit_s: float = 10.0,
    memory: bool = True,
    seed: int = 0,
    batch_axis: BatchAxisOption = None,
    progress: Progress = ...,
) -> Latency:
    """Measure the latency of `candidate` relative to `reference`, in interleaved pairs.

    Args:
        reference: the model to compare with.
        candidate: the model to measure.
        samples: real inputs, of which at most 8 batches are used in turn; without them
            generated ones (the time of most operators does not depend on the values).
        threads: Threads of ONNX Runtime that one run may use; None takes all cores.
        batch_size: Samples per run where the models' batch axis is dynamic.
        rounds: Rounds A B B A; None does as many as the time allows, 5 to 500.
        time_limit_s: Seconds for rounds and session starts, more if 5 rounds take more.
        memory: Also measure peak memory, in a child process per model.
        seed: Seed of all random choices.
        batch_axis: Axis of the samples, of all inputs or by name of the input; None for an input
            without such an axis. By default it is derived from names of axes, and from a run with a
            doubled batch where they do not tell.
        progress: Called as the work goes on, with the stage, units done and units in all; an
            exception that it raises ends the work.

    Raises:
        OptionError: a wrong option.
        SamplesError: the samples do not fit the models.
        ExecutionError: ONNX Runtime does not run one of the models on these inputs.
    """

def compare(
    reference: ModelLike,
    candidate: ModelLike,
    *,
    samples: SamplesLike | None = None,
    metric: MetricLike | None = None,
    labels: NDArray[Any] | Sequence[int] | None = None,
    layers: bool = False,
    limit: int | None = None,
    batch_axis: BatchAxisOption = None,
    threads: int | None = None,
    progress: Progress = ...,
) -> Fidelity:
    """Run both models on the same samples and measure the difference of their outputs.

    Outputs are matched by name, or by position where the names differ. Nothing but sums
    is kept between feeds; metrics that need all samples at once keep what they compare.

    Args:
        reference: the model to be reproduced.
        candidate: the model to judge.
        samples: inputs in any form of `SamplesLike`; None generates inputs, which show whether
            a rewrite is exact and little about a lossy one.
        metric: a task metric: a name in `task_metrics.METRICS`, a fitted metric, or a function
            of a model's outputs, and of the labels where there are some. By default the one
            that fits the outputs; `metrics` has it with the reason.
        labels: class of each sample, `int[samples]`: adds the accuracy of both models, on
            the first output that holds class scores `[n, classes]` or classes `[n]`.
        layers: Also compare layer by layer, to find which one breaks the model. Layers are matched
            by name and by the lineage that steps record; it takes a few more runs of both models,
            in bounded memory.
        limit: Use at most this many samples; None uses all.
        batch_axis: Axis of the samples, of all inputs or by name of the input; None for an input
            without such an axis. By default it is derived from names of axes, and from a run with a
            doubled batch where they do not tell.
        threads: Threads of ONNX Runtime and torch; None takes all cores.
        progress: Called as the work goes on, with the stage, units done and units in all; an
            exception that it raises ends the work.

    Raises:
        OptionError: the models' inputs or number of outputs differ; the metric or the labels
            fit no output.
        SamplesError: the samples do not fit the models, or the labels do not fit them.
        VerificationError: an output has another shape in the candidate.
        ExecutionError: ONNX Runtime does not run one of the models.
    """

def inspect(
    model: ModelLike,
    *,
    samples: SamplesLike | None = None,
    batch_size: int = 1,
    sparsity: bool | None = None,
    batch_axis: BatchAxisOption = None,
) -> Summary:
    """Describe a model: inputs, outputs, operators, parameters, MACs, bytes, layers.

    Args:
        model: a path, a `ModelProto`, an `ir.Model` or a `Result`; it is not changed.
        samples: the first `batch_size` of them set the sizes of dynamic axes for the MACs;
            needed if the model accepts no generated input.
        batch_size: Batch size that MACs are counted for.
        sparsity: Count zeros, which reads every weight; None does so in models below 500 MB.
        batch_axis: Axis of the samples, of all inputs or by name of the input; None for an input
            without such an axis. By default it is derived from names of axes, and from a run with a
            doubled batch where they do not tell.

    Raises:
        LoadError: the model cannot be read.
        InvalidModelError: its graph is not valid.
        SamplesError: the samples do not fit the model.
    """

@overload
def optimize(
    model: onnx.ModelProto | Result[onnx.ModelProto, Any],
    samples: SamplesLike,
    *,
    budget: BudgetLike | None = None,
    metric: MetricLike | None = None,
    labels: NDArray[Any] | Sequence[Any] | None = None,
    evaluation: SamplesLike | None = None,
    executor: Executor | int | None = None,
    on_trial: TrialSink | None = None,
    max_drop: float | None = None,
    min_agreement: float | None = None,
    min_cosine: float | None = None,
    min_sqnr_db: float | None = None,
    max_error: float | None = None,
    max_latency: float | None = None,
    max_latency_ms: float | None = None,
    max_size: float | None = None,
    max_bytes: int | None = None,
    certain: bool = False,
    prefer: Prefer | None = None,
    target: str = "cpu",
    time_limit_s: float | None = None,
    effort: Effort = "default",
    output: str | PathLike[str] | None = None,
    cache: str | PathLike[str] | Literal[False] | None = None,
    seed: int = 0,
    batch_axis: BatchAxisOption = None,
    floor_db: float | None = None,
    progress: Progress = ...,
) -> Result[onnx.ModelProto, OptimizeReport]:
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
        max_drop: Largest loss of the metric: 0.01 is one point of accuracy, agreement or cosine
            similarity.
        min_agreement: Least fraction of samples whose top class stays that of the original.
        min_cosine: Least mean cosine similarity to the original's outputs.
        min_sqnr_db: Least SQNR of the outputs, in dB.
        max_error: Largest absolute difference of an output value.
        max_latency: Latency relative to the original: 0.5 is twice as fast.
        max_latency_ms: Latency in milliseconds on this machine, one thread, batch 1.
        max_size: Size of the file relative to the original.
        max_bytes: Size of the file in bytes.
        certain: Also refuse results whose figure keeps to a limit that the samples leave undecided:
            it lies inside of the confidence interval, or few samples or a heavy tail make the
            interval doubtful. Otherwise the figure itself decides, and the report names the
            undecided limits.
        prefer: Objective among the results that meet the budget: `"latency"`, `"size"`, `"both"`
            (their product), or `"quality"`. `"latency"` takes the smallest of those within 3% of
            the fastest. None is `"latency"`, or `"quality"` if the budget limits nothing but
            latency and size.
        target: Runtime whose integer types are used, see `quantize_static`.
        time_limit_s: Seconds; then the best result so far is taken. None is a limit that follows
            from the time of one run and the number of samples, from 90 seconds to half an hour.
        effort: Effort of the steps, see there. `"default"` is `"fast"` where the time limit is less
            than half of the default one.
        output: Write the result here, atomically; nothing is written if it is the original.
        cache: Folder of the results of trials, from which an interrupted search resumes; None is a
            folder of the user's cache, False keeps nothing.
        seed: Seed of all random choices.
        batch_axis: Axis of the samples, of all inputs or by name of the input; None for an input
            without such an axis. By default it is derived from names of axes, and from a run with a
            doubled batch where they do not tell.
        floor_db: Least SQNR in dB of any part of an output on samples; a result below it is not
            usable. None: 10 dB, a cosine of 0.9 and, where outputs show such a task, 0.7 of the
            classes, detections, masks or texts. 0 accepts every result with finite outputs.
        progress: Called as the work goes on, with the stage, units done and units in all; an
            exception that it raises ends the work.

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

@overload
def optimize(
    model: str | PathLike[str] | ir.Model | Result[ir.Model, Any],
    samples: SamplesLike,
    *,
    budget: BudgetLike | None = None,
    metric: MetricLike | None = None,
    labels: NDArray[Any] | Sequence[Any] | None = None,
    evaluation: SamplesLike | None = None,
    executor: Executor | int | None = None,
    on_trial: TrialSink | None = None,
    max_drop: float | None = None,
    min_agreement: float | None = None,
    min_cosine: float | None = None,
    min_sqnr_db: float | None = None,
    max_error: float | None = None,
    max_latency: float | None = None,
    max_latency_ms: float | None = None,
    max_size: float | None = None,
    max_bytes: int | None = None,
    certain: bool = False,
    prefer: Prefer | None = None,
    target: str = "cpu",
    time_limit_s: float | None = None,
    effort: Effort = "default",
    output: str | PathLike[str] | None = None,
    cache: str | PathLike[str] | Literal[False] | None = None,
    seed: int = 0,
    batch_axis: BatchAxisOption = None,
    floor_db: float | None = None,
    progress: Progress = ...,
) -> Result[ir.Model, OptimizeReport]: ...
@overload
def prune_channels(
    model: onnx.ModelProto | Result[onnx.ModelProto, Any],
    *,
    samples: SamplesLike | None = None,
    effort: Effort = "default",
    macs: float | None = None,
    params: float | None = None,
    latency: float | None = None,
    remove: float | Mapping[str, float] | None = None,
    widths: Mapping[str, int] | None = None,
    importance: Importance | ImportanceFunction = "auto",
    round_to: int | Literal["auto"] = "auto",
    exclude: Sequence[str] = (),
    min_channels: int = 1,
    branches: bool = True,
    repair: bool | Literal["auto"] = "auto",
    limit: int | None = None,
    seed: int = 0,
    batch_axis: BatchAxisOption = None,
    threads: int | None = None,
    floor_db: float | None = None,
    progress: Progress = ...,
) -> Result[onnx.ModelProto, PruneChannelsReport]:
    """Remove the least important channels: every layer they belong to becomes smaller.

    Units that go together (through residual sums, concatenations, reshapes, attention heads)
    are derived from the graph; units that must stay are skipped with the reason.
    `explain_channels` shows both beforehand. Give exactly one of `macs`, `params`, `latency`,
    `remove` and `widths`. The first three are reached by removing the units that do least
    damage for what they save. With samples the layers that remain are repaired
    (`onnxlite.repair`); without them expect a large loss of accuracy.

    Args:
        model: a path, a `ModelProto`, an `ir.Model` or a `Result`; it is not changed. Simplify
            it first.
        samples: unlabelled inputs, in any form of `SamplesLike`.
        effort: `"fast"` ranks units by their contribution and removes no branches, unless options
            ask for it; `"best"` refits the layers that remain on four times as many positions of
            their outputs.
        macs: Fraction of MACs to keep: `0.7` keeps 70%.
        params: Fraction of parameters to keep.
        latency: Fraction of the latency to keep, at batch size 1 on this machine. Layer times are
            measured and cached; the result is measured against the original and corrected.
        remove: Fraction of the units to remove from every group; or fractions by group name, which
            leaves all other groups as they are.
        widths: Number of units to keep, by group name; all other groups stay as they are. A recipe
            stores the choice of `latency` in this form.
        importance: Criterion that ranks units. `"reconstruction"`: error left after the layers that
            read a unit are refitted, from second moments of the samples; `"energy"`: contribution
            to those layers; `"l1"`, `"l2"`: norm of the weights; `"bn"`: scale of a normalization
            that is still in the graph; `"random"`; or a function of a group's name and its weights'
            slices, each `[units, elements]`, that returns one number per unit. `"auto"` is
            `"reconstruction"` with samples, else `"l2"`.
        round_to: Keep a multiple of this many channels. ONNX Runtime's float kernels work on blocks
            of 16 (AVX-512), 8 (AVX2) or 4 channels, so other widths cost time. A group no wider
            than this may shrink to its half, down to 4, if that helps the goal. `"auto"` takes the
            block of this machine.
        exclude: Patterns (`fnmatch`) of node or weight names whose shapes stay.
        min_channels: Least number of units to keep in every group.
        branches: Allow the removal of whole branches beside a shortcut (residual blocks, attention,
            feed-forward parts). A branch goes only if the repaired model without it is clearly
            closer to the original on held-out samples.
        repair: Refit the layers that remain; `"auto"` does so if there are samples.
        limit: Use at most this many samples; None uses all.
        seed: Seed of all random choices.
        batch_axis: Axis of the samples, of all inputs or by name of the input; None for an input
            without such an axis. By default it is derived from names of axes, and from a run with a
            doubled batch where they do not tell.
        threads: Threads of ONNX Runtime and torch; None takes all cores.
        floor_db: Least SQNR in dB of any part of an output on samples; a result below it is not
            usable. None: 10 dB, a cosine of 0.9 and, where outputs show such a task, 0.7 of the
            classes, detections, masks or texts. 0 accepts every result with finite outputs.
        progress: Called as the work goes on, with the stage, units done and units in all; an
            exception that it raises ends the work.

    Returns:
        The smaller model, a `ModelProto` if one came in, otherwise an `ir.Model`, and the
        report with the old and new shape of every weight.

    Raises:
        OptionError: a value out of range, a name or pattern that matches nothing, or not
            exactly one goal.
        SamplesError: the samples do not fit the model.
        VerificationError: the result differs from the model with the same channels set to
            zero in place.
    """

@overload
def prune_channels(
    model: str | PathLike[str] | ir.Model | Result[ir.Model, Any],
    *,
    samples: SamplesLike | None = None,
    effort: Effort = "default",
    macs: float | None = None,
    params: float | None = None,
    latency: float | None = None,
    remove: float | Mapping[str, float] | None = None,
    widths: Mapping[str, int] | None = None,
    importance: Importance | ImportanceFunction = "auto",
    round_to: int | Literal["auto"] = "auto",
    exclude: Sequence[str] = (),
    min_channels: int = 1,
    branches: bool = True,
    repair: bool | Literal["auto"] = "auto",
    limit: int | None = None,
    seed: int = 0,
    batch_axis: BatchAxisOption = None,
    threads: int | None = None,
    floor_db: float | None = None,
    progress: Progress = ...,
) -> Result[ir.Model, PruneChannelsReport]: ...
@overload
def prune_weights(
    model: onnx.ModelProto | Result[onnx.ModelProto, Any],
    *,
    samples: SamplesLike | None = None,
    sparsity: float | None = None,
    threshold: float | None = None,
    pattern: str | None = None,
    method: SparseMethod = "auto",
    scope: Scope = "auto",
    rounds: int = 1,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    limit: int | None = None,
    batch_axis: BatchAxisOption = None,
    threads: int | None = None,
    floor_db: float | None = None,
    progress: Progress = ...,
) -> Result[onnx.ModelProto, PruneWeightsReport]:
    """Set weights to zero, in every layer that multiplies by weights and in embeddings.

    Weights are the constants of Conv, ConvTranspose, Gemm, MatMul, Einsum, LSTM, GRU, RNN and
    Gather nodes, subgraphs included; biases and normalization parameters get no zeros. Give
    exactly one of `sparsity`, `threshold` and `pattern`.

    With samples, layer after layer is fitted to what the original computes, and the weights
    that stay compensate for the zeros; biases may change. Without samples the smallest weights
    become zero, tensor by tensor: memory is bounded by the largest tensor, not by the model.

    Args:
        model: a path, a `ModelProto`, an `ir.Model` or a `Result`; it is not changed.
        samples: unlabelled inputs, some hundreds, for `"wanda"` and `"obc"`.
        sparsity: Fraction of weights that are zero afterwards.
        threshold: Instead of sparsity: zero every weight below it.
        pattern: Instead of sparsity: `"N:M"`, at most N nonzero weights of every M consecutive ones
            in a sum (input channels of a convolution, rows of a matrix). Weights whose sum is no
            multiple of M are left alone.
        method: `"magnitude"`: the smallest weights; `"wanda"`: the smallest products of weight and
            input norm per output, nothing else changes (Sun et al. 2023); `"obc"`: chosen and
            compensated by second moments of the inputs (Frantar & Alistarh 2022, 2023); `"auto"`:
            `"obc"` with samples, else `"magnitude"`.
        scope: `"layer"`: the same sparsity in each layer; `"global"`: over the model, by one
            magnitude threshold; `"sensitivity"`: over the model, by the effect of zeros on the
            outputs; `"auto"`: `"sensitivity"` for `"obc"`, else `"layer"`.
        rounds: Rounds of `"obc"` in which the sparsity is reached.
        include: Patterns (`fnmatch`) of node or weight names to change; empty means all.
        exclude: Patterns (`fnmatch`) of node or weight names to leave alone.
        limit: Use at most this many samples; None uses all.
        batch_axis: Axis of the samples, of all inputs or by name of the input; None for an input
            without such an axis. By default it is derived from names of axes, and from a run with a
            doubled batch where they do not tell.
        threads: Threads of ONNX Runtime and torch; None takes all cores.
        floor_db: Least SQNR in dB of any part of an output on samples; a result below it is not
            usable. None: 10 dB, a cosine of 0.9 and, where outputs show such a task, 0.7 of the
            classes, detections, masks or texts. 0 accepts every result with finite outputs.
        progress: Called as the work goes on, with the stage, units done and units in all; an
            exception that it raises ends the work.

    Returns:
        The model, a `ModelProto` if one came in, otherwise an `ir.Model`, and the report with
        the sparsity of every layer and what was skipped.

    Raises:
        OptionError: not exactly one of `sparsity`, `threshold` and `pattern`, a value out of
            range, a method without samples, or a name pattern that matches nothing.
        SamplesError: the samples do not fit the model.
        ExecutionError: ONNX Runtime does not run the model on the samples.
        UnsupportedError: a weight holds NaN or infinite values.
    """

@overload
def prune_weights(
    model: str | PathLike[str] | ir.Model | Result[ir.Model, Any],
    *,
    samples: SamplesLike | None = None,
    sparsity: float | None = None,
    threshold: float | None = None,
    pattern: str | None = None,
    method: SparseMethod = "auto",
    scope: Scope = "auto",
    rounds: int = 1,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    limit: int | None = None,
    batch_axis: BatchAxisOption = None,
    threads: int | None = None,
    floor_db: float | None = None,
    progress: Progress = ...,
) -> Result[ir.Model, PruneWeightsReport]: ...
@overload
def quantize_auto(
    model: onnx.ModelProto | Result[onnx.ModelProto, Any],
    samples: SamplesLike,
    *,
    target: str = "cpu",
    effort: Effort = "default",
    min_sqnr_db: float = 20.0,
    rounding: RoundingOption = "compensated",
    storage: StorageOption = True,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    limit: int | None = None,
    batch_axis: BatchAxisOption = None,
    threads: int | None = None,
    floor_db: float | None = None,
    progress: Progress = ...,
) -> Result[onnx.ModelProto, QuantizeAutoReport]:
    """Quantize to INT8 with `quantize_static` or `quantize_dynamic`, whichever measures better.

    Both are made and compared with the float model, in fidelity and in latency of interleaved
    runs on one thread, on samples that neither was calibrated on. Of those that keep
    `min_sqnr_db` the fastest is returned, and of two that are equally fast the more exact one.
    Where none is both exact enough and faster than float, the model stays float.

    Args:
        model: a float32 model: a path, a `ModelProto`, an `ir.Model` or a `Result`; it is not
            changed.
        samples: unlabelled inputs in any form of `SamplesLike`, of the sizes that matter: the
            first three quarters of their batches calibrate, the others are held out. A single
            batch does both, which the report says.
        target: Runtime whose integer types are used: a row of the table of targets.
        effort: Of static quantization, see there.
        min_sqnr_db: SQNR in dB that the worst output must keep on held-out samples.
        rounding: `"compensated"` fits the weights of each layer to the samples, on the integer
            activations that the layer gets, rounds them so that their errors cancel (GPTQ, Frantar
            et al. 2023), and adds a scale and bias per output channel. Nearest integers are kept
            where they are no worse on held-out samples. `"nearest"` only rounds.
        storage: Store the weights of layers that stay float, such as recurrent cells without an
            integer kernel, in 8 bits that ONNX Runtime decodes when it loads the model.
        include: Patterns (`fnmatch`) of node or weight names to change; empty means all.
        exclude: Patterns (`fnmatch`) of node or weight names to leave alone.
        limit: Use at most this many samples; None uses all.
        batch_axis: Axis of the samples, of all inputs or by name of the input; None for an input
            without such an axis. By default it is derived from names of axes, and from a run with a
            doubled batch where they do not tell.
        threads: Threads of ONNX Runtime and torch; None takes all cores.
        floor_db: Least SQNR in dB of any part of an output on samples; a result below it is not
            usable. None: 10 dB, a cosine of 0.9 and, where outputs show such a task, 0.7 of the
            classes, detections, masks or texts. 0 accepts every result with finite outputs.
        progress: Called as the work goes on, with the stage, units done and units in all; an
            exception that it raises ends the work.

    Returns:
        The quantized model, a `ModelProto` if one came in, otherwise an `ir.Model`; a copy of
        the input if neither is better. The report has one row per candidate with its figures,
        then the rows of the one that was taken.

    Raises:
        OptionError: a wrong option or an unknown target.
        SamplesError: the samples do not fit, or make an inner value NaN or infinite.
        ExecutionError: ONNX Runtime cannot run the model.
    """

@overload
def quantize_auto(
    model: str | PathLike[str] | ir.Model | Result[ir.Model, Any],
    samples: SamplesLike,
    *,
    target: str = "cpu",
    effort: Effort = "default",
    min_sqnr_db: float = 20.0,
    rounding: RoundingOption = "compensated",
    storage: StorageOption = True,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    limit: int | None = None,
    batch_axis: BatchAxisOption = None,
    threads: int | None = None,
    floor_db: float | None = None,
    progress: Progress = ...,
) -> Result[ir.Model, QuantizeAutoReport]: ...
@overload
def quantize_dynamic(
    model: onnx.ModelProto | Result[onnx.ModelProto, Any],
    *,
    samples: SamplesLike | None = None,
    target: str = "cpu",
    kernel: KernelChoice = "auto",
    embeddings: bool = True,
    storage: StorageOption = True,
    smooth: SmoothOption = "auto",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    limit: int | None = None,
    batch_axis: BatchAxisOption = None,
    floor_db: float | None = None,
    progress: Progress = ...,
) -> Result[onnx.ModelProto, QuantizeDynamicReport]:
    """Quantize weights to 8 bits, and activations with scales that each run computes.

    MatMul and Gemm with a constant operand and LSTM run on integers, also in the bodies of
    `If`, `Loop` and `Scan`. Nothing is calibrated, so no sample is needed. The activations of
    a run decide its scales, so a sample's result depends a little on the rest of its batch.
    Simplify the model first.

    Args:
        model: a float32 model: a path, a `ModelProto`, an `ir.Model` or a `Result`; it is not
            changed.
        samples: inputs of the size that matters: kernels are timed on the shapes of the first
            one, and the first 64 show outliers. None generates inputs, whose dynamic axes are
            small.
        target: Runtime whose integer types are used: a row of the table of targets.
        kernel: `"auto"` times each layer alone, in float and on each kernel, and takes the fastest
            on one thread; `"integer"`: one scale for all activations of a layer, by standard
            operators; `"blocks"`: a scale per block of each row, by ONNX Runtime's MatMulNBits.
        embeddings: Also store look-up tables in 8 bits, one scale per row (CPU targets).
        storage: Store the weights of layers that stay float, such as recurrent cells without an
            integer kernel, in 8 bits that ONNX Runtime decodes when it loads the model.
        smooth: Move outliers of the channels that MatMul and Gemm read into the weights
            (SmoothQuant, Xiao et al. 2023): `"auto"` where the error on samples falls clearly, True
            wherever possible, False never.
        include: Patterns (`fnmatch`) of node or weight names to change; empty means all.
        exclude: Patterns (`fnmatch`) of node or weight names to leave alone.
        limit: Use at most this many samples; None uses all.
        batch_axis: Axis of the samples, of all inputs or by name of the input; None for an input
            without such an axis. By default it is derived from names of axes, and from a run with a
            doubled batch where they do not tell.
        floor_db: Least SQNR in dB of any part of an output on samples; a result below it is not
            usable. None: 10 dB, a cosine of 0.9 and, where outputs show such a task, 0.7 of the
            classes, detections, masks or texts. 0 accepts every result with finite outputs.
        progress: Called as the work goes on, with the stage, units done and units in all; an
            exception that it raises ends the work.

    Returns:
        The quantized model, a `ModelProto` if one came in, otherwise an `ir.Model`; a copy of
        the input if nothing is to be quantized. The report has one row per layer, and what
        stays float and why.

    Raises:
        OptionError: a wrong option or an unknown target.
        SamplesError: the samples do not fit the model.
        ExecutionError: ONNX Runtime cannot run the model or its quantized form.
        VerificationError: the quantized model's output is not finite.
    """

@overload
def quantize_dynamic(
    model: str | PathLike[str] | ir.Model | Result[ir.Model, Any],
    *,
    samples: SamplesLike | None = None,
    target: str = "cpu",
    kernel: KernelChoice = "auto",
    embeddings: bool = True,
    storage: StorageOption = True,
    smooth: SmoothOption = "auto",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    limit: int | None = None,
    batch_axis: BatchAxisOption = None,
    floor_db: float | None = None,
    progress: Progress = ...,
) -> Result[ir.Model, QuantizeDynamicReport]: ...
@overload
def quantize_static(
    model: onnx.ModelProto | Result[onnx.ModelProto, Any],
    samples: SamplesLike,
    *,
    target: str = "cpu",
    effort: Effort = "default",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    placement: PlacementBy = "measured",
    rounding: RoundingOption = "compensated",
    smooth: SmoothOption = "auto",
    embeddings: bool = True,
    observer: ObserverChoice = "auto",
    weight_bits: WeightBits = 8,
    equalize: bool = True,
    form: Form = "qdq",
    int16: Sequence[str] = (),
    min_sqnr_db: float | None = None,
    limit: int | None = None,
    batch_axis: BatchAxisOption = None,
    threads: int | None = None,
    executor: Executor | None = None,
    floor_db: float | None = None,
    progress: Progress = ...,
) -> Result[onnx.ModelProto, QuantizeStaticReport]:
    """Quantize weights and activations to 8 bits, with ranges from unlabelled samples.

    By default the result is in QDQ form: per-channel int8 weights, uint8 activations, int32
    biases. Conv, Gemm and MatMul with constant weights run on integers, and with them the
    operators between them that have integer kernels. Simplify the model first: a
    BatchNormalization that is not folded stays float.

    Args:
        model: a float32 model: a path, a `ModelProto`, an `ir.Model` or a `Result`; it is not
            changed.
        samples: unlabelled inputs, some hundreds, in any form of `SamplesLike`.
        target: Runtime whose integer types are used: a row of the table of targets.
        effort: `"fast"` rounds to nearest, scales no channels up, measures no times and keeps no
            sensitive layers float, unless options ask for it: a tenth of the cost, and some
            decibels less; `"best"` fits weights to four times as many positions, times placements
            four times as long, and tries more of the layers to keep float if the result is poor.
        include: Patterns (`fnmatch`) of node or weight names to change; empty means all.
        exclude: Patterns (`fnmatch`) of node or weight names to leave alone.
        placement: `"measured"` leaves a layer in float where its integer kernel, with the
            conversions around it, is measured to be slower on this machine (one thread, one sample
            and up to eight), so the result is never slower than the float model; for the CPU
            targets that this machine can run, and for models below 1 GiB. `"everything"` quantizes
            every layer that can be; `"remembered"` does so unless the same structure was measured
            on this machine before.
        rounding: `"compensated"` fits the weights of each layer to the samples, on the integer
            activations that the layer gets, rounds them so that their errors cancel (GPTQ, Frantar
            et al. 2023), and adds a scale and bias per output channel. Nearest integers are kept
            where they are no worse on held-out samples. `"nearest"` only rounds.
        smooth: Move outliers of the channels that MatMul and Gemm read into the weights
            (SmoothQuant, Xiao et al. 2023): `"auto"` where the error on samples falls clearly, True
            wherever possible, False never.
        embeddings: Also store look-up tables in 8 bits, one scale per row (CPU targets).
        observer: How the range of an activation is chosen: `"minmax"`, all values seen; `"moving-
            average"`, the mean of the limits of batches; `"percentile"`, the limits of all but 1%
            of the samples; `"mse"`, least squared error; `"auto"`, the latter where the model's
            outputs gain by it on held-out samples, otherwise all values seen.
        weight_bits: Bits of a weight: 8, or fewer, packed in the file. Packed weights run as fast
            as 8 bits. Layers of short sums, like depthwise convolutions, keep 8.
        equalize: Scale up channels that use little of their tensor's range and divide where they
            are read, if that helps on held-out samples (cross-layer equalization, after Nagel et
            al. 2019).
        form: `"qdq"`: Q and DQ nodes around float operators, which every runtime reads;
            `"qoperator"`: ONNX Runtime's integer operators, with the same results and a smaller
            file (CPU targets).
        int16: Patterns (`fnmatch`) of names of layers that get 16-bit activations, for the targets
            `qnn` and `generic`; brings the model to opset 21.
        min_sqnr_db: SQNR in dB that the worst output must keep on held-out samples. As few layers
            as needed stay float, or get 16-bit activations where the target has them; the report
            says whether the SQNR was reached. None: only a result with 8-bit weights below 15 dB
            gets such layers, to reach 20 dB. 0: none.
        limit: Use at most this many samples; None uses all.
        batch_axis: Axis of the samples, of all inputs or by name of the input; None for an input
            without such an axis. By default it is derived from names of axes, and from a run with a
            doubled batch where they do not tell.
        threads: Threads of ONNX Runtime and torch; None takes all cores.
        executor: Workers that calibrate on a shard of the samples each; what they find merges
            exactly, so the result is the same.
        floor_db: Least SQNR in dB of any part of an output on samples; a result below it is not
            usable. None: 10 dB, a cosine of 0.9 and, where outputs show such a task, 0.7 of the
            classes, detections, masks or texts. 0 accepts every result with finite outputs.
        progress: Called as the work goes on, with the stage, units done and units in all; an
            exception that it raises ends the work.

    Returns:
        The quantized model, a `ModelProto` if one came in, otherwise an `ir.Model`; a copy of
        the input if no layer can be quantized. The report has one row per layer, and what
        stays float and why.

    Raises:
        OptionError: a wrong option, an unknown target, or a form or 16-bit activations that the
            target does not have.
        SamplesError: the samples do not fit, or make an inner value NaN or infinite.
        ExecutionError: ONNX Runtime cannot run the model or its quantized form.
        VerificationError: the quantized model's output is not finite.
    """

@overload
def quantize_static(
    model: str | PathLike[str] | ir.Model | Result[ir.Model, Any],
    samples: SamplesLike,
    *,
    target: str = "cpu",
    effort: Effort = "default",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    placement: PlacementBy = "measured",
    rounding: RoundingOption = "compensated",
    smooth: SmoothOption = "auto",
    embeddings: bool = True,
    observer: ObserverChoice = "auto",
    weight_bits: WeightBits = 8,
    equalize: bool = True,
    form: Form = "qdq",
    int16: Sequence[str] = (),
    min_sqnr_db: float | None = None,
    limit: int | None = None,
    batch_axis: BatchAxisOption = None,
    threads: int | None = None,
    executor: Executor | None = None,
    floor_db: float | None = None,
    progress: Progress = ...,
) -> Result[ir.Model, QuantizeStaticReport]: ...
@overload
def quantize_weights(
    model: onnx.ModelProto | Result[onnx.ModelProto, Any],
    *,
    samples: SamplesLike | None = None,
    effort: Effort = "default",
    bits: Bits = 4,
    block_size: int | None = None,
    method: WeightMethod = "auto",
    mode: WeightMode = "storage",
    first_last_bits: FirstLastBits = "auto",
    max_size: float | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    limit: int | None = None,
    batch_axis: BatchAxisOption = None,
    threads: int | None = None,
    floor_db: float | None = None,
    progress: Progress = ...,
) -> Result[onnx.ModelProto, QuantizeWeightsReport]:
    """Store weights in few bits; activations stay float.

    In storage mode weights are packed into bytes and decoded by ordinary ONNX nodes, which ONNX
    Runtime folds when it loads the model: the file is smaller, the speed is that of float
    weights. In compute mode ONNX Runtime's kernels read packed weights of products and
    embeddings: memory is smaller, too, and so is the time of products of few rows.

    Args:
        model: a path, a `ModelProto`, an `ir.Model` or a `Result`; it is not changed. A model
            in external data is read and written tensor by tensor.
        samples: unlabelled inputs, some hundreds, that weights are fitted to.
        effort: `"fast"` rounds to nearest unless `method` asks for more; `"best"` fits weights to
            four times as many positions of the outputs.
        bits: Width of a weight: 8, 6, 5, 4, 3, 2, `"ternary"` (-1, 0, 1; 1.6 bits in the file) or
            `"binary"` (1 bit). Depthwise convolutions keep 8 bits.
        block_size: Weights that share a scale; 0 for one scale per output channel; None for 32 at 2
            to 4 bits and 0 at all other widths. The closest divisor of a layer's sums is taken.
        method: `"rtn"` rounds to nearest. `"gptq"` fits each layer to the float model on its
            present input, rounds with compensation (Frantar et al. 2023) and adds a scale and bias
            per output channel; rounding to nearest is kept where it is no worse on held-out
            samples. `"hqq"` chooses zero points without samples by half-quadratic splitting (Badri
            & Shaji 2023). `"auto"` is `"gptq"` with samples, else `"hqq"`, and `"rtn"` for models
            of 1 GiB and more.
        mode: `"storage"`: weights are decoded once, when ONNX Runtime loads the model; `"compute"`:
            kernels read packed weights (MatMulNBits and GatherBlockQuantized of com.microsoft, 2, 4
            and 8 bits; other layers are decoded at load). In products activations are rounded to
            int8 where that costs at most 0.5 dB or leaves 30 dB.
        first_last_bits: Width of the first and the last layer: `"auto"` gives the first 8 bits, and
            the last as well below 4 bits; `"same"`, `"float"`, or a width.
        max_size: Size of the result as a fraction of the model's size. Each weight then gets the
            width, ternary to 8 bits, that causes least damage at the outputs per byte saved; `bits`
            and `first_last_bits` are not used.
        include: Patterns (`fnmatch`) of weight or node names; empty means every weight of an
            operator that has some. A named weight of any other operator is taken, too.
        exclude: Patterns (`fnmatch`) of names that stay float.
        limit: Use at most this many samples; None uses all.
        batch_axis: Axis of the samples, of all inputs or by name of the input; None for an input
            without such an axis. By default it is derived from names of axes, and from a run with a
            doubled batch where they do not tell.
        threads: Threads of ONNX Runtime and torch; None takes all cores.
        floor_db: Least SQNR in dB of any part of an output on samples; a result below it is not
            usable. None: 10 dB, a cosine of 0.9 and, where outputs show such a task, 0.7 of the
            classes, detections, masks or texts. 0 accepts every result with finite outputs.
        progress: Called as the work goes on, with the stage, units done and units in all; an
            exception that it raises ends the work.

    Returns:
        The packed model, a `ModelProto` if one came in, otherwise an `ir.Model`; a copy of the
        input if no weight gets smaller. The report has one row per weight, and what stays
        float and why.

    Raises:
        OptionError: a wrong option, or a pattern that matches nothing.
        SamplesError: the samples do not fit the model.
        VerificationError: ONNX Runtime decodes other numbers than were packed, or does not
            fold the decoding.
    """

@overload
def quantize_weights(
    model: str | PathLike[str] | ir.Model | Result[ir.Model, Any],
    *,
    samples: SamplesLike | None = None,
    effort: Effort = "default",
    bits: Bits = 4,
    block_size: int | None = None,
    method: WeightMethod = "auto",
    mode: WeightMode = "storage",
    first_last_bits: FirstLastBits = "auto",
    max_size: float | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    limit: int | None = None,
    batch_axis: BatchAxisOption = None,
    threads: int | None = None,
    floor_db: float | None = None,
    progress: Progress = ...,
) -> Result[ir.Model, QuantizeWeightsReport]: ...
@overload
def repair(
    reference: ModelLike,
    candidate: onnx.ModelProto | Result[onnx.ModelProto, Any],
    samples: SamplesLike,
    *,
    method: Method = "auto",
    ridge: float = 0.001,
    max_rows: int = 12288,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    limit: int | None = None,
    seed: int = 0,
    batch_axis: BatchAxisOption = None,
    threads: int | None = None,
    floor_db: float | None = None,
    progress: Progress = ...,
) -> Result[onnx.ModelProto, RepairReport]:
    """Fit the layers of a pruned or rounded model to the outputs of the original's layers.

    Layer by layer, in topological order, the original's output is regressed on the input
    that the layer has in the compressed model. Shapes, zeros and dead channels stay. A layer
    is changed only if its error falls on samples that were not used to fit it, and the model
    only if its outputs are not further from the original's on such samples.

    Args:
        reference: the model that the candidate was made from. Layers are matched by the
            lineage that steps record, or by the names of values and nodes.
        candidate: the compressed model: a path, a `ModelProto`, an `ir.Model` or a `Result`;
            it is not changed.
        samples: unlabelled inputs; a few hundred are enough.
        method: `"full"` fits every weight that is not zero, `"affine"` a factor and a bias per
            output channel (weights stay on their grid), `"bias"` a bias only; `"auto"` takes what
            does best on held-out samples, layer by layer.
        ridge: Strength of the pull towards the present weights, relative to the mean second moment
            of the layer's input.
        max_rows: Output positions per layer that are fitted, chosen at random.
        include: Patterns (`fnmatch`) of node or weight names to change; empty means all.
        exclude: Patterns (`fnmatch`) of node or weight names to leave alone.
        limit: Use at most this many samples; None uses all.
        seed: Seed of all random choices.
        batch_axis: Axis of the samples, of all inputs or by name of the input; None for an input
            without such an axis. By default it is derived from names of axes, and from a run with a
            doubled batch where they do not tell.
        threads: Threads of ONNX Runtime and torch; None takes all cores.
        floor_db: Least SQNR in dB of any part of an output on samples; a result below it is not
            usable. None: 10 dB, a cosine of 0.9 and, where outputs show such a task, 0.7 of the
            classes, detections, masks or texts. 0 accepts every result with finite outputs.
        progress: Called as the work goes on, with the stage, units done and units in all; an
            exception that it raises ends the work.

    Returns:
        The repaired candidate, a `ModelProto` if one came in, otherwise an `ir.Model`, and the
        report with each layer's error before and after.

    Raises:
        OptionError: a wrong option, a pattern that matches nothing, or a reference with other
            inputs.
        VerificationError: a reference with other outputs.
        SamplesError: the samples do not fit the reference.
        ExecutionError: ONNX Runtime does not run one of the models.
    """

@overload
def repair(
    reference: ModelLike,
    candidate: str | PathLike[str] | ir.Model | Result[ir.Model, Any],
    samples: SamplesLike,
    *,
    method: Method = "auto",
    ridge: float = 0.001,
    max_rows: int = 12288,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    limit: int | None = None,
    seed: int = 0,
    batch_axis: BatchAxisOption = None,
    threads: int | None = None,
    floor_db: float | None = None,
    progress: Progress = ...,
) -> Result[ir.Model, RepairReport]: ...
@overload
def run(
    model: onnx.ModelProto | Result[onnx.ModelProto, Any],
    recipe: RecipeLike,
    *,
    samples: SamplesLike | None = None,
    evaluation: SamplesLike | None = None,
    labels: NDArray[Any] | Sequence[int] | None = None,
    metric: MetricLike | None = None,
    output: str | PathLike[str] | None = None,
    force: bool = False,
    require_last: bool = False,
    benchmark: bool = True,
    batch_axis: BatchAxisOption = None,
    threads: int | None = None,
    executor: Executor | None = None,
    floor_db: float | None = None,
    progress: Progress = ...,
) -> Result[onnx.ModelProto, RunReport]:
    """Apply a recipe to a model, prove the result, and save it.

    After every step ONNX Runtime must load and run the model with the outputs of the
    input model: same names, same shapes, finite where they were finite. The result is
    compared with the *input* on samples that no step was given.

    Args:
        model: a path, a `ModelProto`, an `ir.Model` or a `Result`; it is never changed.
        recipe: a `Recipe`, a list of steps, or the path of a recipe as TOML.
        samples: unlabelled inputs, in any form of `SamplesLike`; None if no step of the
            recipe needs them (fidelity is then measured on generated inputs).
        evaluation: separate samples to measure fidelity on. Without them the last quarter of
            `samples` (at least 8, at most half) is held out for that.
        labels: class of each evaluation sample (of each of `samples`, if those are split),
            for the accuracy of both models.
        metric: a task metric, see `compare`; None proposes the one that fits.
        output: Write the result here, atomically. Nothing is written if no step changed the model,
            or if the result is not usable.
        force: Write the result even if it is not usable, see `floor_db`.
        require_last: Return the input and write nothing if the last step changed nothing, even
            where steps before it did: for a recipe that is there for its last step.
        benchmark: Measure the latency of the result against the input.
        batch_axis: Axis of the samples, of all inputs or by name of the input; None for an input
            without such an axis. By default it is derived from names of axes, and from a run with a
            doubled batch where they do not tell.
        threads: Threads of ONNX Runtime and torch; None takes all cores.
        executor: Workers that calibrate on a shard of the samples each; what they find merges
            exactly, so the result is the same.
        floor_db: Least SQNR in dB of any part of an output on samples; a result below it is not
            usable. None: 10 dB, a cosine of 0.9 and, where outputs show such a task, 0.7 of the
            classes, detections, masks or texts. 0 accepts every result with finite outputs.
        progress: Called as the work goes on, with the stage, units done and units in all; an
            exception that it raises ends the work.

    Returns:
        The result in the kind of `model`, and the report. `report.warnings` says if the
        result is larger or slower than the input, or unchanged. `usable` is False for a
        result that computes nothing of use on the evaluation samples; steps in the middle are
        not judged, since a later one may repair what they did.

    Raises:
        OptionError: a wrong recipe, or a step needs samples and there are none.
        SaveError: the output path cannot be written, or is a file of the input.
        SamplesError: the samples do not fit the model.
        ExecutionError: ONNX Runtime does not run the input model.
        VerificationError: a step's result is not valid; nothing was written.
    """

@overload
def run(
    model: str | PathLike[str] | ir.Model | Result[ir.Model, Any],
    recipe: RecipeLike,
    *,
    samples: SamplesLike | None = None,
    evaluation: SamplesLike | None = None,
    labels: NDArray[Any] | Sequence[int] | None = None,
    metric: MetricLike | None = None,
    output: str | PathLike[str] | None = None,
    force: bool = False,
    require_last: bool = False,
    benchmark: bool = True,
    batch_axis: BatchAxisOption = None,
    threads: int | None = None,
    executor: Executor | None = None,
    floor_db: float | None = None,
    progress: Progress = ...,
) -> Result[ir.Model, RunReport]: ...
def sensitivity(
    model: ModelLike,
    samples: SamplesLike,
    *,
    target: str = "cpu",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    per_layer: int = 8,
    confirm: int = 3,
    times: bool = True,
    limit: int | None = None,
    batch_axis: BatchAxisOption = None,
    threads: int | None = None,
    progress: Progress = ...,
) -> Sensitivity:
    """Estimate how much fidelity each layer costs in INT8 and how much time it saves.

    The cost is about `2 * per_layer * layers` runs of single samples, whatever the number of
    samples. Simplify the model first, as for `quantize_static`.

    Args:
        model: a float32 model: a path, a `ModelProto`, an `ir.Model` or a `Result`; it is not
            changed.
        samples: unlabelled inputs, some hundreds, in any form of `SamplesLike`. A quarter of
            them is held out for confirmation.
        target: Runtime whose integer types are used: a row of the table of targets.
        include: Patterns (`fnmatch`) of node or weight names to change; empty means all.
        exclude: Patterns (`fnmatch`) of node or weight names to leave alone.
        per_layer: Samples that each layer is estimated on; more are steadier.
        confirm: Number of the most sensitive layers that a real evaluation confirms.
        times: Measure each layer's kernels in float and on integers, on this machine and one
            thread; the times are kept in the cache.
        limit: Use at most this many samples; None uses all.
        batch_axis: Axis of the samples, of all inputs or by name of the input; None for an input
            without such an axis. By default it is derived from names of axes, and from a run with a
            doubled batch where they do not tell.
        threads: Threads of ONNX Runtime and torch; None takes all cores.
        progress: Called as the work goes on, with the stage, units done and units in all; an
            exception that it raises ends the work.

    Raises:
        OptionError: a wrong option or an unknown target.
        UnsupportedError: nothing in the model can be quantized; the message says why.
        SamplesError: the samples do not fit, or make an inner value NaN or infinite.
        ExecutionError: ONNX Runtime cannot run the model.
    """

@overload
def simplify(
    model: onnx.ModelProto | Result[onnx.ModelProto, Any],
    *,
    samples: SamplesLike | None = None,
    rules: Sequence[Rewrite] | None = None,
    verify: bool = True,
    onnxsim: OnnxsimChoice = "auto",
    opset: int | None = None,
    time_limit_s: float = 120.0,
    max_growth: float = 0.0,
    batch_axis: BatchAxisOption = None,
    progress: Progress = ...,
) -> Result[onnx.ModelProto, SimplifyReport]:
    """Fold, fuse and clean up the graph without changing what it computes.

    Args:
        model: a path, a `ModelProto`, an `ir.Model` or a `Result`; it is not changed.
        samples: inputs to verify on; None generates some.
        rules: the rewrites to apply; None takes `onnxlite.simplify.DEFAULT_RULES`.
        verify: Compare every result with the original in ONNX Runtime (largest relative difference
            1e-4). A rewrite that fails is left out and reported.
        onnxsim: Run onnxsim too, in a child process: `"auto"` where it can add something, that is
            where the graph has operators that onnxlite has no rules for; True always.
        opset: Bring the model to at least this version of the standard operator set, so that
            LayerNormalization (17) and Gelu (20) can be fused. None: the version stays. A model
            that cannot be upgraded keeps its version, and the report says why.
        time_limit_s: Seconds that onnxsim may take, in every round.
        max_growth: Fraction by which folded constants may enlarge the model. With 0 the result
            holds no more bytes of constants and nodes: what would store a constant twice is left
            unfolded.
        batch_axis: Axis of the samples, of all inputs or by name of the input; None for an input
            without such an axis. By default it is derived from names of axes, and from a run with a
            doubled batch where they do not tell.
        progress: Called as the work goes on, with the stage, units done and units in all; an
            exception that it raises ends the work.

    Returns:
        The model, a `ModelProto` if one came in, otherwise an `ir.Model`, and the report.
        Names and order of inputs and outputs, and dynamic dimensions, stay as they are.

    Raises:
        OptionError: a wrong option.
        LoadError, InvalidModelError: the model cannot be read.
        SamplesError: the samples do not fit the model.
    """

@overload
def simplify(
    model: str | PathLike[str] | ir.Model | Result[ir.Model, Any],
    *,
    samples: SamplesLike | None = None,
    rules: Sequence[Rewrite] | None = None,
    verify: bool = True,
    onnxsim: OnnxsimChoice = "auto",
    opset: int | None = None,
    time_limit_s: float = 120.0,
    max_growth: float = 0.0,
    batch_axis: BatchAxisOption = None,
    progress: Progress = ...,
) -> Result[ir.Model, SimplifyReport]: ...
@overload
def sparse_storage(
    model: onnx.ModelProto | Result[onnx.ModelProto, Any],
    *,
    batch_axis: BatchAxisOption = None,
    progress: Progress = ...,
) -> Result[onnx.ModelProto, SparseStorageReport]:
    """Store weights that are mostly zeros as sparse initializers, where that is smaller.

    A float32 weight gets smaller above 67% of zeros. An `ir.Model` stays dense in memory and
    is written sparse by `save`. Do it last: onnx's strict shape inference (of onnx 1.23) fails
    at a Conv whose weight is sparse, and other tools may not read sparse initializers.

    Args:
        model: a path, a `ModelProto`, an `ir.Model` or a `Result`; it is not changed.
        batch_axis: Axis of the samples, of all inputs or by name of the input; None for an input
            without such an axis. By default it is derived from names of axes, and from a run with a
            doubled batch where they do not tell.
        progress: Called as the work goes on, with the stage, units done and units in all; an
            exception that it raises ends the work.

    Returns:
        The model, a `ModelProto` if one came in, otherwise an `ir.Model`; a copy of the input
        if no weight gets smaller or ONNX Runtime refuses the result. The report has the size
        of every weight in both forms, and of the file: as it is, zipped and, with the package
        `zstandard`, compressed by it.
    """

@overload
def sparse_storage(
    model: str | PathLike[str] | ir.Model | Result[ir.Model, Any],
    *,
    batch_axis: BatchAxisOption = None,
    progress: Progress = ...,
) -> Result[ir.Model, SparseStorageReport]: ...
@overload
def to_float16(
    model: onnx.ModelProto | Result[onnx.ModelProto, Any],
    *,
    samples: SamplesLike | None = None,
    exclude: Sequence[str] = (),
    io: IoType = "keep",
    dtype: HalfType = "float16",
    mode: HalfMode | None = None,
    limit: int | None = None,
    batch_axis: BatchAxisOption = None,
    threads: int | None = None,
    floor_db: float | None = None,
    progress: Progress = ...,
) -> Result[onnx.ModelProto, ToFloat16Report]:
    """Convert float32 weights and activations to 16 bits: half the size, not faster on CPU.

    Every node that onnx's schemas allow computes in float16; the others, and the inputs and
    outputs of subgraphs, stay float32 with casts between. Constants that are not representable
    are clamped and named in the report. float64 and integers stay as they are; so does a
    quantized model. Memory is bounded by the largest tensor.

    Args:
        model: a path, a `ModelProto`, an `ir.Model` or a `Result`; it is not changed.
        samples: unlabelled inputs, in any form of `SamplesLike`, to find overflow on and to
            check the result: values that leave the range of float16 stay float32. Below 53 dB
            some parts stay float32, and layers get biases that correct what rounding shifts.
            Without samples a model of at most 1 GiB is checked on generated inputs.
        exclude: Patterns (`fnmatch`) of node or operator names that stay float32.
        io: Types of float inputs and outputs: `"keep"` casts inside of the model, `"float16"`
            changes them.
        dtype: `"bfloat16"` has the range of float32 and 8 bits of precision, which leaves 18 dB
            less than float16; ONNX Runtime has no CPU kernels for it, so it needs `mode="storage"`.
        mode: `"compute"`: activations and operators are 16 bits too; ONNX Runtime on x86 casts most
            of them back at each run. `"storage"`: only weights, cast once at load, at the speed of
            float32. None is `"compute"` for float16 and `"storage"` for bfloat16.
        limit: Use at most this many samples; None uses all.
        batch_axis: Axis of the samples, of all inputs or by name of the input; None for an input
            without such an axis. By default it is derived from names of axes, and from a run with a
            doubled batch where they do not tell.
        threads: Threads of ONNX Runtime and torch; None takes all cores.
        floor_db: Least SQNR in dB of any part of an output on samples; a result below it is not
            usable. None: 10 dB, a cosine of 0.9 and, where outputs show such a task, 0.7 of the
            classes, detections, masks or texts. 0 accepts every result with finite outputs.
        progress: Called as the work goes on, with the stage, units done and units in all; an
            exception that it raises ends the work.

    Returns:
        The converted model, a `ModelProto` if one came in, otherwise an `ir.Model`; a copy of
        the input if nothing could be converted. The report says what stays float32 and why.

    Raises:
        OptionError: a wrong option, or a pattern that matches nothing.
        SamplesError: the samples do not fit the model.
        ExecutionError: ONNX Runtime does not run the model on the samples.
        VerificationError: ONNX Runtime refuses the result, or an output is NaN or infinite
            where the original's is not.
    """

@overload
def to_float16(
    model: str | PathLike[str] | ir.Model | Result[ir.Model, Any],
    *,
    samples: SamplesLike | None = None,
    exclude: Sequence[str] = (),
    io: IoType = "keep",
    dtype: HalfType = "float16",
    mode: HalfMode | None = None,
    limit: int | None = None,
    batch_axis: BatchAxisOption = None,
    threads: int | None = None,
    floor_db: float | None = None,
    progress: Progress = ...,
) -> Result[ir.Model, ToFloat16Report]: ...
@overload
def tune(
    reference: ModelLike,
    candidate: onnx.ModelProto | Result[onnx.ModelProto, Any],
    samples: SamplesLike,
    *,
    labels: Labels | None = None,
    steps: int | None = None,
    time_limit_s: float | None = None,
    loss: Literal["auto", "kl", "mse"] | LossFunction = "auto",
    lr: float | None = None,
    batch_size: int = 32,
    inner: bool = True,
    blocks: bool = True,
    augment: bool = False,
    limit: int | None = None,
    seed: int = 0,
    checkpoint: str | PathLike[str] | None = None,
    batch_axis: BatchAxisOption = None,
    threads: int | None = None,
    floor_db: float | None = None,
    progress: Progress = ...,
) -> Result[onnx.ModelProto, TuneReport]:
    """Train a compressed model to compute what its original does (distillation, QAT).

    The ONNX graphs themselves are run, the student's in torch with gradients. Float weights,
    biases and normalizations are learned; zeros of pruned weights stay. Integers behind Q and DQ
    nodes and codes of packed weights are learned with straight-through gradients and scales as
    in LSQ (Esser et al. 2020), and go back into the same nodes: the result has the layers, types
    and kernels that it had. Every fifth sample is held out; the best state there is kept, and
    the model is returned unchanged unless ONNX Runtime finds it closer to the reference there, by
    more than chance.

    Args:
        reference: the model that the candidate was made from.
        candidate: the compressed model: a path, a `ModelProto`, an `ir.Model` or a `Result`;
            it is not changed.
        samples: unlabelled inputs, some hundreds to thousands; all are held in memory, with
            the reference's answers.
        labels: class of each sample, for cross-entropy as well.
        steps: Optimizer steps; None takes 20 passes over the samples, 300 to 5,000 steps.
        time_limit_s: Seconds of training at most; the learning rate follows it.
        loss: `"mse"`: squared error over variance; `"kl"`: that, and the divergence of class
            probabilities; `"auto"`: `"kl"` where an output holds class scores. Or a function of the
            outputs of student and reference, dictionaries of tensors by name, that returns a tensor
            of one number.
        lr: Learning rate relative to the typical value of each tensor; None chooses it by short
            trials.
        batch_size: Samples per optimizer step.
        inner: Compare inner layers, too.
        blocks: Before the whole, train block by block to meet the inner values.
        augment: Also train on mixed, shifted and mirrored inputs, which the reference answers like
            real ones; inputs that are not real numbers stay as they are.
        limit: Use at most this many samples; None uses all.
        seed: Seed of all random choices.
        checkpoint: File that the state of training is written to every half minute and when
            `progress` raises. If it exists, training resumes from it; it is removed in the end.
        batch_axis: Axis of the samples, of all inputs or by name of the input; None for an input
            without such an axis. By default it is derived from names of axes, and from a run with a
            doubled batch where they do not tell.
        threads: Threads of ONNX Runtime and torch; None takes all cores.
        floor_db: Least SQNR in dB of any part of an output on samples; a result below it is not
            usable. None: 10 dB, a cosine of 0.9 and, where outputs show such a task, 0.7 of the
            classes, detections, masks or texts. 0 accepts every result with finite outputs.
        progress: Called as the work goes on, with the stage, units done and units in all; an
            exception that it raises ends the work.

    Returns:
        The tuned candidate, a `ModelProto` if one came in, otherwise an `ir.Model`, and the
        report.

    Raises:
        MissingPackageError: torch is not installed.
        UnsupportedError: an operator of the candidate that torch cannot compute here.
        OptionError: a wrong option, models that do not belong together, or a checkpoint of
            another training.
        SamplesError: the samples do not fit the model.
        ExecutionError: ONNX Runtime does not run one of the models.
    """

@overload
def tune(
    reference: ModelLike,
    candidate: str | PathLike[str] | ir.Model | Result[ir.Model, Any],
    samples: SamplesLike,
    *,
    labels: Labels | None = None,
    steps: int | None = None,
    time_limit_s: float | None = None,
    loss: Literal["auto", "kl", "mse"] | LossFunction = "auto",
    lr: float | None = None,
    batch_size: int = 32,
    inner: bool = True,
    blocks: bool = True,
    augment: bool = False,
    limit: int | None = None,
    seed: int = 0,
    checkpoint: str | PathLike[str] | None = None,
    batch_axis: BatchAxisOption = None,
    threads: int | None = None,
    floor_db: float | None = None,
    progress: Progress = ...,
) -> Result[ir.Model, TuneReport]: ...
