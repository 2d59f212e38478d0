"""Calibration and evaluation samples never overlap."""

from __future__ import annotations

import numpy as np
import pytest

from onnxlite.inputs import InputSpec
from onnxlite.recipe.split import split
from onnxlite.samples import Samples

DYNAMIC = (InputSpec("x", "float32", ("n", 2)),)
FIXED = (InputSpec("x", "float32", (4, 2)),)


def rows(count, start=0):
    return np.arange(start, start + count, dtype=np.float32)[:, None].repeat(2, axis=1)


def firsts(samples):
    return [int(value) for feed in samples for value in feed["x"][:, 0]]


@pytest.mark.parametrize(
    ("total", "held"), [(2, 1), (3, 1), (9, 4), (16, 8), (30, 8), (33, 8), (40, 10), (100, 25)]
)
def test_the_last_quarter_is_held_out(total, held):
    calibration, evaluation, use = split(Samples(rows(total), DYNAMIC))
    assert firsts(calibration) == list(range(total - held))
    assert firsts(evaluation) == list(range(total - held, total))
    assert firsts(calibration) == list(range(total - held))  # a second pass gives the same
    assert (use.calibration, use.evaluation, use.origin) == (total - held, held, "held-out")
    assert f"last {held} of {total}" in use.note


def test_a_fixed_batch_stays_whole():
    calibration, evaluation, use = split(Samples(rows(24), FIXED))
    assert firsts(calibration) == list(range(16))
    assert firsts(evaluation) == list(range(16, 24))
    calibration, evaluation, use = split(Samples(rows(40), FIXED))  # 10 of 40: cut inside a feed
    assert firsts(evaluation) == list(range(32, 40))
    assert (use.calibration, use.evaluation) == (32, 8)


def test_the_last_feed_is_held_out_if_the_cut_is_in_it():
    _, evaluation, use = split(Samples(rows(8), FIXED))
    assert firsts(evaluation) == [4, 5, 6, 7]
    assert use.calibration == 4


@pytest.mark.parametrize(("count", "inputs"), [(1, DYNAMIC), (4, FIXED)])
def test_what_cannot_be_split_is_shared_and_says_so(count, inputs):
    calibration, evaluation, use = split(Samples(rows(count), inputs))
    assert firsts(calibration) == firsts(evaluation) == list(range(count))
    assert use.origin == "shared"
    assert "flattered" in use.note


def test_evaluation_samples_are_used_whole():
    calibration, evaluation, use = split(Samples(rows(20), DYNAMIC), rows(5, start=50))
    assert firsts(calibration) == list(range(20))
    assert firsts(evaluation) == [50, 51, 52, 53, 54]
    assert (use.calibration, use.evaluation, use.origin) == (20, 5, "given")


def test_the_batches_of_a_loader_are_cut():
    batches = [rows(10), rows(10, 10), rows(3, 20)]
    calibration, evaluation, use = split(Samples(batches, DYNAMIC))
    assert firsts(calibration) == list(range(15))
    assert firsts(evaluation) == list(range(15, 23))
    assert use.evaluation == 8


def test_inputs_that_do_not_share_the_batch_axis_stay_whole():
    inputs = (InputSpec("x", "float32", ("n", 2)), InputSpec("state", "float32", (2, "n")))
    feeds = [{"x": rows(4, 4 * i), "state": np.zeros((2, 4), np.float32)} for i in range(6)]
    _, evaluation, use = split(Samples(feeds, inputs))
    assert firsts(evaluation) == list(range(16, 24))
    assert use.calibration == 16


def test_a_scalar_goes_everywhere():
    inputs = (*DYNAMIC, InputSpec("rate", "int64", ()))
    feeds = {"x": rows(20), "rate": np.array(7)}
    _, evaluation, _ = split(Samples(feeds, inputs))
    assert {int(feed["rate"]) for feed in evaluation} == {7}


def test_the_recipe_may_say_how_many_are_for_calibration():
    calibration, evaluation, use = split(Samples(rows(40), DYNAMIC), calibration=12)
    assert firsts(calibration) == list(range(12))
    assert firsts(evaluation) == list(range(12, 40))
    assert (use.calibration, use.evaluation) == (12, 28)
    calibration, _, use = split(Samples(rows(40), DYNAMIC), rows(5, start=100), calibration=12)
    assert firsts(calibration) == list(range(12))
    assert (use.calibration, use.evaluation, use.origin) == (12, 5, "given")
    _, _, use = split(Samples(rows(40), DYNAMIC), calibration=99)
    assert (use.calibration, use.origin) == (40, "shared")
