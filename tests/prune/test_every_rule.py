"""The whole step on the small network of every channel rule; it verifies itself."""

from __future__ import annotations

import pytest

from onnxlite.analysis.shapes import generated_feed
from onnxlite.errors import OptionError
from onnxlite.model import load
from onnxlite.prune import prune_channels
from tests.odd_models import parse
from tests.topologies.rule_nets import NETS

#: Quantized models are pruned before quantization; their rules are tested in `tests/topologies`.
QUANTIZED = [name for name, net in NETS.items() if "uantizeLinear" in net.text]
FREE = [name for name, net in NETS.items() if net.free and name not in QUANTIZED]


@pytest.mark.parametrize("name", QUANTIZED)
def test_quantized_models_are_declined(name: str) -> None:
    report = prune_channels(parse(NETS[name].text), remove=0.5, round_to=1).report
    assert not report.changed
    assert "then quantize" in report.summary


@pytest.mark.parametrize("name", FREE)
def test_by_weights(name: str) -> None:
    report = prune_channels(parse(NETS[name].text), remove=0.5, round_to=1).report
    assert report.changes.units_removed > 0 or max(NETS[name].free) == 1


@pytest.mark.parametrize("name", FREE)
def test_by_samples(name: str) -> None:
    proto, reports = parse(NETS[name].text), []
    feeds = [generated_feed(load(proto), batch=4, seed=seed) for seed in range(3)]
    try:
        reports.append(
            prune_channels(proto, samples=feeds, params=0.6, round_to=1, repair=False).report
        )
    except OptionError as error:
        pytest.skip(str(error))
    assert reports[0].changed
