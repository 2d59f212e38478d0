"""The oracle of channel pruning: physically pruned == the same units zeroed in place."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from onnxlite.analysis.branches import branches_of
from onnxlite.analysis.channels import ChannelMap, channel_map
from onnxlite.analysis.shapes import infer_shapes
from onnxlite.inputs import Feed
from onnxlite.model import ModelLike, load, to_proto
from onnxlite.normalize import normalize
from onnxlite.prune.removal import remove_units, zero_mask_units
from onnxlite.runtime import run_all


def mapped(source: ModelLike) -> tuple[ir.Model, ChannelMap]:
    """A copy of a model, and its units."""
    model = load(source)
    normalize(model)
    infer_shapes(model)
    return model, channel_map(model)


def random_units(channels: ChannelMap, seed: int) -> list[int]:
    """Of every free group some units, none to all but one."""
    rng = np.random.default_rng(seed)
    units: list[int] = []
    for group in channels.groups:
        if group.pin is None:
            count = int(rng.integers(0, len(group.units)))
            units += rng.choice(group.units, count, replace=False).tolist()
    return units


def random_branches(model: ir.Model, channels: ChannelMap, seed: int) -> list[int]:
    """All units of some of the groups that branches end with."""
    rng = np.random.default_rng(seed)
    ending = [group for group in branches_of(model, channels) if rng.random() < 0.5]
    return [unit for group in ending for unit in channels.groups[group].units.tolist()]


def check_pruned(source: ModelLike, units: list[int], feeds: list[Feed]) -> ir.Model:
    """Assert the oracle for `units`, on every feed; return the pruned model."""
    pruned, channels = mapped(source)
    remove_units(pruned, channels, units)
    zeroed, channels = mapped(source)
    zero_mask_units(zeroed, channels, units)
    proto = to_proto(pruned)
    onnx.checker.check_model(proto, full_check=True)
    onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    for got, expected in zip(run_all(pruned, feeds), run_all(zeroed, feeds), strict=True):
        for name, array in expected.items():
            assert got[name].shape == array.shape
            scale = max(float(np.abs(array).max()), 1e-3)
            np.testing.assert_allclose(got[name] / scale, array / scale, atol=2e-5, err_msg=name)
    return pruned
