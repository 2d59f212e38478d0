"""Every channel rule alone: which units are free, and the oracle on random sets of them."""

from __future__ import annotations

import numpy as np
import pytest

from onnxlite.analysis.cost import cost
from onnxlite.analysis.shapes import generated_feed
from onnxlite.model import load
from onnxlite.runtime import run_all
from tests.odd_models import parse
from tests.topologies.oracle import check_pruned, mapped, random_units
from tests.topologies.rule_nets import NETS

#: The checker refuses version 18 of GroupNormalization, which ONNX has deprecated.
FREE = [name for name, net in NETS.items() if net.free and name != "group normalization 18"]


@pytest.mark.parametrize("name", NETS)
def test_free_units(name):
    net = NETS[name]
    _, channels = mapped(parse(net.text))
    free = sorted(len(group.units) for group in channels.groups if group.pin is None)
    reasons = [f"{g.pin.reason} {g.pin.where}" for g in channels.groups if g.pin is not None]
    assert free == net.free, reasons
    assert any(net.reason in reason for reason in reasons)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", FREE)
def test_pruned_equals_zeroed(name, seed):
    proto = parse(NETS[name].text)
    model, channels = mapped(proto)
    units = random_units(channels, seed)
    feed = generated_feed(model, batch=2, seed=seed)
    pruned = check_pruned(proto, units, [feed])
    if units:
        assert cost(pruned).parameters < cost(load(proto)).parameters


@pytest.mark.parametrize("name", FREE)
def test_all_but_one_of_each_group(name):
    proto = parse(NETS[name].text)
    model, channels = mapped(proto)
    units = [u for g in channels.groups if g.pin is None for u in g.units[1:].tolist()]
    feed = generated_feed(model)
    pruned = check_pruned(proto, units, [feed])
    before, after = run_all(load(proto), [feed])[0], run_all(pruned, [feed])[0]
    assert any(not np.allclose(before[key], after[key]) for key in before)
