"""The record of a run: what was done, what came of it, and where."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING, TypeAlias, Union

import msgspec

from onnxlite.analysis.summary import Summary
from onnxlite.evaluate import Fidelity, Latency
from onnxlite.machine import Machine, machine
from onnxlite.recipe.document import STEPS
from onnxlite.recipe.layers import LayerPair
from onnxlite.recipe.split import SampleUse
from onnxlite.records import Report, StepReport, Usability

_PACKAGES = ("onnxlite", "onnxruntime", "onnx", "onnx-ir", "onnxsim", "numpy")

if TYPE_CHECKING:
    AnyStepReport: TypeAlias = StepReport
else:
    #: A report of any step. Documents tell them apart by the name of the step.
    AnyStepReport = Union[tuple(step.report for step in STEPS.values())]  # noqa: UP007


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """The machine and the versions of the software that a result was made with."""

    machine: Machine
    packages: dict[str, str]


def environment() -> Environment:
    """Describe this machine and the versions in use."""
    packages = {}
    for name in _PACKAGES:
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            packages[name] = "not installed as a package"
    return Environment(machine=machine(), packages=packages)


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of the model before and after, external data included.

    Attributes:
        input_bytes: of the input file, or of the input serialised when it was in memory.
        output_bytes: of the written file, or of the result serialised.
        input_deflated_bytes: the input after deflate level 6, as in a zip archive, where
            zeros in weights pay off; None for models too large to try.
        output_deflated_bytes: the same of the result.
    """

    input_bytes: int
    output_bytes: int
    input_deflated_bytes: int | None = None
    output_deflated_bytes: int | None = None

    @property
    def ratio(self) -> float:
        """Output size over input size: below 1 is smaller."""
        return self.output_bytes / self.input_bytes


class RunReport(Report, frozen=True, kw_only=True):
    """The full record of one run.

    Attributes:
        changed: whether any step changed the model; with `require_last`, whether the last did.
        recipe: the recipe as TOML; it reproduces the run.
        command: the command line, if the run was started by one.
        input_path: where the input was read from, None if it was in memory.
        output_path: where the result was written, None if it was not.
        input: summary of the input model.
        output: summary of the result.
        samples: which samples were used for what.
        steps: one report per step, in order.
        layers: every layer before and after; their times if latency was measured.
        sizes: bytes before and after.
        usability: judgement of the result on the evaluation samples; None if unchanged.
        fidelity: the result against the *input* on the evaluation samples; None if unchanged.
        latency: the result against the input, in interleaved pairs; None if not measured.
        warnings: what the caller should know before using the result.
        environment: the machine and the versions of the software.
        seconds: wall-clock time of the whole run.
    """

    changed: bool
    recipe: str
    command: str | None = None
    input_path: str | None = None
    output_path: str | None = None
    input: Summary
    output: Summary
    samples: SampleUse
    steps: tuple[AnyStepReport, ...]
    layers: tuple[LayerPair, ...] = ()
    sizes: Sizes
    usability: Usability | None = None
    fidelity: Fidelity | None = None
    latency: Latency | None = None
    warnings: tuple[str, ...] = ()
    environment: Environment
    seconds: float

    @property
    def usable(self) -> bool:
        """False if the result is plainly useless on the evaluation samples."""
        return self.usability is None or self.usability.usable

    def __str__(self) -> str:
        sizes = self.sizes
        lines = [
            *(f"{step.step}: {step.summary}" for step in self.steps),
            f"size {sizes.input_bytes:,} -> {sizes.output_bytes:,} bytes ({sizes.ratio:.2f}x)",
            *(str(part) for part in (self.latency, self.fidelity) if part is not None),
            *([] if self.usability is None or self.usability.good else [str(self.usability)]),
            *(f"warning: {warning}" for warning in self.warnings),
        ]
        return "\n".join(lines)
