"""Placement by measured times: never slower than float, and what was measured is kept."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from onnxlite import QuantizeStaticReport
from onnxlite.analysis.fingerprint import fingerprint
from onnxlite.model import load, to_proto
from onnxlite.quantize import quantize_static
from onnxlite.quantize.core.plan import QuantPlan
from onnxlite.quantize.core.qtypes import UINT8
from onnxlite.quantize.placement import search as module
from onnxlite.quantize.placement.costs import conversion_costs
from onnxlite.quantize.placement.partition import Conversion, Costs
from onnxlite.records import no_progress
from onnxlite.runtime import Session
from onnxlite.timing import InterleavedTimer, time_ratios, use_timer
from tests.fake_timer import FakeTimer
from tests.odd_models import parse

# Three convolutions of one shape; what is measured for them is made up below.
NET = """<ir_version: 8, opset_import: ["": 17]>
    g (float[n,8,8,8] x) => (float[n,8,8,8] y)
    <float[8,8,3,3] w, float[8] b, float[8,8,3,3] v, float[8] c, float[8,8,3,3] m, float[8] d>
    { t = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(t) u = Conv<pads=[1,1,1,1]>(r, v, c)
      s = Relu(u) y = Conv<pads=[1,1,1,1]>(s, m, d) }"""
DATA = np.random.default_rng(0).standard_normal((16, 8, 8, 8)).astype(np.float32)


#: Fake timers of the test that runs.
_FAKES = contextlib.ExitStack()


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("ONNXLITE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0))
    with use_timer(InterleavedTimer()), _FAKES:
        yield tmp_path / "cache"


def quantized(
    model: object, data: object = DATA, **options: object
) -> tuple[ir.Model, QuantizeStaticReport]:
    result, report = quantize_static(load(model), data, **options)
    return result, report


def timed_reasons(report: QuantizeStaticReport) -> list[str]:
    """Why layers stay float that could run on integers."""
    return [d.message for d in report.skipped if d.message.startswith("measured")]


def pretend(
    monkeypatch: pytest.MonkeyPatch,
    in_float: Sequence[float],
    ratios: dict[int, dict[int, float]],
) -> list[int]:
    """Each layer takes 10 us on integers; whole models what `ratios[batch][layers]` says.

    Returns a list that is filled with the batch sizes that were timed.
    """

    def costs(plan: QuantPlan, *_: object, **__: object):
        everything = plan.placement
        layers = [node for node in everything.nodes if node.op_type == "Conv"]
        seconds = dict(zip(layers, in_float, strict=True))
        return Costs(
            {node: seconds.get(node, 0.0) * 1e-6 for node in everything.nodes},
            {node: 10e-6 if node in seconds else 0.0 for node in everything.nodes},
            dict.fromkeys(everything.values, Conversion(1e-6, 1e-6)),
        )

    placements: list[int] = []
    layers_of: dict[int, int] = {}
    timed: list[int] = []

    def made(plan: QuantPlan, _: object) -> ir.Model:
        placements.append(len(plan.layers))
        return plan.model

    def raced(sessions: Sequence[Session], feed: dict[str, np.ndarray]) -> list[float]:
        if placements:  # the first round is run by all
            assert len(sessions) == len(placements) + 1
            layers_of.update(zip(map(id, sessions[1:]), placements, strict=True))
            placements.clear()
        if len(feed["x"]) not in timed[-1:]:
            timed.append(len(feed["x"]))
        return [ratios[len(feed["x"])][layers_of[id(session)]] for session in sessions[1:]]

    monkeypatch.setattr(module, "measured_costs", costs)
    monkeypatch.setattr(module, "quick_qdq", made)
    _FAKES.enter_context(use_timer(FakeTimer(raced)))
    return timed


def test_a_layer_that_is_faster_in_float_stays_float(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = pretend(monkeypatch, [2.0, 30.0, 30.0], {1: {3: 0.6, 2: 0.5}, 8: {3: 0.6, 2: 0.5}})
    model, report = quantized(parse(NET))
    assert timed == [1, 8]
    assert report.changes.layers_quantized == 2
    assert timed_reasons(report) == ["measured 2 us in float and 10 us on integers"]
    assert "0.50 on 1 sample and 0.50 on 8 samples" in report.summary
    first = next(node for node in model.graph if node.op_type == "Conv")
    assert first.inputs[0] is model.graph.inputs[0]


def test_whole_models_decide_where_the_sum_of_nodes_errs(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, [2.0, 30.0, 30.0], {1: {3: 0.5, 2: 0.6}, 8: {3: 0.5, 2: 0.6}})
    _, report = quantized(parse(NET))
    assert report.changes.layers_quantized == 3


@pytest.mark.parametrize("slow", [1, 8])
def test_a_loss_at_either_batch_size_rules_a_placement_out(
    slow: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ratios = {1: {3: 0.9, 2: 0.5}, 8: {3: 0.9, 2: 0.5}}
    ratios[slow][2] = 1.1
    pretend(monkeypatch, [2.0, 30.0, 30.0], ratios)
    _, report = quantized(parse(NET))
    assert report.changes.layers_quantized == 3


@pytest.mark.parametrize(("noises", "layers"), [([20.0, 30.0], 2), ([30.0, 20.0], 3)])
def test_between_equally_fast_placements_noise_decides(
    noises: list[float], layers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, [2.0, 30.0, 30.0], {1: {3: 0.5, 2: 0.5}, 8: {3: 0.5, 2: 0.505}})
    monkeypatch.setattr(module.Reference, "sqnr_db", lambda *_: noises.pop(0))
    _, report = quantized(parse(NET), observer="minmax", rounding="nearest")
    assert report.changes.layers_quantized == layers


def test_where_nothing_pays_the_float_model_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, [2.0, 11.0, 2.0], {1: {3: 1.2, 1: 0.99}, 8: {3: 0.5, 1: 0.5}})
    proto = parse(NET)
    model, report = quantized(proto)
    assert not report.changed
    assert "nothing is faster on integers here" in report.summary
    assert 'placement="everything"' in report.summary
    assert len(timed_reasons(report)) == 3
    assert [n.op_type for n in model.graph] == [n.op_type for n in load(proto).graph]


def test_islands_that_cost_more_than_they_gain_are_dissolved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The last layer but one gains half a microsecond and would need two conversions."""
    text = NET.replace("y = Conv", "q = Conv").replace(" }", " y = Conv<pads=[1,1,1,1]>(q, m, d) }")
    timed = {4: 0.9, 2: 0.85, 1: 0.8}
    pretend(monkeypatch, [30.0, 2.0, 10.5, 2.0], {1: timed, 8: timed})
    _, report = quantized(parse(text))
    assert report.changes.layers_quantized == 1
    reasons = timed_reasons(report)
    assert ["conversions around it" in reason for reason in reasons] == [False, True, False]


def test_what_was_decided_is_kept(monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> None:
    timed = pretend(monkeypatch, [2.0, 30.0, 30.0], {1: {3: 0.6, 2: 0.5}, 8: {3: 0.6, 2: 0.5}})
    _, before = quantized(parse(NET))
    assert len(list(own_cache.glob("results/placement-*.record"))) == 1
    renamed = parse(NET)
    for node in renamed.graph.node:
        node.name = f"renamed_{node.output[0]}"
    _, after = quantized(renamed)
    assert timed == [1, 8]
    assert timed_reasons(after) == timed_reasons(before) != []
    # Another shape is another question.
    quantized(parse(NET.replace("n,8,8,8", "n,8,9,9")), np.zeros((8, 8, 9, 9), np.float32) + 1)
    assert timed == [1, 8, 1, 8]


def test_what_was_decided_on_a_busy_machine_is_decided_again_on_an_idle_one(
    monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    timed = pretend(monkeypatch, [2.0, 30.0, 30.0], {1: {3: 0.6, 2: 0.5}, 8: {3: 0.6, 2: 0.5}})
    monkeypatch.setattr("os.getloadavg", lambda: (100.0 * (os.cpu_count() or 1), 0.0, 0.0))
    _, busy = quantized(parse(NET))
    assert "kept the machine busy" in busy.summary
    # As long as it is busy, another measurement would be no better.
    _, again = quantized(parse(NET))
    assert "kept the machine busy" in again.summary
    assert timed == [1, 8]
    monkeypatch.setattr("os.getloadavg", lambda: (0.3, 0.0, 0.0))
    _, idle = quantized(parse(NET))
    assert "busy" not in idle.summary
    assert timed == [1, 8, 1, 8]
    assert len(list(own_cache.glob("results/placement-*.record"))) == 1


def test_other_targets_are_not_timed_here(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = pretend(monkeypatch, [2.0, 30.0, 30.0], {1: {3: 0.6, 2: 0.5}, 8: {3: 0.6, 2: 0.5}})
    _, report = quantized(parse(NET), target="generic")
    assert report.changes.layers_quantized == 3
    _, report = quantized(parse(NET), placement="everything")
    assert report.changes.layers_quantized == 3
    assert not timed


def test_a_large_model_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = pretend(monkeypatch, [2.0, 30.0, 30.0], {1: {3: 0.6, 2: 0.5}, 8: {3: 0.6, 2: 0.5}})
    monkeypatch.setattr(module, "_MAX_BYTES", 1000)
    _, report = quantized(parse(NET))
    assert report.changes.layers_quantized == 3
    assert "not timed" in report.summary
    assert not timed


def test_a_tiny_net_stays_float() -> None:
    from models.tiny import tiny_convolutions

    proto = tiny_convolutions()
    data = np.random.default_rng(0).standard_normal((8, 4, 4, 4)).astype(np.float32)
    model, report = quantized(proto, data)
    assert not report.changed
    assert len(timed_reasons(report)) == 4
    got, want = Session(model).run({"x": data}), Session(load(proto)).run({"x": data})
    np.testing.assert_array_equal(got["y"], want["y"])


def test_a_wide_net_is_quantized_and_faster() -> None:
    from models.tiny import wide_convolutions

    proto = wide_convolutions()
    data = np.random.default_rng(0).standard_normal((2, 64, 14, 14)).astype(np.float32)
    model, report = quantized(proto, data, rounding="nearest")
    assert report.changed
    sessions = [Session(load(proto), threads=1), Session(model, threads=1)]
    assert time_ratios(sessions, {"x": data[:1]}, budget_s=0.1, progress=no_progress)[0] < 1.0
    assert to_proto(model).ByteSize() < 0.4 * proto.ByteSize()


def test_conversions_grow_with_the_values_and_count_the_layout() -> None:
    model = load(parse(NET))
    shapes = {"x": (1, 64, 56, 56), "t": (64 * 56 * 56,), "r": (1, 4, 4, 4), "u": None}
    values = [model.graph.inputs[0], *(node.outputs[0] for node in model.graph)][:4]
    found = conversion_costs(values, lambda value: shapes[value.name], UINT8, threads=1)
    image, vector, small, unknown = (found[value] for value in values)
    assert image.to_integers > vector.to_integers > 0
    assert image.to_float > vector.to_float > small.to_float
    assert unknown == Conversion(0.0, 0.0)


def test_the_fingerprint_knows_what_a_time_depends_on() -> None:
    def key(text: str, batch: int = 1, seed: int = 0, detail: str = "cpu") -> str:
        proto = parse(text)
        proto.graph.initializer[0].raw_data = (
            np.random.default_rng(seed).standard_normal((8, 8, 3, 3)).astype(np.float32).tobytes()
        )
        return fingerprint(load(proto), [{"x": DATA[:batch]}], [detail])

    assert key(NET) == key(NET, seed=1) == key(NET.replace("(x, w, b)", "(x, w, b)"))
    different = [
        key(NET),
        key(NET, batch=2),
        key(NET, detail="cpu-avx2"),
        key(NET.replace("s = Relu(u)", "s = Tanh(u)")),
        key(NET.replace("pads=[1,1,1,1]>(r", "dilations=[2,2], pads=[2,2,2,2]>(r")),
    ]
    assert len(set(different)) == len(different)
