"""Small networks of the usual families in PyTorch, as users write them, with seeded weights.

Weights have the variance of He et al. (2015), so that activations keep their scale through the
layers and outputs depend on all inputs; normalisations get statistics other than 0 and 1.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True)
class Exportable:
    """A module in evaluation mode, and example inputs by the names of its arguments."""

    module: nn.Module
    inputs: dict[str, torch.Tensor]


def conv_bn(inputs, outputs, size, activation=nn.ReLU, **options):
    padding = options.pop("padding", "same" if options.get("stride", 1) == 1 else size // 2)
    conv = nn.Conv2d(inputs, outputs, size, padding=padding, bias=False, **options)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), activation())


class InceptionBlock(nn.Module):
    def __init__(self, inputs, width):
        super().__init__()
        self.single = conv_bn(inputs, width, 1)
        self.wide = nn.Sequential(conv_bn(inputs, width, 1), conv_bn(width, width, 3))
        self.factored = nn.Sequential(
            conv_bn(inputs, width, 1),
            conv_bn(width, width, (1, 5)),
            conv_bn(width, width, (5, 1)),
        )
        self.pool = nn.Sequential(nn.AvgPool2d(3, 1, 1), conv_bn(inputs, width, 1))

    def forward(self, x):
        return torch.cat([self.single(x), self.wide(x), self.factored(x), self.pool(x)], 1)


class Inception(nn.Module):
    """Szegedy et al., 2016: parallel branches, factored convolutions, pools that round up."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 8, 3, stride=2), nn.MaxPool2d(3, 2, ceil_mode=True))
        self.first, self.second = InceptionBlock(8, 6), InceptionBlock(24, 8)
        self.reduce = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.head = nn.Linear(32, 10)

    def forward(self, image):
        x = self.second(self.reduce(self.first(self.stem(image))))
        x = F.dropout(F.adaptive_avg_pool2d(x, 1).flatten(1), training=self.training)
        return self.head(x)


class SeparableTwice(nn.Module):
    def __init__(self, width, size):
        super().__init__()
        depthwise = (nn.Conv2d(width, width, size, padding=size // 2, groups=width) for _ in "ab")
        pointwise = (nn.Conv2d(width, width, 1) for _ in "ab")
        layers = []
        for pair in zip(depthwise, pointwise, strict=True):
            layers += [nn.ReLU(), *pair, nn.BatchNorm2d(width)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        return self.layers(x)


class FactorisedReduction(nn.Module):
    """Two 1x1 convolutions of stride 2, the second on the image shifted by one pixel."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.even = nn.Conv2d(inputs, outputs // 2, 1, stride=2, bias=False)
        self.odd = nn.Conv2d(inputs, outputs // 2, 1, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x):
        x = F.relu(x)
        shifted = F.pad(x, (0, 1, 0, 1))[:, :, 1:, 1:]
        return self.norm(torch.cat([self.even(x), self.odd(shifted)], 1))


class NASNet(nn.Module):
    """Zoph et al., 2018: a normal cell over the two results before it."""

    def __init__(self, width=8):
        super().__init__()
        self.stem = conv_bn(3, width, 3, stride=2)
        self.before, self.now = (
            FactorisedReduction(width, width),
            conv_bn(width, width, 3, stride=2),
        )
        sizes = {"a": 5, "b": 3, "c": 5, "d": 3, "e": 3}
        self.separable = nn.ModuleDict(
            {k: SeparableTwice(width, size) for k, size in sizes.items()}
        )
        self.pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        self.head = nn.Conv2d(6 * width, 10, 1)

    def forward(self, image):
        stem = self.stem(image)
        p, h = self.before(stem), self.now(stem)
        s = self.separable
        parts = [
            s["a"](h) + s["b"](p),
            s["c"](p) + s["d"](p),
            self.pool(h) + p,
            self.pool(p) + self.pool(p),
            s["e"](h) + h,
        ]
        return self.head(F.relu(torch.cat([p, *parts], 1))).mean((2, 3))


class RandWire(nn.Module):
    """Xie et al., 2019: a random DAG whose nodes sum their inputs with learned weights."""

    def __init__(self, nodes=8, width=8):
        super().__init__()
        random = torch.Generator().manual_seed(3)
        self.sources = [
            [j for j in range(i) if j == i - 1 or torch.rand((), generator=random) < 0.4]
            for i in range(nodes)
        ]
        self.sources = [
            s if torch.rand((), generator=random) < 0.8 else s[:1] for s in self.sources
        ]
        self.weights = nn.ParameterList([nn.Parameter(torch.randn(len(s))) for s in self.sources])
        self.stem = conv_bn(3, width, 3, stride=2)
        self.nodes = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1, groups=width),
                nn.Conv2d(width, width, 1),
                nn.BatchNorm2d(width),
            )
            for _ in range(nodes)
        )
        self.head = nn.Linear(width, 10)

    def forward(self, image):
        stem = self.stem(image)
        results = []
        for sources, weights, node in zip(self.sources, self.weights, self.nodes, strict=True):
            x = stem
            if sources:
                gates = torch.sigmoid(weights)
                x = sum(results[j] * gates[k] for k, j in enumerate(sources))
            results.append(node(F.relu(x)))
        used = {j for sources in self.sources for j in sources}
        ends = [x for j, x in enumerate(results) if j not in used]
        return self.head(torch.stack(ends).mean(0).mean((2, 3)))


class Encoder(nn.Module):
    """Two of PyTorch's own encoder layers with a padding mask, before and after normalisation."""

    def __init__(self, tokens=100, width=32):
        super().__init__()
        self.embed = nn.Embedding(tokens, width)
        self.position = nn.Parameter(torch.randn(1, 64, width))
        options = {"batch_first": True, "dropout": 0.1}
        self.first = nn.TransformerEncoderLayer(width, 4, 64, activation="gelu", **options)
        self.second = nn.TransformerEncoderLayer(width, 4, 64, norm_first=True, **options)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 5)

    def forward(self, ids, mask):
        x = self.embed(ids) * math.sqrt(self.embed.embedding_dim)
        x = x + self.position[:, : ids.shape[1]]
        padding = mask == 0
        x = self.second(self.first(x, src_key_padding_mask=padding), src_key_padding_mask=padding)
        return self.head(self.norm(x)[:, 0])


class Attention(nn.Module):
    """Own attention on scaled_dot_product_attention, one projection for queries, keys, values."""

    def __init__(self, width=32, heads=4):
        super().__init__()
        self.heads = heads
        self.embed = nn.Linear(12, width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, series):
        x = self.embed(series)
        batch, length, width = x.shape
        qkv = self.qkv(self.norm(x)).reshape(batch, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, length, width)
        return F.softplus(x + self.out(y))


class Detector(nn.Module):
    """A feature pyramid with heads that share weights: boxes and scores of all anchors."""

    def __init__(self, width=8, classes=4, anchors=3):
        super().__init__()
        self.classes = classes
        self.levels = nn.ModuleList(
            conv_bn(3 if i == 0 else width, width, 3, nn.SiLU, stride=2) for i in range(4)
        )
        self.lateral = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(3))
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(3))
        self.scores = nn.Conv2d(width, anchors * classes, 3, padding=1)
        self.boxes = nn.Conv2d(width, anchors * 4, 3, padding=1)
        self.segment = nn.Conv2d(width, 2, 1)

    def forward(self, image):
        features, x = [], image
        for level in self.levels:
            x = level(x)
            features.append(x)
        top = self.lateral[2](features[3])
        middle = self.lateral[1](features[2]) + F.interpolate(top, scale_factor=2, mode="nearest")
        wanted = features[1].shape[-2:]
        bottom = self.lateral[0](features[1]) + F.interpolate(
            middle, size=wanted, mode="bilinear", align_corners=False
        )
        pyramid = [smooth(f) for smooth, f in zip(self.smooth, (bottom, middle, top), strict=True)]
        scores = torch.cat([self._anchors(self.scores(f), self.classes) for f in pyramid], 1)
        boxes = torch.cat([self._anchors(self.boxes(f), 4) for f in pyramid], 1)
        mask = F.interpolate(
            self.segment(pyramid[0]), scale_factor=2.0, mode="bilinear", align_corners=True
        )
        return {"boxes": (boxes / 8).exp(), "scores": scores.sigmoid(), "mask": mask}

    @staticmethod
    def _anchors(x, size):
        batch, _, height, width = x.shape
        x = x.view(batch, -1, size, height, width).permute(0, 3, 4, 1, 2)
        return x.reshape(batch, -1, size)


class Tagger(nn.Module):
    """A recurrent tagger of words, bidirectional with two layers; ``cell`` is LSTM, GRU or RNN."""

    def __init__(self, cell, width=16, tags=6):
        super().__init__()
        self.embed = nn.Embedding(50, width)
        self.cell = cell(width, width, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(2 * width, tags)

    def forward(self, words):
        x, _ = self.cell(self.embed(words))
        return F.log_softmax(self.head(x), -1)


class LastState(nn.Module):
    """One direction, time first, and only the last state of an LSTM and a GRU is used."""

    def __init__(self, width=12):
        super().__init__()
        self.lstm, self.gru = nn.LSTM(10, width), nn.GRU(width, width)

    def forward(self, series):
        x = series.transpose(0, 1)
        states, (hidden, cell) = self.lstm(x)
        _, last = self.gru(states)
        return torch.cat([hidden[-1], cell[-1], last[-1]], -1)


class SqueezeExcite(nn.Module):
    def __init__(self, width, inner):
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(width, inner, 1), nn.Conv2d(inner, width, 1)

    def forward(self, x):
        y = F.adaptive_avg_pool2d(x, 1)
        return x * F.hardsigmoid(self.expand(F.relu(self.reduce(y))))


class InvertedResidual(nn.Module):
    def __init__(self, inputs, outputs, size, stride, activation):
        super().__init__()
        inner = 3 * inputs
        self.layers = nn.Sequential(
            conv_bn(inputs, inner, 1, activation),
            conv_bn(inner, inner, size, activation, stride=stride, padding=size // 2, groups=inner),
            SqueezeExcite(inner, inner // 4),
            nn.Conv2d(inner, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x):
        return x + self.layers(x) if self.residual else self.layers(x)


class MobileNet(nn.Module):
    """Howard et al., 2019 (MobileNetV3): depthwise, squeeze-excite, hard swish."""

    def __init__(self, width=8):
        super().__init__()
        self.layers = nn.Sequential(
            conv_bn(3, width, 3, nn.Hardswish, stride=2),
            InvertedResidual(width, width, 3, 1, nn.ReLU6),
            InvertedResidual(width, 2 * width, 5, 2, nn.Hardswish),
            InvertedResidual(2 * width, 2 * width, 5, 1, nn.Hardswish),
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(2 * width, 32, 1),
            nn.Hardswish(),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(32, 10),
        )

    def forward(self, image):
        return self.layers(image)


class UNet(nn.Module):
    """Ronneberger et al., 2015: transposed convolutions and concatenations."""

    def __init__(self, width=8):
        super().__init__()
        self.down1, self.down2 = self._double(3, width), self._double(width, 2 * width)
        self.bottom = self._double(2 * width, 4 * width)
        self.up2 = nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2)
        self.up1 = nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1)
        self.join2, self.join1 = self._double(4 * width, 2 * width), self._double(2 * width, width)
        self.head = nn.Conv2d(width, 2, 1)

    @staticmethod
    def _double(inputs, outputs):
        return nn.Sequential(
            conv_bn(inputs, outputs, 3, lambda: nn.LeakyReLU(0.1)), conv_bn(outputs, outputs, 3)
        )

    def forward(self, image):
        first = self.down1(image)
        second = self.down2(F.max_pool2d(first, 2))
        x = self.up2(self.bottom(F.max_pool2d(second, 2)))
        x = self.up1(self.join2(torch.cat([x, second], 1)))
        return torch.softmax(self.head(self.join1(torch.cat([first, x], 1))), 1)


class OtherNorms(nn.Module):
    """Group and instance normalisation, reflection padding, PReLU, pixel shuffle."""

    def __init__(self, width=8):
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1, padding_mode="reflect")
        self.group = nn.GroupNorm(4, width)
        self.prelu = nn.PReLU(width)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.instance = nn.InstanceNorm2d(width, affine=True)
        self.plain = nn.InstanceNorm2d(4 * width)
        self.third = nn.Conv2d(width, 4 * width, 1)

    def forward(self, image):
        x = self.prelu(self.group(self.first(image)))
        x = x + F.mish(self.instance(self.second(x)))
        return F.pixel_shuffle(self.plain(self.third(F.pixel_unshuffle(x, 2)[:, :8])), 2)


class TextClassifier(nn.Module):
    """Embeddings averaged under a mask, and the state at a position that an input names."""

    def __init__(self, tokens=60, width=16):
        super().__init__()
        self.embed = nn.Embedding(tokens, width, padding_idx=0)
        self.conv = nn.Conv1d(width, width, 3, padding=1)
        self.head = nn.Linear(2 * width, 3)

    def forward(self, ids, position):
        x = self.embed(ids)
        x = x + F.relu(self.conv(x.transpose(1, 2))).transpose(1, 2)
        mask = (ids != 0).unsqueeze(-1).to(x.dtype)
        mean = (x * mask).sum(1) / mask.sum(1).clamp(min=1)
        index = position.view(-1, 1, 1).expand(-1, 1, x.shape[-1])
        chosen = torch.gather(x, 1, index).squeeze(1)
        logits = self.head(torch.cat([mean, chosen], -1))
        return logits.softmax(-1), logits.argmax(-1)


class ConvNeXt(nn.Module):
    """Liu et al., 2022: depthwise 7x7, layer normalisation and linear layers on the last axis."""

    def __init__(self, width=8):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 4, stride=4)
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.expand, self.reduce = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.scale = nn.Parameter(torch.rand(width))
        self.down = nn.Conv2d(width, 2 * width, 2, stride=2)
        self.last, self.head = nn.LayerNorm(2 * width), nn.Linear(2 * width, 10)

    def forward(self, image):
        x = self.stem(image)
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.scale * self.reduce(F.gelu(self.expand(y)))
        x = self.down(x + y.permute(0, 3, 1, 2))
        return self.head(self.last(x.mean([-2, -1])))


class SwinBlock(nn.Module):
    def __init__(self, width, heads, window, shift):
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.bias = nn.Parameter(torch.randn((2 * window - 1) ** 2, heads))
        y, x = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
        flat = torch.stack([y.flatten(), x.flatten()])
        offset = flat[:, :, None] - flat[:, None, :] + window - 1
        self.register_buffer("index", offset[0] * (2 * window - 1) + offset[1])

    def forward(self, x):
        batch, height, width, channels = x.shape
        y = self.norm1(x)
        w, s = self.window, self.shift
        if s:
            y = torch.roll(y, (-s, -s), (1, 2))
        y = y.view(batch, height // w, w, width // w, w, channels).permute(0, 1, 3, 2, 4, 5)
        y = y.reshape(-1, w * w, channels)
        qkv = self.qkv(y).reshape(-1, w * w, 3, self.heads, channels // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q * (channels // self.heads) ** -0.5) @ k.transpose(-2, -1)
        bias = self.bias[self.index.view(-1)].view(w * w, w * w, -1).permute(2, 0, 1)
        scores = (scores + bias.unsqueeze(0)).softmax(-1)
        y = self.out((scores @ v).transpose(1, 2).reshape(-1, w * w, channels))
        y = y.view(batch, height // w, width // w, w, w, channels).permute(0, 1, 3, 2, 4, 5)
        y = y.reshape(batch, height, width, channels)
        if s:
            y = torch.roll(y, (s, s), (1, 2))
        x = x + y
        return x + self.mlp(self.norm2(x))


class Swin(nn.Module):
    """Liu et al., 2021: attention in windows, shifted windows, merging of patches."""

    def __init__(self, width=16):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        self.blocks = nn.Sequential(SwinBlock(width, 2, 4, 0), SwinBlock(width, 2, 4, 2))
        self.norm = nn.LayerNorm(4 * width)
        self.merge, self.head = (
            nn.Linear(4 * width, 2 * width, bias=False),
            nn.Linear(2 * width, 10),
        )

    def forward(self, image):
        x = self.blocks(self.patches(image).permute(0, 2, 3, 1))
        corners = [x[:, i::2, j::2, :] for j in (0, 1) for i in (0, 1)]
        x = self.merge(self.norm(torch.cat(corners, -1)))
        return self.head(x.flatten(1, 2).mean(1))


class Decoder(nn.Module):
    """A causal block as in Llama (Touvron et al., 2023): rotary embeddings, grouped queries."""

    def __init__(self, tokens=64, width=32, heads=4, groups=2):
        super().__init__()
        self.heads, self.groups, self.size = heads, groups, width // heads
        self.embed = nn.Embedding(tokens, width)
        self.norm1, self.norm2 = (nn.Parameter(torch.ones(width)) for _ in range(2))
        self.q = nn.Linear(width, width, bias=False)
        self.k = nn.Linear(width, groups * self.size, bias=False)
        self.v = nn.Linear(width, groups * self.size, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.gate, self.up = (nn.Linear(width, 2 * width, bias=False) for _ in range(2))
        self.down = nn.Linear(2 * width, width, bias=False)
        inverse = 1e4 ** (-torch.arange(0, self.size, 2).float() / self.size)
        self.register_buffer("frequencies", inverse)

    @staticmethod
    def _rms_norm(x, weight):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * weight

    def _rotate(self, x, cos, sin):
        half = x.shape[-1] // 2
        turned = torch.cat([-x[..., half:], x[..., :half]], -1)
        return x * cos + turned * sin

    def forward(self, ids, mask):
        x = self.embed(ids)
        batch, length, width = x.shape
        position = (mask.cumsum(-1) - 1).clamp(min=0)
        angles = torch.einsum("bl,d->bld", position.float(), self.frequencies)
        angles = torch.cat([angles, angles], -1)[:, None]
        y = self._rms_norm(x, self.norm1)
        q = self.q(y).view(batch, length, self.heads, self.size).transpose(1, 2)
        k = self.k(y).view(batch, length, self.groups, self.size).transpose(1, 2)
        v = self.v(y).view(batch, length, self.groups, self.size).transpose(1, 2)
        cos, sin = angles.cos(), angles.sin()
        q, k = self._rotate(q, cos, sin), self._rotate(k, cos, sin)
        k, v = (t.repeat_interleave(self.heads // self.groups, 1) for t in (k, v))
        scores = torch.einsum("bhid,bhjd->bhij", q, k) / math.sqrt(self.size)
        causal = torch.tril(torch.ones(length, length, dtype=torch.bool))
        allowed = causal & (mask[:, None, None, :] != 0)
        scores = torch.where(allowed, scores, torch.finfo(scores.dtype).min)
        y = torch.einsum("bhij,bhjd->bhid", scores.softmax(-1), v)
        x = x + self.out(y.transpose(1, 2).reshape(batch, length, width))
        y = self._rms_norm(x, self.norm2)
        x = x + self.down(F.silu(self.gate(y)) * self.up(y))
        return x @ self.embed.weight.t()


class WaveNet(nn.Module):
    """van den Oord et al., 2016: dilated causal 1-D convolutions with gates."""

    def __init__(self, width=8):
        super().__init__()
        self.start = nn.Conv1d(1, width, 1)
        self.dilated = nn.ModuleList(
            nn.Conv1d(width, 2 * width, 2, dilation=2**i) for i in range(3)
        )
        self.back = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in range(3))
        self.upsample = nn.ConvTranspose1d(width, 4, 4, stride=2, padding=1)

    def forward(self, wave):
        x, skips = self.start(wave), 0
        for i, (dilated, back) in enumerate(zip(self.dilated, self.back, strict=True)):
            filtered, gate = dilated(F.pad(x, (2**i, 0))).chunk(2, 1)
            y = back(torch.tanh(filtered) * torch.sigmoid(gate))
            x, skips = x + y, skips + y
        return self.upsample(F.elu(skips))


def image(size=32):
    """Noise on colours of its own, without which global averages would look alike."""
    return torch.randn(1, 3, size, size) + torch.randn(1, 3, 1, 1)


def ids(tokens, length):
    return torch.randint(1, tokens, (1, length))


def padding_mask(length, padded):
    return (torch.arange(length) < length - padded).long()[None]


MODELS: dict[str, tuple[Callable, Callable]] = {
    "inception": (Inception, lambda: {"image": image(35)}),
    "nasnet": (NASNet, lambda: {"image": image()}),
    "randwire": (RandWire, lambda: {"image": image()}),
    "encoder": (Encoder, lambda: {"ids": ids(100, 12), "mask": padding_mask(12, 4)}),
    "attention": (Attention, lambda: {"series": torch.randn(1, 10, 12)}),
    "detector": (Detector, lambda: {"image": image(48)}),
    "lstm": (lambda: Tagger(nn.LSTM), lambda: {"words": ids(50, 7)}),
    "gru": (lambda: Tagger(nn.GRU), lambda: {"words": ids(50, 7)}),
    "rnn": (lambda: Tagger(nn.RNN), lambda: {"words": ids(50, 7)}),
    "last_state": (LastState, lambda: {"series": torch.randn(1, 6, 10)}),
    "mobilenet": (MobileNet, lambda: {"image": image()}),
    "unet": (UNet, lambda: {"image": image()}),
    "other_norms": (OtherNorms, lambda: {"image": image(16)}),
    "text": (TextClassifier, lambda: {"ids": ids(60, 9), "position": torch.tensor([3])}),
    "convnext": (ConvNeXt, lambda: {"image": image()}),
    "swin": (Swin, lambda: {"image": image()}),
    "decoder": (Decoder, lambda: {"ids": ids(64, 8), "mask": padding_mask(8, 2).flip(1)}),
    "wavenet": (WaveNet, lambda: {"wave": torch.randn(1, 1, 24)}),
}


def exportable(name, batch=1, seed=0):
    """Build a model with seeded weights and inputs of that batch size."""
    torch.manual_seed(seed)
    make, make_inputs = MODELS[name]
    module = make().eval()
    _initialise(module)
    samples = [make_inputs() for _ in range(batch)]
    inputs = {key: torch.cat([sample[key] for sample in samples]) for key in samples[0]}
    return Exportable(module, inputs)


def _initialise(module):
    with torch.no_grad():
        for key, value in module.state_dict().items():
            name = key.rpartition(".")[2]
            if not value.is_floating_point() or name in ("frequencies", "scale", "position"):
                continue
            if name == "running_var":
                value.uniform_(0.5, 2)
            elif value.dim() < 2 and "weight" in name:
                value.uniform_(0.5, 1.5)
            elif value.dim() < 2:
                value.normal_(0, 0.2)
            else:
                gain = 1 if name.startswith("weight_") or "embed" in key else 2
                value.normal_(0, math.sqrt(gain / value[0].numel()))
