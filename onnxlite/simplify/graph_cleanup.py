"""Dead nodes and duplicate constants: changes that need no pattern."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Hashable

import onnx_ir as ir

from onnxlite.graph import subgraphs_of

_CHUNK_BYTES = 1 << 20


def remove_dead(node: ir.Node) -> None:
    """Rewrite in place: remove `node` if nothing reads it, then the same for its inputs."""
    stack = [node]
    while stack:
        current = stack.pop()
        graph = current.graph
        if graph is None or any(o.uses() or o.is_graph_output() for o in current.outputs):
            continue
        stack += [p for v in current.inputs if v is not None and (p := v.producer()) is not None]
        stack += _detach_subgraphs(current)
        graph.remove(current, safe=True)


def _detach_subgraphs(node: ir.Node) -> list[ir.Node]:
    """Detach a dead node's subgraphs from the outer values they read; return their producers."""
    makers: list[ir.Node] = []
    for graph in subgraphs_of(node):
        for inner in ir.traversal.RecursiveGraphIterator(graph):
            for index, value in enumerate(inner.inputs):
                if value is not None and (maker := value.producer()) is not None:
                    makers.append(maker)
                inner.replace_input_with(index, None)
    return makers


def remove_all_dead(model: ir.Model) -> int:
    """Rewrite in place: remove all nodes that nothing reads; return their number."""
    before = sum(1 for graph in model.graphs() for _ in graph)
    for graph in list(model.graphs()):
        for node in reversed(graph):
            remove_dead(node)
    return before - sum(1 for graph in model.graphs() for _ in graph)


def merge_duplicate_initializers(model: ir.Model) -> int:
    """Rewrite in place: merge equal constants of each graph; return how many were removed.

    Only constants of the same type and shape are compared, first by their beginning, then
    by a hash of everything. Memory does not grow with the size of the tensors.
    """
    merged = 0
    for graph in model.graphs():
        groups: dict[Hashable, list[ir.Value]] = defaultdict(list)
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is None or tensor.dtype == ir.DataType.STRING:
                continue
            if isinstance(tensor, ir.LazyTensor):  # just computed, and not yet in memory
                continue
            if not value.is_graph_output() and not value.is_graph_input():
                groups[tensor.dtype, tuple(tensor.shape)].append(value)
        for limit in (_CHUNK_BYTES, None):
            groups = _split(groups, limit)
        for values in groups.values():
            for duplicate in values[1:]:
                duplicate.replace_all_uses_with(values[0])
                del graph.initializers[duplicate.name or ""]
                merged += 1
    return merged


def _split(
    groups: dict[Hashable, list[ir.Value]], limit: int | None
) -> dict[Hashable, list[ir.Value]]:
    """Split groups of candidates by the hash of their first `limit` bytes."""
    result: dict[Hashable, list[ir.Value]] = defaultdict(list)
    for key, values in groups.items():
        if len(values) > 1:
            for value in values:
                assert value.const_value is not None
                result[key, _digest(value.const_value, limit)].append(value)
    return result


def _digest(tensor: ir.TensorProtocol, limit: int | None) -> bytes:
    """Hash a tensor's bytes; external data are read in chunks instead of being mapped."""
    count = tensor.nbytes if limit is None else min(limit, tensor.nbytes)
    digest = hashlib.blake2b(digest_size=32)
    if isinstance(tensor, ir.ExternalTensor):
        with open(tensor.path, "rb") as file:
            file.seek(tensor.offset or 0)
            while count > 0:
                chunk = file.read(min(count, _CHUNK_BYTES))
                if not chunk:
                    break
                digest.update(chunk)
                count -= len(chunk)
    else:
        digest.update(tensor.tobytes()[:count])
    return digest.digest()
