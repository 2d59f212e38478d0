"""Recipes: steps as data, and running them on a model with proof of the result."""

from __future__ import annotations

from onnxlite.prune.options import PruneChannels, PruneWeights, SparseStorage
from onnxlite.quantize.core.options import QuantizeStatic
from onnxlite.quantize.dynamic.options import QuantizeDynamic
from onnxlite.quantize.float16.options import ToFloat16
from onnxlite.quantize.mixed.options import QuantizeAuto
from onnxlite.quantize.weight_only.options import QuantizeWeights
from onnxlite.recipe.document import STEPS, Recipe, RecipeLike, as_recipe, load_recipe
from onnxlite.recipe.layers import LayerPair, LayerState
from onnxlite.recipe.report import AnyStepReport, Environment, RunReport, Sizes
from onnxlite.recipe.run import run
from onnxlite.recipe.split import SampleUse
from onnxlite.repair.options import Repair
from onnxlite.simplify.options import Simplify
from onnxlite.step import Step
from onnxlite.tune.options import Tune

__all__ = [
    "STEPS",
    "AnyStepReport",
    "Environment",
    "LayerPair",
    "LayerState",
    "PruneChannels",
    "PruneWeights",
    "QuantizeAuto",
    "QuantizeDynamic",
    "QuantizeStatic",
    "QuantizeWeights",
    "Recipe",
    "RecipeLike",
    "Repair",
    "RunReport",
    "SampleUse",
    "Simplify",
    "Sizes",
    "SparseStorage",
    "Step",
    "ToFloat16",
    "Tune",
    "as_recipe",
    "load_recipe",
    "run",
]
