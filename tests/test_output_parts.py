"""Parts of outputs: what has another scale is judged by itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxlite.fidelity import OutputErrors, ReferenceOutputs, output_layout, paired_gain_db

RNG = np.random.default_rng(0)


def detector(images: int = 12, *, axis: int = 1) -> np.ndarray:
    """Boxes in pixels and scores of 6 classes, of which one is seen now and then."""
    rng = np.random.default_rng(1)
    boxes = rng.uniform(20, 300, (images, 4, 50))
    scores = rng.uniform(0, 1, (images, 6, 50)) ** 8
    scores[:, 4] *= 0.02
    output = np.concatenate([boxes, scores], axis=1).astype(np.float32)
    return output if axis == 1 else output.swapaxes(1, 2)


def errors(reference: np.ndarray, candidate: np.ndarray) -> OutputErrors:
    feeds = ReferenceOutputs([{"y": part} for part in np.array_split(reference, 3)])
    return feeds.errors([{"y": part} for part in np.array_split(candidate, 3)])


@pytest.mark.parametrize(("axis", "label"), [(1, "y[:, 4:10]"), (2, "y[:, :, 4:10]")])
def test_scores_beside_boxes_are_a_part_of_their_own(axis: int, label: str) -> None:
    reference = detector(axis=axis)
    dead = reference.copy()
    np.moveaxis(dead, axis, 1)[:, 4:] = 0
    found = errors(reference, dead)
    assert found.worst_part is not None
    assert found.worst_part.label == label
    assert found.worst_part.kind == "scores"
    assert found.worst_db == pytest.approx(0, abs=1e-6)
    boxes, scores = found.outputs["y"].parts
    assert boxes.sqnr_db == math.inf
    assert found.noise_ratio == pytest.approx(0.5)
    # The whole array would have hidden it.
    assert found.outputs["y"].whole.sqnr_db > 40
    assert str(scores).startswith(label)


def test_scores_that_detect_nothing_are_undecided() -> None:
    reference = detector()
    reference[:, 4:] *= 0.05
    dead = reference.copy()
    dead[:, 4:] = 0
    found = errors(reference, dead)
    assert "no score above 0.1" in found.outputs["y"].parts[1].undecided
    assert found.worst_db == math.inf


def test_zero_slices_are_undecided_until_they_are_loud() -> None:
    reference = RNG.standard_normal((20, 5, 4)).astype(np.float32)
    reference[:, 2] = 0
    assert [part.kind for part in output_layout([reference]).parts] == ["values", "zero"]
    quiet, loud = reference.copy(), reference.copy()
    quiet[:, 2], loud[:, 2] = 1e-4, 3
    assert errors(reference, quiet).worst_db == math.inf
    assert errors(reference, loud).worst_db == -math.inf or errors(reference, loud).worst_db < 0


def test_an_output_that_is_the_same_everywhere_is_undecided_but_not_perfect() -> None:
    reference = np.ones((16, 3), np.float32)
    part = errors(reference, reference).outputs["y"].parts[0]
    assert part.undecided == "the same on all samples"
    assert errors(reference, 2 * reference).worst_db == pytest.approx(0)


def test_a_loud_sample_does_not_speak_for_the_others() -> None:
    reference = RNG.standard_normal((40, 8)).astype(np.float32)
    reference[7] *= 1e4
    candidate = reference.copy()
    candidate[np.arange(40) != 7] = 0
    worst = errors(reference, candidate).worst_part
    assert worst is not None
    assert worst.sqnr_db == pytest.approx(0)
    assert worst.loud == (7,)
    assert "without 1 loud sample" in str(worst)


def test_logits_are_one_part_and_have_the_usual_sqnr() -> None:
    reference = RNG.standard_normal((64, 100)).astype(np.float32)
    candidate = reference + 0.1 * RNG.standard_normal(reference.shape).astype(np.float32)
    found = errors(reference, candidate)
    assert found.outputs["y"].layout.axis is None
    exact = 10 * np.log10((reference**2).sum() / ((reference - candidate) ** 2).sum())
    assert found.worst_db == pytest.approx(exact, abs=1e-4)


@given(
    small=st.floats(1e-4, 1e-2),
    split=st.integers(1, 7),
    noise=st.floats(1e-3, 0.5),
)
def test_the_worst_part_has_its_own_noise(small: float, split: int, noise: float) -> None:
    rng = np.random.default_rng(2)
    reference = rng.standard_normal((32, 8))
    reference[:, split:] *= small
    candidate = reference.copy()
    candidate[:, split:] *= 1 + noise
    assert errors(reference, candidate).worst_db == pytest.approx(-20 * np.log10(noise))


def test_a_gain_is_that_of_the_worst_part() -> None:
    """Large values get better and small ones worse: the sum of both would be a gain."""
    rng = np.random.default_rng(3)
    reference = rng.standard_normal((32, 8)) * [100, 100, 100, 100, 1, 1, 1, 1]
    noise = rng.standard_normal((32, 8))
    before, after = (
        errors(reference, reference + noise * ([large] * 4 + [small] * 4))
        for large, small in ((1.0, 0.01), (0.5, 0.1))
    )
    gain, deviation = paired_gain_db(before, after)
    assert gain == pytest.approx(-20)
    assert deviation == pytest.approx(0, abs=1e-6)


def test_feeds_of_several_sizes_are_compared() -> None:
    arrays = [RNG.standard_normal((2, size, 3)).astype(np.float32) for size in (4, 6, 9)]
    for array in arrays:
        array[..., 2] *= 1e-3
    found = ReferenceOutputs([{"y": a} for a in arrays]).errors([{"y": a * 0.9} for a in arrays])
    assert [part.label for part in found.outputs["y"].parts] == ["y[:, :, 0:2]", "y[:, :, 2]"]
    assert found.worst_db == pytest.approx(20, abs=1e-4)
