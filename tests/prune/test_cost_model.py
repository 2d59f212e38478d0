"""What a ledger says before anything is cut is what the cut model costs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxlite.analysis.branches import branches_of
from onnxlite.analysis.channels import ChannelMap
from onnxlite.analysis.cost import cost, is_parameter
from onnxlite.analysis.pruned_shapes import PrunedShapes
from onnxlite.graph import attribute
from onnxlite.prune.cost_model import CostModel, macs_items, static_items
from onnxlite.prune.removal import remove_units
from tests.odd_models import parse
from tests.topologies.oracle import mapped
from tests.topologies.rule_nets import NETS

FASHION = Path(__file__).parents[2] / "models" / "fashion"
FREE = [name for name, net in NETS.items() if net.free]


def random_cut(channels: ChannelMap, seed: int) -> tuple[list[np.ndarray], list[int]]:
    """Of every free group an order, and how many of its units go."""
    rng = np.random.default_rng(seed)
    free = [group.units if group.pin is None else group.units[:0] for group in channels.groups]
    return [rng.permutation(units) for units in free], [
        int(rng.integers(0, len(units))) if len(units) else 0 for units in free
    ]


def check(source: object, seed: int) -> None:
    model, channels = mapped(source)  # type: ignore[arg-type]
    orders, gone = random_cut(channels, seed)
    macs = CostModel(channels, orders, static_items(model, channels, "macs", None))
    params = CostModel(channels, orders, static_items(model, channels, "params", None))
    for ledger in (macs, params):
        whole = ledger.total
        savings = 0.0
        for group, count in enumerate(gone):
            savings += ledger.saving(group, count)
            ledger.remove(group, count)
        assert ledger.total == pytest.approx(whole - savings)
    units = [order[:count] for order, count in zip(orders, gone, strict=True)]
    remove_units(model, channels, np.concatenate(units).tolist())
    after = cost(model)
    assert macs.total == after.macs
    # A vector that several layers share is priced once; cut differently, it is several.
    owned = {name.split("_own")[0] for name in model.graph.initializers if "_own" in name}
    shared = [n for n in model.graph.initializers if n.split("_own")[0] in owned]
    tensors = [model.graph.initializers[name].const_value for name in shared]
    kept = sum(tensor.size for tensor in tensors if is_parameter(tensor))
    assert params.total <= after.parameters <= params.total + kept


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", FREE)
def test_ledger_of_every_rule(name: str, seed: int) -> None:
    check(parse(NETS[name].text), seed)


@pytest.mark.parametrize("name", ["residual", "mobilenet", "vit"])
def test_ledger_of_a_real_net(name: str) -> None:
    check(FASHION / f"{name}.onnx", 3)


@pytest.mark.parametrize("name", ["residual", "mobilenet", "vit"])
@pytest.mark.parametrize("seed", range(2))
def test_a_branch_that_ends_costs_nothing(name: str, seed: int) -> None:
    model, channels = mapped(FASHION / f"{name}.onnx")
    orders, gone = random_cut(channels, seed)
    branches = branches_of(model, channels)
    for group in list(branches)[seed::2]:
        gone[group] = len(orders[group])
    for what in ("macs", "params"):
        items = static_items(model, channels, what, None)
        ledger = CostModel(channels, orders, items, branches.values())
        savings, whole = 0.0, ledger.total
        for group, count in enumerate(gone):
            savings += ledger.saving(group, count)
            ledger.remove(group, count)
        assert ledger.total == pytest.approx(whole - savings)
        cut, cut_channels = mapped(FASHION / f"{name}.onnx")
        units = [order[:count] for order, count in zip(orders, gone, strict=True)]
        remove_units(cut, cut_channels, np.concatenate(units).tolist())
        after = cost(cut)
        assert ledger.total == (after.macs if what == "macs" else after.parameters)


def test_counts_of_attributes() -> None:
    model, channels = mapped(parse(NETS["depthwise"].text))
    orders, _ = random_cut(channels, 0)
    shapes = PrunedShapes(channels, orders)
    node = next(n for n in model.graph if attribute(n, "group", 1) > 1)
    assert shapes.count(node, "group") == 8
    assert shapes.count(node, "pads") is None
    shapes.removed[:] = [3 if len(order) else 0 for order in orders]
    assert shapes.count(node, "group") == 5


def test_blocks_are_paid_whole() -> None:
    model, channels = mapped(parse(NETS["conv"].text))
    orders, _ = random_cut(channels, 0)
    (free,) = (i for i, order in enumerate(orders) if len(order))
    ledger = CostModel(channels, orders, macs_items(model, block=4))
    assert ledger.saving(free, 3) == 0
    assert ledger.saving(free, 4) == ledger.total / 2
