"""The voices: every step runs on them, and figures hold for another seed of the noise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxlite as ol
from models.fastspeech import fastspeech
from models.vits import Voice, vits
from onnxlite.evaluate import Fidelity
from onnxlite.model import load
from onnxlite.ops import noise_seed, random_outputs, value_lengths
from onnxlite.runtime import Session

pytest.importorskip("torch")

SIZES = Voice(vocabulary=20, width=12, layers=1, flows=1, upsampling=(2,), decoder_width=16)
IDS = np.random.default_rng(0).integers(1, 20, (16, 2, 14))
SAMPLES = {
    "vits": [{"ids": ids, "scales": np.float32([0.667, 1, 0.8])} for ids in IDS[:8]],
    "fastspeech": [{"ids": ids} for ids in IDS[:8]],
}
NAMES = sorted(SAMPLES)


@pytest.fixture(scope="module")
def voices(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("voices")
    makers = {"vits": vits, "fastspeech": fastspeech}
    return {name: makers[name](folder / f"{name}.onnx", sizes=SIZES) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_lengths_depend_on_values(voices, name):
    onnx.checker.check_model(str(voices[name]), full_check=True)
    model = load(voices[name])
    assert len(value_lengths(model).rounding) == 1
    assert len(random_outputs(model)) == (2 if name == "vits" else 0)
    session = Session(model)
    lengths = {next(iter(session.run(feed).values())).shape[-1] for feed in SAMPLES[name]}
    assert len(lengths) > 3
    assert min(lengths) >= 14
    assert max(lengths) <= 24 * 14


def test_a_voice_speaks_differently_every_time_and_is_measured_as_if_not(voices):
    (feed, *_) = SAMPLES["vits"]
    drawn = Session(voices["vits"], random="drawn")
    one, other = drawn.run(feed)["audio"], drawn.run(feed)["audio"]
    assert one.shape != other.shape or not np.array_equal(one, other)
    assert ol.compare(voices["vits"], voices["vits"], samples=[feed]).sqnr_db == np.inf


Step = Callable[[Path, Any], Any]

STEPS: dict[str, Step] = {
    "simplify": lambda m, x: ol.simplify(m, onnxsim=False),
    "static": lambda m, x: ol.quantize_static(m, x),
    "dynamic": lambda m, x: ol.quantize_dynamic(m, samples=x),
    "auto": lambda m, x: ol.quantize_auto(m, x),
    "weights": lambda m, x: ol.quantize_weights(m, samples=x, bits=8),
    "half": lambda m, x: ol.to_float16(m, samples=x),
    "channels": lambda m, x: ol.prune_channels(m, samples=x, remove=0.1, importance="l2"),
    "repair": lambda m, x: ol.repair(m, ol.quantize_weights(m, bits=4), x),
}


#: Steps that measure many candidates take minutes on the larger graph.
_LONG = {("vits", "auto"), ("vits", "channels"), ("vits", "repair"), ("vits", "static")}
CASES = [
    pytest.param(name, step, marks=pytest.mark.slow if (name, step) in _LONG else ())
    for name in NAMES
    for step in STEPS
]


@pytest.mark.parametrize(("name", "step"), CASES)
def test_every_step_runs(voices, name, step):
    result = STEPS[step](voices[name], SAMPLES[name])
    session = Session(load(result), random="drawn")
    session.run(SAMPLES[name][0])
    fidelity = ol.compare(voices[name], result, samples=SAMPLES[name])
    assert fidelity.length_agreement is not None
    assert fidelity.sqnr_db > (2 if step == "channels" else 10)


def figures(path: Path, result: Any, samples: Any) -> Fidelity:
    return ol.compare(path, result, samples=samples)


@pytest.mark.parametrize("name", NAMES)
def test_a_second_run_gives_the_same_figures(voices, name):
    result = ol.quantize_weights(voices[name], bits=8)
    one, other = (figures(voices[name], result, SAMPLES[name]) for _ in range(2))
    assert one == other


def test_figures_hold_for_another_seed(voices):
    path, samples = voices["vits"], SAMPLES["vits"]
    result = ol.quantize_weights(path, bits=8)
    found = []
    for seed in range(3):
        with noise_seed(seed):
            found.append(figures(path, result, samples).sqnr_db)
    assert len(set(found)) == 3
    assert max(found) - min(found) < 1


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_optimize(voices, name):
    result = ol.optimize(voices[name], SAMPLES[name], budget={"max_drop": 0.05}, time_limit_s=40.0)
    Session(load(result))


@pytest.mark.parametrize("metric", ["sqnr", lambda outputs: float(outputs["audio"].size)])
def test_a_run_judges_frames_of_tied_lengths(voices, metric):
    recipe, samples = [ol.QuantizeWeights(bits=4)], SAMPLES["vits"]
    done = ol.run(
        voices["vits"],
        recipe,
        samples=samples[1:],
        evaluation=samples[:1],
        metric=metric,
        benchmark=False,
    )
    assert done.report.usability.decided
    assert done.usable
    assert (done.report.fidelity.length_agreement is None) == callable(metric)
