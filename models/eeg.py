"""A trained net for EEG, and recordings made up of pink noise, rhythms and rare bursts.

The net finds seizures in spectrograms of one channel (PyPI package `brainmaze-eeg-models`); its
inputs have heavy tails: a burst of a second is far above all else in a minute.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.fetch import Package, fetch

BRAINMAZE = Package(
    name="brainmaze-eeg-models",
    version="0.1.0",
    keep=("brainmaze_eeg_models/seizure/_models/modelA_paper.onnx",),
    sha256="088c815a10b54435432a0bef2629977d59e655a0c60b48a89e744aa52b6d48e3",
)
#: Samples per second, and rows of a spectrogram.
_RATE, _FREQUENCIES = 200, 100
_TUKEY = 0.25
Array64 = NDArray[np.float64]


def seizure_net() -> Path:
    """Path of the net: `x: float32[n, 100, seconds * 2 - 1]` spectrograms."""
    (path,) = fetch(BRAINMAZE)
    return path


def spectrograms(
    count: int, *, seconds: int = 60, burst_rate: float = 0.05, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Make spectrograms of windows of EEG, of which some have bursts.

    Args:
        count: number of windows.
        seconds: length of each.
        burst_rate: fraction of the windows with bursts, 0 to 1.
        seed: of all random numbers.

    Returns:
        Standardised spectrograms, float32[count, 100, 2 * seconds - 1], and which windows have
        bursts, bool[count].
    """
    rng = np.random.default_rng(seed)
    bursts = rng.random(count) < burst_rate
    signal = np.stack([_window(rng, seconds, burst=bool(burst)) for burst in bursts])
    power = _power(_standardised(signal))[:, :_FREQUENCIES]
    return _standardised(power).astype(np.float32), bursts


def _standardised(values: Array64) -> Array64:
    mean, std = values.mean(axis=-1, keepdims=True), values.std(axis=-1, keepdims=True)
    scaled: Array64 = (values - mean) / std
    return scaled


def _window(rng: np.random.Generator, seconds: int, *, burst: bool) -> Array64:
    length = seconds * _RATE
    time = np.arange(length) / _RATE
    signal, envelope = _pink(rng, length), np.abs(_pink(rng, length))
    rhythm = 9 + rng.uniform(-1, 1)
    signal = signal + 0.5 * envelope * np.sin(2 * np.pi * rhythm * time + rng.uniform(0, 6))
    for _ in range(rng.integers(1, 4) if burst else 0):
        center, width = rng.uniform(2, seconds - 4), rng.uniform(0.5, 3)
        shape = np.exp(-(((time - center) / width) ** 4))
        tone = rng.choice([3, 6, 20, 40, 70])
        wave = np.sin(2 * np.pi * tone * time) * (1 + 0.3 * np.sin(4 * np.pi * tone * time))
        signal = signal + rng.uniform(3, 15) * shape * wave
    return signal


def _pink(rng: np.random.Generator, length: int) -> Array64:
    """Noise whose power falls with the frequency squared above half a hertz, of deviation 1."""
    frequency = np.fft.rfftfreq(length, 1 / _RATE)
    real, imaginary = rng.standard_normal((2, len(frequency)))
    noise: Array64 = np.fft.irfft((real + 1j * imaginary) / np.maximum(frequency, 0.5), length)
    noise /= noise.std()
    return noise


def _power(signal: Array64) -> Array64:
    """Power of tapered seconds that overlap by half, float64[n, frequencies, seconds * 2 - 1]."""
    starts = np.arange(0, signal.shape[1] - _RATE + 1, _RATE // 2)
    frames = signal[:, starts[:, None] + np.arange(_RATE)]
    frames = (frames - frames.mean(axis=-1, keepdims=True)) * _tukey_window()
    power: Array64 = (np.abs(np.fft.rfft(frames, axis=-1)) ** 2).transpose(0, 2, 1)
    return power


def _tukey_window() -> Array64:
    """Taper of one second: cosine over a quarter of it at both ends together."""
    position = np.arange(_RATE) / _RATE
    rise = 0.5 * (1 + np.cos(np.pi * (2 * position / _TUKEY - 1)))
    taper = np.where(position < _TUKEY / 2, rise, 1.0)
    return np.minimum(taper, taper[::-1])
