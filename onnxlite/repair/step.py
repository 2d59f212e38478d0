"""Label-free repair: layer after layer is fitted to what the original model computes there.

In topological order each layer of the compressed model gets the weights that, applied to
the input it has *now*, come closest to the original layer's output: so that a layer also
makes up for what was lost before it. Sources: He et al. 2017 (channel pruning by
reconstruction), Nagel et al. 2019 (bias correction).
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxlite.analysis.shapes import infer_shapes
from onnxlite.errors import OptionError
from onnxlite.graph import node_name
from onnxlite.model import clone
from onnxlite.normalize import normalize
from onnxlite.ops.linear_layer import LinearLayer
from onnxlite.records import LayerRow, Progress, Skipped, StepReport, no_progress
from onnxlite.repair.engine import STEP, Engine, Options, pair_up
from onnxlite.repair.fit import METHODS, Fit, Method, held_out_feeds
from onnxlite.repair.targets import FitTarget
from onnxlite.repair.verify import verify
from onnxlite.samples import Samples, SamplesLike, input_specs


def repair_ir(
    model: ir.Model,
    reference: ir.Model,
    samples: SamplesLike,
    *,
    method: Method = "auto",
    ridge: float = 1e-3,
    max_rows: int = 12288,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    limit: int | None = None,
    cache_bytes: int = 1 << 29,
    passes: int = 1,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress = no_progress,
) -> tuple[ir.Model, StepReport]:
    """Repair a private copy of a model; see `onnxlite.repair`.

    Args:
        cache_bytes: bytes of values held between layers; it bounds the number of samples.
        passes: fits of a layer, after the first, that heed the activation behind it.
        seed: of the choice of rows.
        threads: of ONNX Runtime; None takes all cores.
        limit: use at most this many samples.
    """
    start = time.perf_counter()
    _check_options(method, ridge, max_rows)
    source, reference = clone(model), clone(reference)
    feeds = Samples(samples, input_specs(reference), limit=limit)
    _check_inputs(model, reference)
    for side in (model, reference):
        normalize(side)
        infer_shapes(side)
    pairs, skipped = pair_up(model, reference, include, exclude)
    if not pairs:
        return source, _report("no layer can be repaired", 0, skipped, (), start)
    options = Options(method, ridge, max_rows, cache_bytes, passes, seed, threads)
    engine = Engine(model, reference, pairs, feeds, options)
    if not engine.complete:
        reason = f"only the first {len(engine.feeds)} feeds are used, to bound memory and time"
        skipped.append(Skipped(STEP, "", "fewer-samples", reason))
    rows: list[LayerRow] = []
    for index, ((layer, target), (fit, count)) in enumerate(zip(pairs, engine.fits(), strict=True)):
        progress(STEP, index, len(pairs))
        if isinstance(fit, str):
            skipped.append(Skipped(STEP, node_name(layer.node), "not-fitted", fit))
            continue
        if fit.method != "none":
            layer.write(fit.weight, fit.bias)
        rows.append(_row(layer, target, fit, count))
    progress(STEP, len(pairs), len(pairs))
    repaired = sum(row.values["method"] != "none" for row in rows)
    if not repaired:
        return source, _report("no layer's error falls", 0, skipped, rows, start)
    checked = [engine.feeds[index] for index in held_out_feeds(len(engine.feeds))]
    verdict = verify(reference, source, model, checked, threads=threads)
    change = (
        f"{verdict.before_db:.1f} -> {verdict.after_db:.1f} dB on {len(checked)} feeds held out"
    )
    if verdict.worse:
        return source, _report(f"the repair was undone: {change}", 0, skipped, rows, start)
    summary = f"{repaired} of {len(rows)} layers repaired, {change}"
    return model, _report(summary, repaired, skipped, rows, start)


def _row(layer: LinearLayer, target: FitTarget, fit: Fit, count: int) -> LayerRow:
    return LayerRow(
        layer.node.name or "",
        layer.node.op_type,
        {
            "target": target.value.name,
            "method": fit.method,
            "rows": count,
            "features": layer.matrix_shape[1],
            "error_before": fit.error_before,
            "error": fit.error,
        },
    )


def _report(
    summary: str,
    repaired: int,
    skipped: Sequence[Skipped],
    rows: Sequence[LayerRow],
    start: float,
) -> StepReport:
    return StepReport(
        step=STEP,
        changed=repaired > 0,
        summary=summary,
        changes={"layers-repaired": repaired} if repaired else {},
        skipped=tuple(skipped),
        layers=tuple(rows),
        seconds=time.perf_counter() - start,
    )


def _check_options(method: str, ridge: float, max_rows: int) -> None:
    if method not in METHODS:
        raise OptionError(f"method is one of {', '.join(METHODS)}, given was {method!r}")
    if not (ridge >= 0 and np.isfinite(ridge)):
        raise OptionError(f"ridge is a finite number from 0 on, given was {ridge}")
    if max_rows < 1:
        raise OptionError(f"max_rows counts rows per layer, from 1 on, given was {max_rows}")


def _check_inputs(model: ir.Model, reference: ir.Model) -> None:
    names = [{spec.name for spec in input_specs(side)} for side in (model, reference)]
    if names[0] != names[1]:
        raise OptionError(
            f"the model takes {sorted(names[0])} and the reference {sorted(names[1])}: repair "
            "needs the model that this one was made from"
        )
