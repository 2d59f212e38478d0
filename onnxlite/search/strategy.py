"""Search strategy: which candidates come next, as a pure function of the trials so far.

The plan, in order:

1. number formats alone; formats of weights alone only while no smaller model keeps the quality, and
   last of all where latency is wanted and one of the others gains some;
2. INT8 with its most sensitive layers in float, where INT8 loses too much;
3. fewer channels in the best format, along an axis down to the edge of the budget, then with
   training, or along neighbouring axes (coarser multiples of channels, the second best format);
4. the best results written as integer operators.

`propose` replays the plan on the trials that there are, and returns what the plan wants next. So a
search gives the same recipe in one process and on a cluster, however many candidates run at once,
and an interrupted one continues where it stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import msgspec

from onnxlite.recipe import Recipe
from onnxlite.search.budget import Budget
from onnxlite.search.candidates import (
    WEIGHT_BITS,
    Candidate,
    CandidateId,
    NumberFormat,
    SearchSpace,
    SweepAxis,
)
from onnxlite.search.records import Prefer, Trial, ranked, sorted_by_merit

INT8 = NumberFormat(name="int8")

#: Fraction of the latency (or MACs) that a sweep begins with, and the smallest one.
FIRST_FRACTION, MIN_FRACTION = 0.7, 0.04
#: Training allows about this fraction of what is kept without it.
TRAINED_FRACTION = 0.65
#: A sweep ends where an accepted fraction is less than this times a refused one. The edge without
#: training needs not be known so well if training starts from it.
RESOLUTION, COARSE_RESOLUTION = 1.08, 1.3
#: The same between 1 and the largest refused fraction: a little may be all that can go.
MIN_CUT = 1.03
MAX_SWEEP_TRIALS = 8
#: Factor to the next fraction while nothing is refused; nearer 1 where the edge is known about.
STEP_FACTOR, TRAINED_STEP_FACTOR = 0.6, 0.8
#: Bits of a weight in the input, and size of a file relative to that of its weights.
FLOAT_BITS, FILE_OVERHEAD = 32, 1.1
#: Numbers of layers that stay float where INT8 alone loses too much.
FLOAT_LAYER_COUNTS = (1, 2, 4, 8)

#: What the strategy has to know about the model: the field of `History` that holds the answer.
Question = Literal["prunable", "sensitive_layers", "training_steps"]
Batch: TypeAlias = tuple[Candidate, ...]
Trials: TypeAlias = tuple[Trial, ...]
Keys: TypeAlias = tuple[CandidateId, ...]
#: Part of the plan: it yields what is wanted next and is sent all trials so far.
Plan: TypeAlias = Generator[Keys | Question, Trials, Trials]


@dataclass(frozen=True, kw_only=True)
class History:
    """Everything that a search has found out.

    Attributes:
        trials: in the order in which they ended.
        prunable: whether any channel can be removed.
        sensitive_layers: layers by the noise that INT8 causes in them, the largest first.
        training_steps: steps for which candidates are trained; 0 where they are not.

    Answers are None until the strategy has asked the question.
    """

    trials: Trials = ()
    prunable: bool | None = None
    sensitive_layers: tuple[str, ...] | None = None
    training_steps: int | None = None

    def answered(self, question: Question, answer: Any) -> History:
        """The history with the answer to a question."""
        return replace(self, **{question: answer})

    def with_trial(self, trial: Trial) -> History:
        """The history with one more trial."""
        return replace(self, trials=(*self.trials, trial))


@dataclass(frozen=True, kw_only=True)
class SearchProblem:
    """Search problem: its space and its budget.

    Attributes:
        space: everything that may be tried.
        budget: limits of the result; they decide how far a sweep goes.
        prefer: what is minimized within the budget.
    """

    space: SearchSpace
    budget: Budget
    prefer: Prefer

    def keeps_quality(self, trial: Trial) -> bool:
        """Tell whether a trial will keep to the limits on quality on other samples, too."""
        return trial.status == "measured" and all(
            check.verdict == "met" if self.budget.certain else check.is_likely
            for check in trial.quality_checks
        )

    def can_go_further(self, trial: Trial) -> bool:
        """Tell whether more channels can, or must, be removed than in this trial."""
        if self.budget.limits_quality:
            return self.keeps_quality(trial)
        return trial.status == "measured" and not trial.in_budget


def propose(problem: SearchProblem, history: History) -> Batch | Question | None:
    """Choose what a search needs next: candidates, the answer to a question, or nothing.

    Returns:
        Candidates that were not tried yet; a field of `History` that has no answer yet; or None
        at the end of the search.
    """
    known = {trial.candidate: trial for trial in history.trials}
    plan = _plan(problem, history)
    seen: dict[CandidateId, Trial] = {}
    try:
        wanted = next(plan)
        while True:
            if isinstance(wanted, str):
                return wanted
            if fresh := tuple(key for key in wanted if key not in known):
                return _candidates(problem.space, fresh, seen.values())
            seen.update({key: known[key] for key in wanted})
            wanted = plan.send(tuple(seen.values()))
    except StopIteration:
        return None


def step_back(problem: SearchProblem, history: History, failed: Trial) -> Batch:
    """Propose a gentler candidate in place of one that failed on unseen samples."""
    key = failed.candidate
    if key.fraction == 1:
        return ()
    # The form in which integers are written does not change the quality.
    family = _in_qdq_form(key.axis)
    larger = (
        trial.candidate.fraction
        for trial in history.trials
        if _in_qdq_form(trial.candidate.axis) == family and problem.keeps_quality(trial)
    )
    above = min((fraction for fraction in larger if fraction > key.fraction), default=1.0)
    if above / key.fraction < RESOLUTION:
        return ()
    fraction = round(math.sqrt(key.fraction * above), 4)
    between = CandidateId(key.axis, fraction)
    if any(trial.candidate == between for trial in history.trials):
        return ()
    return _candidates(problem.space, (between,), history.trials)


def _plan(problem: SearchProblem, history: History) -> Plan:
    """The whole search."""
    seen = yield _alone(*problem.space.formats())
    # Weights alone make nothing faster: where latency is wanted and can be had they come last.
    last = problem.prefer == "latency" and any(trial.accepted for trial in seen)
    if not last:
        seen = yield from _weights_alone(problem, seen)
    seen = yield from _float_layers(problem, history, seen)
    formats = _promising_formats(problem, seen)
    if formats and (yield from _answer(history, "prunable")):
        seen = yield from _fewer_channels(problem, history, seen, formats)
    if last:
        seen = yield from _weights_alone(problem, seen)
    best = ranked(seen, problem.prefer)[:2]
    keys = (_in_qoperator_form(problem.space, trial.candidate) for trial in best)
    return (yield tuple(key for key in keys if key is not None))


def _answer(history: History, question: Question) -> Generator[Question, Trials, Any]:
    """Take an answer from the history; where there is none the plan ends with the question."""
    answer = getattr(history, question)
    if answer is None:
        yield question
    return answer


def _weights_alone(problem: SearchProblem, seen: Trials) -> Plan:
    """Formats of weights alone, where nothing that keeps the quality is as small."""
    for number_format in problem.space.weight_formats():
        bits = WEIGHT_BITS[number_format.name]
        sizes = [t.size for t in seen if t.size is not None and problem.keeps_quality(t)]
        is_beaten = min(sizes, default=1.0) <= FILE_OVERHEAD * bits / FLOAT_BITS
        # Without a limit on quality the one with more bits may be the one that is wanted.
        if not (problem.budget.limits_quality and is_beaten):
            seen = yield _alone(number_format)
    return seen


def _float_layers(problem: SearchProblem, history: History, seen: Trials) -> Plan:
    """INT8 with its most sensitive layers in float, where INT8 loses too much."""
    int8 = [t for t in seen if t.candidate.format == INT8 and t.status == "measured"]
    if not int8 or problem.keeps_quality(int8[0]) or not problem.budget.limits_quality:
        return seen
    layers = yield from _answer(history, "sensitive_layers")
    counts = [count for count in FLOAT_LAYER_COUNTS if count <= len(layers) // 2]
    formats = [NumberFormat(name="int8", float_layers=layers[:count]) for count in counts]
    return (yield _alone(*formats))


def _fewer_channels(
    problem: SearchProblem, history: History, seen: Trials, formats: Sequence[NumberFormat]
) -> Plan:
    """Ever fewer channels in the best format, then on other axes from where that one ended."""
    first, *others = formats
    training_steps = yield from _answer(history, "training_steps")
    axis = SweepAxis(format=first)
    seen = yield (CandidateId(axis, FIRST_FRACTION),)
    coarse = Sweep(axis, resolution=COARSE_RESOLUTION if training_steps else RESOLUTION)
    seen = yield from _sweep(problem, seen, coarse)
    reached = _reached(problem, seen)
    if reached == 1:
        return seen
    if training_steps:
        # From the edge by the figures themselves: training moves it anyway.
        edge = min(
            (t.candidate.fraction for t in seen if _is_on(t, axis) and t.is_within_quality),
            default=1,
        )
        trained = SweepAxis(format=first, training_steps=training_steps)
        start = round(min(edge, reached) * TRAINED_FRACTION, 4)
        seen = yield (CandidateId(trained, start),)
        further = Sweep(trained, step_factor=TRAINED_STEP_FACTOR, untrained=axis)
        seen = yield from _sweep(problem, seen, further)
        if _reached(problem, seen) < reached:
            return seen
        seen = yield from _sweep(problem, seen, Sweep(axis))
        reached = _reached(problem, seen)
    neighbours = [SweepAxis(format=first, round_to=multiple) for multiple in (8, 4)]
    neighbours += [SweepAxis(format=other) for other in others[:1]]
    for neighbour in neighbours:
        seen = yield (CandidateId(neighbour, reached),)
        # One that does not come as far is no better than the first.
        if any(_is_on(trial, neighbour) and problem.can_go_further(trial) for trial in seen):
            seen = yield from _sweep(problem, seen, Sweep(neighbour))
    return seen


@dataclass(frozen=True)
class Sweep:
    """Search along an axis for the smallest fraction that keeps to the budget.

    Attributes:
        axis: what is swept.
        resolution: largest ratio of an accepted to a refused fraction at the end.
        step_factor: to the next fraction while nothing is refused.
        untrained: the axis without training; a fraction that is accepted there is accepted with
            training, too.
    """

    axis: SweepAxis
    resolution: float = RESOLUTION
    step_factor: float = STEP_FACTOR
    untrained: SweepAxis | None = None


def _sweep(problem: SearchProblem, seen: Trials, sweep: Sweep) -> Plan:
    """Try fractions between accepted and refused ones, until the two are close."""
    for _ in range(MAX_SWEEP_TRIALS):
        points = [trial for trial in seen if _is_on(trial, sweep.axis)]
        if sweep.untrained is not None:
            points += [t for t in seen if _is_on(t, sweep.untrained) and problem.can_go_further(t)]
        fraction = next_fraction(points, problem.can_go_further, sweep)
        if fraction is None:
            break
        seen = yield (CandidateId(sweep.axis, fraction),)
    return seen


def next_fraction(
    points: Sequence[Trial], can_go_further: Callable[[Trial], bool], sweep: Sweep
) -> float | None:
    """Choose the next fraction of a sweep; None where its edge is known.

    The loss grows about as a power of what is removed. So between two fractions the next one
    is where a straight line through both, in logarithms, meets the budget; without figures it
    is their geometric mean.
    """
    accepted = [trial for trial in points if can_go_further(trial)]
    good = min((t.candidate.fraction for t in accepted), default=1.0)
    if _is_exhausted(accepted):
        return None
    refused = (t.candidate.fraction for t in points if not can_go_further(t))
    bad = max((fraction for fraction in refused if fraction < good), default=None)
    if bad is None:
        lower = round(good * sweep.step_factor, 4)
        return lower if lower >= MIN_FRACTION else None
    if good / bad < (sweep.resolution if good < 1 else MIN_CUT):
        return None
    excess = {t.candidate.fraction: t.excess for t in points}
    below, above = excess.get(good), excess.get(bad)
    fraction = math.sqrt(good * bad)
    if below and above and above > 1 > below:
        position = math.log(1 / below) / math.log(above / below)
        fraction = good * math.pow(bad / good, position)
    # A trial near to an end would tell nothing.
    margin = math.pow(good / bad, 0.2)
    return round(min(max(fraction, bad * margin), good / margin), 4)


def _is_exhausted(accepted: Iterable[Trial]) -> bool:
    """Tell whether the two smallest fractions gave models of one size: no less can be had."""
    pruned = [trial for trial in accepted if trial.candidate.fraction < 1]
    last = sorted(pruned, key=lambda trial: trial.candidate.fraction)[:2]
    sizes = {trial.size_bytes for trial in last if trial.size_bytes is not None}
    return len(last) == 2 and len(sizes) == 1


def _alone(*formats: NumberFormat) -> Keys:
    """Number formats without pruning and training."""
    return tuple(CandidateId(SweepAxis(format=number_format)) for number_format in formats)


def _candidates(space: SearchSpace, keys: Keys, trials: Iterable[Trial]) -> Batch:
    """Build candidates with what their formats decided by measuring, so that none repeats that."""
    resolved = {
        trial.candidate.format: Recipe.from_toml(trial.recipe).steps[1:]
        for trial in trials
        if trial.status == "measured" and trial.candidate.is_plain
    }
    return tuple(space.candidate(key, resolved) for key in keys)


def _promising_formats(problem: SearchProblem, trials: Iterable[Trial]) -> list[NumberFormat]:
    """Formats that keep the quality, best first."""
    prefer = "both" if problem.prefer == "quality" else problem.prefer
    good = [trial for trial in trials if problem.keeps_quality(trial)]
    return [trial.candidate.format for trial in sorted_by_merit(good, prefer)]


def _reached(problem: SearchProblem, trials: Iterable[Trial]) -> float:
    """Find the smallest accepted fraction."""
    return min((t.candidate.fraction for t in trials if problem.can_go_further(t)), default=1.0)


def _is_on(trial: Trial, axis: SweepAxis) -> bool:
    return trial.candidate.axis == axis


def _in_qdq_form(axis: SweepAxis) -> SweepAxis:
    number_format = msgspec.structs.replace(axis.format, qoperator=False)
    return msgspec.structs.replace(axis, format=number_format)


def _in_qoperator_form(space: SearchSpace, key: CandidateId) -> CandidateId | None:
    number_format = space.qoperator_form(key.format)
    if number_format is None:
        return None
    return CandidateId(msgspec.structs.replace(key.axis, format=number_format), key.fraction)
