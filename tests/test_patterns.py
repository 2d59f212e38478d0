"""Patterns of names: one matching, and an error with the nearest names in every step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from fnmatch import fnmatchcase
from glob import escape
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import onnxlite as ol
from onnxlite.errors import OptionError
from onnxlite.patterns import check_patterns, matches, nearest
from tests.odd_models import parse

NET = """<ir_version: 8, opset_import: ["": 17]>
    net (float[n,16] x) => (float[n,8] y)
    <float[16,16] encoder_weight, float[16,16] middle_weight, float[16,8] head_weight>
    { [encoder] a = MatMul(x, encoder_weight) [act] r = Relu(a)
      [middle] m = MatMul(r, middle_weight) [gate] q = Relu(m)
      [head] y = MatMul(q, head_weight) }"""
X = np.random.default_rng(0).standard_normal((24, 16)).astype(np.float32)

Call = Callable[..., Any]
#: Every step that takes patterns; each is called with a model and options.
STEPS: dict[str, Call] = {
    "prune_weights": lambda model, **o: ol.prune_weights(model, sparsity=0.5, **o),
    "prune_channels": lambda model, **o: ol.prune_channels(model, remove=0.5, round_to=1, **o),
    "quantize_static": lambda model, **o: ol.quantize_static(
        model, X, placement="everything", rounding="nearest", equalize=False, **o
    ),
    "quantize_dynamic": lambda model, **o: ol.quantize_dynamic(model, kernel="integer", **o),
    "quantize_auto": lambda model, **o: ol.quantize_auto(model, X, **o),
    "quantize_weights": lambda model, **o: ol.quantize_weights(model, bits=8, **o),
    "to_float16": lambda model, **o: ol.to_float16(model, **o),
    "repair": lambda model, **o: ol.repair(
        model, ol.prune_weights(model, sparsity=0.5).model, X, **o
    ),
    "sensitivity": lambda model, **o: ol.sensitivity(model, X, times=False, confirm=0, **o),
}
#: Steps that have no `include`.
EXCLUDE_ONLY = ("prune_channels", "to_float16")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("option", ["include", "exclude"])
@pytest.mark.parametrize("pattern", ["hed", "Head", "head?_"])
def test_a_misspelt_pattern_is_an_error_with_the_nearest_name(
    step: str, option: str, pattern: str
) -> None:
    if option == "include" and step in EXCLUDE_ONLY:
        pytest.skip("the step has no such option")
    with pytest.raises(OptionError, match=r"no .* matches '.*did you mean .*'head.*compared with"):
        STEPS[step](parse(NET), **{option: [pattern, "*encoder*"]})


def test_16_bits_for_no_node_are_an_error() -> None:
    with pytest.raises(OptionError, match=r"no node matches 'midle'.*'middle'"):
        ol.quantize_static(parse(NET), X, target="generic", int16=["midle"])


def float_weights(model: onnx.ModelProto) -> set[str]:
    return {t.name for t in model.graph.initializer if t.data_type == 1 and len(t.dims) == 2}


@pytest.mark.parametrize("step", ["quantize_static", "quantize_dynamic"])
@pytest.mark.parametrize("name", ["middle", "middle_weight", "middle_w*"])
def test_layers_are_meant_by_their_names_and_by_those_of_their_weights(
    step: str, name: str
) -> None:
    model, report = STEPS[step](parse(NET), exclude=[name])
    assert float_weights(model) == {"middle_weight"}
    assert {s.node for s in report.skipped if s.code == "excluded-by-name"} == {"middle"}
    model, _ = STEPS[step](parse(NET), include=[name])
    assert float_weights(model) == {"encoder_weight", "head_weight"}


def test_smoothing_keeps_the_names_that_patterns_mean() -> None:
    """SmoothQuant writes new constants, whose old names a pattern has."""
    outliers = X * np.where(np.arange(16) == 3, 100, 1).astype(np.float32)
    _, report = ol.quantize_dynamic(
        parse(NET), samples=outliers, kernel="integer", smooth=True, exclude=["head_weight"]
    )
    assert report.smoothed_values
    assert {s.node for s in report.skipped if s.code == "excluded-by-name"} == {"head"}


def test_measured_options_can_be_given_again() -> None:
    outliers = X * np.where(np.arange(16) == 3, 100, 1).astype(np.float32)
    _, report = ol.quantize_static(parse(NET), outliers, rounding="nearest", smooth=True)
    resolved = report.resolved_options
    if resolved is not None:
        again = ol.quantize_static(
            parse(NET), outliers, rounding="nearest", smooth=True,
            placement="everything", exclude=resolved.exclude,
        )  # fmt: skip
        assert again.report.summary


NAMES = st.lists(st.text("abAB[]*?/_.1", min_size=1, max_size=6), min_size=1, max_size=6)


@given(names=NAMES, pattern=st.text("abAB[]*?/_.1!-", max_size=6))
def test_the_check_agrees_with_the_matching(names: Sequence[str], pattern: str) -> None:
    found = any(fnmatchcase(name, pattern) for name in names)
    assert matches(names, [pattern]) == found
    expected = nullcontext() if found else pytest.raises(OptionError, match="no node matches")
    with expected:
        check_patterns([pattern], names, what="node", compared="names")


@given(names=NAMES)
def test_an_escaped_name_is_its_own_nearest(names: Sequence[str]) -> None:
    check_patterns([escape(name) for name in names], names, what="node", compared="names")
    for name in names:
        if name.strip("*?[]"):
            assert len(nearest(escape(name), names)) <= 3


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("layer.0/atn/MatMul", "/model/layer.0/attn/MatMul"),
        ("*CONV1*", "conv1"),
        ("conv[1", "conv1"),
        ("model/layer.[0]", "/model/layer.0/attn/MatMul"),
    ],
)
def test_nearest_names(pattern: str, expected: str) -> None:
    assert nearest(pattern, ["/model/layer.0/attn/MatMul", "conv1", "other"])[0] == expected


def test_no_name_is_near_a_pattern_without_letters() -> None:
    assert nearest("*", ["a"]) == []
    with pytest.raises(OptionError, match=r"no node matches '\?': patterns"):
        check_patterns(["?"], ["long"], what="node", compared="names")
