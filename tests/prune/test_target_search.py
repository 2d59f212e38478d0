"""A selection made by measuring latency is cached, because times are noisy."""

from __future__ import annotations

import os

from onnxlite.model import load, to_bytes
from onnxlite.prune import prune_channels, target_search
from tests.prune.test_block_removal import X, net


def test_a_search_is_measured_once(monkeypatch, tmp_path):
    monkeypatch.setenv("ONNXLITE_CACHE", str(tmp_path))
    measured = []

    def ratio(*args, **options):
        measured.append(len(measured))
        # Times differ in every run.
        return 0.3 + 0.1 * len(measured)

    monkeypatch.setattr(target_search, "latency_ratio", ratio)

    def pruned(latency, samples=X):
        return to_bytes(
            load(prune_channels(net(), samples=samples, latency=latency, round_to=4).model)
        )

    first = pruned(0.6)
    count = len(measured)
    assert count
    assert pruned(0.6) == first
    assert len(measured) == count
    pruned(0.5)
    assert len(measured) > count
    count = len(measured)
    pruned(0.6, X[:128])  # other samples, other curves
    assert len(measured) > count


def test_a_damaged_record_is_measured_again(monkeypatch, tmp_path):
    monkeypatch.setenv("ONNXLITE_CACHE", str(tmp_path))
    prune_channels(net(), samples=X, latency=0.6, round_to=4)
    (path,) = tmp_path.glob("results/channels-*.record")
    whole = path.read_bytes()
    for damaged in (b"", whole[:-1], b"{}"):
        path.write_bytes(damaged)
        prune_channels(net(), samples=X, latency=0.6, round_to=4)
        assert len(path.read_bytes()) >= len(whole) - 16


def test_a_record_of_a_busy_machine_is_measured_again_when_idle(monkeypatch, tmp_path):
    monkeypatch.setenv("ONNXLITE_CACHE", str(tmp_path))
    busy, idle = 100.0 * (os.cpu_count() or 1), 0.0
    loads, measured = [busy], []
    monkeypatch.setattr("os.getloadavg", lambda: (loads[0], 0.0, 0.0))

    def ratio(*args, **options):
        measured.append(len(measured))
        return 0.3 + 0.1 * len(measured)

    monkeypatch.setattr(target_search, "latency_ratio", ratio)

    def measures() -> bool:
        before = len(measured)
        prune_channels(net(), samples=X, latency=0.6, round_to=4)
        return len(measured) > before

    assert [measures(), measures()] == [True, False]
    loads[0] = idle
    assert [measures(), measures()] == [True, False]
