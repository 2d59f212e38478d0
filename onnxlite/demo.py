"""The whole way on a trained model and real images that come with the package.

A residual net (93% on Fashion-MNIST) is simplified, pruned by magnitude and quantized
to INT8. Calibration uses 1,024 training images without their labels; accuracy is
measured on 2,000 labelled test images that no step has seen.
"""

from __future__ import annotations

import contextlib
import importlib.resources
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onnxlite.errors import LoadError, SaveError
from onnxlite.recipe import PruneWeights, QuantizeStatic, Recipe, RunReport, Simplify, run
from onnxlite.records import Progress, no_progress
from onnxlite.report import to_json, write_text
from onnxlite.save import save

#: 30% of zeros make the zipped INT8 file a ninth smaller and leave the accuracy as it is;
#: 50% would cost half a point.
RECIPE = Recipe(
    (Simplify(), PruneWeights(sparsity=0.3, method="magnitude", scope="global"), QuantizeStatic())
)

#: Mean and standard deviation of the training images' pixels, as the net was trained.
_MEAN, _STD = 0.2860, 0.3530


def demo(output: Path | None = None, *, progress: Progress = no_progress) -> RunReport:
    """Compress the embedded model and measure what became of it.

    The report's fidelity holds the accuracy of both models on the labelled test images.

    Args:
        output: a folder for the float model, the result, the recipe and the report; made if
            it is missing.
        progress: called as the work goes on.

    Raises:
        LoadError: the installation lacks the model or the images.
        SaveError: the folder cannot be made.
    """
    with _embedded("residual.onnx", "fashion") as path, _embedded("fashion_mnist.npz", "data") as f:
        with np.load(f) as data:
            calibration, test = _to_input(data["calibration"]), _to_input(data["test"])
            labels = data["labels"].astype(np.int64)
        if output is not None:
            _make(output)
        report: RunReport = run(
            path,
            RECIPE,
            samples=calibration,
            output=None if output is None else output / "small.onnx",
            evaluation=test,
            labels=labels,
            progress=progress,
        ).report
        if output is not None:
            save(path, output / "residual.onnx")
            write_text(output / "recipe.toml", RECIPE.to_toml())
            write_text(output / "report.json", to_json("run", report))
    return report


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SaveError(f"cannot make the folder {str(folder)!r}: {error.strerror}") from error


@contextlib.contextmanager
def _embedded(name: str, checkout_folder: str) -> Iterator[Path]:
    """A file of the installed package, or of the source checkout it was built from."""
    resource = importlib.resources.files("onnxlite") / "embedded" / name
    if resource.is_file():
        with importlib.resources.as_file(resource) as path:
            yield path
        return
    path = Path(__file__).parent.parent / "models" / checkout_folder / name
    if not path.is_file():
        raise LoadError(
            f"the demo's {name} is missing from this installation: install onnxlite again"
        )
    yield path


def _to_input(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """`uint8[n, 28, 28]` pixels as the net's `float32[n, 1, 28, 28]` input."""
    return ((images[:, None].astype(np.float32) / 255 - _MEAN) / _STD).astype(np.float32)
