"""The same as GPT.prefill, step and reorder in model.py, faster; tests/test_model.py holds the two equal.

All rows are read side by side. Shorter prompts are padded on the right, where the causal mask hides the padding;
`filled` marks the holes that it leaves. Keys and values have room for later tokens: a step writes its own and copies
nothing. PyTorch does the arithmetic in `read` below; for small models, NumPy does in engine_numpy.py.
"""

import torch
from torch import Tensor, nn

from ..model import GPT
from . import engine_numpy, kernels

# Measured on one CPU thread: a step in NumPy is 3.4 times as fast at .8 million and 1.65 at 11, packing costs 3 steps.
SMALL = 12_000_000  # parameters; far beyond, PyTorch reads the weights faster


class State:
    """The keys and values of all tokens so far, one row per prompt, and what every step needs."""

    def __init__(self, model: GPT, lengths: list[int]):
        config, weight = model.config, model.head.weight
        self.lengths, self.used = lengths, 0  # tokens of each row, so its next position; slots, counted with the holes
        self.has_holes = min(lengths) < max(lengths)
        self.filled = torch.empty(len(lengths), 0, dtype=torch.bool, device=weight.device)  # (B, S)
        shape = (config.n_layers, 2, len(lengths), config.n_kv_heads, 0, config.d_head)
        self.slots = torch.empty(shape, dtype=weight.dtype, device=weight.device)  # (layers, 2, B, K, S, D)
        is_small = sum(parameter.numel() for parameter in model.parameters()) <= SMALL
        exact = weight.device.type == "cpu" and weight.dtype in (torch.float32, torch.float64)
        self.packed = engine_numpy.Packed(model) if is_small and exact else None

    def make_room(self, model: GPT, count: int) -> None:
        """Have `count` free slots; the capacity doubles, so a long text is copied only a few times."""
        least, most = min(self.lengths), max(self.lengths)
        if not 1 <= least <= most <= model.context_length:
            raise ValueError(f"{least} to {most} tokens do not fit in the context of {model.context_length}")
        more = self.used + count - self.slots.size(-2)
        if more > 0:
            more = max(more, self.used, 64)
            self.filled = nn.functional.pad(self.filled, (0, more))
            self.slots = nn.functional.pad(self.slots, (0, 0, 0, more))


@torch.inference_mode()
def prefill(model: GPT, prompts: list[list[int]]) -> tuple[Tensor, State]:
    device = model.head.weight.device
    ids = nn.utils.rnn.pad_sequence([torch.tensor(prompt, device=device) for prompt in prompts], batch_first=True)
    if ids.numel() and ids.min() < 0:
        raise IndexError(f"id {ids.min()}: must be from 0 to {model.vocab_size - 1}")
    lengths = [len(prompt) for prompt in prompts]
    state = State(model, lengths)
    state.make_room(model, ids.size(1))

    last = torch.tensor(lengths, device=device) - 1
    positions = torch.arange(ids.size(1), device=device)
    state.filled[:, : ids.size(1)] = positions <= last[:, None]
    return read(model, state, ids, positions, positions <= positions[:, None], last), state


@torch.inference_mode()
def step(model: GPT, state: State, ids: Tensor) -> tuple[Tensor, State]:
    positions = torch.tensor(state.lengths if state.has_holes else state.lengths[:1], device=ids.device)[:, None]
    state.lengths = [length + 1 for length in state.lengths]
    state.make_room(model, 1)
    state.filled[:, state.used] = True
    mask = state.filled[:, None, None, : state.used + 1] if state.has_holes else None  # (B, 1, 1, S)
    return read(model, state, ids[:, None], positions, mask, 0), state


@torch.inference_mode()
def reorder(model: GPT, state: State, rows: Tensor) -> State:
    state.slots = state.slots.index_select(2, rows)
    state.filled = state.filled[rows]
    state.lengths = [state.lengths[row] for row in rows.tolist()]
    return state


def read(model: GPT, state: State, ids: Tensor, positions: Tensor, mask: Tensor | None, last: Tensor | int) -> Tensor:
    """Read ids (B, T) at positions (T,), (1, 1) or (B, 1): the logits (B, V) at each row's `last` one.

    mask: what each id may look at, (T, S) or (B, 1, 1, S); None: everything.
    """
    if state.packed is not None:
        mask = None if mask is None else mask.numpy()
        return torch.from_numpy(state.packed.read(state, ids.numpy(), positions.numpy(), mask, last))
    (B, T), config = ids.shape, model.config
    new = slice(state.used, state.used + T)
    state.used += T

    x = model.token_embedding.weight[ids]  # (B, T, C)
    if config.position == "learned":
        x = x + model.position_embedding.weight[positions]
    else:
        places = tuple(range(state.slots.size(-2)))
        tables = kernels.kept_angles(places, config.d_head, config.rope_theta, x.dtype, x.device)
        cos, sin = (table[positions.unsqueeze(-2)] for table in tables)  # (1, T, D) or (B, 1, T, D)

    for block, (keys, values) in zip(model.blocks, state.slots):
        attention, normal = block.attention, block.attention_norm(x)
        heads = [project(normal) for project in (attention.query, attention.key, attention.value)]
        query, key, value = (part.view(B, T, -1, config.d_head).transpose(1, 2) for part in heads)  # (B, H or K, T, D)
        if config.position == "rope":
            query, key = kernels.rotate(query, cos, sin), kernels.rotate(key, cos, sin)
        keys[:, :, new], values[:, :, new] = key, value
        mixed = kernels.attention(query, keys[:, :, : new.stop], values[:, :, : new.stop], mask)  # (B, H, T, D)
        x = x + attention.output(mixed.transpose(1, 2).reshape(B, T, -1))
        x = x + block.mlp(block.mlp_norm(x))
    return model.head(model.final_norm(x[torch.arange(B), last]))
