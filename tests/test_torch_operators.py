"""Corners of the semantics of PyTorch's operators, built as exported programs.

Each module has a result per line, so that a family costs one build.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import top_tvm


def arithmetic(x, y, i):
    return (
        torch.add(x, y, alpha=2),
        torch.sub(x, y, alpha=0.5),
        torch.rsub(x, y, alpha=3),
        torch.addmm(x[0, 0], x[0, 1], y[0, 0], beta=0.5, alpha=2),
        torch.baddbmm(x[:, 0], x[:, 1], y[:, 0], beta=2, alpha=0.5),
        i + x,
        i / 3,
        torch.div(x, 0.3, rounding_mode="floor"),
        torch.div(i - 2, 3, rounding_mode="trunc"),
        (i - 2) // 3,
        (i - 2) % 3,
        torch.remainder(x, -0.7),
        torch.fmod(x, 0.7),
        i**2,
        x.abs() ** 1.7,
        (x * 2).round() / 2 + torch.round(i / 2),  # halves to even
        torch.atan2(x, y),
        i.clamp(1, 2),
        torch.clamp(x, min=y),
        torch.where(x > 0, x, -1),
        (x > 0) & ~(y > 0) | torch.isnan(x),
        (i & 1) | (i ^ 2),
    )


def reductions(x, y, i):
    return (
        (x > 0).sum(1),
        x.var((2, 3)),
        x.std(1, correction=0, keepdim=True),
        x.amin((1, 2)),
        x.prod(1),
        x.logsumexp(1),
        x.argmax(1, keepdim=True),
        *x.max(1),
        *x.topk(3, -1),
        x.sort(-1)[0],
        x.cumsum(2),
        i.cumsum(-1),
        F.normalize(x, dim=1),
        x.norm(p=1, dim=1),
        x.masked_fill(i == 2, float("-inf")).softmax(-1),
    )


def indices(x, y, i):
    changed = x.clone()
    changed[:, 1:3] = y[:, :2]
    row = i[0, 0, 0]
    return (
        changed,
        x[:, [-1, 0]],
        x[[0, 1], [3, 2]],
        x[:, None, ..., 2:7:3],
        x[:, row],
        x.index_select(2, row),
        torch.gather(x, 1, i),
        torch.zeros_like(x).scatter(1, i, y),
        x.scatter_add(1, i, y),
        F.one_hot(i[0], 5),
        x.tril(-1) + y.triu(2),
        x.roll((1, -2), (2, 3)),
        x.flip((1, 3)),
        x.repeat(1, 2, 1, 3),
        x.repeat_interleave(3, 1),
        x.unfold(2, 3, 2),
        F.unfold(x, 3, padding=1, stride=2),
        F.pixel_unshuffle(x, 2),
        F.channel_shuffle(x, 2),
        torch.stack(torch.meshgrid(x[0, 0, 0], y[0, 0, 0], indexing="xy")),
    )


def images(x, y, i):
    return (
        F.interpolate(x, scale_factor=1.5, mode="nearest"),
        F.interpolate(x, size=(11, 5), mode="nearest"),
        F.interpolate(x, size=(11, 5), mode="nearest-exact"),
        F.interpolate(x, size=(11, 5), mode="bilinear", align_corners=True),
        F.interpolate(x, size=(11, 5), mode="bilinear"),
        F.interpolate(x, size=(11, 5), mode="bicubic"),
        F.interpolate(x[:, :, 0], size=13, mode="linear"),
        F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False),
        F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
        F.max_pool2d(x, 3, 2, 1, dilation=2, ceil_mode=True),
        F.adaptive_avg_pool2d(x, (2, 4)),
        F.pad(x, (1, 2, 3, 0), mode="reflect"),
        F.pad(x, (1, 2, 3, 0), mode="replicate"),
        F.pad(x, (1, -2, 0, 1), value=0.5),
        F.conv_transpose2d(x, y[:1, :, :3, :3].repeat(4, 1, 1, 1), None, 2, 1, output_padding=1),
        F.grid_sample(x, y.reshape(2, 16, 8, 2).tanh(), align_corners=False),
    )


def layers(x, y, i):
    return (
        F.gelu(x, approximate="tanh"),
        F.softplus(x, beta=2, threshold=1),
        F.celu(x, 0.5) + F.selu(x) + F.softsign(x) + F.logsigmoid(x),
        F.hardshrink(x) + F.tanhshrink(x),
        F.glu(x, 1),
        F.layer_norm(x, (8, 8)),
        F.group_norm(x, 2),
        F.rms_norm(x, (8,)),
        F.local_response_norm(x, 3),
        F.scaled_dot_product_attention(x, y, x, is_causal=True),
        F.scaled_dot_product_attention(x, y, x, attn_mask=i > 0),
        F.scaled_dot_product_attention(x, y[:, :2], y[:, 2:], enable_gqa=True, scale=0.3),
        torch.einsum("bchw,bcxw->bhx", x, y),
        torch.einsum("bcii->bc", x),
        x @ y[0, 0],
    )


class Family(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x, y, i):
        return self.function(x, y, i)


@pytest.mark.parametrize("function", [arithmetic, reductions, indices, images, layers])
def test_results_are_those_of_pytorch(function):
    torch.manual_seed(0)
    inputs = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8), torch.randint(0, 4, (2, 4, 8, 8))
    module = Family(function)
    expected = [value.numpy() for value in module(*inputs)]
    exe = top_tvm.build(torch.export.export(module, inputs), partitioner="greedy")
    given = dict(zip(("x", "y", "i"), (value.numpy() for value in inputs), strict=True))
    outputs = exe.run({spec.name: given[spec.name] for spec in exe.inputs})
    assert len(outputs) == len(expected)
    for (name, output), value in zip(outputs.items(), expected, strict=True):
        assert output.dtype == value.dtype, name
        np.testing.assert_allclose(output, value, rtol=1e-3, atol=1e-4, err_msg=name)
