"""Exact widths: a goal of their own, and the form in which a recipe holds what times decided."""

from __future__ import annotations

import pytest

from onnxlite.errors import OptionError
from onnxlite.model import load, to_bytes
from onnxlite.prune import explain_channels, prune_channels
from onnxlite.recipe import PruneChannels, Recipe
from tests.odd_models import parse
from tests.prune.test_block_removal import X, net
from tests.prune.test_channel_step import NET, names, shapes


def test_groups_keep_as_many_as_is_said():
    proto = parse(NET)
    first, second = (name for name in names(proto) if name.startswith("Conv"))
    found = shapes(prune_channels(proto, widths={first: 7, second: 20}).model)
    assert (found["w1"], found["w2"], found["w3"]) == ((7, 3, 1, 1), (20, 7, 1, 1), (20, 5))


def test_what_a_latency_chose_is_done_again_without_measuring():
    reports = []
    timed, report = prune_channels(net(), samples=X, latency=0.6, round_to=4)
    reports.append(report)
    (report,) = reports
    assert report.changed
    widths = report.resolved_options.widths
    step = PruneChannels(latency=0.6, round_to=4)
    resolved = step.with_resolved(report.resolved_options)
    assert resolved == PruneChannels(widths=widths, round_to=4)
    assert Recipe.from_toml(Recipe((step, resolved)).to_toml()).steps == (step, resolved)
    again = prune_channels(net(), samples=X, round_to=4, widths=widths).model
    assert to_bytes(load(again)) == to_bytes(load(timed))


def test_what_is_no_time_is_not_settled():
    report = prune_channels(net(), samples=X, macs=0.6).report
    assert report.resolved_options is None


def test_a_branch_may_be_ended_and_other_groups_may_not():
    removable = [row.name for row in explain_channels(net()).groups if row.branch]
    others = [
        row.name for row in explain_channels(net()).groups if not row.branch and not row.pinned
    ]
    result = load(prune_channels(net(), samples=X, widths={removable[-1]: 0}).model)
    assert "f" not in {node.outputs[0].name for node in result.graph}
    with pytest.raises(OptionError, match="must keep between 1 and"):
        prune_channels(net(), samples=X, widths={others[0]: 0})


@pytest.mark.parametrize(
    ("widths", "options", "message"),
    [
        ({"nobody": 3}, {}, "no group of units is named 'nobody'"),
        ({"Conv": 13}, {}, "must keep between 1 and 12 units, not 13"),
        ({"Conv": -1}, {}, "a whole number >= 0"),
        ({"Conv": 3}, {"exclude": ["w1"]}, "is excluded and cannot keep 3"),
        ({"Conv": 3}, {"remove": 0.5}, "exactly one of"),
    ],
)
def test_widths_that_cannot_be(widths, options, message):
    proto = parse(NET)
    first = next(name for name in names(proto) if name.startswith("Conv"))
    widths = {first if name == "Conv" else name: count for name, count in widths.items()}
    with pytest.raises(OptionError, match=message):
        prune_channels(proto, widths=widths, **options)
