"""One step on one model as a piece of work that any process can do.

What goes in and what comes out can be pickled, so that a worker of a pool or of a cluster
needs nothing but this package.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from onnxlite.analysis.lineage import Origin, lineage_of, record_original, restore_lineage
from onnxlite.errors import OnnxliteError
from onnxlite.model import load, to_bytes
from onnxlite.recipe.steps import Step, step_name
from onnxlite.recipe.verify import Reference
from onnxlite.records import Progress, StepReport, silent
from onnxlite.samples import SamplesLike

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Work:
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
class Done:
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


def do(work: Work, progress: Progress = silent) -> Done:
    """Apply the step and verify the result in ONNX Runtime, like `onnxlite.run` does.

    An error that onnxlite raises on purpose is a result: the candidate failed. So is one
    that it does not: a search must outlive a step that a strange model breaks.
    """
    try:
        original = parse(work.original)
        current = parse(work.model, work.lineage)
        record_original(current, original)
        result, report = work.step.apply(current, work.samples, progress)
        if report.changed:
            Reference(original, work.samples).verify(result, step_name(work.step))
        return Done(to_bytes(result), dict(lineage_of(result)), report, None)
    except OnnxliteError as error:
        return Done(None, {}, None, str(error))
    except MemoryError:
        raise
    except Exception as error:
        logger.warning(
            "%s broke on this model and is left out; please report it (%s: %s)",
            step_name(work.step),
            type(error).__name__,
            error,
        )
        return Done(None, {}, None, f"{type(error).__name__}: {error}")


class Interruption(BaseException):
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
