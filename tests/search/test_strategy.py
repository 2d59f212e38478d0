"""Strategy on made-up models: it finds the edge of the budget, in few trials, always alike."""

from __future__ import annotations

import pytest

from onnxlite.evaluate import Ratio
from onnxlite.search import Budget
from onnxlite.search.candidates import CandidateId, NumberFormat, SweepAxis
from onnxlite.search.records import Trial, merit, ranked, with_pareto_front
from onnxlite.search.strategy import INT8, History, propose, step_back
from tests.search.worlds import World, measure, pruned_drop

INT8_AXIS = SweepAxis(format=INT8)
TRAINED_AXIS = SweepAxis(format=INT8, training_steps=4000)


def formats(history):
    """Number formats in the order of their trials."""
    return [trial.candidate.format for trial in history.trials]


def fractions(history, axis=INT8_AXIS):
    """Pruned fractions on an axis in the order of their trials."""
    keys = (trial.candidate for trial in history.trials)
    return [key.fraction for key in keys if key.axis == axis and key.fraction < 1]


@pytest.mark.parametrize("drop", [0.004, 0.01, 0.03, 0.2])
def test_the_result_is_close_to_the_edge_of_the_budget(drop):
    history = World(Budget(max_drop=drop)).search()
    found = ranked(history.trials, "both")[0].candidate.fraction
    # The smallest fraction on a fine grid that keeps to the budget.
    smallest = min(f / 1000 for f in range(20, 1000) if pruned_drop(f / 1000) + 0.001 <= drop)
    assert smallest <= found <= smallest * 1.15
    assert len(history.trials) <= 30


def test_a_small_cut_is_found_where_no_more_can_go():
    world = World(Budget(max_drop=1e-4), measured=lambda key: measure(key, int8_drop=0.0))
    trials = world.search().trials
    kept = [
        t.candidate.fraction
        for t in trials
        if t.candidate.axis == INT8_AXIS and t.candidate.fraction < 1 and t.loss <= 1e-4
    ]
    assert 0.93 < min(kept) < 0.98


def test_a_search_for_latency_alone_loses_no_more_than_needed():
    history = World(Budget(max_latency=0.2), prefer="quality").search()
    found = ranked(history.trials, "quality")[0].candidate.fraction
    assert 0.5 / 1.1 <= found <= 0.5  # INT8 takes 0.4 of the time, so half of the channels do


def test_nothing_is_pruned_in_a_model_without_free_channels():
    history = World(Budget(max_drop=0.01), prunable=False).search()
    assert {trial.candidate.fraction for trial in history.trials} == {1.0}


def test_proposals_depend_on_the_history_alone():
    world = World(Budget(max_drop=0.02), training_steps=4000)
    complete = world.search()
    history = History()
    for trial in complete.trials:
        while isinstance(wanted := propose(world.problem, history), str):
            history = world.answer(history, wanted)
        # A search that was interrupted within a batch goes on with the rest of it.
        assert wanted[0].id == trial.candidate
        assert propose(world.problem, history) == wanted
        history = history.with_trial(trial)
    assert propose(world.problem, history) is None


def test_fractions_with_equal_labels_are_different_candidates():
    axis = SweepAxis(format=INT8)
    assert CandidateId(axis, 0.125) != CandidateId(axis, 0.1173)
    space = World(Budget()).problem.space
    one, two = (space.candidate(CandidateId(axis, f), {}) for f in (0.1236, 0.1244))
    assert one.label == two.label
    assert len({one.id, two.id}) == 2


@pytest.mark.parametrize(
    "world",
    [
        World(
            Budget(max_drop=0.05), "latency", lambda key: measure(key, 0.05), training_steps=4000
        ),
        World(Budget(max_drop=0.05, certain=True), "both", lambda key: measure(key, 0.0)),
        World(Budget(max_drop=0.999), measured=lambda key: (pruned_drop(key.fraction), 0.5, 0.5)),
    ],
)
def test_nothing_is_proposed_twice(world):
    history, proposed = History(), []
    while (wanted := propose(world.problem, history)) is not None:
        proposed += [] if isinstance(wanted, str) else [candidate.id for candidate in wanted]
        history = world.answer(history, wanted)
    assert len(set(proposed)) == len(proposed)
    assert len({trial.recipe for trial in history.trials}) == len(proposed)


def test_formats_of_weights_alone_are_tried_only_while_nothing_is_as_small():
    sizes = {"4-bit-weights": 0.13, "8-bit-weights": 0.26, "float16-weights": 0.5, "int8": 0.3}

    def names(bad, budget=None):
        """Formats that are tried if the first `bad` of `sizes` lose too much."""

        def by_bits(key):
            name = key.format.name
            return 0.5 if name in list(sizes)[:bad] else 0.0, 0.9, sizes.get(name, 1.0)

        world = World(budget or Budget(max_drop=0.01), measured=by_bits, prunable=False)
        return [f.name for f in formats(world.search())[1:] if not f.qoperator]

    assert names(0) == ["int8", "int8-dynamic", "4-bit-weights"]
    # Four bits lose too much, and INT8 is not as small as 8-bit weights are.
    assert names(1) == ["int8", "int8-dynamic", "4-bit-weights", "8-bit-weights"]
    sizes["int8"] = 0.27
    assert names(1) == ["int8", "int8-dynamic", "4-bit-weights"]
    # Without a limit on quality the one with more bits may be the one that is wanted.
    assert len(names(0, Budget(max_size=0.6))) == 5


def test_merit_and_pareto_front():
    trials = with_pareto_front(World(Budget(max_drop=0.02)).search().trials)
    for trial in trials:
        beaten = any(
            other.point != trial.point
            and all(a <= b for a, b in zip(other.point, trial.point, strict=True))
            for other in trials
        )
        assert trial.on_front is not beaten
    assert merit(trials[1], "both") < merit(trials[0], "both")


def test_the_most_sensitive_layers_stay_float_where_int8_loses_too_much():
    world = World(Budget(max_drop=0.01), measured=lambda k: measure(k, 0.05), prunable=False)
    history = world.search()
    kept = [len(f.float_layers) for f in formats(history) if f.name == "int8" and not f.qoperator]
    assert kept == [0, 1, 2]  # at most half of the four layers
    two = NumberFormat(name="int8", float_layers=("first", "second"))
    (candidate,) = [t.candidate for t in history.trials if t.candidate.format == two]
    assert world.problem.space.candidate(candidate, {}).steps[-1].exclude == ("first", "second")
    assert ranked(history.trials, "both")[0].candidate.format.float_layers


def test_a_trial_that_fails_on_unseen_samples_is_followed_by_a_gentler_one():
    world = World(Budget(max_drop=0.02))
    history = world.search()
    pruned = [t for t in history.trials if t.accepted and t.candidate.axis == INT8_AXIS]
    pruned.sort(key=lambda trial: trial.candidate.fraction)
    (gentler,) = step_back(world.problem, history, pruned[0])
    smallest, above = (trial.candidate.fraction for trial in pruned[:2])
    assert smallest < gentler.id.fraction < above
    assert step_back(world.problem, history, history.trials[1]) == ()  # nothing was pruned there


def test_stepping_back_from_integer_operators_keeps_their_form():
    world = World(Budget(max_drop=0.02))
    history = world.search()
    last = history.trials[-1]
    pruned = next(t for t in history.trials if t.candidate.format.qoperator)
    assert pruned.candidate.fraction < 1
    assert last.candidate.format.qoperator
    (gentler,) = step_back(world.problem, history, pruned)
    assert gentler.id.axis == pruned.candidate.axis
    assert gentler.id.fraction > pruned.candidate.fraction
    assert gentler.steps[-1].form == "qoperator"


def test_training_goes_further_than_repair_alone():
    without = ranked(World(Budget(max_drop=0.02)).search().trials, "both")[0]
    world = World(Budget(max_drop=0.02), training_steps=4000)
    best = ranked(world.search().trials, "both")[0]
    assert best.candidate.axis.training_steps == 4000
    assert merit(best, "both") < merit(without, "both")
    steps = world.problem.space.candidate(best.candidate, {}).steps
    assert [type(step).__name__ for step in steps[:3]] == ["Simplify", "PruneChannels", "Tune"]
    assert steps[2].steps == 4000


def test_the_edge_is_found_coarsely_before_training_and_finely_without_it():
    fine = fractions(World(Budget(max_drop=0.05)).search())
    coarse = fractions(World(Budget(max_drop=0.05), training_steps=4000).search())
    assert len(coarse) < len(fine)
    assert coarse == fine[: len(coarse)]


def test_the_edge_without_training_is_found_finely_where_training_does_not_help():
    def no_help(key):
        drop, latency, size = measure(key)
        return (0.5 if key.axis.training_steps else drop), latency, size

    history = World(Budget(max_drop=0.05), measured=no_help, training_steps=4000).search()
    axes = [trial.candidate.axis for trial in history.trials]
    assert INT8_AXIS in axes[axes.index(TRAINED_AXIS) :]


def test_of_results_about_as_fast_the_smallest_wins() -> None:
    points = {1: (0.50, 0.9), 2: (0.51, 0.3), 3: (0.53, 0.1), 4: (0.515, 0.4)}
    trials = [
        Trial(
            number=number,
            label=str(number),
            recipe="",
            status="measured",
            latency=Ratio(median=latency, low=latency, high=latency, minimum=latency),
            size=size,
            accepted=True,
        )
        for number, (latency, size) in points.items()
    ]
    assert [trial.number for trial in ranked(trials, "latency")] == [2, 4, 1, 3]
    assert ranked(trials, "size")[0].number == 3
    assert ranked([], "latency") == []
