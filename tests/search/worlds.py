"""Made-up models: what trials of candidates would measure, as formulas."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from onnxlite.evaluate import Ratio
from onnxlite.recipe import Recipe
from onnxlite.search import Budget, Estimate, Quality, Trial
from onnxlite.search.candidates import Candidate, CandidateId, SearchSpace
from onnxlite.search.records import Prefer
from onnxlite.search.strategy import Batch, History, SearchProblem, propose

#: Drop of the metric, latency and size of a candidate, the latter two relative to the original.
Measure = Callable[[CandidateId], tuple[float, float, float]]
LAYERS = ("first", "second", "third", "fourth")


def pruned_drop(fraction: float) -> float:
    """Loss of accuracy by pruning channels."""
    return 0.02 * ((1 - fraction) / fraction) ** 2


def measure(key: CandidateId, int8_drop: float = 0.001) -> tuple[float, float, float]:
    """Drop, latency and size of a candidate; damage grows with what is removed."""
    name, is_int8 = key.format.name, key.format.name.startswith("int8")
    drop = pruned_drop(key.fraction) + (int8_drop if is_int8 else 0)
    if key.axis.training_steps:
        drop /= 4
    if key.format.float_layers:
        drop -= int8_drop * 0.9
    latency, size = (0.4, 0.3) if is_int8 else (1.0, 1.0)
    if name.endswith("weights") or name == "int8-dynamic":
        latency, size = 1.0, 0.6
    if key.format.qoperator:
        latency, size = 0.4, 0.25
    return drop, latency * key.fraction, size * key.fraction


@dataclass
class World:
    """A search whose trials are formulas.

    Attributes:
        budget: limits of the search.
        prefer: what is minimized.
        measured: what a trial measures.
        prunable: answer to the strategy's question.
        training_steps: the same.
    """

    budget: Budget
    prefer: Prefer = "both"
    measured: Measure = measure
    prunable: bool = True
    training_steps: int = 0

    @property
    def problem(self) -> SearchProblem:
        space = SearchSpace(target="cpu", prune_by="latency", seed=0)
        return SearchProblem(space=space, budget=self.budget, prefer=self.prefer)

    def answer(self, history: History, wanted: Batch | str) -> History:
        """What the search makes of a proposal."""
        if isinstance(wanted, str):
            answers = {
                "prunable": self.prunable,
                "sensitive_layers": LAYERS,
                "training_steps": self.training_steps,
            }
            return history.answered(wanted, answers[wanted])
        for candidate in wanted:
            history = history.with_trial(self.trial(candidate, len(history.trials) + 1))
        return history

    def search(self) -> History:
        """Everything that the strategy asks for, until it is content."""
        history, rounds = History(), 0
        while (wanted := propose(self.problem, history)) is not None:
            history, rounds = self.answer(history, wanted), rounds + 1
            assert rounds < 100
        return history

    def trial(self, candidate: Candidate, number: int) -> Trial:
        """The trial of a candidate, with an interval of 0.2 points around its drop."""
        drop, latency, size = self.measured(candidate.id)
        quality = Quality(
            metric="accuracy",
            reference=0.9,
            candidate=0.9 - drop,
            samples=1000,
            figures={"drop": Estimate(drop, drop - 0.002, drop + 0.002)},
        )
        checks = self.budget.compare(
            {**quality.figures, "latency": Estimate(latency), "size": Estimate(size)}, 1000
        )
        in_budget = self.budget.accepts(checks)
        return Trial(
            number=number,
            candidate_id=candidate.id,
            label=candidate.label,
            recipe=Recipe(candidate.steps).to_toml(),
            status="measured",
            quality=quality,
            latency=Ratio(median=latency, low=latency * 0.9, high=latency * 1.1, minimum=latency),
            size=size,
            size_bytes=int(size * 1e6),
            checks=checks,
            in_budget=in_budget,
            accepted=in_budget and latency < 1,
        )
