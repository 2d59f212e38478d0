"""The search along a made-up truth: it finds the edge, in few trials, always in the same order."""

from __future__ import annotations

import pytest

from onnxlite.evaluate import Ratio
from onnxlite.recipe import Recipe
from onnxlite.search import Budget, Estimate, Quality, Trial
from onnxlite.search.candidates import formats
from onnxlite.search.records import best, merit, on_front
from onnxlite.search.strategy import SearchStrategy

#: The line that is trained.
TRAINED = "int8 by 4,000 steps of training"


def world(candidate, int8_drop=0.001):
    """Latency, size and drop of a candidate; damage grows with what is removed."""
    integer = candidate.line.startswith("int8")
    drop = 0.02 * ((1 - candidate.share) / candidate.share) ** 2 + (int8_drop if integer else 0)
    if "training" in candidate.line:
        drop /= 4
    if "but" in candidate.line:
        drop -= int8_drop * 0.9
    scale = (0.4, 0.3) if integer else (1.0, 1.0)
    if "weights" in candidate.line or "dynamic" in candidate.line:
        scale = (1.0, 0.6)
    if "operators" in candidate.label:
        scale = (0.4, 0.25)
    return drop, scale[0] * candidate.share, scale[1] * candidate.share


def tried(candidate, number, budget, int8_drop=0.001):
    drop, latency, size = world(candidate, int8_drop)
    quality = Quality(
        metric="accuracy",
        reference=0.9,
        candidate=0.9 - drop,
        samples=1000,
        figures={"drop": Estimate(drop, drop - 0.002, drop + 0.002)},
    )
    ratio = Ratio(median=latency, low=latency * 0.9, high=latency * 1.1, minimum=latency)
    checks = budget.check(
        {**quality.figures, "latency": Estimate(latency), "size": Estimate(size)}, 1000
    )
    in_budget = budget.accepts(checks)
    return Trial(
        number=number,
        label=candidate.label,
        recipe=Recipe(candidate.steps).to_toml(),
        status="measured",
        quality=quality,
        latency=ratio,
        size=size,
        size_bytes=int(size * 1e6),
        checks=checks,
        in_budget=in_budget,
        accepted=in_budget and latency < 1,
    )


def search(budget, prefer="both", prunable=True, int8_drop=0.001, trained=False):
    rounds = SearchStrategy(
        list(formats(target="cpu")),
        budget=budget,
        prefer=prefer,
        prunable=lambda: prunable,
        fragile=lambda: ("first", "second", "third", "fourth"),
        training=lambda: 4000 if trained else None,
        seed=0,
    )
    done = []
    for batch in rounds.batches(done):
        labels = {candidate.label for candidate, _ in done}
        for candidate in batch:
            if candidate.label not in labels:
                done.append((candidate, tried(candidate, len(done) + 1, budget, int8_drop)))
    return done


@pytest.mark.parametrize("drop", [0.004, 0.01, 0.03, 0.2])
def test_it_comes_close_to_the_edge_of_the_budget(drop):
    done = search(Budget(max_drop=drop))
    top = best([trial for _, trial in done], "both")[0]
    share = next(candidate.share for candidate, trial in done if trial is top)
    # The smallest share that a fine grid finds within the budget.
    truth = min(
        s / 1000
        for s in range(20, 1000)
        if 0.02 * ((1 - s / 1000) / (s / 1000)) ** 2 + 0.001 <= drop
    )
    assert truth <= share <= truth * 1.15
    assert len(done) <= 30


def test_a_little_may_be_all_that_can_go():
    done = search(Budget(max_drop=1e-4), int8_drop=0.0)
    drops = {c.share: t.quality.drop for c, t in done if c.line == "int8"}
    below = [share for share, drop in drops.items() if share < 1 and drop <= 1e-4]
    assert below
    assert 0.93 < min(below) < 0.98


def test_a_search_for_speed_alone_loses_no_more_than_it_must():
    done = search(Budget(max_latency=0.2), prefer="quality")
    top = best([trial for _, trial in done], "quality")[0]
    share = next(candidate.share for candidate, trial in done if trial is top)
    assert 0.5 / 1.1 <= share <= 0.5  # int8 gives 0.4, so half of the MACs is the rest


def test_nothing_is_pruned_where_nothing_may_go():
    assert {c.share for c, _ in search(Budget(max_drop=0.01), prunable=False)} == {1.0}


def test_a_search_is_a_function_of_its_trials():
    one, two = (search(Budget(max_drop=0.02)) for _ in range(2))
    assert [c.label for c, _ in one] == [c.label for c, _ in two]


def test_weights_alone_are_tried_only_where_nothing_is_as_small():
    def tried_forms(world_, **limits):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(globals(), "world", world_)
            done = search(Budget(**limits), prunable=False)
        return [c.label for c, _ in done if c.steps[1:] and "operators" not in c.label]

    sizes = {"4-bit weights": 0.13, "8-bit weights": 0.26, "float16 weights": 0.5, "int8": 0.3}

    def by_bits(candidate, int8_drop=0.0, worst=16):
        drop = 0.5 if candidate.line in list(sizes)[:worst] else 0.0
        return drop, 0.9, sizes.get(candidate.line, 1.0)

    exact = ["int8", "int8 dynamic"]
    assert tried_forms(lambda c, d=0: by_bits(c, worst=0), max_drop=0.01) == [
        *exact,
        "4-bit weights",
    ]
    # Four bits lose too much, and INT8 is not as small as 8-bit weights are.
    assert tried_forms(lambda c, d=0: by_bits(c, worst=1), max_drop=0.01) == [
        *exact,
        "4-bit weights",
        "8-bit weights",
    ]
    sizes["int8"] = 0.27
    assert tried_forms(lambda c, d=0: by_bits(c, worst=1), max_drop=0.01) == [
        *exact,
        "4-bit weights",
    ]
    # Without a limit on quality the one with more bits may be the one that is wanted.
    assert len(tried_forms(lambda c, d=0: by_bits(c, worst=0), max_size=0.6)) == 5


def test_merit_and_front():
    done = [trial for _, trial in search(Budget(max_drop=0.02))]
    front = on_front(done)
    for trial in done:
        beaten = any(
            (o.quality.drop <= trial.quality.drop)
            and (o.latency.median <= trial.latency.median)
            and (o.size <= trial.size)
            and (o.quality.drop, o.latency.median, o.size)
            != (trial.quality.drop, trial.latency.median, trial.size)
            for o in done
        )
        assert (trial.number in front) is not beaten
    assert merit(done[1], "both") < merit(done[0], "both")


def test_where_int8_loses_too_much_its_worst_layers_stay_float():
    done = search(Budget(max_drop=0.01), prunable=False, int8_drop=0.05)
    labels = [c.label for c, _ in done]
    assert "int8 but 1 layer" in labels
    assert "int8 but 2 layers" in labels
    assert "int8 but 4 layers" not in labels  # more than half of four layers
    (step,) = [c.steps[-1] for c, _ in done if c.label == "int8 but 2 layers"]
    assert step.exclude == ("first", "second")
    top = best([trial for _, trial in done], "both")[0]
    assert top.label.startswith("int8 but")


def test_what_did_not_hold_is_followed_by_a_little_less():
    budget = Budget(max_drop=0.02)
    rounds = SearchStrategy(
        list(formats(target="cpu")),
        budget=budget,
        prefer="both",
        prunable=lambda: True,
        fragile=tuple,
        training=lambda: None,
        seed=0,
    )
    done = []
    for batch in rounds.batches(done):
        done += [(c, tried(c, len(done) + 1 + i, budget)) for i, c in enumerate(batch)]
    pruned = sorted((c.share, t.number) for c, t in done if c.line == "int8" and t.accepted)
    (least, number), (above, _) = pruned[:2]
    (next_one,) = rounds.between(done[number - 1][1], done)
    assert least < next_one.share < above
    assert rounds.between(done[1][1], done) == []  # nothing was pruned there


def test_training_goes_further_than_repair_alone():
    without = best([trial for _, trial in search(Budget(max_drop=0.02))], "both")[0]
    done = search(Budget(max_drop=0.02), trained=True)
    top = best([trial for _, trial in done], "both")[0]
    assert "training" in top.label
    assert merit(top, "both") < merit(without, "both")
    (steps,) = [c.steps for c, t in done if t is top]
    assert [type(step).__name__ for step in steps[:3]] == ["Simplify", "PruneChannels", "Tune"]
    assert steps[2].steps == 4000


def test_before_training_the_edge_is_found_coarsely_and_without_it_finely():
    def untrained(trained):
        done = search(Budget(max_drop=0.05), trained=trained)
        first = [c.line for c, _ in done].index(TRAINED) if trained else len(done)
        return [c.share for c, _ in done[:first] if c.line == "int8" and c.share < 1]

    coarse, fine = untrained(True), untrained(False)
    assert len(coarse) < len(fine)
    assert coarse == fine[: len(coarse)]


def test_where_training_does_not_help_the_edge_without_it_is_found_after_all(monkeypatch):
    monkeypatch.setitem(globals(), "world", lambda c, d=0.001, known=world: hopeless(known, c, d))
    done = search(Budget(max_drop=0.05), trained=True)
    lines = [c.line for c, _ in done]
    assert "int8" in lines[lines.index(TRAINED) :]


def hopeless(known, candidate, int8_drop):
    drop, latency, size = known(candidate, int8_drop)
    return (0.5 if "training" in candidate.line else drop), latency, size
