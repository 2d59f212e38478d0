"""Bits under a budget, zero points without samples, float16 for the rest, large models."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.decoder import Decoder, large_decoder
from onnxlite import quantize_weights
from onnxlite.errors import OptionError
from onnxlite.model import disk_bytes, load
from onnxlite.packing import weight_type
from onnxlite.quantize.weight_only.bit_allocation import WidthCost, allocate
from onnxlite.quantize.weight_only.codes import coding, nearest_levels
from onnxlite.quantize.weight_only.hqq import hqq_levels
from onnxlite.runtime import Session
from onnxlite.save import save
from tests.odd_models import parse

SIZES = Decoder(layers=2, width=64, hidden=96, heads=4, key_heads=2, vocabulary=100)


@given(
    st.lists(st.tuples(st.integers(1, 50), st.floats(0.01, 100)), min_size=1, max_size=4),
    st.integers(10, 500),
)
@settings(max_examples=100, deadline=None)
def test_allocation_keeps_the_budget_and_is_near_the_best(
    weights: list[tuple[int, float]], budget: int
) -> None:
    choices = [
        [WidthCost(bits, size * bits, damage * 4.0**-bits) for bits in (2, 3, 4, 6, 8)]
        for size, damage in weights
    ]
    found = allocate(choices, budget)
    possible = [
        combination
        for combination in itertools.product(*choices)
        if sum(choice.nbytes for choice in combination) <= budget
    ]
    if not possible:
        assert found is None
        return
    assert found is not None
    picked = [next(c for c in each if c.bits == b) for each, b in zip(choices, found, strict=True)]
    assert sum(choice.nbytes for choice in picked) <= budget
    # Greedy: no single widening that still fits would help.
    left = budget - sum(choice.nbytes for choice in picked)
    for each, now in zip(choices, picked, strict=True):
        wider = [c for c in each if c.nbytes > now.nbytes]
        assert not wider or min(c.nbytes for c in wider) - now.nbytes > left


@pytest.mark.parametrize("share", [0.2, 0.12])
def test_the_file_has_the_size_asked_for(share: float, residual_path: Path, tmp_path: Path) -> None:
    model, report = quantize_weights(residual_path, max_size=share)
    path = save(model, tmp_path / "small.onnx")
    assert 0.85 * share < disk_bytes(path) / disk_bytes(residual_path) <= share
    assert len({row.bits for row in report.layers}) > 1


def test_a_budget_counts_what_kernels_take(tmp_path: Path) -> None:
    source = large_decoder(tmp_path / "decoder.onnx", sizes=SIZES)
    whole = save(load(source), tmp_path / "whole.onnx", external_data="never")
    model, report = quantize_weights(whole, max_size=0.28, mode="compute")
    path = save(model, tmp_path / "small.onnx")
    assert disk_bytes(path) / disk_bytes(whole) <= 0.28
    assert {row.bits for row in report.layers} <= {"2", "4", "8"}


def test_a_size_out_of_reach_is_refused(residual_path: Path) -> None:
    with pytest.raises(OptionError, match="cannot be reached"):
        quantize_weights(residual_path, max_size=0.03)
    with pytest.raises(OptionError, match="size"):
        quantize_weights(residual_path, max_size=1.5)


@pytest.mark.parametrize("bits", [4, 3, 2])
@pytest.mark.parametrize("whole", [True, False])
def test_half_quadratic_zeros_have_the_smaller_norm(bits: int, whole: bool) -> None:
    kind = weight_type(bits)
    view = np.random.default_rng(0).standard_t(4, (20, 8, 32)).astype(np.float32)

    def norm(levels: tuple[np.ndarray, np.ndarray | None]) -> float:
        found = coding(kind, *levels)
        wrong = np.abs(view - found.decode(found.encode(view))) / np.abs(found.scale)
        return float((wrong**0.7).mean())

    ours = hqq_levels(kind, view, (2,), free_zero=True, whole_zero=whole)
    nearest = norm(nearest_levels(kind, view, (2,), free_zero=True))
    assert norm(ours) <= nearest if whole else norm(ours) < nearest
    assert not whole or np.array_equal(ours[1], np.rint(ours[1]))


def test_biases_are_halved_beside_few_bits_and_stay_beside_many(residual_path: Path) -> None:
    def floats(model: ir.Model) -> list[int]:
        tensors = [v.const_value for v in model.graph.initializers.values()]
        return [t.size for t in tensors if t.dtype == ir.DataType.FLOAT and t.size >= 64]

    assert not floats(quantize_weights(residual_path, bits=4).model)
    assert floats(quantize_weights(residual_path, bits=8).model)


def test_numbers_beyond_float16_stay() -> None:
    proto = parse(
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,64] x) => (float[n,64] y) <float[64,64] w, float[64] mask>
        { t = MatMul(x, w) y = Max(t, mask) }"""
    )
    (mask,) = [tensor for tensor in proto.graph.initializer if tensor.name == "mask"]
    mask.CopyFrom(onnx.numpy_helper.from_array(np.full(64, -3e38, np.float32), "mask"))
    model = load(quantize_weights(proto, bits=4, first_last_bits="same").model)
    assert model.graph.initializers["mask"].dtype == ir.DataType.FLOAT


@pytest.mark.parametrize("mode", ["storage", "compute"])
@pytest.mark.parametrize("method", ["rtn", "hqq"])
def test_a_decoder_in_external_data(tmp_path: Path, mode: str, method: str) -> None:
    source = large_decoder(tmp_path / "decoder.onnx", sizes=SIZES)
    calls: list[int] = []

    def progress(stage: str, done: int, total: int) -> None:
        calls.append(done)

    model = quantize_weights(source, bits=4, mode=mode, method=method, progress=progress).model
    assert max(calls) == 16
    path = save(model, tmp_path / "small.onnx", external_data="always")
    ids = np.random.default_rng(0).integers(0, 100, (2, 7))
    want, got = (Session(p).run({"ids": ids})["logits"] for p in (source, path))
    assert 10 * np.log10((want**2).sum() / ((want - got) ** 2).sum()) > 12
    # No float weight is left.
    large = [v for v in load(path).graph.initializers.values() if v.const_value.size >= 1000]
    assert {v.dtype for v in large} <= {ir.DataType.UINT8, ir.DataType.INT8}


def test_it_can_be_interrupted(tmp_path: Path) -> None:
    source = large_decoder(tmp_path / "decoder.onnx", sizes=SIZES)

    def interrupt(stage: str, done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize_weights(source, bits=4, progress=interrupt)


def test_a_branch_that_no_sample_takes_does_not_pay(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
        g (float[4,64] x, bool flag) => (float[4,64] y) <float[64,64] w>
        { h = MatMul(x, w)
          y = If(flag) <
            then_branch = yes () => (float[4,64] a) <float[64,64] u> { a = MatMul(h, u) },
            else_branch = no () => (float[4,64] e) <float[64,64] v> { e = MatMul(h, v) }> }"""
    x = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    feeds = [{"x": x, "flag": np.array(True)}]
    report = quantize_weights(parse(text), samples=feeds, max_size=0.3, method="rtn").report
    bits = {row.weight: row.bits for row in report.layers}
    assert len(bits) == 3
    assert "ternary" not in bits.values()
