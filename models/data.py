"""Fashion-MNIST (Xiao et al. 2017): the committed excerpt, and the whole set where it is installed.

The excerpt `models/data/fashion_mnist.npz` holds 1,024 training images for
calibration and the first 2,000 test images with their labels, all `uint8`. The
two come from different splits, so they never overlap. The whole set is Debian's
package `dataset-fashion-mnist`.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

EXCERPT = Path(__file__).parent / "data" / "fashion_mnist.npz"
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
MEAN, STD = 0.2860, 0.3530

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]


def to_input(images: Images) -> NDArray[np.float32]:
    """Normalise `uint8[n, 28, 28]` images to the nets' `float32[n, 1, 28, 28]` input."""
    return ((images[:, None].astype(np.float32) / 255 - MEAN) / STD).astype(np.float32)


def calibration_images(count: int = 1024) -> NDArray[np.float32]:
    """The first `count` (at most 1,024) committed training images, as network input."""
    with np.load(EXCERPT) as data:
        return to_input(data["calibration"][:count])


def test_set(*, full: bool = False) -> tuple[NDArray[np.float32], Labels]:
    """Labelled test images as network input: the committed 2,000, or all 10,000.

    Raises:
        FileNotFoundError: `full` without Debian's `dataset-fashion-mnist`.
    """
    if full:
        images, labels = read_split("t10k")
        return to_input(images), labels
    with np.load(EXCERPT) as data:
        return to_input(data["test"]), data["labels"].astype(np.int64)


def has_full_set() -> bool:
    """Whether the whole data set is installed on this machine."""
    return (DEBIAN / "t10k-images-idx3-ubyte.gz").exists()


def read_split(split: str) -> tuple[Images, Labels]:
    """All images (`uint8[n, 28, 28]`) and labels of `"train"` or `"t10k"`."""
    if not has_full_set():
        raise FileNotFoundError(
            f"{DEBIAN} is missing: install it with `apt-get install dataset-fashion-mnist`"
        )
    with gzip.open(DEBIAN / f"{split}-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(DEBIAN / f"{split}-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8).astype(np.int64)
    return images, labels


def write_excerpt(seed: int = 0) -> None:
    """Draw the committed excerpt from the whole set."""
    images, _ = read_split("train")
    test, labels = read_split("t10k")
    chosen = np.sort(np.random.default_rng(seed).choice(len(images), 1024, replace=False))
    np.random.default_rng(seed).shuffle(chosen)
    EXCERPT.parent.mkdir(exist_ok=True)
    np.savez_compressed(
        EXCERPT,
        calibration=images[chosen],
        test=test[:2000],
        labels=labels[:2000].astype(np.uint8),
    )


if __name__ == "__main__":
    write_excerpt()
