"""A small VITS voice (Kim et al. 2021), made with torch and exported to ONNX.

Text encoder, stochastic durations, repetition of each token's frames by its rounded duration, a
normalizing flow, and a HiFi-GAN decoder (Kong et al. 2020). The graph has what makes such voices
hard to measure: two `RandomNormalLike` nodes, and an output whose length depends on values. Unlike
in VITS the flow of durations has affine couplings instead of splines. Weights are random; each
layer is scaled to the variance given, so that durations and audio have sensible sizes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from models.fetch import atomic


@dataclass(frozen=True, kw_only=True)
class Voice:
    """Sizes of a voice; the defaults have 2.6 million parameters."""

    vocabulary: int = 64
    width: int = 96
    layers: int = 3
    heads: int = 2
    flows: int = 4
    upsampling: tuple[int, ...] = (8, 8, 4)
    decoder_width: int = 192


class Scaled(nn.Module):
    """A convolution or linear layer whose output has a given standard deviation.

    The first call divides the weight by what it measures (LSUV, Mishkin & Matas 2016).
    """

    def __init__(self, layer: nn.Module, std: float = 1.0, mean: float = 0.0) -> None:
        super().__init__()
        self.layer, self.std, self.mean, self.ready = layer, std, mean, False

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        if not self.ready:
            self.ready = True
            with torch.no_grad():
                factor = self.std / float(y.std().clamp(min=1e-6))
                self.layer.weight.mul_(factor)
                self.layer.bias.copy_(self.layer.bias * factor + self.mean - factor * y.mean())
            y = self.layer(x)
        return y


def conv(inputs: int, outputs: int, kernel: int, *, std: float = 1.0, dilation: int = 1,
         groups: int = 1, mean: float = 0.0) -> Scaled:  # fmt: skip
    """A convolution over time that keeps the length."""
    padding = dilation * (kernel // 2)
    layer = nn.Conv1d(inputs, outputs, kernel, padding=padding, dilation=dilation, groups=groups)
    return Scaled(layer, std, mean)


class ChannelNorm(nn.Module):
    """Layer normalization over the channels of `[batch, channels, time]`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(x.transpose(1, 2))
        return y.transpose(1, 2)


class Attention(nn.Module):
    """Self-attention over time with a mask of the tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (conv(width, width, 1) for _ in range(3))
        self.out = conv(width, width, 1, std=0.5)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        batch, width, _ = x.shape
        parts = [
            each(x).reshape(batch, self.heads, width // self.heads, -1)
            for each in (self.query, self.key, self.value)
        ]
        scores = parts[0].transpose(2, 3) @ parts[1] * (width // self.heads) ** -0.5
        scores = scores.masked_fill(mask[:, None] == 0, -1e4)
        mixed = parts[2] @ scores.softmax(-1).transpose(2, 3)
        y: Tensor = self.out(mixed.reshape(batch, width, -1))
        return y


class Encoder(nn.Module):
    """Embedding and transformer layers with convolutions: `[batch, width, tokens]`."""

    def __init__(self, sizes: Voice) -> None:
        super().__init__()
        width = sizes.width
        self.embed = nn.Embedding(sizes.vocabulary, width)
        self.attentions, self.norms, self.inner, self.outer, self.ends = (
            nn.ModuleList(make() for _ in range(sizes.layers))
            for make in (
                lambda: Attention(width, sizes.heads),
                lambda: ChannelNorm(width),
                lambda: conv(width, 2 * width, 3),
                lambda: conv(2 * width, width, 3, std=0.5),
                lambda: ChannelNorm(width),
            )
        )

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.embed(ids).transpose(1, 2) * mask
        layers = zip(self.attentions, self.norms, self.inner, self.outer, self.ends, strict=True)
        for attention, norm, inner, outer, end in layers:
            x = norm(x + attention(x, mask))
            x = end(x + outer(torch.relu(inner(x * mask)) * mask))
        return x * mask


class Separable(nn.Module):
    """Dilated depthwise convolutions with residuals, as in the predictor of durations."""

    def __init__(self, width: int, layers: int = 3) -> None:
        super().__init__()
        self.deep = nn.ModuleList(
            conv(width, width, 3, dilation=3**i, groups=width) for i in range(layers)
        )
        self.point = nn.ModuleList(conv(width, width, 1, std=0.5) for _ in range(layers))
        self.norms = nn.ModuleList(ChannelNorm(width) for _ in range(layers))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        for deep, point, norm in zip(self.deep, self.point, self.norms, strict=True):
            x = x + point(nn.functional.gelu(norm(deep(x * mask))))
        return x * mask


class Durations(nn.Module):
    """Log durations `[batch, 1, tokens]` from noise through affine couplings."""

    def __init__(self, width: int, flows: int) -> None:
        super().__init__()
        self.start, self.text = conv(width, width, 1), Separable(width)
        self.first = nn.ModuleList(conv(1, width, 1, std=0.3) for _ in range(flows))
        self.inner = nn.ModuleList(Separable(width) for _ in range(flows))
        self.last = nn.ModuleList(conv(width, 2, 1, std=0.15) for _ in range(flows))
        self.mean = conv(width, 1, 1, std=0.3, mean=1.2)

    def forward(self, x: Tensor, mask: Tensor, noise_scale: Tensor) -> Tensor:
        text = self.text(self.start(x), mask)
        noise = torch.randn_like(x[:, :2]) * noise_scale
        a, b = noise[:, :1], noise[:, 1:]
        for first, inner, last in zip(self.first, self.inner, self.last, strict=True):
            shift, scale = last(inner(first(a) + text, mask)).chunk(2, 1)
            a, b = (b - shift) * torch.exp(-scale), a
        y: Tensor = self.mean(text) + 0.3 * a
        return y


class WaveNet(nn.Module):
    """Gated dilated convolutions with residual and skip connections (van den Oord et al. 2016)."""

    def __init__(self, width: int, layers: int = 3) -> None:
        super().__init__()
        self.width = width
        self.gates = nn.ModuleList(conv(width, 2 * width, 5, dilation=2**i) for i in range(layers))
        self.mix = nn.ModuleList(conv(width, 2 * width, 1, std=0.5) for _ in range(layers))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        total = torch.zeros_like(x)
        for gate, mix in zip(self.gates, self.mix, strict=True):
            a, b = gate(x * mask).chunk(2, 1)
            residual, skip = mix(torch.tanh(a) * torch.sigmoid(b)).chunk(2, 1)
            x, total = x + residual, total + skip
        return total * mask


class Flow(nn.Module):
    """Additive couplings, run backwards, with the channels turned round between them."""

    def __init__(self, width: int, flows: int) -> None:
        super().__init__()
        self.first = nn.ModuleList(conv(width // 2, width, 1) for _ in range(flows))
        self.inner = nn.ModuleList(WaveNet(width) for _ in range(flows))
        self.last = nn.ModuleList(conv(width, width // 2, 1, std=0.5) for _ in range(flows))

    def forward(self, z: Tensor, mask: Tensor) -> Tensor:
        for first, inner, last in zip(self.first, self.inner, self.last, strict=True):
            a, b = torch.flip(z, (1,)).chunk(2, 1)
            z = torch.cat([a, (b - last(inner(first(a) * mask, mask))) * mask], 1)
        return z


class HifiGan(nn.Module):
    """Transposed convolutions, each followed by the mean of residual blocks: audio."""

    def __init__(self, inputs: int, width: int, upsampling: tuple[int, ...]) -> None:
        super().__init__()
        self.start = conv(inputs, width, 7)
        self.up, self.blocks = nn.ModuleList(), nn.ModuleList()
        for factor in upsampling:
            layer = nn.ConvTranspose1d(width, width // 2, 2 * factor, factor, padding=factor // 2)
            self.up.append(Scaled(layer))
            width //= 2
            self.blocks.append(
                nn.ModuleList(
                    conv(width, width, kernel, dilation=dilation, std=0.5)
                    for kernel, dilation in ((3, 1), (3, 3), (7, 1), (7, 3))
                )
            )
        self.last = conv(width, 1, 7, std=0.3)

    def forward(self, z: Tensor) -> Tensor:
        x = self.start(z)
        for up, (a, b, c, d) in zip(self.up, self.blocks, strict=True):
            x = up(_leaky(x))
            one = x + b(_leaky(x + a(_leaky(x))))
            two = x + d(_leaky(x + c(_leaky(x))))
            x = (one + two) * 0.5
        return torch.tanh(self.last(_leaky(x)))


def _leaky(x: Tensor) -> Tensor:
    return nn.functional.leaky_relu(x, 0.1)


def repeat_frames(durations: Tensor) -> tuple[Tensor, Tensor]:
    """Alignment of frames to tokens, and the mask of the frames.

    Args:
        durations: whole numbers, float32[batch, 1, tokens].

    Returns:
        float32[batch, tokens, frames] with a single 1 for every frame, and float32[batch, 1,
        frames]; the number of frames is that of the longest sample.
    """
    ends = durations.cumsum(-1).transpose(1, 2)
    counts = ends[:, -1:].clamp(min=1)
    frames = torch.arange(counts.max())[None, None]
    before = (frames < ends).float()
    return before - nn.functional.pad(before[:, :-1], (0, 0, 1, 0)), (frames < counts).float()


class Vits(nn.Module):
    """The voice in the direction of inference; token 0 is padding."""

    def __init__(self, sizes: Voice) -> None:
        super().__init__()
        self.encoder = Encoder(sizes)
        self.prior = conv(sizes.width, 2 * sizes.width, 1, std=0.7)
        self.durations = Durations(sizes.width, sizes.flows)
        self.flow = Flow(sizes.width, sizes.flows)
        self.decoder = HifiGan(sizes.width, sizes.decoder_width, sizes.upsampling)

    def forward(self, ids: Tensor, scales: Tensor) -> Tensor:
        mask = (ids != 0)[:, None].float()
        x = self.encoder(ids, mask)
        mean, log_std = self.prior(x).chunk(2, 1)
        log_durations = self.durations(x, mask, scales[2])
        path, frame_mask = repeat_frames(torch.ceil(torch.exp(log_durations) * mask * scales[1]))
        mean, log_std = mean @ path, log_std @ path
        z = mean + torch.randn_like(mean) * torch.exp(log_std - 1) * scales[0]
        audio: Tensor = self.decoder(self.flow(z, frame_mask) * frame_mask)
        return audio


def vits(path: Path, *, sizes: Voice | None = None, seed: int = 0) -> Path:
    """Write a VITS voice with random weights, opset 17.

    Inputs `ids: int64[batch, tokens]`, `scales: float32[3]` (noise, length and noise of durations,
    usually 0.667, 1 and 0.8); output `audio: float32[batch, 1, samples]`.
    """
    scales = torch.tensor([0.667, 1.0, 0.8])
    return export_voice(Vits, path, sizes or Voice(), {"scales": scales}, "audio", seed)


def export_voice(
    make: Callable[[Voice], nn.Module],
    path: Path,
    sizes: Voice,
    more: dict[str, Tensor],
    output: str,
    seed: int,
) -> Path:
    """Write a net over `ids` and `more` with seeded random weights of sensible sizes."""
    with torch.random.fork_rng(devices=[]), torch.no_grad(), warnings.catch_warnings():
        # The exporter that traces is the one that knows lengths from values, and is deprecated.
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        net = make(sizes).eval()
        ids = torch.randint(1, sizes.vocabulary, (8, 32))
        ids[::2, 24:] = 0
        net(ids, *more.values())
        with atomic(path) as partial:
            torch.onnx.export(
                net,
                (ids, *more.values()),
                str(partial),
                dynamo=False,
                opset_version=17,
                input_names=["ids", *more],
                output_names=[output],
                dynamic_axes={"ids": {0: "batch", 1: "tokens"}, output: {0: "batch", 2: "time"}},
            )
    return path
