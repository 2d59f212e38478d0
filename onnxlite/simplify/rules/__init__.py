"""The rewrites, one file per family; `DEFAULT_RULES` is what `simplify` applies.

cleanup         nodes that do nothing; common subexpressions
folding         constants computed once
shapes, dims    shape arithmetic, reshapes
slices          Slice, Split, Gather
layout, axes    Transpose
affine, linear  per-channel constants, BatchNormalization, Gemm
activations     HardSwish, GELU, SiLU, Clip, ...
scales          factors far behind a layer
tokens          constant tokens
normalization   LayerNormalization
pooling         means over space, padding
recurrent       initial states
"""

from __future__ import annotations

from onnxlite.simplify.rewrite import Rewrite
from onnxlite.simplify.rules import (
    activations,
    affine,
    axes,
    cleanup,
    control,
    folding,
    layout,
    linear,
    normalization,
    pooling,
    recurrent,
    scales,
    shapes,
    slices,
    tokens,
)

#: Rewrites that only move or drop values, or let ONNX Runtime compute constants: what is
#: applied to a model that ONNX Runtime cannot run, where no result can be compared.
EXACT_RULES: tuple[Rewrite, ...] = (
    *cleanup.RULES,
    *control.RULES,
    *shapes.RULES,
    *folding.RULES,
    *slices.RULES,
    *layout.RULES,
    *axes.RULES,
)

#: Every rewrite, in the order in which they are tried on a node.
DEFAULT_RULES: tuple[Rewrite, ...] = (
    *cleanup.RULES,
    *control.RULES,
    *shapes.RULES,
    *folding.RULES,
    *slices.RULES,
    *linear.RULES,
    *affine.RULES,
    *scales.RULES,
    *tokens.RULES,
    *normalization.RULES,
    *activations.RULES,
    *pooling.RULES,
    *recurrent.RULES,
    *layout.RULES,
    *axes.RULES,
)
