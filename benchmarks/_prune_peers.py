"""The other side of the pruning benchmark: Torch-Pruning and onnxsim on the Fashion-MNIST nets.

Torch-Pruning (Fang et al. 2023) works on torch modules, so the committed ONNX files are loaded
back into `models.nets`. Their BatchNorms were folded into the convolutions; `trained_net` puts
honest ones back: the statistics are those of the calibration images, scale and shift are such
that the function stays the same. Importance is that of its README's quick start, the L2 norm of
a group; attention is registered with `num_heads`, and its forward gets the change for narrower
heads that its ViT example makes (without the first no pruned net runs, without the second few).

onnxsim works on the ONNX file: channels ranked by weight norm, or that times the activation norm
on the calibration images, then its least-squares refit of the matrix products that are left.

No setting of a peer is best on every net, so each peer is run with several, each with the ratio
that leaves the most MACs at or below the target. The result is the one that agrees most often
with the unpruned net on the calibration images.
"""

from __future__ import annotations

import copy
import importlib
import io
import tempfile
import warnings
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from types import MethodType
from typing import Any

import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from onnxlite.analysis.summary import inspect

Array = NDArray[Any]

FOLDER = Path(__file__).parent.parent / "models" / "fashion"
#: How Torch-Pruning's README ranks channels: within layers, in the net, among layers alike.
SCOPES: tuple[dict[str, bool], ...] = (
    {"global_pruning": False},
    {"global_pruning": True},
    {"global_pruning": True, "isomorphic": True},
)
#: Of channels. Where a width rounds down to 0 Torch-Pruning skips the layer, so the MACs do not
#: fall steadily: all ratios are tried instead of a bisection.
RATIOS = tuple(percent / 100 for percent in range(2, 81, 2))
PACKAGES = {
    "torch": "torch onnxscript",
    "torch_pruning": "torch-pruning==1.6.1",
    "onnxsim": "onnxsim==0.8.1",
}


class PeerUnavailable(Exception):
    """A peer is not installed; the message says how to install it."""


class PeerFailed(Exception):
    """A peer raised, or cannot reach the target; the message holds its own words."""


def torch_pruned(
    name: str, macs: float, calibration: Array, *, recalibrate: bool, round_to: int | None = 8
) -> onnx.ModelProto:
    """Prune net `name` to at most the share `macs` of its MACs with Torch-Pruning; export it.

    Args:
        recalibrate: measure the BatchNorm statistics of the pruned net on `calibration`.
        round_to: widths are multiples of this; the README recommends 8 for speed. None keeps
            more accuracy, at widths that may be slower than those of the unpruned net.

    Raises:
        PeerUnavailable: torch or torch-pruning is not installed.
        PeerFailed: Torch-Pruning or its result raised, or no ratio reaches the target.
    """
    _need("torch_pruning")
    net = trained_net(name, calibration)
    budget = macs * _torch_macs(net)

    def candidate(options: dict[str, Any]) -> onnx.ModelProto:
        pruned = _best_below(net, budget, options)
        if recalibrate:
            _recalibrate(pruned, calibration)
        return _export(pruned)

    settings = [{**scope, "round_to": round_to} for scope in SCOPES]
    return _closest("Torch-Pruning", name, macs, calibration, candidate, settings)


def onnxsim_pruned(name: str, macs: float, calibration: Array) -> onnx.ModelProto:
    """Prune net `name` with onnxsim's structured pruning and its refit.

    Raises as `torch_pruned` does.
    """
    onnxsim = _need("onnxsim")
    if not hasattr(onnxsim, "apply_structured_wanda_pruning"):
        raise PeerUnavailable(f"this onnxsim cannot prune: pip install {PACKAGES['onnxsim']}")
    original = reference(name)
    budget = _macs(original) * macs
    feeds = [{"image": calibration[i : i + 64]} for i in range(0, len(calibration), 64)]

    def candidate(options: dict[str, Any]) -> Any:
        prune = onnxsim.apply_structured_pruning
        if options.pop("calibrated"):
            prune = partial(onnxsim.apply_structured_wanda_pruning, calibration_data=feeds)
        best, low, high = None, 0.0, 1.0
        for _ in range(9):
            middle = (low + high) / 2
            pruned = prune(reference(name), sparsity=middle, **options)
            if _macs(pruned) <= budget:
                best, high = pruned, middle
            else:
                low = middle
        if best is None:
            raise PeerFailed(f"leaves {_macs(pruned) / _macs(original):.0%} of the MACs")
        return onnxsim.apply_pruning_finetune(original, best, calibration_data=feeds)

    both = (False, True)
    settings = [{"calibrated": c, "global_sparsity": g} for c in both for g in both]
    return _closest("onnxsim", name, macs, calibration, candidate, settings)


def _closest(
    peer: str,
    name: str,
    macs: float,
    calibration: Array,
    candidate: Callable[[dict[str, Any]], onnx.ModelProto],
    settings: Iterable[dict[str, Any]],
) -> onnx.ModelProto:
    """The candidate whose answers on the calibration images are most often the unpruned net's."""
    original = reference(name)
    expected = _answers(original, calibration)
    results, failures = list[tuple[float, onnx.ModelProto]](), list[str]()
    for options in settings:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = candidate(options)
            if (left := _macs(model) / _macs(original)) > macs:
                raise PeerFailed(f"leaves {left:.1%} of the MACs")
            agreement = float((_answers(model, calibration) == expected).mean())
            results.append((agreement, model))
        except PeerFailed as error:
            failures.append(f"{peer} {error}")
        except Exception as error:  # whatever it is, it is the peer's result
            failures.append(f"{peer}: {type(error).__name__}: {error}")
    if not results:
        raise PeerFailed("; ".join(dict.fromkeys(failures)))
    return max(results, key=lambda result: result[0])[1]


def _answers(model: onnx.ModelProto, images: Array) -> Array:
    session = ort.InferenceSession(model.SerializeToString())
    answers: Array = session.run(None, {"image": images})[0].argmax(axis=1)
    return answers


def reference(name: str) -> onnx.ModelProto:
    """The committed ONNX file of net `name`."""
    return onnx.load(FOLDER / f"{name}.onnx")


def trained_net(name: str, calibration: Array) -> Any:
    """The torch module of net `name` with the weights of its ONNX file, in evaluation mode."""
    torch = _need("torch")
    from models.train import PLANS

    net: Any = PLANS[name].net().eval()
    graph = reference(name).graph
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    # The exporter transposes the weights of linear layers and renames them, in graph order.
    weights = [node.input[1] for node in graph.node if node.op_type == "MatMul"]
    matrices = iter(arrays[weight].T for weight in weights if weight in arrays)
    conv = ""
    with torch.no_grad():
        for path, module in net.named_modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_var.fill_(1 - module.eps)
                module.bias.copy_(torch.tensor(arrays[f"{conv}.weight_bias"]))
                continue
            conv = path if isinstance(module, torch.nn.Conv2d) else conv
            for local, parameter in module.named_parameters(path, recurse=False):
                array = arrays[local] if local in arrays else next(matrices)
                parameter.copy_(torch.tensor(array))
    _measure_batchnorms(net, calibration)
    return net


def _measure_batchnorms(net: Any, calibration: Array) -> None:
    """Let every BatchNorm hold the statistics of its input without changing its function."""
    torch = _need("torch")

    def measure(norm: Any, inputs: tuple[Any, ...]) -> None:
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        shift = norm.bias - norm.running_mean * scale
        norm.running_mean.copy_(inputs[0].mean((0, 2, 3)))
        norm.running_var.copy_(inputs[0].var((0, 2, 3)))
        norm.weight.copy_(scale * (norm.running_var + norm.eps).sqrt())
        norm.bias.copy_(shift + norm.running_mean * scale)

    norms = [module for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(measure) for norm in norms]
    with torch.no_grad():
        net(torch.tensor(calibration))
    for hook in hooks:
        hook.remove()


def _recalibrate(net: Any, calibration: Array) -> None:
    """The usual recipe: reset the running statistics, one forward pass in training mode."""
    torch = _need("torch")
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # a plain average
            module.train()
    with torch.no_grad():
        net(torch.tensor(calibration))
    net.eval()


def _best_below(net: Any, budget: float, options: dict[str, Any]) -> Any:
    """The pruned net with the most MACs at or below the budget."""
    pruned = [_prune(net, ratio, options) for ratio in RATIOS]
    macs = [_torch_macs(candidate) for candidate in pruned]
    most = max((count for count in macs if count <= budget), default=None)
    if most is None:
        raise PeerFailed(f"leaves {min(macs) / _torch_macs(net):.0%} of the MACs")
    return pruned[macs.index(most)]


def _prune(net: Any, ratio: float, options: dict[str, Any]) -> Any:
    """A copy of `net` without the `ratio` of its channels."""
    from models import nets

    peer = _need("torch_pruning")
    pruned = copy.deepcopy(net)
    heads = {}
    for module in pruned.modules():
        if isinstance(module, nets.Attention):
            heads[module.qkv] = module.heads
            attention: Any = module
            attention.forward = MethodType(_attention, attention)
    pruner = peer.pruner.BasePruner(
        pruned,
        _need("torch").zeros(1, 1, 28, 28),
        importance=peer.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio,
        ignored_layers=[pruned.head],
        num_heads=heads,
        in_channel_groups={},  # the defaults are dictionaries that all pruners share
        out_channel_groups={},
        **options,
    )
    pruner.step()
    return pruned


def _attention(self: Any, x: Any) -> Any:
    """`models.nets.Attention.forward` where heads may be narrower than the residual stream."""
    batch, tokens, _ = x.shape
    q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    weights = ((q * self.scale) @ k.transpose(-2, -1)).softmax(-1)
    return self.proj((weights @ v).transpose(1, 2).reshape(batch, tokens, -1))


def _torch_macs(net: Any) -> int:
    """Multiply-accumulates for one image, which equal those of the exported model."""
    torch, counters = _need("torch"), _need("torch.utils.flop_counter")
    with torch.no_grad(), counters.FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, 1, 28, 28))
    return int(counter.get_total_flops()) // 2


def _export(net: Any) -> onnx.ModelProto:
    """The module as ONNX, like the committed files."""
    from models.train import export

    with tempfile.TemporaryDirectory() as directory, redirect_stdout(io.StringIO()):
        path = Path(directory) / "pruned.onnx"
        export(net, path)
        return onnx.load(path)


def _macs(model: onnx.ModelProto) -> int:
    return inspect(model).macs or 0


def _need(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise PeerUnavailable(f"{module} is missing: pip install {PACKAGES[module]}") from error
