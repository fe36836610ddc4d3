"""The transformer of model.py once more, in NumPy, with every gradient worked out by hand (P2, P3).

Each layer is a pair. The forward function gives its result and a cache of what the backward pass needs. Right under it,
the backward function turns dy into dx and the gradients of the layer's weights. dx is short for ∂loss/∂x, an array of
x's shape: how much the loss grows as each entry of x grows. Three rules give every line (Baydin et al. 2018,
arXiv:1502.05767):

    chain      y = f(x)                 dx = dy · f'(x), entry by entry
    sum        x is used several times  dx = what comes back from each use, added up
    product    y = a @ b                da = dy @ bᵀ and db = aᵀ @ dy: chain and sum, for whole matrices

A linear layer keeps its weight as (outputs, inputs): y = x @ Wᵀ, so dx = dy @ W and dW = dyᵀ @ x. Axes have the letters
of formulas.py, and N = B·T: all tokens of a batch one under the other, for few large products instead of many small.
"""

import math
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy import ndarray as Array

from .config import GPTConfig, TrainConfig

if TYPE_CHECKING:  # torch comes in only with what is handed over: a model, batches, or ids to decode
    from torch import Tensor

    from .model import GPT

IGNORE = -100  # a target that is not learnt, as in data.py
Arrays = dict[str, Array]  # by the names that parameters have in model.py
ATTENTION = ["attention.query", "attention.key", "attention.value", "attention.output"]
BLOCK = ["attention_norm", *ATTENTION, "mlp_norm", "mlp.gate", "mlp.up", "mlp.down"]


def rms_norm(x: Array, w: Array, eps: float) -> tuple[Array, tuple]:
    """y = x·r·w, r = (mean x² + eps)^-½. x: (N, C); w: (C,). Zhang & Sennrich 2019, arXiv:1910.07467, eq. 4."""
    r = ((x * x).mean(-1, keepdims=True) + eps) ** -0.5  # (N, 1)
    return x * r * w, (x, r, w)


def rms_norm_backward(dy: Array, cache: tuple) -> tuple[Array, Array]:
    """dy: (N, C) -> dx (N, C) and dw (C,)."""
    x, r, w = cache
    dw = (dy * x * r).sum(0)  # (C,) chain, and sum: all tokens use the same w
    dscaled = dy * w  # chain: y = (x·r)·w
    dr = (dscaled * x).sum(-1, keepdims=True)  # (N, 1) chain, and sum: all entries of a token use the same r
    dmean = dr * -0.5 * r**3  # chain: r = m^-½ has slope -½ m^-1½ = -½ r³
    dsquares = dmean / x.shape[-1]  # chain: a mean of C squares
    return dscaled * r + dsquares * 2 * x, dw  # sum: through x directly, and through x², slope 2x, in r


def rotary(T: int, config: GPTConfig, dtype: np.dtype) -> tuple[Array, Array]:
    """Cosines and sines of each position's angles, (T, D/2) each. Su et al. 2021, arXiv:2104.09864, eq. 34."""
    angle = np.arange(T)[:, None] * config.rope_theta ** (-np.arange(0, config.d_head, 2) / config.d_head)  # (T, D/2)
    return np.cos(angle).astype(dtype), np.sin(angle).astype(dtype)


def rotate(x: Array, cos: Array, sin: Array) -> Array:
    """Turn each pair (x[i], x[i + D/2]) by its angle; the backward pass is rotate(dy, cos, -sin). x: (B, H, T, D)."""
    first, second = np.split(x, 2, -1)  # (B, H, T, D/2) each
    return np.concatenate([first * cos - second * sin, first * sin + second * cos], -1)


def split_heads(x: Array, B: int, D: int) -> Array:
    return x.reshape(B, -1, x.shape[-1] // D, D).swapaxes(1, 2)  # (N, H·D) -> (B, H, T, D)


def merge_heads(x: Array) -> Array:
    return x.swapaxes(1, 2).reshape(-1, x.shape[1] * x.shape[3])  # (B, H, T, D) -> (N, H·D): undoes split_heads


def attention(x: Array, weights: list[Array], shared: tuple) -> tuple[Array, tuple]:
    """Each token's mix of the values it may see: softmax(q·k / sqrt D) v. x: (N, C) -> (N, C).

    Each of the K key heads serves H/K query heads. shared: B, D, and the positions' cosines and sines, (T, D/2) each.
    Vaswani et al. 2017, eq. 1; Ainslie et al. 2023, arXiv:2305.13245.
    """
    w_query, w_key, w_value, w_output = weights
    B, D, cos, sin = shared

    # project to heads, and turn by position
    query = rotate(split_heads(x @ w_query.T, B, D), cos, sin)  # (B, H, T, D)
    key = rotate(split_heads(x @ w_key.T, B, D), cos, sin)  # (B, K, T, D)
    value = split_heads(x @ w_value.T, B, D)  # (B, K, T, D)

    # attend behind the causal mask
    (H, T), K = query.shape[1:3], key.shape[1]
    stacked = query.reshape(B, K, H // K * T, D)  # the H/K heads that share a key, one under the other
    may_look = np.tile(np.tri(T, dtype=bool), (H // K, 1))  # (H/K·T, T): the causal triangle once for each such head
    scores = np.where(may_look, stacked @ key.swapaxes(2, 3) / math.sqrt(D), -math.inf)  # (B, K, H/K·T, T)
    exponentials = np.exp(scores - scores.max(-1, keepdims=True))
    p = exponentials / exponentials.sum(-1, keepdims=True)
    merged = merge_heads((p @ value).reshape(query.shape))  # (N, C)
    return merged @ w_output.T, (x, weights, shared, stacked, key, value, p, merged)


def attention_backward(dy: Array, cache: tuple) -> tuple[Array, list[Array]]:
    """dy: (N, C) -> dx (N, C) and the four weights' gradients."""
    x, (w_query, w_key, w_value, w_output), (B, D, cos, sin), stacked, key, value, p, merged = cache

    # the output projection, and the mix of the values
    dw_output = dy.T @ merged  # (C, C) product
    dmerged = split_heads(dy @ w_output, B, D)  # (B, H, T, D) product
    dmixed = dmerged.reshape(stacked.shape)  # (B, K, H/K·T, D)
    dvalue = p.swapaxes(2, 3) @ dmixed  # (B, K, T, D) product; it adds up the query heads that share this value
    dp = dmixed @ value.swapaxes(2, 3)  # (B, K, H/K·T, T) product

    # softmax: p[j] has slope p[i]·([i == j] - p[j]) in score i. chain, sum over j: p[i]·(dp[i] - Σ dp[j]·p[j])
    dscores = p * (dp - (dp * p).sum(-1, keepdims=True))  # where a token may not look, p is 0 and nothing goes back
    dscaled = dscores / math.sqrt(D)  # chain

    # queries and keys, turned back. product: a rotation's transpose turns the other way
    dquery = (dscaled @ key).reshape(dmerged.shape)  # (B, H, T, D) product
    dkey = dscaled.swapaxes(2, 3) @ stacked  # (B, K, T, D) product: scores = q @ kᵀ, so dkᵀ = qᵀ @ dscaled
    dq = merge_heads(rotate(dquery, cos, -sin))  # (N, H·D)
    dk = merge_heads(rotate(dkey, cos, -sin))  # (N, K·D)
    dv = merge_heads(dvalue)  # (N, K·D)

    # the three projections. sum: x goes into each of them
    dx = dq @ w_query + dk @ w_key + dv @ w_value  # (N, C) product
    return dx, [dq.T @ x, dk.T @ x, dv.T @ x, dw_output]  # product


def mlp(x: Array, weights: list[Array]) -> tuple[Array, tuple]:
    """SwiGLU: down(silu(gate(x)) · up(x)), silu(g) = g·sigmoid(g). x: (N, C) -> (N, C). arXiv:2002.05202, eq. 6."""
    w_gate, w_up, w_down = weights
    gate = x @ w_gate.T  # (N, d_ff)
    up = x @ w_up.T  # (N, d_ff)
    sigmoid = (1 + np.tanh(gate / 2)) / 2  # = 1 / (1 + exp(-gate)), where exp could overflow
    silu = gate * sigmoid
    return (silu * up) @ w_down.T, (x, weights, up, sigmoid, silu)


def mlp_backward(dy: Array, cache: tuple) -> tuple[Array, list[Array]]:
    """dy: (N, C) -> dx (N, C) and the three weights' gradients."""
    x, (w_gate, w_up, w_down), up, sigmoid, silu = cache
    dw_down = dy.T @ (silu * up)  # (C, d_ff) product
    dgated = dy @ w_down  # (N, d_ff) product
    dup = dgated * silu  # chain
    dsilu = dgated * up  # chain
    dgate = dsilu * (sigmoid + silu * (1 - sigmoid))  # chain: silu = g·s has slope s + g·s', and s' = s (1 - s)
    dx = dgate @ w_gate + dup @ w_up  # (N, C) product, and sum
    return dx, [dgate.T @ x, dup.T @ x, dw_down]  # product


def block(x: Array, weights: list[Array], eps: float, shared: tuple) -> tuple[Array, tuple]:
    """x + attention(norm(x)), then the same with the MLP. x: (N, C) -> (N, C). weights: in BLOCK's order."""
    normed, of_first = rms_norm(x, weights[0], eps)
    attended, of_attention = attention(normed, weights[1:5], shared)
    x = x + attended
    normed, of_second = rms_norm(x, weights[5], eps)
    widened, of_mlp = mlp(normed, weights[6:])
    return x + widened, (of_first, of_attention, of_second, of_mlp)


def block_backward(dy: Array, cache: tuple) -> tuple[Array, list[Array]]:
    """dy: (N, C) -> dx (N, C) and the nine weights' gradients."""
    of_first, of_attention, of_second, of_mlp = cache
    dnormed, dmlp = mlp_backward(dy, of_mlp)
    dbranch, dsecond = rms_norm_backward(dnormed, of_second)
    dx = dy + dbranch  # sum: x went straight on, with slope 1, and into the branch
    dnormed, dattention = attention_backward(dx, of_attention)
    dbranch, dfirst = rms_norm_backward(dnormed, of_first)
    return dx + dbranch, [dfirst, *dattention, dsecond, *dmlp]  # sum, as above


def cross_entropy(logits: Array, targets: Array) -> tuple[float, tuple]:
    """Mean of -log p(target), in nats, over the targets not IGNORE (P3). logits: (B, T, V); targets: (B, T)."""
    learnt = targets != IGNORE  # (B, T) bool
    picked, target = logits[learnt], targets[learnt][:, None]  # (learnt, V) and (learnt, 1)
    shifted = picked - picked.max(-1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))  # (learnt, V)
    return -float(np.take_along_axis(log_p, target, -1).mean()), (log_p, target, learnt)


def cross_entropy_backward(cache: tuple) -> Array:
    """The start of the backward pass, where dloss = 1: dlogits (B, T, V)."""
    log_p, target, learnt = cache
    is_target = np.arange(log_p.shape[-1]) == target  # (learnt, V)
    dlogits = np.zeros((*learnt.shape, log_p.shape[-1]), log_p.dtype)  # (B, T, V): nothing goes back where ignored
    # chain: -log p[target] = log sum exp(logits) - logits[target] has slope p - is_target; and a mean divides.
    dlogits[learnt] = (np.exp(log_p) - is_target) / len(target)
    return dlogits


class NumpyGPT:
    """The default model (RMSNorm, rotary, grouped heads, SwiGLU, tied embedding, no bias), float32 or float64.

    ValueError that names the switch when config asks for another model. twin(ids) takes and gives tensors,
    (B, T) -> (B, T, V), so decoding.uncached(twin) can be decoded.

    >>> from minigpt import GPT
    >>> NumpyGPT.from_torch(GPT(GPTConfig.toy())).forward(np.array([[1, 2, 3]]))[0].shape
    (1, 3, 1024)
    """

    def __init__(self, config: GPTConfig, parameters: Arrays):
        _only(config, norm="rmsnorm", position="rope", mlp="swiglu", bias=False, tie_embeddings=True, dropout=0.0)
        self.config, self.parameters = config, parameters
        self.context_length, self.vocab_size = config.context_length, config.vocab_size

    @classmethod
    def from_torch(cls, model: "GPT") -> "NumpyGPT":
        """The twin of a PyTorch model, with a copy of its weights; half precision becomes float32."""
        wide = {name: p.float() if p.dtype.itemsize == 2 else p for name, p in model.named_parameters()}
        return cls(model.config, {name: p.detach().cpu().numpy().copy() for name, p in wide.items()})

    def to_torch(self) -> "GPT":
        """The PyTorch model with a copy of these weights, in evaluation mode: to save it, or to compare."""
        import torch

        from .model import GPT

        model = GPT(self.config)
        for name, parameter in model.named_parameters():
            parameter.data = torch.tensor(self.parameters[name])
        return model.eval()

    def __call__(self, ids: "Tensor") -> "Tensor":
        import torch

        return torch.from_numpy(self.forward(ids.numpy())[0])

    def forward(self, ids: Array) -> tuple[Array, tuple]:
        """ids (B, T) -> logits (B, T, V) and the cache. ValueError when they do not fit in the context."""
        (B, T), config = ids.shape, self.config
        if self.context_length < T:
            raise ValueError(f"{T} tokens do not fit in the context of {self.context_length}")
        embedding = self.parameters["token_embedding.weight"]
        shared = B, config.d_head, *rotary(T, config, embedding.dtype)

        x, of_blocks = embedding[ids.ravel()], []  # (N, C)
        for layer in range(config.n_layers):
            weights = [self.parameters[f"blocks.{layer}.{name}.weight"] for name in BLOCK]
            x, of_block = block(x, weights, config.norm_eps, shared)
            of_blocks.append(of_block)
        x, of_norm = rms_norm(x, self.parameters["final_norm.weight"], config.norm_eps)
        return (x @ embedding.T).reshape(B, T, -1), (ids, of_blocks, of_norm, x)  # (B, T, V)

    def backward(self, dlogits: Array, cache: tuple) -> Arrays:
        """The gradient of every parameter, by its name. dlogits: (B, T, V); cache: from `forward`."""
        ids, of_blocks, of_norm, x = cache
        embedding, dlogits = self.parameters["token_embedding.weight"], dlogits.reshape(ids.size, -1)  # (N, V)
        dembedding = dlogits.T @ x  # (V, C) product
        dx, dnorm = rms_norm_backward(dlogits @ embedding, of_norm)  # (N, C) product
        gradients = {"token_embedding.weight": dembedding, "final_norm.weight": dnorm}
        for layer, of_block in reversed(list(enumerate(of_blocks))):
            dx, dweights = block_backward(dx, of_block)
            gradients |= {f"blocks.{layer}.{name}.weight": dw for name, dw in zip(BLOCK, dweights)}
        # sum: looking tokens up used the tied matrix as well. (dembedding[ids] += dx would count a repeated id once.)
        np.add.at(dembedding, ids.ravel(), dx)
        return gradients


def train(model: NumpyGPT, batches: Callable, config: TrainConfig) -> Iterator:
    """Train the twin as loop.py trains a PyTorch model: the same batches, optimizer, schedule, Steps and errors.

    ValueError that names a switch which the twin doesn't have: muon, bf16, micro_batches.
    """
    import torch

    from .loop import Step
    from .optim import AdamW, clip_gradients, learning_rate

    _only(config, optimizer="adamw", precision="fp32", micro_batches=1)
    weights = {name: torch.from_numpy(array) for name, array in model.parameters.items()}  # the arrays' own memory
    optimizer = AdamW(weights, config.betas, config.eps, config.weight_decay)
    for step in range(config.steps):
        started, batch = time.perf_counter(), batches(step)

        # forward and backward by hand
        logits, cache = model.forward(batch.inputs.numpy())
        loss, of_loss = cross_entropy(logits, batch.targets.numpy())
        gradients = model.backward(cross_entropy_backward(of_loss), cache)

        # hand the gradients to optim.py, which moves the weights in place
        for name, weight in weights.items():
            weight.grad = torch.from_numpy(gradients[name])
        norm = clip_gradients([weight.grad for weight in weights.values()], config.clip)
        if not math.isfinite(loss + norm):
            raise FloatingPointError(f"step {step + 1}: loss {loss}, gradient norm {norm}; try a smaller learning rate")
        lr = config.lr * learning_rate(step, config)
        optimizer.step(lr, step + 1)
        yield Step(step + 1, loss, lr, norm, batch.learnt(), time.perf_counter() - started)


def _only(config: GPTConfig | TrainConfig, **ours: object) -> None:
    """ValueError that names the first switch which isn't set as the twin has it."""
    for name, value in ours.items():
        if getattr(config, name) != value:
            raise ValueError(f"{name}={getattr(config, name)!r}: the NumPy twin has only {name}={value!r}")
