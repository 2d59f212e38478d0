"""Race of the forms of a model: each is timed as long as it may be the fastest."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxlite.inputs import Feed
from onnxlite.records import Progress
from onnxlite.runtime import Session
from onnxlite.timing import half_interval, time_ratios

#: After one round only forms this close to the fastest stay in the race, and after all rounds on
#: the first feed those this close are timed on the others.
_FAR, _CLOSE = 0.10, 0.03
#: Times over float of one round that leave no doubt that a form is faster.
_MUCH_FASTER = 0.8
#: Relative error at which the rounds on a feed end in any case.
_PRECISION = 0.01
#: Least gain over float that counts, and times so close that they are equal, in proportion.
MIN_GAIN, EQUAL = 0.03, 0.02


def race(
    sessions: Sequence[Session],
    feeds: Mapping[int, Feed],
    pays: Callable[[Sequence[float]], bool],
    *,
    budget_s: float,
    progress: Progress,
) -> dict[int, list[float]]:
    """Time forms of a model against the first one, in turn.

    Args:
        sessions: the float model's, then those of the other forms.
        feeds: by their number of samples; the first one is timed first.
        pays: says of a form's ratios on all feeds whether it may win; if none that stayed in the
            race does, the others are timed on all feeds as well.
        budget_s: seconds for each feed.
        progress: called as forms are timed.

    Returns:
        For every feed the times of all other forms over the first one's; infinite where a form had
        dropped out before.
    """
    clock = _Clock(sessions, budget_s, progress)
    everyone = list(range(1, len(sessions)))
    rows = {number: [math.inf] * len(everyone) for number in feeds}
    racing, first = everyone, next(iter(feeds.values()))
    for number, feed in feeds.items():
        if racing is everyone and len(racing) > 1:
            racing = _within(clock.ratios(racing, feed, rounds=1), _FAR)
        # One round tells whether a form that is much faster on the first feed is so on this one.
        brief = feed is not first and len(racing) == 1
        ratios = clock.ratios(racing, feed, rounds=1 if brief else None)
        if brief and max(ratios.values()) > _MUCH_FASTER:
            ratios = clock.ratios(racing, feed)
        for index, ratio in ratios.items():
            rows[number][index - 1] = ratio
        racing = _within(ratios, _CLOSE)
    out = [index for index in everyone if index not in racing]
    if out and not any(pays([row[index - 1] for row in rows.values()]) for index in racing):
        for number, feed in feeds.items():
            for index, ratio in clock.ratios(out, feed).items():
                rows[number][index - 1] = ratio
    return rows


@dataclass(frozen=True)
class _Clock:
    """Times some of the forms of a model against its float form."""

    sessions: Sequence[Session]
    budget_s: float
    progress: Progress

    def ratios(
        self, forms: Sequence[int], feed: Feed, rounds: int | None = None
    ) -> dict[int, float]:
        """Times over float by form; without a number of rounds as many as it takes."""
        ratios = time_ratios(
            [self.sessions[0], *(self.sessions[form] for form in forms)],
            feed,
            rounds=rounds,
            budget_s=self.budget_s,
            enough=_settled,
            progress=self.progress,
        )
        return dict(zip(forms, ratios, strict=True))


def _settled(times: NDArray[np.float64]) -> bool:
    """Tell whether rounds float64[rounds, forms] show what is faster, or show it precisely.

    Each form must be clear of a tie with float, and of one with the fastest form or clearly equal
    to it.
    """
    logs = np.log(times[:, 1:] / times[:, :1])
    mean, error = logs.mean(axis=0), half_interval(logs)
    if (error < _PRECISION).all():
        return True
    to_fastest = logs - logs[:, [int(mean.argmin())]]
    gap, doubt = np.abs(to_fastest.mean(axis=0) - EQUAL), half_interval(to_fastest)
    return bool((np.abs(mean) - MIN_GAIN > error).all() and (gap >= doubt).all())


def _within(ratios: Mapping[int, float], margin: float) -> list[int]:
    """Return the forms that are close to the fastest."""
    fastest = min(ratios.values())
    return [form for form, ratio in ratios.items() if ratio <= fastest * (1 + margin)]
