"""Work on chains of layers grows with their number: lines of code that run are counted."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

import onnxlite
from models.chains import plain_chain, residual_chain
from onnxlite.analysis.branches import branches_of
from onnxlite.analysis.channels import channel_map
from onnxlite.analysis.units import UnionFind
from onnxlite.prune.allocation import allocate
from onnxlite.prune.cost_model import CostModel, static_items
from onnxlite.prune.eligibility import allowed_counts
from onnxlite.prune.importance import curve_of
from onnxlite.prune.removal import remove_units
from tests.topologies.oracle import mapped

FOLDERS = tuple(str(Path(onnxlite.__file__).parent / name) for name in ("analysis", "prune", "ops"))
#: Four times as many layers may take so many times the lines.
LIMIT = 5.0


def lines_run(function: Callable[[], object]) -> int:
    """How many lines of analysis, pruning and operator rules run, loops included."""
    count = 0

    def local(_frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return local

    def called(frame: FrameType, _event: str, _argument: Any) -> Any:
        return local if frame.f_code.co_filename.startswith(FOLDERS) else None

    before = sys.gettrace()
    sys.settrace(called)
    try:
        function()
    finally:
        sys.settrace(before)
    return count


def growth(work: Callable[[int], Callable[[], object]], layers: int = 40) -> float:
    """By how much the work grows from some layers to four times as many."""
    return lines_run(work(4 * layers)) / lines_run(work(layers))


@pytest.mark.parametrize("chain", [plain_chain, residual_chain])
class TestChains:
    def test_units(self, chain):
        def work(layers: int) -> Callable[[], object]:
            model, _ = mapped(chain(layers))
            return lambda: channel_map(model)

        assert growth(work) < LIMIT

    def test_branches(self, chain):
        def work(layers: int) -> Callable[[], object]:
            model, channels = mapped(chain(layers))
            return lambda: branches_of(model, channels)

        assert growth(work) < LIMIT

    def test_removal(self, chain):
        def work(layers: int) -> Callable[[], object]:
            model, channels = mapped(chain(layers))
            units = [g.units[0] for g in channels.groups if g.pin is None]
            return lambda: remove_units(model, channels, units)

        assert growth(work) < LIMIT

    def test_allocation(self, chain):
        def work(layers: int) -> Callable[[], object]:
            model, channels = mapped(chain(layers))
            rng = np.random.default_rng(0)
            curves = [curve_of(g.units, rng.random(len(g.units))) for g in channels.groups]
            counts = [
                allowed_counts(g, block=2, minimum=1) if g.pin is None else (len(g.units),)
                for g in channels.groups
            ]
            items = static_items(model, channels, "macs", None)
            cost = CostModel(channels, [curve.order for curve in curves], items)
            return lambda: allocate(curves, counts, cost, 0.5 * cost.total)

        assert growth(work) < LIMIT


def test_a_long_path_to_a_root_is_walked_once():
    units = UnionFind()
    ids = units.mint(5_000)
    for smaller, larger in zip(ids[-2::-1], ids[:0:-1], strict=True):
        units.join(larger[None], smaller[None])

    def ask() -> None:
        assert (units.roots(ids) == 1).all()

    assert lines_run(ask) < 100
    assert lines_run(ask) < 10
