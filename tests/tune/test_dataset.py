"""Rows to train on: held apart from those to validate on, and more of them made up."""

from __future__ import annotations

import numpy as np
import pytest

from onnxlite.inputs import input_specs
from onnxlite.model import load
from onnxlite.samples import Samples
from onnxlite.tune.augmentation import augment, can_augment
from tests.odd_models import parse

torch = pytest.importorskip("torch")

from onnxlite.tune.dataset import batches, make_dataset  # noqa: E402

NET = """<ir_version: 8, opset_import: ["": 17]>
    g (float[n,1,8,8] x) => (float[n,1,8,8] y) { h = Abs(x)  y = Neg(h) }"""


def rows_of(images, *, augmented=True, inner=()):
    model = load(parse(NET))
    stream = Samples(images, input_specs(model))
    return make_dataset(model, stream, list(inner), augmented=augmented, threads=1)


def test_held_rows_are_in_nothing_that_is_trained_on():
    # Each sample is one number of its own, so that mixtures show what they are made of.
    images = np.broadcast_to(np.arange(20, dtype=np.float32).reshape(20, 1, 1, 1), (20, 1, 8, 8))
    rows = rows_of(np.ascontiguousarray(images % 5 == 4).astype(np.float32))
    assert [row.feed["x"].max().item() for row in rows.held_out] == [1] * 4
    assert len(rows.training) == 16 * 5
    assert all(not row.feed["x"].any() for row in rows.training)


def test_made_up_rows_have_the_teachers_answers():
    images = np.random.default_rng(0).standard_normal((10, 1, 8, 8), np.float32)
    rows = rows_of(images, inner=["h"])
    assert rows.inner == ["h"]
    assert len(rows.training) == 8 * 5
    for row in rows.training:
        torch.testing.assert_close(row.answers["y"], -row.feed["x"].abs())
        torch.testing.assert_close(row.answers["h"], row.feed["x"].abs())
    assert len(rows_of(images, augmented=False).training) == 8


def test_batches_hold_every_row_once():
    images = np.random.default_rng(0).standard_normal((10, 1, 8, 8), np.float32)
    rows = rows_of(images, augmented=False)
    order = torch.Generator().manual_seed(0)
    parts = [part for batch in batches(rows.training, 3, True, order) for part in batch]
    assert [len(part.feed["x"]) for part in parts] == [3, 3, 2]
    found = torch.cat([part.feed["x"] for part in parts]).sum((1, 2, 3)).sort().values
    want = torch.cat([row.feed["x"] for row in rows.training]).sum((1, 2, 3)).sort().values
    torch.testing.assert_close(found, want)


def test_variants_are_seeded_mirrored_and_shifted():
    image = np.zeros((1, 1, 10, 10), np.float32)
    image[..., 5, 2] = 1
    made = list(augment([{"x": image}], 40, seed=1))
    again = list(augment([{"x": image}], 40, seed=1))
    for one, two in zip(made, again, strict=True):
        np.testing.assert_array_equal(one["x"], two["x"])
    peaks = {np.unravel_index(feed["x"].argmax(), (10, 10)) for feed in made}
    assert {column for _, column in peaks} == {1, 2, 3, 6, 7, 8}
    assert {row for row, _ in peaks} == {4, 5, 6}


def test_words_and_rows_of_numbers():
    assert not can_augment({"ids": np.zeros((1, 7), np.int64)})
    table = np.array([[1.0, 2.0]], np.float32)
    assert can_augment({"x": table})
    for feed in augment([{"x": table}, {"x": -table}], 10, seed=0):
        assert feed["x"][0, 1] == pytest.approx(2 * feed["x"][0, 0])
