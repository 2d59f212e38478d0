"""Records of what a step did: every later report is made of them.

Each step has a report of its own, a subclass of `StepReport`, beside its options. `changes`
counts what it did, `skipped` says what it did not do and why, and `layers` holds one row per
layer it touched; their types are the step's own. JSON tells reports apart by the step's name.
"""

from __future__ import annotations

import html
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol, Self, TypeAlias, TypeVar, runtime_checkable

import msgspec

#: Names of nodes that a printed report shows for one reason.
_NODES_SHOWN = 3
#: Reasons that a summary holds.
_REASONS_SHOWN = 3
#: A cell of a per-layer row: what JSON and a terminal table can both show.
Cell: TypeAlias = str | int | float | bool | tuple[int, ...] | None


def step_name(record: str) -> str:
    """Return the name of a step in recipes: `"to-float16"` of `ToFloat16`, `ToFloat16Report`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "-", record.removesuffix("Report")).lower()


class Reason(msgspec.Struct, frozen=True):
    """Reason for not doing something.

    Attributes:
        code: for programs, short and lower case, for example `"excluded-by-name"`.
        message: for people, in words that they can act on.
    """

    code: str
    message: str


#: A pattern of the user's `exclude` names it.
EXCLUDED = Reason("excluded-by-name", "excluded by name")


class Skipped(msgspec.Struct, frozen=True):
    """Something a step could have done and did not, with the reason.

    Attributes:
        what: the rewrite or operation, for example `"fold-batchnorm"`.
        node: name of the node or tensor, for example `"conv1"`; empty for the whole model.
        code: why not, for programs, as of `Reason`. Control flow asks this, never the message.
        message: why not, for people.
    """

    what: str
    node: str
    code: str
    message: str


class HoldOut(msgspec.Struct, frozen=True, kw_only=True):
    """Samples that a step did not fit to, but checked its result on.

    Attributes:
        rule: which ones, for example `"every fourth feed"`.
        feeds: number of feeds held out.
        shared: there were too few to hold any back, so that fit and check share them all and
            figures flatter.
        unit: content of a feed: `"sample"` where each holds a single one.
    """

    rule: str
    feeds: int
    shared: bool = False
    unit: Literal["feed", "sample"] = "feed"

    def __str__(self) -> str:
        if not self.feeds:
            return f"no {self.unit} held out: there are too few"
        feeds = f"{self.feeds} {self.unit}{'' if self.feeds == 1 else 's'}"
        return f"{feeds} that the fit used as well" if self.shared else f"{feeds} held out"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """Base of a line in a step's report; the fields of a subclass are its columns."""

    @classmethod
    def columns(cls) -> tuple[str, ...]:
        """List the names of the columns, in the order of their declaration."""
        return cls.__struct_fields__

    def cells(self) -> tuple[Cell, ...]:
        """Return the value of every column; None where the row has none."""
        return tuple(getattr(self, name) for name in self.columns())


class LayerRow(Row, frozen=True, kw_only=True):
    """Base of a layer's line in a step's report.

    Attributes:
        name: name of the node, weight or value.
        op_type: operator of the node, or of the node that reads or makes it.
    """

    name: str
    op_type: str


class Usability(msgspec.Struct, frozen=True, kw_only=True):
    """Judgement of a result on samples: plainly useless or not.

    Attributes:
        usable: False if a figure is below its floor, or an output has new NaN or infinite values.
        decided: False if there was nothing to judge on; then `usable` means nothing is known
            against the result.
        reason: the figure, its floor and what to do; or why nothing is decided; else empty.
        caution: of a usable result, the figure that needs a look, and what to do; else empty.
        samples: number of samples that the figures are from.
        part: part of an output with the least SQNR, for example `"output0[:, 4:22]"`.
        sqnr_db: its SQNR in dB; None without any error.
        cosine: cosine similarity of the worst part, the mean of all samples.
        tasks: values of task metrics that count what stays right, 0 to 1, by name; for example
            agreement of classes.
    """

    usable: bool = True
    decided: bool = True
    reason: str = ""
    caution: str = ""
    samples: int = 0
    part: str = ""
    sqnr_db: float | None = None
    cosine: float | None = None
    tasks: dict[str, float] = {}

    @property
    def good(self) -> bool:
        """True if there is nothing to say about the result."""
        return self.usable and not self.caution

    def refused(self, reason: str) -> Usability:
        """Return the same figures as those of a useless result."""
        return msgspec.structs.replace(self, usable=False, reason=reason)

    def undecided(self, reason: str) -> Usability:
        """Return the same figures, which decide nothing."""
        return msgspec.structs.replace(self, decided=False, reason=reason)

    def with_caution(self, caution: str) -> Usability:
        """Return the same figures as those of a result that needs a look."""
        return msgspec.structs.replace(self, caution=caution)

    def __str__(self) -> str:
        if not self.usable:
            return f"not usable: {self.reason}"
        if self.caution:
            return f"usable with caution: {self.caution}"
        return "usable" if self.decided else f"usability undecided: {self.reason}"


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """Base of what a step counts; every field of a subclass is a kind of change.

    Counts of two parts of a step add up: `changes + QuantizeStaticChanges(means_pooled=1)`.
    """

    def counts(self) -> Iterator[tuple[str, int]]:
        """Yield each kind that occurred with its count, in the order of the fields."""
        for name in self.__struct_fields__:
            if count := getattr(self, name):
                yield name.replace("_", "-"), count

    @property
    def total(self) -> int:
        """Number of changes of all kinds."""
        return sum(count for _, count in self.counts())

    def __add__(self, other: Self) -> Self:
        fields = self.__struct_fields__
        sums = {name: _added(getattr(self, name), getattr(other, name)) for name in fields}
        return type(self)(**sums)


def _added(first: Any, second: Any) -> Any:
    """Add two counts, or two tables of counts by name."""
    if isinstance(first, Mapping):
        return dict(Counter(first) + Counter(second))
    return first + second


class ResolvedOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Base of the options that name what a step decided by measuring times.

    Each field is an option of the step under the same name: with these values the step does
    the same again, on any machine.
    """


class Report(msgspec.Struct, frozen=True):
    """Base of records that are shown to people: prints as text, also in notebooks."""

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


class StepReport(Report, frozen=True, kw_only=True, tag_field="step", tag=step_name):
    """Base of the report of one step.

    Attributes:
        changed: whether the returned model differs from the input.
        summary: one sentence; for an unchanged model, why nothing was done.
        changes: how often each kind of change was made.
        skipped: what was not done, and why.
        layers: one row per layer touched.
        resolved_options: options that name what the step decided by measuring times; None if
            it decided nothing so.
        hold_out: the samples that the step's own figures are from; None if it has none.
        usability: judgement of the result; None for steps that are exact, and inside of a
            recipe, which is judged at its end.
        seconds: wall-clock time of the step.
    """

    changed: bool
    summary: str
    changes: Changes = Changes()
    skipped: tuple[Skipped, ...] = ()
    layers: tuple[LayerRow, ...] = ()
    resolved_options: ResolvedOptions | None = None
    hold_out: HoldOut | None = None
    usability: Usability | None = None
    seconds: float = 0.0

    @property
    def step(self) -> str:
        """Name of the step, as in a recipe."""
        return str(self.__struct_config__.tag)

    def counts(self) -> Iterator[tuple[str, int]]:
        """Yield each kind of change that was made with its count."""
        return self.changes.counts()

    def row_tables(self) -> Iterator[tuple[str, Sequence[Row]]]:
        """Yield the rows of each field that has some, with a heading."""
        for name in self.__struct_fields__:
            rows = getattr(self, name)
            if isinstance(rows, tuple) and rows and isinstance(rows[0], Row):
                yield f"{name.capitalize().replace('_', ' ')} of {self.step}", rows

    @property
    def usable(self) -> bool:
        """False if the result is plainly useless on samples."""
        return self.usability is None or self.usability.usable

    def __str__(self) -> str:
        done = self.summary if self.changed else f"nothing changed: {self.summary}"
        lines = [f"{self.step}: {done} ({self.seconds:.1f} s)"]
        if changes := ", ".join(f"{kind} {count:,}" for kind, count in self.counts()):
            lines.append(f"  changes: {changes}")
        if self.usability is not None and not self.usability.good:
            lines.append(f"  {self.usability}")
        for what, message in dict.fromkeys((s.what, s.message) for s in self.skipped):
            nodes = [s.node for s in self.skipped if (s.what, s.message) == (what, message)]
            shown = ", ".join(nodes[:_NODES_SHOWN]) + (", ..." if nodes[_NODES_SHOWN:] else "")
            lines.append(f"  skipped: {what}: {message}" + (f" ({shown})" if shown else ""))
        return "\n".join(lines)


def main_reasons(skipped: Iterable[Skipped]) -> str:
    """Sum up why nothing was done, by the codes of those who decided, the most frequent first."""
    messages: dict[str, list[str]] = {}
    for row in skipped:
        messages.setdefault(row.code, []).append(row.message)
    parts = []
    for found in sorted(messages.values(), key=len, reverse=True)[:_REASONS_SHOWN]:
        others = f" ({len(found)} times)" if len(set(found)) == 1 else f" ({len(found)} alike)"
        parts.append(found[0] + (others if len(found) > 1 else ""))
    return "; ".join(parts)


ReportT = TypeVar("ReportT", bound=StepReport)


def unchanged(
    report: type[ReportT], reason: str, skipped: Iterable[Skipped], start: float
) -> ReportT:
    """Make the report of a step that did nothing, begun at `start` of `time.perf_counter`."""
    return report(
        changed=False,
        summary=reason,
        skipped=tuple(skipped),
        seconds=time.perf_counter() - start,
    )


@runtime_checkable
class Progress(Protocol):
    """Called while long work goes on; raising from it interrupts the work cleanly."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Report that `done` of `total` units of `stage` are finished."""
        ...


def no_progress(stage: str, done: int, total: int) -> None:
    """Progress that shows nothing: the default everywhere."""
