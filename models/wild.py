"""Inputs for the packaged nets that take no pictures or text pictures: made up, with structure.

Each function takes a number of samples and a split; the samples of the splits differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.photos import Split

Feed = Mapping[str, NDArray[Any]]

_RATE, _AUDIO = 22050, 43844
_NODE_FEATURES, _EDGE_FEATURES, _EIGENVECTORS, _WALKS = 85, 13, 8, 16
_HIDDEN, _SIGNS, _LATIN = 256, 90, 160
_CAPTCHA = (60, 160)
_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghjkmnpqrstuvwxyz23456789"


def _rng(split: Split, seed: int = 0) -> np.random.Generator:
    return np.random.default_rng([seed, split == "evaluation"])


def captchas(count: int, split: Split = "calibration") -> NDArray[np.float32]:
    """Letters, turned and crossed out: `float32[count, 3, 60, 160]` in 0..255."""
    from PIL import Image, ImageDraw, ImageFont

    rng, (height, width) = _rng(split), _CAPTCHA
    out = np.empty((count, 3, height, width), np.float32)
    for index in range(count):
        shades = rng.integers(180, 255, 3)
        picture = Image.new("RGB", (width, height), tuple(int(shade) for shade in shades))
        for place in range(5):
            tile = Image.new("L", (44, 44))
            font = ImageFont.load_default(int(rng.integers(26, 38)))
            letter = _LETTERS[int(rng.integers(len(_LETTERS)))]
            ImageDraw.Draw(tile).text((6, 0), letter, fill=255, font=font)
            tile = tile.rotate(float(rng.uniform(-25, 25)))
            ink = tuple(int(shade) for shade in rng.integers(0, 130, 3))
            left, top = 4 + 30 * place, int(rng.integers(0, 16))
            picture.paste(ink, (left, top, left + 44, top + 44), tile)
        draw = ImageDraw.Draw(picture)
        for _ in range(3):
            ends = [int(x) for x in rng.integers(0, (width, height, width, height))]
            draw.line(ends, fill=tuple(int(shade) for shade in rng.integers(0, 200, 3)))
        pixels = np.asarray(picture, np.float32) + rng.normal(0, 8, (height, width, 3))
        out[index] = np.clip(pixels, 0, 255)[..., ::-1].transpose(2, 0, 1)
    return out


def notes(count: int, split: Split = "calibration") -> NDArray[np.float32]:
    """Notes with overtones that fade, on noise: `float32[count, 43844, 1]` at 22,050 Hz."""
    rng, time = _rng(split), np.arange(_AUDIO) / _RATE
    out = rng.normal(0, 0.003, (count, _AUDIO))
    for row in out:
        for _ in range(int(rng.integers(3, 9))):
            pitch, start = 440 * 2 ** (rng.integers(-24, 24) / 12), rng.uniform(0, 1.6)
            fade = np.where(time < start, 0, np.exp(-(time - start) / rng.uniform(0.1, 0.8)))
            tones = range(1, 7)
            wave = sum(np.sin(2 * np.pi * k * pitch * time) / k**1.5 for k in tones)
            row += 0.15 * fade * wave
    return out.astype(np.float32)[..., None]


def molecules(count: int, split: Split = "calibration") -> list[Feed]:
    """Random trees with rings: features of nodes and edges as one-hot codes, and spectra."""
    rng = _rng(split)
    return [_molecule(rng, int(rng.integers(8, 28))) for _ in range(count)]


def _molecule(rng: np.random.Generator, nodes: int) -> Feed:
    pairs = [(int(rng.integers(max(0, i - 4), i)), i) for i in range(1, nodes)]
    pairs += [(i, i + 5) for i in range(0, nodes - 5, 7)]
    edges = np.array(pairs + [(b, a) for a, b in pairs], np.int64).T
    links = np.zeros((nodes, nodes))
    links[edges[0], edges[1]] = 1
    degree = links.sum(axis=1)
    norm = 1 / np.sqrt(degree)
    values, vectors = np.linalg.eigh(np.eye(nodes) - norm[:, None] * links * norm)
    walk, power, returns = links / degree[:, None], np.eye(nodes), []
    for _ in range(_WALKS):
        power = power @ walk
        returns.append(np.diag(power))
    kinds = rng.choice(44, nodes, p=_zipf(44))
    features = np.zeros((nodes, _NODE_FEATURES))
    features[np.arange(nodes), kinds] = 1
    features[np.arange(nodes), 44 + degree.astype(int)] = 1
    features[np.arange(nodes), 60 + rng.integers(0, 5, nodes)] = 1
    features[:, -4:] = rng.normal(0, 0.5, (nodes, 4))
    bonds = np.zeros((len(pairs), _EDGE_FEATURES))
    bonds[np.arange(len(pairs)), rng.choice(5, len(pairs), p=_zipf(5))] = 1
    bonds[:, -1] = rng.normal(1.4, 0.1, len(pairs))
    return {
        "feat": features.astype(np.float32),
        "edge_feat": np.concatenate([bonds, bonds]).astype(np.float32),
        "edge_index": edges,
        "laplacian_eigvec": vectors[:, :_EIGENVECTORS].astype(np.float32),
        "laplacian_eigval": np.tile(values[:_EIGENVECTORS], (nodes, 1)).astype(np.float32),
        "rw_return_probs": np.stack(returns, axis=1).astype(np.float32),
        "batch": np.zeros(nodes, np.int64),
        "graph_slots": np.zeros(1, np.float32),
    }


def khmer(count: int, split: Split = "calibration") -> list[Feed]:
    """Signs of sentences, frequent ones more often: `x: int64[1, n]`, `mask: bool[1, n]`."""
    rng = _rng(split)
    ids = [2 + rng.choice(120, int(rng.integers(20, 90)), p=_zipf(120)) for _ in range(count)]
    return [{"x": row[None], "mask": np.ones((1, len(row)), bool)} for row in ids]


def names(count: int, split: Split = "calibration") -> list[Feed]:
    """Signs of names: `src: int64[1, n]`, `src_mask: bool[1, n]`."""
    rng = _rng(split)
    rows = [
        30 + rng.choice(_SIGNS, int(rng.integers(4, 14)), p=_zipf(_SIGNS)) for _ in range(count)
    ]
    return [{"src": row[None], "src_mask": np.ones((1, len(row)), bool)} for row in rows]


def decoder_steps(count: int, split: Split = "calibration") -> list[Feed]:
    """Steps of the decoder of names behind its encoder, with what was written before."""
    from models.packages import packaged
    from onnxlite.runtime import Session

    encoder, rng = Session(packaged("Arabic names, encoder"), threads=1), _rng(split, 1)
    feeds: list[Feed] = []
    for name in names(count, split):
        memory, mask, hidden = encoder.run(dict(name)).values()
        before = int(rng.integers(1, 12))
        feeds.append(
            {
                "prefix": 4 + rng.choice(120, (1, before), p=_zipf(120)),
                "memory": memory,
                "src_mask": mask,
                "hidden": hidden,
            }
        )
    return feeds


def _zipf(count: int) -> NDArray[np.float64]:
    weights: NDArray[np.float64] = 1 / np.arange(1, count + 1)
    return np.asarray(weights / weights.sum())
