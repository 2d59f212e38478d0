"""Records as JSON, there and back, and as tables."""

from __future__ import annotations

import io
import math

import msgspec
import numpy as np
import pytest
from rich.console import Console

from onnxlite import inspect
from onnxlite.errors import OptionError
from onnxlite.evaluate import Fidelity, Latency, OutputFidelity, PeakMemory, Ratio, Timing, machine
from onnxlite.evaluate.metrics import PartFidelity
from onnxlite.evaluate.per_sample import SampleSpread
from onnxlite.prune.options import PruneChannelsReport, ResolvedWidths
from onnxlite.quantize.core.options import QuantizedLayer, QuantizeStaticReport
from onnxlite.recipe import PruneWeights, QuantizeStatic, RunReport, run
from onnxlite.records import Skipped
from onnxlite.report import fidelity_view, from_json, latency_view, run_view, summary_view, to_json
from onnxlite.report.text import cell_text, count_text, quotient_text, shape_text, size_text
from onnxlite.simplify.options import SimplifyReport
from tests.odd_models import parse

NET = """<ir_version: 8, opset_import: ["": 17]>
    net (float[n,8] x) => (float[n,4] y) <float[8,64] w, float[64,4] v>
    { t = MatMul(x, w)  r = Relu(t)  y = MatMul(r, v) }"""


class Numbers(msgspec.Struct, frozen=True):
    ratio: float
    names: dict[str, float | None] = {}
    cells: tuple[str | int | float | bool | None, ...] = ()


def shown(view, width=160):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(view)
    return console.export_text()


@pytest.fixture(scope="module")
def report():
    samples = np.random.default_rng(0).standard_normal((32, 8)).astype(np.float32)
    steps = [PruneWeights(sparsity=0.25, exclude=("v",)), QuantizeStatic()]
    return run(parse(NET), steps, samples=samples, benchmark=False).report


@pytest.fixture(scope="module")
def latency():
    memory = PeakMemory(peak_bytes=50_000_000, base_bytes=40_000_000)
    return Latency(
        ratio=Ratio(median=0.5, low=0.48, high=0.53, minimum=0.49),
        reference=Timing(median_ms=2.0, minimum_ms=1.9, start_ms=10.0, memory=memory),
        candidate=Timing(median_ms=1.0, minimum_ms=0.95, start_ms=5.0, memory=memory),
        rounds=77,
        threads=None,
        inputs={"x": (1, 8)},
        machine=machine(),
        notes=("a note",),
        seconds=1.0,
    )


def test_a_run_goes_to_json_and_back(report):
    assert from_json(to_json("run", report), "run", RunReport) == report


def test_numbers_that_json_has_not():
    record = Numbers(math.inf, {"a": -math.inf, "b": None, "c": 0.25}, ("inf", 3, 0.5, True, None))
    text = to_json("numbers", record)
    assert '"ratio": "inf"' in text
    assert from_json(text, "numbers", Numbers) == record
    assert math.isnan(from_json(to_json("n", Numbers(math.nan)), "n", Numbers).ratio)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a JSON document"),
        ("[]", "not a JSON document"),
        ('{"schema": 3, "kind": "n"}', "schema 3 and kind 'n'; expected were 1 or 2 and 'n'"),
        ('{"schema": 1, "kind": "m"}', "kind 'm'"),
        ('{"schema": 1, "kind": "n", "record": {}}', "damaged"),
    ],
)
def test_other_documents_are_refused(text, message):
    with pytest.raises(OptionError, match=message):
        from_json(text, "n", Numbers)


def test_the_view_of_a_run(report, latency):
    text = shown(run_view(msgspec.structs.replace(report, latency=latency), layers=True))
    for part in (
        "1  prune-weights",
        "2  quantize-static",
        "128 of 512 weights in 1 layers are zero (25.0%)",
        "file, zipped",
        "0.50x",
        "latency ratio 0.500 [0.480, 0.530] (95% interval) over 77 interleaved rounds, all cores",
        "Fidelity on 8 samples",
        "the last 8 of 32 samples are held out",
        "excluded by name",
        "Layers of prune-weights",
        "Layers of quantize-static",
        "weight_sqnr_db",
    ):
        assert part in text


def test_equal_reasons_share_a_row(report):
    skipped = tuple(Skipped("fold", f"node {i}", "refused", "no constant") for i in range(5))
    step = SimplifyReport(changed=False, summary="nothing", skipped=skipped)
    text = shown(run_view(msgspec.structs.replace(report, steps=(step,))))
    assert "unchanged: nothing" in text
    assert text.count("no constant") == 1
    assert "node 0, node 1 and 3 more" in text


def test_columns_of_layer_rows_are_their_fields_unless_all_are_empty(report):
    one = QuantizedLayer(name="a", op_type="Conv", weights=8000, channels=1, weight_sqnr_db=None)
    rows = (one, msgspec.structs.replace(one, name="b[0]", op_type="Gemm", error=0.5))
    step = QuantizeStaticReport(changed=True, summary="", layers=rows)
    lines = shown(run_view(msgspec.structs.replace(report, steps=(step,)), layers=True))
    start = lines.index("Layers of")
    assert lines[start:].split("\n")[1:4] == [
        line.ljust(len(lines[start:].split("\n")[1]))
        for line in (
            "layer  operator  weights  channels  error",
            "a      Conv        8,000         1      -",
            "b[0]   Gemm        8,000         1    0.5",
        )
    ]


def test_the_view_of_fidelity():
    rows = (
        OutputFidelity(name="same", dtype="float32", values=4, equal=1.0, max_abs=0.0),
        OutputFidelity(
            name="near", dtype="float32", values=4, equal=0.0, sqnr_db=31.25, max_abs=0.01
        ),
        OutputFidelity(name="bad", dtype="float32", values=4, equal=0.0, broken=3, max_abs=1.0),
        OutputFidelity(name="index", dtype="int64", values=4, equal=0.75),
    )
    lines = shown(fidelity_view(Fidelity(samples=1234, outputs=rows, notes=("noted",)))).split("\n")
    assert lines[0].startswith("Fidelity on 1,234 samples")
    cells = [line.split()[:2] for line in lines[2:6]]
    assert cells == [["same", "inf"], ["near", "31.2"], ["bad", "broken"], ["index", "-"]]
    assert "75.00%" in lines[5]
    assert lines[6].strip() == "note: noted"


def test_the_view_of_fidelity_names_the_worst_sample():
    spread = SampleSpread(
        samples=24, median=45.0, q95=41.5, worst=12.25, worst_sample=17, worst_fraction=0.9
    )
    part = PartFidelity(label="y", kind="values", sqnr_db=31.25, per_sample=spread)
    row = OutputFidelity(
        name="y",
        dtype="float32",
        values=4,
        equal=0.0,
        sqnr_db=31.25,
        max_abs=0.01,
        worst_part="y",
        parts=(part,),
    )
    fidelity = Fidelity(samples=24, outputs=(row,))
    line = "median 45.0 dB, 95% quantile 41.5 dB, worst 12.2 dB (sample 17)"
    assert line in shown(fidelity_view(fidelity))
    assert "worst sample 17 at 12.2 dB" in str(fidelity)


def test_the_view_of_latency(latency):
    text = shown(latency_view(latency))
    for part in ("2.000 ms", "session start", "50.00 MB", "0.49x", "x 1x8", "a note"):
        assert part in text


def test_the_view_of_a_summary():
    text = shown(summary_view(inspect(parse(NET)), layers=True))
    for part in ("x: float32[n, 8]", "MatMul", "8x64", "parameters  768", "768 (at x 1x8)", "all"):
        assert part in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (size_text(None), "-"),
        (size_text(0), "0 B"),
        (size_text(999), "999 B"),
        (size_text(1000), "1.00 kB"),
        (size_text(3_221_225_472), "3.22 GB"),
        (count_text(None), "-"),
        (count_text(1234567), "1,234,567"),
        (quotient_text(1, 3), "0.33x"),
        (quotient_text(1, 0), "-"),
        (quotient_text(None, 3), "-"),
        (shape_text(None), "?"),
        (shape_text(()), "scalar"),
        (shape_text((1, "n", None)), "1xnx?"),
        (cell_text(True), "yes"),
        (cell_text(12345), "12,345"),
        (cell_text(0.123456), "0.1235"),
        (cell_text("[x]"), "[x]"),
        (cell_text((8, 3)), "8x3"),
    ],
)
def test_numbers_as_text(text, expected):
    assert text == expected


def test_a_report_of_version_0_1_is_read_under_the_names_of_today():
    text = """{"schema": 1, "kind": "step", "record": {"step": "prune-channels", "changed": false,
        "summary": "", "settled": {"widths": {"a": 4}},
        "declined": [{"what": "fold", "where": "node 'a'", "reason": "no constant"}]}}"""
    step = from_json(text, "step", PruneChannelsReport)
    assert step.skipped == (Skipped("fold", "node 'a'", "", "no constant"),)
    assert step.resolved_options == ResolvedWidths(widths={"a": 4})
