"""`benchmark`: the structure of its result. How fast a machine is cannot be tested."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest

from onnxlite.errors import ExecutionError, OptionError
from onnxlite.evaluate import Latency, benchmark, machine, peak_memory
from onnxlite.evaluate.benchmark import _ratio
from tests.odd_models import feeds, odd, parse


def test_a_model_against_itself() -> None:
    latency = benchmark(odd("plain"), odd("plain"), rounds=8, time_limit_s=0.5)
    ratio = latency.ratio
    assert 0 < ratio.low <= ratio.median <= ratio.high
    assert ratio.minimum > 0
    assert latency.rounds == 8
    assert latency.threads == 1
    assert latency.inputs == {"x": (1, 3, 8, 8)}
    for timing in (latency.reference, latency.candidate):
        assert 0 < timing.minimum_ms <= timing.median_ms
        assert timing.start_ms > 0
        assert timing.memory is not None
        assert 10e6 < timing.memory.base_bytes <= timing.memory.peak_bytes < 4e9
    assert latency.machine == machine()
    assert latency.notes == ()
    assert msgspec.json.decode(msgspec.json.encode(latency), type=Latency) == latency


def test_the_time_budget_bounds_the_rounds() -> None:
    steps: list[tuple[str, int, int]] = []
    latency = benchmark(
        odd("plain"),
        odd("plain"),
        time_limit_s=0.1,
        memory=False,
        progress=lambda *step: steps.append(step),
    )
    assert 5 <= latency.rounds <= 500
    assert len(steps) == latency.rounds
    assert steps[-1] == ("time models", latency.rounds, latency.rounds)
    assert latency.reference.memory is None


def test_batch_and_samples() -> None:
    assert benchmark(odd("plain"), odd("plain"), batch_size=3, rounds=1, memory=False).inputs == {
        "x": (3, 3, 8, 8)
    }
    images = np.zeros((10, 3, 8, 8), np.float32)
    latency = benchmark(odd("plain"), odd("plain"), samples=images, rounds=1, memory=False)
    assert latency.inputs == {"x": (1, 3, 8, 8)}
    batches = [{"x": images[:4]}, {"x": images[4:]}]
    latency = benchmark(
        odd("plain"), odd("plain"), samples=batches, batch_size=2, rounds=1, memory=False
    )
    assert latency.inputs == {"x": (2, 3, 8, 8)}
    sized = benchmark(
        odd("unnamed dims"),
        odd("unnamed dims"),
        samples=feeds("unnamed dims"),
        batch_size=2,
        rounds=1,
        memory=False,
    )
    assert sized.inputs == {"x": (2, 3, 6, 6)}


def test_files_are_measured_where_they_are(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(odd("plain"), path)
    renamed = parse("""<ir_version: 8, opset_import: ["": 17]>
        g (float[n,3,8,8] image) => (float[n,4,8,8] y) <float[4,3,3,3] w>
        { y = Conv<pads=[1,1,1,1]>(image, w) }""")
    latency = benchmark(path, renamed, rounds=2, memory=False)
    assert latency.ratio.median > 0
    assert list(tmp_path.iterdir()) == [path]


def test_the_interval_holds_the_true_ratio() -> None:
    rng = np.random.default_rng(3)
    reference = rng.normal(1.0, 0.02, 200)
    times = np.stack([reference, 0.5 * reference * rng.normal(1.0, 0.02, 200)], axis=1)
    ratio = _ratio(times, seed=0)
    assert ratio.low < 0.5 < ratio.high
    assert ratio.high - ratio.low < 0.01
    assert ratio == _ratio(times, seed=0)


@pytest.mark.parametrize("option", [{"batch_size": 0}, {"rounds": 0}, {"time_limit_s": 0.0}])
def test_options_must_be_positive(option: dict[str, int]) -> None:
    with pytest.raises(OptionError, match="give a"):
        benchmark(odd("plain"), odd("plain"), **option)  # type: ignore[arg-type]


def test_models_with_other_inputs() -> None:
    with pytest.raises(OptionError, match="different inputs"):
        benchmark(odd("plain"), odd("If"), rounds=1)


def test_a_child_that_fails_is_an_execution_error(tmp_path: Path) -> None:
    with pytest.raises(ExecutionError, match="cannot measure peak memory"):
        peak_memory(tmp_path / "none.onnx", {})


def test_machine_record() -> None:
    here = machine()
    assert here.cpu
    assert here.cores >= 1
    assert here.onnxruntime in str(here)
