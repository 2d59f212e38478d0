"""Which candidates come next: formats first, then how much can be pruned in the best of them.

A strategy is a function of the trials so far and of nothing else, and a round's candidates
do not depend on how many of them run at once. So a search gives the same recipe in one
process and on a cluster, and one that was interrupted goes on where it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from onnxlite.prune.options import RoundTo
from onnxlite.recipe.document import Recipe
from onnxlite.search.budget import QUALITY_LIMITS, Budget, Check
from onnxlite.search.candidates import (
    BY,
    INT8,
    Candidate,
    Format,
    Priced,
    SweepAxis,
    compact,
    mixed,
    pruning_line,
    unpruned,
)
from onnxlite.search.records import Prefer, Trial, merit

#: The share of latency, or MACs, that a line begins with.
_FIRST_SHARE = 0.7
_LEAST_SHARE = 0.04
#: Training allows about so much of what is left without it.
_TRAINED = 0.65
#: Two shares are told apart if one is more than this times the other; before training, which
#: starts from about where it goes no further without, it needs not be known so well.
_RESOLUTION, _COARSE = 1.08, 1.3
#: The first share below 1 that goes on is looked for up to here: it may be all there is.
_LEAST_CUT = 1.03
_MOST_ROUNDS = 8
#: How far a share goes down while nothing is lost; less far where the edge is known about.
_STEP, _TRAINED_STEP = 0.6, 0.8
#: Of a weight in the input, and what a file holds besides weights.
_FLOAT_BITS, _OVERHEAD = 32, 1.1
#: How many layers stay float where INT8 alone loses too much.
_KEPT = (1, 2, 4, 8)

Tried = Sequence[tuple[Candidate, Trial]]


class SearchStrategy:
    """Gives the next batch of candidates for the trials so far.

    Args:
        forms: the number formats.
        budget: decides how far a line goes.
        prefer: what the best trial is.
        prunable: tells whether there are channels that may go, once the first batch is tried.
        fragile: tells the layers that cost most in INT8, worst first.
        training: tells for how many steps candidates are trained, once the first batch is tried;
            None where they are not.
        seed: of the pruning.
    """

    def __init__(
        self,
        forms: Sequence[Format],
        *,
        budget: Budget,
        prefer: Prefer,
        prunable: Callable[[], bool],
        fragile: Callable[[], Sequence[str]],
        training: Callable[[], int | None],
        seed: int,
    ) -> None:
        self._forms = {form.name: form for form in forms}
        self._budget = budget
        self._prefer: Prefer = prefer
        self._prunable = prunable
        self._seed = seed
        self._fragile, self._training = fragile, training
        self._lines: dict[str, SweepAxis] = {}

    def batches(self, tried: list[tuple[Candidate, Trial]]) -> Iterator[list[Candidate]]:
        """Batch after batch; `tried` is the caller's list and grows between them."""
        forms = list(self._forms.values())
        yield [unpruned(form) for form in forms if form.bits is None]
        for form in forms:
            if form.bits is not None and not self._outdone(form.bits, tried):
                yield [unpruned(form)]
        self._settle(tried)
        if batch := self._mixed(tried):
            yield batch
            self._settle(tried)
        names = self._promising(tried)
        if names and self._prunable():
            yield from self._pruned(tried, names)
        yield self._compact(tried)

    def between(self, failed: Trial, tried: Tried) -> list[Candidate]:
        """What to try when a trial did not hold on unseen samples: a little less of the same."""
        (candidate,) = [c for c, t in tried if t.number == failed.number]
        if candidate.share == 1:
            return []
        above = min(
            (c.share for c, _ in self._of(candidate.line, tried, candidate.share)), default=1
        )
        if above / candidate.share < _RESOLUTION:
            return []
        share = round(math.sqrt(candidate.share * above), 4)
        return [self._lines[candidate.line].make(share)]

    def _of(self, line: str, tried: Tried, beyond: float) -> Tried:
        """The trials of a line with more than this share that keep the quality."""
        return [
            (c, t)
            for c, t in tried
            if c.line == line and c.share > beyond and self._keeps_quality(t)
        ]

    def _outdone(self, bits: int, tried: Tried) -> bool:
        """Whether a model that keeps the quality is as small as weights of so many bits are."""
        if not self._budget.limits_quality:
            return False
        sizes = [t.size for _, t in tried if t.size is not None and self._keeps_quality(t)]
        return min(sizes, default=1.0) <= _OVERHEAD * bits / _FLOAT_BITS

    def _mixed(self, tried: Tried) -> list[Candidate]:
        """INT8 with its most fragile layers in float, where it loses too much by itself."""
        whole = [t for c, t in tried if c.line == INT8 and t.status == "measured"]
        if not whole or self._keeps_quality(whole[0]) or not self._budget.limits_quality:
            return []
        layers = self._fragile()
        batch = []
        for count in (n for n in _KEPT if n <= len(layers) // 2):
            form = mixed(self._forms[INT8], layers[:count])
            self._forms[form.name] = form
            batch.append(unpruned(form))
        return batch

    def _pruned(
        self, tried: list[tuple[Candidate, Trial]], names: Sequence[str]
    ) -> Iterator[list[Candidate]]:
        """The best format with ever fewer channels; then others from where that one ended."""
        first, *others = names
        steps = self._training()
        line = self._line(first)
        yield [line.make(_FIRST_SHARE)]
        yield from self._along(line, tried, _RESOLUTION if steps is None else _COARSE)
        reached = self._reached(tried)
        if reached == 1:
            return
        # From the edge itself, where chance may be against it: training moves it anyway.
        edge = min((c.share for c, t in tried if c.line == line.name and _within(t)), default=1)
        start = min(edge, reached) * _TRAINED
        if steps is not None:
            trained = self._line(first, training=steps)
            yield [trained.make(round(start, 4))]
            yield from self._along(trained, tried, step=_TRAINED_STEP, untrained=line)
            if self._reached(tried) < reached:
                return
            yield from self._along(line, tried)
            reached = self._reached(tried)
        for line in (self._line(first, 8), self._line(first, 4), *map(self._line, others[:1])):
            yield [line.make(reached)]
            # One that does not come as far is no better than the first.
            if any(c.line == line.name and self._goes_on(t) for c, t in tried):
                yield from self._along(line, tried)

    def _reached(self, tried: Tried) -> float:
        """The smallest share so far from which the search goes on."""
        return min((c.share for c, t in tried if self._goes_on(t)), default=1.0)

    def _compact(self, tried: Tried) -> list[Candidate]:
        """The best of what was found, in the smaller of two ways to write integers down."""
        batch = []
        for candidate, _ in self._best(tried)[:2]:
            form = compact(self._forms[candidate.line.partition(BY)[0]])
            if form is not None:
                label = f"{candidate.label} as operators"
                steps = (*candidate.steps[: len(candidate.steps) - len(form.steps)], *form.steps)
                batch.append(replace(candidate, label=label, steps=steps, line=label))
        return batch

    def _best(self, tried: Tried) -> list[tuple[Candidate, Trial]]:
        accepted = [(c, t) for c, t in tried if t.accepted]
        return sorted(accepted, key=lambda pair: (*merit(pair[1], self._prefer), pair[1].number))

    def _settle(self, tried: Tried) -> None:
        """Take over what formats decided by measuring: not every pruned model measures again."""
        for candidate, trial in tried:
            if trial.status == "measured" and candidate.line in self._forms:
                steps = Recipe.from_toml(trial.recipe).steps[1:]
                self._forms[candidate.line] = Format(candidate.line, steps)

    def _line(
        self, name: str, round_to: RoundTo = "auto", *, training: int | None = None
    ) -> SweepAxis:
        form = self._forms[name]
        # What makes a model small makes it fast as well, but not the other way round.
        by: Priced = "macs" if self._prefer == "size" else "latency"
        line = pruning_line(form, round_to=round_to, seed=self._seed, by=by, training=training)
        self._lines[line.name] = line
        return line

    def _promising(self, tried: Tried) -> list[str]:
        """Formats that keep the quality asked for, best first."""
        good = [(c, t) for c, t in tried if t.status == "measured" and self._keeps_quality(t)]
        ranked = sorted(good, key=lambda pair: merit(pair[1], self._gain))
        return [candidate.line for candidate, _ in ranked]

    @property
    def _gain(self) -> Prefer:
        return "both" if self._prefer == "quality" else self._prefer

    def _keeps_quality(self, trial: Trial) -> bool:
        return trial.status == "measured" and all(
            c.verdict == "met" if self._budget.certain else _likely(c)
            for c in trial.checks
            if c.limit in QUALITY_LIMITS
        )

    def _goes_on(self, trial: Trial) -> bool:
        """Whether more may, or must, be taken away than in this trial."""
        if self._budget.limits_quality:
            return self._keeps_quality(trial)
        return trial.status == "measured" and not trial.in_budget

    def _along(
        self,
        line: SweepAxis,
        tried: Tried,
        resolution: float = _RESOLUTION,
        step: float = _STEP,
        untrained: SweepAxis | None = None,
    ) -> Iterator[list[Candidate]]:
        """Search between what goes on and what does not, until the two are close.

        What goes on `untrained` does so with training.
        """
        for _ in range(_MOST_ROUNDS):
            points = [(c.share, t) for c, t in tried if c.line == line.name]
            if untrained is not None:
                points += [
                    (c.share, t) for c, t in tried if c.line == untrained.name and self._goes_on(t)
                ]
            share = next_share(points, self._goes_on, resolution, step)
            if share is None:
                return
            yield [line.make(share)]


def next_share(
    points: Sequence[tuple[float, Trial]],
    goes_on: Callable[[Trial], bool],
    resolution: float = _RESOLUTION,
    step: float = _STEP,
) -> float | None:
    """Where to look next for the share at which trials stop to go on; None if it is found.

    Damage grows about as a power of what is removed. So between two shares the next one is
    where a straight line through both, in logarithms, meets the budget; without figures it
    is their geometric mean.
    """
    good = min((share for share, trial in points if goes_on(trial)), default=1.0)
    if _exhausted(points, goes_on):
        return None
    bad = max((s for s, trial in points if not goes_on(trial) and s < good), default=0.0)
    if not bad:
        lower = round(good * step, 4)
        return lower if lower >= _LEAST_SHARE else None
    if good / bad < (resolution if good < 1 else _LEAST_CUT):
        return None
    share = math.sqrt(good * bad)
    over = {s: _over(t) for s, t in points if s in (good, bad)}
    one, two = over.get(good), over.get(bad)
    if one and two and two > 1 > one:
        at = math.log(1 / one) / math.log(two / one)
        share = good * math.pow(bad / good, at)
    # Not so near to an end that the trial could tell nothing.
    narrow = math.pow(good / bad, 0.2)
    return round(min(max(share, bad * narrow), good / narrow), 4)


def _exhausted(points: Sequence[tuple[float, Trial]], goes_on: Callable[[Trial], bool]) -> bool:
    """Whether the two smallest shares gave models of one size: no less is to be had."""
    going = [pair for pair in points if pair[0] < 1 and goes_on(pair[1])]
    last = sorted(going, key=lambda pair: pair[0])[:2]
    sizes = {trial.size_bytes for _, trial in last if trial.size_bytes is not None}
    return len(last) == 2 and len(sizes) == 1


def _within(trial: Trial) -> bool:
    """Whether the figures of a trial keep to the limits on quality."""
    checks = [check for check in trial.checks if check.limit in QUALITY_LIMITS]
    return trial.status == "measured" and all(check.within for check in checks)


def _likely(check: Check) -> bool:
    """Whether a limit will probably be kept on other samples as well.

    A search along the edge of a budget ends where chance was kind; half of what it finds there
    would fail the final check, so it goes by the middle between figure and end of interval.
    """
    value, low, high = check.figure.value, check.figure.low, check.figure.high
    if low is None or high is None or not check.within:
        return check.within
    # With few samples every interval is wide: half of the limit is far enough from it.
    if check.limit in ("max_drop", "max_error"):
        return (value + high) / 2 <= check.bound or value <= check.bound / 2
    half = check.limit in ("min_agreement", "min_cosine") and 1 - value <= (1 - check.bound) / 2
    return (value + low) / 2 >= check.bound or half


def _over(trial: Trial) -> float | None:
    """By what factor a trial is beyond its tightest limit on quality; None if unknown."""
    factors = []
    for check in trial.checks:
        if check.limit not in QUALITY_LIMITS:
            continue
        value, bound = check.figure.value, check.bound
        if check.limit in ("min_agreement", "min_cosine"):
            value, bound = 1 - value, 1 - bound
        if check.limit == "min_sqnr_db":
            value, bound = 10 ** (-value / 20), 10 ** (-bound / 20)
        if bound > 0:
            factors.append(max(value, bound * 0.02) / bound)
    return max(factors, default=None)
