"""Export EfficientNet-Lite0: `python -m models.efficientnet CODE WEIGHTS OUT`.

Run by `models.zoo.efficientnet_lite0` in a process of its own, so that the
fetched code is never imported where the caller works. Needs torch and onnxscript.
CODE is the folder that holds `efficientnet_lite_pytorch/`.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import torch


def export(code: Path, weights: Path, out: Path) -> None:
    """Write `image: float32[batch, 3, 224, 224]` -> `logits: float32[batch, 1000]`, opset 20."""
    sys.path.insert(0, str(code))
    net = import_module("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0")
    net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    torch.onnx.export(
        net.eval(),
        (torch.randn(2, 3, 224, 224),),
        out,
        dynamo=True,
        opset_version=20,
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        external_data=False,
        verbose=False,
    )


if __name__ == "__main__":
    export(*map(Path, sys.argv[1:4]))
