"""The lineage of layers: defaults, renames, channels that go one after the other."""

from __future__ import annotations

import numpy as np
import pytest

from onnxlite.analysis.channels import channel_map
from onnxlite.analysis.lineage import (
    Origin,
    lineage_of,
    origin_of,
    record_kept,
    record_removed,
    record_renamed,
)
from onnxlite.errors import OptionError
from onnxlite.model import clone, load, to_bytes
from onnxlite.normalize import normalize
from tests.odd_models import ODD, parse


@pytest.fixture
def model():
    return load(parse(ODD["plain"]))


def test_a_layer_comes_from_itself_by_default(model):
    assert lineage_of(model) == {}
    assert origin_of(model, "conv") == Origin("conv", None)


def test_channels_taken_away_twice_count_from_the_original(model):
    record_kept(model, "conv", [1, 4, 6])
    record_kept(model, "conv", [0, 2])
    assert origin_of(model, "conv") == Origin("conv", (1, 6))


def test_a_renamed_layer_keeps_its_channels(model):
    record_kept(model, "conv", [1, 3])
    record_renamed(model, "conv", "conv_folded")
    record_kept(model, "conv_folded", [1])
    assert origin_of(model, "conv_folded") == Origin("conv", (3,))


def test_channels_that_are_not_there_are_refused(model):
    record_kept(model, "conv", [1, 3])
    with pytest.raises(OptionError, match="has 2 channels"):
        record_kept(model, "conv", [2])


def test_clones_carry_it_apart_and_files_do_not(model):
    record_kept(model, "conv", [1, 3])
    copy = clone(model)
    record_kept(copy, "conv", [0])
    assert origin_of(model, "conv").kept == (1, 3)
    assert origin_of(copy, "conv").kept == (1,)
    assert b"lineage" not in to_bytes(copy)


def test_what_channel_pruning_removes_is_recorded_before_it_goes():
    model = load(
        parse(
            """<ir_version: 8, opset_import: ["": 17]>
            g (float[n,3,8,8] x) => (float[n,5] y)
            <float[4,3,3,3] w, float[4] b, float[4,3,2,2] v, float[6,5] u>
            { s = Conv(x, w, b)  r = Relu(s)  t = ConvTranspose<group=2>(r, v)
              a = GlobalAveragePool(t)  f = Flatten(a)  y = MatMul(f, u) }"""
        )
    )
    normalize(model)
    channels = channel_map(model)
    conv, transposed, product = (n for n in model.graph if n.op_type.startswith(("Conv", "Mat")))
    line = {(b.value.name, b.axis): b.line for b in channels.bindings}
    units = {*line["w", 0].reshape(-1)[[1, 3]], *line["v", 1].reshape(-1)[[2]]}
    gone = np.isin(np.arange(len(channels.root)), list(units))
    record_removed(model, channels.bindings, gone[channels.root])
    assert origin_of(model, conv.name).kept == (0, 2)
    assert origin_of(model, transposed.name).kept == (0, 1, 3, 4)
    assert origin_of(model, product.name).kept is None
