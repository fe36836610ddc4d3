"""The same as formulas.py, faster; tests/test_formulas.py holds the two equal, in values and in gradients.

PyTorch's fused kernels, and where they are slow on a CPU, the formula with fewer steps.
"""

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .. import formulas


def softmax(x: Tensor) -> Tensor:
    return F.softmax(x, -1)


def cross_entropy(logits: Tensor, targets: Tensor, ignore: int = -100, reduction: str = "mean") -> Tensor:
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction={reduction!r}: must be mean or sum")
    logits = logits.float() if logits.dtype.itemsize == 2 else logits
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten(), ignore_index=ignore, reduction=reduction)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    if x.is_cuda or not torch.is_grad_enabled():
        return F.rms_norm(x, weight.shape, weight, eps)
    return RMSNorm.apply(x, weight, eps)


class RMSNorm(torch.autograd.Function):
    """rms_norm with its backward pass by hand: on a CPU it takes a third of the time of PyTorch's."""

    @staticmethod
    def forward(context, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        scale = (norm.square() / x.size(-1) + eps).rsqrt()  # (..., 1)
        scaled = x * scale
        context.save_for_backward(scaled, scale, weight)
        return scaled * weight

    @staticmethod
    @once_differentiable
    def backward(context, dy: Tensor) -> tuple[Tensor, Tensor, None]:
        """As numpy_gpt.rms_norm_backward derives it: the part of dscaled that points along x is taken away."""
        scaled, scale, weight = context.saved_tensors
        dweight = (dy * scaled).reshape(-1, weight.numel()).sum(0)
        dscaled = dy * weight
        along = (dscaled * scaled).mean(-1, keepdim=True)  # (..., 1)
        dx = torch.addcmul(dscaled, scaled, along, value=-1) * scale
        return dx, dweight, None


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    return F.layer_norm(x, weight.shape, weight, bias, eps)


def gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def silu(x: Tensor) -> Tensor:
    return F.silu(x)


def rotary(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    """Roll the vector by half its length, so that each entry meets its partner, and add with one fused product."""
    D, dtype = x.size(-1), x.dtype
    if torch.compiler.is_compiling():
        return rotate(x, *angles(positions, D, theta, dtype))
    return rotate(x, *kept_angles(tuple(positions.tolist()), D, theta, dtype, x.device))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The last lines of rotary, for cosines and sines from `angles`."""
    return torch.addcmul(x * cos, x.roll(x.size(-1) // 2, -1), sin)


def angles(positions: Tensor, D: int, theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the positions' angles, (T, D) each; the sines of the first halves are negative."""
    frequencies = theta ** (-torch.arange(0, D, 2, device=positions.device, dtype=torch.float64) / D)
    angle = positions[:, None] * frequencies  # (T, D/2)
    cos, sin = angle.cos().to(dtype), angle.sin().to(dtype)
    return torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)


@lru_cache(maxsize=32)
@torch.inference_mode(False)  # subtle: kept for training also when an evaluation asks first
def kept_angles(places: tuple, D: int, theta: float, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    return angles(torch.tensor(places, device=device), D, theta, dtype)


def causal_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    T, S = query.size(2), key.size(2)
    return attention(query, key, value, None if T == 1 else formulas.causal_mask(T, S, query.device))


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """causal_attention's last lines, for any mask: (T, S) or (B, 1, T, S) bool, or None where all may be looked at."""
    B, H, T, D = query.shape
    K, S = key.shape[1:3]
    # Measured on CPUs: PyTorch's kernel is faster for one token and for long fp32 rows, and far slower in bfloat16.
    if T == 1 or query.is_cuda or (S >= 128 and query.dtype != torch.bfloat16):
        return F.scaled_dot_product_attention(query, key, value, mask, enable_gqa=H != K)

    # Query heads that share a key head are stacked along time: one matrix product then serves them all.
    query = (query / math.sqrt(D)).reshape(B, K, H // K * T, D)
    scores = (query @ key.transpose(2, 3)).view(B, K, H // K, T, S)
    if mask is not None:
        scores = scores.masked_fill(~mask.unsqueeze(-3), -math.inf)
    mixed = F.softmax(scores, -1).view(B, K, H // K * T, S) @ value  # (B, K, H/K·T, D)
    return mixed.view(B, H, T, D)
