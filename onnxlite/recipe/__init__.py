"""Recipes: steps as data, and running them on a model with proof of the result."""

from __future__ import annotations

from onnxlite.recipe.document import Recipe, load_recipe
from onnxlite.recipe.dynamic import QuantizeAuto, QuantizeDynamic
from onnxlite.recipe.half import ToFloat16
from onnxlite.recipe.layers import LayerPair, LayerState
from onnxlite.recipe.lowbits import QuantizeWeights
from onnxlite.recipe.outcome import Environment, Outcome, RunReport, Sizes
from onnxlite.recipe.run import run
from onnxlite.recipe.sparse import PruneWeights
from onnxlite.recipe.split import SampleUse
from onnxlite.recipe.steps import (
    STEPS,
    PruneChannels,
    QuantizeStatic,
    Simplify,
    Step,
    step_name,
)
from onnxlite.recipe.storage import SparseStorage
from onnxlite.recipe.tuning import Tune

__all__ = [
    "STEPS",
    "Environment",
    "LayerPair",
    "LayerState",
    "Outcome",
    "PruneChannels",
    "PruneWeights",
    "QuantizeAuto",
    "QuantizeDynamic",
    "QuantizeStatic",
    "QuantizeWeights",
    "Recipe",
    "RunReport",
    "SampleUse",
    "Simplify",
    "Sizes",
    "SparseStorage",
    "Step",
    "ToFloat16",
    "Tune",
    "load_recipe",
    "run",
    "step_name",
]
