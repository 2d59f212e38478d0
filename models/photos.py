"""Photographs for image classifiers, split by what they show.

Full scenes come from three PyPI wheels (scikit-image, scikit-learn and foolbox:
27 photographs, of which foolbox's 20 are of ImageNet's classes). If Debian's
`tuxpaint-stamps-default` is installed, 211 cut-out photographs of animals, plants
and things on white join them; `models/data/stamps.txt` lists which of its stamps
are photographs.
"""

from __future__ import annotations

import hashlib
import io
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from models.fetch import Package, PackageMissing, fetch

if TYPE_CHECKING:
    from PIL import Image

_log = logging.getLogger(__name__)

Split = Literal["calibration", "evaluation"]

STAMPS = Path("/usr/share/tuxpaint/stamps")
STAMP_LIST = Path(__file__).parent / "data" / "stamps.txt"
WHEELS = (
    Package(
        name="foolbox",
        version="3.3.4",
        keep=("foolbox/data/imagenet_*.jpg",),
        sha256="d625818dacf79cc40ced71ff12f1d4955c3d2655ae4b047b3c93b1819cb8f3fe",
    ),
    Package(
        name="scikit-image",
        version="0.26.0",
        keep=tuple(
            f"skimage/data/{name}"
            for name in (
                "astronaut.png",
                "chelsea.png",
                "coffee.png",
                "motorcycle_left.png",
                "rocket.jpg",
            )
        ),
        sha256="573230a687c038dc8318607c730f63737d1d0fd548c2a53dec74271c8e8cb969",
    ),
    Package(
        name="scikit-learn",
        version="1.9.1",
        keep=("sklearn/datasets/images/*.jpg",),
        sha256="c1ef34f251839d4aea0f512ef005eeba01e9109bce8f7f4b7c4da6e3f45c54e5",
    ),
)

#: ImageNet's channel means and deviations (RGB in 0..1), with which EfficientNet-Lite0 was trained.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_BICUBIC = 3  # Pillow's resampling filter, by value because Pillow is imported late


@dataclass(frozen=True, kw_only=True)
class Source:
    """One photograph; those of one `subject` are always on the same side of the split."""

    path: Path
    subject: str
    cut_out: bool

    @property
    def split(self) -> Split:
        """A third of the subjects is for calibration, by a hash of the name."""
        return "calibration" if _hash(self.subject) % 3 == 0 else "evaluation"


def photograph_sources() -> list[Source]:
    """Every photograph that is at hand, in a fixed mixed order.

    Raises:
        FetchError: a wheel cannot be downloaded or is not the expected one.
    """
    sources = [
        Source(path=path, subject=path.stem, cut_out=False)
        for package in WHEELS
        for path in fetch(package)
    ]
    if STAMPS.exists():
        for name in STAMP_LIST.read_text().split():
            stem = Path(name).stem
            # `bradley` and `bradley_mirror`, `grave-a` and `grave-g` show the same subject.
            subject = re.split(r"[^A-Za-z]", stem)[0].lower() or stem
            if (STAMPS / name).exists():
                sources.append(Source(path=STAMPS / name, subject=subject, cut_out=True))
    else:
        _log.warning(
            "%s is missing, so only %d photographs are at hand: "
            "`apt-get install tuxpaint-stamps-default` adds 211",
            STAMPS,
            len(sources),
        )
    return sorted(sources, key=lambda source: _hash(source.path.name))


def photographs(
    count: int, *, split: Split = "calibration", size: int = 224, seed: int = 0
) -> NDArray[np.float32]:
    """Photographs as `float32[count, 3, size, size]`, normalised as EfficientNet-Lite0 expects.

    Scenes and cut-outs alternate, and each source gives one random view in its
    turn: a crop of 40 to 100% of a scene's area (of its largest square), or a
    cut-out scaled to 60 to 100% of a white frame; half of them mirrored. The first n
    views are the same for every `count` >= n. No photograph, and no other photograph
    of the same subject, is in both splits.

    Raises:
        FetchError: a wheel cannot be had, or Pillow is not installed.
        ValueError: `split` is unknown or `count` is not positive.
    """
    if split not in ("calibration", "evaluation") or count < 1:
        raise ValueError(
            f"count must be positive and split 'calibration' or 'evaluation', "
            f"got {count} and {split!r}"
        )
    chosen = [source for source in photograph_sources() if source.split == split]
    scenes = [source for source in chosen if not source.cut_out]
    cut_outs = [source for source in chosen if source.cut_out]
    pools = [pool for pool in (scenes, cut_outs) if pool]
    pictures: dict[Path, Image.Image] = {}
    out = np.empty((count, 3, size, size), np.float32)
    for i in range(count):
        turn, pool = i // len(pools), pools[i % len(pools)]
        source = pool[turn % len(pool)]
        if source.path not in pictures:
            pictures[source.path] = _read(source)
        rng = np.random.default_rng([seed, _hash(source.path.name), turn // len(pool)])
        frame = _place if source.cut_out else _crop
        view = frame(pictures[source.path], size, rng)
        if rng.random() < 0.5:
            view = view[:, ::-1]
        out[i] = view.transpose(2, 0, 1)
    mean, std = (np.reshape(np.array(v, np.float32), (3, 1, 1)) for v in (MEAN, STD))
    out /= 255
    out -= mean
    out /= std
    return out


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def _read(source: Source) -> Image.Image:
    try:
        from PIL import Image
    except ImportError as error:
        raise PackageMissing("reading photographs needs Pillow: `pip install pillow`") from error
    picture = Image.open(io.BytesIO(source.path.read_bytes()))
    if not source.cut_out:
        return picture.convert("RGB")
    cut = picture.convert("RGBA")
    cut = cut.crop(cut.getchannel("A").getbbox())
    white = Image.new("RGB", cut.size, "white")
    white.paste(cut, mask=cut.getchannel("A"))
    return white


def _crop(picture: Image.Image, size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    side = min(picture.size) * rng.uniform(0.4, 1) ** 0.5
    left, top = (rng.uniform(0, extent - side) for extent in picture.size)
    box = (left, top, left + side, top + side)
    return np.asarray(picture.resize((size, size), _BICUBIC, box=box))


def _place(picture: Image.Image, size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    scale = size * rng.uniform(0.6, 1) / max(picture.size)
    width, height = (max(1, min(size, round(extent * scale))) for extent in picture.size)
    left, top = rng.integers(size - width + 1), rng.integers(size - height + 1)
    frame = np.full((size, size, 3), 255, np.uint8)
    frame[top : top + height, left : left + width] = picture.resize((width, height), _BICUBIC)
    return frame
