"""Records of what a step did: every later report is made of them.

A step collects one `StepReport`. `changes` counts what it did, `skipped` says
what it did not do and why, and `layers` holds one row per layer it touched. A
step that changed nothing has `changed == False` and a `reason`.
"""

from __future__ import annotations

import html
import time
from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import msgspec

#: Names of nodes that a printed report shows for one reason.
_NODES_SHOWN = 3
#: A cell of a per-layer row: what JSON and a terminal table can both show.
Cell = str | int | float | bool | None


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
    """

    rule: str
    feeds: int
    shared: bool = False

    def __str__(self) -> str:
        if not self.feeds:
            return "no feed held out: there are too few"
        feeds = f"{self.feeds} feed{'' if self.feeds == 1 else 's'}"
        return f"{feeds} that the fit used as well" if self.shared else f"{feeds} held out"


class LayerRow(msgspec.Struct, frozen=True):
    """One layer's line in a step's report; `values` are the step's own columns."""

    name: str
    op_type: str
    values: dict[str, Cell]


class Report(msgspec.Struct, frozen=True):
    """Base of records that are shown to people: prints as text, also in notebooks."""

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


class StepReport(Report, frozen=True, kw_only=True):
    """Report of one step.

    Attributes:
        step: name of the step, as in a recipe.
        changed: whether the returned model differs from the input.
        summary: one sentence; for an unchanged model, why nothing was done.
        changes: how often each kind of change was made.
        skipped: what was not done, and why.
        layers: one row per layer touched.
        settled: options, by name, that name what the step decided by measuring times; with
            them it does the same again, on any machine.
        hold_out: the samples that the step's own figures are from; None if it has none.
        seconds: wall-clock time of the step.
    """

    step: str
    changed: bool
    summary: str
    changes: dict[str, int] = {}
    skipped: tuple[Skipped, ...] = ()
    layers: tuple[LayerRow, ...] = ()
    resolved_options: dict[str, Cell | tuple[str, ...] | dict[str, int]] = {}
    hold_out: HoldOut | None = None
    seconds: float = 0.0

    def __str__(self) -> str:
        done = self.summary if self.changed else f"nothing changed: {self.summary}"
        lines = [f"{self.step}: {done} ({self.seconds:.1f} s)"]
        if changes := ", ".join(f"{kind} {n:,}" for kind, n in self.changes.items() if n):
            lines.append(f"  changes: {changes}")
        for what, message in dict.fromkeys((s.what, s.message) for s in self.skipped):
            nodes = [s.node for s in self.skipped if (s.what, s.message) == (what, message)]
            shown = ", ".join(nodes[:_NODES_SHOWN]) + (", ..." if nodes[_NODES_SHOWN:] else "")
            lines.append(f"  skipped: {what}: {message}" + (f" ({shown})" if shown else ""))
        return "\n".join(lines)


def unchanged(step: str, reason: str, skipped: Iterable[Skipped], start: float) -> StepReport:
    """The report of a step that did nothing, begun at `start` of `time.perf_counter`."""
    return StepReport(
        step=step,
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
