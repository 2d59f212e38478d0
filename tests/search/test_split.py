"""Split of samples: calibration, selection and final check never overlap."""

from __future__ import annotations

import numpy as np
import pytest

from onnxlite.errors import SamplesError
from onnxlite.inputs import InputSpec
from onnxlite.search.split import split_samples

DYNAMIC = (InputSpec("x", "float32", ("n", 2)),)
FIXED = (InputSpec("x", "float32", (4, 2)),)


def rows(count, start=0):
    return np.arange(start, start + count, dtype=np.float32)[:, None].repeat(2, axis=1)


def firsts(samples):
    return [int(value) for feed in samples for value in feed["x"][:, 0]]


def parts(split):
    return [firsts(part) for part in (split.calibration, split.selection, split.check)]


@pytest.mark.parametrize("inputs", [DYNAMIC, FIXED])
@pytest.mark.parametrize("total", [12, 40, 100, 1024])
def test_one_set_is_split_into_three(total, inputs):
    split = split_samples(rows(total), inputs, labels=np.arange(total))
    one, two, three = parts(split)
    assert one + two + three == list(range(total))
    assert min(len(one), len(two), len(three)) >= 4
    assert (len(one), len(two), len(three)) == split.counts
    assert split.selection_labels.tolist() == two
    assert split.check_labels.tolist() == three
    assert split.use.origin == "held-out"


def test_half_of_many_samples_is_for_calibration():
    assert split_samples(rows(1024), DYNAMIC).counts == (512, 256, 256)


def test_separate_samples_are_halved():
    split = split_samples(
        rows(10), DYNAMIC, evaluation=rows(20, start=100), labels=np.arange(100, 120)
    )
    assert parts(split) == [list(range(10)), list(range(100, 110)), list(range(110, 120))]
    assert split.check_labels.tolist() == list(range(110, 120))
    assert split.use.origin == "given"


@pytest.mark.parametrize(("total", "inputs"), [(1, DYNAMIC), (2, DYNAMIC), (4, FIXED), (8, FIXED)])
def test_too_few_samples_are_shared_and_the_record_says_so(total, inputs):
    split = split_samples(rows(total), inputs)
    assert parts(split) == [list(range(total))] * 3
    assert split.use.origin == "shared"
    assert "flatter" in split.use.note


def test_labels_must_fit():
    with pytest.raises(SamplesError, match="one entry per sample of the evaluation set"):
        split_samples(rows(10), DYNAMIC, evaluation=rows(20), labels=np.zeros(10))
    with pytest.raises(SamplesError, match="one entry per"):
        split_samples(rows(10), DYNAMIC, labels=np.zeros(9))
