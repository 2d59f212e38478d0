"""Fixed-point driver: applies rules to all nodes until none fires.

The driver alone changes graphs. It is deterministic, and it can stop after a number of
firings, which is how verification finds the one rewrite that broke a model.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from onnxlite.analysis.cost import is_layer
from onnxlite.analysis.lineage import record_layers
from onnxlite.analysis.shapes import infer_shapes
from onnxlite.builder import drop_unused_initializers
from onnxlite.graph import (
    STANDARD_DOMAINS,
    Names,
    describe,
    node_name,
    node_names,
    subgraphs_of,
    value_names,
)
from onnxlite.ops import spec_of
from onnxlite.records import Skipped
from onnxlite.simplify.graph_cleanup import remove_dead
from onnxlite.simplify.rewrite import (
    NODE_BYTES,
    Context,
    Refused,
    Replacement,
    Rewrite,
    freed_bytes,
)

logger = logging.getLogger(__name__)

#: A rule set that still fires after this many passes goes in circles.
_MAX_PASSES = 40
#: Nodes between the root of a rewrite and a layer that it replaces, at most.
_LAYERS_BEHIND = 6


@dataclass(frozen=True)
class Firing:
    """One application of a rule; the pair identifies it for verification."""

    rule: str
    node: str


@dataclass
class Outcome:
    """Rewrites of a run, in order, and those refused in its last pass."""

    firings: list[Firing] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    @property
    def changes(self) -> Counter[str]:
        """Count of firings by rule."""
        return Counter(firing.rule for firing in self.firings)


def rewrite_to_fixed_point(
    model: ir.Model,
    rules: Sequence[Rewrite],
    *,
    growth: int,
    trust_shapes: bool = False,
    limit: int | None = None,
    blocked: frozenset[Firing] = frozenset(),
    on_pass: Callable[[int], None] | None = None,
) -> Outcome:
    """Rewrite in place: apply `rules` to `model` until none fires.

    Args:
        model: the model to change; its constants must be initializers.
        rules: tried in order; the first that fires on a node wins.
        growth: bytes by which new constants may enlarge the model.
        trust_shapes: believe the inner shapes that the model declares. They say more than
            inference can tell, but not every exporter keeps them right.
        limit: stop after this many firings.
        blocked: firings not to repeat.
        on_pass: called after every pass with its number.
    """
    run = _Run(model, rules, growth=growth, limit=limit, blocked=blocked)
    for number in range(_MAX_PASSES):
        # A rewrite keeps the shapes of the values it replaces, so only new ones are unknown.
        infer_shapes(model, refresh=number == 0 and not trust_shapes, symbolic=number == 0)
        changed = run.one_pass()
        if on_pass is not None:
            on_pass(number + 1)
        if not changed or run.exhausted:
            break
    else:
        logger.warning("rules still fire after %d passes; stopped there", _MAX_PASSES)
    drop_unused_initializers(model)
    record_layers(model, run.layers)
    return run.outcome


class _Run:
    """One run of the driver over one model."""

    def __init__(
        self,
        model: ir.Model,
        rules: Sequence[Rewrite],
        *,
        growth: int,
        limit: int | None,
        blocked: frozenset[Firing],
    ) -> None:
        self.outcome = Outcome()
        #: Layers that were replaced: former and present name of each.
        self.layers: list[tuple[str, str]] = []
        self._model = model
        self._growth: float = growth
        self._limit = limit
        self._blocked = blocked
        self._any = [rule for rule in rules if not rule.op_types]
        names = {op for rule in rules for op in rule.op_types}
        # Rules keep their order: a rule without operators stands where it was listed.
        self._by_op = {
            op: [rule for rule in rules if not rule.op_types or op in rule.op_types] for op in names
        }
        self._names = value_names(model)
        self._names |= node_names(model)
        self._visited: set[ir.Node] = set()

    @property
    def exhausted(self) -> bool:
        return self._limit is not None and len(self.outcome.firings) >= self._limit

    def one_pass(self) -> bool:
        """Visit every node once; returns whether any rule fired."""
        self.outcome.skipped.clear()
        self._visited.clear()
        before = len(self.outcome.firings)
        owners = _owners(self._model.graph)
        dropped: set[ir.Graph] = set()
        for graph, owner in owners:
            if owner is not None and (owner.graph is None or owner.graph in dropped):
                dropped.add(graph)
                continue
            for node in graph:
                if self.exhausted:
                    return True
                if node.graph is graph and node.domain in STANDARD_DOMAINS:
                    self._visit(node, graph)
                self._visited.add(node)
        return len(self.outcome.firings) > before

    def _visit(self, node: ir.Node, graph: ir.Graph) -> None:
        context = Context(
            opset=self._model.graph.opset_imports.get("", 1),
            precedes=lambda other: other in self._visited and other.graph is graph,
            growth=self._growth,
        )
        for rule in self._by_op.get(node.op_type, self._any):
            firing = Firing(rule.name, node.name or "?")
            if firing in self._blocked:
                continue
            try:
                result = rule.apply(node, context)
            # A rule that trips over an unusual graph must not take the whole step down.
            except Exception as error:
                logger.warning("rule %s failed on %s", rule.name, describe(node), exc_info=True)
                result = Refused(
                    f"internal error: {type(error).__name__}: {error}", "internal-error"
                )
            if isinstance(result, Refused):
                name = node_name(node)
                self.outcome.skipped.append(Skipped(rule.name, name, result.code, result.reason))
            elif result is not None:
                self._growth -= _growth(node, result)
                layers = _layers_behind(node, result)
                _splice(node, graph, result, self._names)
                self.layers += _renamed(layers, result)
                self.outcome.firings.append(firing)
                return


def _layers_behind(root: ir.Node, replacement: Replacement) -> dict[ir.Node, str]:
    """Layers that a replacement by layers may replace, by name: those shortly before its root."""
    found: dict[ir.Node, str] = {}
    if not any(is_layer(node) for node in replacement.nodes):
        return found
    level = [root, *(p for old, _ in replacement.outputs if (p := old.producer()) is not None)]
    for _ in range(_LAYERS_BEHIND):
        found.update((node, node.name or "") for node in level if is_layer(node))
        inputs = (value for node in level for value in node.inputs if value is not None)
        level = list(dict.fromkeys(p for v in inputs if (p := v.producer()) is not None))
    return found


def _renamed(layers: dict[ir.Node, str], replacement: Replacement) -> list[tuple[str, str]]:
    """Pair the layers that are gone with those that came, what multiplies first."""
    gone = [node for node in layers if node.graph is None]
    come = [node for node in replacement.nodes if is_layer(node)]
    pairs = zip(sorted(gone, key=_multiplies_not), sorted(come, key=_multiplies_not), strict=False)
    return [(layers[old], new.name or "") for old, new in pairs]


def _multiplies_not(node: ir.Node) -> bool:
    return spec_of(node).macs is None


def _owners(graph: ir.Graph, owner: ir.Node | None = None) -> list[tuple[ir.Graph, ir.Node | None]]:
    """Every graph with the node it belongs to, outer before inner."""
    result: list[tuple[ir.Graph, ir.Node | None]] = [(graph, owner)]
    for node in graph:
        for subgraph in subgraphs_of(node):
            result += _owners(subgraph, node)
    return result


def _growth(root: ir.Node, replacement: Replacement) -> float:
    """Bytes by which folding `root` enlarges the model; other rewrites swap like for like."""
    if replacement.nodes:
        return 0
    made = {id(v): v.const_value for v in _new_constants(replacement)}
    replaced = [node for old, _ in replacement.outputs if (node := old.producer()) is not None]
    before = freed_bytes([root, *replaced]) + NODE_BYTES * len({root, *replaced})
    return max(0, sum(tensor.nbytes for tensor in made.values() if tensor is not None) - before)


def _new_constants(replacement: Replacement) -> list[ir.Value]:
    values = [v for node in replacement.nodes for v in node.inputs if v is not None]
    values += [new for _, new in replacement.outputs]
    return [
        v
        for v in values
        if v.const_value is not None and v.producer() is None and not v.is_initializer()
    ]


def _splice(root: ir.Node, graph: ir.Graph, replacement: Replacement, names: Names) -> None:
    for value in _new_constants(replacement):
        if not value.is_initializer():
            value.name = names.fresh(value.name or "constant")
            (replacement.home or graph).register_initializer(value)
    for node in replacement.nodes:
        node.name = names.fresh(f"{root.name}_{node.op_type}")
        for output in node.outputs:
            if output.name is None:
                output.name = names.fresh(f"{root.name}_{node.op_type}_output")
    graph.insert_before(replacement.before or root, replacement.nodes)
    made = {output for node in replacement.nodes for output in node.outputs}
    for old, new in replacement.outputs:
        _substitute(old, new, root, graph, fresh_value=new in made, names=names)
    _inherit(replacement)
    olds = {old.producer() for old, _ in replacement.outputs} | {root}
    for node_or_none in olds:
        if node_or_none is not None:
            remove_dead(node_or_none)


def _inherit(replacement: Replacement) -> None:
    """A new node takes over name and metadata of the node whose output it now makes."""
    done: set[ir.Node] = set()
    for old, new in replacement.outputs:
        before, after = old.producer(), new.producer()
        if before is None or after is None or after not in replacement.nodes or after in done:
            continue
        done |= {before, after}
        after.name, before.name = before.name, after.name
        after.metadata_props.update(before.metadata_props)
        after.doc_string = before.doc_string


def _substitute(
    old: ir.Value,
    new: ir.Value,
    root: ir.Node,
    graph: ir.Graph,
    *,
    fresh_value: bool,
    names: Names,
) -> None:
    if new.type is None:
        new.type = old.type
    if not old.is_graph_output():
        if fresh_value and old.name is not None:
            old.name, new.name = None, old.name
        if new.shape is None:
            new.shape = old.shape
        old.replace_all_uses_with(new)
        return
    producer = new.producer()
    if producer is None or producer.graph is not graph or new.is_graph_output():
        identity = ir.node("Identity", [new], name=names.fresh(f"{root.name}_Identity"))
        graph.insert_before(root, identity)
        new = identity.outputs[0]
        new.type = old.type
    old.name, new.name = None, old.name
    # The declared shape is part of the model's interface, whatever is known beyond it.
    new.shape = old.shape
    old.replace_all_uses_with(new, replace_graph_outputs=True)
