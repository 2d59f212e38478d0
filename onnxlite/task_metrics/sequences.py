"""Sequences: edit distance to the reference's text, of CTC scores and of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from onnxlite.runtime import Outputs
from onnxlite.task_metrics.base import (
    Proposal,
    SampleLosses,
    SampleRatio,
    TaskMetric,
    finite,
    per_sample,
)
from onnxlite.task_metrics.observation import Observation, ObservedOutput

Symbols = NDArray[np.int64]

#: An alphabet has more symbols, the blank included.
_MIN_SYMBOLS = 10
#: Least fraction of steps with a blank, which is the most frequent symbol.
_MIN_BLANK = 0.1
#: Where it need not be: no other output has so many classes for each step.
_LARGE_ALPHABET = 200


@dataclass(frozen=True)
class Ctc(TaskMetric):
    """Edit distance between the best paths of a CTC recognizer (Graves et al. 2006).

    The best path takes the top symbol of every step, without repetitions and blanks. The drop is
    the number of insertions, deletions and substitutions over the length of the reference's
    text: its character error rate.

    Attributes:
        output: its name.
        blank: index of the blank.
        batch_axis: of the samples; of the other two axes the first is time.
    """

    name: ClassVar[str] = "ctc"
    meaning: ClassVar[str] = "one of 100 symbols of the original's text is lost, added or changed"

    output: str
    blank: int = 0
    batch_axis: int = 0

    @classmethod
    def propose(cls, observed: Observation, *, strict: bool) -> Proposal | None:
        """Fit to an output `[n, time, symbols]`, or time first, with a blank at either end."""
        for output in observed.floats:
            if output.rank != 3 or output.values.shape[2] < 2:
                continue
            values = output.values
            top = values.argmax(axis=2)
            last = values.shape[2] - 1
            ends = [(float((top == blank).mean()), blank) for blank in (0, last)]
            share, blank = max(ends)
            others = np.bincount(top[top != blank], minlength=1)
            text = last + 1 >= _LARGE_ALPHABET or share * top.size >= others.max()
            named = share >= _MIN_BLANK and others.max() > 0 and text
            # Scores of tokens, or what is made of a text, for example a spectrogram.
            tokens = values.shape[1] in observed.token_counts or observed.reads_text
            scores = last + 1 >= _MIN_SYMBOLS and _has_scores(output)
            if strict and (not named or tokens or not scores):
                continue
            return Proposal(
                cls(output.name, blank, output.batch_axis or 0),
                f"{output}, {last + 1} symbols in {values.shape[1]} steps, {share:.0%} of which "
                f"have blank {blank}: edit distance to the original's text",
            )
        return None

    def decode(self, outputs: Outputs, samples: int) -> list[Symbols]:
        """Best path of each sample."""
        found = per_sample(outputs[self.output], samples, self.batch_axis)
        paths = []
        for one in found:
            scores = finite(one).reshape(-1, one.shape[-1])
            flat = scores.max(axis=1) == scores.min(axis=1)
            paths.append(_fold(np.where(flat, self.blank, scores.argmax(axis=1)), self.blank))
        return paths

    def losses(self, reference: Sequence[Symbols], candidate: Sequence[Symbols]) -> SampleLosses:
        """Edits, of the symbols of the reference's text."""
        return _edits(reference, candidate)


@dataclass(frozen=True)
class Tokens(TaskMetric):
    """Edit distance between sequences of integers, for example generated token ids.

    Attributes:
        output: its name, integers `[n, length]`.
    """

    name: ClassVar[str] = "tokens"
    meaning: ClassVar[str] = "one of 100 tokens of the original is lost, added or changed"

    output: str

    @classmethod
    def propose(cls, observed: Observation, *, strict: bool) -> Proposal | None:
        """Fit to the first output with a sequence of integers per sample."""
        del strict
        for output in observed.integers:
            if output.rank == 2 and output.shape[1] > 1:
                reason = f"{output}, integers: edit distance to the original's sequence"
                return Proposal(cls(output.name), reason)
        return None

    def decode(self, outputs: Outputs, samples: int) -> list[Symbols]:
        """Sequence of each sample."""
        found = per_sample(outputs[self.output], samples)
        return [one.reshape(-1).astype(np.int64) for one in found]

    def losses(self, reference: Sequence[Symbols], candidate: Sequence[Symbols]) -> SampleLosses:
        """Edits, of the tokens of the reference."""
        return _edits(reference, candidate)


def edit_distance(one: NDArray[Any], two: NDArray[Any]) -> int:
    """Least number of insertions, deletions and substitutions (Levenshtein 1966)."""
    steps = np.arange(len(two) + 1)
    row = steps.copy()
    for count, symbol in enumerate(one, 1):
        changed = row[:-1] + (two != symbol)
        best = np.concatenate([[count], np.minimum(changed, row[1:] + 1)])
        # An insertion costs one more than the entry before: a running minimum less the index.
        row = np.minimum.accumulate(best - steps) + steps
    return int(row[-1])


def _edits(reference: Sequence[Symbols], candidate: Sequence[Symbols]) -> SampleLosses:
    edits = [edit_distance(*pair) for pair in zip(reference, candidate, strict=True)]
    lengths = [len(one) for one in reference]
    return SampleLosses(SampleRatio(np.array(edits, float), np.array(lengths, float)))


def _fold(path: Symbols, blank: int) -> Symbols:
    """Remove repetitions, then blanks."""
    kept = np.ones(len(path), bool)
    kept[1:] = path[1:] != path[:-1]
    folded: Symbols = path[kept & (path != blank)]
    return folded


def _has_scores(output: ObservedOutput) -> bool:
    """Tell scores from features, which come in multiples of 32."""
    known = output.source.kind in ("probabilities", "linear") or output.sums_to_one(2)
    return known or output.values.shape[2] % 32 > 0
