from __future__ import annotations

import numpy as np

from onnxlite.analysis.channels import channel_map
from onnxlite.analysis.units import UnionFind, in_groups
from onnxlite.model import load
from onnxlite.normalize import normalize
from tests.odd_models import parse
from tests.topologies.rule_nets import NETS


def mapped(name: str):
    model = load(parse(NETS[name].text))
    normalize(model)
    return channel_map(model)


class TestUnionFind:
    def test_the_smallest_is_the_root(self):
        units = UnionFind()
        a, b = units.mint(3), units.mint(3)
        assert (a.tolist(), b.tolist()) == ([1, 2, 3], [4, 5, 6])
        units.join(b, a[::-1])
        assert units.roots(b).tolist() == [3, 2, 1]
        units.join(a[:1], a[1:2])
        assert units.all_roots().tolist() == [0, 1, 1, 3, 3, 1, 1]

    def test_many_joins_in_a_chain(self):
        units = UnionFind()
        ids = units.mint(1000)
        units.join(ids[:-1], ids[1:])
        assert set(units.roots(ids).tolist()) == {1}


def test_in_groups_gives_views():
    array = np.arange(12).reshape(4, 3)
    for part, own in in_groups(array, np.array([[True, False, False], [False, False, True]])):
        part[:, own] = -1
    assert array.tolist() == [[-1, 1, 2], [-1, 4, 5], [6, 7, -1], [9, 10, -1]]


def test_groups_of_a_split_layer_have_names_of_their_own():
    channels = mapped("split")
    free = [group for group in channels.groups if group.pin is None]
    assert [group.name for group in free] == ["Conv", "Conv#2"]
    assert [len(group.units) for group in free] == [3, 5]
    assert all(len(group.layers) == 2 for group in free)


def test_width_is_the_size_of_a_head():
    (group,) = (g for g in mapped("attention").groups if g.pin is None)
    assert (len(group.units), group.width) == (4, 3)
    assert {binding.value.name for binding in group.bindings} == {"wq", "bq", "wk", "wv", "wo"}


def test_width_of_flattened_channels_is_one():
    (group,) = (g for g in mapped("flatten").groups if g.pin is None)
    assert (len(group.units), group.width) == (8, 1)


def test_a_pin_names_its_node():
    (group, *_) = (g for g in mapped("lrn").groups if g.pin is not None)
    assert "response" in group.pin.reason
    assert "LRN node 'LRN'" in group.pin.where
