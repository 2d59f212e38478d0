"""Which learning rate short trials choose."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

pytest.importorskip("torch")

from onnxlite.tune.learning_rate import RATES, best_rate

HIGH, NEXT, MIDDLE, LOW, LOWER, LOWEST = RATES


def choose(losses: Mapping[float, float], before: float = 1.0) -> tuple[float, list[float]]:
    asked: list[float] = []

    def reached(rate: float) -> float:
        if rate not in asked:
            asked.append(rate)
        return losses[rate]

    return best_rate(reached, before), asked


@pytest.mark.parametrize(
    ("losses", "chosen"),
    [
        # The next above the best, as a whole course bears a higher rate than a short trial.
        ((3.0, 1.0, 0.9, 0.97, 0.99, 1.0), NEXT),
        # The one above gains more than half as much as well.
        ((3.0, 0.94, 0.9, 0.97, 0.99, 1.0), HIGH),
        ((0.5, 0.6, 0.9, 0.97, 0.99, 1.0), HIGH),
        # A student that is almost as good as its teacher.
        ((9.0, 5.0, 3.0, 2.0, 1.2, 0.99), LOWER),
        # Nothing gains.
        ((9.0, 5.0, 3.0, 2.0, 1.2, 1.01), LOWEST),
    ],
)
def test_the_rate_that_short_trials_speak_for(losses, chosen):
    assert choose(dict(zip(RATES, losses, strict=True)))[0] == chosen


def test_few_rates_are_tried():
    valley = dict(zip(RATES, (3.0, 1.0, 0.9, 0.97, 0.99, 1.0), strict=True))
    assert choose(valley)[1] == [NEXT, MIDDLE, LOW]
