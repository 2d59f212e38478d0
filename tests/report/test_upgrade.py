"""Reports of schema 1, with rows, changes and options as tables, are read into today's types."""

from __future__ import annotations

import json
import math

import pytest

from onnxlite.errors import OptionError
from onnxlite.prune.options import (
    PruneChannelsChanges,
    PrunedWeight,
    PruneWeightsChanges,
    ResizedWeight,
    ResolvedWidths,
)
from onnxlite.quantize.core.options import (
    QuantizedLayer,
    QuantizedTable,
    QuantizeStaticChanges,
    ResolvedPlacement,
    SmoothedValue,
)
from onnxlite.quantize.dynamic.options import DynamicLayer, QuantizeDynamicReport
from onnxlite.quantize.mixed.options import AutoCandidate
from onnxlite.recipe import AnyStepReport
from onnxlite.report.files import from_json
from onnxlite.simplify.options import SimplifyChanges


def old(step: str, **fields):
    """A report of schema 1, read."""
    record = {"step": step, "changed": True, "summary": "s", "seconds": 1.5, **fields}
    document = {"schema": 1, "kind": "step", "record": record}
    return from_json(json.dumps(document), "step", AnyStepReport)


def row(name: str, op_type: str, **values):
    return {"name": name, "op_type": op_type, "values": values}


SMOOTH = row("x", "smooth", exponent=0.5, less_noise_db=3.5, own_node=True)


def test_changes_of_simplify_are_split_in_rules_and_others():
    report = old("simplify", changes={"fold-batchnorm": 3, "lift-constants": 2, "onnxsim": 1})
    assert report.changes == SimplifyChanges(
        lift_constants=2, onnxsim=1, rewrites={"fold-batchnorm": 3}
    )
    assert (report.step, report.seconds) == ("simplify", 1.5)


def test_rows_of_static_quantization_are_sorted_by_type():
    report = old(
        "quantize-static",
        changes={"layers-quantized": 2, "layers-kept-for-sqnr": 1},
        layers=[
            row(
                "a",
                "Conv",
                weights=9,
                channels=3,
                weight_sqnr_db=40.0,
                error=0.1,
                error_nearest=0.2,
            ),
            SMOOTH,
            row("t", "Gather", kernel="rows", weights=8, weight_sqnr_db=None),
        ],
        resolved_options={"placement": "everything", "exclude": ["b"]},
    )
    assert report.changes == QuantizeStaticChanges(layers_quantized=2, layers_kept_for_sqnr=1)
    assert report.layers == (
        QuantizedLayer(
            name="a",
            op_type="Conv",
            weights=9,
            channels=3,
            weight_sqnr_db=40.0,
            error_nearest=0.2,
            error=0.1,
        ),
    )
    assert report.tables == (
        QuantizedTable(name="t", op_type="Gather", weights=8, weight_sqnr_db=None),
    )
    assert report.smoothed_values == (
        SmoothedValue(name="x", op_type="smooth", exponent=0.5, less_noise_db=3.5, own_node=True),
    )
    assert report.resolved_options == ResolvedPlacement(exclude=("b",))


def test_the_winner_of_an_automatic_choice_is_a_report():
    layer = row(
        "m", "MatMul", kernel="integer", time_over_float=0.5, weights=8, weight_sqnr_db=40.0
    )
    candidate = row("dynamic", "candidate", sqnr_db=None, time_over_float=0.5, size_over_float=0.25)
    report = old(
        "quantize-auto",
        changes={"layers-quantized": 1, "tables-quantized": 0, "values-smoothed": 1},
        layers=[candidate, layer, SMOOTH],
    )
    assert report.candidates == (
        AutoCandidate(way="dynamic", sqnr_db=math.inf, time_over_float=0.5, size_over_float=0.25),
    )
    assert isinstance(report.winner, QuantizeDynamicReport)
    assert report.winner.layers == (
        DynamicLayer(
            name="m",
            op_type="MatMul",
            kernel="integer",
            time_over_float=0.5,
            weights=8,
            weight_sqnr_db=40.0,
        ),
    )
    assert dict(report.counts()) == {"layers-quantized": 1, "values-smoothed": 1}
    static = old("quantize-auto", changes={"values-quantized": 7, "layers-quantized": 1})
    assert static.winner.step == "quantize-static"
    assert old("quantize-auto", changed=False, layers=[candidate]).winner is None


def test_shapes_as_text_are_shapes():
    report = old(
        "prune-channels",
        changes={"units-removed": 3, "groups": 1, "layers-repaired": 2},
        layers=[
            row("a", "Conv", port=1, before="8x3x3x3", after="5x3x3x3"),
            row("b", "Gemm", port=1, before="8x3", after="none"),
        ],
        resolved_options={"latency": None, "widths": {"a": 5}},
    )
    assert report.changes == PruneChannelsChanges(units_removed=3, groups=1, layers_repaired=2)
    assert report.layers == (
        ResizedWeight(name="a", op_type="Conv", port=1, before=(8, 3, 3, 3), after=(5, 3, 3, 3)),
        ResizedWeight(name="b", op_type="Gemm", port=1, before=(8, 3), after=None),
    )
    assert report.resolved_options == ResolvedWidths(widths={"a": 5})
    zeros = old(
        "prune-weights",
        changes={"weights-zeroed": 4},
        layers=[
            row(
                "a",
                "Gemm",
                weight="w",
                shape="4x2",
                weights=8,
                zeros=4,
                zeroed=4,
                sparsity_before=0.0,
                sparsity=0.5,
            )
        ],
        resolved_options={},
    )
    assert zeros.changes == PruneWeightsChanges(weights_zeroed=4)
    assert zeros.layers == (
        PrunedWeight(
            name="a",
            op_type="Gemm",
            weight="w",
            shape=(4, 2),
            weights=8,
            zeros=4,
            zeroed=4,
            sparsity_before=0.0,
            sparsity=0.5,
        ),
    )
    assert zeros.resolved_options is None


@pytest.mark.parametrize(
    "fields",
    [
        {"step": "fold"},
        {"layers": [{"name": "a"}]},
        {"layers": [row("a", "Conv", before="8xa")]},
        {"layers": 3},
        {"changes": [1]},
    ],
)
def test_a_damaged_document_is_refused(fields):
    with pytest.raises(OptionError, match="damaged"):
        old(**{"step": "prune-channels", **fields})
