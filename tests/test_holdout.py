"""The hold-out split and its rules."""

from __future__ import annotations

import numpy as np
import pytest

from onnxlite.holdout import EveryKth, LastFraction, Rule, SampleStream, split_feeds
from onnxlite.inputs import InputSpec
from onnxlite.samples import Samples


def stream(count: int, size: int = 1) -> Samples:
    feeds = [{"x": np.full((size, 1), index, np.float32)} for index in range(count)]
    return Samples(feeds, (InputSpec("x", "float32", (None, 1)),))


def numbers(feeds: object) -> list[int]:
    return [int(feed["x"][0, 0]) for feed in feeds]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("rule", "count", "held_out"),
    [
        (EveryKth(4), 9, [3, 7]),
        (EveryKth(4), 3, []),
        (EveryKth(4, minimum=1), 3, [2]),
        (EveryKth(4, offset=1), 9, [1, 5]),
        (EveryKth(4, offset=1), 1, []),
        (LastFraction(), 8, [6, 7]),
        (LastFraction(), 3, [2]),
        (LastFraction(), 1, []),
        (LastFraction(minimum=8), 20, list(range(12, 20))),
        (LastFraction(minimum=8), 10, list(range(5, 10))),
        (LastFraction(maximum=2), 100, [98, 99]),
    ],
)
def test_rules(rule: Rule, count: int, held_out: list[int]) -> None:
    assert np.flatnonzero(rule.mask(count)).tolist() == held_out


def test_no_feed_is_in_both_parts() -> None:
    split = split_feeds(stream(9), EveryKth(4, offset=1), at_most=1)
    assert numbers(split.held_out) == [1]
    assert numbers(split.fitted) == numbers(split.fitted) == [0, 2, 3, 4, 6, 7, 8]
    assert str(split.record) == "1 feed held out"
    assert split.record.rule == "every fourth feed"


def test_too_few_feeds_are_shared_and_the_record_says_so() -> None:
    split = split_feeds(stream(1), EveryKth(4, offset=1))
    assert numbers(split.fitted) == numbers(split.held_out) == [0]
    assert split.record.shared
    assert str(split.record) == "1 feed that the fit used as well"


def test_a_stream_is_cut_inside_of_feeds_where_their_size_is_free() -> None:
    whole = SampleStream(stream(3, size=4))
    assert whole.total == 12
    assert whole.nearest_cut(6) == 6
    parts = whole.between(0, 6), whole.between(6, 12)
    assert [[len(feed["x"]) for feed in part] for part in parts] == [[4, 2], [2, 4]]


def test_feeds_of_a_fixed_size_stay_whole() -> None:
    feeds = [{"x": np.zeros((4, 1), np.float32)}] * 3
    whole = SampleStream(Samples(feeds, (InputSpec("x", "float32", (4, 1)),)))
    assert whole.nearest_cut(6) == 8


def test_samples_are_picked_and_left_out_by_number() -> None:
    whole = SampleStream(stream(3, size=4))
    assert whole.spread(3) == [3, 7, 11]
    assert list(whole.feed_of(6)) == [4, 5, 6, 7]
    assert list(whole.unit_of(6)) == [6]
    rows = np.concatenate([feed["x"] for feed in stream(3, size=4)])
    picked = whole.single([6, 1])
    assert [feed["x"].shape[0] for feed in picked] == [1, 1]
    assert np.array_equal(np.concatenate([feed["x"] for feed in picked]), rows[[1, 6]])
    rest = whole.without([0, 6, 8, 9, 10, 11])
    for _ in range(2):
        parts = [feed["x"] for feed in rest]
        assert [len(part) for part in parts] == [3, 3]
        assert np.array_equal(np.concatenate(parts), rows[[1, 2, 3, 4, 5, 7]])


def test_fixed_batches_are_picked_and_left_out_whole() -> None:
    feeds = [{"x": np.full((4, 1), index, np.float32)} for index in range(3)]
    whole = SampleStream(Samples(feeds, (InputSpec("x", "float32", (4, 1)),)))
    assert list(whole.unit_of(6)) == [4, 5, 6, 7]
    assert whole.spread(1) == [8, 9, 10, 11]
    assert [feed["x"][0, 0] for feed in whole.single([5, 6])] == [1]
    assert [feed["x"][0, 0] for feed in whole.without([6])] == [0, 2]
