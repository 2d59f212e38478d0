"""Steps: what every rewrite of a model has in common, as a record and as a function.

    Options of a step   Step          frozen record; the recipe's table and the command's flags
    Circumstances       StepContext   threads, executor, progress: no part of a recipe
    Outcome             Result        the model in the kind that came in, and the report
    State on the way    StepState     passed from phase to phase, where a step has phases

A step's package holds its record (a subclass of `Step`) and its public function, which
`from_options` makes from the record.
"""

from __future__ import annotations

import functools
import inspect
import os
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Literal, NamedTuple, Protocol, Self, TypeVar

import msgspec
import onnx
import onnx_ir as ir
from msgspec import Meta

from onnxlite.errors import OptionError
from onnxlite.inputs import input_specs
from onnxlite.model import clone
from onnxlite.options import BatchAxisOption, Field, Options, check_names, fields_of
from onnxlite.records import (
    Progress,
    ResolvedOptions,
    Skipped,
    StepReport,
    no_progress,
    step_name,
    unchanged,
)
from onnxlite.samples import Samples, SamplesLike
from onnxlite.save import save
from onnxlite.validity import explained

ModelT = TypeVar("ModelT", bound=onnx.ModelProto | ir.Model)
ReportT = TypeVar("ReportT")
StepReportT = TypeVar("StepReportT", bound=StepReport)
ReturnT = TypeVar("ReturnT")

#: What became of parameters that former versions had.
_FORMER = {
    "on_report": "the call returns the report: `model, report = ...`",
    "command": "the command line adds it to the report by itself",
    "time_limit": "time_limit_s",
    "batch": "batch_size",
}


class StepContext(Options, frozen=True, kw_only=True):
    """Runtime arguments of a step: about the machine and the samples, no part of a recipe."""

    batch_axis: BatchAxisOption = None
    threads: (
        Annotated[
            int,
            Meta(ge=1, description="Threads of ONNX Runtime and torch; None takes all cores."),
        ]
        | None
    ) = None
    executor: (
        Annotated[
            Executor,
            Meta(
                description="Workers that calibrate on a shard of the samples each; what they "
                "find merges exactly, so the result is the same."
            ),
        ]
        | None
    ) = None
    floor_db: (
        Annotated[
            float,
            Meta(
                ge=0,
                description="Least SQNR in dB of any part of an output on samples; a result "
                "below it is not usable. None: 10 dB, a cosine of 0.9 and, where outputs show "
                "such a task, 0.7 of the classes, detections, masks or texts. 0 accepts every "
                "result with finite outputs.",
            ),
        ]
        | None
    ) = None
    progress: Annotated[
        Progress,
        Meta(
            description="Called as the work goes on, with the stage, units done and units in "
            "all; an exception that it raises ends the work."
        ),
    ] = no_progress


class Step(Options, frozen=True, kw_only=True, tag_field="step", tag=step_name):
    """Options of one rewrite of a model; frozen, compared by value, written to TOML and back.

    Attributes:
        samples: whether `apply` needs samples, uses them if there are some, or not at all.
        runtime: fields of `StepContext` that the public function takes.
        report: the type of the step's report.
        ties_lengths: lengths that depend on values are tied while the step works
            (`tied_lengths`); False for a step that sees to it itself, or measures nothing.
        advice: what improves a result that is not usable.
        holds_out: samples that the step is not fitted to, if there are enough of them, and that
            its result is judged on: every eighth feed, or single samples spread over all.
    """

    report: ClassVar[type[StepReport]] = StepReport
    samples: ClassVar[Literal["needed", "optional", "unused"]] = "optional"
    runtime: ClassVar[tuple[str, ...]] = ("batch_axis", "threads", "floor_db", "progress")
    ties_lengths: ClassVar[bool] = True
    advice: ClassVar[str] = "`tune` the result, or compress less"
    holds_out: ClassVar[Literal["feeds", "spread samples"]] = "feeds"

    @classmethod
    def name(cls) -> str:
        """Return the step's name in recipes and reports, like `"prune-weights"`."""
        return str(cls.__struct_config__.tag)

    @property
    def needs_samples(self) -> bool:
        """True if the step with these options cannot do without samples."""
        return self.samples == "needed"

    @property
    def fits_samples(self) -> bool:
        """True if the result depends on samples, so that none of them may evaluate it."""
        return self.samples != "unused"

    @property
    def changes_io(self) -> bool:
        """True if the model's float inputs and outputs get another type."""
        return False

    def with_resolved(self, options: ResolvedOptions | None) -> Self:
        """Return the step with the options of a report that name what was measured."""
        if options is None:
            return self
        return msgspec.structs.replace(self, **msgspec.structs.asdict(options))

    def apply(
        self, model: ir.Model, samples: SamplesLike | None, context: StepContext
    ) -> tuple[ir.Model, StepReport]:
        """Rewrite `model`, which the step may change, and report what was done.

        Raises:
            OptionError: the step needs samples, and there are none.
        """
        raise NotImplementedError


class SampledStep(Protocol):
    """Options of a step that uses at most `limit` samples."""

    report: ClassVar[type[StepReport]]

    @property
    def limit(self) -> int | None:
        """Largest number of samples."""
        ...


OptionsT = TypeVar("OptionsT", bound=SampledStep)


@dataclass(kw_only=True)
class StepState(Generic[OptionsT]):
    """State of a step on its way from phase to phase; a subclass adds what its phases find.

    Attributes:
        source: the model as it came in; never changed.
        model: the working copy, at the end the result.
        options: the options of the caller.
        samples: the samples up to the limit; None if there are none.
        context: threads, executor and progress.
        skipped: what was not done, and why.
        start: reading of `time.perf_counter` at the start.
    """

    source: ir.Model
    model: ir.Model
    options: OptionsT
    samples: Samples | None
    context: StepContext
    skipped: list[Skipped] = field(default_factory=list)
    start: float = field(default_factory=time.perf_counter)

    @classmethod
    def begin(
        cls,
        model: ir.Model,
        samples: SamplesLike | None,
        options: OptionsT,
        context: StepContext,
        **fields: Any,
    ) -> Self:
        """Make the state of a step that leaves `model` alone.

        Args:
            model: becomes `source`; the working copy shares its tensors.
            samples: unlabelled inputs, or None.
            options: of the step.
            context: threads, executor and progress.
            **fields: further fields of the subclass.

        Raises:
            SamplesError: the samples do not fit the model.
        """
        return cls(
            source=model,
            model=clone(model),
            options=options,
            samples=sample_stream(samples, model, options.limit),
            context=context,
            **fields,
        )

    def run(
        self,
        phases: Sequence[Callable[[Self], str | None]],
        report: Callable[[Self], StepReportT],
    ) -> tuple[ir.Model, StepReportT]:
        """Run the phases, then `report`; the first reason from a phase ends the step unchanged."""
        for phase in phases:
            if reason := phase(self):
                # `options.report` is the type that `report` returns.
                undone: Any = unchanged(self.options.report, reason, self.skipped, self.start)
                return clone(self.source), undone
        return self.model, report(self)


def sample_stream(
    samples: SamplesLike | None, model: ir.Model, limit: int | None
) -> Samples | None:
    """Return at most `limit` samples for a model; None where none are given."""
    return None if samples is None else Samples(samples, input_specs(model), limit=limit)


class Result(NamedTuple, Generic[ModelT, ReportT]):
    """A new model and the report of how it came about; unpacks to the two.

    Every argument that takes a model also takes a result.

    Attributes:
        model: a `ModelProto` if one came in, otherwise an `ir.Model`.
        report: the record; prints as text, and as a table in notebooks.
    """

    model: ModelT
    report: ReportT

    @property
    def usable(self) -> bool:
        """False if the result is plainly useless on samples; the report says why."""
        return bool(getattr(self.report, "usable", True))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the model atomically; tensors above 1.5 GB go to a file beside it.

        Raises:
            SaveError: the path cannot be written, or is a file of the input.
        """
        return save(self.model, path)

    def __repr__(self) -> str:
        return f"Result({str(self.report).splitlines()[0]})"

    def _repr_html_(self) -> str | None:
        show = getattr(self.report, "_repr_html_", None)
        return None if show is None else show()


def from_options(
    record: type[Options], *, runtime: Sequence[str] = (), leave_out: Sequence[str] = ()
) -> Callable[[Callable[..., ReturnT]], Callable[..., ReturnT]]:
    """Make a public function of one that takes an option record.

        @from_options(QuantizeStatic)
        def quantize_static(model, samples, *, options, context): ...

    is called as `quantize_static(model, samples, rounding="nearest", threads=1)`. Signature
    and docstring list the record's fields; calls are checked by the record.

    Args:
        record: the options.
        runtime: fields of `StepContext` that callers may give; those of a step by default.
        leave_out: fields of `record` that callers may not give.
    """
    if not runtime and issubclass(record, Step):
        runtime = record.runtime
    options = [f for f in fields_of(record) if f.name not in leave_out]
    circumstances = [f for f in fields_of(StepContext) if f.name in runtime]

    def decorate(function: Callable[..., ReturnT]) -> Callable[..., ReturnT]:
        own = [
            parameter
            for parameter in inspect.signature(function).parameters.values()
            if parameter.name not in ("options", "context")
        ]
        signature = _signature(own, options, circumstances)

        @functools.wraps(function)
        def call(*args: Any, **given: Any) -> ReturnT:
            bound = _bound(function.__name__, signature, args, given, record.renamed)
            extra = {p.name: bound.pop(p.name) for p in own if p.name in bound}
            context = StepContext(
                **{f.name: bound.pop(f.name) for f in circumstances if f.name in bound}
            )
            options = record(**bound)
            try:
                return function(**extra, options=options, context=context)
            except Exception as error:
                # An error must not become its own cause.
                if (found := explained(error, extra, function.__name__)) is not error:
                    raise found from error
                raise

        call.__signature__ = signature  # type: ignore[attr-defined]
        call.__doc__ = _documented(function.__doc__ or "", [*options, *circumstances])
        call.__options__ = record  # type: ignore[attr-defined]
        return call

    return decorate


def _signature(
    own: Sequence[inspect.Parameter], options: Sequence[Field], circumstances: Sequence[Field]
) -> inspect.Signature:
    """The function's own parameters, then the options and circumstances by keyword."""
    positional = [p for p in own if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    keyword = [p for p in own if p.kind is inspect.Parameter.KEYWORD_ONLY]
    fields = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=field.kind,
        )
        for field in (*options, *circumstances)
    ]
    return inspect.Signature([*positional, *keyword, *fields])


def _bound(
    name: str,
    signature: inspect.Signature,
    args: Sequence[Any],
    given: Mapping[str, Any],
    renamed: Mapping[str, str],
) -> dict[str, Any]:
    """The arguments of a call by name; errors name the right form."""
    parameters = signature.parameters
    positional = [p for p in parameters.values() if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    names = [parameter.name for parameter in positional]
    check_names(given, parameters, {**_FORMER, **renamed}, where=name)
    if len(args) > len(positional):
        keyword = next(p for p in parameters if p not in names)
        raise OptionError(
            f"{name} takes {', '.join(names)} by position, given were {len(args)} arguments: "
            f"give all others by name, like {keyword}=..."
        )
    bound = dict(zip(names, args, strict=False))
    if twice := sorted(bound.keys() & given.keys()):
        raise OptionError(f"{name}: {twice[0]!r} is given by position and by name")
    bound.update(given)
    for parameter in positional:
        if parameter.name not in bound and parameter.default is parameter.empty:
            hint = ": give some hundred unlabelled inputs" if parameter.name == "samples" else ""
            raise OptionError(f"{name} needs {parameter.name!r}{hint}")
    return bound


def _documented(doc: str, fields: Sequence[Field]) -> str:
    """The docstring with one entry per field at the end of its section of arguments."""
    lines = inspect.cleandoc(doc).splitlines()
    if "Args:" not in lines:
        return "\n".join(lines)
    start = lines.index("Args:")
    end = next((i for i in range(start, len(lines)) if not lines[i].strip()), len(lines))
    entries = [line for field in fields for line in _entry(field)]
    return "\n".join([*lines[:end], *entries, *lines[end:]])


def _entry(field: Field) -> Iterator[str]:
    yield from textwrap.wrap(
        f"{field.name}: {field.description}",
        width=96,
        initial_indent="    ",
        subsequent_indent="        ",
    )
