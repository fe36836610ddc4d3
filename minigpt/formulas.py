"""The formulas of a transformer, each written once, as its paper states it.

One letter per axis, here and everywhere: B batch, T time, S stored time (keys), C channels, H heads, K key/value heads,
D head size, V vocabulary. PyTorch has a faster kernel for most of them: see fast/kernels.py.
"""

import math

import torch
from torch import Tensor

from plain_or_fast import has_twin

KERNELS = "minigpt.fast.kernels"


@has_twin(KERNELS)
def softmax(x: Tensor) -> Tensor:
    """Turn scores into probabilities along the last axis: exp(x) / sum exp(x).

    (..., V) -> (..., V). The largest score is subtracted first: the result is the same and exp can't overflow.

    >>> softmax(torch.tensor([0.0, 0.0]))
    tensor([0.5000, 0.5000])
    """
    exponentials = (x - x.amax(-1, keepdim=True)).exp()
    return exponentials / exponentials.sum(-1, keepdim=True)


@has_twin(KERNELS)
def cross_entropy(logits: Tensor, targets: Tensor, ignore: int = -100, reduction: str = "mean") -> Tensor:
    """Mean or sum of -log p(target), in nats, over the targets that are not `ignore` (P3).

    logits: (..., V); targets: (...) int64. Returns a scalar, fp32 for half-precision logits. Without any target the
    mean is NaN and the sum is 0.

    >>> cross_entropy(torch.zeros(3, 8), torch.tensor([1, 2, -100]))      # ln 8: nothing learnt yet
    tensor(2.0794)
    """
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction={reduction!r}: must be mean or sum")
    learnt = targets != ignore  # (...)
    logits, targets = logits[learnt], targets[learnt]  # (N, V) and (N,)
    if logits.dtype in (torch.bfloat16, torch.float16):
        logits = logits.float()

    target_logits = logits.gather(-1, targets[:, None])[:, 0]
    nats = logits.logsumexp(-1) - target_logits  # = -log softmax(logits)[target]
    return nats.sum() if reduction == "sum" else nats.mean()


@has_twin(KERNELS)
def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Divide each vector by its root mean square, then scale (Zhang & Sennrich 2019, arXiv:1910.07467, eq. 4).

    x: (..., C); weight: (C,).

    >>> rms_norm(torch.tensor([3.0, 4.0]), torch.ones(2), eps=0.0)
    tensor([0.8485, 1.1314])
    """
    mean_square = x.square().mean(-1, keepdim=True)
    return x / (mean_square + eps).sqrt() * weight


@has_twin(KERNELS)
def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """Bring each vector to mean 0 and variance 1, then scale and shift it.

    x: (..., C); weight and bias: (C,). Ba et al. 2016, arXiv:1607.06450, eq. 4.

    >>> layer_norm(torch.tensor([1.0, 3.0]), torch.ones(2), None, eps=0.0)
    tensor([-1.,  1.])
    """
    centred = x - x.mean(-1, keepdim=True)
    variance = centred.square().mean(-1, keepdim=True)
    scaled = centred / (variance + eps).sqrt() * weight
    return scaled if bias is None else scaled + bias


@has_twin(KERNELS)
def gelu(x: Tensor) -> Tensor:
    """GPT-2's smooth gate, in its tanh form (Hendrycks & Gimpel 2016, arXiv:1606.08415, section 2).

    >>> gelu(torch.tensor([-1.0, 0.0, 1.0]))
    tensor([-0.1588,  0.0000,  0.8412])
    """
    return 0.5 * x * (1 + (math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)).tanh())


@has_twin(KERNELS)
def silu(x: Tensor) -> Tensor:
    """x · sigmoid(x), the gate of SwiGLU (Shazeer 2020, arXiv:2002.05202, eq. 5).

    >>> silu(torch.tensor([0.0, 1.0]))
    tensor([0.0000, 0.7311])
    """
    return x * x.sigmoid()


def dropout(x: Tensor, rate: float) -> Tensor:
    """Set a random share `rate` of x to 0 and scale up the rest, to keep the mean (Srivastava et al. 2014, section 4).

    >>> dropout(torch.ones(2), 0.0)
    tensor([1., 1.])
    """
    if rate == 0:
        return x
    kept = torch.rand_like(x) >= rate
    return x * kept / (1 - rate)


@has_twin(KERNELS)
def rotary(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    """Turn queries or keys by angles that grow with their position (Su et al. 2021, arXiv:2104.09864, eq. 34).

    x: (..., T, D); positions: (T,). Entries i and i + D/2 are a pair, as in Llama's files; it turns by
    position · theta^(-2i/D) radians. Lengths are kept, and the product of a turned query and a turned key depends on
    their distance alone.

    >>> rotary(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1]), theta=10_000.0)      # by 0 and by 1
    tensor([[1.0000, 0.0000],
            [0.5403, 0.8415]])
    """
    D = x.size(-1)
    frequencies = theta ** (-torch.arange(0, D, 2, device=x.device, dtype=torch.float64) / D)  # (D/2,)
    angles = positions[:, None] * frequencies  # (T, D/2)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)

    first, second = x.chunk(2, dim=-1)  # (..., T, D/2) each
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def causal_mask(T: int, S: int, device: torch.device | None = None) -> Tensor:
    """Which of S stored tokens each of the last T tokens may look at: itself and those before.

    Returns (T, S) bool.

    >>> causal_mask(2, 3).int().tolist()      # the second and the third of three tokens
    [[1, 1, 0], [1, 1, 1]]
    """
    looked_at = torch.arange(S, device=device)  # (S,)
    return looked_at <= looked_at[S - T :, None]  # (T, S): beside those that look, the last T


@has_twin(KERNELS)
def causal_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Each token's mix of the values it may see: softmax(q·k / sqrt D) v (Vaswani et al. 2017, eq. 1).

    query: (B, H, T, D), of the last T of S tokens; key and value: (B, K, S, D). Each of the K heads serves H/K query
    heads (Ainslie et al. 2023, arXiv:2305.13245). Returns (B, H, T, D).

    >>> v = torch.tensor([[[[1.0], [3.0]]]])
    >>> causal_attention(torch.zeros(1, 1, 2, 1), torch.zeros(1, 1, 2, 1), v).flatten()
    tensor([1., 2.])
    """
    (H, T, D), (K, S) = query.shape[1:], key.shape[1:3]
    key = key.repeat_interleave(H // K, dim=1)  # (B, H, S, D)
    value = value.repeat_interleave(H // K, dim=1)  # (B, H, S, D)

    scores = query @ key.transpose(2, 3) / math.sqrt(D)  # (B, H, T, S)
    scores = scores.masked_fill(~causal_mask(T, S, query.device), -math.inf)
    return softmax(scores) @ value  # (B, H, T, D)
