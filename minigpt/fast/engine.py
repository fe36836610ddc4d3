"""The same as GPT.prefill, step and reorder in model.py, faster; tests/test_model.py holds the two equal.

All rows are read side by side, by one flat function without modules. Shorter prompts are padded on the right, where
the causal mask hides the padding; `filled` marks the holes that it leaves. Keys and values have room for later tokens:
a step writes its own and copies nothing. A small model's matrices that multiply the same vector are stacked in one,
since there a call costs more than its arithmetic.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..model import GPT, Block, Norm
from . import kernels

SMALL = 2_000_000  # parameters; copies of a larger model's matrices would cost more than they save
Matrices = list[tuple[Tensor, Tensor | None]]  # weight and bias of each


class Layer(NamedTuple):
    """One block's weights: what multiplies the same vector is together."""

    attention_norm: Norm
    query_key_value: Matrices
    output: Matrices
    mlp_norm: Norm
    up: Matrices  # the gate first, if there is one
    down: Matrices


class State:
    """The keys and values of all tokens so far, one row per prompt, and what every step needs."""

    def __init__(self, model: GPT, lengths: Tensor):
        config = model.config
        self.layers = [layer_of(block) for block in model.blocks]
        self.lengths = lengths  # (B,) how many tokens each row has: its next position
        self.longest = int(lengths.max())
        self.used = 0  # slots, counted with the holes
        self.has_holes = bool((lengths != self.longest).any())
        self.filled = torch.empty(len(lengths), 0, dtype=torch.bool, device=lengths.device)  # (B, S)
        shape = (config.n_layers, 2, len(lengths), config.n_kv_heads, 0, config.d_head)
        self.slots = torch.empty(shape, dtype=model.head.weight.dtype, device=lengths.device)  # (layers, 2, B, K, S, D)

    def make_room(self, model: GPT, count: int) -> None:
        """Have `count` free slots; the capacity doubles, so a long text is copied only a few times."""
        if self.longest > model.context_length:
            raise ValueError(f"{self.longest} tokens do not fit in the context of {model.context_length}")
        needed, B = self.used + count, len(self.lengths)
        if needed <= self.slots.size(-2):
            return
        capacity = max(needed, 2 * self.used, 64)
        slots, filled = self.slots, self.filled
        self.slots = slots.new_empty(*slots.shape[:-2], capacity, slots.size(-1))
        self.slots[..., : self.used, :] = slots[..., : self.used, :]
        self.filled = filled.new_zeros(B, capacity)
        self.filled[:, : self.used] = filled[:, : self.used]
        self.angles = None
        if model.config.position == "rope":
            places = tuple(range(capacity))
            self.angles = kernels.kept_angles(
                places, slots.size(-1), model.config.rope_theta, slots.dtype, slots.device
            )


@torch.inference_mode()
def prefill(model: GPT, prompts: list[list[int]]) -> tuple[Tensor, State]:
    device = model.head.weight.device
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    ids = nn.utils.rnn.pad_sequence([torch.tensor(prompt, device=device) for prompt in prompts], batch_first=True)
    positions = torch.arange(ids.size(1), device=device)
    state = State(model, lengths)
    state.make_room(model, len(positions))
    state.filled[:, : len(positions)] = positions < lengths[:, None]

    x = read(model, state, ids, positions, positions <= positions[:, None])  # (B, T, C)
    return model.head(x[torch.arange(len(prompts)), lengths - 1]), state


@torch.inference_mode()
def step(model: GPT, state: State, ids: Tensor) -> tuple[Tensor, State]:
    positions = state.lengths[:, None] if state.has_holes else state.lengths[:1]  # (B, 1) or (1,)
    state.lengths = state.lengths + 1
    state.longest += 1
    state.make_room(model, 1)
    mask = None
    if state.has_holes:
        state.filled[:, state.used] = True
        mask = state.filled[:, None, None, : state.used + 1]  # (B, 1, 1, S)

    x = read(model, state, ids[:, None], positions, mask)  # (B, 1, C)
    return model.head(x[:, 0]), state


@torch.inference_mode()
def reorder(model: GPT, state: State, rows: Tensor) -> State:
    state.slots = state.slots.index_select(2, rows)
    state.filled, state.lengths = state.filled[rows], state.lengths[rows]
    state.longest = int(state.lengths.max())
    return state


def read(model: GPT, state: State, ids: Tensor, positions: Tensor, mask: Tensor | None) -> Tensor:
    """The stream after all blocks and the final norm: ids (B, T), positions (T,) or (B, T) -> (B, T, C)."""
    B, T = ids.shape
    H, K, D = model.config.n_heads, model.config.n_kv_heads, model.config.d_head
    new = slice(state.used, state.used + T)
    state.used += T
    x = model.token_embedding.weight[ids]  # (B, T, C)
    if state.angles is None:
        x = x + model.position_embedding.weight[positions]
    else:
        cos, sin = (table[positions.unsqueeze(-2)] for table in state.angles)  # (1, T, D) or (B, 1, T, D)

    for layer, (keys, values) in zip(state.layers, state.slots):
        heads = multiply(normalise(x, layer.attention_norm), layer.query_key_value).view(B, T, H + 2 * K, D)
        query_key, value = heads.transpose(1, 2).split((H + K, K), 1)  # (B, H + K, T, D) and (B, K, T, D)
        if state.angles is not None:
            query_key = kernels.rotate(query_key, cos, sin)
        query, key = query_key.split((H, K), 1)
        keys[:, :, new] = key
        values[:, :, new] = value
        mixed = kernels.attention(query, keys[:, :, : new.stop], values[:, :, : new.stop], mask)  # (B, H, T, D)
        x = x + multiply(mixed.transpose(1, 2).reshape(B, T, H * D), layer.output)

        wide = multiply(normalise(x, layer.mlp_norm), layer.up)
        if model.config.mlp == "swiglu":
            gate, up = wide.chunk(2, -1)
            wide = F.silu(gate) * up
        else:
            wide = kernels.gelu(wide)
        x = x + multiply(wide, layer.down)
    return normalise(x, model.final_norm)


def layer_of(block: Block) -> Layer:
    attention, mlp = block.attention, block.mlp
    return Layer(
        block.attention_norm,
        stacked([attention.query, attention.key, attention.value]),
        stacked([attention.output]),
        block.mlp_norm,
        stacked([mlp.up] if mlp.gate is None else [mlp.gate, mlp.up]),
        stacked([mlp.down]),
    )


def stacked(linears: list[nn.Linear]) -> Matrices:
    """Several small matrices as one."""
    weights, biases = [linear.weight for linear in linears], [linear.bias for linear in linears]
    if len(linears) == 1 or sum(weight.numel() for weight in weights) > SMALL:
        return list(zip(weights, biases))
    return [(torch.cat(weights), None if biases[0] is None else torch.cat(biases))]


def multiply(x: Tensor, matrices: Matrices) -> Tensor:
    results = [F.linear(x, weight, bias) for weight, bias in matrices]
    return results[0] if len(results) == 1 else torch.cat(results, -1)


def normalise(x: Tensor, norm: Norm) -> Tensor:
    """Without gradients RMSNorm takes fewer steps from the vector's length, since mean x² = |x|² / C."""
    if norm.is_layernorm:
        return kernels.layer_norm(x, norm.weight, norm.bias, norm.eps)
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x * torch.addcmul(x.new_full((), norm.eps), length, length, value=1 / x.size(-1)).rsqrt() * norm.weight
