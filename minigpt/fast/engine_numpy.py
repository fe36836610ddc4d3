"""The same as engine.read, faster for small models; tests/test_model.py holds the two equal.

There a step is some hundred calls with little arithmetic in each, and a call of NumPy costs a fifth of PyTorch's. The
weights are packed for every prefill, so that few calls are left: what multiplies the same vector is one matrix, norms
and the attention's 1 / sqrt D are multiplied into the matrices that follow, and a rotary pair is one complex number.
"""

import math

import numpy as np
from numpy import ndarray
from torch import Tensor, nn

from ..model import GPT, Block, Norm
from . import kernels

Matrix = tuple[ndarray, ndarray | None]  # (outputs, inputs), and the bias


class Packed:
    """A model's weights as arrays."""

    def __init__(self, model: GPT):
        self.config = model.config
        self.tokens = array(model.token_embedding.weight)
        if self.config.position == "rope":
            places, weight, half = tuple(range(model.context_length)), model.head.weight, self.config.d_head // 2
            tables = kernels.kept_angles(places, 2 * half, self.config.rope_theta, weight.dtype, weight.device)
            self.places = array(tables[0])[:, :half] + 1j * array(tables[1])[:, half:]  # (T, D/2), of length 1
        else:
            self.places = array(model.position_embedding.weight)
        self.blocks = [pack_block(block) for block in model.blocks]
        self.head = pack([model.head], model.final_norm)

    @np.errstate(over="ignore", invalid="ignore")  # exp(-gate) may be inf; decoding checks the logits
    def read(self, state, ids: ndarray, positions: ndarray, mask: ndarray | None, last: ndarray | int) -> ndarray:
        """As in engine.py. The stream x is a matrix with one row per token, so every product is one call."""
        (B, T), H, K, D = ids.shape, self.config.n_heads, self.config.n_kv_heads, self.config.d_head
        new = slice(state.used, state.used + T)
        state.used += T

        # embed
        x = self.tokens[ids]  # (B, T, C)
        place = self.places[positions]
        if self.config.position == "learned":
            x += place
        x = x.reshape(B * T, -1)

        for (query_key_value, output, wider, narrower), slots in zip(self.blocks, state.slots.numpy()):
            # project to queries, keys and values, turn by position, and remember
            heads = multiply(self.normalise(x), query_key_value).reshape(B, T, H + 2 * K, D)
            if self.config.position == "rope":
                pairs = heads[:, :, : H + K].view(place.dtype)  # (B, T, H + K, D/2)
                pairs *= place[..., None, :]  # of (T, 1, D/2) or (B, 1, 1, D/2)
            query = heads[:, :, :H].reshape(B, T, K, H // K, D).transpose(0, 2, 3, 1, 4)  # (B, K, H/K, T, D)
            slots[..., new, :] = heads[:, :, H:].reshape(B, T, 2, K, D).transpose(2, 0, 3, 1, 4)  # (2, B, K, T, D)
            keys, values = slots[..., : new.stop, :]  # (B, K, S, D) each

            scores = query.reshape(B, K, H // K * T, D) @ keys.swapaxes(2, 3)  # (B, K, H/K·T, S)
            if mask is not None:
                scores = scores.reshape(B, K, H // K, T, -1)
                scores = np.where(np.expand_dims(mask, -3), scores, -math.inf).reshape(B, K, H // K * T, -1)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            mixed = weights @ values / weights.sum(-1, keepdims=True)  # (B, K, H/K·T, D)
            mixed = mixed.reshape(B, K, H // K, T, D).transpose(0, 3, 1, 2, 4)  # (B, T, K, H/K, D)
            x += multiply(mixed.reshape(B * T, H * D), output)

            # widen, activate, narrow
            wide = multiply(self.normalise(x), wider)
            if self.config.mlp == "swiglu":
                gate, up = wide[:, : self.config.d_ff], wide[:, self.config.d_ff :]
                wide = gate * up / (1 + np.exp(-gate))
            else:
                wide *= 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * wide * (1 + 0.044715 * wide * wide)))
            x += multiply(wide, narrower)

        return multiply(self.normalise(x.reshape(B, T, -1)[np.arange(B), last]), self.head)  # (B, V)

    def normalise(self, x: ndarray) -> ndarray:
        """(N, C) -> (N, C). The norm's own scale and shift are in the matrix that follows."""
        C = x.shape[-1]
        if self.config.norm == "layernorm":
            x = x - x.sum(-1, keepdims=True) / C
        return x / np.sqrt((x[:, None] @ x[..., None])[..., 0] / C + self.config.norm_eps)  # mean x² = x·x / C


def multiply(x: ndarray, matrix: Matrix) -> ndarray:
    weight, bias = matrix
    return x @ weight.T if bias is None else x @ weight.T + bias


def pack(linears: list[nn.Linear], norm: Norm | None = None) -> Matrix:
    """Matrices that multiply the same vector, after the same norm, as one."""
    weight = np.concatenate([array(linear.weight) for linear in linears])
    bias = None if linears[0].bias is None else np.concatenate([array(linear.bias) for linear in linears])
    if norm is not None and norm.bias is not None:
        bias = weight @ array(norm.bias) + (0 if bias is None else bias)
    return weight if norm is None else weight * array(norm.weight), bias


def pack_block(block: Block) -> tuple[Matrix, Matrix, Matrix, Matrix]:
    """Queries come out divided by sqrt D; the two entries that rotary turns together come out side by side."""
    attention, mlp, D = block.attention, block.mlp, block.attention.d_head
    queries = attention.query.out_features
    turned = queries + attention.key.out_features
    query_key_value = pack([attention.query, attention.key, attention.value], block.attention_norm)
    for part in query_key_value:  # (outputs, inputs) and (outputs,)
        if part is not None:
            part[:queries] /= math.sqrt(D)
            if attention.rope_theta is not None:
                pairs = part[:turned].reshape(turned // D, 2, D // 2, -1).swapaxes(1, 2)
                part[:turned] = pairs.reshape(part[:turned].shape)
    wider = pack([mlp.up] if mlp.gate is None else [mlp.gate, mlp.up], block.mlp_norm)
    return query_key_value, pack([attention.output]), wider, pack([mlp.down])


def array(weight: Tensor) -> ndarray:
    """The same numbers, not copied."""
    return weight.detach().numpy()
