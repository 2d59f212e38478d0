"""Train a Fashion-MNIST net and export it: `python -m models.train residual`.

Needs torch, onnxscript and Debian's `dataset-fashion-mnist`. Writes
`models/fashion/NAME.onnx` (opset 20, dynamic batch) and prints the accuracy that
ONNX Runtime reaches on the 10,000 test images. On two cores: about an hour for
the residual net, half of that for each of the others.

The recipe is the usual short one: SGD with Nesterov momentum (AdamW for the
transformer), one-cycle learning rate (Smith 2018), random shifts and flips,
label smoothing, and an exponential average of the weights.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.data import read_split, to_input
from models.nets import MobileNet, ResidualNet, VisionTransformer

OUT = Path(__file__).parent / "fashion"


@dataclass(frozen=True)
class Plan:
    """How one net is trained; `small_until` is the share of epochs on 20x20 images."""

    net: type[nn.Module]
    epochs: int
    peak_lr: float
    weight_decay: float
    adam: bool = False
    small_until: float = 0.0
    batch: int = 128


PLANS = {
    "residual": Plan(ResidualNet, 11, 0.15, 5e-4, small_until=0.63),
    "mobilenet": Plan(MobileNet, 14, 0.12, 1e-4, small_until=0.7),
    "vit": Plan(VisionTransformer, 16, 1.5e-3, 0.05, adam=True),
}


def augment(images: Tensor, generator: torch.Generator, size: int) -> Tensor:
    """Random horizontal flips and shifts by up to 2 pixels, then resize to `size`."""
    n = len(images)
    flips = torch.rand(n, generator=generator) < 0.5
    images = torch.where(flips[:, None, None, None], images.flip(-1), images)
    padded = F.pad(images, (2, 2, 2, 2), value=float(images.min()))
    dy, dx = torch.randint(0, 5, (2, n), generator=generator)
    rows = dy[:, None] + torch.arange(28)
    cols = dx[:, None] + torch.arange(28)
    images = padded[torch.arange(n)[:, None, None], 0, rows[:, :, None], cols[:, None, :]][:, None]
    return images if size == 28 else F.interpolate(images, (size, size), mode="area")


def accuracy(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Top-1 accuracy of `net` in evaluation mode."""
    net.eval()
    with torch.no_grad():
        hits = sum(
            int((net(x).argmax(1) == y).sum())
            for x, y in zip(images.split(500), labels.split(500), strict=True)
        )
    return hits / len(labels)


def train(name: str, *, epochs: int | None = None, seed: int = 0) -> nn.Module:
    """Train net `name` and return the averaged weights in evaluation mode."""
    plan = PLANS[name]
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    images, labels = (torch.from_numpy(np.array(a)) for a in _split("train"))
    test, test_labels = (torch.from_numpy(np.array(a)) for a in _split("t10k"))
    net = plan.net().to(memory_format=torch.channels_last)
    average = copy.deepcopy(net)
    decayed = [p for p in net.parameters() if p.ndim > 1]
    plain = [p for p in net.parameters() if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": plan.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    optimizer: torch.optim.Optimizer = (
        torch.optim.AdamW(groups, lr=plan.peak_lr)
        if plan.adam
        else torch.optim.SGD(groups, lr=plan.peak_lr, momentum=0.9, nesterov=True)
    )
    total = epochs or plan.epochs
    steps = total * (len(images) // plan.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _one_cycle(step / steps))
    for epoch in range(total):
        start, size = time.perf_counter(), 20 if epoch < plan.small_until * total else 28
        net.train()
        order = torch.randperm(len(images), generator=generator)[: steps // total * plan.batch]
        for chosen in order.split(plan.batch):
            x = augment(images[chosen], generator, size).contiguous(
                memory_format=torch.channels_last
            )
            loss = F.cross_entropy(net(x), labels[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            _average(average, net, 0.995)
        score = accuracy(average, test, test_labels)
        export(
            copy.deepcopy(average).eval(), OUT / f"{name}.onnx"
        )  # an interrupted run leaves its best
        seconds = time.perf_counter() - start
        print(f"{name} {epoch + 1}/{total} at {size}: {score:.4f}, {seconds:.0f} s", flush=True)
    return average.eval()


def _split(split: str) -> tuple[np.ndarray, np.ndarray]:
    images, labels = read_split(split)
    return to_input(images), labels


def _one_cycle(t: float) -> float:
    return t / 0.2 if t < 0.2 else 0.5 * (1 + math.cos(math.pi * (t - 0.2) / 0.8))


@torch.no_grad()
def _average(average: nn.Module, net: nn.Module, momentum: float) -> None:
    for a, b in zip(average.parameters(), net.parameters(), strict=True):
        a.lerp_(b, 1 - momentum)
    for a, b in zip(average.buffers(), net.buffers(), strict=True):
        a.copy_(b)


def export(net: nn.Module, path: Path) -> None:
    """Write `net` as ONNX opset 20 with a dynamic batch axis."""
    path.parent.mkdir(exist_ok=True)
    torch.onnx.export(
        net.to(memory_format=torch.contiguous_format),
        (torch.randn(2, 1, 28, 28),),
        path,
        dynamo=True,
        opset_version=20,
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        external_data=False,
    )
    strip_metadata(path)


def strip_metadata(path: Path) -> None:
    """Remove the exporter's stack traces, which hold the paths of the machine it ran on."""
    model = onnx.load(path)
    for item in (*model.graph.node, *model.graph.value_info, model.graph, model):
        del item.metadata_props[:]
    for item in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        del item.metadata_props[:]
    onnx.save(model, path)


def verify(path: Path) -> float:
    """Accuracy of the exported file in ONNX Runtime on the 10,000 test images."""
    import onnxruntime

    images, labels = _split("t10k")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    hits = 0
    for start in range(0, len(images), 500):
        (logits,) = session.run(None, {"image": images[start : start + 500]})
        hits += int((logits.argmax(1) == labels[start : start + 500]).sum())
    return hits / len(images)


def main() -> None:
    """Train, export and verify the nets named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+", choices=sorted(PLANS))
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for name in args.names:
        path = OUT / f"{name}.onnx"
        export(train(name, epochs=args.epochs), path)
        print(f"{path}: {path.stat().st_size} bytes, ONNX Runtime accuracy {verify(path):.4f}")


if __name__ == "__main__":
    main()
