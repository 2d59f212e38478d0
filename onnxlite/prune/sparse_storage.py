"""Sparse storage: zeros that are not written to the file.

ONNX's sparse initializers hold the other numbers with one int64 index each, so that float32
weights must be zero by more than two thirds before that pays off. ONNX Runtime makes them
dense when it loads the model: the file is smaller, nothing else changes.
"""

from __future__ import annotations

import importlib
import logging
import time
import zlib

import numpy as np
import onnx_ir as ir

from onnxlite.errors import ExecutionError
from onnxlite.model import (
    SPARSE_KEY,
    clone,
    size_bytes,
    to_bytes,
    unmapped,
)
from onnxlite.normalize import normalize
from onnxlite.prune.options import SparseStorageChanges, SparseStorageReport, SparseWeight
from onnxlite.records import Progress, Skipped, no_progress, unchanged
from onnxlite.runtime import check_loads

logger = logging.getLogger(__name__)


STEP = "sparse-storage"
_INDEX_BYTES = 8
#: What a second tensor, its name and its type take.
_FRAME_BYTES = 64
#: Above this weights lie beside the file, where they are written dense.
_MAX_BYTES = 1_500_000_000
_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16)


def sparse_storage_ir(
    model: ir.Model, *, progress: Progress = no_progress
) -> tuple[ir.Model, SparseStorageReport]:
    """Mark the weights of a private copy of a model; see `onnxlite.sparse_storage`."""
    start = time.perf_counter()
    source = clone(model)

    def left_dense(reason: str, *skipped: Skipped) -> tuple[ir.Model, SparseStorageReport]:
        return source, unchanged(SparseStorageReport, reason, skipped, start)

    if size_bytes(model) > _MAX_BYTES:
        return left_dense(
            f"the model holds {size_bytes(model) / 2**30:.1f} GiB, and tensors beside the file "
            "are written dense"
        )
    normalize(model)
    rows: list[SparseWeight] = []
    values = list(model.graph.initializers.items())
    for index, (name, value) in enumerate(values):
        progress(STEP, index, len(values))
        row = _row(name, value)
        if row is not None:
            rows.append(row)
    progress(STEP, len(values), len(values))
    before = to_bytes(model)
    if not rows:
        return left_dense(
            "no weight has so many zeros that indices to the others pay off; of "
            f"{len(before):,} bytes {_compressed(before)}"
        )
    model.meta[SPARSE_KEY] = tuple(row.name for row in rows)
    try:
        check_loads(model)
    except ExecutionError as error:
        return left_dense(
            "ONNX Runtime does not take the result",
            Skipped(STEP, "", "not-loadable", f"{error}: it is kept dense"),
        )
    after = to_bytes(model)
    return model, SparseStorageReport(
        changed=True,
        summary=(
            f"{len(rows)} weights are stored sparse: {len(before):,} -> {len(after):,} bytes; "
            f"{_compressed(before)} -> {_compressed(after)}; not faster"
        ),
        changes=SparseStorageChanges(weights_sparse=len(rows)),
        layers=tuple(rows),
        seconds=time.perf_counter() - start,
    )


def _row(name: str, value: ir.Value) -> SparseWeight | None:
    """Return the dense and sparse sizes; None if sparse is not smaller."""
    tensor = value.const_value
    if tensor is None or tensor.dtype not in _FLOATS or not tensor.shape.rank():
        return None
    if value.is_graph_input() or value.is_graph_output():
        return None
    others = int(np.count_nonzero(unmapped(tensor).numpy()))
    index_and_number = int(tensor.dtype.itemsize) + _INDEX_BYTES
    sparse = others * index_and_number + len(name) + _FRAME_BYTES
    if not others or sparse >= tensor.nbytes:
        return None
    uses = [use.node.op_type for use in value.uses()]
    return SparseWeight(
        name=name,
        op_type=uses[0] if uses else "",
        weights=tensor.size,
        sparsity=1 - others / tensor.size,
        dense_bytes=tensor.nbytes,
        sparse_bytes=sparse,
    )


def _compressed(content: bytes) -> str:
    sizes = [f"zipped {len(zlib.compress(content, 6)):,}"]
    try:
        zstandard = importlib.import_module("zstandard")
    except ImportError:
        pass
    else:
        sizes.append(f"zstd {len(zstandard.ZstdCompressor(level=10).compress(content)):,}")
    return " and ".join(sizes)
