"""The formulas of a transformer, each written out as its paper states it.

One letter an axis, here and everywhere: B batch, T time, S stored time (keys), C channels, H heads, D head size,
V vocabulary. Where PyTorch has a quicker kernel for a formula, fused=True calls it; a test proves the two equal.
"""

import math

import torch
import torch.nn.functional as kernels
from torch import Tensor


def softmax(x: Tensor, fused: bool = False) -> Tensor:
    """Turn scores into probabilities along the last axis: exp(x) / sum exp(x).

    (..., V) -> (..., V). The largest score is subtracted first: the result is the same and exp can't overflow.

    >>> softmax(torch.tensor([0.0, 0.0]))
    tensor([0.5000, 0.5000])
    """
    if fused:
        return kernels.softmax(x, -1)
    exponentials = (x - x.amax(-1, keepdim=True)).exp()
    return exponentials / exponentials.sum(-1, keepdim=True)


def cross_entropy(
    logits: Tensor, targets: Tensor, ignore: int = -100, reduction: str = "mean", fused: bool = False
) -> Tensor:
    """Mean or sum of -log p(target), in nats, over the targets that are not `ignore` (P3).

    logits: (..., V); targets: (...) int64. Returns a scalar, fp32 for half-precision logits. The mean over no target
    at all is NaN, the sum 0.

    >>> cross_entropy(torch.zeros(3, 8), torch.tensor([1, 2, -100]))      # ln 8: nothing learnt yet
    tensor(2.0794)
    """
    logits, targets = logits.flatten(0, -2), targets.flatten()  # (N, V) and (N,)
    logits = logits.float() if logits.dtype.itemsize == 2 else logits
    if fused:
        return kernels.cross_entropy(logits, targets, ignore_index=ignore, reduction=reduction)
    learnt = targets != ignore
    logits, targets = logits[learnt], targets[learnt]
    target_logit = logits.gather(-1, targets[:, None])[:, 0]
    nats = logits.logsumexp(-1) - target_logit  # = -log softmax(logits)[target]
    return nats.sum() if reduction == "sum" else nats.mean()


def rms_norm(x: Tensor, weight: Tensor, eps: float, fused: bool = False) -> Tensor:
    """Divide each vector by its root mean square, then scale (Zhang & Sennrich 2019, arXiv:1910.07467, eq. 4).

    x: (..., C); weight: (C,).

    >>> rms_norm(torch.tensor([3.0, 4.0]), torch.ones(2), eps=0.0)
    tensor([0.8485, 1.1314])
    """
    if fused and x.requires_grad:
        return kernels.rms_norm(x, weight.shape, weight, eps)
    if fused:  # fewer and quicker steps to the same, since mean x² = |x|² / C; the way back would be slower
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return x * torch.addcmul(x.new_full((), eps), length, length, value=1 / x.size(-1)).rsqrt() * weight
    return x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * weight


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, fused: bool = False) -> Tensor:
    """Shift each vector to mean 0 and variance 1, then scale and shift (Ba et al. 2016, arXiv:1607.06450, eq. 4).

    x: (..., C); weight and bias: (C,).

    >>> layer_norm(torch.tensor([1.0, 3.0]), torch.ones(2), None, eps=0.0)
    tensor([-1.,  1.])
    """
    if fused:
        return kernels.layer_norm(x, weight.shape, weight, bias, eps)
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred * (centred.square().mean(-1, keepdim=True) + eps).rsqrt() * weight
    return scaled if bias is None else scaled + bias


def gelu(x: Tensor, fused: bool = False) -> Tensor:
    """GPT-2's smooth gate, in its tanh form (Hendrycks & Gimpel 2016, arXiv:1606.08415, section 2).

    >>> gelu(torch.tensor([-1.0, 0.0, 1.0]))
    tensor([-0.1588,  0.0000,  0.8412])
    """
    if fused:
        return kernels.gelu(x, approximate="tanh")
    return 0.5 * x * (1 + (math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)).tanh())


def silu(x: Tensor, fused: bool = False) -> Tensor:
    """x · sigmoid(x), the gate of SwiGLU (Shazeer 2020, arXiv:2002.05202, eq. 5).

    >>> silu(torch.tensor([0.0, 1.0]))
    tensor([0.0000, 0.7311])
    """
    if fused:
        return kernels.silu(x)
    return x * x.sigmoid()


def dropout(x: Tensor, rate: float) -> Tensor:
    """Set a random share `rate` of x to 0 and scale the rest up to keep the mean (Srivastava et al. 2014, section 4).

    >>> dropout(torch.ones(2), 0.0)
    tensor([1., 1.])
    """
    return x if rate == 0 else x * (torch.rand_like(x) >= rate) / (1 - rate)


def rotary(positions: Tensor, head_size: int, theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines by which rotary attention turns a vector at each position (Su et al. 2021, arXiv:2104.09864).

    positions: (..., T) int64 -> two (..., T, D) of dtype, for `rotate`. Entries i and i + D/2 are a pair, as in Llama's
    files; it turns by position · theta^(-2i/D) radians. The sines of first entries are negative.

    >>> cos, sin = rotary(torch.tensor([0, 1]), head_size=2, theta=10000.0, dtype=torch.float32)
    >>> cos[1], sin[1]
    (tensor([0.5403, 0.5403]), tensor([-0.8415,  0.8415]))
    """
    frequency = theta ** (-torch.arange(0, head_size, 2, device=positions.device, dtype=torch.float64) / head_size)
    angle = positions[..., None] * frequency  # (..., T, D/2)
    cos, sin = angle.cos().to(dtype), angle.sin().to(dtype)
    return torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (a, b) = (x[i], x[i + D/2]) by its angle, to (a cos - b sin, b cos + a sin).

    x: (B, H, T, D); cos and sin from `rotary`: (1, T, D) or (B, 1, T, D). Lengths are kept, and the product of a
    turned query and a turned key depends on their distance alone.

    >>> rotate(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 0.0]), torch.tensor([-1.0, 1.0]))   # a quarter turn
    tensor([0., 1.])
    """
    return torch.addcmul(x * cos, x.roll(x.size(-1) // 2, -1), sin)  # rolled by half, each entry meets its partner


def causal_mask(positions: Tensor, stored: int) -> Tensor:
    """Which stored tokens a token may look at: those at its own position or before.

    positions: (..., T) int64 -> (..., T, S) bool, S = stored.

    >>> causal_mask(torch.arange(3), 3).int().tolist()
    [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    """
    return torch.arange(stored, device=positions.device) <= positions[..., None]


def causal_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, fused: bool = False) -> Tensor:
    """Each token's mix of the values it may see: softmax(q·k / sqrt D) v (Vaswani et al. 2017, eq. 1).

    query: (B, H, T, D); key and value: (B, K, S, D) where each of the K heads serves H/K query heads
    (Ainslie et al. 2023, arXiv:2305.13245). mask: bool, (T, S) or (B, 1, T, S), True where a token may look; None when
    it may look everywhere. Returns (B, H, T, D).

    >>> v = torch.tensor([[[[1.0], [3.0]]]])
    >>> causal_attention(torch.zeros(1, 1, 2, 1), torch.zeros(1, 1, 2, 1), v, causal_mask(torch.arange(2), 2)).flatten()
    tensor([1., 2.])
    """
    B, H, T, D = query.shape
    K, S = key.shape[1:3]
    # Measured on CPUs: the kernel is quicker for one token and for long fp32 rows, and far slower in bfloat16.
    if fused and (T == 1 or query.is_cuda or (S >= 128 and query.dtype != torch.bfloat16)):
        return kernels.scaled_dot_product_attention(query, key, value, mask, enable_gqa=H != K)
    # Query heads that share a key head are stacked along time: one matrix product then serves them all.
    query = (query / math.sqrt(D)).reshape(B, K, H // K * T, D)
    scores = (query @ key.transpose(-2, -1)).view(B, K, H // K, T, S)
    if mask is not None:
        scores = scores.masked_fill(~mask.unsqueeze(-3), -math.inf)
    mixed = softmax(scores, fused).view(B, K, H // K * T, S) @ value  # (B, K, H/K·T, D)
    return mixed.view(B, H, T, D)
