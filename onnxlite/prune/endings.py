"""Which branches end: decided by trying it out, because damages of whole blocks do not add up.

One after the other the branch is added to those that end with which the choice of all other
units is predicted to do least damage. The model without it is made, repaired, and compared
with the one before on samples that neither saw; the first that is no better is the last.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from onnxlite.prune.reach import Reach, Reached, Removed

#: Predicted damages may be wrong by so much; what is worse by more is not tried.
_HOPELESS = 3.0
#: The error must fall to this share of what it is without: less is hardly seen in accuracy.
_WORTH = 0.85


def choose_endings(
    reach: Reach, ends: Collection[int], trial: Callable[[Removed], float]
) -> Reached:
    """The best choice of units, with all of some groups gone or of none.

    Args:
        reach: chooses the other units.
        ends: groups that may go altogether, with the branch that ends with each.
        trial: the error of the model without these units, after its repair.
    """
    ended: frozenset[int] = frozenset()
    best, best_error = reach.reached(), None
    while left := sorted(set(ends) - ended):
        plans = {group: reach.planned(ended | {group}) for group in left}
        group = min(left, key=lambda g: (not plans[g].complete, reach.damage(plans[g])))
        if best.complete and reach.damage(plans[group]) > _HOPELESS * reach.damage(best):
            break
        candidate = reach.reached(ended | {group})
        best_error = trial(best.removed) if best_error is None else best_error
        error = trial(candidate.removed)
        if best.complete and not (candidate.complete and error < _WORTH * best_error):
            break
        ended, best, best_error = ended | {group}, candidate, error
    return best
