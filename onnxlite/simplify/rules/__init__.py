"""The rewrites, one file per family; `DEFAULT_RULES` is what `simplify` applies.

no_ops             nodes that do nothing; common subexpressions
constant_folding   constants computed once; control flow that they decide
shapes             shape arithmetic, reshapes
slices             Slice, Split, Gather
transpose          Transpose; reshape_transpose: between two reshapes
affine             per-channel constants; linear_folding: into Conv, Gemm, MatMul
scale_folding      factors far behind a layer
activations        HardSwish, GELU, SiLU, Clip, ...
normalization      LayerNormalization
pooling            means over space, padding
sequences          constant tokens, initial states
"""

from __future__ import annotations

from onnxlite.simplify.rewrite import Rewrite
from onnxlite.simplify.rules import (
    activations,
    affine,
    constant_folding,
    linear_folding,
    no_ops,
    normalization,
    pooling,
    reshape_transpose,
    scale_folding,
    sequences,
    shapes,
    slices,
    transpose,
)

#: Rewrites that only move or drop values, or let ONNX Runtime compute constants: what is
#: applied to a model that ONNX Runtime cannot run, where no result can be compared.
EXACT_RULES: tuple[Rewrite, ...] = (
    *no_ops.RULES,
    *shapes.RULES,
    *constant_folding.RULES,
    *slices.RULES,
    *transpose.RULES,
    *reshape_transpose.RULES,
)

#: Every rewrite, in the order in which they are tried on a node.
DEFAULT_RULES: tuple[Rewrite, ...] = (
    *no_ops.RULES,
    *shapes.RULES,
    *constant_folding.RULES,
    *slices.RULES,
    *linear_folding.RULES,
    *affine.RULES,
    *scale_folding.RULES,
    *sequences.RULES,
    *normalization.RULES,
    *activations.RULES,
    *pooling.RULES,
    *transpose.RULES,
    *reshape_transpose.RULES,
)
