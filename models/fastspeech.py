"""A small duration model like FastSpeech (Ren et al. 2019): spectrograms from tokens.

Each token's encoding is repeated by its predicted duration, rounded, so that the length of the
output depends on values; nothing is random. Weights as in `models/vits.py`.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from models.vits import ChannelNorm, Encoder, Voice, conv, export_voice, repeat_frames

#: Bands of the spectrogram.
BANDS = 40


class FastSpeech(nn.Module):
    """Encoder, durations, repetition, and convolutions over frames; token 0 is padding."""

    def __init__(self, sizes: Voice) -> None:
        super().__init__()
        width = sizes.width
        self.encoder = Encoder(sizes)
        self.predict = nn.ModuleList(conv(width, width, 3) for _ in range(2))
        self.norms = nn.ModuleList(ChannelNorm(width) for _ in range(2))
        self.duration = conv(width, 1, 1, std=0.4, mean=1.2)
        self.inner = nn.ModuleList(conv(width, 2 * width, 5) for _ in range(sizes.layers))
        self.outer = nn.ModuleList(conv(2 * width, width, 5, std=0.5) for _ in range(sizes.layers))
        self.bands = conv(width, BANDS, 1)

    def forward(self, ids: Tensor) -> Tensor:
        mask = (ids != 0)[:, None].float()
        x = self.encoder(ids, mask)
        hidden = x
        for layer, norm in zip(self.predict, self.norms, strict=True):
            hidden = norm(torch.relu(layer(hidden * mask)))
        durations = torch.round(torch.exp(self.duration(hidden)) * mask)
        path, frame_mask = repeat_frames(durations)
        x = x @ path
        for inner, outer in zip(self.inner, self.outer, strict=True):
            x = x + outer(torch.relu(inner(x * frame_mask)))
        y: Tensor = self.bands(x) * frame_mask
        return y


def fastspeech(path: Path, *, sizes: Voice | None = None, seed: int = 0) -> Path:
    """Write a duration model with random weights, opset 17.

    Input `ids: int64[batch, tokens]`; output `spectrogram: float32[batch, 40, frames]`.
    """
    return export_voice(FastSpeech, path, sizes or Voice(), {}, "spectrogram", seed)
